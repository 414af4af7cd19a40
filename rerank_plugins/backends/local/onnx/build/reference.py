"""The encoder in plain NumPy, to verify graphs: written for clarity, not for speed."""

from __future__ import annotations

import numpy as np

from rerank_plugins.backends.local.onnx.build.encoder import (
    Activation,
    Dense,
    Encoder,
    Head,
    Layer,
    Linear,
    Norm,
    Rotary,
    UnitLength,
)
from rerank_plugins.backends.local.onnx.build.weights import Array

__all__ = ["logits_of", "pooled_of", "tokens_of"]

_ONE_THREAD = {1: 9_216, 2: 262_144}
"""Number of axes of the input → multiplications up to which OpenBLAS starts no threads.

Its threads spin while they wait, which takes seconds next to other work.
"""


def tokens_of(
    encoder: Encoder, ids: Array, types: Array, attended: int | None = None
) -> tuple[Array, list[tuple[Array, Array, Array]]]:
    """Return the last layer's vectors of one sequence, and the inputs of each layer's matrices.

    Only the first `attended` tokens are seen by the others; None: all.

    The vectors are tokens x width; so are each layer's inputs of `attention_in` and `feed_in`,
    and those of `feed_out` are tokens x units.
    """
    x = _embed(encoder, ids, types)
    inputs = []
    for layer in encoder.layers:
        before = _normalise(encoder, layer.attention_norm, x) if encoder.norm_first else x
        x = x + _attend(encoder, layer, before, attended)
        if not encoder.norm_first:
            x = _normalise(encoder, layer.attention_norm, x)
        between = _normalise(encoder, layer.feed_norm, x) if encoder.norm_first else x
        units = _units(encoder, layer, between)
        x = x + _apply(layer.feed_out, units)
        if not encoder.norm_first:
            x = _normalise(encoder, layer.feed_norm, x)
        inputs.append((before, between, units))
    return _normalise(encoder, encoder.last_norm, x), inputs


def pooled_of(head: Head, tokens: Array) -> Array:
    """Return the vector that the head reads, or those of all tokens."""
    if head.pooling == "tokens":
        return tokens
    if head.pooling == "mean":
        mean: Array = tokens.mean(axis=0)
        return mean
    row: Array = tokens[-1 if head.pooling == "last" else 0]
    return row


def logits_of(encoder: Encoder, head: Head, pooled: Array) -> Array:
    """Return the head's logits for a pooled vector."""
    vectors = {head.vector: pooled}
    for step in head.steps:
        vectors[step.target] = _head_step(encoder, step.operation, vectors[step.source])
    return vectors[head.logits]


def _head_step(encoder: Encoder, operation: Dense | Norm | UnitLength, x: Array) -> Array:
    match operation:
        case Norm():
            return _normalise(encoder, operation, x)
        case UnitLength():
            lengths = np.linalg.norm(x, axis=-1, keepdims=True)
            scaled: Array = x / np.maximum(lengths, operation.least)
            return scaled
    y = _apply(operation.linear, x)
    if operation.activation is not None:
        y = _activate(operation.activation, y)
    if operation.residual is not None:
        y = y + _apply(operation.residual, x)
    return y + x if operation.adds_input else y


def _embed(encoder: Encoder, ids: Array, types: Array) -> Array:
    tables = encoder.embeddings
    x = tables.words[ids].astype(np.float32)
    if tables.types is not None:
        x = x + tables.types[types]
    if tables.positions is not None:
        positions = np.arange(len(ids))
        if tables.padding_id is not None:
            real = ids != tables.padding_id
            positions = np.cumsum(real) * real
        x = x + tables.positions[positions]
    x = _normalise(encoder, tables.norm, x)
    return x if tables.projection is None else _apply(tables.projection, x)


def _attend(encoder: Encoder, layer: Layer, x: Array, attended: int | None) -> Array:
    q, k, v = np.split(_apply(layer.attention_in, x), 3, axis=-1)
    size = encoder.width // encoder.heads
    distance = np.abs(np.subtract.outer(np.arange(len(x)), np.arange(len(x))))
    hidden = distance > (len(x) if layer.window is None else layer.window)
    hidden[:, attended or len(x) :] = True
    sees_any = ~hidden.all(axis=-1, keepdims=True)
    mixed = []
    for head in range(encoder.heads):
        part = slice(head * size, (head + 1) * size)
        scores = _rotate(layer.rotary, q[:, part]) @ _rotate(layer.rotary, k[:, part]).T
        scores = np.where(hidden & sees_any, -np.inf, scores / np.sqrt(size))
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed.append(weights / weights.sum(axis=-1, keepdims=True) @ v[:, part] * sees_any)
    return _apply(layer.attention_out, np.concatenate(mixed, axis=-1))


def _rotate(rotary: Rotary | None, x: Array) -> Array:
    if rotary is None:
        return x
    angles = rotary.angles(*x.shape)
    left, right = np.split(x, 2, axis=-1)
    cosines, sines = np.cos(angles), np.sin(angles)
    return np.concatenate([left * cosines - right * sines, right * cosines + left * sines], -1)


def _units(encoder: Encoder, layer: Layer, x: Array) -> Array:
    y = _apply(layer.feed_in, x)
    if encoder.gated:
        y, gate = np.split(y, 2, axis=-1)
        gated: Array = _activate(encoder.activation, y) * gate
        return gated
    return _activate(encoder.activation, y)


def _apply(linear: Linear, x: Array) -> Array:
    size = max(1, _ONE_THREAD[x.ndim] // x.size)
    blocks = [x @ linear.weight[i : i + size].T for i in range(0, len(linear.weight), size)]
    y = np.concatenate(blocks, axis=-1)
    return y if linear.bias is None else y + linear.bias


def _normalise(encoder: Encoder, norm: Norm | None, x: Array) -> Array:
    if norm is None:
        return x
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    epsilon = encoder.epsilon if norm.epsilon is None else norm.epsilon
    y: Array = centred / np.sqrt(variance + epsilon) * norm.weight
    return y if norm.bias is None else y + norm.bias


def _activate(activation: Activation, x: Array) -> Array:
    """Apply an activation; all but three multiply `x` by a share between 0 and 1."""
    share: Array
    match activation:
        case "relu":
            return np.maximum(x, 0)
        case "sigmoid":
            return (1 + np.tanh(x / 2)) / 2
        case "tanh":
            return np.tanh(x)
        case "gelu":
            share = (1 + _erf(x / np.sqrt(2))) / 2
        case "gelu_tanh":
            share = (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2
        case "silu":
            share = (1 + np.tanh(x / 2)) / 2
    return x * share


def _erf(x: Array) -> Array:
    """Approximate the error function to 1.5e-7 (Abramowitz and Stegun, 7.1.26)."""
    t: Array = 1 / (1 + 0.3275911 * np.abs(x))
    series = 1.421413741 + t * (1.061405429 * t - 1.453152027)
    series = t * (0.254829592 + t * (t * series - 0.284496736))
    size: Array = 1 - series * np.exp(-(x**2))
    return np.copysign(size, x)
