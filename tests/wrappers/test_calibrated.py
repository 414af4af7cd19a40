"""Calibrated backends: their curves, how they are written, and what is refused."""

import json
import logging
import math
import pickle

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rerank_plugins import ConfigError, Scores, load_backend, rank
from rerank_plugins._internal.throttle import Throttle
from rerank_plugins.testing import BackendContract, FakeBackend
from rerank_plugins.wrappers import calibrated
from rerank_plugins.wrappers.cache import CachedBackend
from rerank_plugins.wrappers.calibrated import CalibratedBackend, Calibration
from rerank_plugins.wrappers.ensemble import EnsembleBackend
from rerank_plugins.wrappers.fallback import FallbackBackend

PLATT = {"method": "platt", "scale": "probability", "slope": 2.0, "offset": -1.0}
TEMPERATURE = {"method": "temperature", "scale": "logit", "temperature": 4.0}
ISOTONIC = {
    "method": "isotonic",
    "scale": "similarity",
    "scores": [0.2, 0.5, 0.9],
    "probabilities": [0.01, 0.4, 0.95],
}
TABLES = [PLATT, TEMPERATURE, ISOTONIC]

numbers = st.floats(-1e6, 1e6)


class TestCalibrated(BackendContract):
    def make_backend(self):
        return CalibratedBackend(FakeBackend(), calibration=PLATT)


class Fixed(FakeBackend):
    """Gives the same scores each time."""

    def __init__(self, values, scale):
        super().__init__(scale=scale)
        self.values = values

    def score(self, query, documents):
        return Scores(self.values, backend=self.name, scale=self.scale, truncated=[1], cached=1)


def test_scores_become_probabilities_and_facts_stay(ask):
    scores = ask(CalibratedBackend(Fixed([8.0, -4.0], "logit"), calibration=TEMPERATURE))

    assert [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(1))] == pytest.approx(list(scores))
    assert ("probability", {1}, 1) == (scores.scale, scores.truncated, scores.cached)


def test_a_probability_enters_as_its_logit():
    curve = Calibration.read(PLATT)
    expected = [1 / (1 + math.exp(1 - 2 * math.log(p / (1 - p)))) for p in (0.1, 0.5, 0.9)]

    assert expected == pytest.approx(curve.probabilities_of([0.1, 0.5, 0.9]))
    assert [0, 1] == pytest.approx(curve.probabilities_of([0, 1]), abs=1e-30)


def test_the_isotonic_curve_is_linear_between_its_knots():
    values = Calibration.read(ISOTONIC).probabilities_of([0.2, 0.35, 0.5, 0.9])

    assert [0.01, 0.205, 0.4, 0.95] == pytest.approx(values)


@given(st.sampled_from(TABLES), st.lists(numbers, min_size=2), st.booleans())
def test_order_stays_and_all_lie_between_0_and_1(table, values, probable):
    curve = Calibration.read(table)
    if curve.scale == "probability":
        values = [1 / (1 + math.exp(-min(max(value, -600), 600))) for value in values]
    found = curve.probabilities_of(values)

    assert all(0 <= value <= 1 for value in found)
    pairs = sorted(zip(values, found, strict=True))
    assert [p for _, p in pairs] == sorted(found)


@given(
    st.sets(st.floats(0.001, 0.999), min_size=2, max_size=2).map(sorted),
    st.sampled_from([0.0, 1e-9, 0.5, 1e3, 1e9]),
)
@example([0.4, 0.464], 0.0)
def test_scores_that_differ_in_their_last_digit_keep_their_order(ends, beyond):
    """At the ends of the isotonic curve and beyond, whatever is rounded."""
    curve = Calibration.read({**ISOTONIC, "scores": [-1.0, 0.0], "probabilities": ends})
    values = [-1.0 - beyond, beyond]
    for towards in (-math.inf, math.inf):
        near = values[:2]
        for _ in range(9):
            near = [math.nextafter(value, towards) for value in near]
            values += near
    found = curve.probabilities_of(sorted(values))

    assert found == sorted(found)


@given(st.lists(st.floats(-3, 3), unique=True, min_size=2))
def test_the_isotonic_curve_makes_no_ties(values):
    """Not of scores that differ by more than the rounding of what it returns."""
    values = [round(value, 6) for value in values]
    found = Calibration.read(ISOTONIC).probabilities_of(values)

    assert len({*found}) == len({*values})
    assert [item.index for item in rank(values)] == [item.index for item in rank(found)]


@given(
    st.one_of(
        st.builds(
            lambda slope, offset: {**PLATT, "slope": slope, "offset": offset},
            st.floats(1e-6, 1e6),
            numbers,
        ),
        st.builds(
            lambda knots, ends: {
                **ISOTONIC,
                "scores": sorted(knots),
                "probabilities": sorted(ends)[: len(knots)],
            },
            st.sets(numbers, min_size=2, max_size=5),
            st.sets(st.floats(0.001, 0.999), min_size=5, max_size=5),
        ),
    )
)
def test_a_table_is_read_as_it_was_written(table):
    curve = Calibration.read(table)

    assert curve == Calibration.read(json.loads(json.dumps(curve.table())))
    assert curve.digest == Calibration.read(curve.table()).digest
    assert table == curve.table()


def test_the_curve_is_part_of_the_name(ask):
    one = CalibratedBackend(FakeBackend(), calibration=PLATT)
    other = CalibratedBackend(FakeBackend(), calibration={**PLATT, "offset": -1.1})
    same = CalibratedBackend(FakeBackend(), calibration={**PLATT, "slope": 2, "fitted_on": "x"})

    assert 3 == len({FakeBackend().name, one.name, other.name})
    assert one.name == same.name == ask(one).backend == one.describe()["name"]


def test_caches_notice_another_curve(tmp_path):
    store = f"sqlite:{tmp_path / 'scores.db'}"
    leaf = FakeBackend()
    found = [
        CachedBackend(CalibratedBackend(leaf, calibration=table), store=store).score(
            "a b", ["b c"]
        )[0]
        for table in (PLATT, {**PLATT, "offset": 5.0}, PLATT)
    ]

    assert found[0] == found[2] != found[1]
    assert 2 == len(leaf.calls)


@pytest.mark.parametrize("inline", [True, False])
def test_specs_and_files_name_it(tmp_path, inline):
    path = tmp_path / "calibration.toml"
    path.write_text(
        '[calibration]\nmethod = "platt"\nscale = "probability"\nslope = 2\noffset = -1.0\n'
    )
    named = PLATT if inline else str(path)
    remote = {"kind": "vllm", "base_url": "http://localhost:9", "model": "m"}
    backends = [
        load_backend({"kind": "embedded", "calibration": named}),
        load_backend({"backend": {"kind": "embedded"}, "calibration": PLATT}),
        load_backend(f"embedded?calibration={path}"),
    ]

    for backend in backends:
        assert {"kind": "embedded", "calibration": PLATT} == backend.to_spec()
        assert PLATT == pickle.loads(pickle.dumps(backend)).calibration.table()
    chain = load_backend(
        {
            "backend": {**remote, "calibration": named},
            "retry": {},
            "cache": {},
            "fallback": [{"kind": "embedded", "calibration": {**PLATT, "offset": 0.0}}],
        }
    )
    assert chain.to_spec() == load_backend(chain.to_spec()).to_spec()
    assert "probability" == chain.scale


def test_a_server_of_unknown_scale_gets_a_min_score():
    spec = {"kind": "xinference", "base_url": "http://localhost:9", "model": "m"}
    table = {**PLATT, "scale": "unknown"}

    assert "unknown" == load_backend(spec).scale
    assert "probability" == load_backend({**spec, "calibration": table}).scale


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "needs the key `method`"),
        ({"method": "platt"}, "needs the key `scale`"),
        ({**PLATT, "slopes": 1}, "unknown key 'slopes' of a calibration; did you mean 'slope'"),
        ({**PLATT, "method": "beta"}, "unknown `method` 'beta'"),
        ({**PLATT, "scale": "percent"}, "unknown `scale` 'percent'"),
        ({**PLATT, "slope": -1}, "`slope` must be a number above 0, not -1"),
        ({**PLATT, "slope": "2"}, "`slope` must be a number above 0, not '2'"),
        ({**PLATT, "offset": math.nan}, "`offset` must be a finite number"),
        ({**PLATT, "temperature": 2.0}, "`temperature` is no number of a calibration by 'platt'"),
        ({**PLATT, "offset": None}, "`offset` is missing for a calibration by 'platt'"),
        ({**PLATT, "fitted_on": 3}, "`fitted_on` must be a backend's name"),
        ({**TEMPERATURE, "scale": "similarity"}, "`temperature` divides logits"),
        ({**TEMPERATURE, "temperature": 0}, "`temperature` must be a number above 0"),
        ({**ISOTONIC, "scores": [-1.7e308, 0, 1.7e308]}, "finite numbers, of 1e\\+300 at most"),
        ({**ISOTONIC, "scores": [0, 1, 10**400]}, "finite numbers, of 1e\\+300 at most"),
        ({**ISOTONIC, "scores": [0, 1, math.nan]}, "finite numbers, of 1e\\+300 at most"),
        ({**ISOTONIC, "scores": [0.2, 0.2, 0.9]}, "`scores` of an isotonic calibration must rise"),
        ({**ISOTONIC, "scores": [0.2, 0.9]}, "two or more each, as many of one"),
        ({**ISOTONIC, "scores": [1], "probabilities": [0.5]}, "two or more each"),
        ({**ISOTONIC, "scores": "0.1,0.2,0.3"}, "`scores` of a calibration must be a list"),
        ({**ISOTONIC, "scores": [0.1, math.inf, 3]}, "must be finite numbers"),
        ({**ISOTONIC, "probabilities": [0, 0.5, 1]}, "lie between 0 and 1"),
        (3, "must be a table, or the path of a file with one, not `int`"),
        ("/nowhere.toml", "can't read '/nowhere.toml'"),
    ],
)
def test_malformed_tables_are_refused(table, message):
    with pytest.raises(ConfigError, match=message):
        load_backend({"kind": "embedded", "calibration": table})


def test_a_file_without_the_table_says_how_to_write_one(tmp_path):
    path = tmp_path / "rerank.toml"
    path.write_text("[backend]\nkind = 'embedded'\n")

    with pytest.raises(ConfigError, match=r"no table .calibration. .*rerank-plugins calibrate"):
        load_backend(f"embedded?calibration={path}")


def test_misplaced_tables_are_refused():
    several = {"backend": {"kind": "embedded"}, "calibration": PLATT}
    for chain in ("fallback", "ensemble"):
        with pytest.raises(ConfigError, match="holds for one model, and there are several"):
            load_backend({**several, chain: [{"kind": "embedded"}]})
    with pytest.raises(ConfigError, match="stands twice"):
        load_backend({"backend": {"kind": "embedded", "calibration": PLATT}, "calibration": PLATT})
    outside = CalibratedBackend(CachedBackend(load_backend("embedded")), calibration=PLATT)
    twice = CalibratedBackend(load_backend(several), calibration=PLATT)
    for backend in (outside, twice):
        with pytest.raises(ConfigError, match="can't be written as a spec"):
            backend.to_spec()
    with pytest.raises(ConfigError, match="depend on the other documents"):
        CalibratedBackend(EnsembleBackend([FakeBackend(), FakeBackend()]), calibration=PLATT)


def test_scores_of_another_scale_are_refused(ask):
    backend = CalibratedBackend(FakeBackend(scale="logit"), calibration=PLATT)

    with pytest.raises(ConfigError, match=r"of the scale 'probability', and .* gives 'logit'"):
        ask(backend)


def test_scores_of_another_model_are_told(ask, caplog, monkeypatch):
    monkeypatch.setattr(calibrated, "_may_warn", Throttle())
    own = FakeBackend()
    with caplog.at_level(logging.WARNING, "rerank_plugins.wrappers.calibrated"):
        ask(CalibratedBackend(own, calibration={**PLATT, "fitted_on": own.name}))
        assert [] == caplog.messages
        ask(CalibratedBackend(own, calibration={**PLATT, "fitted_on": "local:other"}))

    assert ["local:other" in message for message in caplog.messages] == [True]


def test_backends_say_that_they_are_uncalibrated():
    plain = [FakeBackend(scale=scale) for scale in ("similarity", "unknown", "probability")]
    told = [backend.describe().get("calibration") for backend in plain]
    mended = CalibratedBackend(FakeBackend(scale="similarity"), calibration=ISOTONIC)
    chain = FallbackBackend([FakeBackend(scale="similarity")]).describe()

    assert ["uncalibrated", "uncalibrated", None] == told
    assert ISOTONIC == mended.describe()["calibration"]
    assert "uncalibrated" == chain["backends"][0]["calibration"]
    assert "uncalibrated" == EnsembleBackend(plain[:2]).describe()["calibration"]
