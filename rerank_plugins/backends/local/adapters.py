"""Adapters of another model (LoRA and its relatives): found, and merged with it once."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rerank_plugins._internal.optional import require
from rerank_plugins.backends.local.plausible import check_regular
from rerank_plugins.errors import ConfigError

__all__ = ["holds_adapter", "merge"]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_TASKS = ("SEQ_CLS", "CAUSAL_LM")
"""peft's names of what a reranker does."""
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
_FOLDER = "merged-adapters"
_TEXTS = (".jinja", ".json", ".model", ".txt")
_OF_MODULES = (*_TEXTS, ".safetensors")


def holds_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, and no model of its own."""
    return (folder / CONFIG).exists() and not any(folder.glob("model*.safetensors"))


def merge(
    model: str,
    folder: Path,
    *,
    fetch_base: Callable[[str, str | None], Path],
    cache_folder: str | None,
) -> Path:
    """Return the folder of an adapter's base with the adapter merged into it.

    It is written once, into the cache of models, and takes the space of the base.

    Args:
        model: the adapter's name.
        folder: its files.
        fetch_base: gets a model's folder by its id and revision.
        cache_folder: where models are kept; None: the hub client's own folder.

    Raises:
        ConfigError: this package can't merge such an adapter, or its files are broken.
        MissingDependencyError: torch or peft is not installed.
    """
    config = _read(model, folder)
    name = str(config["base_model_name_or_path"])
    base = Path(name).expanduser()
    if not base.is_dir() and not _HUB_ID.fullmatch(name):
        raise ConfigError(
            f"{model!r} holds an adapter of {name!r}, and there is no such folder here; set "
            f"base_model_name_or_path in its {CONFIG} to the folder of that model, or to its id on "
            "the hub"
        )
    if not base.is_dir():
        base = fetch_base(name, config.get("revision"))
    for each in (folder, base):
        check_regular(each)
    if (base / CONFIG).exists():
        raise ConfigError(
            f"{model!r} holds an adapter of {name!r}, which holds an adapter itself; merge that "
            "one with peft's `merge_and_unload()` first, and name the result as the base"
        )
    if not any(base.glob("model*.safetensors")):
        raise ConfigError(
            f"{model!r} holds an adapter of {name!r}, which has no safetensors weights; convert it"
        )
    hub = require("huggingface_hub.constants", extra="onnx")
    place = Path(cache_folder or hub.HF_HUB_CACHE) / _FOLDER / _key(folder, base)
    if place.is_dir():
        return place
    require("peft", extra="lora")
    merging = require("rerank_plugins.backends.local.torch.merge_adapter", extra="local")
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as made:
        whole = Path(made) / "model"
        merging.merge_adapter(model, folder, base, config["task_type"], whole)
        _copy_texts((base, folder), whole)
        try:
            whole.rename(place)  # another process may have been faster
        except OSError:
            if not place.is_dir():
                raise
    return place


def _read(model: str, folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ConfigError(f"can't read {str(folder / CONFIG)!r}: {exc}") from exc
    if not isinstance(config, dict) or not config.get("base_model_name_or_path"):
        raise ConfigError(
            f"{model!r} holds an adapter, and its {CONFIG} names no base_model_name_or_path"
        )
    if config.get("task_type") not in _TASKS:
        raise ConfigError(
            f"{model!r} holds an adapter for the task {config.get('task_type')!r}, and this "
            f"package merges those for {' and '.join(_TASKS)}; merge it with peft's "
            "`merge_and_unload()`, save the result and its tokenizer, and give that folder"
        )
    if not (folder / WEIGHTS).exists():
        raise ConfigError(
            f"{model!r} holds an adapter without {WEIGHTS}; save it again in safetensors"
        )
    return config


def _key(folder: Path, base: Path) -> str:
    """Return a name that differs for other files of the adapter, and of the base."""
    state = hashlib.sha256()
    for file in (folder / CONFIG, folder / WEIGHTS, *sorted(_texts(folder))):
        with file.open("rb") as opened:
            state.update(file.relative_to(folder).as_posix().encode() + b"\0")
            state.update(hashlib.file_digest(opened, "sha256").digest())
    for file in sorted({*base.glob("*.safetensors"), *_texts(base)}):
        about = file.stat()
        name = file.relative_to(base).as_posix()
        state.update(f"{name} {about.st_size} {about.st_mtime_ns}\n".encode())
    return state.hexdigest()[:32]


def _copy_texts(sources: tuple[Path, ...], target: Path) -> None:
    """Copy tokenizer, templates and modules; the last source that has a file gives it."""
    kept = {path.name for path in target.iterdir()}
    for source in sources:
        for file in _texts(source):
            place = file.relative_to(source)
            if place.as_posix() not in kept:
                (target / place).parent.mkdir(exist_ok=True)
                shutil.copyfile(file, target / place)


def _texts(folder: Path) -> Iterator[Path]:
    """Yield the files that are neither an adapter nor the weights of a body."""
    for file in folder.iterdir():
        if file.suffix in _TEXTS and file.name != CONFIG and not file.name.endswith(".index.json"):
            yield file
        if (file / "config.json").exists():  # one of the modules
            yield from (path for path in file.iterdir() if path.suffix in _OF_MODULES)
