"""What a model is and whether it loads, before any of its weights is fetched."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rerank_plugins._internal.optional import require
from rerank_plugins.backend import ModelCheck
from rerank_plugins.backends.local.adapter_config import read_adapter_config
from rerank_plugins.backends.local.adapters import holds_adapter
from rerank_plugins.backends.local.checkpoint import (
    Checkpoint,
    check_hub_id,
    holds_stanford,
)
from rerank_plugins.backends.local.foreign_code import code_repositories
from rerank_plugins.backends.local.hub import list_files
from rerank_plugins.backends.local.model_card import read_card
from rerank_plugins.backends.local.remote_outline import outlined
from rerank_plugins.backends.local.safetensors_header import read_header
from rerank_plugins.errors import RerankError

__all__ = ["check_folder", "check_on_hub"]

Read = Callable[[Path, str | None], Checkpoint]
"""Reads a folder as the checkpoint of a commit."""
Engines = Callable[[Checkpoint], Mapping[str, str | None]]
"""Why each engine can't run a checkpoint; None if it can."""

_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I8": "int8",
           "U8": "uint8", "I32": "int32", "I64": "int64", "F8_E4M3": "float8"}  # fmt: skip
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def check_folder(folder: Path, read: Callable[[], Checkpoint], engines: Engines) -> ModelCheck:
    """Check a model that is on this machine.

    Args:
        folder: where it is.
        read: reads it.
        engines: tells which engines can run it.
    """
    facts: dict[str, object] = {"download": "nothing: the model is on this machine"}
    facts |= read_card(folder)
    try:
        checkpoint = read()
        facts |= _facts(checkpoint, engines, None)
    except RerankError as exc:
        return ModelCheck(ok=False, detail=str(exc), facts=facts)
    return _verdict(checkpoint, facts, trusts_code=True)


def check_on_hub(
    model: str,
    *,
    hub: str,
    revision: str | None,
    patterns: Callable[[Path], Iterable[str]],
    trusts_code: bool,
    read: Read,
    engines: Engines,
) -> ModelCheck:
    """Check a model on a hub by its small files; none of them stays here.

    Args:
        model: the id of the model.
        hub: `"huggingface"` or `"modelscope"`.
        revision: branch, tag or commit.
        patterns: gives the patterns of the files that are downloaded when it loads.
        trusts_code: whether the user lets code of the model run.
        read: reads the outline of the model.
        engines: tells which engines can run it.
    """
    facts: dict[str, object] = {}
    try:
        check_hub_id(model)
        with outlined(model, hub=hub, revision=revision) as (folder, listed, has_headers):
            facts["revision"] = listed.commit or revision
            facts["download"] = _size(_wanted(listed.sizes, patterns(folder)))
            facts |= read_card(folder)
            if holds_adapter(folder):
                base = read_adapter_config(model, folder)["base_model_name_or_path"]
                facts |= {"method": "adapter", "base": base}
                return ModelCheck(
                    ok=True, detail=f"an adapter of {base!r}, merged with it at load", facts=facts
                )
            if not has_headers and holds_stanford(folder):
                facts["method"] = "late interaction"
                detail = (
                    f"late interaction, in Stanford's format; download: {facts['download']}; more "
                    "shows once the weights are here, since ModelScope sends no part of them"
                )
                return ModelCheck(ok=True, detail=detail, facts=facts)
            checkpoint = read(folder, listed.commit)
            facts |= _facts(checkpoint, engines, listed.commit)
            if not has_headers:
                facts.pop("parameters", None)
            return _verdict(checkpoint, facts, trusts_code=trusts_code)
    except RerankError as exc:
        return ModelCheck(ok=False, detail=str(exc), facts=facts)


def _facts(checkpoint: Checkpoint, engines: Engines, commit: str | None) -> dict[str, object]:
    reasons = engines(checkpoint)
    facts: dict[str, object] = dict(checkpoint.describe())
    facts["architecture"] = ", ".join(checkpoint.architectures) or checkpoint.model_type
    facts["engines"] = [name for name, reason in reasons.items() if reason is None]
    facts |= {f"not {name}": reason for name, reason in reasons.items() if reason is not None}
    count, dtype = _tensors(checkpoint)
    if count:
        facts |= {"parameters": count, "dtype": dtype}
    facts["scale"] = "probability" if checkpoint.bi_encoder is None else "similarity"
    facts["max_length"] = checkpoint.max_length
    facts["longest"] = checkpoint.longest
    if code := _code(checkpoint, commit):
        facts["code"] = code
    return facts


def _verdict(
    checkpoint: Checkpoint, facts: Mapping[str, object], *, trusts_code: bool
) -> ModelCheck:
    """Say in a line what the model is, or why it does not load and what to do."""
    brings_code = "code" in facts
    if brings_code and not trusts_code and not _is_known(checkpoint.model_type):
        return ModelCheck(
            ok=False,
            detail=f"{checkpoint.model!r} runs only with its own code; read it, then set "
            f"trust_remote_code=true&{facts['code']}",
            facts=facts,
        )
    if not facts["engines"]:
        reasons = "; ".join(str(facts[name]) for name in facts if name.startswith("not "))
        return ModelCheck(ok=False, detail=reasons, facts=facts)
    needs_torch = facts["engines"] == ["torch"] and not brings_code
    if needs_torch and _is_known(checkpoint.model_type) is False:
        return ModelCheck(
            ok=False,
            detail=f"this version of transformers does not know the model_type "
            f"{checkpoint.model_type!r} of {checkpoint.model!r}; update transformers",
            facts=facts,
        )
    size = facts["download"]
    return ModelCheck(ok=True, detail=f"{checkpoint.method}; download: {size}", facts=facts)


def _tensors(checkpoint: Checkpoint) -> tuple[int, str | None]:
    """Return how many numbers the weights hold, and the dtype of most of them."""
    counts: Counter[str] = Counter()
    chain = () if checkpoint.chain is None else checkpoint.chain.weights
    for path in (*checkpoint.weights, *chain):
        if path.suffix != ".safetensors":
            return 0, None
        for tensor in read_header(path).tensors.values():
            size = 1
            for axis in tensor.shape:
                size *= axis
            counts[tensor.dtype] += size
    if not counts:
        return 0, None
    usual = counts.most_common(1)[0][0]
    return counts.total(), _DTYPES.get(usual, usual)


def _code(checkpoint: Checkpoint, commit: str | None) -> str:
    """Return the options that pin the code that a model brings, or nothing if it brings none."""
    references = checkpoint.config.get("auto_map")
    if not isinstance(references, Mapping) or not references:
        return ""
    options = [f"revision={commit}"] if commit else []
    pins = []
    for name in code_repositories(checkpoint.config):
        try:
            pins.append(f"{name}@{list_files(name, revision=None).commit}")
        except RerankError:
            pins.append(f"{name}@COMMIT")
    if pins:
        options.append(f"code_revisions={','.join(pins)}")
    return "&".join(options) or "trust_remote_code=true"


def _is_known(model_type: str) -> bool | None:
    """Whether transformers knows an architecture; None where it is not installed."""
    if importlib.util.find_spec("transformers") is None:
        return None
    module: Any = require("transformers.models.auto.configuration_auto", extra="local")
    return model_type in module.CONFIG_MAPPING_NAMES


def _wanted(sizes: Mapping[str, int], patterns: Iterable[str]) -> int:
    chosen = list(patterns)
    return sum(
        size
        for name, size in sizes.items()
        if any(fnmatch(name, each) and name.count("/") == each.count("/") for each in chosen)
    )


def _size(count: int) -> str:
    for unit, name in _UNITS:
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count} bytes"
