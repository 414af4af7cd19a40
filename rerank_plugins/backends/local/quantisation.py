"""Checkpoints whose weights are saved in few bits: what their files say, and what reads them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerank_plugins.backends.local.safetensors_header import read_header
from rerank_plugins.errors import ConfigError, MissingDependencyError

__all__ = ["Quantisation", "check_packages", "read_quantisation"]

_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "auto-round": ("auto_round",),
    "awq": ("gptqmodel", "accelerate"),
    "bitnet": ("accelerate",),
    "bitsandbytes": ("bitsandbytes", "accelerate"),
    "compressed-tensors": ("compressed_tensors",),
    "fp8": ("accelerate",),
    "gptq": ("gptqmodel", "optimum"),
    "hqq": ("hqq",),
    "quanto": ("optimum", "accelerate"),
    "torchao": ("torchao",),
}
"""Method → what transformers reads it with; of other methods transformers itself says it."""

_FEW_BITS = frozenset({"F8_E4M3", "F8_E5M2", "I8", "U8", "I16", "I32"})
"""Dtypes of weights that are no numbers to multiply with, but need a scale."""


@dataclass(frozen=True, slots=True)
class Quantisation:
    """How the weights of a checkpoint are saved."""

    method: str
    """As transformers calls it, such as `"gptq"`."""
    bits: int | None
    """Of a weight; None: the files don't say."""

    def __str__(self) -> str:
        return self.method if self.bits is None else f"{self.method}, {self.bits} bits"


def read_quantisation(
    where: str, config: Mapping[str, Any], weights: Sequence[Path]
) -> Quantisation | None:
    """Return how a checkpoint's weights are saved; None: as they are.

    Raises:
        ConfigError: the files don't say how to read the weights, so they would be read wrongly.
    """
    found = _settings(where, config)
    if found is None:
        _check_plain(where, weights)
        return None
    if found.get("load_in_4bit") or found.get("load_in_8bit"):
        return Quantisation("bitsandbytes", 4 if found.get("load_in_4bit") else 8)
    method = found.get("quant_method")
    if not isinstance(method, str) or not method:
        raise ConfigError(
            f"config.json of {where} says that its weights are quantised, and names no "
            "`quant_method`, so they can't be read; take the model in float32, float16 or bfloat16"
        )
    bits = found.get("bits")
    if method == "compressed-tensors":
        bits = _bits_of_groups(found)
    return Quantisation(method, bits if type(bits) is int else None)


def check_packages(model: str, quantisation: Quantisation) -> None:
    """Check that what reads such weights is installed.

    Raises:
        MissingDependencyError: it is not; the message names the package.
    """
    packages = _PACKAGES.get(quantisation.method, ())
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        ours = "'rerank-plugins[bitsandbytes]'" if quantisation.method == "bitsandbytes" else None
        command = ours or " ".join(name.replace("_", "-") for name in packages)
        raise MissingDependencyError(
            f"the weights of {model!r} are quantised ({quantisation}), and `{missing[0]}`, which "
            f"reads them, is not installed; run: pip install {command}"
        )


def _settings(where: str, config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the part of `config.json` that tells of the quantisation."""
    if config.get("compression_config") and not config.get("quantization_config"):
        raise ConfigError(
            f"config.json of {where} has a `compression_config`, which transformers no longer "
            "reads, so its weights would be read wrongly; rename it to `quantization_config`, or "
            "take the model in float32, float16 or bfloat16"
        )
    text_config = config.get("text_config")
    inner = text_config.get("quantization_config") if isinstance(text_config, Mapping) else None
    found = config.get("quantization_config") or inner
    if found and not isinstance(found, Mapping):
        raise ConfigError(f"config.json of {where} has quantization_config={found!r:.100}")
    return found or None


def _bits_of_groups(found: Mapping[str, Any]) -> int | None:
    groups = found.get("config_groups")
    listed = groups.values() if isinstance(groups, Mapping) else ()
    weights = [group.get("weights") for group in listed if isinstance(group, Mapping)]
    bits = [each.get("num_bits") for each in weights if isinstance(each, Mapping)]
    only = bits[0] if bits and all(each == bits[0] for each in bits) else None
    return only if type(only) is int else None


def _check_plain(where: str, weights: Sequence[Path]) -> None:
    """Refuse weights in few bits without a word on how to read them."""
    for file in weights:
        if file.suffix != ".safetensors":
            continue
        for name, tensor in read_header(file).tensors.items():
            if name.endswith(".weight") and tensor.dtype in _FEW_BITS:
                raise ConfigError(
                    f"{where} holds {name!r} in {tensor.dtype}, and its config.json has no "
                    "`quantization_config` that says how to read that, so its scores would be "
                    "wrong; take the model in float32, float16 or bfloat16"
                )
