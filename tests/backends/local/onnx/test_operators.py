"""Graphs that may never end are refused, wherever the operator hides."""

from __future__ import annotations

import pytest

pytest.importorskip("onnx", reason="makes graphs of any kind")

import onnx
from onnx import TensorProto, helper

from rerank_plugins.backends.local.onnx.operators import check_graph
from rerank_plugins.errors import ConfigError


def value(name, kind=TensorProto.FLOAT, shape=None):
    return helper.make_tensor_value_info(name, kind, shape)


def graph(*nodes, name="g"):
    return helper.make_graph(list(nodes), name, [value("x")], [value("y")])


def loop():
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Identity", ["v"], ["w"])],
        "body",
        [value("i", TensorProto.INT64, []), value("c", TensorProto.BOOL, []), value("v")],
        [value("d", TensorProto.BOOL, []), value("w")],
    )
    return helper.make_node("Loop", ["", "true", "x"], ["y"], body=body)


def branch(*nodes):
    return helper.make_node("If", ["true"], ["y"], then_branch=graph(*nodes), else_branch=graph())


def model(*nodes, functions=()):
    return helper.make_model(graph(*nodes), functions=list(functions))


def function(*nodes):
    opset = helper.make_opsetid("", 17)
    return helper.make_function("own", "F", ["x"], ["y"], list(nodes), [opset])


IDENTITY = helper.make_node("Identity", ["x"], ["y"])
HIDDEN = {
    "at the top": model(loop()),
    "behind others": model(*[IDENTITY] * 500, loop()),
    "in a branch": model(branch(loop())),
    "in a branch of a branch": model(branch(IDENTITY, branch(IDENTITY, loop()))),
    "in a function": model(IDENTITY, functions=[function(loop())]),
    "in a branch of a function": model(IDENTITY, functions=[function(branch(loop()))]),
}


@pytest.mark.parametrize("place", HIDDEN)
def test_a_loop_is_found(place, tmp_path):
    onnx.save(HIDDEN[place], tmp_path / "model.onnx")
    with pytest.raises(ConfigError, match=r"model.onnx' has the operator Loop, which may never"):
        check_graph(tmp_path / "model.onnx")


def test_a_search_is_found(tmp_path):
    node = helper.make_node("BeamSearch", ["x"], ["y"], domain="com.microsoft")
    onnx.save(model(node), tmp_path / "model.onnx")
    with pytest.raises(ConfigError, match="the operator BeamSearch"):
        check_graph(tmp_path / "model.onnx")


def test_all_else_may_run(tmp_path):
    """Also what is only called so, and large constants, whose bytes may look like anything."""
    named = helper.make_node("Identity", ["Loop"], ["y"], name="Loop", doc_string="Loop")
    constant = helper.make_tensor("c", TensorProto.UINT8, [4], b'"\x04Lo', raw=True)
    whole = model(branch(named), IDENTITY, functions=[function(IDENTITY)])
    whole.graph.initializer.append(constant)
    onnx.save(whole, tmp_path / "model.onnx")
    check_graph(tmp_path / "model.onnx")


def weights(place):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in (("offset", "0"), ("location", place), ("length", "4")):
        tensor.external_data.add(key=key, value=text)
    return tensor


def in_graph(place):
    made = model(IDENTITY)
    made.graph.initializer.append(weights(place))
    return made


def in_sparse(place):
    made = model(IDENTITY)
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(weights(place), indices, [1]))
    return made


def in_constant(place):
    return model(branch(helper.make_node("Constant", [], ["y"], value=weights(place))))


OUTSIDE = ("sub/w.bin", ".w", "..", "../w.bin", "/w.bin", "", "*/_ORT_MEM_ADDR_/*", "sub\\w.bin")


@pytest.mark.parametrize("made", [in_graph, in_sparse, in_constant])
def test_weights_that_its_name_does_not_cover_are_refused(made, tmp_path):
    """They could be changed without another name for the scores, or past a lock."""
    for place in OUTSIDE:
        onnx.save(made(place), tmp_path / "model.onnx")
        with pytest.raises(ConfigError, match="which is no file beside it"):
            check_graph(tmp_path / "model.onnx")
    for place in ("w.onnx", "w.md", "model.safetensors"):
        onnx.save(made(place), tmp_path / "model.onnx")
        with pytest.raises(ConfigError, match=f"keeps weights in '{place}'"):
            check_graph(tmp_path / "model.onnx")
    onnx.save(made("model.onnx_data"), tmp_path / "model.onnx")
    check_graph(tmp_path / "model.onnx")


def _cut(data):
    return data[:-3]


@pytest.mark.parametrize(
    "change",
    [
        _cut,
        lambda data: b"",
        lambda data: data + b"\x3b",  # a group, which nothing may hide in
        lambda data: data + b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        lambda data: data + b"\x3a\x7f",
        lambda data: b"\xff" * 100,
    ],
)
def test_what_can_not_be_read_to_its_end_is_refused(change, tmp_path):
    file = tmp_path / "model.onnx"
    file.write_bytes(change(model(IDENTITY).SerializeToString()))
    with pytest.raises(ConfigError, match="it is no ONNX graph"):
        check_graph(file)
