"""What a model's folder must not hold, because reading or building it would never end."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rerank_plugins.errors import ConfigError

__all__ = ["check_counts", "check_regular", "check_token_ids"]

_READ = frozenset(
    {".bin", ".data", ".jinja", ".json", ".metadata", ".model", ".onnx", ".onnx_data", ".py"}
    | {".safetensors", ".txt"}
)
"""The suffixes of the files of models."""

_MOST = 100_000
_COUNTS = ("decoder_layers", "encoder_layers", "n_layer", "n_layers", "num_hidden_layers",
           "num_labels", "num_layers")  # fmt: skip
"""What libraries make as many objects of, before they compare it with the weights."""

_MOST_TOKENS = 2**24
_LARGE = re.compile(rb":\s*\d{8}")
_VOCABULARIES = ("tokenizer.json", "vocab.json", "added_tokens.json")
"""Files that give tokens their numbers."""


def check_regular(folder: Path) -> None:
    """Check that what may be read are files: a pipe or a device has no end.

    Raises:
        ConfigError: one is not.
    """
    for path in _entries(folder):
        if path.suffix not in _READ:
            continue
        try:
            mode = path.stat().st_mode
        except OSError:  # a broken link, which is as good as no file
            continue
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ConfigError(f"{str(path)!r} is a pipe, a device or a socket, not a file")


def _entries(folder: Path) -> Iterator[Path]:
    """Yield what is in a folder, and in its subfolders, where modules have their files."""
    for path in sorted(folder.iterdir()):
        yield path
        if path.is_dir():
            try:
                yield from sorted(path.iterdir())
            except OSError:  # of somebody else
                continue


def check_counts(where: str, config: Mapping[str, Any]) -> None:
    """Check that `config.json` asks for no more parts than any model has.

    Args:
        where: what messages call the model.
        config: the content of the file.

    Raises:
        ConfigError: it does.
    """
    for name in _COUNTS:
        count = config.get(name)
        if isinstance(count, int) and count > _MOST:
            raise ConfigError(f"config.json of {where} says `{name}` is {count}; it is damaged")


def check_token_ids(folder: Path) -> None:
    """Check that no token has a number far above any vocabulary's size.

    `tokenizers` lists all numbers below the highest that no token has, 4 bytes for each.

    Raises:
        ConfigError: one has; the message names the file.
    """
    for name in _VOCABULARIES:
        path = folder / name
        try:
            text = path.read_bytes()
            content = json.loads(text) if _LARGE.search(text) else {}
        except (OSError, ValueError, RecursionError):  # those who read it tell what is wrong
            continue
        highest = max((each for each in _token_ids(content) if isinstance(each, int)), default=0)
        if highest > _MOST_TOKENS:
            raise ConfigError(
                f"{str(path)!r} gives a token the number {highest}, and no vocabulary has so many; "
                "it is damaged"
            )


def _token_ids(content: object) -> Iterable[object]:
    """Return the numbers in `tokenizer.json`, or in a vocabulary alone."""
    if not isinstance(content, dict):
        return []
    if "model" not in content:
        return list(content.values())
    vocabulary = content["model"].get("vocab") if isinstance(content["model"], dict) else None
    added = content.get("added_tokens")
    return [
        *(vocabulary.values() if isinstance(vocabulary, dict) else ()),
        *(each.get("id") for each in added or () if isinstance(each, dict)),
    ]
