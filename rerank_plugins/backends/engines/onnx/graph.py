"""An ONNX graph under construction: its nodes and its constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rerank_plugins._optional import require
from rerank_plugins.backends.engines.onnx.tensors import Array

__all__ = ["CONTRIB", "Graph"]

CONTRIB = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""

_OPSET = 20
_IR_VERSION = 9
_SMALL = 1024
"""Bytes up to which a constant stands in the model itself, where shape inference reads it."""


class Graph:
    """Collects nodes and constants; every method that adds one returns the name of its value."""

    def __init__(self) -> None:
        self._onnx = require("onnx", extra="onnx")
        self._nodes: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._constants: dict[str, Array] = {}

    def input(self, name: str, shape: Sequence[str | int]) -> str:
        """Declare an int32 input."""
        kind = self._onnx.TensorProto.INT32
        self._inputs.append(self._onnx.helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, value: str, name: str, shape: Sequence[str | int]) -> None:
        """Give a float32 value out under this name."""
        self.op("Identity", value, out=name)
        kind = self._onnx.TensorProto.FLOAT
        self._outputs.append(self._onnx.helper.make_tensor_value_info(name, kind, shape))

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

    def op(
        self, kind: str, *inputs: str, domain: str = "", out: str | None = None, **attributes: Any
    ) -> str:
        """Add a node of one output. An empty input name leaves an optional input out."""
        return self.split(kind, *inputs, domain=domain, outs=[out] if out else 1, **attributes)[0]

    def split(
        self,
        kind: str,
        *inputs: str,
        domain: str = "",
        outs: Sequence[str] | int,
        **attributes: Any,
    ) -> list[str]:
        """Add a node of several outputs."""
        name = f"{kind}_{len(self._nodes)}"
        names = [f"{name}_{i}" for i in range(outs)] if isinstance(outs, int) else list(outs)
        node = self._onnx.helper.make_node(
            kind, inputs, names, name=name, domain=domain, **attributes
        )
        self._nodes.append(node)
        return names

    def to_model(self) -> Any:
        """Return the whole graph as one `onnx.ModelProto`, up to 2 GB."""
        make = self._onnx.numpy_helper.from_array
        return self._model(
            [make(np.array(a, order="C", copy=None), n) for n, a in self._constants.items()]
        )

    def to_split_model(self) -> tuple[Any, dict[str, Array]]:
        """Return an `onnx.ModelProto` without its large constants, and these by name.

        The model says that they are external, which lets ONNX Runtime take them from memory.
        """
        make = self._onnx.numpy_helper.from_array
        large = {
            n: np.array(a, order="C", copy=None)
            for n, a in self._constants.items()
            if a.nbytes > _SMALL
        }
        small = [make(a, n) for n, a in self._constants.items() if n not in large]
        return self._model([*small, *(self._declared(n, a) for n, a in large.items())]), large

    def _declared(self, name: str, value: Array) -> Any:
        kind = self._onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        tensor = self._onnx.TensorProto(
            name=name,
            data_type=kind,
            dims=value.shape,
            data_location=self._onnx.TensorProto.EXTERNAL,
        )
        for key, text in (("location", "memory"), ("offset", "0"), ("length", str(value.nbytes))):
            tensor.external_data.add(key=key, value=text)
        return tensor

    def _model(self, constants: list[Any]) -> Any:
        helper = self._onnx.helper
        graph = helper.make_graph(
            self._nodes, "encoder", self._inputs, self._outputs, initializer=constants
        )
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid(CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
