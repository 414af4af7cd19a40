"""The files of a model as they were when someone looked: their sha256, checked before loading."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rerank_plugins.backend import Backend
from rerank_plugins.backends.engines.checkpoint import Checkpoint, resolve
from rerank_plugins.errors import ConfigError

__all__ = ["check_lock", "lock_of", "prepare"]

_RESOLVED_BY = ("revision", "cache_folder", "max_length", "allow_pickle", "trust_remote_code")


def lock_of(backend: Backend) -> dict[str, Any]:
    """Return the lock of a local backend: `{"model", "revision", "files": {name: sha256}}`.

    Raises:
        ConfigError: it has no files, or they are not on this machine.
    """
    checkpoint = _checkpoint(backend)
    files = {name: _sha256(path) for name, path in _files(checkpoint.folder).items()}
    return {"model": checkpoint.model, "revision": checkpoint.revision, "files": files}


def check_lock(lock: str, backend: Backend) -> None:
    """Check that a local backend's files are those of a lock, with none added.

    Raises:
        ConfigError: a file was changed, added or removed, or the lock can't be read.
    """
    try:
        said = json.loads(Path(lock).read_text(encoding="utf-8"))
        locked: Mapping[str, str] = dict(said["files"])
    except OSError as exc:
        raise ConfigError(f"can't read the lock {lock!r}: {exc.strerror or exc}") from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise ConfigError(f"{lock!r} is no lock; make one with: rerank-plugins lock") from exc
    found = _files(_checkpoint(backend).folder)
    if added := sorted(found.keys() - locked.keys()):
        raise ConfigError(f"the model has the file {added[0]!r}, which is not in {lock!r}")
    for name, digest in locked.items():
        if name not in found:
            raise ConfigError(f"the model lacks the file {name!r} of {lock!r}")
        if _sha256(found[name]) != digest:
            raise ConfigError(f"the model's file {name!r} is not the one in {lock!r}")


def prepare(backend: Backend, *, lock: str | None, gpu_memory_fraction: float | None) -> None:
    """Do what must be done in a process before it loads the model of a backend.

    Args:
        backend: the backend; nothing is done for one that is not `local:`.
        lock: a file of `lock_of()`; None checks nothing.
        gpu_memory_fraction: the share of each CUDA device that this process may take.

    Raises:
        ConfigError: a file of the model is not as it was locked.
    """
    if lock is not None:
        check_lock(lock, backend)
    if gpu_memory_fraction is not None and backend.to_spec()["kind"] == "local":
        import torch  # noqa: PLC0415  # only where a local model is about to need it

        for device in range(torch.cuda.device_count()):
            torch.cuda.set_per_process_memory_fraction(gpu_memory_fraction, device)


def _checkpoint(backend: Backend) -> Checkpoint:
    spec = backend.to_spec()
    if spec.get("kind") != "local":
        raise ConfigError(f"only local models can be locked, not kind {spec.get('kind')!r}")
    options: Any = {name: spec[name] for name in _RESOLVED_BY if name in spec}
    return resolve(str(spec["model"]), **options, local_files_only=True)


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
