"""The files of models as they were when someone looked: their sha256, checked before loading."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank_plugins.backend import Backend
from rerank_plugins.backends.embedded import backend as embedded
from rerank_plugins.backends.local.checkpoint import resolve
from rerank_plugins.errors import ConfigError

__all__ = ["check_lock", "lock_of"]

_RESOLVED_BY = ("revision", "cache_folder", "max_length", "allow_pickle", "trust_remote_code")


@dataclass(frozen=True)
class _LockedModel:
    """A model on this machine, and its files by their name."""

    name: str
    revision: str
    files: Mapping[str, Path]


def lock_of(backends: Sequence[Backend]) -> dict[str, Any]:
    """Return the lock of all models that the backends run on this machine.

    It is `{"models": [{"model", "revision", "files": {name: sha256}}]}`.

    Raises:
        ConfigError: a backend runs no model here, or its files are not on this machine.
    """
    models: list[dict[str, Any]] = []
    for backend in backends:
        for model in _models(backend):
            files = {name: _sha256(path) for name, path in model.files.items()}
            found = {"model": model.name, "revision": model.revision, "files": files}
            if found not in models:
                models.append(found)
    return {"models": models}


def check_lock(lock: str, backend: Backend) -> None:
    """Check that the files of a backend's models are those of a lock, with none added.

    Raises:
        ConfigError: the lock can't be read or does not list a model, or a file of it was
            changed, added or removed.
    """
    locked = _read(lock)
    for model in _models(backend):
        listed = [files for name, files in locked if name == model.name]
        if not listed:
            names = ", ".join(sorted({repr(name) for name, _ in locked})) or "none"
            raise ConfigError(
                f"the model {model.name!r} is not in the lock {lock!r}, which lists {names}; lock "
                f"all models together: rerank-plugins lock SPEC SPEC … -o {lock}"
            )
        found = {name: _sha256(path) for name, path in model.files.items()}
        if found not in listed:
            raise ConfigError(_difference(model.name, found, listed[0], lock))


def _read(lock: str) -> list[tuple[str, dict[str, str]]]:
    """Return the name and the files of each model in a lock."""
    try:
        said = json.loads(Path(lock).read_text(encoding="utf-8"))
        return [(str(model["model"]), dict(model["files"])) for model in said["models"]]
    except OSError as exc:
        raise ConfigError(f"can't read the lock {lock!r}: {exc.strerror or exc}") from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise ConfigError(f"{lock!r} is no lock; make one with: rerank-plugins lock") from exc


def _difference(model: str, found: Mapping[str, str], locked: Mapping[str, str], lock: str) -> str:
    """Say what the first difference is between a model's files and those that were locked."""
    if added := sorted(found.keys() - locked.keys()):
        return f"the model {model!r} has the file {added[0]!r}, which is not in {lock!r}"
    if removed := sorted(locked.keys() - found.keys()):
        return f"the model {model!r} lacks the file {removed[0]!r} of {lock!r}"
    changed = next(name for name in sorted(found) if found[name] != locked[name])
    return f"the model {model!r}: its file {changed!r} is not the one in {lock!r}"


def _models(backend: Backend) -> Iterator[_LockedModel]:
    """Yield the models that a backend runs on this machine.

    Raises:
        ConfigError: there is none, or it is not on this machine.
    """
    leaves = [part for part in backend.walk() if not part.children]
    models = [leaf for leaf in leaves if leaf.kind in _FILES_OF]
    if not models:
        kinds = ", ".join(repr(leaf.kind) for leaf in leaves)
        raise ConfigError(f"only models on this machine can be locked, not kind {kinds}")
    for model in models:
        yield _FILES_OF[model.kind](model.to_spec())


def _local(table: Mapping[str, Any]) -> _LockedModel:
    options: Any = {name: table[name] for name in _RESOLVED_BY if name in table}
    checkpoint = resolve(str(table["model"]), **options, local_files_only=True)
    return _LockedModel(checkpoint.model, checkpoint.revision, _files(checkpoint.folder))


def _embedded(_: Mapping[str, Any]) -> _LockedModel:
    folder = Path(embedded.__file__).parent
    files = {name: folder / name for name in ("model.onnx", "tokenizer.json")}
    return _LockedModel("embedded", embedded.MODEL_SHA256[:12], files)


_FILES_OF = {"embedded": _embedded, "local": _local}


def _files(folder: Path) -> dict[str, Path]:
    """Return the files of a model by their name within its folder, hidden ones left out."""
    paths = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name.as_posix(): path
        for name, path in paths.items()
        if not any(part.startswith(".") for part in name.parts)
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
