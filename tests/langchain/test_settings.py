"""The adapter's settings, and the errors of wrong ones."""

import importlib
import math
import sys

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.runnables import (
    RunnableLambda,
)
from langchain_core.vectorstores import InMemoryVectorStore

from rerank_plugins import (
    ConfigError,
    MissingDependencyError,
    load_backend,
)
from rerank_plugins.langchain import RerankCompressor, RerankRetriever
from rerank_plugins.testing import FakeBackend
from tests.langchain.retrieval import everything, order, request


@pytest.mark.parametrize("top_n", [-1, 1.5, "5", True, math.inf])
def test_wrong_top_n_is_refused(top_n):
    with pytest.raises(ConfigError, match="top_n"):
        RerankCompressor(FakeBackend(), top_n=top_n)
    with pytest.raises(ConfigError, match="top_n"):
        RerankRetriever(RunnableLambda(len), backend=FakeBackend(), top_n=top_n)
    with pytest.raises(ConfigError, match="top_n"):
        everything().invoke(request(top_n=top_n))


@pytest.mark.parametrize("min_score", [math.nan, math.inf, "0.5", True])
def test_wrong_min_score_is_refused(min_score):
    with pytest.raises(ConfigError, match="min_score"):
        RerankCompressor(FakeBackend(), min_score=min_score)
    with pytest.raises(ConfigError, match="min_score"):
        everything().invoke(request(min_score=min_score))


def test_min_score_needs_a_scale():
    compressor = RerankCompressor(FakeBackend(scale="unknown"))

    with pytest.raises(ConfigError, match="server_scale=logit"):
        RerankCompressor(FakeBackend(scale="unknown"), min_score=0.5)
    with pytest.raises(ConfigError, match="server_scale=logit"):
        compressor.invoke(request(min_score=0.5))


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("api_key", "api_key_env"),
        ("base_url", "xinference\\+http"),
        ("batch_size", "batch_tokens"),
        ("device", "device=cuda:0"),
        ("k", "is called `top_n`"),
        ("model", "local:"),
        ("model_name", "local:"),
        ("model_uid", "xinference"),
        ("score_threshold", "is called `min_score`"),
        ("server_url", "xinference\\+http"),
        ("top_k", "is called `top_n`"),
        ("topn", "did you mean 'top_n'"),
        (
            "whatever",
            "valid: backend, count_tokens, distinct, instruction, keep, max_tokens, min_gap",
        ),
    ],
)
def test_names_from_other_rerankers_get_an_error_with_the_right_one(name, answer):
    with pytest.raises(ConfigError, match=answer) as caught:
        RerankCompressor(**{name: "s3cret"})

    assert "s3cret" not in str(caught.value)
    assert "RerankCompressor" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "answer"), [("base_retriever", "retriever"), ("top_k", "`top_n`")]
)
def test_retriever_errors_translate_names_from_other_rerankers(name, answer):
    with pytest.raises(ConfigError, match=answer):
        RerankRetriever(RunnableLambda(len), backend=FakeBackend(), **{name: 1})


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("base_retriever", "first argument .* `retriever`"),
        ("base_compressor", "`backend`"),
        ("compressor", "`backend`"),
        ("reranker", "`backend`"),
        ("cross_encoder", "`backend`"),
    ],
)
def test_retriever_errors_translate_names_of_contextual_compression(name, answer):
    with pytest.raises(ConfigError, match=answer):
        RerankRetriever(**{name: RunnableLambda(len)})


def test_unknown_settings_of_a_call_are_refused():
    with pytest.raises(ConfigError, match="is called `top_n`"):
        everything().invoke(request(), k=3)
    with pytest.raises(
        ConfigError, match=r"RerankCompressor.invoke.*valid: count_tokens, distinct, documents"
    ):
        everything().invoke(request(), verbose=True)


def test_settings_assigned_later_are_checked():
    compressor = everything()
    compressor.top_n = 1
    assert [2] == order(compressor.invoke(request()))
    compressor.top_n = -1
    with pytest.raises(ConfigError, match="top_n"):
        compressor.invoke(request())
    with pytest.raises(ValueError, match="backend"):
        compressor.backend = "embedded"


def test_validation_errors_show_no_values():
    with pytest.raises(ValueError, match="api_key_env") as caught:
        RerankCompressor.model_validate({"backend": FakeBackend(), "api_key": "s3cret"})

    assert "s3cret" not in str(caught.value)


def test_backend_is_what_load_backend_takes(tmp_path, monkeypatch):
    backend = FakeBackend()
    path = tmp_path / "rerank.toml"
    path.write_text('[backend]\nkind = "local"\nmodel = "some/model"\n')
    monkeypatch.setenv("RERANK_BACKEND", "local:some/model")
    expected = load_backend("local:some/model").to_spec()

    assert backend is RerankCompressor(backend).backend
    for spec in (
        "local:some/model",
        {"kind": "local", "model": "some/model"},
        {"backend": {"kind": "local", "model": "some/model"}},
        path,
        str(path),
        None,
    ):
        assert expected == RerankCompressor(backend=spec).backend.to_spec()


def test_wrong_spec_is_a_config_error():
    with pytest.raises(ConfigError, match="unknown kind"):
        RerankCompressor(backend="nonsense")
    with pytest.raises(ConfigError, match="must be a string"):
        RerankCompressor(backend=3)


def test_retriever_must_be_one():
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))

    with pytest.raises(ConfigError, match=r"InMemoryVectorStore.*as_retriever\(\)"):
        RerankRetriever(store, backend=FakeBackend())


def test_missing_framework_names_the_extra(monkeypatch):
    class Blocked:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "langchain_core":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    for name in [*sys.modules]:
        if name.partition(".")[0] == "langchain_core" or name == "rerank_plugins.langchain":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Blocked(), *sys.meta_path])

    with pytest.raises(MissingDependencyError, match=r"rerank-plugins\[langchain\]"):
        importlib.import_module("rerank_plugins.langchain")
