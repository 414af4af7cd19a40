"""Linear layers in a graph: in float32, or in 8 bits with one scale in all or one per row."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from rerank_plugins.backends.local.onnx.build.encoder import Linear
from rerank_plugins.backends.local.onnx.build.graph import CONTRIB, Graph
from rerank_plugins.backends.local.onnx.build.quantise import (
    BLOCK,
    quantise,
    quantise_blocks,
    smooth,
)
from rerank_plugins.backends.local.onnx.build.weights import Array

__all__ = ["LinearLayers", "Precision"]

Precision: TypeAlias = Literal["float32", "int8", "int4"]
"""How matrices are kept. Products are in float32 or, for `"int8"`, in 8 bits."""

_TINY = 1e-30
"""The least scale, for rows of zeros."""

_FLOAT32 = 1
"""`accuracy_level` of `MatMulNBits`: the inputs are not rounded."""

_MIDDLE, _LOW = 128, 16
"""The zero points in unsigned 8 bits: for both signs, and for mostly positive numbers."""


class LinearLayers:
    """Adds linear layers to a graph; each method takes and returns the names of values.

    Args:
        graph: the graph.
        dtype: of all but the `exact` ones.
    """

    def __init__(self, graph: Graph, dtype: Precision) -> None:
        self._graph = graph
        self._dtype = dtype

    def linear(self, x: str, linear: Linear, peaks: Array | None = None) -> str:
        """Apply a linear layer to rows, as `dtype` says.

        With `peaks`, the largest magnitudes of the inputs, these are smoothed before rounding.
        """
        if self._dtype != "int8":
            return self._by_blocks(x, linear) if self._dtype == "int4" else self.exact(x, linear)
        if peaks is not None:
            linear, factors = smooth(linear, peaks)
            x = self._graph.op("Mul", x, self._graph.constant(factors))
        values, scales = quantise(linear.weight, pairs=True)
        constants = [values.T, scales.ravel(), np.zeros(len(scales), np.int8)]
        if linear.bias is not None:
            constants.append(linear.bias)
        names = map(self._graph.constant, constants)
        return self._graph.op("DynamicQuantizeMatMul", x, *names, domain=CONTRIB)

    def linear_by_row(self, x: str, linear: Linear, lowest: float | None = None) -> str:
        """Apply a linear layer to rows of very different magnitudes, each with its own scale.

        Special tokens have values ten times those of others. `lowest` is the minimum of the values;
        None: they range as far below 0 as above.
        """
        if self._dtype != "int8":
            return self.linear(x, linear)
        graph = self._graph
        zero = _MIDDLE if lowest is None else _LOW
        sizes = graph.op("Abs", x) if lowest is None else x
        scale = graph.op("ReduceMax", sizes, graph.integers(1), keepdims=1)
        scale = graph.op("Mul", scale, graph.number(1 / (255 - zero)))
        scale = graph.op("Max", scale, graph.number(max(-(lowest or 0.0) / zero, _TINY)))
        scales = graph.op("Reshape", scale, graph.integers(-1))
        zeros = graph.constant(np.array([zero], np.uint8), f"zero_{zero}")
        zeros = graph.op("Expand", zeros, graph.op("Shape", scales))
        rows = graph.op("QuantizeLinear", x, scales, zeros, axis=0)
        values, factors = quantise(linear.weight, pairs=True)
        y = graph.op(
            "MatMulIntegerToFloat",
            rows,
            graph.constant(values.T),
            graph.number(1.0),
            graph.constant(factors.ravel()),
            graph.constant(np.array(zero, np.uint8), f"zero_point_{zero}"),
            graph.constant(np.zeros(len(factors), np.int8)),
            domain=CONTRIB,
        )
        y = graph.op("Mul", y, scale)
        return y if linear.bias is None else graph.op("Add", y, graph.constant(linear.bias))

    def _by_blocks(self, x: str, linear: Linear) -> str:
        """Apply a linear layer kept in 4 bits, whose numbers become float32 as they are needed."""
        numbers, scales = quantise_blocks(linear.weight)
        outputs, inputs = linear.weight.shape
        y = self._graph.op(
            "MatMulNBits",
            x,
            self._graph.constant(numbers),
            self._graph.constant(scales.ravel()),
            domain=CONTRIB,
            K=inputs,
            N=outputs,
            bits=4,
            block_size=BLOCK,
            accuracy_level=_FLOAT32,
        )
        bias = linear.bias
        return y if bias is None else self._graph.op("Add", y, self._graph.constant(bias))

    def exact(self, x: str, linear: Linear) -> str:
        """Apply a linear layer to rows in float32."""
        bias = () if linear.bias is None else (self._graph.constant(linear.bias),)
        return self._graph.op("Gemm", x, self._graph.constant(linear.weight), *bias, transB=1)
