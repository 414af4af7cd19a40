"""What a folder holds that holds no reranker, and what to do about it; for messages only."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from rerank_plugins.errors import ConfigError

__all__ = [
    "check_is_model",
    "check_names",
    "describe_architectures",
    "describe_file",
    "without_tokenizer",
]

_LFS = b"version https://git-lfs.github.com/spec/"
_SMALL = 4096
"""Bytes; a pointer of Git LFS has about 130."""
_HEAD = re.compile(r"\.(classifier|classification_head|head|pre_classifier|score)\.")
"""What stands at the top of a classifier, inside of the name of a tensor."""
_LISTED = 3
"""Most names in a message."""

_GGUF = (
    "which llama.cpp runs: serve it with `llama-server -m FILE --reranking` and use "
    "llamacpp+http://HOST:8080, or take the model in safetensors"
)
_OTHER_FORMATS = {
    "*.gguf": f"models in GGUF, {_GGUF}",
    "openvino_model.xml": "a model for OpenVINO only; take it in safetensors",
    "tf_model.h5": "a model for TensorFlow only; take it in safetensors",
    "flax_model.msgpack": "a model for Flax only; take it in safetensors",
    "rust_model.ot": "a model for rust-bert only; take it in safetensors",
    "*.nemo": "a model for NeMo only; take it in safetensors",
    "*.mlmodel": "a model for Core ML only; take it in safetensors",
    "*.tflite": "a model for TensorFlow Lite only; take it in safetensors",
    "*.onnx": "an ONNX graph without the rest of its model; put its config.json and tokenizer.json "
    "beside it",
    "onnx/*.onnx": "an ONNX graph without the rest of its model; put its config.json and "
    "tokenizer.json into the folder",
}  # fmt: skip
_HEADS = {
    "Classification": "a classifier, not of texts in pairs",
    "MaskedLM": "a model that fills in words, the raw material of a reranker",
    "Model": "a bare encoder, as of an embedding model, without the head that scores",
    "QuestionAnswering": "a model that marks answers in texts",
    "ConditionalGeneration": "a model that writes texts",
}
"""How the names of architectures end → what such a model is."""


def check_is_model(folder: Path, where: str, *, has_weights: bool) -> None:
    """Check that a folder may hold a reranker.

    Args:
        folder: the folder.
        where: what messages call it.
        has_weights: whether it holds weights by the names that transformers gives them.

    Raises:
        ConfigError: it holds something else, in one line with what to do.
    """
    pointer = _lfs_pointer(folder)
    if pointer is not None:
        raise ConfigError(
            f"{where} holds a pointer of Git LFS in place of {pointer.name!r}; fetch the file "
            "with `git lfs pull` in that folder"
        )
    found = _other_embeddings(folder)
    if found is None and not (has_weights and (folder / "config.json").exists()):
        found = next(filter(None, (recognise(folder) for recognise in _RECOGNISERS)), None)
    if found is not None:
        raise ConfigError(f"{where} {found}")


def check_names(where: str, names: Collection[str]) -> None:
    """Check that the names of a classifier's tensors are not those of a module around it.

    Raises:
        ConfigError: they are; the message names the prefix.
    """
    tops = {name.partition(".")[0] for name in names}
    if len(tops) != 1 or not any(_HEAD.search(name) for name in names):
        return
    prefix = tops.pop()
    raise ConfigError(
        f"{where} has all its weights below the prefix '{prefix}.', as a module around the model "
        f"saves them; save the model inside it, as in wrapper.{prefix}.save_pretrained(FOLDER)"
    )


def describe_file(file: Path) -> str | None:
    """Say what a file is that was given in place of a folder; None if it may be part of a model."""
    if file.suffix.lower() == ".gguf":
        return f"is a model in GGUF, {_GGUF}"
    return None


def describe_architectures(names: list[str]) -> str:
    """Say what a model of these architectures is that can't rerank."""
    name = names[0] if names else ""
    for ending, description in _HEADS.items():
        if name.endswith(ending):
            return f"is {description}"
    return "is neither a sequence classifier nor a language model"


def without_tokenizer(folder: Path) -> str:
    """Say what a folder is that holds a model without a tokenizer."""
    if any((folder / name).exists() for name in ("trainer_state.json", "training_args.bin")):
        return (
            "is a checkpoint of a Trainer without its tokenizer; copy the tokenizer's files of "
            "the base model into it, or give the Trainer `processing_class=tokenizer`"
        )
    return (
        "has no tokenizer; save that of its base model beside it, with "
        "AutoTokenizer.from_pretrained(BASE).save_pretrained(FOLDER)"
    )


def _lfs_pointer(folder: Path) -> Path | None:
    """Return the first file that is a pointer of Git LFS in place of its content."""
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.stat().st_size <= _SMALL:
            with file.open("rb") as opened:
                if opened.read(len(_LFS)) == _LFS:
                    return file
    return None


def _empty(folder: Path) -> str | None:
    if any(folder.iterdir()):
        return None
    return "is an empty folder; was the model saved or downloaded elsewhere?"


def _other_embeddings(folder: Path) -> str | None:
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        types = " ".join(str(module["type"]) for module in modules)
    except (KeyError, OSError, TypeError, ValueError):
        return None
    found = re.search(r"StaticEmbedding|WordEmbeddings|BoW|SpladePooling", types)
    if found is None:
        return None
    return (
        f"is an embedding model of sentence-transformers with the module {found[0]}, which this "
        "package can't run; choose a reranker, or an embedding model with a Transformer and a "
        "Pooling"
    )


def _diffusers(folder: Path) -> str | None:
    if not (folder / "model_index.json").exists():
        return None
    return "is a pipeline of diffusers, which makes images; choose a reranker (cross-encoder)"


def _trainer_output(folder: Path) -> str | None:
    checkpoints = sorted(
        (path for path in folder.glob("checkpoint-*") if _has_model(path)), key=_step
    )
    if not checkpoints:
        return None
    return (
        f"is the output of a Trainer, whose models are in {_listed(checkpoints)}; give one of "
        f"them, as in {str(checkpoints[-1])!r}"
    )


def _cache_folder(folder: Path) -> str | None:
    match = re.fullmatch(r"models--([\w.-]+?)--([\w.-]+)", folder.resolve().name)
    if match is None or not (folder / "snapshots").is_dir():
        return None
    return f"is a folder of the hub's cache; give the id of its model, '{match[1]}/{match[2]}'"


def _subfolder(folder: Path) -> str | None:
    found = sorted(path for path in folder.iterdir() if path.is_dir() and _has_model(path))
    if not found:
        return None
    which = "give that folder" if len(found) == 1 else "give one of them"
    return f"holds no model itself, but {_listed(found)} below it does; {which}"


def _other_format(folder: Path) -> str | None:
    for pattern, description in _OTHER_FORMATS.items():
        if next(folder.glob(pattern), None) is not None:
            return f"holds {description}"
    return None


def _renamed(folder: Path) -> str | None:
    if not (folder / "config.json").exists():
        return None
    found = sorted([*folder.glob("*.safetensors"), *folder.glob("*.pt"), *folder.glob("*.pth")])
    found += sorted(folder.glob("*.ckpt"))
    if not found:
        return None
    if found[0].suffix == ".safetensors":
        return (
            f"has its weights in {found[0].name!r}, and transformers reads model.safetensors: "
            "rename it if it is a whole model"
        )
    return (
        f"has its weights in {found[0].name!r}, as torch.save() writes them; save the model with "
        "transformers' save_pretrained()"
    )


def _no_config(folder: Path) -> str | None:
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.bin"), *folder.glob("*.pt")]
    if (folder / "config.json").exists() or not weights:
        return None
    return (
        f"holds weights ({_listed(sorted(weights))}) without a config.json, which says what they "
        "are; copy the model's whole folder"
    )


def _tokenizer_alone(folder: Path) -> str | None:
    if (folder / "config.json").exists() or not (folder / "tokenizer_config.json").exists():
        return None
    return "holds a tokenizer without a model; save the model into the same folder"


_RECOGNISERS: tuple[Callable[[Path], str | None], ...] = (
    _empty,
    _diffusers,
    _trainer_output,
    _cache_folder,
    _subfolder,
    _other_format,
    _renamed,
    _no_config,
    _tokenizer_alone,
)


def _has_model(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("config.json", "adapter_config.json"))


def _step(checkpoint: Path) -> tuple[int, str]:
    digits = checkpoint.name.rpartition("-")[2]
    return (int(digits) if digits.isdecimal() else -1, checkpoint.name)


def _listed(paths: list[Path]) -> str:
    names = [path.name for path in paths]
    if len(names) > _LISTED:
        names = [names[0], "…", names[-1]]
    return ", ".join(names)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 100 else f"{text[:100]}…"  # noqa: PLR2004 - enough for an id


def _json(path: Path) -> Mapping[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
