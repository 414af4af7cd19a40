"""The local backend: its contract, and its scores against sentence-transformers'."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

pytest.importorskip("torch", reason="needs the extra `local`")
pytest.importorskip("sentence_transformers", reason="needs the extra `local`")

import torch
from checkpoints import KINDS
from sentence_transformers import CrossEncoder

from rerank_plugins import Backend, ConfigError, load_backend
from rerank_plugins.backends.local import LocalBackend
from rerank_plugins.testing import BackendContract

WORDS = (
    "what is a panda the giant bear lives in China Paris capital of France 大熊猫 2024 !".split()
)


def text(seed: int, words: int) -> str:
    chosen = random.Random(seed)
    return " ".join(chosen.choice(WORDS) for _ in range(words))


def documents(seed: int, count: int = 24, longest: int = 500) -> list[str]:
    """Documents of mixed lengths; some are empty, some longer than a model can read."""
    chosen = random.Random(seed)
    lengths = [0, 1, longest, *(int(longest ** chosen.random()) for _ in range(count - 3))]
    return [text(seed + i, length) for i, length in enumerate(lengths)]


class TestLocalBERT(BackendContract):
    @pytest.fixture(autouse=True)
    def _folder(self, checkpoint: Callable[[str], str]) -> None:
        self.folder = checkpoint("bert")

    def make_backend(self) -> Backend:
        return LocalBackend(self.folder, engine="torch", device="cpu")


class TestLocalXLMRoBERTa(BackendContract):
    @pytest.fixture(autouse=True)
    def _folder(self, checkpoint: Callable[[str], str]) -> None:
        self.folder = checkpoint("xlm-roberta")

    def make_backend(self) -> Backend:
        return LocalBackend(self.folder, engine="torch", device="cpu", scale="logit")


@pytest.mark.parametrize("kind", KINDS)
def test_scores_equal_sentence_transformers(kind: str, checkpoint: Callable[[str], str]) -> None:
    """Every family, lengths from nothing to more than fits, several queries at once."""
    folder = checkpoint(kind)
    requests = [(text(seed, 4), documents(seed)) for seed in range(3)]
    reference = CrossEncoder(folder, device="cpu", max_length=512)
    pairs = [(query, document) for query, found in requests for document in found]
    logits = reference.predict(pairs, activation_fn=torch.nn.Identity()).tolist()
    chances = reference.predict(pairs, activation_fn=torch.nn.Sigmoid()).tolist()

    for scale, expected in (("logit", logits), ("probability", chances)):
        with LocalBackend(
            folder, engine="torch", device="cpu", scale=scale, max_length=512
        ) as backend:
            many = [score for scores in backend.score_many(requests) for score in scores]

            assert many == pytest.approx(expected, rel=1e-6, abs=1e-5)
            assert many[:24] == pytest.approx(backend.score(*requests[0]), rel=1e-6, abs=1e-5)
    assert max(logits) - min(logits) > 0.2, "scores that hardly differ prove nothing"
