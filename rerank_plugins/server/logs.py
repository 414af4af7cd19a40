"""Logs of the command: one JSON object a line, whatever is in a message."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from rerank_plugins.errors import ConfigError

__all__ = ["configure_logs"]

_LEVELS = ("debug", "info", "warning", "error")


class _JSONLines(logging.Formatter):
    """Escapes all but ASCII, so that no message can pretend to be another line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure_logs(level: str) -> None:
    """Write the logs of this process to standard error.

    Raises:
        ConfigError: no such level.
    """
    if level not in _LEVELS:
        raise ConfigError(f"`log_level` must be one of {', '.join(_LEVELS)}, not {level!r}")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JSONLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
