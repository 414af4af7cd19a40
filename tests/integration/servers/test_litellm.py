"""LiteLLM's proxy: Cohere's protocol, in front of Infinity."""

from __future__ import annotations

import pytest

from rerank_plugins import BackendRejected, BackendUnavailable, load_backend
from rerank_plugins.backends.http.discovery import probe
from tests.integration.servers.agreement import (
    DOCUMENTS,
    QUERY,
    Agreement,
    Refusals,
    ServerContract,
)


@pytest.fixture(scope="module")
def spec_of(litellm):
    def spec(model="tiny", key="RERANK_TEST_KEY_LITELLM"):
        return f"cohere+{litellm.url}?model={model}&timeout=300&api_key_env={key}"

    return spec


class TestAgreement(Agreement):
    pass


class TestContract(ServerContract):
    def test_large_requests_are_scored(self):
        """The server behind the proxy has a limit that Cohere's protocol does not know."""
        with self.make_backend() as backend:
            assert 2_000 == len(backend.score(self.query, ["panda", "hi"] * 1_000))
            with pytest.raises(BackendRejected) as caught:
                backend.score(self.query, ["panda " * 175_000, "hi"])

        assert 422 == caught.value.status_code


class TestRefusals(Refusals):
    unknown_model = 400
    wrong_key = 400  # without a database the proxy can't tell who that is


def test_it_is_not_recognised_and_the_error_says_what_to_do(litellm):
    """What answers like no rerank server may still be a proxy."""
    with pytest.raises(BackendRejected, match=r"cohere\+http"):
        probe(litellm.url)


def test_a_server_behind_the_proxy_that_is_gone_is_unavailable(spec_of):
    with (
        load_backend(spec_of(model="gone")) as backend,
        pytest.raises(BackendUnavailable),
    ):
        backend.score(QUERY, DOCUMENTS)
