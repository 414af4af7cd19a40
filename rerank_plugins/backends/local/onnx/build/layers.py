"""The graph of an encoder: embeddings, layers, and the last layer for one row only."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from rerank_plugins.backends.local.onnx.build.encoder import (
    Activation,
    Dense,
    Embeddings,
    Encoder,
    Layer,
    Linear,
    Norm,
    Rotary,
    UnitLength,
)
from rerank_plugins.backends.local.onnx.build.graph import CONTRIB, Graph
from rerank_plugins.backends.local.onnx.build.linear import LinearLayers, Precision
from rerank_plugins.backends.local.onnx.build.protobuf import number_of
from rerank_plugins.backends.local.onnx.build.quantise import quantise, split_outliers
from rerank_plugins.backends.local.onnx.build.weights import Array

__all__ = ["EmbeddingSource", "LayerBuilder"]

EmbeddingSource: TypeAlias = Literal["input", "float32", "int8"]
"""Where the word embeddings are: their rows are an input of each run, or they are in the graph."""

_POSITIONS = 8192
"""Rows of the table of rotations if no length is given."""

_LOWEST: dict[Activation, float] = {
    "gelu": -0.17,
    "gelu_tanh": -0.171,
    "relu": 0.0,
    "sigmoid": 0.0,
    "silu": -0.279,
    "tanh": -1.0,
}
"""The minimum of each activation."""

_END = 2**62
"""Behind the last row, in `Slice`."""

_FAR = -1e30
"""Added to the attention score of a token outside the window, whose weight becomes 0."""


class _Window(NamedTuple):
    """What lets a token see its neighbourhood only."""

    bias: str
    """Added to the scores, 1 x 1 x tokens x tokens that are seen."""
    sees: str
    """1 for a token that sees any, else 0, which its mixed values are multiplied by; or empty."""


class LayerBuilder:
    """Adds layers to a graph; each method takes and returns the names of values.

    Between layers a value is a matrix of (sequences x length) rows, which ONNX Runtime multiplies
    faster than three axes. All sequences of a run have one length, so nothing is masked.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        dtype: Precision,
        embeddings: EmbeddingSource,
        max_length: int | None,
        masked: bool = False,
    ) -> None:
        self.graph = Graph()
        self.linear_layers = LinearLayers(self.graph, dtype)
        """Adds the linear layers of the encoder."""
        self._encoder = encoder
        self._dtype = dtype
        self._embeddings = embeddings
        self._max_length = max_length
        self._ids = self.graph.input("input_ids", ["sequences", "length"])
        self._shape = self.graph.op("Shape", self._ids)
        self._length = self.graph.op("Shape", self._ids, start=1, end=2)
        self._windows: dict[int, _Window] = {}
        self._attended = self.graph.input("attended", [1], np.int64) if masked else None
        self._seen_length = self._attended or self._length

    def embed(self) -> str:
        """Return the input of the first layer."""
        graph, embeddings = self.graph, self._encoder.embeddings
        x = self._embed_words(embeddings.words)
        if embeddings.types is not None and len(embeddings.types) > 1:
            types = graph.input("token_type_ids", ["sequences", "length"])
            x = graph.op("Add", x, graph.op("Gather", graph.constant(embeddings.types), types))
        elif embeddings.types is not None and embeddings.positions is None:
            x = graph.op("Add", x, graph.constant(embeddings.types[0]))
        if embeddings.positions is not None:
            x = graph.op("Add", x, self._embed_positions(embeddings, embeddings.positions))
        x = graph.op("Reshape", x, graph.integers(-1, embeddings.words.shape[1]))
        x = self.norm(x, embeddings.norm)
        return (
            x
            if embeddings.projection is None
            else self.linear_layers.exact(x, embeddings.projection)
        )

    def _embed_words(self, words: Array) -> str:
        graph = self.graph
        if self._embeddings == "int8":
            values, scales = quantise(words.astype(np.float32), pairs=False)
            rows = graph.op("Gather", graph.constant(values, "words"), self._ids)
            scale = graph.op("Gather", graph.constant(scales, "words.scale"), self._ids)
            return graph.op("Mul", graph.op("Cast", rows, to=number_of(np.float32)), scale)
        if self._embeddings == "input":
            rows = graph.input("words", ["sequences", "length", words.shape[1]], words.dtype)
        else:
            rows = graph.op("Gather", graph.constant(words), self._ids)
        return (
            rows if words.dtype == np.float32 else graph.op("Cast", rows, to=number_of(np.float32))
        )

    def _embed_positions(self, embeddings: Embeddings, rows: Array) -> str:
        graph = self.graph
        if embeddings.types is not None and len(embeddings.types) == 1:
            rows = rows + embeddings.types  # every token is of this type
        if embeddings.padding_id is None:
            table = graph.constant(rows[: self._max_length])
            return graph.op("Slice", table, graph.integers(0), self._length, graph.integers(0))
        last = None if self._max_length is None else self._max_length + 1
        padding = graph.constant(np.array(embeddings.padding_id, np.int32))
        real = graph.op(
            "Cast", graph.op("Not", graph.op("Equal", self._ids, padding)), to=number_of(np.int32)
        )
        counted = graph.op("CumSum", real, graph.constant(np.array(1, np.int64)))
        return graph.op("Gather", graph.constant(rows[:last]), graph.op("Mul", counted, real))

    def layer(self, x: str, layer: Layer) -> str:
        """Return the output of a layer."""
        rows = self._before(x, layer.attention_norm)
        qkv = self.by_sequence(
            self.linear_layers.linear(rows, layer.attention_in, layer.attention_peaks)
        )
        q, k, v = self.graph.split("Split", qkv, outs=3, axis=-1, num_outputs=3)
        mixed = self._attend(
            self._rotate(q, layer.rotary),
            self._seen(self._rotate(k, layer.rotary)),
            self._seen(v),
            layer.window,
        )
        measured = layer.unit_peaks is not None
        linear = self.linear_layers.linear_by_row if measured else self.linear_layers.linear
        x = self._add(x, linear(self._by_row(mixed), layer.attention_out), layer.attention_norm)
        before = self._before(x, layer.feed_norm)
        if self._dtype != "int8" or layer.unit_peaks is None:
            y = self._activate_feed(self.linear_layers.linear(before, layer.feed_in))
            return self._add(x, self.linear_layers.linear(y, layer.feed_out), layer.feed_norm)
        outliers, others = split_outliers(layer.feed_out, layer.unit_peaks)
        y = self._activate_feed(self.linear_layers.exact(before, self._feed_in(layer, outliers)))
        x = self.graph.op(
            "Gemm", y, self.graph.constant(layer.feed_out.weight[:, outliers]), x, transB=1
        )
        y = self.linear_layers.linear(before, self._feed_in(layer, others), layer.feed_peaks)
        out = Linear(layer.feed_out.weight[:, others], layer.feed_out.bias)
        lowest = None if self._encoder.gated else _LOWEST[self._encoder.activation]
        y = self.linear_layers.linear_by_row(self._activate_feed(y), out, lowest)
        return self._add(x, y, layer.feed_norm)

    def _feed_in(self, layer: Layer, units: Array) -> Linear:
        """Return the part of `feed_in` that computes some of the units."""
        if self._encoder.gated:  # the second half of the rows gives their gates
            units = np.concatenate([units, units + len(layer.feed_in.weight) // 2])
        return _part(layer.feed_in, units)

    def one_row(self, x: str, layer: Layer, *, last: bool = False) -> str:
        """Return the output of a layer for the first or the last row of each sequence only.

        The other rows are only attended to.
        """
        graph, width = self.graph, self._encoder.width
        rows = self.by_sequence(self._before(x, layer.attention_norm))
        if layer.window is not None:
            seen = layer.window + 1
            start, end = (-seen, _END) if last else (0, seen)
            rows = graph.op(
                "Slice", rows, graph.integers(start), graph.integers(end), graph.integers(1)
            )
        place = graph.constant(np.array(-1 if last else 0, np.int64))
        row = graph.op("Gather", rows, place, axis=1)
        q = self.linear_layers.exact(row, _part(layer.attention_in, slice(width)))
        mixed = (
            self._attend_to_rows(q, rows, layer)
            if layer.rotary is None
            else self._attend_to_keys(q, rows, layer, last=last)
        )
        mixed = self.linear_layers.exact(mixed, layer.attention_out)
        x = graph.op("Gather", self.by_sequence(x), place, axis=1)
        x = self._add(x, mixed, layer.attention_norm)
        y = self._activate_feed(
            self.linear_layers.exact(self._before(x, layer.feed_norm), layer.feed_in)
        )
        return self._add(x, self.linear_layers.exact(y, layer.feed_out), layer.feed_norm)

    def _attend_to_rows(self, q: str, rows: str, layer: Layer) -> str:
        """Attend from one query per sequence to its rows without computing their keys and values.

        The key matrix is applied to the query, and the value matrix to the weighted sum of rows:
        the same products in another order, fewer by the size of a head. The key bias adds the same
        to all scores of a query, which changes no weight; the weights sum to 1, so the value bias
        is added as it is.
        """
        graph, width, heads = self.graph, self._encoder.width, self._encoder.heads
        size = width // heads
        key, value = (_part(layer.attention_in, slice(i * width, (i + 1) * width)) for i in (1, 2))
        by_head, flat = graph.integers(-1, heads, 1, size), graph.integers(-1, heads, width)
        keys, values = (
            graph.constant(part.weight.reshape(heads, size, width)) for part in (key, value)
        )
        queries = graph.op("MatMul", graph.op("Reshape", q, by_head), keys)
        queries = graph.op("Reshape", queries, flat)
        scores = self._times_rows(queries, rows, alpha=size**-0.5)
        sums = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), rows)
        sums = graph.op("Reshape", sums, graph.integers(-1, heads, 1, width))
        mixed = self._by_row(self._times_rows(sums, values))
        if value.bias is None:
            return mixed
        return graph.op("Add", mixed, graph.constant(value.bias))

    def _times_rows(self, x: str, rows: str, alpha: float = 1.0) -> str:
        return self.graph.op("FusedMatMul", x, rows, domain=CONTRIB, transB=1, alpha=alpha)

    def _attend_to_keys(self, q: str, rows: str, layer: Layer, *, last: bool) -> str:
        """Attend in the same way where keys are rotated, and so must be computed.

        Only distances count, so the rows are rotated as if they were the whole sequence. The query
        of the first one needs no rotation.
        """
        graph, width = self.graph, self._encoder.width
        q = graph.op("Unsqueeze", q, graph.integers(1))
        if last:
            length = graph.op("Shape", rows, start=1, end=2)
            q = self._rotate(q, layer.rotary, graph.op("Sub", length, graph.integers(1)))
        part = _part(layer.attention_in, slice(width, None))
        kv = self.linear_layers.linear(self._by_row(rows), part, layer.attention_peaks)
        kv = graph.op("Reshape", kv, self._join(graph.op("Shape", rows, end=2), 2 * width))
        k, v = graph.split("Split", kv, outs=2, axis=-1, num_outputs=2)
        return self._by_row(self._attend(q, self._rotate(k, layer.rotary), v, window=None))

    def _activate_feed(self, x: str) -> str:
        if not self._encoder.gated:
            return self.activate(x, self._encoder.activation)
        x, gate = self.graph.split("Split", x, outs=2, axis=-1, num_outputs=2)
        return self.graph.op("Mul", self.activate(x, self._encoder.activation), gate)

    def _before(self, x: str, norm: Norm | None) -> str:
        return self.norm(x, norm) if self._encoder.norm_first else x

    def _add(self, x: str, y: str, norm: Norm | None) -> str:
        # `SkipLayerNormalization` does this in one node, several times slower.
        x = self.graph.op("Add", y, x)
        return x if self._encoder.norm_first else self.norm(x, norm)

    def _attend(self, q: str, k: str, v: str, window: int | None) -> str:
        near = None if window is None else self._window(window)
        bias = () if near is None else ("", "", near.bias)
        heads = self._encoder.heads
        mixed = self.graph.op("MultiHeadAttention", q, k, v, *bias, domain=CONTRIB, num_heads=heads)
        return mixed if near is None or not near.sees else self.graph.op("Mul", mixed, near.sees)

    def _seen(self, x: str) -> str:
        """Return the rows of keys or values that the tokens of a sequence see."""
        if self._attended is None:
            return x
        graph = self.graph
        return graph.op("Slice", x, graph.integers(0), self._attended, graph.integers(1))

    def _window(self, window: int) -> _Window:
        """Return what lets a token see its neighbourhood only."""
        if window not in self._windows:
            graph = self.graph
            zero, one = (graph.constant(np.array(n, np.int64)) for n in (0, 1))
            end, seen = (graph.op("Squeeze", n) for n in (self._length, self._seen_length))
            column = graph.op("Unsqueeze", graph.op("Range", zero, end, one), graph.integers(1))
            row = graph.op("Unsqueeze", graph.op("Range", zero, seen, one), graph.integers(0))
            distance = graph.op("Abs", graph.op("Sub", column, row))
            far = graph.op("Greater", distance, graph.constant(np.array(window, np.int64)))
            bias = graph.op("Where", far, graph.number(_FAR), graph.number(0.0))
            sees = ""
            if self._attended is not None:
                nearest = graph.op("ReduceMin", distance, graph.integers(1), keepdims=1)
                is_near = graph.op(
                    "LessOrEqual", nearest, graph.constant(np.array(window, np.int64))
                )
                sees = graph.op("Cast", is_near, to=number_of(np.float32))
            self._windows[window] = _Window(graph.op("Unsqueeze", bias, graph.integers(0, 1)), sees)
        return self._windows[window]

    def _rotate(self, x: str, rotary: Rotary | None, start: str | None = None) -> str:
        """Rotate rows of each sequence; `start` is the position of the first, by default 0."""
        if rotary is None:
            return x
        size = self._encoder.width // self._encoder.heads
        angles = rotary.angles(self._max_length or _POSITIONS, size)
        name = f"{rotary.theta}_{rotary.factor}"
        cosines = self.graph.constant(np.cos(angles), f"cosines_{name}")
        sines = self.graph.constant(np.sin(angles), f"sines_{name}")
        start = start or self.graph.integers(0)
        return self.graph.op("RotaryEmbedding", x, start, cosines, sines, domain=CONTRIB)

    def norm(self, x: str, norm: Norm | None) -> str:
        """Normalise rows; without a norm they stay as they are."""
        if norm is None:
            return x
        weight = self.graph.constant(norm.weight)
        bias = () if norm.bias is None else (self.graph.constant(norm.bias),)
        epsilon = self._encoder.epsilon if norm.epsilon is None else norm.epsilon
        return self.graph.op("LayerNormalization", x, weight, *bias, axis=-1, epsilon=epsilon)

    def activate(self, x: str, activation: Activation) -> str:
        """Apply an activation elementwise."""
        match activation:
            case "gelu":
                return self.graph.op("Gelu", x, domain=CONTRIB)
            case "gelu_tanh":
                return self.graph.op("Gelu", x, approximate="tanh")
            case "silu":
                return self.graph.op("QuickGelu", x, domain=CONTRIB, alpha=1.0)
            case "relu":
                return self.graph.op("Relu", x)
            case "sigmoid":
                return self.graph.op("Sigmoid", x)
            case "tanh":
                return self.graph.op("Tanh", x)

    def head_step(self, x: str, operation: Dense | Norm | UnitLength) -> str:
        """Return vectors after one step of a head, in float32."""
        graph, exact = self.graph, self.linear_layers.exact
        match operation:
            case Norm():
                return self.norm(x, operation)
            case UnitLength():
                length = graph.op("ReduceL2", x, graph.integers(1), keepdims=1)
                length = graph.op("Max", length, graph.number(operation.least))
                return graph.op("Div", x, length)
        y = exact(x, operation.linear)
        if operation.activation is not None:
            y = self.activate(y, operation.activation)
        if operation.residual is not None:
            y = graph.op("Add", y, exact(x, operation.residual))
        return graph.op("Add", y, x) if operation.adds_input else y

    def by_sequence(self, x: str, width: int = -1) -> str:
        """Reshape rows to sequences x length x width."""
        return self.graph.op("Reshape", x, self._join(self._shape, width))

    def _by_row(self, x: str) -> str:
        return self.graph.op("Reshape", x, self.graph.integers(-1, self._encoder.width))

    def _join(self, shape: str, width: int) -> str:
        return self.graph.op("Concat", shape, self.graph.integers(width), axis=0)


def _part(linear: Linear, outputs: slice | Array) -> Linear:
    bias = None if linear.bias is None else linear.bias[outputs]
    return Linear(linear.weight[outputs], bias)
