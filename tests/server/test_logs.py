"""Writing logs never blocks the server."""

import contextlib
import logging
import os
import time

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from prometheus_client import generate_latest

from rerank_plugins import ConfigError
from rerank_plugins.server.logs import NonBlockingHandler, configure_logs
from rerank_plugins.server.metrics import ServerMetrics

LINES = 20_000


@pytest.fixture
def pipe():
    read, write = os.pipe()
    yield read, write
    for end in (read, write):
        with contextlib.suppress(OSError):
            os.close(end)


def logged(handler, count):
    for number in range(count):
        handler.handle(logging.LogRecord("test", logging.INFO, "", 0, "line %d", (number,), None))


def fill(write):
    """Fill a pipe, with long lines."""
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, b"x" * 4095 + b"\n")
    os.set_blocking(write, True)


def read_all(handler, read):
    """Return the lines of a pipe until all that wait are in it."""
    os.set_blocking(read, False)
    text, ended = b"", False
    while not ended:
        ended = not handler.waiting
        with contextlib.suppress(BlockingIOError):
            text += os.read(read, 1 << 20)
        time.sleep(0.001)
    return text.decode().splitlines()


def test_lines_for_a_full_pipe_are_dropped_without_waiting(pipe):
    """Those that were dropped are counted once somebody reads again."""
    read, write = pipe
    fill(write)
    handler = NonBlockingHandler(write)
    logged(handler, LINES)
    handler.flush()  # gives up
    before = read_all(handler, read)
    logged(handler, 1)
    handler.flush()
    after = read_all(handler, read)

    assert [f"line {number}" for number in range(4096)] == before[-4096:]
    note = f"{LINES - 4096} lines of the log were dropped: nobody read them in time"
    assert [note, "line 0"] == after
    assert LINES - 4096 == handler.dropped


def test_all_lines_are_written_in_order_before_the_end(pipe):
    read, write = pipe
    handler = NonBlockingHandler(write)
    logged(handler, 500)
    handler.flush()

    assert [f"line {number}" for number in range(500)] == read_all(handler, read)


def test_a_closed_reader_does_not_end_the_server(pipe):
    read, write = pipe
    handler = NonBlockingHandler(write)
    os.close(read)
    logged(handler, 500)
    handler.flush()

    assert not handler.waiting


def test_a_message_may_contain_any_characters(pipe):
    read, write = pipe
    handler = NonBlockingHandler(write)
    logged(handler, 1)
    handler.handle(logging.LogRecord("test", logging.INFO, "", 0, "\ud800", (), None))
    handler.flush()

    assert b"line 0\n?\n" == os.read(read, 65_536)


@pytest.fixture
def _logs_as_before():
    root, uvicorn = logging.getLogger(), logging.getLogger("uvicorn")
    before = [*root.handlers], root.level, uvicorn.level
    yield
    root.handlers[:], root.level, uvicorn.level = before


@pytest.mark.usefixtures("_logs_as_before")
@pytest.mark.parametrize(
    ("is_terminal", "expected"),
    [
        (True, ["serving at http://x", r"warning: two\nlines \x1b[2J"]),
        (False, ["{", "{"]),
    ],
)
def test_a_terminal_gets_plain_lines_and_a_pipe_json(monkeypatch, is_terminal, expected):
    read, write = os.openpty() if is_terminal else os.pipe()
    monkeypatch.setattr("sys.stderr", os.fdopen(write, "w"))
    handler = configure_logs("info")
    logging.getLogger("uvicorn.error").log(logging.INFO if is_terminal else logging.DEBUG, "pid")
    logging.getLogger("test").info("serving at %s", "http://x")
    logging.getLogger("test").warning("two\nlines \x1b[2J")
    lines = read_all(handler, read)
    os.close(read)

    assert expected == [line if is_terminal else line[0] for line in lines]


def test_unknown_levels_are_refused():
    with pytest.raises(ConfigError, match="`log_level` must be one of debug, info"):
        configure_logs("loud")


def test_the_metrics_count_the_lines_that_were_dropped():
    metrics = ServerMetrics()
    metrics.dropped_log_lines = lambda: 7

    assert b"rerank_dropped_log_lines_total 7.0\n" in generate_latest(metrics.registry)
