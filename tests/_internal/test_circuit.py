"""The circuit breaker that the wrapper, the stores and the servers of a backend share."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rerank_plugins._internal.circuit import CircuitBreaker


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def opened(clock, **options):
    circuit = CircuitBreaker(**{"cooldown": 10.0, **options}, clock=clock)
    assert circuit.enter().fail(at_once=True)
    return circuit


def test_consecutive_failures_open_the_circuit(clock):
    circuit = CircuitBreaker(failures=3, cooldown=10.0, clock=clock)
    circuit.enter().fail()
    circuit.enter().succeed()
    changes = [circuit.enter().fail() for _ in range(3)]

    assert [False, False, True] == changes
    assert ("open", False, None) == (circuit.state, circuit.admits, circuit.try_enter())
    clock.now += 4.0
    assert 6.0 == circuit.retry_after


def test_one_probe_passes_after_the_cooldown(clock):
    circuit = opened(clock)
    clock.now += 10.0
    assert ("open", True) == (circuit.state, circuit.admits)
    probe = circuit.try_enter()

    assert ("half_open", False, None) == (circuit.state, circuit.admits, circuit.try_enter())
    assert probe.succeed()
    assert ("closed", True) == (circuit.state, circuit.admits)


def test_failed_probes_double_the_cooldown_up_to_a_limit(clock):
    circuit = opened(clock, cooldown=1.0, max_cooldown=10.0)
    cooldowns = []
    for _ in range(7):
        cooldowns.append(circuit.retry_after)
        clock.now += circuit.retry_after
        assert circuit.try_enter().fail()

    assert [1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0] == cooldowns


def test_a_success_resets_the_cooldown(clock):
    circuit = opened(clock, cooldown=1.0, max_cooldown=10.0)
    for end in ("fail", "succeed"):
        clock.now += circuit.retry_after
        getattr(circuit.try_enter(), end)()
    circuit.enter().fail()

    assert 1.0 == circuit.retry_after


LATE = {
    "succeed": lambda permit: permit.succeed(),
    "fail": lambda permit: permit.fail(at_once=True),
    "pause": lambda permit: permit.pause(500.0),
    "release": lambda permit: permit.release(),
}


@pytest.mark.parametrize("end", LATE)
def test_a_late_result_does_not_end_a_probe(clock, end):
    """A request from before the circuit opened ends while another one is the probe."""
    circuit = CircuitBreaker(cooldown=10.0, clock=clock)
    late = circuit.enter()
    circuit.enter().fail()
    clock.now += 10.0
    probe = circuit.try_enter()
    LATE[end](late)

    assert ("half_open", None) == (circuit.state, circuit.try_enter())
    assert probe.succeed()
    assert "closed" == circuit.state


@pytest.mark.parametrize("end", LATE)
def test_a_late_result_changes_nothing_while_open(clock, end):
    circuit = CircuitBreaker(cooldown=10.0, clock=clock)
    late = circuit.enter()
    circuit.enter().fail()
    LATE[end](late)

    assert ("open", 10.0) == (circuit.state, circuit.retry_after)


@pytest.mark.parametrize("end", LATE)
def test_a_late_result_changes_nothing_once_closed_again(clock, end):
    circuit = CircuitBreaker(failures=2, cooldown=10.0, clock=clock)
    late = circuit.enter()
    circuit.enter().fail(at_once=True)
    clock.now += 10.0
    circuit.try_enter().succeed()
    circuit.enter().fail()
    LATE[end](late)

    assert "closed" == circuit.state
    assert circuit.enter().fail()  # the second in a row: the late success did not reset the count


def test_releasing_a_probe_allows_another_one(clock):
    circuit = opened(clock)
    clock.now += 10.0
    circuit.try_enter().release()

    assert "open" == circuit.state
    assert circuit.try_enter()


def test_release_after_a_result_changes_nothing(clock):
    circuit = opened(clock)
    clock.now += 10.0
    first = circuit.try_enter()
    first.fail()
    clock.now += 10.0
    second = circuit.try_enter()
    first.release()

    assert "half_open" == circuit.state
    assert second.succeed()


def test_a_forced_call_that_succeeds_closes_the_circuit(clock):
    circuit = opened(clock)
    assert circuit.enter().succeed()
    assert "closed" == circuit.state


def test_a_forced_call_that_fails_leaves_the_cooldown_alone(clock):
    circuit = opened(clock)
    clock.now += 5.0

    assert not circuit.enter().fail(at_once=True)
    assert 5.0 == circuit.retry_after


def test_a_forced_call_after_the_cooldown_is_the_probe(clock):
    circuit = opened(clock)
    clock.now += 10.0
    probe, forced = circuit.enter(), circuit.enter()

    assert not forced.fail()
    assert "half_open" == circuit.state
    assert probe.fail()


def test_a_pause_does_not_count_as_a_failure(clock):
    circuit = CircuitBreaker(cooldown=1.0, max_cooldown=10.0, clock=clock)
    circuit.enter().pause(30.0)
    assert ("open", 30.0) == (circuit.state, circuit.retry_after)
    clock.now += 30.0
    circuit.try_enter().fail()

    assert 1.0 == circuit.retry_after


def test_threads_send_one_probe(clock):
    circuit = opened(clock)
    clock.now += 10.0
    with ThreadPoolExecutor(8) as pool:
        permits = list(pool.map(lambda _: circuit.try_enter(), range(200)))

    assert 199 == permits.count(None)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_drops_the_probe_of_its_parent(clock):
    circuit = opened(clock)
    clock.now += 10.0
    probe = circuit.try_enter()
    pid = os.fork()
    if pid == 0:
        own = circuit.try_enter()
        os._exit(0 if own is not None and own.succeed() else 1)

    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert "half_open" == circuit.state
    assert probe.succeed()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_while_a_thread_holds_the_lock_leaves_it_free(clock):
    entered, leave = threading.Event(), threading.Event()

    def hold():
        entered.set()
        assert leave.wait(10)
        return 1000.0

    circuit = opened(clock)
    circuit._clock = hold
    thread = threading.Thread(target=circuit.try_enter)
    thread.start()
    assert entered.wait(10)
    pid = os.fork()
    if pid == 0:
        circuit._clock = lambda: 2000.0
        os._exit(0 if circuit.try_enter() is not None else 1)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    leave.set()
    thread.join()


def test_time_is_measured_by_the_monotonic_clock():
    assert time.monotonic is CircuitBreaker(cooldown=1.0)._clock


class Circuits(RuleBasedStateMachine):
    """Whatever calls end in whatever order, the circuit is never stuck and never has two probes."""

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        self.circuit = CircuitBreaker(failures=2, cooldown=1.0, max_cooldown=4.0, clock=self.clock)
        self.under_way = []

    @rule(forced=st.booleans())
    def enter(self, forced):
        permit = self.circuit.enter() if forced else self.circuit.try_enter()
        if permit is not None:
            self.under_way.append(permit)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), end=st.sampled_from(sorted(LATE)))
    def end(self, data, end):
        permit = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        before = self.circuit.state
        LATE[end](permit)
        if permit.period != self.circuit._period and before == self.circuit.state == "half_open":
            assert permit is not self.circuit._probe
        permit.release()

    @rule(seconds=st.sampled_from([0.5, 1.0, 5.0, 600.0]))
    def wait(self, seconds):
        self.clock.now += seconds

    @invariant()
    def is_never_stuck(self):
        """It admits a call, or waits for a time or for a call that is under way."""
        if not self.circuit.admits and not self.circuit.retry_after:
            assert self.circuit._probe in self.under_way
        assert ("half_open" == self.circuit.state) == (self.circuit._probe is not None)
        assert self.circuit._probe is None or self.circuit._probe.period == self.circuit._period


TestCircuits = Circuits.TestCase
TestCircuits.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
