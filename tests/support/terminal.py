"""The real command in a pseudo-terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Collection, Mapping

__all__ = ["in_terminal"]


def in_terminal(
    *arguments: object,
    streams: Collection[str] = ("stdout",),
    width: int = 90,
    env: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Run the command where `streams` are a terminal; give its exit code and what they showed.

    If `stderr` is not among them, it must stay empty.
    """
    environment = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "FORCE_COLOR"}}
    environment |= {"RERANK_BACKEND": "embedded", "TERM": "xterm-256color", "COLUMNS": str(width)}
    main, side = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "rerank_plugins", *map(str, arguments)],
        env={**environment, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=side if "stdout" in streams else subprocess.DEVNULL,
        stderr=side if "stderr" in streams else subprocess.PIPE,
    )
    os.close(side)
    shown = _all_of(main)
    _, errors = child.communicate(timeout=60)
    assert not errors
    return child.returncode, shown.decode()


def _all_of(terminal: int) -> bytes:
    """Read what a terminal shows until its other side is closed; close it."""
    shown = b""
    try:
        while chunk := os.read(terminal, 65536):
            shown += chunk
    except OSError:  # how Linux says that the other side was closed
        pass
    os.close(terminal)
    return shown
