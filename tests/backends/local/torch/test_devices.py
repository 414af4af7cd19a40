"""Several devices: each pair is scored once, in order, by the next free device."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("transformers", reason="needs the extra `local`")

import torch
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins.backends.local.checkpoint import resolve
from rerank_plugins.backends.local.engine import EngineSettings
from rerank_plugins.backends.local.tokenizer import Pairs
from rerank_plugins.backends.local.torch import engine as torch_engine
from rerank_plugins.backends.local.torch.devices import DevicePool
from rerank_plugins.backends.local.torch.engine import load


def numbered(lengths: list[int]) -> Pairs:
    """Pairs whose tokens are their number, so that a score can tell whose it is."""
    ids = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    return Pairs(ids, np.zeros_like(ids), np.concatenate([[0], np.cumsum(lengths)]))


class Worker:
    """Scores a pair by its first token; may wait for another, or fail."""

    gives_tokens = False

    def __init__(self, budget: int = 10_000) -> None:
        self.batch_tokens = budget
        self.seen: list[int] = []
        self.before: Callable[[], object] = lambda: None

    def score(self, pairs: Pairs) -> np.ndarray:
        self.before()
        numbers = pairs.ids[pairs.offsets[:-1]]
        self.seen += numbers.tolist()
        return numbers.astype(np.float64)


@given(
    st.lists(st.integers(1, 900), min_size=1, max_size=60),
    st.lists(st.integers(1, 5000), min_size=2, max_size=4),
)
def test_each_pair_is_scored_once_and_stays_in_order(
    lengths: list[int], budgets: list[int]
) -> None:
    workers = [Worker(budget) for budget in budgets]
    fleet = DevicePool(workers)
    scores = fleet.score(numbered(lengths))
    fleet.close()

    assert list(range(len(lengths))) == scores.tolist()
    assert list(range(len(lengths))) == sorted(n for worker in workers for n in worker.seen)


def test_one_call_uses_all_devices() -> None:
    """Two parts meet, which one worker alone never could."""
    meeting = threading.Barrier(2, timeout=30)
    workers = [Worker(), Worker()]
    for worker in workers:
        worker.before = meeting.wait
    fleet = DevicePool(workers)
    fleet.score(numbered([512] * 8))
    fleet.close()

    assert [4, 4] == [len(worker.seen) for worker in workers]


def test_a_small_call_is_not_split() -> None:
    workers = [Worker(), Worker()]
    fleet = DevicePool(workers)
    fleet.score(numbered([50] * 20))
    fleet.close()

    assert [0, 20] == sorted(len(worker.seen) for worker in workers)


def test_a_free_worker_takes_the_next_part() -> None:
    """While one is stuck, the other does the rest."""
    stuck, free = Worker(2048), Worker(2048)
    rest_done = threading.Event()
    stuck.before = lambda: rest_done.wait(30)
    free.before = lambda: rest_done.set() if len(free.seen) >= 4 * 7 else None
    fleet = DevicePool([stuck, free])
    scores = fleet.score(numbered([512] * 4 * 9))
    fleet.close()

    assert list(range(36)) == scores.tolist()
    assert len(stuck.seen) < len(free.seen)


def test_an_error_reaches_only_its_call() -> None:
    """What its call had left is given up, and the workers go on."""
    workers = [Worker(2048), Worker(2048)]

    def fail() -> None:
        raise RuntimeError("broken")

    fleet = DevicePool(workers)
    for worker in workers:
        worker.before = fail
    with pytest.raises(RuntimeError, match="broken"):
        fleet.score(numbered([512] * 40))
    for worker in workers:
        worker.before = lambda: None

    assert list(range(40)) == fleet.score(numbered([512] * 40)).tolist()
    fleet.close()


def test_replicas_score_as_one_does(
    checkpoint: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three models on this processor, called by several threads at once."""
    resolved = resolve(checkpoint("bert"))
    requests = [(f"panda {i}", [f"bear {i} " * (j * 7 % 60) for j in range(40)]) for i in range(4)]
    alone = load(resolved, EngineSettings(device="cpu"))
    expected = alone.logits(requests)
    monkeypatch.setattr(torch_engine, "choose_devices", lambda _: [torch.device("cpu")] * 3)
    engine = load(resolved, EngineSettings(device="cpu", batch_tokens=2048))
    with ThreadPoolExecutor(4) as pool:
        for found_logits in pool.map(engine.logits, [requests] * 4):
            for logits, wanted in zip(found_logits, expected, strict=True):
                assert wanted == pytest.approx(logits, rel=1e-6, abs=1e-5)
    assert 3 == len(engine.describe()["devices"])
    assert alone.name == engine.name
    engine.close()
    alone.close()
