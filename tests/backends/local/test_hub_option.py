"""The option `hub`, with or without ModelScope's client."""

import sys

import pytest

from rerank_plugins import ConfigError, MissingDependencyError, load_backend
from rerank_plugins.backends.local.checkpoint import resolve

MODEL = "iic/tiny-reranker"


def test_without_its_client_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "modelscope_hub", None)

    with pytest.raises(MissingDependencyError, match=r"'rerank-plugins\[modelscope\]'"):
        resolve(MODEL, hub="modelscope")


def test_a_folder_comes_from_no_hub(tmp_path):
    with pytest.raises(ConfigError, match="`hub` belongs to hub models"):
        resolve(str(tmp_path), hub="modelscope")


@pytest.mark.parametrize("hub", ["github", "ModelScope", 1, None])
def test_another_hub_is_refused(hub):
    with pytest.raises(ConfigError, match="`hub` must be 'huggingface' or 'modelscope'"):
        load_backend({"kind": "local", "model": MODEL, "hub": hub})


def test_it_stands_in_the_spec_only_where_it_is_not_the_usual():
    for hub, written in (("modelscope", {"hub": "modelscope"}), ("huggingface", {})):
        backend = load_backend(f"local:{MODEL}?hub={hub}")

        assert {"kind": "local", "model": MODEL, **written} == backend.to_spec()
