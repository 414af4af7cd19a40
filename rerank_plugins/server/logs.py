"""The logs of `rerank-plugins serve`: one JSON object a line, whatever a message holds."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from rerank_plugins.errors import ConfigError

__all__ = ["configure_logs"]

_LEVELS = ("debug", "info", "warning", "error")


class _JSONLines(logging.Formatter):
    """Escapes everything but ASCII, so that no message can imitate another line."""

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
        ConfigError: there is no such level.
    """
    if level not in _LEVELS:
        raise ConfigError(f"`log_level` must be one of {', '.join(_LEVELS)}, not {level!r}")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JSONLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for verbose in ("httpx", "httpx2", "httpcore", "httpcore2"):
        logging.getLogger(verbose).setLevel(logging.WARNING)
