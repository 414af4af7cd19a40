"""A lock of models: the sha256 of each of their files, checked before the models load."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rerank_plugins.backend import Backend
from rerank_plugins.backends.model_files import HasModelFiles, ModelFiles
from rerank_plugins.errors import ConfigError

__all__ = ["check_lock", "lock_of"]


def lock_of(backends: Sequence[Backend]) -> dict[str, Any]:
    """Return the lock of all models that the backends run on this machine.

    It is `{"models": [{"model", "revision", "files": {name: sha256}}]}`.

    Raises:
        ConfigError: a backend runs no model here, or its files are not on this machine.
    """
    models: list[dict[str, Any]] = []
    for backend in backends:
        for files in _model_files(backend):
            entry = {"model": files.model, "revision": files.revision, "files": _digests(files)}
            if entry not in models:
                models.append(entry)
    return {"models": models}


def check_lock(lock: str, backend: Backend) -> None:
    """Check that the files of a backend's models are those of a lock, with none added.

    Raises:
        ConfigError: the lock can't be read or does not list a model, or a file of it was
            changed, added or removed.
    """
    locked = _read(lock)
    for files in _model_files(backend):
        listed = [digests for model, digests in locked if model == files.model]
        if not listed:
            names = ", ".join(sorted({repr(model) for model, _ in locked})) or "none"
            raise ConfigError(
                f"the model {files.model!r} is not in the lock {lock!r}, which lists {names}; lock "
                f"all models together: rerank-plugins lock SPEC SPEC … -o {lock}"
            )
        digests = _digests(files)
        if digests not in listed:
            raise ConfigError(_difference(files.model, digests, listed[0], lock))


def _read(lock: str) -> list[tuple[str, dict[str, str]]]:
    """Return the name and the files of each model in a lock."""
    try:
        content = json.loads(Path(lock).read_text(encoding="utf-8"))
        return [(str(entry["model"]), dict(entry["files"])) for entry in content["models"]]
    except OSError as exc:
        raise ConfigError(f"can't read the lock {lock!r}: {exc.strerror or exc}") from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise ConfigError(f"{lock!r} is not a lock; make one with: rerank-plugins lock") from exc


def _difference(
    model: str, digests: Mapping[str, str], locked: Mapping[str, str], lock: str
) -> str:
    """Describe the first difference between a model's files and the locked ones."""
    if added := sorted(digests.keys() - locked.keys()):
        return f"the model {model!r} has the file {added[0]!r}, which is not in {lock!r}"
    if removed := sorted(locked.keys() - digests.keys()):
        return f"the model {model!r} lacks the file {removed[0]!r} of {lock!r}"
    changed = next(name for name in sorted(digests) if digests[name] != locked[name])
    return f"the model {model!r}: its file {changed!r} is not the one in {lock!r}"


def _model_files(backend: Backend) -> list[ModelFiles]:
    """Return the files of each model that a backend runs on this machine.

    Raises:
        ConfigError: it runs no model here, or the files are not here.
    """
    leaves = [part for part in backend.walk() if not part.children]
    models = [leaf for leaf in leaves if isinstance(leaf, HasModelFiles)]
    if not models:
        kinds = ", ".join(repr(leaf.kind) for leaf in leaves)
        raise ConfigError(f"only models on this machine can be locked, not kind {kinds}")
    return [model.model_files() for model in models]


def _digests(model: ModelFiles) -> dict[str, str]:
    return {name: _sha256(path) for name, path in model.paths.items()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
