"""A lock of models: the sha256 of each of their files, checked before the models load."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from rerank_plugins.backend import Backend
from rerank_plugins.backends.model_files import HasModelFiles, ModelFiles
from rerank_plugins.errors import ConfigError

__all__ = ["LockedFiles", "check_lock", "lock_of"]


_State: TypeAlias = tuple[tuple[int, ...], ...]
"""What tells one state of a file from another, of the file itself and of the link to it."""


def lock_of(backends: Sequence[Backend]) -> dict[str, Any]:
    """Return the lock of all models that the backends run on this machine.

    It is `{"models": [{"model", "revision", "files": {name: sha256}}]}`.

    Raises:
        ConfigError: a backend runs no model here, or its files are not on this machine.
    """
    models: list[dict[str, Any]] = []
    for backend in backends:
        for files in _model_files(backend):
            digests = _digests(files, LockedFiles())
            entry = {"model": files.model, "revision": files.revision, "files": digests}
            if entry not in models:
                models.append(entry)
    return {"models": models}


class LockedFiles:
    """The files of models whose content was that of a lock when it was read.

    The engines open them by their names, and map some into memory. Each change to a file gives it
    another state, and so does each change to what its name means; `check` looks for that.
    """

    def __init__(self) -> None:
        self._states: dict[Path, _State] = {}

    def add(self, path: Path, state: _State) -> None:
        """Take in a file in the state in which it was read."""
        self._states[path] = state

    def check(self) -> None:
        """Check that each file is still in the state in which it was read.

        Raises:
            ConfigError: one was written to, replaced or removed since.
        """
        for path, state in self._states.items():
            try:
                now = _state(path, path.stat())
            except OSError:
                now = None
            if now != state:
                raise ConfigError(
                    f"the locked file {path.name!r} was changed while its model was in use"
                )


def check_lock(lock: str, backend: Backend) -> LockedFiles:
    """Check that the files of a backend's models are those of a lock, with none added.

    Returns:
        The files, to check them again once the models are loaded, and while they are in use.

    Raises:
        ConfigError: the lock can't be read or does not list a model, or a file of it was
            changed, added or removed, or lies outside the model's folder.
    """
    locked = _read(lock)
    found = LockedFiles()
    for files in _model_files(backend):
        listed = [digests for model, digests in locked if model == files.model]
        if not listed:
            names = ", ".join(sorted({repr(model) for model, _ in locked})) or "none"
            raise ConfigError(
                f"the model {files.model!r} is not in the lock {lock!r}, which lists {names}; lock "
                f"all models together: rerank-plugins lock SPEC SPEC … -o {lock}"
            )
        digests = _digests(files, found)
        if digests not in listed:
            raise ConfigError(_difference(files.model, digests, listed[0], lock))
    return found


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


def _digests(model: ModelFiles, found: LockedFiles) -> dict[str, str]:
    """Return the digest of each file by its name, and take them in as found."""
    digests = {}
    for name, path in model.paths.items():
        try:
            with path.open("rb") as file:
                before = _state(path, os.fstat(file.fileno()))
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as exc:
            raise ConfigError(f"can't read {str(path)!r}: {exc.strerror or exc}") from exc
        found.add(path, before)
    found.check()  # of what was written meanwhile, only a part may be in the digest
    return digests


def _state(path: Path, file: os.stat_result) -> _State:
    return tuple(
        (each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns)
        for each in (file, path.lstat())
    )
