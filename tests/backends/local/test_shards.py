"""An index names files beside it, and nothing else."""

import json
import shutil

import pytest

from rerank_plugins import ConfigError, load_backend
from rerank_plugins.backends.local.shards import INDICES, shards


def write(folder, content, name=INDICES[0]):
    index = folder / name
    index.write_text(json.dumps(content))
    return index


def test_the_files_are_sorted_and_named_once(tmp_path):
    index = write(tmp_path, {"weight_map": {"x": "b", "y": "a", "z": "b"}})

    assert [tmp_path / "a", tmp_path / "b"] == shards(index)


@pytest.mark.parametrize(
    "name", ["../a", "/a", "b/../a", "b/a", "..", ".", ".a", "", "..\\a", 5, None, ["a"]]
)
def test_files_elsewhere_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="which is no file beside it"):
        shards(write(tmp_path, {"weight_map": {"x": name}}))


@pytest.mark.parametrize("content", [[], {}, {"weight_map": 5}, {"weight_map": {}}, 5])
def test_what_is_no_index_is_refused(tmp_path, content):
    with pytest.raises(ConfigError, match="is broken"):
        shards(write(tmp_path, content))


@pytest.mark.parametrize("names", [["../tokenizer.4.0.json"], ["tokenizer.json", "/t.json"], [5]])
def test_no_tokenizer_is_read_outside_the_folder(tmp_path, checkpoint, names):
    model = tmp_path / "model"
    shutil.copytree(checkpoint("bert"), model)
    config = json.loads((model / "tokenizer_config.json").read_text())
    write(model, config | {"fast_tokenizer_files": names}, "tokenizer_config.json")

    with pytest.raises(ConfigError, match=r"tokenizer_config\.json' is broken: it names"):
        load_backend(f"local:{model}").score("q", ["d"])


def test_an_adapter_of_a_model_elsewhere_is_refused(tmp_path, checkpoint):
    model = tmp_path / "model"
    shutil.copytree(checkpoint("bert"), model)
    write(model, {"base_model_name_or_path": "../other"}, "adapter_config.json")

    with pytest.raises(ConfigError, match="'model' holds an adapter of another model"):
        load_backend(f"local:{model}").score("q", ["d"])


@pytest.mark.parametrize("engine", ["onnx", "torch"])
@pytest.mark.parametrize("name", INDICES)
def test_no_engine_reads_weights_outside_the_folder(tmp_path, checkpoint, engine, name):
    model = tmp_path / "model"
    shutil.copytree(checkpoint("bert"), model)
    (model / "model.safetensors").rename(tmp_path / "model-1.safetensors")
    shutil.copy(tmp_path / "model-1.safetensors", model / "model-2.safetensors")
    write(model, {"weight_map": {"classifier.bias": "../model-1.safetensors"}}, name)
    backend = load_backend({"kind": "local", "model": str(model), "engine": engine})

    with pytest.raises(ConfigError, match=rf"{name}' is broken: it names '\.\./model-1"):
        backend.score("q", ["d"])
