"""Merges an adapter into its base, with peft."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import safetensors
import transformers

from rerank_plugins.backends.local.adapter_config import WEIGHTS, patterns
from rerank_plugins.backends.local.foreign_errors import reason_of
from rerank_plugins.backends.local.native_config import native_config
from rerank_plugins.backends.local.safetensors_header import read_header
from rerank_plugins.backends.local.torch.config_object import config_object
from rerank_plugins.backends.local.torch.quiet import quiet
from rerank_plugins.errors import ConfigError

__all__ = ["merge_adapter"]

_PREFIX = "base_model.model."
_HEAD = ("score.weight", "classifier.weight", "classifier.out_proj.weight")
_LISTED = 4
"""Most names of weights in a message."""
_SHARED = ("vblora_vector_bank", "unilora_theta_d")
"""Weights that each layer refers to, and the file has once."""
_WORDS = ("embed_tokens.weight", "word_embeddings.weight", "tok_embeddings.weight")


_SECONDS = 10
_FORMS = ("{}", r"(.*\.)?({})$", r"(^|.*\.){}($|\..*)", r"(?:^|.*?\.){}\.(?P<idx>\d+)\.")
"""What peft puts around a name in the settings to make an expression of it."""
_COMPARE = """
import json, re, sys
patterns, forms, names = json.load(sys.stdin)
for pattern in patterns:
    for form in forms:
        try:
            compiled = re.compile(form.replace("{}", pattern))
        except (re.error, OverflowError, RecursionError):
            continue
        for name in names:
            compiled.fullmatch(name) or compiled.match(name)
"""
"""Compares as peft does, in a process that can be ended: no thread can end a comparison."""


@quiet(warnings=False)
def merge_adapter(
    model: str, folder: Path, base: Path, config: Mapping[str, Any], target: Path
) -> None:
    """Write the base with the adapter merged into it, without a tokenizer, in the base's dtype.

    Args:
        model: the adapter's name.
        folder: its files.
        base: those of its base.
        config: its settings, as `read_adapter_config()` returns them.
        target: where to write.

    Raises:
        ConfigError: transformers can't load the base, peft can't merge the adapter, weights of the
            head are in neither, or the adapter's are not those that the base takes.
        OSError: the result can't be written.
    """
    tensors = read_header(folder / WEIGHTS).tensors
    shapes = {name.removeprefix(_PREFIX): each.shape for name, each in tensors.items()}
    try:
        whole, random = _load_base(base, config["task_type"], shapes)
    except Exception as exc:
        raise _cannot_merge(model, base, exc) from exc
    if lacking := sorted(random - shapes.keys()):
        raise ConfigError(
            f"neither the adapter {model!r} nor its base brings the weights {lacking}, which would "
            "be random; save the adapter with them (peft's `modules_to_save`)"
        )
    names = [name for name, _ in (*whole.named_modules(), *whole.named_parameters())]
    _check_patterns(model, patterns(config), names)
    try:
        words = _rows(shapes, _WORDS)
        if words is not None and words != whole.get_input_embeddings().num_embeddings:
            whole.resize_token_embeddings(words)
        adapted, missing, unexpected = _adapt(whole, folder)
        merged = adapted.merge_and_unload()
    except Exception as exc:
        raise _cannot_merge(model, base, exc) from exc
    if missing or unexpected:
        raise ConfigError(
            f"the adapter {model!r} does not fit {str(base)!r}, so a part of it would be left out: "
            f"it lacks the weights {missing[:_LISTED]}, and has {unexpected[:_LISTED]} that belong "
            "nowhere; it may be of another base, or of another release of transformers"
        )
    try:
        merged.save_pretrained(target)
    except safetensors.SafetensorError as exc:
        raise OSError(reason_of(exc)) from exc


def _adapt(whole: Any, folder: Path) -> tuple[Any, list[str], list[str]]:
    """Return the base with the adapter, and the names of weights that it lacks or has too many."""
    names = getattr(whole, "_checkpoint_conversion_mapping", {})
    with warnings.catch_warnings():  # of missing weights, which are told below
        warnings.filterwarnings("ignore", "Found missing adapter keys")
        adapted = peft.PeftModel.from_pretrained(whole, str(folder), key_mapping=names)
    # Only a load of its own tells what was left out.
    report = adapted.load_adapter(str(folder), "default", key_mapping=names)
    missing = [name for name in report.missing_keys if not any(each in name for each in _SHARED)]
    return adapted, sorted(missing), sorted(report.unexpected_keys)


def _load_base(
    base: Path, task: str, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Any, set[str]]:
    """Return the base, and the names of its weights that are not in its files."""
    kind: Any = transformers.AutoModelForCausalLM
    written = json.loads((base / "config.json").read_text(encoding="utf-8"))
    values = dict(native_config(written))
    options: dict[str, Any] = {}
    if task == "SEQ_CLS":
        kind = transformers.AutoModelForSequenceClassification
        if labels := _rows(shapes, _HEAD):
            values["num_labels"] = labels
            options = {"num_labels": labels, "ignore_mismatched_sizes": True}
    if values.get("model_type") != written.get("model_type"):
        options = {**options, "config": config_object(values)}
        options.pop("num_labels", None)
    whole, report = kind.from_pretrained(
        base,
        dtype="auto",
        local_files_only=True,
        output_loading_info=True,
        trust_remote_code=False,  # the default asks whoever sits at the terminal
        use_safetensors=True,  # else it unpickles
        **options,
    )
    return whole, {*report["missing_keys"], *(each[0] for each in report["mismatched_keys"])}


def _check_patterns(model: str, expressions: list[str], names: list[str]) -> None:
    """Check that peft's comparisons of an adapter's settings with the base's modules end soon."""
    if not expressions:
        return
    try:
        subprocess.run(  # noqa: S603 - our own interpreter and text
            [sys.executable, "-I", "-c", _COMPARE],
            input=json.dumps([expressions, _FORMS, names]).encode(),
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        listed = [each[:100] for each in expressions[:_LISTED]]
        raise ConfigError(
            f"the settings of the adapter {model!r} hold regular expressions that take more than "
            f"{_SECONDS} s to compare with the base's modules: {listed}; name the modules instead"
        ) from exc


def _cannot_merge(model: str, base: Path, exc: Exception) -> ConfigError:
    if _has_code(base):
        return ConfigError(
            f"the adapter {model!r} can't be merged here: its base {str(base)!r} brings Python "
            f"code of its own, and transformers {transformers.__version__} can't load it without; "
            "merge it with peft's `merge_and_unload()`, save the result and its tokenizer, and "
            "give that folder"
        )
    return ConfigError(
        f"the adapter {model!r} can't be merged into {str(base)!r}: {reason_of(exc)}"
    )


def _has_code(folder: Path) -> bool:
    file = folder / "config.json"
    return file.exists() and "auto_map" in json.loads(file.read_text(encoding="utf-8"))


def _rows(shapes: Mapping[str, tuple[int, ...]], endings: tuple[str, ...]) -> int | None:
    """Return the rows of the first tensor that the adapter brings whole under such a name."""
    return next((shape[0] for name, shape in shapes.items() if name.endswith(endings)), None)
