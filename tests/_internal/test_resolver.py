"""Look-ups of hosts: bounded, shared, and not paid for again and again while the system hangs."""

import asyncio
import os
import socket
import threading
import time

import pytest

from rerank_plugins._internal import resolver
from rerank_plugins._internal.resolver import aresolve, resolve

REAL = socket.getaddrinfo


def sync(host, timeout):
    return resolve(host, timeout)


def in_loop(host, timeout):
    return asyncio.run(aresolve(host, timeout))


@pytest.fixture(params=[sync, in_loop])
def look_up(request):
    return request.param


@pytest.fixture(autouse=True)
def _own_look_ups(monkeypatch):
    monkeypatch.setattr(resolver, "_look_ups", resolver._LookUps())


class System:
    """A system whose look-ups hang for as long as the test likes."""

    def __init__(self, monkeypatch):
        self.asked = []
        self.works = threading.Event()
        monkeypatch.setattr(socket, "getaddrinfo", self.getaddrinfo)

    def getaddrinfo(self, host, *rest, **options):
        if not host.endswith(".test"):
            return REAL(host, *rest, **options)
        self.asked.append(host)
        assert self.works.wait(30)
        if host == "missing.test":
            raise socket.gaierror(socket.EAI_NONAME, "no such host")
        if host == "long.test":
            raise UnicodeError("label too long")
        entry = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))
        return [entry, entry]


@pytest.fixture
def system(monkeypatch):
    system = System(monkeypatch)
    yield system
    system.works.set()


def test_names_are_looked_up(look_up):
    assert "127.0.0.1" in look_up("localhost", 10)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "fe80::1%lo"])
def test_addresses_are_not_looked_up(look_up, monkeypatch, address):
    monkeypatch.setattr(threading, "Thread", None)

    assert [address] == look_up(address, 0)


def test_an_answer_is_the_list_of_different_addresses(look_up, system):
    system.works.set()

    assert ["127.0.0.1"] == look_up("gpu.test", 10)


@pytest.mark.parametrize(
    ("host", "kind"), [("missing.test", socket.gaierror), ("long.test", OSError)]
)
def test_no_such_host_is_an_error_of_the_system(look_up, system, host, kind):
    system.works.set()

    with pytest.raises(kind):
        look_up(host, 10)


def test_a_look_up_that_hangs_ends_in_time(look_up, system):
    """Also where the event loop ends meanwhile, which waits for the threads of its own executor."""
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        look_up("gpu.test", 0.1)

    assert time.monotonic() - began < 5


def test_the_next_ones_hardly_wait(look_up, system):
    """The first caller paid; neither its fallbacks nor its next tries pay as much again."""
    with pytest.raises(TimeoutError):
        look_up("gpu.test", 0.05)
    began = time.monotonic()
    for host in ("gpu.test", "gpu-2.test", "gpu-3.test"):
        with pytest.raises(TimeoutError):
            look_up(host, 60)

    assert time.monotonic() - began < 10
    assert sorted({"gpu.test", "gpu-2.test", "gpu-3.test"}) == sorted(system.asked)


def test_once_the_system_works_again_all_is_as_before(look_up, system):
    with pytest.raises(TimeoutError):
        look_up("gpu.test", 0.05)
    system.works.set()

    assert ["127.0.0.1"] == look_up("gpu.test", 10)
    assert ["127.0.0.1"] == look_up("gpu-2.test", 10)


def test_a_look_up_that_hangs_is_renewed_but_not_for_ever(look_up, system, monkeypatch):
    """A lost packet costs the system five seconds, and a new look-up none."""
    monkeypatch.setattr(resolver, "_RENEWAL", 0.0)
    for _ in range(8):
        with pytest.raises(TimeoutError):
            look_up("gpu.test", 0.01)

    assert ["gpu.test"] * 4 == system.asked


def test_callers_share_a_look_up(system):
    found = []
    callers = [
        threading.Thread(target=lambda: found.append(resolve("gpu.test", 10))) for _ in range(20)
    ]
    for caller in callers:
        caller.start()
    while not system.asked:
        time.sleep(0.001)
    system.works.set()
    for caller in callers:
        caller.join()

    assert [["127.0.0.1"]] * 20 == found
    assert len(system.asked) < 20


async def test_a_caller_that_is_cancelled_ends_it_for_itself_alone(system):
    first = asyncio.create_task(aresolve("gpu.test", 10))
    second = asyncio.create_task(aresolve("gpu.test", 10))
    await asyncio.sleep(0.01)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    system.works.set()

    assert ["127.0.0.1"] == await second


def test_without_threads_there_is_an_error_of_the_system(look_up, monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    for _ in range(2):
        with pytest.raises(OSError, match="no thread"):
            look_up("gpu.test", 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_waits_for_no_thread_of_its_parent(system):
    with pytest.raises(TimeoutError):
        resolve("gpu.test", 0.05)
    child = os.fork()
    if child == 0:
        try:
            system.works.set()
            os._exit(0 if resolve("gpu.test", 10) == ["127.0.0.1"] else 1)
        finally:
            os._exit(2)

    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
