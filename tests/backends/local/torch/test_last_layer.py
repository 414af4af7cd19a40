"""The last layer drops rows that no score needs, and only there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("transformers", reason="needs the extra `local`")

import torch

from rerank_plugins.backends.local.checkpoint import Checkpoint, resolve
from rerank_plugins.backends.local.engine import EngineSettings
from rerank_plugins.backends.local.tokenizer import Pairs, PairTokenizer
from rerank_plugins.backends.local.torch import last_layer
from rerank_plugins.backends.local.torch.last_layer import LastLayer
from rerank_plugins.backends.local.torch.model import load_model
from rerank_plugins.backends.local.torch.packed import PackedForward
from rerank_plugins.backends.local.torch.padded import PaddedForward
from tests.support.checkpoints import EVERY_KIND

DOCUMENTS = ["bear", "panda " * 60, "Where? " * 20, ""]


def loaded(folder: str) -> tuple[Any, Checkpoint, Pairs]:
    resolved = resolve(folder, max_length=256)
    model = load_model(resolved, torch.device("cpu"), torch.float64, EngineSettings())
    pairs = PairTokenizer.load(resolved, cached_tokens=0).encode([("what is a panda?", DOCUMENTS)])
    return model, resolved, pairs


def rows_of_the_last_mlp(model: Any, path: Any, pairs: Pairs) -> tuple[int, torch.Tensor]:
    """Count the rows that the end of the last layer's MLP computes."""
    stack = max(
        (part for part in model.modules() if isinstance(part, torch.nn.ModuleList)), key=len
    )
    inner = next(
        part
        for part in stack[-1].modules()
        if isinstance(part, torch.nn.Linear) and part.in_features == 128
    )
    seen: list[int] = []
    hook = inner.register_forward_hook(lambda *call: seen.append(call[2][..., 0].numel()))
    with torch.inference_mode():
        scores = path(pairs)
    hook.remove()
    return seen[0], scores


@pytest.mark.parametrize("kind", [k for k in EVERY_KIND if k.values != ("modernbert",)])
def test_packed_layers_compute_one_row_per_pair(
    kind: str, checkpoint: Callable[[str], str]
) -> None:
    """And the scores stay, to the last digits."""
    model, resolved, pairs = loaded(checkpoint(kind))
    with torch.inference_mode():
        expected = PaddedForward(model, resolved)(pairs)
    path = PackedForward(model, resolved)
    rows, scores = rows_of_the_last_mlp(model, path, pairs)

    assert "pooled rows only" == path.facts["last_layer"]
    assert len(DOCUMENTS) == rows
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["bert", "distilbert", "xlm-roberta"])
def test_padded_layers_compute_one_row_per_pair(
    kind: str, checkpoint: Callable[[str], str]
) -> None:
    model, resolved, pairs = loaded(checkpoint(kind))
    with torch.inference_mode():
        expected = PaddedForward(model, resolved)(pairs)
    path = PaddedForward(model, resolved, check=True)
    rows, scores = rows_of_the_last_mlp(model, path, pairs)

    assert len(DOCUMENTS) == rows
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("save", [PackedForward, lambda *given: PaddedForward(*given, check=True)])
def test_a_mean_needs_all_rows(save: Any, checkpoint: Callable[[str], str]) -> None:
    model, resolved, _ = loaded(checkpoint("modernbert"))

    assert "the head reads all rows" == save(model, resolved).facts["last_layer"]


@pytest.mark.parametrize("save", [PackedForward, lambda *given: PaddedForward(*given, check=True)])
def test_a_layer_that_is_not_what_it_seems_is_computed_whole(
    save: Any, checkpoint: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is noticed when the model loads, and the layer is left as it was."""
    model, resolved, pairs = loaded(checkpoint("bert"))
    with torch.inference_mode():
        expected = PaddedForward(model, resolved)(pairs)
        monkeypatch.setattr(
            LastLayer,
            "_run_post_norm",
            lambda this, *states: this._whole(
                *[this.select(s).flip(-1) if this.select else s for s in states]
            ),
        )
        path = save(model, resolved)

        assert "scores would differ by" in path.facts["last_layer"]
        torch.testing.assert_close(path(pairs), expected, rtol=0, atol=1e-9)


def test_an_unknown_layer_is_computed_whole(
    checkpoint: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, resolved, _ = loaded(checkpoint("qwen3"))
    monkeypatch.setattr(last_layer, "_PRE_NORM", {})

    assert "Qwen3DecoderLayer is a layer of unknown form" in str(
        PackedForward(model, resolved).facts["last_layer"]
    )
