"""The rerank server: `create_app()` for a backend, or `rerank-plugins serve` for a file."""

from __future__ import annotations

from rerank_plugins._internal.optional import require

for _module in ("fastapi", "jwt", "prometheus_client", "uvicorn"):
    require(_module, extra="server")

from rerank_plugins.server.app import create_app  # noqa: E402  # first say what is missing
from rerank_plugins.server.settings import JWTSettings, ServerSettings  # noqa: E402

__all__ = ["JWTSettings", "ServerSettings", "create_app"]
