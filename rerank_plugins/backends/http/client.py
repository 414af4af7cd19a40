"""The HTTP client library: httpx2, or httpx where httpx2 is not installed.

Only this module imports them. Both have the interface used here: httpx2 continues httpx.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpcore2 as httpcore
    import httpx2 as httpx
else:
    try:
        import httpcore2 as httpcore
        import httpx2 as httpx
    except ModuleNotFoundError:
        import httpcore
        import httpx

__all__ = ["httpcore", "httpx"]
