"""The logs of `rerank-plugins serve`: one JSON object a line, whatever a message holds."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
from datetime import UTC, datetime
from queue import SimpleQueue
from time import monotonic, sleep

from rerank_plugins._internal.terminal import escaped
from rerank_plugins.errors import ConfigError

__all__ = ["NonBlockingHandler", "configure_logs", "is_read_by_a_person"]

_LEVELS = ("debug", "info", "warning", "error")
_QUEUED = 4096
"""Lines that wait to be written; more are dropped."""
_FLUSH_SECONDS = 1.0
"""How long the end of the process waits for these lines."""
_TICK = 0.005


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


class _PlainLines(logging.Formatter):
    """For people: the message, and before it what is worse than usual."""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        lines = [f"{level}{record.getMessage()}"]
        if record.exc_info:
            lines += self.formatException(record.exc_info).splitlines()
        return "\n".join(map(escaped, lines))


class NonBlockingHandler(logging.Handler):
    """Writes records to a file descriptor in a thread, so that no caller ever waits for a reader.

    While nobody reads, as from a pipe whose reader has stopped, 4,096 lines wait. More are dropped,
    and the next line that is written after them says how many.

    Args:
        file: the descriptor; it stays open.
    """

    def __init__(self, file: int) -> None:
        super().__init__()
        self._file = file
        self._lines: SimpleQueue[bytes] = SimpleQueue()  # no lock that a signal could find taken
        self._queued = 0
        self._written = 0
        self._dropped = 0
        self.dropped = 0
        """How many lines were dropped in all."""
        threading.Thread(target=self._write_lines, name="rerank-log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        if self.waiting >= _QUEUED:
            self._dropped += 1
            self.dropped += 1
            return
        try:
            if self._dropped:
                self._queue(self._note(self._dropped))
                self._dropped = 0
            self._queue(record)
        except Exception:  # noqa: BLE001  # a message that does not fit its arguments
            self.handleError(record)

    def flush(self) -> None:
        """Wait until all lines are written, but at most a second."""
        deadline = monotonic() + _FLUSH_SECONDS
        while self.waiting and monotonic() < deadline:
            sleep(_TICK)

    @property
    def waiting(self) -> int:
        """How many lines are not written yet."""
        return self._queued - self._written

    def _queue(self, record: logging.LogRecord) -> None:
        line = self.format(record).encode(errors="replace") + b"\n"
        self._queued += 1
        self._lines.put(line)

    def _note(self, count: int) -> logging.LogRecord:
        message = "%d lines of the log were dropped: nobody read them in time"
        return logging.LogRecord(__name__, logging.WARNING, "", 0, message, (count,), None)

    def _write_lines(self) -> None:
        while True:
            line = self._lines.get()
            with contextlib.suppress(OSError):  # nobody is there to read it
                while line:
                    line = line[os.write(self._file, line) :]
            self._written += 1


def configure_logs(level: str) -> NonBlockingHandler:
    """Write the logs of this process to standard error; return the handler that does.

    A terminal gets plain lines, and everything else one JSON object a line.

    Raises:
        ConfigError: there is no such level.
    """
    if level not in _LEVELS:
        raise ConfigError(f"`log_level` must be one of {', '.join(_LEVELS)}, not {level!r}")
    handler = NonBlockingHandler(sys.stderr.fileno())
    plain = is_read_by_a_person()
    handler.setFormatter(_PlainLines() if plain else _JSONLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for verbose in ("httpx", "httpx2", "httpcore", "httpcore2"):
        logging.getLogger(verbose).setLevel(logging.WARNING)
    if plain and level == "info":  # its lines about the process say nothing to a person
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
    return handler


def is_read_by_a_person() -> bool:
    """Whether the log goes to a terminal."""
    return sys.stderr.isatty()
