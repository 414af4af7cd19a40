"""Infinity 0.0.78, guarded by a key."""

from __future__ import annotations

import asyncio
import os

import pytest

from rerank_plugins import (
    BackendOverloaded,
    InvalidResponse,
    Scores,
    load_backend,
)
from rerank_plugins.backends.http.discovery import probe
from tests.integration.servers.agreement import (
    DOCUMENTS,
    QUERY,
    Agreement,
    Refusals,
    ServerContract,
)


@pytest.fixture(scope="module")
def spec_of(infinity, tiny):
    def spec(model=tiny.name, key="RERANK_TEST_KEY"):
        return f"infinity+{infinity.url}?model={model}&timeout=300&api_key_env={key}"

    return spec


class TestAgreement(Agreement):
    pass


class TestContract(ServerContract):
    pass


class TestRefusals(Refusals):
    unknown_model = 400


def test_logits_are_the_local_ones(remote_spec, local_spec):
    with (
        load_backend(f"{remote_spec}&scale=logit") as remote,
        load_backend(f"{local_spec}&scale=logit") as local,
    ):
        expected = local.score(QUERY, DOCUMENTS)

        assert pytest.approx(expected, rel=0, abs=1e-5) == remote.score(QUERY, DOCUMENTS)
        assert "logit" == remote.scale


def test_it_is_recognised(infinity, tiny, key_variable):
    """With a key by the models it lists, without one by what it leaves open."""
    key = os.environ[key_variable]
    info, guarded = probe(infinity.url, api_key=key), probe(infinity.url)

    assert ("infinity", infinity.url) == (info.dialect, info.base_url)
    assert {"nan", tiny.name} == set(info.models)
    assert info.authorized
    assert ("infinity", (), False) == (guarded.dialect, guarded.models, guarded.authorized)


def test_scores_that_are_not_numbers_are_an_invalid_response(spec_of):
    """The server sends null for NaN, with status 200."""
    with load_backend(spec_of(model="nan")) as backend, pytest.raises(InvalidResponse):
        backend.score(QUERY, DOCUMENTS)


async def test_a_full_queue_is_overload(start_infinity, tiny):
    """Of many concurrent requests some get their scores, the others one typed error."""
    with start_infinity(tiny, settings={"INFINITY_QUEUE_SIZE": "40"}) as server:
        async with load_backend(f"infinity+{server.url}?timeout=300") as backend:
            documents = [f"panda {number}" for number in range(300)]
            calls = [backend.ascore(QUERY, documents) for _ in range(8)]
            answers = await asyncio.gather(*calls, return_exceptions=True)

    refused = [answer for answer in answers if isinstance(answer, BackendOverloaded)]
    scored = [answer for answer in answers if isinstance(answer, Scores)]
    assert refused
    assert scored
    assert len(answers) == len(refused) + len(scored)
