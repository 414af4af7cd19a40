"""The comparison of speeds: which requests each backend gets, and the arithmetic; no timing."""

import pytest

from rerank_plugins import BackendUnavailable, ConfigError
from rerank_plugins.bench.speed import RankAgreement, Speed, compare_speed
from rerank_plugins.bench.workload import Shape, Workload
from rerank_plugins.testing import FailingBackend, FakeBackend


def test_all_backends_score_the_same_new_requests():
    one, other = FakeBackend(), FakeBackend()
    compare_speed({"one": one, "other": other}, Shape(2, 3), Workload(), calls=4, warm_up=1)

    assert (1 + 4) * 2 == len(one.calls)
    assert one.calls == other.calls
    assert len(one.calls) == len(set(one.calls))


def test_the_order_changes_with_every_round():
    asked = []

    def noting(name):
        return FakeBackend(lambda q, d: asked.append(name) or 0.0)

    backends = {name: noting(name) for name in "ab"}
    compare_speed(backends, Shape(1, 1), Workload(), calls=3, warm_up=0)

    assert "abbaab" == "".join(asked)


def test_warm_up_is_not_counted():
    comparison = compare_speed({"one": FakeBackend()}, Shape(1, 2), Workload(), calls=3, warm_up=5)

    assert 3 == len(comparison["one"].seconds) == len(comparison["one"].cpu_seconds)


def test_another_process_is_measured_by_its_own_clock():
    used = iter([1.0, 1.5, 2.0, 4.0])
    backends = {"here": FakeBackend(), "elsewhere": FakeBackend()}
    clocks = {"elsewhere": lambda: next(used)}
    comparison = compare_speed(
        backends, Shape(1, 1), Workload(), calls=2, warm_up=0, processor_clocks=clocks
    )

    assert (0.5, 2.0) == comparison["elsewhere"].cpu_seconds


def test_figures_come_from_the_calls():
    speed = Speed(Shape(1, 20), tuple(n / 100 for n in range(1, 101)), (0.2,) * 100)

    assert [0.5, 0.95, 0.99] == [speed.percentile(p) for p in (50, 95, 99)]
    assert pytest.approx(40) == speed.pairs_per_second
    assert pytest.approx(0.01) == speed.cpu_per_pair


def test_rankings_are_compared_with_those_of_the_first():
    """By the length of a text, upside down, and with the longest of twenty put last."""
    length = FakeBackend(lambda _, document: float(len(document)))
    reversed_ = FakeBackend(lambda _, document: -float(len(document)))
    flat = FakeBackend(lambda *_: 0.5)
    texts = ["x" * n for n in range(1, 400)]
    backends = {"one": length, "alike": length, "turned": reversed_, "flat": flat}
    compared = compare_speed(backends, Shape(2, 20), Workload(texts=texts), calls=3, quality=True)
    agreements = {name: speed.agreement for name, speed in compared.items()}

    assert RankAgreement(1.0, 1.0) == agreements["one"] == agreements["alike"]
    assert pytest.approx(-1) == agreements["turned"].tau
    assert 0 == agreements["turned"].top  # ten of twenty: none of the others
    assert agreements["flat"].tau is None


def test_of_few_documents_all_are_among_the_best():
    backends = {"one": FakeBackend(lambda *_: 0.1), "other": FakeBackend(lambda *_: 0.2)}
    compared = compare_speed(backends, Shape(1, 3), Workload(), calls=1, quality=True)

    assert RankAgreement(None, 1.0) == compared["other"].agreement


@pytest.mark.parametrize(("names", "calls"), [([], 3), (["one"], 0)])
def test_no_backend_or_request_is_an_error(names, calls):
    with pytest.raises(ConfigError, match="nothing to measure"):
        compare_speed({n: FakeBackend() for n in names}, Shape(1, 1), Workload(), calls=calls)


def test_errors_of_backends_are_raised():
    with pytest.raises(BackendUnavailable):
        compare_speed({"down": FailingBackend(BackendUnavailable("down"))}, Shape(1, 1), Workload())
