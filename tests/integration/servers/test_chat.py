"""llama.cpp's server with a language model: a judge by two words, and by an order."""

from __future__ import annotations

import asyncio

import pytest

from rerank_plugins import BackendRejected, InvalidResponse, load_backend
from tests.integration.servers.agreement import DOCUMENTS, HUNDRED, QUERY, Agreement, Guarded

ORDER = 'root ::= "[" [1-6] "] > [" [1-6] "] > [" [1-6] "]"'
"""A grammar that lets a model answer nothing but three numbers in the form that is asked for."""


@pytest.fixture(scope="module")
def spec_of(chat_llamacpp):
    def spec(key="RERANK_TEST_KEY", template="qwen3-reranker"):
        options = f"model=judge&timeout=300&api_key_env={key}&template={template}"
        return f"openai+{chat_llamacpp.url}/v1?{options}"

    return spec


@pytest.fixture(scope="module")
def local_spec(judge):
    return f"local:{judge}?engine=torch&template=qwen3-reranker"


class TestAgreement(Agreement):
    """The server has no rerank route; its log-probabilities give the local scores all the same."""

    tolerance = 1e-4


class TestRefusals(Guarded):
    pass


def test_logits_are_the_local_ones(spec_of, local_spec):
    with (
        load_backend(f"{spec_of()}&scale=logit") as remote,
        load_backend(f"{local_spec}&scale=logit") as local,
    ):
        expected = local.score(QUERY, DOCUMENTS)

        assert pytest.approx(list(expected), abs=1e-3) == list(remote.score(QUERY, DOCUMENTS))
        assert max(expected) - min(expected) > 0.1


@pytest.fixture
def options(chat_llamacpp):
    return {
        "kind": "openai",
        "base_url": chat_llamacpp.url,
        "model": "judge",
        "api_key_env": "RERANK_TEST_KEY",
        "timeout": 300,
    }


def test_the_chat_interface_judges_by_the_same_words(options):
    """With its model's own chat template around the question; all of the vocabulary is told."""
    with load_backend({**options, "top_logprobs": 581}) as backend:
        scores = backend.score(QUERY, DOCUMENTS)
        again = asyncio.run(backend.ascore(QUERY, DOCUMENTS[::-1]))

    assert all(0 < score < 1 for score in scores)
    assert len({*scores}) > 1
    assert pytest.approx(list(scores), abs=1e-5) == list(again)[::-1]
    assert scores.usage.tokens > 100


def test_words_that_the_model_never_says_are_an_error(options):
    words = {"true_token": "panda-panda", "false_token": "bear-bear"}
    with (
        load_backend(options | words) as backend,
        pytest.raises(InvalidResponse, match="neither 'panda-panda' nor 'bear-bear'"),
    ):
        backend.score(QUERY, DOCUMENTS)


def test_an_order_comes_from_what_the_model_writes(options):
    """Whatever numbers it repeats or leaves out."""
    listwise = {"mode": "listwise", "extra_body": {"grammar": ORDER}}
    with load_backend(options | listwise) as backend:
        scores = backend.score(QUERY, DOCUMENTS)
        again = asyncio.run(backend.ascore(QUERY, DOCUMENTS))
        many = backend.score(QUERY, HUNDRED[:12])

    assert [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0] == pytest.approx(sorted(scores))
    assert scores == again
    assert 12 == len({*many})
    assert scores.usage.tokens > 0


def test_a_model_that_writes_no_order_is_an_error(options):
    listwise = {"mode": "listwise", "extra_body": {"grammar": 'root ::= "I cannot help."'}}
    with (
        load_backend(options | listwise) as backend,
        pytest.raises(InvalidResponse, match="none of 1 answers names a document"),
    ):
        backend.score(QUERY, DOCUMENTS)


def test_a_prompt_that_is_too_long_is_refused(options):
    with (
        load_backend(options | {"max_characters": 100_000}) as backend,
        pytest.raises(BackendRejected, match="exceed"),
    ):
        backend.score(QUERY, ["panda " * 5_000])
