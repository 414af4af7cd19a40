"""The files of a model that runs on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

__all__ = ["HasModelFiles", "ModelFiles"]


@dataclass(frozen=True)
class ModelFiles:
    """Which files a backend loads its model from."""

    model: str
    """The name of the model, wherever its files are."""
    revision: str
    """The commit, or a digest of the files."""
    paths: Mapping[str, Path]
    """Every file by its name within the folder of the model."""


@runtime_checkable
class HasModelFiles(Protocol):
    """A backend whose model is in files on this machine."""

    def model_files(self) -> ModelFiles:
        """Return the files without loading or downloading them.

        Raises:
            ConfigError: they are not on this machine, or broken.
        """
