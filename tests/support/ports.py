"""Free ports of the loopback interface."""

from __future__ import annotations

import socket
from contextlib import ExitStack

__all__ = ["free_port", "free_ports"]


def free_port() -> int:
    """Return a port that nobody listens on, yet."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Return as many ports, all different."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]
