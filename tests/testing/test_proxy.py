"""The proxy breaks connections as configured, and otherwise passes bytes unchanged."""

import contextlib
import socket
import threading
import time

import pytest

from rerank_plugins.testing import BlackHole, Cut, Delay, Drip, HalfClose, Proxy, Reset
from tests.support.ports import free_port


@pytest.fixture
def echo():
    """The URL of a server that sends back what it gets."""

    def serve(connection):
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65536):
                connection.sendall(data)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection,)).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_port_that_is_taken_meanwhile_leaks_nothing(echo):
    proxy, before = Proxy(echo), threading.active_count()
    with (
        socket.create_server(("127.0.0.1", proxy.port)),
        pytest.raises(OSError, match="address already in use"),
        proxy,
    ):
        pass

    assert before == threading.active_count()


def test_it_may_be_used_in_several_with_blocks(echo):
    proxy = Proxy(echo)
    for _ in range(2):
        with proxy, connect(proxy) as line:
            line.sendall(b"hi")
            assert b"hi" == read(line, 2)


@pytest.fixture
def proxy(echo):
    with Proxy(echo) as proxy:
        yield proxy


@pytest.fixture
def line(proxy):
    with connect(proxy) as line:
        yield line


def connect(proxy):
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def read(line, count):
    data = b""
    while len(data) < count:
        piece = line.recv(count - len(data))
        if not piece:
            break
        data += piece
    return data


def test_bytes_pass_unchanged(proxy, line):
    data = bytes(range(256)) * 4_000
    threading.Thread(target=line.sendall, args=(data,)).start()

    assert data == read(line, len(data))
    assert 1 == proxy.connections


def test_the_end_of_a_connection_is_passed_on(line):
    line.sendall(b"all")
    line.shutdown(socket.SHUT_WR)

    assert b"all" == read(line, 100)


def test_a_delay_adds_latency_and_does_not_limit_throughput(proxy, line):
    proxy.fault = Delay(0.1)
    began = time.monotonic()
    for _ in range(5):
        line.sendall(b"x")
        time.sleep(0.01)

    assert b"xxxxx" == read(line, 5)
    assert 0.2 <= time.monotonic() - began


def test_a_drip_comes_byte_by_byte(proxy, line):
    proxy.fault = Drip(0.01)
    line.sendall(b"0123456789")

    assert [1] * 10 == [len(line.recv(100)) for _ in range(10)]


@pytest.mark.parametrize("after", [0, 4])
@pytest.mark.parametrize("fault", [Cut, HalfClose])
def test_a_cut_ends_the_reply(proxy, line, fault, after):
    proxy.fault = fault(after)
    line.sendall(b"0123456789")

    assert b"0123456789"[:after] == read(line, 100)


def test_bytes_count_over_several_replies(proxy, line):
    proxy.fault = Cut(after=6)
    line.sendall(b"0123")
    assert b"0123" == read(line, 4)
    line.sendall(b"4567")

    assert b"45" == read(line, 100)


def test_after_half_a_close_the_client_may_go_on(proxy, line):
    proxy.fault = HalfClose()
    line.sendall(b"0123456789")
    assert b"" == read(line, 100)

    for _ in range(3):
        line.sendall(b"more")
        time.sleep(0.01)


@pytest.mark.parametrize("after", [0, 4])
def test_a_reset_is_an_error(proxy, line, after):
    proxy.fault = Reset(after)
    line.sendall(b"0123456789")

    assert b"0123456789"[:after] == read(line, after)
    with pytest.raises(ConnectionResetError):
        line.recv(100)


@pytest.mark.parametrize("after", [0, 4])
def test_a_black_hole_sends_nothing(proxy, line, after):
    proxy.fault = BlackHole(after)
    line.sendall(b"0123456789")
    line.settimeout(0.2)

    assert b"0123456789"[:after] == read(line, after)
    with pytest.raises(TimeoutError):
        line.recv(100)


def test_connections_work_after_a_fault_ends(proxy, line):
    proxy.fault = Drip(0.001)
    line.sendall(b"0123")
    assert b"0123" == read(line, 4)
    proxy.fault = None
    line.sendall(b"4567")

    assert b"4567" == read(line, 4)


def test_a_stopped_proxy_resets_and_refuses_and_comes_back(proxy, line):
    line.sendall(b"x")
    assert b"x" == read(line, 1)
    proxy.stop()
    with pytest.raises(ConnectionResetError):
        line.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.start()
    with connect(proxy) as other:
        other.sendall(b"y")

        assert b"y" == read(other, 1)
    assert 2 == proxy.connections


def test_a_server_that_is_gone_is_a_reset():
    target = f"http://127.0.0.1:{free_port()}"

    def ask():
        with connect(proxy) as line:
            line.recv(1)

    with Proxy(target) as proxy, pytest.raises(ConnectionResetError):
        ask()


def test_the_url_is_that_of_the_target_elsewhere():
    proxy = Proxy("redis://127.0.0.1:6379/3?timeout=1")

    assert f"redis://127.0.0.1:{proxy.port}/3?timeout=1" == proxy.url


@pytest.mark.parametrize("target", ["localhost", "http://localhost", "127.0.0.1:80"])
def test_a_target_without_a_port_is_refused(target):
    with pytest.raises(ValueError, match="a host and a port"):
        Proxy(target)
