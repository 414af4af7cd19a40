"""`adapter_config.json`: which base an adapter is for, and what it may ask of the merging."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rerank_plugins.backends.local.safetensors_header import read_header
from rerank_plugins.errors import ConfigError

__all__ = ["CONFIG", "WEIGHTS", "patterns", "read_adapter_config"]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_TASKS = ("SEQ_CLS", "CAUSAL_LM")
"""peft's names of what a reranker does."""
_REVISION = re.compile(r"[\w.-]+(/[\w.-]+)*")
_USUAL_RANK = 4_096
_QUANTIFIERS = re.compile(r"[*+?{]")


def read_adapter_config(model: str, folder: Path) -> dict[str, Any]:
    """Return the settings of an adapter.

    Raises:
        ConfigError: this package can't merge such an adapter, or its files are broken; the message
            names the setting.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
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
    _check_base(model, config)
    _check_size(model, folder, config)
    return config


def patterns(config: Mapping[str, Any]) -> list[str]:
    """Return the regular expressions that may stand in an adapter's settings.

    peft takes most names in there for expressions, and compares them with the names of the base's
    modules, which may never end.
    """
    others = (value for name, value in config.items() if name != "base_model_name_or_path")
    found = (text for value in others for text in _texts(value))
    return sorted({text for text in found if _QUANTIFIERS.search(text)})


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield name
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def _check_base(model: str, config: Mapping[str, Any]) -> None:
    name, revision = config["base_model_name_or_path"], config.get("revision")
    if not isinstance(name, str):
        raise ConfigError(f"{CONFIG} of {model!r} has base_model_name_or_path={name!r:.100}")
    is_revision = isinstance(revision, str) and _REVISION.fullmatch(revision)
    if revision is not None and (not is_revision or ".." in revision.split("/")):
        raise ConfigError(
            f"{CONFIG} of {model!r} has revision={revision!r:.100}, which is no revision of its "
            "base"
        )


def _check_size(model: str, folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse settings for which peft would make far more weights than the adapter's file holds."""
    for name in ("layer_replication", "num_virtual_tokens"):
        if config.get(name):
            raise ConfigError(
                f"{CONFIG} of {model!r} sets `{name}`, which this package doesn't merge; merge it "
                "with peft, save the result and its tokenizer, and give that folder"
            )
    shapes = [entry.shape for entry in read_header(folder / WEIGHTS).tensors.values()]
    most = max(_USUAL_RANK, *(axis for shape in shapes for axis in shape), 0)
    ranks = config.get("rank_pattern")
    for rank in (config.get("r"), *(ranks.values() if isinstance(ranks, Mapping) else ())):
        if isinstance(rank, int | float) and rank > most:
            raise ConfigError(
                f"{CONFIG} of {model!r} says that the rank is {rank}, and no axis of {WEIGHTS} is "
                f"above {most}; download it again"
            )
