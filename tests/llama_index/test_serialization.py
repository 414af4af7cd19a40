"""Settings survive dictionaries, JSON, pickles and copies; keys do not."""

import copy
import pickle

import numpy as np
import pytest
from llama_index.core.callbacks import CallbackManager
from llama_index.core.postprocessor.types import BaseNodePostprocessor

from rerank_plugins import ConfigError, _adapter
from rerank_plugins.llama_index import RerankPostprocessor
from rerank_plugins.testing import FakeBackend
from tests.llama_index.nodes import QUERY, TEXTS, LegacyRecorder, ids, wrapped


@pytest.mark.parametrize(
    "spec",
    [
        "embedded",
        "local:some/model?device=cpu",
        "xinference+http://127.0.0.1:9?model=m&timeout=5",
    ],
)
def test_settings_survive_every_round_trip(spec):
    postprocessor = RerankPostprocessor(backend=spec, top_n=None)
    written = postprocessor.to_dict()

    assert "RerankPostprocessor" == written["class_name"] == RerankPostprocessor.class_name()
    settings = {"backend", *_adapter.SELECTION, "metadata_mode", "instruction", "on_error", "keep"}
    assert settings | {"class_name"} == written.keys()
    for again in (
        RerankPostprocessor.from_dict(written),
        RerankPostprocessor.from_json(postprocessor.to_json()),
        RerankPostprocessor.model_validate(postprocessor.model_dump()),
        pickle.loads(pickle.dumps(postprocessor)),
        copy.deepcopy(postprocessor),
        copy.copy(postprocessor),
    ):
        assert written == again.to_dict()
    assert 7 == RerankPostprocessor.from_dict(written, top_n=7).top_n


def test_keys_are_never_serialised(monkeypatch):
    monkeypatch.setenv("MY_KEY", "hunter2")
    postprocessor = RerankPostprocessor(
        backend="xinference+http://127.0.0.1:9?model=m&api_key_env=MY_KEY"
    )

    assert "MY_KEY" in postprocessor.to_json()
    for text in (
        postprocessor.to_json(),
        repr(postprocessor),
        str(postprocessor.model_dump()),
        str(pickle.dumps(postprocessor)),
    ):
        assert "hunter2" not in text


def test_a_backend_without_a_spec_cannot_be_serialised():
    with pytest.raises(ConfigError, match="`FakeBackend` can't be written as a spec"):
        RerankPostprocessor(backend=FakeBackend()).to_dict()


def test_pickling_leaves_handlers_behind():
    """A worker gets all settings and a working postprocessor, without a warning."""
    postprocessor = RerankPostprocessor(
        backend=FakeBackend(), top_n=1, callback_manager=CallbackManager([LegacyRecorder()])
    )
    again = pickle.loads(pickle.dumps(postprocessor))

    assert [] == again.callback_manager.handlers
    assert [3] == ids(again.postprocess_nodes(wrapped(*TEXTS), query_str=QUERY))


def test_copies_share_the_backend():
    """No model is loaded twice; settings are the copy's own."""
    postprocessor = RerankPostprocessor(
        backend=FakeBackend(), callback_manager=CallbackManager([LegacyRecorder()])
    )
    for again in (copy.deepcopy(postprocessor), postprocessor.model_copy(deep=True)):
        again.top_n = 1
        assert again.backend is postprocessor.backend
    assert 3 == postprocessor.top_n


def test_it_is_one_of_the_frameworks_own():
    assert isinstance(RerankPostprocessor(backend=FakeBackend()), BaseNodePostprocessor)


def test_a_dump_is_json_when_settings_were_numbers_of_numpy():
    postprocessor = RerankPostprocessor("embedded", top_n=np.int64(2), min_score=np.float32(0.5))

    again = RerankPostprocessor.from_json(postprocessor.to_json())
    assert (2, 0.5) == (again.top_n, again.min_score)
