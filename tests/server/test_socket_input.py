"""What waits in a socket is seen without reading it."""

import socket
import sys

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")
if sys.platform == "win32":
    pytest.skip("sockets can't be asked there", allow_module_level=True)

from rerank_plugins.server.socket_input import unread_bytes


def test_bytes_that_were_sent_are_seen_and_stay():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert 0 == unread_bytes(ours.fileno())
        theirs.sendall(b"abc")
        assert [3, 3] == [unread_bytes(ours.fileno()) for _ in range(2)]
        assert b"abc" == ours.recv(10)
        theirs.close()
        assert 0 == unread_bytes(ours.fileno())


def test_a_closed_socket_has_nothing():
    ours, theirs = socket.socketpair()
    theirs.close()
    file = ours.fileno()
    ours.close()

    assert [0, 0] == [unread_bytes(number) for number in (file, -1)]
