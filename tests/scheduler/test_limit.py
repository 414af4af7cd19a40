"""The limit on batch size: it shrinks when memory runs out, and grows back later."""

import pytest

from rerank_plugins.scheduler import limit
from rerank_plugins.scheduler.limit import BatchLimit


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(limit, "monotonic", clock)
    return clock


def costs(limit, clock, seconds, count):
    """Return the limit after each of `count` steps of time."""
    limits = []
    for _ in range(count):
        clock.now += seconds
        limit.grow()
        limits.append(limit.cost)
    return limits


def test_it_grows_back_to_where_it_began_and_no_further(clock):
    batch = BatchLimit(640)
    assert batch.shrink(100)

    assert [100, 200] == costs(batch, clock, 30, 2)
    assert [400, 640, 640, 640] == costs(batch, clock, 60, 4)


def test_it_does_not_grow_before_it_has_shrunk(clock):
    batch = BatchLimit(640)

    assert [640] == costs(batch, clock, 1e9, 1)


def test_shrinking_to_a_cost_that_is_not_lower_does_nothing(clock):
    batch = BatchLimit(640)

    assert [True, False, True, True, False] == [batch.shrink(n) for n in (80, 320, 79, 0, 0)]
    assert 1 == batch.cost


def test_a_limit_that_fails_again_is_retried_less_often(clock):
    batch = BatchLimit(640)
    pauses = []
    for _ in range(9):
        batch.shrink(320)
        began = clock.now
        while batch.cost == 320:
            costs(batch, clock, 60, 1)
        pauses.append((clock.now - began) / 60)

    assert [1, 2, 4, 8, 16, 32, 60, 60, 60] == pauses


def test_a_limit_that_was_not_the_cause_is_restored(clock):
    batch = BatchLimit(640)
    batch.shrink(7)
    batch.restore(640)

    assert (640, False) == (batch.cost, batch.is_lowered)
    assert [640] == costs(batch, clock, 1e9, 1)
    batch.shrink(100)
    batch.shrink(7)
    batch.restore(100)
    assert (100, True) == (batch.cost, batch.is_lowered)
