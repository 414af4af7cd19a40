"""Tuning tries what the machine offers; settings that change scores only on request."""

import tomllib

import pytest

from rerank_plugins import ConfigError, load_backend
from rerank_plugins.bench import tune as module
from rerank_plugins.bench.speed import Speed
from rerank_plugins.bench.tune import SAME, Trial, tune
from rerank_plugins.bench.workload import Shape, Workload

QUICK = {"shape": Shape(1, 3), "calls": 1, "seconds": 600}


@pytest.fixture
def model(checkpoint):
    pytest.importorskip("onnxruntime")
    return checkpoint("bert")


def test_by_default_only_settings_that_keep_scores_are_tried(model):
    seen = []
    tuning = tune(f"local:{model}", Workload(), **QUICK, on_trial=lambda *p: seen.append(p))
    engines = {(t.options.get("engine"), t.options.get("attention")) for t in tuning.trials}

    assert {("torch", "packed"), ("torch", "padded")} <= engines
    assert all(trial.exact and trial.tau == 1.0 for trial in tuning.trials)
    assert {"dtype": "float32"}.items() >= {
        (k, v) for t in tuning.trials for k, v in t.options.items() if k == "dtype"
    }
    assert tuning.best.exact
    assert 1.0 == tuning.trials[0].ratio
    assert 0 == tuning.untried
    assert all(done <= total for done, total in seen)


@pytest.mark.slow
def test_int8_is_tried_on_request_and_its_agreement_is_reported(model):
    tuning = tune(f"local:{model}?engine=onnx", Workload(), **QUICK, allow_inexact=True)
    (int8, *_) = (t for t in tuning.trials if t.options.get("dtype") == "int8")

    assert not int8.exact
    assert SAME < int8.difference < 1
    assert 0.5 < int8.tau <= 1.0


@pytest.mark.slow
def test_options_of_the_spec_are_kept(model):
    tuning = tune(f"local:{model}?engine=torch&attention=padded&threads=1", Workload(), **QUICK)

    assert all("padded" == t.options["attention"] for t in tuning.trials)
    assert all(1 == t.options["threads"] for t in tuning.trials)
    assert {None, 2_048, 8_192, 32_768} == {t.options.get("batch_tokens") for t in tuning.trials}


def test_a_failing_trial_is_noted_and_the_search_goes_on(model, monkeypatch):
    monkeypatch.setattr(module, "_FLOAT32", ({"engine": "onnx", "device": "cuda"},))
    tuning = tune(f"local:{model}?threads=1", Workload(), **QUICK)

    assert "runs on the processor" in tuning.trials[1].error
    assert not tuning.trials[1].exact
    assert tuning.best is tuning.trials[0]


def test_no_trial_begins_without_time_for_it(model):
    tuning = tune(f"local:{model}", Workload(), **QUICK | {"seconds": 0.001})

    assert 1 == len(tuning.trials)
    assert 0 < tuning.untried


def test_the_faster_settings_win_and_noise_does_not(model, monkeypatch):
    """The clock is the border: torch takes half the time, packed a hundredth less than that."""
    cost = {"onnx": 1.0, "packed": 0.5, "padded": 0.495}

    def compare_speed(backends, shape, workload, *, calls, warm_up):
        def seconds(backend):
            facts = backend.describe()
            wall = cost[facts["attention"] if facts["engine"] == "torch" else "onnx"]
            return Speed(shape, (wall,) * calls, (wall,) * calls)

        return {name: seconds(backend) for name, backend in backends.items()}

    monkeypatch.setattr(module, "compare_speed", compare_speed)
    tuning = tune(f"local:{model}?engine=onnx", Workload(), **QUICK)
    free = tune(f"local:{model}?threads=1&batch_tokens=4096", Workload(), **QUICK)

    assert tuning.best is tuning.trials[0]
    assert ("torch", "packed") == (free.best.options["engine"], free.best.options["attention"])
    assert 2.0 == pytest.approx(free.best.ratio)


@pytest.mark.parametrize("spec", ["embedded", "tei+http://127.0.0.1:9"])
def test_only_local_models_are_tuned(spec):
    with pytest.raises(ConfigError, match="only local models"):
        tune(spec, Workload())


def test_of_several_local_models_none_is_guessed():
    tables = {
        "backend": {"kind": "local", "model": "one"},
        "fallback": [{"kind": "local", "model": "two"}],
    }
    with pytest.raises(ConfigError, match=r"several local models \(local:one, local:two\)"):
        tune(tables, Workload())


def test_both_forms_of_a_result_load_the_same_backend(tmp_path):
    trial = Trial(
        {"kind": "local", "model": "a/b ?%模型", "engine": "onnx", "threads": 2, "scale": "logit"}
    )

    assert trial.options == load_backend(trial.spec).to_spec()
    assert trial.options == load_backend(tomllib.loads(trial.toml)).to_spec()
