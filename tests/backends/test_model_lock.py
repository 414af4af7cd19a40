"""A locked model loads only as long as each of its files is the one that was locked."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from rerank_plugins import ConfigError, load_backend
from rerank_plugins.backends.model_lock import check_lock, lock_of, prepare
from rerank_plugins.cli import app


@pytest.fixture
def model(tmp_path, checkpoint):
    """A folder with a model, and the spec of the model."""
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("bert"), folder)
    return folder, f"local:{folder}"


@pytest.fixture
def lock(tmp_path, model):
    path = tmp_path / "model.lock"
    path.write_text(json.dumps(lock_of(load_backend(model[1]))))
    return str(path)


def test_unchanged_files_pass(model, lock):
    prepare(load_backend(model[1]), lock=lock, gpu_memory_fraction=None)


def test_one_flipped_bit_of_the_weights_is_found(model, lock):
    """Also far from any sample that tells a folder's revision."""
    weights = model[0] / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)

    with pytest.raises(ConfigError, match=r"file 'model\.safetensors' is not the one in"):
        prepare(load_backend(model[1]), lock=lock, gpu_memory_fraction=None)


def test_added_and_removed_files_are_found(model, lock):
    (model[0] / "more.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"has the file 'more\.json', which is not in"):
        check_lock(lock, load_backend(model[1]))

    (model[0] / "more.json").unlink()
    (model[0] / "tokenizer_config.json").unlink()
    with pytest.raises(ConfigError, match=r"lacks the file 'tokenizer_config\.json'"):
        check_lock(lock, load_backend(model[1]))


@pytest.mark.parametrize("content", ["", "[]", '{"files": 1}', '{"model": "x"}'])
def test_what_is_no_lock_is_refused(model, tmp_path, content):
    (tmp_path / "wrong.lock").write_text(content)

    with pytest.raises(ConfigError, match="is no lock; make one with: rerank-plugins lock"):
        check_lock(str(tmp_path / "wrong.lock"), load_backend(model[1]))


def test_only_local_models_have_files_to_lock():
    with pytest.raises(ConfigError, match="only local models can be locked, not kind 'embedded'"):
        lock_of(load_backend("embedded"))


def test_the_command_writes_the_lock(model, tmp_path):
    made = tmp_path / "made.lock"
    done = CliRunner().invoke(app, ["lock", model[1], "--output", str(made)])

    assert 0 == done.exit_code, done.output
    assert lock_of(load_backend(model[1])) == json.loads(made.read_text())
    assert {"config.json", "model.safetensors"} < json.loads(made.read_text())["files"].keys()
