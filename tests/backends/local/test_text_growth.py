"""Tokenizers that would make gigabytes of a short text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("tokenizers", reason="needs the extra `onnx`")

from tokenizers import Regex, Tokenizer, models, normalizers

from rerank_plugins.backends.local import LocalBackend
from rerank_plugins.backends.local.text_growth import check_growth
from rerank_plugins.errors import ConfigError

FIFTY = [normalizers.Replace("a", "a" * 50)]


def tokenizer(normalizer):
    made = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    made.normalizer = normalizer
    return made


@pytest.mark.parametrize(
    "normalizer",
    [
        normalizers.Sequence(FIFTY * 6),
        normalizers.Sequence([normalizers.NFC(), normalizers.Sequence(FIFTY), *FIFTY]),
        normalizers.Replace(Regex(""), "a" * 100_000),
        normalizers.Prepend("x" * 50_000_000),
    ],
)
def test_what_grows_without_measure_is_refused(normalizer):
    with pytest.raises(ConfigError, match="1000 times as long, or puts as many characters before"):
        check_growth(tokenizer(normalizer))


@pytest.mark.parametrize(
    "normalizer",
    [
        None,
        normalizers.BertNormalizer(),
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]),
        normalizers.Sequence([normalizers.Replace(sign, " " + sign + " ") for sign in ".,;:!"]),
    ],
)
def test_what_real_tokenizers_do_is_not(normalizer):
    check_growth(tokenizer(normalizer))


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_such_a_model_does_not_load(engine, checkpoint, tmp_path):
    folder = Path(shutil.copytree(checkpoint("bert"), tmp_path / "model"))
    content = json.loads((folder / "tokenizer.json").read_text())
    replace = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 50}
    content["normalizer"] = {"type": "Sequence", "normalizers": [replace] * 6}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="normalizer of the tokenizer"):
        LocalBackend(folder, engine=engine, device="cpu").score("a panda", ["bear"])
