"""An encoder as data: its weights, and the few choices in which architectures differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from rerank_plugins.backends.local.onnx.build.weights import Array

__all__ = [
    "Activation",
    "Dense",
    "Embeddings",
    "Encoder",
    "Head",
    "HeadPooling",
    "HeadStep",
    "Layer",
    "Linear",
    "Norm",
    "Rotary",
    "UnitLength",
]

HeadPooling: TypeAlias = Literal["cls", "last", "mean", "tokens"]
"""Which rows of the last layer the head reads as one vector; or it reads each of them."""

Activation: TypeAlias = Literal["gelu", "gelu_tanh", "relu", "sigmoid", "silu", "tanh"]


@dataclass(frozen=True, slots=True)
class Linear:
    """`x @ weight.T + bias`."""

    weight: Array
    """Outputs x inputs, as torch stores it."""
    bias: Array | None


@dataclass(frozen=True, slots=True)
class Norm:
    """A layer normalisation over the last axis."""

    weight: Array
    bias: Array | None
    epsilon: float | None = None
    """Added to the variance; None: what the encoder says."""


@dataclass(frozen=True, slots=True)
class Embeddings:
    """From token ids to the first layer's input: the normalised sum of the tables."""

    words: Array
    """One row per token of the vocabulary."""
    positions: Array | None
    """One row per position from 0; None where layers rotate instead."""
    types: Array | None
    """One row per token type."""
    norm: Norm
    projection: Linear | None = None
    """Applied after the norm, where the tables are narrower than the layers."""
    padding_id: int | None = None
    """Tokens with this id take row 0 of `positions` and are not counted (RoBERTa)."""


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotary positions, rotating the two halves of each head."""

    theta: float
    factor: float = 1.0
    """By how much positions are closer to each other than whole numbers."""

    def angles(self, positions: int, size: int) -> Array:
        """Return the angle of each position and pair of numbers in a head of `size` numbers."""
        exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
        frequencies = 1 / np.float32(self.theta) ** exponents / np.float32(self.factor)
        return np.outer(np.arange(positions, dtype=np.float32), frequencies)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: self-attention, then two linear layers with an activation between them."""

    attention_norm: Norm | None
    attention_in: Linear
    """Queries, keys and values, stacked."""
    attention_out: Linear
    feed_norm: Norm | None
    feed_in: Linear
    """If the encoder is gated: the activated half, then the gate."""
    feed_out: Linear
    rotary: Rotary | None = None
    window: int | None = None
    """How many tokens to each side a token sees; None: all."""
    attention_peaks: Array | None = None
    """The largest magnitude seen of each input of `attention_in`; None: not measured."""
    feed_peaks: Array | None = None
    """The same of `feed_in`."""
    unit_peaks: Array | None = None
    """The same of `feed_out`, whose inputs are the hidden units."""


@dataclass(frozen=True, slots=True)
class Dense:
    """A linear layer with its activation, and what is added afterwards."""

    linear: Linear
    activation: Activation | None = None
    residual: Linear | None = None
    """Through which the input is added."""
    adds_input: bool = False
    """Whether the input is added as it is."""


@dataclass(frozen=True, slots=True)
class UnitLength:
    """A vector scaled to the length 1."""

    least: float = 1e-12
    """The smallest length that is divided by."""


@dataclass(frozen=True, slots=True)
class HeadStep:
    """One step of a head, which reads one named vector and writes one."""

    operation: Dense | Norm | UnitLength
    source: str = "vector"
    target: str = "vector"


@dataclass(frozen=True, slots=True)
class Head:
    """From the pooled vector to the logits, or from each token's to another."""

    steps: tuple[HeadStep, ...]
    labels: int
    """How many logits there are, or numbers in a vector."""
    pooling: HeadPooling = "cls"
    vector: str = "vector"
    """What the steps call the pooled vector."""
    logits: str = "vector"
    """What they call the logits."""

    @classmethod
    def classifier(
        cls,
        dense: Linear,
        activation: Activation,
        norm: Norm | None,
        classifier: Linear,
        pooling: Literal["cls", "mean"] = "cls",
    ) -> Head:
        """Return the head of a sequence classifier: linear, activation, norm, linear."""
        operations = (Dense(dense, activation), norm, Dense(classifier))
        steps = tuple(HeadStep(each) for each in operations if each is not None)
        return cls(steps, len(classifier.weight), pooling)


@dataclass(frozen=True, slots=True)
class Encoder:
    """A bidirectional transformer."""

    embeddings: Embeddings
    layers: tuple[Layer, ...]
    heads: int
    """Attention heads."""
    activation: Activation
    epsilon: float
    """Of every norm."""
    gated: bool = False
    """Whether the activated half of `feed_in` is multiplied by the other."""
    norm_first: bool = False
    """Whether norms come before attention and feed-forward, or after their residual sum."""
    last_norm: Norm | None = None
    head: Head | None = None
    """None: the checkpoint has token vectors only."""

    @property
    def width(self) -> int:
        """Size of a token's vector between layers."""
        return int(self.layers[0].attention_in.weight.shape[1])
