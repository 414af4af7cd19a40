"""Folders that hold no reranker: each is said in one line, with what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="needs the extra `local`")

from safetensors.numpy import load_file, save_file

from rerank_plugins import ConfigError, load_backend
from rerank_plugins.backends.local.checkpoint import resolve
from rerank_plugins.cli.doctor.diagnose import diagnose

Make = Callable[[Path], object]
"""Changes a folder that holds a reranker."""

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1112201932\n"
LONGEST = 400


def only(*files: tuple[str, str]) -> Make:
    """Put these files in place of all others."""

    def make(folder: Path) -> None:
        shutil.rmtree(folder)
        folder.mkdir()
        for name, text in files:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)

    return make


def renamed(name: str) -> Make:
    return lambda folder: (folder / "model.safetensors").rename(folder / name)


def below(prefix: str) -> Make:
    def make(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        named = {prefix + name: weight for name, weight in weights.items()}
        save_file(named, folder / "model.safetensors", metadata={"format": "pt"})

    return make


def written(name: str, text: str) -> Make:
    return lambda folder: (folder / name).write_text(text)


def moved(*places: str) -> Make:
    """Put the model into subfolders, and nothing beside them."""

    def make(folder: Path) -> None:
        kept = folder.rename(folder.parent / "kept")
        for place in places:
            shutil.copytree(kept, folder / place)

    return make


def modules(*types: str) -> Make:
    listed = [{"path": "", "type": f"sentence_transformers.models.{name}"} for name in types]
    return written("modules.json", json.dumps(listed))


def of_trainer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "trainer_state.json").write_text("{}")


def without_a_shard(folder: Path) -> None:
    renamed("model-00001-of-00002.safetensors")(folder)
    files = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


CASES: dict[str, tuple[Make, str]] = {
    "empty": (only(), "is an empty folder"),
    "gguf": (only(("bge-q8_0.gguf", "GGUF")), r"GGUF, which llama\.cpp runs.*llamacpp\+http"),
    "gguf beside a config": (renamed("bge.gguf"), "GGUF, which llama"),
    "onnx": (
        only(("model.onnx", ""), ("tokenizer.json", "{}")),
        "an ONNX graph without the rest of its model",
    ),
    "onnx in a folder": (
        only(("onnx/model_int8.onnx", "")),
        "an ONNX graph without the rest of its model",
    ),
    "trainer": (
        moved("checkpoint-500", "checkpoint-1000"),
        "output of a Trainer, .* checkpoint-500, checkpoint-1000; give .*checkpoint-1000'",
    ),
    "checkpoint": (of_trainer, "a checkpoint of a Trainer without its tokenizer; copy"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer; save that of"),
    "prefix": (below("model."), r"below the prefix 'model\.'.*wrapper\.model\.save_pretrained"),
    "parallel": (below("module."), r"below the prefix 'module\.'"),
    "compiled": (below("_orig_mod."), r"below the prefix '_orig_mod\.'"),
    "lfs": (written("model.safetensors", POINTER), "pointer of Git LFS in place of 'model.safe"),
    "lfs tokenizer": (written("tokenizer.json", POINTER), "Git LFS in place of 'tokenizer.json'"),
    "sparse": (modules("Transformer", "SpladePooling"), "with the module SpladePooling"),
    "static": (modules("StaticEmbedding"), "is an embedding model of sentence-transformers"),
    "diffusers": (
        only(("model_index.json", "{}"), ("unet/config.json", "{}")),
        "is a pipeline of diffusers",
    ),
    "subfolder": (moved("final"), "holds no model itself, but final below it does; give that"),
    "other name": (renamed("reranker.safetensors"), "its weights in 'reranker.safetensors'"),
    "torch.save": (renamed("model.pt"), r"its weights in 'model.pt', as torch\.save\(\) writes"),
    "tensorflow": (renamed("tf_model.h5"), "a model for TensorFlow only"),
    "no config": (lambda f: (f / "config.json").unlink(), "without a config.json"),
    "tokenizer alone": (
        only(("tokenizer.json", "{}"), ("tokenizer_config.json", "{}")),
        "holds a tokenizer without a model",
    ),
    "notes": (only(("notes.txt", "x")), "holds no model: there is no config.json; give a folder"),
    "shard": (without_a_shard, "lacks 'model-00002-of-00002.safetensors', which"),
}


@pytest.fixture
def folder(checkpoint: Callable[[str], str], tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint("bert"), tmp_path / "tiny"))


@pytest.mark.parametrize(("make", "message"), CASES.values(), ids=CASES)
def test_a_folder_that_is_no_reranker_is_said_in_one_line(
    make: Make, message: str, folder: Path
) -> None:
    """The same with every engine and by the doctor."""
    make(folder)
    for engine in ("torch", "onnx", "auto"):
        with pytest.raises(ConfigError, match=message) as raised:
            load_backend({"kind": "local", "model": str(folder), "engine": engine}).score(
                "q", ["d"]
            )

        assert "\n" not in str(raised.value)
        assert LONGEST > len(str(raised.value))
    report = diagnose(f"local:{folder}")

    assert [str(raised.value)] == [check.detail for check in report.checks if not check.ok]


def test_a_folder_of_the_hubs_cache_is_answered_with_the_id(folder: Path) -> None:
    cached = folder.parent / "models--BAAI--bge-reranker-base"
    shutil.copytree(folder, cached / "snapshots" / "0123")
    with pytest.raises(ConfigError, match="give the id of its model, 'BAAI/bge-reranker-base'"):
        resolve(str(cached))

    assert "0123" == resolve(str(cached / "snapshots" / "0123")).model


def test_a_gguf_file_is_no_part_of_a_folder(folder: Path) -> None:
    (folder / "bge.gguf").touch()
    with pytest.raises(ConfigError, match="is a model in GGUF, which llama"):
        resolve(str(folder / "bge.gguf"))


def test_permission_to_unpickle_is_not_asked_for_twice(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="has no weights: neither") as raised:
        resolve(str(folder), allow_pickle=True)

    assert "allow_pickle" not in str(raised.value)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("BertForMaskedLM", "a model that fills in words"),
        ("BertModel", "a bare encoder, as of an embedding model"),
        ("T5ForConditionalGeneration", "a model that writes texts"),
        ("BertForTokenClassification", "neither|classifier"),
    ],
)
def test_a_model_with_another_head_is_said(architecture: str, message: str, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": [architecture]}))
    with pytest.raises(ConfigError, match=message):
        resolve(str(folder))


def test_code_that_was_not_allowed_is_said_in_one_line(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "fancy", "architectures": ["FancyForSequenceClassification"]}
    classes = {"AutoConfig": "fancy.A", "AutoModelForSequenceClassification": "fancy.B"}
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": classes}))
    with pytest.raises(ConfigError, match=r"brings Python code .* `trust_remote_code=True`"):
        load_backend(f"local:{folder}").score("q", ["d"])
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"can't load 'tiny': .* model type `fancy`") as raised:
        load_backend(f"local:{folder}").score("q", ["d"])

    assert LONGEST > len(str(raised.value))


def test_many_missing_weights_do_not_fill_a_page(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if ".layer." not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks the weights \[.*\] and 44 more") as raised:
        load_backend(f"local:{folder}").score("q", ["d"])

    assert LONGEST > len(str(raised.value))
