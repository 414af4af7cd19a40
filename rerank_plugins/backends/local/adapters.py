"""Adapters of another model (LoRA and its relatives): found, and merged with it once."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rerank_plugins._internal.optional import require
from rerank_plugins.backends.local.adapter_config import CONFIG, WEIGHTS, read_adapter_config
from rerank_plugins.backends.local.digest import digest
from rerank_plugins.backends.local.foreign_code import check_kernels
from rerank_plugins.backends.local.foreign_errors import reason_of
from rerank_plugins.backends.local.plausible import check_counts, check_regular
from rerank_plugins.backends.local.quantisation import read_quantisation
from rerank_plugins.backends.local.shards import INDICES, shards
from rerank_plugins.errors import ConfigError

__all__ = ["holds_adapter", "merge"]

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

    It is written once, into the cache of models, and takes the space of the base. Of several
    processes one merges, and the others wait for it.

    Args:
        model: the adapter's name.
        folder: its files.
        fetch_base: gets a model's folder by its id and revision.
        cache_folder: where models are kept; None: the hub client's own folder.

    Raises:
        ConfigError: this package can't merge such an adapter, its files are broken, or the result
            can't be written.
        MissingDependencyError: torch or peft is not installed.
    """
    check_regular(folder)
    config = read_adapter_config(model, folder)
    name = config["base_model_name_or_path"]
    base = Path(name).expanduser()
    if not base.is_dir() and not _HUB_ID.fullmatch(name):
        raise ConfigError(
            f"{model!r} holds an adapter of {name!r}, and there is no such folder here; set "
            f"base_model_name_or_path in its {CONFIG} to the folder of that model, or to its id on "
            "the hub"
        )
    if not base.is_dir():
        base = fetch_base(name, config.get("revision"))
    check_regular(base)
    if (base / CONFIG).exists():
        raise ConfigError(
            f"{model!r} holds an adapter of {name!r}, which holds an adapter itself; merge that "
            "one with peft's `merge_and_unload()` first, and name the result as the base"
        )
    if not any(base.glob("model*.safetensors")):
        raise ConfigError(
            f"{model!r} holds an adapter of {name!r}, which has no safetensors weights; convert it"
        )
    _check_base(model, base)
    hub = require("huggingface_hub.constants", extra="onnx")
    place = Path(cache_folder or hub.HF_HUB_CACHE) / _FOLDER / _key(folder, base)
    if place.is_dir():
        return place
    require("peft", extra="lora")
    merging = require("rerank_plugins.backends.local.torch.merge_adapter", extra="local")
    try:
        with _alone(place):
            if not place.is_dir():
                with _made(place) as whole:
                    merging.merge_adapter(model, folder, base, config, whole)
                    _copy_texts((base, folder), whole)
    except OSError as exc:
        raise ConfigError(
            f"can't write {model!r}, merged into its base, to {str(place)!r}: {reason_of(exc)}; "
            "free space there, or set `cache_folder`"
        ) from exc
    return place


def _check_base(model: str, base: Path) -> None:
    """Check what transformers would read of a base, as of a model that is loaded itself."""
    for name in INDICES:
        if (base / name).exists():
            shards(base / name)
    try:
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # transformers says what is wrong with it
        return
    if not isinstance(config, dict):
        return
    check_counts(repr(str(base)), config)
    check_kernels(repr(str(base)), config)
    weights = sorted(base.glob("model*.safetensors"))
    quantisation = read_quantisation(repr(str(base)), config, weights)
    if quantisation is not None:
        raise ConfigError(
            f"{model!r} holds an adapter of a base whose weights are quantised ({quantisation}), "
            "and merging would round them once more; set base_model_name_or_path in its "
            f"{CONFIG} to the base in float16 or bfloat16"
        )


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Hold the lock of a place, which ends with the process that holds it."""
    locks = require("huggingface_hub.utils", extra="onnx")
    folder = place.parent.parent / ".locks" / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with locks.WeakFileLock(folder / f"{place.name}.lock"):
        yield


@contextmanager
def _made(place: Path) -> Iterator[Path]:
    """Yield the folder that becomes the place at the end, and is gone if that fails."""
    part = place.with_name(f"{place.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
    try:
        part.mkdir(parents=True)
        yield part
        part.rename(place)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _key(folder: Path, base: Path) -> str:
    """Return a name that differs for other files of the adapter, and of the base.

    The base's are too large to be read whole. Times of files alone would not do: images of
    containers may give all files the same one.
    """
    state = hashlib.sha256()
    for file in (folder / CONFIG, folder / WEIGHTS, *sorted(_texts(folder))):
        with file.open("rb") as opened:
            state.update(file.relative_to(folder).as_posix().encode() + b"\0")
            state.update(hashlib.file_digest(opened, "sha256").digest())
    files = sorted({*base.glob("*.safetensors"), *_texts(base)})
    for file in files:
        about = file.stat()
        name = file.relative_to(base).as_posix()
        state.update(f"{name} {about.st_size} {about.st_mtime_ns}\n".encode())
    state.update(digest(base, files, ()).encode())
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
