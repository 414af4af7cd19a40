"""The classes of a model that brings its own code."""

from __future__ import annotations

from typing import Any

from transformers.dynamic_module_utils import get_class_from_dynamic_module

from rerank_plugins.backends.local.checkpoint import Checkpoint

__all__ = ["foreign_class"]


def foreign_class(checkpoint: Checkpoint, kind: str) -> Any:
    """Return the class that `auto_map` names for `kind`, such as `"AutoModel"`, or None.

    It comes from the fetched commit of its repository: transformers would take what the cache or
    the hub has of it today.
    """
    reference = (checkpoint.config.get("auto_map") or {}).get(kind)
    if not isinstance(reference, str):
        return None
    repository, _, name = reference.rpartition("--")
    folder = checkpoint.code[repository] if repository else checkpoint.folder
    return get_class_from_dynamic_module(name, str(folder), local_files_only=True)
