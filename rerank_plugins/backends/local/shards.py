"""The files over which the weights of one model are spread, by their index."""

from __future__ import annotations

from pathlib import Path

from rerank_plugins.backends.local.safetensors_header import broken_file, parse_json_object
from rerank_plugins.errors import ConfigError

__all__ = ["INDICES", "check_beside", "shards"]

INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
"""The names of an index."""


def shards(index: Path) -> list[Path]:
    """Return the files that an index names, sorted.

    Raises:
        ConfigError: the index can't be read or is malformed, or names a file that does not lie
            beside it.
    """
    try:
        text = index.read_bytes()
    except OSError as exc:
        raise ConfigError(f"can't read {str(index)!r}: {exc.strerror or exc}") from exc
    files = parse_json_object(text, index).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise broken_file(index, "it has no `weight_map`")
    for name in files.values():
        check_beside(index, name)
    return [index.parent / name for name in sorted(set(files.values()))]


def check_beside(path: Path, name: object) -> None:
    """Check that a file names another one beside it: no place elsewhere, and nothing hidden.

    Raises:
        ConfigError: it names anything else.
    """
    is_name = isinstance(name, str) and bool(name) and Path(name).name == name
    if not is_name or str(name).startswith(".") or "\\" in str(name):
        raise broken_file(path, f"it names {name!r}, which is no file beside it")
