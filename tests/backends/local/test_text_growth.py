"""Tokenizers that would make gigabytes of a short text."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("tokenizers", reason="needs the extra `onnx`")

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from rerank_plugins.backends.local import LocalBackend
from rerank_plugins.backends.local.text_growth import check_growth
from rerank_plugins.errors import ConfigError

FIFTY = [normalizers.Replace("a", "a" * 50)]


def tokenizer(normalizer=None, pre_tokenizer=None, model=None):
    made = Tokenizer(model or models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    made.normalizer = normalizer
    if pre_tokenizer is not None:
        made.pre_tokenizer = pre_tokenizer
    return made


def table(longest):
    """A table of characters of SentencePiece, with an empty index."""
    index = bytes(4 * 256)
    texts = b"a\0" + b"b" * longest + b"\0"
    charsmap = base64.b64encode(len(index).to_bytes(4, "little") + index + texts).decode()
    return normalizers.Precompiled(base64.b64decode(charsmap))


@pytest.mark.parametrize(
    "normalizer",
    [
        normalizers.Sequence(FIFTY * 6),
        normalizers.Sequence([normalizers.NFC(), normalizers.Sequence(FIFTY), *FIFTY]),
        normalizers.Replace(Regex(""), "a" * 100_000),
        normalizers.Prepend("x" * 50_000_000),
        normalizers.Sequence([normalizers.Prepend("x" * 900)] * 2),
        normalizers.Sequence([normalizers.ByteLevel()] * 24),
        table(100_000),
        normalizers.Sequence([table(70), table(70)]),
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
        normalizers.Sequence([table(33), normalizers.Replace(Regex(" {2,}"), "▁" * 9)] * 2),
    ],
)
def test_what_real_tokenizers_do_is_not(normalizer):
    check_growth(tokenizer(normalizer))


SPLITS = [pre_tokenizers.Whitespace()]


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (tokenizer(None, pre_tokenizers.Sequence([pre_tokenizers.ByteLevel()] * 24)), "as long"),
        (tokenizer(None, pre_tokenizers.Sequence([pre_tokenizers.Metaspace()] * 24)), "as long"),
        (tokenizer(None, pre_tokenizers.Sequence(SPLITS * 200)), "in 201 steps"),
        (
            tokenizer(model=models.WordPiece({"[UNK]": 0}, max_input_chars_per_word=10**9)),
            "words of 1000000000 characters",
        ),
        (tokenizer(model=models.BPE(continuing_subword_prefix="p" * 9_999)), "by 9999 characters"),
        (tokenizer(model=models.BPE(end_of_word_suffix="p" * 9_999)), "by 9999 characters"),
        (tokenizer(model=models.Unigram([("a", 0.0), ("a" * 200, 0.0)])), "piece of 200 chara"),
        (tokenizer(model=models.Unigram([("a", 0.0), ('a"' * 90, 0.0)])), "piece of 180 chara"),
    ],
)
def test_what_takes_hours_is_refused(made, problem):
    with pytest.raises(ConfigError, match=problem):
        check_growth(made)


@pytest.mark.parametrize(
    "made",
    [
        tokenizer(None, pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(), *SPLITS])),
        tokenizer(model=models.WordPiece({"[UNK]": 0}, max_input_chars_per_word=200)),
        tokenizer(model=models.BPE(end_of_word_suffix="</w>")),
        tokenizer(table(33), None, models.Unigram([("▁", 0.0), ('"\\' * 60, 0.0)])),
    ],
)
def test_real_pieces_are_not(made):
    check_growth(made)


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_such_a_model_does_not_load(engine, checkpoint, tmp_path):
    folder = Path(shutil.copytree(checkpoint("bert"), tmp_path / "model"))
    content = json.loads((folder / "tokenizer.json").read_text())
    replace = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 50}
    content["normalizer"] = {"type": "Sequence", "normalizers": [replace] * 6}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="normalizer of the tokenizer"):
        LocalBackend(folder, engine=engine, device="cpu").score("a panda", ["bear"])
