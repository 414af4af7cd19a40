"""Merges an adapter into its base, with peft."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import peft
import transformers

from rerank_plugins.backends.local.adapters import WEIGHTS
from rerank_plugins.backends.local.foreign_errors import reason_of
from rerank_plugins.backends.local.safetensors_header import read_header
from rerank_plugins.errors import ConfigError

__all__ = ["merge_adapter"]

_PREFIX = "base_model.model."
_HEAD = ("score.weight", "classifier.weight", "classifier.out_proj.weight")
_WORDS = ("embed_tokens.weight", "word_embeddings.weight", "tok_embeddings.weight")


def merge_adapter(
    model: str,
    folder: Path,
    base: Path,
    task: Literal["SEQ_CLS", "CAUSAL_LM"],
    target: Path,
) -> None:
    """Write the base with the adapter merged into it, without a tokenizer, in the base's dtype.

    Raises:
        ConfigError: transformers can't load the base, peft can't merge the adapter, or weights of
            the head are in neither.
    """
    tensors = read_header(folder / WEIGHTS).tensors
    shapes = {name.removeprefix(_PREFIX): each.shape for name, each in tensors.items()}
    try:
        whole, random = _load_base(base, task, shapes)
    except Exception as exc:
        raise _cannot_merge(model, base, exc) from exc
    if lacking := sorted(random - shapes.keys()):
        raise ConfigError(
            f"neither the adapter {model!r} nor its base brings the weights {lacking}, which would "
            "be random; save the adapter with them (peft's `modules_to_save`)"
        )
    try:
        words = _rows(shapes, _WORDS)
        if words is not None and words != whole.get_input_embeddings().num_embeddings:
            whole.resize_token_embeddings(words)
        merged = peft.PeftModel.from_pretrained(whole, str(folder)).merge_and_unload()
    except Exception as exc:
        raise _cannot_merge(model, base, exc) from exc
    merged.save_pretrained(target)


def _load_base(
    base: Path, task: str, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Any, set[str]]:
    """Return the base, and the names of its weights that are not in its files."""
    kind: Any = transformers.AutoModelForCausalLM
    options: dict[str, Any] = {}
    if task == "SEQ_CLS":
        kind = transformers.AutoModelForSequenceClassification
        if labels := _rows(shapes, _HEAD):
            options = {"num_labels": labels, "ignore_mismatched_sizes": True}
    whole, report = kind.from_pretrained(
        base, dtype="auto", local_files_only=True, output_loading_info=True, **options
    )
    return whole, {*report["missing_keys"], *(each[0] for each in report["mismatched_keys"])}


def _cannot_merge(model: str, base: Path, exc: Exception) -> ConfigError:
    return ConfigError(
        f"the adapter {model!r} can't be merged into {str(base)!r}: {reason_of(exc)}"
    )


def _rows(shapes: Mapping[str, tuple[int, ...]], endings: tuple[str, ...]) -> int | None:
    """Return the rows of the first tensor that the adapter brings whole under such a name."""
    return next((shape[0] for name, shape in shapes.items() if name.endswith(endings)), None)
