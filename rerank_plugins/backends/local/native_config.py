"""Configurations of models that brought code of their own, in the terms that transformers took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["native_config"]

_SAME: Mapping[str, object] = {
    "position_embedding_type": "rope",
    "layer_norm_type": "layer_norm",
    "logn_attention_scale": False,
    "logn_attention_clip1": False,
}
"""What transformers' GTE does in any case; other values need the model's own code."""

_BASE = 10_000.0


def native_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the configuration of a known architecture in transformers' terms, else as it is.

    GTE's models (`model_type` `"new"`) name a repository of Python files in `auto_map`.
    transformers has learned to run the same weights without it:
    https://huggingface.co/docs/transformers/model_doc/gte
    """
    if config.get("model_type") != "new":
        return config
    if any(config.get(name, value) != value for name, value in _SAME.items()):
        return config
    rope = _rope(config)
    if rope is None:
        return config
    dropped = {*_SAME, "auto_map", "rope_theta", "rope_scaling"}
    kept = {name: value for name, value in config.items() if name not in dropped}
    names = [str(name) for name in config.get("architectures") or ()]
    return {
        **kept,
        "model_type": "gte",
        "architectures": [name.replace("New", "Gte", 1) for name in names],
        "rope_parameters": rope,
    }


def _rope(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the rotation, where static NTK scaling is one of a higher base and longer steps."""
    base, scaling = float(config.get("rope_theta", _BASE)), config.get("rope_scaling")
    if not scaling:
        return {"rope_type": "default", "rope_theta": base}
    if scaling.get("type") != "ntk" or scaling.get("mixed_b") is not None:
        return None
    factor = float(scaling["factor"])
    size = config["hidden_size"] // config["num_attention_heads"]
    return {"rope_type": "linear", "rope_theta": base * factor, "factor": factor ** (2 / size)}
