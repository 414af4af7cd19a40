"""Rates: how they are written, counted, and kept for many clients."""

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from rerank_plugins import ConfigError
from rerank_plugins.server.rate_limit import MAX_CLIENTS, Rate, RateLimiter, parse_rate


@pytest.fixture
def clock(monkeypatch):
    """A list with the time."""
    now = [1000.0]
    monkeypatch.setattr("rerank_plugins.server.rate_limit.monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("600/minute", Rate(600, 60)),
        ("10 per second", Rate(10, 1)),
        (" 5 / Hour", Rate(5, 3600)),
        ("1/day", Rate(1, 86_400)),
    ],
)
def test_a_rate_is_a_number_and_a_unit(text, rate):
    assert rate == parse_rate("client_rate", text)


@pytest.mark.parametrize("text", ["", "fast", "0/minute", "-1/minute", "1.5/minute", "9/fortnight"])
def test_what_is_not_a_rate_is_refused(text):
    with pytest.raises(ConfigError, match="`client_rate` must be a rate"):
        parse_rate("client_rate", text)


def test_a_bucket_refills_steadily(clock):
    limiter = RateLimiter(Rate(3, 60))

    assert [True] * 3 + [False] == [limiter.hit("a").allowed for _ in range(4)]
    clock[0] += 20.5
    assert [True, False] == [limiter.hit("a").allowed for _ in range(2)]


def test_the_result_has_the_remaining_requests_and_the_reset_time(clock):  # stands still
    limiter = RateLimiter(Rate(3, 60))
    results = [limiter.hit("a") for _ in range(4)]

    assert [2, 1, 0, 0] == [result.remaining for result in results]
    assert [20, 40, 60, 20] == pytest.approx([result.reset for result in results])


def test_memory_is_bounded():
    limiter = RateLimiter(Rate(3, 60))
    for number in range(10 * MAX_CLIENTS):
        limiter.hit(str(number))

    assert 0 < len(limiter) <= MAX_CLIENTS


@pytest.mark.parametrize("retries", [0, 1], ids=["and waits", "and tries again"])
def test_a_client_over_its_rate_is_remembered_among_more_clients_than_fit(clock, retries):
    """Else it could send from many addresses until its first one is forgotten."""
    limiter = RateLimiter(Rate(3, 3600))
    for _ in range(3):
        limiter.hit("over")
    for number in range(3 * MAX_CLIENTS):
        clock[0] += 0.001
        limiter.hit(str(number))
        if retries and number % 1000 == 0:
            assert not limiter.hit("over").allowed

    assert not limiter.hit("over").allowed


def test_clients_with_the_fewest_requests_are_forgotten_first(clock):
    limiter = RateLimiter(Rate(3, 3600))
    for number in range(MAX_CLIENTS):
        clock[0] += 0.001
        for _ in range(1 + number % 2):
            limiter.hit(str(number))
    limiter.hit("new")

    assert 2 == limiter.hit("0").remaining  # forgotten: it sent one
    assert 0 == limiter.hit("1").remaining
