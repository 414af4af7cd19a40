"""An ONNX graph under construction: its nodes and its constants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import DTypeLike

from rerank_plugins.backends.local.onnx.build import protobuf
from rerank_plugins.backends.local.onnx.build.protobuf import Attribute
from rerank_plugins.backends.local.onnx.build.weights import Array

__all__ = ["CONTRIB", "Graph"]

CONTRIB = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""

_OPSETS = {"": 20, CONTRIB: 1}
_IR_VERSION = 9
_SMALL = 1024
"""Bytes up to which a constant is stored in the model, where shape inference reads it."""


class Graph:
    """Collects nodes and constants; a method that adds one returns the name of its value."""

    def __init__(self) -> None:
        self._nodes: list[bytes] = []
        self._inputs: list[bytes] = []
        self._outputs: list[bytes] = []
        self._constants: dict[str, Array] = {}

    def input(self, name: str, shape: Sequence[str | int], dtype: DTypeLike = np.int32) -> str:
        """Declare an input; a string in `shape` names an axis of any size."""
        self._inputs.append(protobuf.value(name, protobuf.number_of(dtype), shape))
        return name

    def output(self, value: str, name: str, shape: Sequence[str | int]) -> None:
        """Declare a float32 value as an output of this name."""
        self._add("Identity", [value], [name])
        self._outputs.append(protobuf.value(name, protobuf.number_of(np.float32), shape))

    def constant(self, value: Array, name: str | None = None) -> str:
        """Add a constant; the same name twice is the same constant."""
        name = name or f"constant_{len(self._constants)}"
        self._constants.setdefault(name, value)
        return name

    def integers(self, *values: int) -> str:
        """Add a vector of integers, such as a shape."""
        return self.constant(np.array(values, np.int64), f"integers_{'_'.join(map(str, values))}")

    def number(self, value: float) -> str:
        """Add a float32 scalar."""
        return self.constant(np.array(value, np.float32), f"number_{value}")

    def op(self, kind: str, *inputs: str, domain: str = "", **attributes: Attribute) -> str:
        """Add a node with one output. An empty input name omits an optional input."""
        return self.split(kind, *inputs, outs=1, domain=domain, **attributes)[0]

    def split(
        self, kind: str, *inputs: str, outs: int, domain: str = "", **attributes: Attribute
    ) -> list[str]:
        """Add a node with several outputs."""
        names = [f"{kind}_{len(self._nodes)}_{i}" for i in range(outs)]
        return self._add(kind, inputs, names, domain, attributes)

    def to_bytes(self) -> bytes:
        """Return the whole graph as the content of one `.onnx` file, up to 2 GB."""
        return self._model([protobuf.tensor(n, array) for n, array in self._constants.items()])

    def to_parts(self) -> tuple[bytes, Iterator[tuple[str, Array]]]:
        """Return the graph without its large constants, and these with their names.

        The model declares them as external, so that ONNX Runtime takes them from memory. The graph
        releases each constant as it is taken, so they are not all in memory twice.
        """
        constants = self._constants.items()
        large = [name for name, array in constants if array.nbytes > _SMALL]
        model = self._model(
            [
                protobuf.external_tensor(n, a) if n in large else protobuf.tensor(n, a)
                for n, a in constants
            ]
        )
        return model, ((name, np.asarray(self._constants.pop(name), order="C")) for name in large)

    def _add(
        self,
        kind: str,
        inputs: Sequence[str],
        outputs: list[str],
        domain: str = "",
        attributes: Mapping[str, Attribute] | None = None,
    ) -> list[str]:
        name = f"{kind}_{len(self._nodes)}"
        self._nodes.append(
            protobuf.node(
                kind, inputs, outputs, name=name, domain=domain, attributes=attributes or {}
            )
        )
        return outputs

    def _model(self, constants: list[bytes]) -> bytes:
        return protobuf.model(
            self._nodes,
            constants,
            self._inputs,
            self._outputs,
            opsets=_OPSETS,
            ir_version=_IR_VERSION,
        )
