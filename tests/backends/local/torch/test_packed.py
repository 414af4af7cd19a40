"""Scoring without padding: equal to padded scores, and never across pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("transformers", reason="needs the extra `local`")

import numpy as np
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins.backends.local.checkpoint import Checkpoint, resolve
from rerank_plugins.backends.local.engine import EngineSettings
from rerank_plugins.backends.local.tokenizer import Pairs, PairTokenizer
from rerank_plugins.backends.local.torch import packed as module
from rerank_plugins.backends.local.torch.model import load_model
from rerank_plugins.backends.local.torch.packed import CannotPack, PackedForward
from rerank_plugins.backends.local.torch.packing import pack
from rerank_plugins.backends.local.torch.padded import PaddedForward
from tests.support.checkpoints import EVERY_KIND

DOCUMENTS = ["", "bear", "<pad> a [PAD] b <pad>", "panda " * 60, "Where? " * 400, "a b c d e f"]


def loaded(folder: str, dtype: Any = torch.float32) -> tuple[Any, Checkpoint]:
    resolved = resolve(folder, max_length=512)
    return load_model(resolved, torch.device("cpu"), dtype, EngineSettings()), resolved


def pairs_of(resolved: Checkpoint, documents: list[str] = DOCUMENTS) -> Pairs:
    return PairTokenizer.load(resolved, cached_tokens=0).encode([("what is a panda?", documents)])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_packed_scores_equal_padded_ones(
    kind: str, dtype: Any, tolerance: float, checkpoint: Callable[[str], str]
) -> None:
    """Also for empty, cut and padding-token documents, and in float64 to the last digits."""
    model, resolved = loaded(checkpoint(kind), dtype)
    pairs = pairs_of(resolved)
    with torch.inference_mode():
        expected = PaddedForward(model, resolved)(pairs)
        actual = PackedForward(model, resolved)(pairs)

    assert expected.std() > 0.05, "scores that hardly differ prove nothing"
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("_poisoned_filling")
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_the_padding_of_a_batch_changes_no_score(
    kind: str, checkpoint: Callable[[str], str]
) -> None:
    model, resolved = loaded(checkpoint(kind), torch.float64)
    path = PackedForward(model, resolved)
    some = (pairs_of(resolved, [*DOCUMENTS, "a " * more]) for more in range(9))
    pairs = next(p for p in some if len(path.pack(p).filled().ids) > len(path.pack(p).ids))
    with torch.inference_mode():
        expected = PaddedForward(*loaded(checkpoint(kind), torch.float64))(pairs)
        torch.testing.assert_close(path(pairs), expected, rtol=1e-10, atol=1e-10)


@given(st.lists(st.integers(1, 512), min_size=1, max_size=60))
def test_batches_have_few_sizes(lengths: list[int]) -> None:
    """64 from one power of 2 to the next, and what was there is there."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.arange(1, offsets[-1] + 1, dtype=np.int32)
    plain = pack(Pairs(ids, ids, offsets), pooling="first", first_position=None, pad=None)
    filled = plain.filled()
    size = len(filled.ids)
    step = max(1, 2 ** (len(ids).bit_length() - 7))

    assert 0 == size % step
    assert 0 <= size - len(ids) < step
    for name in ("ids", "positions", "types"):
        np.testing.assert_array_equal(getattr(filled, name)[: len(ids)], getattr(plain, name))
        assert not getattr(filled, name)[len(ids) :].any()
    np.testing.assert_array_equal(filled.offsets, plain.offsets)


@pytest.mark.parametrize("kind", ["bert", "modernbert", "qwen3", "xlm-roberta"])
def test_a_pair_does_not_see_its_neighbours(kind: str, checkpoint: Callable[[str], str]) -> None:
    """Changing one document changes one score; order and company change none."""
    model, resolved = loaded(checkpoint(kind), torch.float64)
    path = PackedForward(model, resolved)
    with torch.inference_mode():
        scores = path(pairs_of(resolved))
        changed = path(pairs_of(resolved, [*DOCUMENTS[:3], "something else", *DOCUMENTS[4:]]))
        backwards = path(pairs_of(resolved, DOCUMENTS[::-1]))
        alone = torch.cat([path(pairs_of(resolved, [document])) for document in DOCUMENTS])

    different = (scores - changed).abs() > 1e-9
    assert [3] == different.nonzero().flatten().tolist()
    torch.testing.assert_close(backwards.flip(0), scores, rtol=0, atol=1e-10)
    torch.testing.assert_close(alone, scores, rtol=0, atol=1e-10)


def test_attention_without_boundaries_raises(checkpoint: Callable[[str], str]) -> None:
    """A padded call of a packed model fails, rather than attend across pairs."""
    model, resolved = loaded(checkpoint("bert"))
    PackedForward(model, resolved)
    with pytest.raises(RuntimeError, match="boundaries of the pairs did not reach"):
        model(input_ids=torch.ones(2, 4, dtype=torch.long))


def test_a_model_outside_the_attention_interface_is_refused(
    checkpoint: Callable[[str], str],
) -> None:
    resolved = resolve(checkpoint("bert"))
    config = transformers.DebertaV2Config(
        vocab_size=500,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        num_labels=1,
    )
    model = transformers.DebertaV2ForSequenceClassification(config)
    with pytest.raises(CannotPack, match="does not use the attention interface"):
        PackedForward(model, resolved)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("find_pooling", "scores would differ by"),
        ("_first_position", "scores would differ by"),
        ("_attention", "RuntimeError: no kernel"),
    ],
)
def test_wrong_scores_are_noticed_before_use(
    broken: str, message: str, checkpoint: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is left as it was, so that padded scoring still works."""

    def no_kernel(*_: object, **__: object) -> None:
        raise RuntimeError("no kernel")

    model, resolved = loaded(checkpoint("xlm-roberta"))
    wrong = {"find_pooling": lambda *_: "last", "_first_position": lambda _: None}
    monkeypatch.setattr(module, broken, wrong.get(broken, no_kernel))
    pairs = pairs_of(resolved)
    with torch.inference_mode():
        expected = PaddedForward(model, resolved)(pairs)
        with pytest.raises(CannotPack, match=message):
            PackedForward(model, resolved)

        assert torch.equal(expected, PaddedForward(model, resolved)(pairs))


def test_padding_tokens_take_no_part(checkpoint: Callable[[str], str]) -> None:
    """Padded scores do not change with what stands in the padding."""
    model, resolved = loaded(checkpoint("bert"), torch.float64)
    pairs = pairs_of(resolved, ["", "bear", "panda " * 60])
    with torch.inference_mode():
        expected = PaddedForward(model, resolved)(pairs)
        model.bert.embeddings.word_embeddings.weight[model.config.pad_token_id] = 1e3

        torch.testing.assert_close(PaddedForward(model, resolved)(pairs), expected)
