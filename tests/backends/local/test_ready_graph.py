"""ONNX graphs that come ready: run as they are, and never in silence."""

from __future__ import annotations

import json
import os
import shutil
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers", reason="needs the extra `local`")

import huggingface_hub
from safetensors.numpy import load_file, save_file

from rerank_plugins.backends.local import LocalBackend
from rerank_plugins.backends.local.onnx.build.build import build_encoder
from rerank_plugins.errors import BackendError, ConfigError

QUERY, DOCUMENTS = "what is a panda?", ["hi", "The giant panda is a bear.", "Paris " * 30]
COMMIT = "d" * 40


@pytest.fixture
def plain(checkpoint):
    return Path(checkpoint("bert"))


@pytest.fixture
def folder(plain, tmp_path):
    """What the hub's ONNX community publishes: no weights but those in the graph."""
    folder = tmp_path / "ready"
    shutil.copytree(plain, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(build_encoder(plain))
    return folder


def scores(folder, **options):
    with LocalBackend(folder, **options) as backend:
        return list(backend.score(QUERY, DOCUMENTS))


def test_a_graph_without_weights_runs(plain, folder):
    backend = LocalBackend(folder)
    assert list(backend.score(QUERY, DOCUMENTS)) == pytest.approx(scores(plain), abs=1e-6)
    facts = backend.describe()
    assert facts["graph"] == "onnx/model.onnx"
    assert str(facts["verified"]).startswith("no")
    assert facts["engine_chosen"] == "the model is an ONNX graph"
    assert "onnx/model.onnx" in backend.model_files().paths


@pytest.mark.parametrize("options", [{}, {"engine": "onnx"}, {"onnx_file": "onnx/model.onnx"}])
def test_a_graph_runs_where_the_weights_beside_it_are_pickled(plain, folder, options):
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    backend = LocalBackend(folder, **options)
    assert list(backend.score(QUERY, DOCUMENTS)) == pytest.approx(scores(plain), abs=1e-6)
    assert backend.describe()["graph"] == "onnx/model.onnx"


def test_pickled_weights_without_a_graph_say_what_to_do(folder):
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    (folder / "onnx" / "model.onnx").unlink()
    with pytest.raises(ConfigError, match="convert it, or pass `allow_pickle=True`"):
        scores(folder)


def test_the_graph_that_is_named_runs_in_place_of_the_weights(plain, folder, tmp_path):
    """The other one's weights are negative, so that it is known by its scores."""
    turned = tmp_path / "turned"
    shutil.copytree(plain, turned)
    _negate_head(turned)
    (folder / "onnx" / "model_quantized.onnx").write_bytes(build_encoder(turned))
    shutil.copyfile(plain / "model.safetensors", folder / "model.safetensors")
    named = scores(folder, onnx_file="onnx/model_quantized.onnx", scale="logit")
    assert named == pytest.approx([-x for x in scores(plain, scale="logit")], abs=1e-5)
    assert scores(folder, scale="logit") == pytest.approx(scores(plain, scale="logit"), abs=1e-6)
    names = {LocalBackend(folder, onnx_file=name).name for name in (None, "onnx/model.onnx")}
    assert len(names) == 2


def test_graphs_of_one_commit_have_names_of_their_own(folder, monkeypatch):
    shutil.copyfile(folder / "onnx" / "model.onnx", folder / "onnx" / "model_quantized.onnx")
    snapshot = folder.rename(folder.with_name(COMMIT))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(snapshot))
    graphs = (None, "onnx/model_quantized.onnx")
    names = [LocalBackend("owner/ready", onnx_file=name).name for name in graphs]
    assert len({*names}) == len(names)


def test_the_name_changes_with_the_weights_beside_a_graph(folder):
    """Large graphs keep them in a file whose name is in the graph."""
    graph = folder / "onnx" / "model.onnx"
    graph.write_bytes(graph.read_bytes() + _unknown_field(b"weights.bin"))
    names = set()
    for content in (b"1", b"2"):
        (folder / "onnx" / "weights.bin").write_bytes(content * 99)
        names.add(LocalBackend(folder).name)
        (folder / "onnx" / "other.bin").write_bytes(content * 99)
        names.add(LocalBackend(folder).name)
    assert len(names) == 2


def test_the_name_changes_with_the_graph_that_may_run_beside_the_weights(plain, folder):
    shutil.copyfile(plain / "model.safetensors", folder / "model.safetensors")
    before = LocalBackend(folder).name
    (folder / "onnx" / "model.onnx").write_bytes(b"another")
    assert LocalBackend(folder).name != before


@pytest.mark.parametrize(("own", "said"), [(2, 1), (1, 2), (2, 3)])
def test_a_graph_of_other_labels_is_refused(own, said, folder, plain, tmp_path):
    """With two logits to a pair, each pair would get a logit of another one."""
    other = tmp_path / "other"
    shutil.copytree(plain, other)
    weights = load_file(other / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = np.repeat(weights[name], own, axis=0)
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    (folder / "onnx" / "model.onnx").write_bytes(build_encoder(other))
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {str(index): f"LABEL_{index}" for index in range(said)}
    (folder / "config.json").write_text(json.dumps(config))
    label = None if said == 1 else 1
    with pytest.raises(ConfigError, match=rf"shape \(1, {own}\) for one pair, .* says {said} "):
        scores(folder, label=label)


def test_of_several_unusual_graphs_one_must_be_named(folder):
    graph = folder / "onnx" / "model.onnx"
    shutil.copyfile(graph, folder / "onnx" / "model_int8.onnx")
    graph.rename(folder / "onnx" / "model_fp16.onnx")
    with pytest.raises(ConfigError, match=r"several.*`onnx_file`: onnx/model_fp16.onnx, onnx/mod"):
        scores(folder)
    with pytest.raises(ConfigError, match=r"no ONNX graph 'onnx/model.onnx'; it has: onnx/model_f"):
        scores(folder, onnx_file="onnx/model.onnx")
    assert len(scores(folder, onnx_file="onnx/model_int8.onnx")) == len(DOCUMENTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "torch"}, "is an ONNX graph, which the ONNX engine runs on the CPU"),
        ({"device": "cuda"}, "is an ONNX graph, which the ONNX engine runs on the CPU"),
        ({"dtype": "int8"}, "runs in the dtype that it has"),
    ],
)
def test_settings_that_a_graph_can_not_follow_are_told(folder, options, message):
    with pytest.raises(ConfigError, match=message):
        scores(folder, **options)


def test_a_graph_of_one_number_per_token_is_told(folder):
    """Such as one that was exported from another head; two tokens look like two labels."""
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"0": "no", "1": "yes"}
    (folder / "config.json").write_text(json.dumps(config))
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node("Cast", ["input_ids"], ["logits"], to=onnx.TensorProto.FLOAT)
    inputs, outputs = (
        [onnx.helper.make_tensor_value_info(name, kind, ["b", "s"])]
        for name, kind in (
            ("input_ids", onnx.TensorProto.INT64),
            ("logits", onnx.TensorProto.FLOAT),
        )
    )
    graph = onnx.helper.make_graph([node], "g", inputs, outputs)
    opset = onnx.helper.make_opsetid("", 17)
    whole = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9)
    onnx.save(whole, folder / "onnx" / "model.onnx")
    with pytest.raises(BackendError, match="logits of the shape "):
        scores(folder, label="yes")


@pytest.mark.parametrize("with_weights", [False, True])
def test_a_graph_with_a_loop_does_not_run(with_weights, plain, folder):
    onnx = pytest.importorskip("onnx")
    if with_weights:
        shutil.copyfile(plain / "model.safetensors", folder / "model.safetensors")
    graph = onnx.load(folder / "onnx" / "model.onnx")
    graph.graph.node.append(onnx.helper.make_node("Loop", ["", ""], []))
    onnx.save(graph, folder / "onnx" / "model.onnx")
    with pytest.raises(ConfigError, match="the operator Loop, which may never end"):
        scores(folder, onnx_file="onnx/model.onnx")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes pipes")
@pytest.mark.parametrize(
    "name", ["onnx/model.onnx", "onnx/model.onnx_data", "onnx/model.onnx.data"]
)
def test_a_pipe_is_no_graph(name, folder):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(ConfigError, match="is a pipe, a device or a socket"):
        scores(folder)


@pytest.mark.parametrize("name", ["../x.onnx", "/x.onnx", "model.bin", "", 3])
def test_what_is_no_path_of_a_graph_is_refused(name):
    with pytest.raises(ConfigError, match="`onnx_file` must be the path"):
        LocalBackend("m", onnx_file=name)


def test_a_graph_without_its_tokenizer_is_told(folder):
    for file in ("config.json", "tokenizer.json"):
        (folder / file).unlink()
    with pytest.raises(ConfigError, match="an ONNX graph without the rest of its model"):
        scores(folder)


def test_a_graph_of_the_hub_is_fetched_where_there_are_no_weights(folder, monkeypatch):
    snapshot = folder.rename(folder.with_name(COMMIT))
    asked = []

    def download(model, **options):
        asked.append(options["allow_patterns"])
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    backend = LocalBackend("owner/ready")
    assert len(backend.score(QUERY, DOCUMENTS)) == len(DOCUMENTS)
    assert not any("onnx" in pattern for pattern in asked[0])
    assert {"onnx/model.onnx", "onnx/model.onnx_data*"} <= set(asked[1])
    assert not any(fnmatch("sub/model.safetensors", pattern) for pattern in asked[1])


def _unknown_field(content: bytes) -> bytes:
    """Encode a field that readers of ONNX skip."""
    return b"\xfa\x3f" + bytes([len(content)]) + content


def _negate_head(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = np.negative(weights[name])
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
