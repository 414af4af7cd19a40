"""Reading safetensors files: what is right, and what is broken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rerank_plugins.backends.local.engine import UnsupportedByEngine
from rerank_plugins.backends.local.onnx.build.weights import Tensors
from rerank_plugins.errors import ConfigError


def write(folder: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_tensors_equal_what_was_written(tmp_path: Path):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    random = np.random.default_rng(3)
    written = {
        "half": random.standard_normal((3, 5)).astype(np.float16),
        "long": random.integers(9, size=7),
        "matrix": random.standard_normal((300, 70)).astype(np.float32),
        "scalar": np.array(4.5, np.float32),
    }
    save_file(written, tmp_path / "model.safetensors")
    tensors = Tensors(tmp_path)

    assert sorted(written) == sorted(tensors)
    for name, expected in written.items():
        assert expected.dtype == tensors[name].dtype
        assert np.array_equal(expected, tensors[name])


def test_bfloat16_becomes_float32(tmp_path: Path):
    data = np.array([0x3FC0, 0xC000], "<u2").tobytes()  # the upper halves of 1.5 and -2.0
    write(tmp_path, {"x": entry("BF16", offsets=(0, 4))}, data)

    assert [1.5, -2.0] == Tensors(tmp_path)["x"].tolist()


def test_tensors_can_be_empty(tmp_path: Path):
    write(tmp_path, {"x": entry(shape=(0, 3), offsets=(0, 0))})

    assert (0, 3) == Tensors(tmp_path)["x"].shape


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path):
    """Each reader would take another one."""
    for name in ("a", "b"):
        write(tmp_path, {"x": entry()}, b"\0" * 8).rename(tmp_path / name)
    index = {"weight_map": {"x": "a", "y": "b"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(ConfigError, match="'x' is in 'a' too"):
        Tensors(tmp_path)


@pytest.mark.parametrize(
    ("header", "data"),
    [
        (b"not json", b""),
        (b"[1, 2]", b""),
        ({"x": entry(offsets=(0, 4))}, b"\0" * 8),
        ({"x": entry(offsets=(4, 12))}, b"\0" * 8),
        ({"x": entry(), "y": entry(offsets=(4, 12))}, b"\0" * 12),
        ({"x": entry(), "y": entry()}, b"\0" * 8),
        ({"x": entry(), "y": entry(offsets=(12, 20))}, b"\0" * 20),
        ({"x": entry()}, b"\0" * 9),
        ({"x": entry(), "y": entry("F8_E4M3", offsets=(0, 2))}, b"\0" * 8),
        ({"x": entry(offsets=(0.0, 8))}, b"\0" * 8),
        ({"x": entry(offsets=("0", 8))}, b"\0" * 8),
        ({"x": entry(shape=(True, 2))}, b"\0" * 8),
        (b'{"x": %b, "x": %b}' % ((json.dumps(entry()).encode(),) * 2), b"\0" * 8),
        ({"x": entry(offsets=(-8, 0))}, b"\0" * 8),
        ({"x": entry(shape=("a",))}, b"\0" * 8),
        ({"x": {"dtype": "F32"}}, b"\0" * 8),
    ],
)
def test_broken_files_are_refused(header, data, tmp_path: Path):
    write(tmp_path, header, data)

    with pytest.raises(ConfigError, match="is broken"):
        Tensors(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x10\0\0\0\0\0\0\0{}"])
def test_truncated_files_are_refused(content: bytes, tmp_path: Path):
    (tmp_path / "model.safetensors").write_bytes(content)

    with pytest.raises(ConfigError, match="is broken"):
        Tensors(tmp_path)


def test_a_folder_without_safetensors_is_refused(tmp_path: Path):
    with pytest.raises(UnsupportedByEngine, match=r"no model\.safetensors"):
        Tensors(tmp_path)


def test_unknown_types_are_left_out(tmp_path: Path):
    """They matter only where they are asked for."""
    write(
        tmp_path, {"x": entry("F8_E4M3", offsets=(0, 2)), "y": entry(offsets=(2, 10))}, b"\0" * 10
    )

    assert ["y"] == list(Tensors(tmp_path))
