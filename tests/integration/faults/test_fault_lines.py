"""Every fault of the network between a healthy server and every interface."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from rerank_plugins import BackendError, BackendTimeout, BackendUnavailable
from rerank_plugins.backends.http.backend import HTTPBackend
from rerank_plugins.testing import (
    BlackHole,
    Cut,
    Delay,
    Drip,
    HalfClose,
    Proxy,
    Reset,
)
from rerank_plugins.wrappers.retry import RetryingBackend
from tests.integration.faults.surfaces import (
    ATTEMPTS,
    KEY,
    QUERY,
    RANKED,
    TEXTS,
    TOLERANCE,
    client,
    everything_said,
)
from tests.integration.faults.surfaces import surfaces as on

DEADLINE = 0.25
LINES = {
    "cut before the reply": (Cut(), BackendUnavailable, ATTEMPTS),
    "cut in the reply": (Cut(after=40), BackendUnavailable, ATTEMPTS),
    "reset before the reply": (Reset(), BackendUnavailable, ATTEMPTS),
    "reset in the reply": (Reset(after=40), BackendUnavailable, ATTEMPTS),
    "half-closed before the reply": (HalfClose(), BackendUnavailable, ATTEMPTS),
    "half-closed in the reply": (HalfClose(after=40), BackendUnavailable, ATTEMPTS),
    "swallowed": (BlackHole(), BackendTimeout, 0),
    "swallowed in the reply": (BlackHole(after=40), BackendTimeout, 1),
    "dripping": (Drip(0.05), BackendTimeout, 1),
    "far away": (Delay(5.0), BackendTimeout, 0),
}


@pytest.fixture
def proxy(fake_server):
    with Proxy(fake_server.url) as proxy:
        yield proxy


@pytest.mark.parametrize("surface", on())
@pytest.mark.parametrize("case", LINES)
def test_a_broken_connection_is_one_error_and_the_next_call_works(
    fake_server, proxy, surface, case
):
    proxy.fault, error, asked = LINES[case]
    deadline = DEADLINE if error is BackendTimeout else 30.0
    with client(proxy.url, deadline=deadline) as backend:
        began = time.monotonic()
        with pytest.raises(BackendError) as caught:
            surface.ask(backend)
        took = time.monotonic() - began

        assert error is type(caught.value)
        assert asked == len(fake_server.requests)
        assert took < deadline + TOLERANCE
        assert error is not BackendTimeout or took >= deadline - 0.01
        messages = everything_said(caught.value)
        assert not [text for text in (QUERY, *TEXTS, KEY) if text in messages]
    proxy.fault = None
    with client(proxy.url, deadline=30.0) as backend:
        assert RANKED == [(text, score) for text, score, _ in surface.ask(backend)]


@pytest.mark.parametrize("surface", on("langchain", "llama_index"))
@pytest.mark.parametrize("case", LINES)
def test_the_original_order_hides_a_broken_connection(proxy, surface, case):
    proxy.fault, error, _ = LINES[case]
    deadline = DEADLINE if error is BackendTimeout else 30.0
    with client(proxy.url, deadline=deadline) as backend:
        ranked = surface.ask(backend, on_error="original_order")

    assert [(text, None, f"fallback:{error.__name__}") for text in TEXTS] == ranked


@pytest.mark.parametrize("surface", on())
def test_a_slow_connection_is_no_fault(proxy, surface):
    proxy.fault = Delay(0.05)
    with client(proxy.url, deadline=30.0) as backend:
        assert RANKED == [(text, score) for text, score, _ in surface.ask(backend)]


@pytest.mark.parametrize("surface", on())
def test_a_server_that_comes_back_within_the_deadline_is_reached(proxy, surface):
    """Refused at first: nobody listens until another thread starts the server again."""
    proxy.stop()
    back = threading.Timer(0.2, proxy.start)
    remote = HTTPBackend(proxy.url, dialect="cohere", model="m", timeout=30.0)
    patience = {"attempts": 100, "deadline": 30.0, "longest_backoff": 0.1, "budget": 100.0}
    with RetryingBackend(remote, **patience) as backend:
        back.start()
        assert RANKED == [(text, score) for text, score, _ in surface.ask(backend)]
    back.join()


@pytest.mark.parametrize("surface", on())
@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://rerank.invalid"])
def test_an_unreachable_server_is_unavailable(surface, url):
    """Refused, or a name that does not exist."""
    with client(url) as backend, pytest.raises(BackendUnavailable) as caught:
        surface.ask(backend)

    assert BackendUnavailable is type(caught.value)
    assert f"attempt {ATTEMPTS} of {ATTEMPTS}" in everything_said(caught.value)


@pytest.mark.parametrize("surface", on())
def test_a_tls_failure_is_not_retried(fake_server, surface):
    """The server speaks no TLS; neither will it the next time."""
    url = fake_server.url.replace("http:", "https:")
    with client(url) as backend, pytest.raises(BackendError, match="no trusted enc") as caught:
        surface.ask(backend)

    assert BackendError is type(caught.value)
    assert 1 == fake_server.connections


@pytest.mark.parametrize("surface", on("langchain", "llama_index"))
def test_the_original_order_hides_a_tls_failure(fake_server, surface):
    url = fake_server.url.replace("http:", "https:")
    with client(url) as backend:
        ranked = surface.ask(backend, on_error="original_order")

    assert [(text, None, "fallback:BackendError") for text in TEXTS] == ranked


MORTAL = """
import time
from rerank_plugins.testing import FakeServer, drip
with FakeServer(drip()) as fake_server:
    print(fake_server.url, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("surface", on())
def test_a_server_killed_in_mid_reply_is_unavailable(surface):
    """By SIGKILL, so that the system alone ends its connections."""
    with subprocess.Popen([sys.executable, "-c", MORTAL], stdout=subprocess.PIPE) as server:
        url = server.stdout.readline().decode().strip()
        killer = threading.Timer(0.3, server.send_signal, [signal.SIGKILL])
        with client(url, deadline=60.0, timeout=60.0) as backend:
            killer.start()
            with pytest.raises(BackendUnavailable) as caught:
                surface.ask(backend)
        killer.join()

    assert BackendUnavailable is type(caught.value)
