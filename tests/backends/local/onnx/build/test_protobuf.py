"""Our ONNX writer against the `onnx` package."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx", reason="our writer is compared with the package")

import onnx

from rerank_plugins.backends.local.onnx.build.graph import CONTRIB, Graph


def small_graph():
    graph = Graph()
    x = graph.input("x", ["n", 4])
    weight = graph.constant(np.arange(-6.0, 6.0, dtype=np.float32).reshape(3, 4))
    y = graph.op("Gemm", x, weight, graph.constant(np.ones(3, np.float16)), transB=1, alpha=0.5)
    first, second = graph.split("Split", y, outs=2, axis=-1, num_outputs=2)
    first = graph.op("Gelu", first, approximate="tanh")
    second = graph.op("Transpose", second, perm=[1, 0])
    y = graph.op("QuickGelu", graph.op("MatMul", first, second), domain=CONTRIB, alpha=-1.0)
    graph.output(graph.op("Reshape", y, graph.integers(-1, 300)), "y", ["n", 300])
    return graph


def test_files_equal_those_of_the_onnx_package():
    """Read and written again by the package, not one byte changes."""
    ours = small_graph().to_bytes()

    assert ours == onnx.load_from_string(ours).SerializeToString(deterministic=True)


def test_the_onnx_package_reads_every_field():
    graph = onnx.load_from_string(small_graph().to_bytes()).graph
    attributes = {
        a.name: onnx.helper.get_attribute_value(a) for node in graph.node for a in node.attribute
    }
    constants = [onnx.numpy_helper.to_array(tensor).tolist() for tensor in graph.initializer]

    assert {
        "alpha": -1.0,
        "approximate": b"tanh",
        "axis": -1,
        "num_outputs": 2,
        "perm": [1, 0],
        "transB": 1,
    } == attributes
    assert [-1, 300] in constants
    assert np.arange(-6.0, 6.0).reshape(3, 4).tolist() in constants
    assert ["x"] == [i.name for i in graph.input]
    assert ["n", 4] == [
        d.dim_param or d.dim_value for d in graph.input[0].type.tensor_type.shape.dim
    ]


def test_large_constants_stay_outside_of_split_models():
    graph = Graph()
    large = np.ones((64, 64), np.float32)
    graph.constant(large, "large")
    graph.constant(np.ones(3, np.int64), "small")
    model, outside = graph.to_parts()
    tensors = {tensor.name: tensor for tensor in onnx.load_from_string(model).graph.initializer}

    assert ["large"] == [name for name, _ in outside]
    assert onnx.TensorProto.EXTERNAL == tensors["large"].data_location
    assert [64, 64] == list(tensors["large"].dims)
    assert [1, 1, 1] == onnx.numpy_helper.to_array(tensors["small"]).tolist()
