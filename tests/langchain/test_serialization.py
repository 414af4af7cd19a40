"""Dumps, loads, copies and pickles."""

import copy
import json
import pickle
import warnings

import numpy as np
import pytest
from langchain_core.load import dumpd, dumps, loads
from langchain_core.runnables import (
    RunnableLambda,
    RunnablePassthrough,
)

from rerank_plugins.langchain import RerankCompressor, RerankRetriever
from rerank_plugins.testing import FakeBackend
from tests.langchain.retrieval import (
    QUERY,
    BM25Retriever,
    WrittenBackend,
    documents,
    everything,
    order,
    request,
)


def restored(runnable):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `loads` is marked as beta
        return loads(
            dumps(runnable),
            allowed_objects=[RerankCompressor, RerankRetriever],
            valid_namespaces=["rerank_plugins"],
        )


def test_dump_holds_the_spec_of_the_backend():
    compressor = RerankCompressor(WrittenBackend(), top_n=0, min_score=0.0)

    assert {
        "lc": 1,
        "type": "constructor",
        "id": ["rerank_plugins", "langchain", "RerankCompressor"],
        "name": "RerankCompressor",
        "kwargs": {
            "backend": {"kind": "embedded"},
            "top_n": 0,
            "min_score": 0.0,
            "on_error": "raise",
            "keep": "document",
        },
    } == dumpd(compressor)
    assert {} == compressor.lc_secrets


class OwnCompressor(RerankCompressor):
    """A user's subclass."""


def test_dump_of_a_subclass_names_its_own_module():
    assert [*__name__.split("."), "OwnCompressor"] == dumpd(OwnCompressor(WrittenBackend()))["id"]


def test_dump_can_be_loaded():
    compressor = RerankCompressor(backend="embedded", top_n=None, min_score=0.25, name="mine")
    retriever = RerankRetriever(
        RerankRetriever(RunnableLambda(len), backend="embedded"), backend="embedded", top_n=7
    )
    copied = restored(compressor)

    assert (None, 0.25, "mine") == (copied.top_n, copied.min_score, copied.name)
    assert compressor.backend.name == copied.backend.name
    assert dumpd(compressor) == dumpd(copied)
    with pytest.raises(NotImplementedError, match="RunnableLambda"):
        restored(retriever)


def test_dump_of_a_remote_backend_names_the_key_only(monkeypatch):
    monkeypatch.setenv("RERANK_TEST_KEY", "s3cret")
    compressor = RerankCompressor("cohere:rerank-v3.5?api_key_env=RERANK_TEST_KEY")
    dumped = dumps(compressor)

    assert "RERANK_TEST_KEY" in dumped
    assert "s3cret" not in dumped + repr(compressor) + str(compressor)
    assert b"s3cret" not in pickle.dumps(compressor)
    assert compressor.backend.name == restored(compressor).backend.name


def test_dump_says_that_a_backend_has_no_spec():
    """Not an error: tracers dump whatever they see."""
    dumped = dumpd(everything())

    assert "not_implemented" == dumped["type"]
    assert "FakeBackend fake" in dumped["repr"]


def test_dump_in_a_chain():
    chain = RunnablePassthrough() | RerankCompressor(WrittenBackend())

    assert "embedded" == dumpd(chain)["kwargs"]["last"]["kwargs"]["backend"]["kind"]


@pytest.mark.parametrize(
    "copied", [lambda o: pickle.loads(pickle.dumps(o)), copy.deepcopy, copy.copy]
)
def test_copies_work(copied):
    compressor = copied(everything(2, name="mine"))
    retriever = copied(
        RerankRetriever(BM25Retriever(documents=documents()), backend=FakeBackend(), top_n=2)
    )

    assert [2, 1] == order(compressor.invoke(request()))
    assert "mine" == compressor.get_name()
    assert [2, 1] == order(retriever.invoke(QUERY))


def test_a_deep_copy_shares_the_backend():
    """Else the model would be loaded twice, and a literal key could not be copied."""
    compressor = everything(2)

    assert compressor.backend is copy.deepcopy(compressor).backend


def test_it_is_written_as_json():
    dumped = json.loads(RerankCompressor("local:some/model", top_n=2).model_dump_json())

    assert {"kind": "local", "model": "some/model"} == dumped["backend"]
    assert 2 == dumped["top_n"]


def test_a_dump_is_json_when_settings_were_numbers_of_numpy():
    compressor = RerankCompressor("embedded", top_n=np.int64(2), min_score=np.float32(0.5))

    assert {"top_n": 2, "min_score": 0.5}.items() <= json.loads(dumps(compressor))["kwargs"].items()
    assert 2 == restored(compressor).top_n
