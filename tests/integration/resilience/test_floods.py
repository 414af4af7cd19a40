"""Floods of connections against a server with few open files and little memory."""

import contextlib
import resource
import socket
import struct
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")
if not hasattr(resource, "prlimit"):
    pytest.skip("limits another process", allow_module_level=True)

from tests.support.monitoring import process_resources
from tests.support.server_process import fetch, server_process, wait_for_status

MIB = 2**20
BODY = b'{"query": "q", "documents": ["a"]}'

LIMITED = """
import resource
from rerank_plugins.cli import main

resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}))
main()
"""

HEAD = b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CLIENTS = {
    "silent": b"",
    "in a head": HEAD,
    "in a large head": HEAD + b"A: " + b"b" * 60_000,
    "in a body": HEAD + b"Content-Length: 4000000\r\n\r\n" + b" " * 200_000,
    "after a reply": b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1",
    "idle": b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    "not reading": b"GET /ui HTTP/1.1\r\nHost: x\r\n\r\n" * 4,
    "with rubbish": b"rubbish\r\n\r\n",
    "upgrading": HEAD + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 99\r\n\r\n{",
}


@contextmanager
def many_files(wanted):
    """Let this process have so many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"a process may have {hard} open files here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def flooding(url, count, data):
    """Return so many connections, each of which has sent some of this data if it was let.

    Now and then there is a pause: the system's queue of new connections is not what floods here.
    """
    parts = urlsplit(url)
    connections = []
    for number in range(count):
        if number % 20 == 0:
            time.sleep(0.005)
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.settimeout(30)
        connection.connect((parts.hostname, parts.port))
        connection.setblocking(False)
        with contextlib.suppress(OSError):  # it may be this one's turn to make room
            connection.send(data)
        connections.append(connection)
    return connections


def assert_served(url):
    assert 200 == fetch(url, "/livez")[0]
    status, reply = fetch(url, "/v1/rerank", BODY)
    assert (200, 1) == (status, len(reply["results"]))


def flood(url, process, *, count, most_bytes, kinds=tuple(CLIENTS)):
    """Open so many connections of each kind; others are served, within this memory."""
    before = process_resources(process.pid)
    grown = {}
    for name in kinds:
        with ExitStack() as stack:
            for connection in flooding(url, count, CLIENTS[name]):
                stack.callback(connection.close)
            assert_served(url)
            grown[name] = process_resources(process.pid).resident - before.resident
        assert_served(url)
    assert max(grown.values()) < most_bytes, grown
    return before


def wait_until_quiet(process, files, seconds=60):
    deadline = time.monotonic() + seconds
    while process_resources(process.pid).files > files + 5:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow  # starts a process
def test_a_flood_with_few_files_keeps_nobody_out(tmp_path):
    """More connections than there may be files, each of which does something badly."""
    program = ("-c", LIMITED.format(files=256))
    flags = ("--no-model-process",)
    with many_files(1000), server_process(tmp_path, *flags, program=program) as (process, url):
        wait_for_status(url, 200)
        kinds = ("silent", "in a body", "after a reply", "not reading")
        before = flood(url, process, count=300, most_bytes=64 * MIB, kinds=kinds)
        wait_until_quiet(process, before.files)
        log = (tmp_path / "log").read_text()
        assert "connections instead of 4096" in log
        assert "out of system resource" not in log  # accept() had a file for each


@pytest.mark.nightly  # takes minutes
@pytest.mark.timeout(900)
def test_ten_thousand_connections_keep_nobody_out(tmp_path):
    """With the default limits, and an eighth of the default buffer."""
    table = f"buffer_bytes = {32 * MIB}\n"
    flags = ("--no-model-process",)
    with many_files(12_000), server_process(tmp_path, *flags, table=table) as (process, url):
        wait_for_status(url, 200)
        before = flood(url, process, count=10_000, most_bytes=288 * MIB)
        wait_until_quiet(process, before.files)


@pytest.mark.nightly  # takes minutes
@pytest.mark.timeout(900)
def test_a_flood_with_little_memory_keeps_nobody_out(tmp_path):
    """The system gives the server 400 MiB more than it has once it is ready."""
    table = f"buffer_bytes = {32 * MIB}\n"
    flags = ("--no-model-process",)
    with many_files(12_000), server_process(tmp_path, *flags, table=table) as (process, url):
        wait_for_status(url, 200)
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[0])
        size = pages * resource.getpagesize()
        resource.prlimit(process.pid, resource.RLIMIT_AS, (size + 400 * MIB, -1))
        flood(url, process, count=5000, most_bytes=288 * MIB)
