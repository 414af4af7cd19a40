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

_ACCEPTED_SHARE = 8
"""The share of all connections that the loop accepts before it reads from those that it has.

More would push each other out before any of them is read, which takes three rounds.
"""

_ROUNDS = 4
"""In each round the loop accepts as many, and it takes four until another is closed for one.

Out of files, the loop would accept nobody for a second.
"""


def within_open_files(settings: ServerSettings) -> tuple[ServerSettings, int]:
    """Raise the limit of open files to what the settings need, or lower `max_connections` to it.

    A server without a free file can take no connection, not even a probe's.

    Returns:
        The settings, and how many connections may be accepted at once.
    """
    wanted = _files_for(settings.max_connections)
    limit = _raised_limit(wanted)
    connections = settings.max_connections
    while connections > 1 and _files_for(connections) > limit:
        connections -= 1
    if connections < settings.max_connections:
        _log.warning(
            "a process may have %d open files (ulimit -n): at most %d connections instead of %d",
            limit,
            connections,
            settings.max_connections,
        )
    return replace(settings, max_connections=connections), _accepted_at_once(connections)


def _accepted_at_once(connections: int) -> int:
    return max(1, connections // _ACCEPTED_SHARE)


def _files_for(connections: int) -> int:
    accepted = _ROUNDS * _accepted_at_once(connections)
    return connections + spare_connections(connections) + accepted + _OTHER_FILES


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
