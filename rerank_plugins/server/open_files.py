"""How many connections the system's limit of open files leaves room for."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace

from rerank_plugins.server.connection_pressure import spare_connections
from rerank_plugins.server.settings import ServerSettings

__all__ = ["within_open_files"]

_log = logging.getLogger(__name__)

_OTHER_FILES = 64
"""Files that are no connections: logs, pipes to models, keys, the loop's own."""

_MAX_BACKLOG = 2048
_BACKLOG_SHARE = 8
"""With a shorter queue of new connections, a client that meets a full one waits a second."""

_ROUNDS = 4
"""In each round the loop accepts all that wait, and it takes four until another is closed for one.

Out of files, the loop would accept nobody for a second.
"""


def within_open_files(settings: ServerSettings) -> tuple[ServerSettings, int]:
    """Raise the limit of open files to what the settings need, or lower `max_connections` to it.

    A server without a free file can take no connection, not even a probe's.

    Returns:
        The settings, and how many connections may wait to be accepted.
    """
    wanted = _files_for(settings.max_connections, _MAX_BACKLOG)
    limit = _raised_limit(wanted)
    if limit >= wanted:
        return settings, _MAX_BACKLOG
    backlog = min(_MAX_BACKLOG, max(1, limit // _BACKLOG_SHARE))
    connections = settings.max_connections
    while connections > 1 and _files_for(connections, backlog) > limit:
        connections -= 1
    if connections < settings.max_connections:
        _log.warning(
            "a process may have %d open files (ulimit -n): at most %d connections instead of %d",
            limit,
            connections,
            settings.max_connections,
        )
    return replace(settings, max_connections=connections), backlog


def _files_for(connections: int, backlog: int) -> int:
    return connections + spare_connections(connections) + _ROUNDS * backlog + _OTHER_FILES


def _raised_limit(wanted: int) -> int:
    """Return the limit of open files, which is now at least `wanted` if the system allows it."""
    if sys.platform == "win32":
        return wanted  # there is none
    import resource  # noqa: PLC0415  # not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    except (OSError, ValueError):  # macOS has a limit below its limit
        return soft
    return raised
