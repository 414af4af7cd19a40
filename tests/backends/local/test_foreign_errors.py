"""Whatever a library raises at a model is one of our errors."""

import json
import shutil

import pytest

from rerank_plugins import BackendError, ConfigError, InvalidResponse, load_backend
from rerank_plugins.backends.local.foreign_errors import load_errors, score_errors


class PanicException(BaseException):
    """As pyo3 raises it for a panic in Rust."""


@pytest.mark.parametrize(
    "error", [TypeError("a\nb"), PanicException("a\nb"), AttributeError("a b")], ids=repr
)
def test_a_model_that_libraries_can_not_load_is_one_line(error):
    with (
        pytest.raises(ConfigError, match=rf"'m' can't be loaded; .*: {type(error).__name__}: a b$"),
        load_errors("m"),
    ):
        raise error


@pytest.mark.parametrize("error", [ImportError("no optimum"), ModuleNotFoundError("no peft")])
def test_a_package_that_a_model_needs_is_no_damage(error):
    with (
        pytest.raises(ConfigError, match=r"'m' needs a package that is not installed: .*no "),
        load_errors("m"),
    ):
        raise error


def test_a_page_of_a_library_is_cut():
    with pytest.raises(ConfigError) as raised, load_errors("m"):
        raise ValueError("word " * 1000)

    assert 450 > len(str(raised.value))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("std::bad_alloc")], ids=repr)
def test_memory_that_runs_out_is_told_from_damage(error):
    with pytest.raises(BackendError, match="does not fit into memory"), load_errors("m"):
        raise error
    with pytest.raises(MemoryError), score_errors("m"):
        raise error


@pytest.mark.parametrize("error", [IndexError("a text"), PanicException("a text")], ids=repr)
def test_a_model_that_fails_shows_no_text(error):
    with (
        pytest.raises(BackendError, match=f"^the model 'm' failed with {type(error).__name__}$"),
        score_errors("m"),
    ):
        raise error


@pytest.mark.parametrize("error", [InvalidResponse("x"), KeyboardInterrupt(), SystemExit(1)])
@pytest.mark.parametrize("translate", [load_errors, score_errors])
def test_our_errors_and_interruptions_stay(error, translate):
    with pytest.raises(type(error)) as caught, translate("m"):
        raise error

    assert error is caught.value


def changed(name, **values):
    def damage(folder):
        file = folder / name
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return damage


@pytest.mark.parametrize("engine", ["onnx", "torch"])
@pytest.mark.parametrize(
    "damage",
    [
        changed("config.json", num_hidden_layers="x"),
        changed("config.json", num_hidden_layers=-1),
        changed("config.json", num_attention_heads=0),
        changed("config.json", id2label=5),
        changed("config.json", architectures=5),
        changed("tokenizer.json", model=5),
        changed("tokenizer.json", normalizer={"type": "Precompiled", "precompiled_charsmap": ""}),
    ],
)
def test_a_damaged_folder_is_an_error_of_ours(tmp_path, checkpoint, damage, engine):
    """When it loads, or at the first score at the latest."""
    model = tmp_path / "model"
    shutil.copytree(checkpoint("bert"), model)
    damage(model)
    backend = load_backend({"kind": "local", "model": str(model), "engine": engine})

    with pytest.raises((BackendError, ConfigError)):
        backend.score("q", ["a panda", "d"])
