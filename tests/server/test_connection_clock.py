"""The clock of a connection: one timer for many states, and the right end of each."""

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from rerank_plugins.server.connection_clock import Clock


class Timer:
    def __init__(self, when, call):
        self._when = when
        self.call = call
        self.cancelled = False

    def when(self):
        return self._when

    def cancel(self):
        self.cancelled = True


class Loop:
    """Stands in for the event loop; its time passes on demand."""

    def __init__(self):
        self.now = 100.0
        self.timers = []

    def time(self):
        return self.now

    def call_at(self, when, call):
        self.timers.append(Timer(when, call))
        return self.timers[-1]

    def pass_until(self, now):
        self.now = now
        while due := [each for each in self.timers if not each.cancelled and each.when() <= now]:
            self.timers.remove(due[0])
            due[0].call()


@pytest.fixture
def loop():
    return Loop()


@pytest.fixture
def ended():
    return []


@pytest.fixture
def clock(loop, ended):
    return Clock(loop, lambda: ended.append(loop.now))


def test_it_ends_each_state_at_its_own_time(clock, loop, ended):
    for seconds in (10, 30, 2, 5):
        clock.start(seconds)
    loop.pass_until(104)
    assert [] == ended
    loop.pass_until(105)

    assert [105] == ended
    loop.pass_until(1000)
    assert [105] == ended


def test_later_ends_need_no_timer_of_their_own(clock, loop):
    for _ in range(1000):
        loop.now += 0.001
        clock.start(10)

    assert 1 == len(loop.timers)


@pytest.mark.parametrize("stop", [lambda clock: clock.start(None), lambda clock: clock.stop()])
def test_a_state_without_an_end_goes_on(clock, loop, ended, stop):
    clock.start(10)
    stop(clock)
    loop.pass_until(1000)
    assert [] == ended
    clock.start(1)
    loop.pass_until(1001)

    assert [1001] == ended


def test_the_function_may_start_it_again(loop):
    ends = []

    def go_on():
        ends.append(loop.now)
        clock.start(2.0 ** len(ends))

    clock = Clock(loop, go_on)
    clock.start(1)
    for now in range(101, 120):
        loop.pass_until(now)

    assert [101, 103, 107, 115] == ends
