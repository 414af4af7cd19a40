"""Calibrations: what is fitted, what is chosen, what is told, and bad data."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from rerank_plugins import ConfigError, DataError, Scores, load_backend
from rerank_plugins.cli import app
from rerank_plugins.evaluation.calibration import calibrate, fit
from rerank_plugins.evaluation.calibration.reliability import (
    ScoredPairs,
    bins_of,
    calibration_error,
)
from rerank_plugins.evaluation.calibration.thresholds import of_precision, of_recall
from rerank_plugins.evaluation.datasets.dataset import checked
from rerank_plugins.testing import FakeBackend
from rerank_plugins.wrappers.cache import CachedBackend
from rerank_plugins.wrappers.calibrated import CalibratedBackend, Calibration
from rerank_plugins.wrappers.fallback import FallbackBackend

QUERIES, DEPTH = 120, 6


class Noisy(FakeBackend):
    """Scores "q3 d2 0.7" by a logit that is 3 times too large and 2 too low: `9 x - 5.6`."""

    def __init__(self, scale="logit", slope=9.0, offset=-5.6):
        super().__init__(scale=scale)
        self.slope, self.offset = slope, offset

    def score(self, query, documents):
        logits = [self.slope * float(d.split()[-1]) + self.offset for d in documents if " " in d]
        logits = logits or [0.0] * len(documents)
        if self.scale == "probability":
            logits = [1 / (1 + math.exp(-value)) for value in logits]
        return Scores(logits, backend=self.name, scale=self.scale)


def judged(name="made", queries=QUERIES, seed=0, shift=0.0):
    """A set whose documents are relevant with the probability sigmoid(3 x - 1.2)."""
    draw = np.random.default_rng(seed)
    texts, qrels, candidates = {}, {}, {}
    for number in range(queries):
        query = f"q{number}"
        qrels[query], candidates[query] = {}, []
        for place in range(DEPTH):
            x = draw.normal()
            document = f"{query}-d{place}"
            texts[document] = f"{query} d{place} {x:.6f}"
            candidates[query].append(document)
            chance = 1 / (1 + math.exp(1.2 - 3 * x - shift))
            qrels[query][document] = int(draw.random() < chance)
        qrels[query][f"{query}-missing"] = 1  # so that every query counts
    asked = {query: f"what is {query}" for query in qrels}
    return checked(name, queries=asked, documents=texts, qrels=qrels, candidates=candidates)


def draws(count=2000, seed=1):
    draw = np.random.default_rng(seed)
    x = draw.normal(size=count)
    y = draw.random(count) < 1 / (1 + np.exp(1.2 - 3 * x))
    return x.tolist(), y.tolist()


def test_platt_finds_the_curve():
    x, y = draws(20_000)
    found = fit(x, y, method="platt", scale="similarity")

    assert (3.0, -1.2) == pytest.approx((found.slope, found.offset), abs=0.15)


def test_temperature_finds_how_much_too_large_logits_are():
    draw = np.random.default_rng(2)
    z = draw.normal(size=20_000)
    y = draw.random(20_000) < 1 / (1 + np.exp(-z))
    found = fit((5 * z).tolist(), y.tolist(), method="temperature", scale="logit")

    assert 5.0 == pytest.approx(found.temperature, rel=0.05)


def test_the_isotonic_curve_goes_through_the_shares_of_its_blocks():
    """Worked by hand: of 400 at each score 0, 1, 2 and 3 are 40, 120, 80 and 360 relevant."""
    x = [float(score) for score in range(4) for _ in range(400)]
    y = [number < hits for hits in (40, 120, 80, 360) for number in range(400)]
    found = fit(x, y, method="isotonic", scale="similarity")

    assert (0.0, 1.5, 3.0) == pytest.approx(found.scores)
    assert (0.1, 0.25, 0.9) == pytest.approx(found.probabilities)


@pytest.mark.slow
def test_logistic_fits_agree_with_scikit_learn():
    linear_model = pytest.importorskip(
        "sklearn.linear_model", reason="sentence-transformers has it"
    )
    isotonic = pytest.importorskip("sklearn.isotonic")
    x, y = draws()
    theirs = linear_model.LogisticRegression(C=np.inf, tol=1e-10).fit(np.array(x)[:, None], y)
    ours = fit(x, y, method="platt", scale="similarity")
    steps = isotonic.IsotonicRegression().fit_transform(x, y)
    curve = fit(x, y, method="isotonic", scale="similarity")

    # Platt's targets are a little away from 0 and 1.
    assert (theirs.coef_[0][0], theirs.intercept_[0]) == pytest.approx(
        (ours.slope, ours.offset), abs=0.03
    )
    assert sorted({*np.round(steps, 9)})[1:-1] == pytest.approx(
        [round(p, 9) for p in curve.probabilities[1:-1]]
    )


scored = st.lists(st.floats(-30, 30), min_size=1, max_size=50).map(lambda x: (500 * x)[:500])


@settings(max_examples=30, deadline=None)
@given(scored, st.integers(0, 9), st.sampled_from(["temperature", "platt", "isotonic"]))
def test_every_fit_rises_and_stays_between_0_and_1(x, seed, method):
    y = np.random.default_rng(seed).random(500) < 1 / (1 + np.exp(-np.array(x) / 9))
    try:
        curve = fit(x, y.tolist(), method=method, scale="logit")
    except DataError:  # too few of a kind, equal scores, or no order by chance
        return
    found = curve.probabilities_of(sorted(x))

    assert found == sorted(found)
    assert 0 <= found[0] <= found[-1] <= 1
    assert curve == Calibration.read(json.loads(json.dumps(curve.table())))


def test_perfect_scores_give_a_finite_curve():
    x, y = [0.0] * 40 + [1.0] * 40, [False] * 40 + [True] * 40
    low, high = fit(x, y, method="platt", scale="similarity").probabilities_of([0.0, 1.0])

    assert (1 / 42, 41 / 42) == pytest.approx((low, high), abs=1e-4)


MANY = [*range(300), *range(300)]
HALF = [False] * 300 + [True] * 300


@pytest.mark.parametrize(
    ("x", "y", "method", "message"),
    [
        ([1.0, 2.0, 3.0], [True, False, True], "platt", "2 relevant documents and 1 others are"),
        (MANY, [True] * 600, "platt", "600 relevant documents and 0 others are too few"),
        (MANY, [False] * 600, "temperature", "0 relevant documents and 600 others"),
        (MANY[:200], HALF[200:400], "isotonic", "by 'isotonic': it needs 200 of each"),
        ([math.nan, *MANY[1:]], HALF, "platt", "score 0 is not a finite number"),
        ([0.0, math.inf, *MANY[2:]], HALF, "isotonic", "score 1 is not a finite number"),
        ([2.0] * 600, HALF, "platt", "all 600 scores are equal"),
        ([2.0] * 600, HALF, "isotonic", "all 600 scores are equal"),
        ([*range(600)], HALF[::-1], "platt", "relevant documents score no higher than others"),
        ([*range(600)], HALF[::-1], "isotonic", "relevant documents score no higher than others"),
        (MANY, HALF[1:], "platt", "600 scores, and 599 judgements"),
    ],
)
def test_bad_data_is_refused(x, y, method, message):
    with pytest.raises(DataError, match=message):
        fit(x, y, method=method, scale="logit")


def test_similarities_have_no_temperature():
    report = calibrate(judged(), Noisy("similarity", 0.2, 0.5))

    assert "divides logits, and the scale of the scores is" in report.untried["temperature"]
    with pytest.raises(ConfigError, match="divides logits"):
        fit(MANY, HALF, method="temperature", scale="similarity")


PAIRS = ScoredPairs(
    np.array([0.21, 0.23, 0.95, 1.0]), np.array([0.0, 1.0, 1.0, 1.0]), np.array([0, 0, 1, 1])
)


def test_the_error_is_the_mean_distance_of_the_tenths():
    assert [(0.22, 0.5, 2), (0.975, 1.0, 2)] == [
        pytest.approx((each.predicted, each.observed, each.pairs)) for each in bins_of(PAIRS)
    ]
    error = calibration_error(PAIRS, seed=0)
    assert (0.28 + 0.025) / 2 == pytest.approx(error.mean)
    assert (0.025, 0.28) == pytest.approx((error.low, error.high))


def test_thresholds_reach_what_was_wished():
    draw = np.random.default_rng(0)
    p = draw.random(3000)
    pairs = ScoredPairs(p, (draw.random(3000) < p).astype(float), np.arange(3000) // 10)
    for wish in (0.6, 0.8, 0.95):
        precise, complete = of_precision(pairs, wish, 0), of_recall(pairs, wish, 0)
        kept, recalled = pairs.p >= precise.min_score, pairs.p >= complete.min_score

        assert wish <= pairs.y[kept].mean() == pytest.approx(precise.precision.mean)
        assert (
            wish <= pairs.y[recalled].sum() / pairs.y.sum() == pytest.approx(complete.recall.mean)
        )
        assert precise.precision.low < precise.precision.mean < precise.precision.high
    assert None is of_precision(ScoredPairs(p, np.zeros(3000), pairs.queries), 0.5, 0).min_score


def test_the_report_measures_what_was_held_out():
    report = calibrate(judged(), Noisy(), tests=[judged("other", seed=5)], recall=[0.9])
    fitted = report.calibration
    (before, after), (threshold,) = report.tests[0], report.thresholds

    assert ("platt", "logit", Noisy().name) == (fitted.method, fitted.scale, fitted.fitted_on)
    assert (1 / 3, 0.67) == pytest.approx((fitted.slope, fitted.offset), abs=0.25)
    assert report.after.error.mean < report.before.error.low
    assert after.error.mean < before.error.low
    assert report.losses["platt"] < report.losses["none"]
    assert ("other", QUERIES * DEPTH) == (after.sets, after.pairs)
    assert threshold.recall.mean >= 0.9
    assert 120 == report.queries


def test_a_threshold_means_the_same_for_two_calibrated_backends():
    one, other = Noisy(), Noisy("similarity", 0.2, 0.5)
    kept = []
    for backend in (one, other):
        curve = calibrate(judged(), backend, method="platt").calibration
        scores = CalibratedBackend(backend, calibration=curve).score(
            "q", [f"d {x / 10}" for x in range(-20, 21)]
        )
        kept.append([score >= 0.5 for score in scores])

    assert kept[0] == kept[1]
    assert 0 < sum(kept[0]) < 41


@pytest.mark.parametrize(
    ("data", "settings", "error", "message"),
    [
        (judged(queries=3), {}, DataError, "made: 3 queries with .* too few to calibrate on; it"),
        (judged(), {"method": "isotonic"}, DataError, "are too few to fit by 'isotonic'"),
        (judged(), {"precision": [0.0]}, ConfigError, "`precision` must be above 0"),
        (judged(), {"recall": [1.1]}, ConfigError, "`recall` must be above 0 and at most 1"),
        ("/nowhere", {}, ConfigError, "there is no dataset '/nowhere'"),
    ],
)
def test_calibrate_refuses_what_gives_no_calibration(data, settings, error, message):
    if settings.get("method") == "isotonic":
        data = judged(queries=60)
    with pytest.raises(error, match=message):
        calibrate(data, Noisy(), **settings)


def test_constant_scores_are_refused():
    with pytest.raises(DataError, match=r"all .* scores are equal"):
        calibrate(judged(), Noisy(slope=0.0))


def test_listwise_backends_are_refused():
    backend = Noisy()
    backend.pointwise = False
    with pytest.raises(ConfigError, match="depend on the other documents"):
        calibrate(judged(), backend)


@pytest.mark.parametrize(
    "around",
    [
        lambda own: own,
        CachedBackend,
        lambda own: FallbackBackend([Noisy("probability"), own]),
    ],
)
def test_calibrated_backends_are_refused(around):
    """Whatever is around them: a file would take the second curve in the place of the first."""
    curve = {"method": "temperature", "scale": "logit", "temperature": 2.0}
    with pytest.raises(ConfigError, match=r"calibrated already.*leave `calibration` out"):
        calibrate(judged(), around(CalibratedBackend(Noisy(), calibration=curve)))


@pytest.fixture
def lines(tmp_path):
    """The set as a file of `eval`."""
    path = tmp_path / "made.jsonl"
    data = judged()
    rows = [
        {
            "query": text,
            "positive": [data.documents[d] for d in ids if data.qrels[query].get(d)],
            "negative": [data.documents[d] for d in ids if not data.qrels[query].get(d)],
        }
        for query, text in data.queries.items()
        for ids in [data.candidates[query]]
    ]
    rows = [row for row in rows if row["positive"] and row["negative"]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_command_writes_a_table_that_specs_name(lines, monkeypatch):
    monkeypatch.chdir(lines.parent)
    monkeypatch.setattr("rerank_plugins.cli.calibrate.load_backend", lambda spec: Noisy())
    options = ["--precision", "0.8", "--recall", "0.9", "--out", "out", "--test", str(lines)]
    done = CliRunner().invoke(app, ["calibrate", str(lines), *options])
    again = CliRunner().invoke(app, ["calibrate", str(lines), *options, "--json"])
    backend = load_backend("embedded?calibration=out/calibration.toml")

    assert (0, 0) == (done.exit_code, again.exit_code), done.output
    assert "fake: platt, slope" in done.stdout
    assert "made (held out): 0." in done.stdout
    assert done.stdout.count("min_score=0.") == 2
    assert backend.calibration.table() == json.loads(again.stdout)["calibration"]
    assert json.loads((lines.parent / "out" / "results.json").read_text()) == json.loads(
        again.stdout
    )
    picture = (lines.parent / "out" / "reliability.svg").read_text()
    assert picture.startswith("<svg")
    assert "before: error 0." in picture


def test_the_command_says_what_is_too_little(lines, monkeypatch):
    monkeypatch.chdir(lines.parent)
    monkeypatch.setattr("rerank_plugins.cli.calibrate.load_backend", lambda spec: Noisy())
    few = CliRunner().invoke(app, ["calibrate", str(lines), "--queries", "3"])
    wrong = CliRunner().invoke(app, ["calibrate", str(lines), "--method", "beta"])

    assert (3, True) == (few.exit_code, "too few to calibrate on" in few.stderr)
    assert (2, True) == (wrong.exit_code, "none of temperature, platt, isotonic" in wrong.stderr)
