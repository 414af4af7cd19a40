"""The open circuit, through every interface: nobody waits, one call tries, all come back."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from rerank_plugins import BackendUnavailable
from rerank_plugins.testing import FakeResponse, hang_up, serve_dialect
from tests.integration.faults.surfaces import RANKED, TEXTS, chain
from tests.integration.faults.surfaces import surfaces as on

COOLDOWN = 0.2


def backend_of(fake_server, *, cooldown):
    spec = {"kind": "cohere", "base_url": fake_server.url, "model": "m"}
    return chain(spec, breaker={"failures": 2, "cooldown": cooldown})


def open_circuit(fake_server, surface, *, cooldown):
    fake_server.response = hang_up
    backend = backend_of(fake_server, cooldown=cooldown)
    for _ in range(2):
        with pytest.raises(BackendUnavailable, match="disconnected"):
            surface.ask(backend)
    fake_server.requests.clear()
    return backend


@pytest.mark.parametrize("surface", on())
def test_an_open_circuit_sends_nothing(fake_server, surface):
    with open_circuit(fake_server, surface, cooldown=60.0) as backend:
        for _ in range(20):
            with pytest.raises(BackendUnavailable, match="goes through in") as caught:
                surface.ask(backend)

    assert 0.0 < caught.value.retry_after <= 60.0
    assert [] == fake_server.requests


@pytest.mark.parametrize("surface", on("langchain", "llama_index"))
def test_an_open_circuit_keeps_the_original_order(fake_server, surface):
    with open_circuit(fake_server, surface, cooldown=60.0) as backend:
        ranked = surface.ask(backend, on_error="original_order")

    assert [(text, None, "fallback:BackendUnavailable") for text in TEXTS] == ranked
    assert [] == fake_server.requests


@pytest.mark.parametrize("surface", on("bare"))
def test_a_call_through_an_open_circuit_takes_less_than_a_millisecond(fake_server, surface):
    """The quickest of many tells what it costs when nothing else runs."""
    with open_circuit(fake_server, surface, cooldown=60.0) as backend:

        def took():
            began = time.perf_counter()
            with pytest.raises(BackendUnavailable):
                backend.score("q", TEXTS)
            return time.perf_counter() - began

        assert min(took() for _ in range(200)) < 0.001


@pytest.mark.parametrize("surface", on(modes=["sync"]))
def test_one_of_many_callers_tries_and_then_all_pass(fake_server, surface):
    right, probed, go = serve_dialect("cohere"), threading.Event(), threading.Event()

    def waits(received):
        probed.set()
        assert go.wait(30)
        return right(received)

    with (
        open_circuit(fake_server, surface, cooldown=COOLDOWN) as backend,
        ThreadPoolExecutor(8) as pool,
    ):
        fake_server.response = waits
        time.sleep(COOLDOWN)
        probe = pool.submit(surface.ask, backend)
        assert probed.wait(30)
        others = [pool.submit(surface.ask, backend) for _ in range(7)]
        refused = [other.exception() for other in others]
        go.set()

        assert RANKED == [(text, score) for text, score, _ in probe.result()]
        assert [BackendUnavailable] * 7 == [type(error) for error in refused]
        assert 1 == len(fake_server.requests)
        again = [pool.submit(surface.ask, backend) for _ in range(8)]
        assert all(RANKED == [(t, s) for t, s, _ in call.result()] for call in again)


@pytest.mark.parametrize("surface", on())
def test_refusals_do_not_open_the_circuit(fake_server, surface):
    """They are the caller's fault, not the server's."""
    fake_server.response = FakeResponse({"message": "no"}, 400)
    with backend_of(fake_server, cooldown=60.0) as backend:
        for _ in range(5):
            with pytest.raises(Exception, match="answered 400"):
                surface.ask(backend)

    assert 5 == len(fake_server.requests)
