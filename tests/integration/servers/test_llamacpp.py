"""llama.cpp's server: its own protocol, which is Jina's, and that of TEI."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from rerank_plugins import (
    BackendError,
    BackendTimeout,
    BackendUnavailable,
    load_backend,
)
from rerank_plugins.backends.http.discovery import probe
from tests.integration.servers.agreement import DOCUMENTS, QUERY, Agreement, Guarded, ServerContract


@pytest.fixture(scope="module")
def spec_of(llamacpp):
    def spec(kind="llamacpp", key="RERANK_TEST_KEY"):
        return f"{kind}+{llamacpp.url}?timeout=300&api_key_env={key}&server_scale=logit"

    return spec


@pytest.fixture(scope="module")
def local_spec(typeless):
    return f"local:{typeless}?engine=torch"


# 1e-2 in logits: llama.cpp looks GELU up in a table of 16 bits. What else is in a batch changes a
# last bit before the table, and so a whole step of it after: 3.5e-4 was seen between two batches.
TOLERANCE = 2.5e-3


class TestAgreement(Agreement):
    tolerance = TOLERANCE


class TestContract(ServerContract):
    tolerance = TOLERANCE

    def test_large_requests_are_scored(self):
        """A text that does not fit is refused: this server can't cut."""
        with self.make_backend() as backend:
            assert 2_000 == len(backend.score(self.query, ["panda", "hi"] * 1_000))
            with pytest.raises(BackendError, match="too large"):
                backend.score(self.query, ["panda " * 175_000, "hi"])


class TestRefusals(Guarded):
    pass


@pytest.mark.parametrize(
    ("kind", "options"),
    [("llamacpp", ""), ("jina", "&model=any"), ("tei", "")],
)
def test_three_dialects_give_the_local_logits(spec_of, local_spec, kind, options):
    """The server speaks Jina's and TEI's protocols too, but sends logits in each of them."""
    with (
        load_backend(f"{spec_of(kind)}&scale=logit{options}") as remote,
        load_backend(f"{local_spec}&scale=logit") as local,
    ):
        expected = local.score(QUERY, DOCUMENTS)

        assert pytest.approx(expected, rel=0, abs=1e-2) == remote.score(QUERY, DOCUMENTS)


def test_it_is_recognised(llamacpp, key_variable):
    """Also without a key: it lists its model to everyone."""
    info, guarded = probe(llamacpp.url, api_key=os.environ[key_variable]), probe(llamacpp.url)

    assert ("llamacpp", llamacpp.url) == (info.dialect, info.base_url)
    assert info.authorized
    assert info.models
    assert "llamacpp" == guarded.dialect


def test_a_pair_that_is_too_long_is_not_retried(spec_of):
    """The server says 500, and would say so again; another backend may take the pair."""
    with (
        load_backend(spec_of()) as backend,
        pytest.raises(BackendError, match=r"answered 500.*too large") as caught,
    ):
        backend.score(QUERY, ["panda " * 1_000])

    assert BackendError is type(caught.value)


def test_a_killed_server_is_unavailable(start_llamacpp):
    """At once, and not after the timeout; also for the request in flight."""
    with start_llamacpp() as server, load_backend(f"llamacpp+{server.url}?timeout=300") as backend:
        backend.score(QUERY, DOCUMENTS)
        with ThreadPoolExecutor(1) as pool:
            in_flight = pool.submit(backend.score, QUERY, ["panda " * 200] * 5_000)
            with pytest.raises(TimeoutError):
                in_flight.exception(timeout=1)
            server.kill()
            failures = [in_flight.exception()]
        with pytest.raises(BackendUnavailable) as caught:
            backend.score(QUERY, DOCUMENTS)

    for failure in [*failures, caught.value]:
        assert isinstance(failure, BackendUnavailable)
        assert not isinstance(failure, BackendTimeout)
