"""The architectures that the ONNX engine can build: from a checkpoint to an `Encoder`.

To add one, write a reader and add it to `_READERS`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rerank_plugins.backends.local.engine import UnsupportedByEngine
from rerank_plugins.backends.local.native_config import native_config
from rerank_plugins.backends.local.onnx.build.encoder import (
    Activation,
    Embeddings,
    Encoder,
    Head,
    Layer,
    Linear,
    Norm,
    Rotary,
)
from rerank_plugins.backends.local.onnx.build.weights import Array, Tensors
from rerank_plugins.errors import ConfigError

__all__ = ["MODEL_TYPES", "check_model_type", "read_encoder"]

_ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}
"""Activation in `config.json` → ours."""


def read_encoder(folder: Path) -> Encoder:
    """Read `config.json` and the safetensors weights of a checkpoint; weights stay on disk.

    Raises:
        UnsupportedByEngine: the architecture or one of its settings is unknown.
        ConfigError: the files are missing or broken.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ConfigError(f"can't read {str(folder / 'config.json')!r}: {exc}") from exc
    config = native_config(config)
    model_type = str(config.get("model_type"))
    check_model_type(model_type)
    weights = _Weights(Tensors(folder), folder)
    return _READERS[model_type](_Config(config), weights)


def check_model_type(model_type: str) -> None:
    """Check that the engine can build an architecture.

    Raises:
        UnsupportedByEngine: it can't.
    """
    if model_type not in _READERS:
        raise UnsupportedByEngine(
            f"the ONNX engine can't build model_type {model_type!r}; it knows: "
            f'{", ".join(MODEL_TYPES)}. Use engine="torch"'
        )


class _Config:
    """`config.json`; looking up a missing setting is an error."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            raise UnsupportedByEngine(f"config.json does not set {name!r}") from None

    def get(self, name: str, default: Any) -> Any:
        value = self._values.get(name)
        return default if value is None else value

    def require(self, name: str, value: object) -> None:
        """Refuse any other value than this one, which is the default."""
        if self.get(name, value) != value:
            raise UnsupportedByEngine(
                f"the ONNX engine needs {name}={value!r} and this checkpoint has "
                f'{self[name]!r}; use engine="torch"'
            )

    def activation(self, name: str, default: str) -> Activation:
        value = self.get(name, default)
        if value not in _ACTIVATIONS:
            raise UnsupportedByEngine(
                f"the ONNX engine does not know {name}={value!r}, only: "
                f'{", ".join(_ACTIVATIONS)}; use engine="torch"'
            )
        return _ACTIVATIONS[value]


class _Weights:
    """Tensors by the names that transformers gives them, below an optional prefix."""

    def __init__(self, tensors: Tensors, folder: Path, prefix: str = "") -> None:
        self._tensors, self._folder, self._prefix = tensors, folder, prefix

    def below(self, prefix: str) -> _Weights:
        return _Weights(self._tensors, self._folder, f"{self._prefix}{prefix}.")

    def has(self, prefix: str) -> bool:
        return any(name.startswith(f"{self._prefix}{prefix}.") for name in self._tensors)

    def table(self, name: str) -> Array:
        """Return an embedding table, in the dtype it is stored in."""
        return self._tensor(f"{name}.weight")

    def linear(self, *names: str, bias: bool = True) -> Linear:
        """Return a linear layer, or several with the same input as one.

        Whether there is a bias is the architecture's choice: a file that lacks one is broken.
        """
        weights = [_float32(self._tensor(f"{name}.weight")) for name in names]
        biases = [_float32(self._tensor(f"{name}.bias")) for name in names if bias]
        return Linear(_stack(weights), _stack(biases) if biases else None)

    def norm(self, name: str, *, bias: bool = True) -> Norm:
        """Return a layer norm; old files call its weight `gamma` and its bias `beta`."""
        is_old = f"{self._prefix}{name}.gamma" in self._tensors
        weight_name, bias_name = ("gamma", "beta") if is_old else ("weight", "bias")
        weight = _float32(self._tensor(f"{name}.{weight_name}"))
        return Norm(weight, _float32(self._tensor(f"{name}.{bias_name}")) if bias else None)

    def _tensor(self, name: str) -> Array:
        try:
            return self._tensors[self._prefix + name]
        except KeyError:
            raise UnsupportedByEngine(
                f"the weights in {str(self._folder)!r} lack {self._prefix + name!r}, which the "
                'ONNX engine expects by config.json; use engine="torch"'
            ) from None


def _bert(config: _Config, weights: _Weights) -> Encoder:
    config.require("position_embedding_type", "absolute")
    body = weights.below("bert") if weights.has("bert") else weights
    head = (
        Head.classifier(body.linear("pooler.dense"), "tanh", None, weights.linear("classifier"))
        if weights.has("classifier")
        else None
    )
    return _post_norm(config, body, head)


def _electra(config: _Config, weights: _Weights) -> Encoder:
    config.require("position_embedding_type", "absolute")
    body = weights.below("electra") if weights.has("electra") else weights
    return _post_norm(config, body, _dense_head(weights, "gelu"))


def _roberta(config: _Config, weights: _Weights) -> Encoder:
    config.require("position_embedding_type", "absolute")
    body = weights.below("roberta") if weights.has("roberta") else weights
    return _post_norm(config, body, _dense_head(weights, "tanh"), padding_id=config["pad_token_id"])


def _dense_head(weights: _Weights, activation: Activation) -> Head | None:
    if not weights.has("classifier"):
        return None
    dense, classifier = weights.linear("classifier.dense"), weights.linear("classifier.out_proj")
    return Head.classifier(dense, activation, None, classifier)


def _post_norm(
    config: _Config, body: _Weights, head: Head | None, padding_id: int | None = None
) -> Encoder:
    """Read the layers of BERT, RoBERTa and ELECTRA, which have the same form and names."""
    tables = body.below("embeddings")
    positions = tables.table("position_embeddings")
    embeddings = Embeddings(
        words=tables.table("word_embeddings"),
        positions=_float32(positions if padding_id is None else positions[padding_id:]),
        types=_float32(tables.table("token_type_embeddings")),
        norm=tables.norm("LayerNorm"),
        projection=body.linear("embeddings_project") if body.has("embeddings_project") else None,
        padding_id=padding_id,
    )
    layers = []
    for i in range(config["num_hidden_layers"]):
        layer = body.below(f"encoder.layer.{i}")
        attention = layer.below("attention")
        layers.append(
            Layer(
                attention_in=attention.linear("self.query", "self.key", "self.value"),
                attention_out=attention.linear("output.dense"),
                attention_norm=attention.norm("output.LayerNorm"),
                feed_in=layer.linear("intermediate.dense"),
                feed_out=layer.linear("output.dense"),
                feed_norm=layer.norm("output.LayerNorm"),
            )
        )
    return Encoder(
        embeddings=embeddings,
        layers=tuple(layers),
        heads=config["num_attention_heads"],
        activation=config.activation("hidden_act", "gelu"),
        epsilon=config["layer_norm_eps"],
        head=head,
    )


def _gte(config: _Config, weights: _Weights) -> Encoder:
    if weights.has("new.gte"):  # as transformers saves what it loaded from the published names
        weights = weights.below("new")
    prefix = next((name for name in ("gte", "new") if weights.has(name)), None)
    body = weights if prefix is None else weights.below(prefix)
    tables = body.below("embeddings")
    types = int(config.get("type_vocab_size", 1))
    rotary = _rotary(config.get("rope_parameters", {}), 160_000.0)
    layers = []
    for i in range(config["num_hidden_layers"]):
        layer = body.below(f"encoder.layer.{i}")
        gated, gate = np.split(layer.linear("mlp.up_gate_proj", bias=False).weight, 2)
        layers.append(
            Layer(
                attention_in=layer.linear("attention.qkv_proj"),
                attention_out=layer.linear("attention.o_proj"),
                attention_norm=layer.norm("attn_ln"),
                feed_in=Linear(np.concatenate([gate, gated]), None),
                feed_out=layer.linear("mlp.down_proj"),
                feed_norm=layer.norm("mlp_ln"),
                rotary=rotary,
            )
        )
    head = None
    if weights.has("classifier"):
        classifier = weights.linear("classifier")
        head = Head.classifier(body.linear("pooler.dense"), "tanh", None, classifier)
    return Encoder(
        embeddings=Embeddings(
            words=tables.table("word_embeddings"),
            positions=None,
            types=_float32(tables.table("token_type_embeddings")) if types else None,
            norm=tables.norm("LayerNorm"),
        ),
        layers=tuple(layers),
        heads=config["num_attention_heads"],
        activation=config.activation("hidden_act", "gelu"),
        epsilon=config["layer_norm_eps"],
        gated=True,
        head=head,
    )


def _modernbert(config: _Config, weights: _Weights) -> Encoder:
    body = weights.below("model") if weights.has("model") else weights
    every = config.get("global_attn_every_n_layers", 3)
    count = config["num_hidden_layers"]
    kinds = config.get(
        "layer_types",
        ["sliding_attention" if i % every else "full_attention" for i in range(count)],
    )
    config.require("rope_scaling", None)
    rope = config.get("rope_parameters", {})
    rotary = {
        kind: _rotary(rope.get(kind) or {}, config.get(old_name, default))
        for kind, old_name, default in (
            ("full_attention", "global_rope_theta", 160_000.0),
            ("sliding_attention", "local_rope_theta", 10_000.0),
        )
    }
    norm_bias, attention_bias, feed_bias = (
        bool(config.get(name, default=False))
        for name in ("norm_bias", "attention_bias", "mlp_bias")
    )
    layers = []
    for i, kind in enumerate(kinds):
        layer = body.below(f"layers.{i}")
        layers.append(
            Layer(
                attention_norm=layer.norm("attn_norm", bias=norm_bias) if i else None,
                attention_in=layer.linear("attn.Wqkv", bias=attention_bias),
                attention_out=layer.linear("attn.Wo", bias=attention_bias),
                feed_norm=layer.norm("mlp_norm", bias=norm_bias),
                feed_in=layer.linear("mlp.Wi", bias=feed_bias),
                feed_out=layer.linear("mlp.Wo", bias=feed_bias),
                rotary=rotary[kind],
                window=config["local_attention"] // 2 if kind == "sliding_attention" else None,
            )
        )
    head = None
    if weights.has("classifier"):
        head = Head.classifier(
            dense=weights.linear(
                "head.dense", bias=bool(config.get("classifier_bias", default=False))
            ),
            activation=config.activation("classifier_activation", "gelu"),
            norm=weights.norm("head.norm", bias=norm_bias),
            classifier=weights.linear("classifier"),
            pooling=config["classifier_pooling"],
        )
    return Encoder(
        embeddings=Embeddings(
            words=body.table("embeddings.tok_embeddings"),
            positions=None,
            types=None,
            norm=body.norm("embeddings.norm", bias=norm_bias),
        ),
        layers=tuple(layers),
        heads=config["num_attention_heads"],
        activation=config.activation("hidden_activation", "gelu"),
        epsilon=config["norm_eps"],
        gated=True,
        norm_first=True,
        last_norm=body.norm("final_norm", bias=norm_bias),
        head=head,
    )


def _rotary(settings: Mapping[str, Any], default: float) -> Rotary:
    """Read one entry of `rope_parameters`; `default` is its base if it names none."""
    rope_type = settings.get("rope_type", "default")
    if rope_type not in ("default", "linear"):
        raise UnsupportedByEngine(
            f'the ONNX engine does not know rope_type={rope_type!r}; use engine="torch"'
        )
    factor = settings["factor"] if rope_type == "linear" else 1.0
    return Rotary(float(settings.get("rope_theta", default)), float(factor))


def _float32(array: Array) -> Array:
    return array.astype(np.float32, copy=False)


def _stack(arrays: list[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


_READERS: Mapping[str, Callable[[_Config, _Weights], Encoder]] = {
    "bert": _bert,
    "camembert": _roberta,
    "electra": _electra,
    "gte": _gte,
    "modernbert": _modernbert,
    "roberta": _roberta,
    "xlm-roberta": _roberta,
}

MODEL_TYPES = tuple(_READERS)
"""Values of `model_type` that `read_encoder` knows."""
