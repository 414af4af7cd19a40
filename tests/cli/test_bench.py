"""`rerank-plugins bench`: what it measures and prints; no test measures speed."""

import json
import os
from itertools import count
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from rerank_plugins.bench import tune
from rerank_plugins.cli import app
from rerank_plugins.testing import FakeServer, serve_dialect
from tests.support.terminal import in_terminal

QUICK = ["--shape", "1x2", "--calls", "3"]


def bench(*arguments):
    return CliRunner().invoke(app, ["bench", *arguments])


def test_it_measures_the_default_backend(monkeypatch):
    monkeypatch.delenv("RERANK_BACKEND", raising=False)
    done = bench(*QUICK)
    header, row = done.stdout.splitlines()

    assert 0 == done.exit_code
    assert ["shape", "backend", "p50 ms"] == header.split("\t")[:3]
    assert ["1x2", "default"] == row.split("\t")[:2]
    assert len(header.split("\t")) == len(row.split("\t"))


def test_each_backend_is_measured_with_each_shape():
    done = bench("embedded", "embedded?threads=1", *QUICK, "--shape", "2x1", "--json")
    rows = json.loads(done.stdout)

    assert [
        ("1x2", "embedded"),
        ("1x2", "embedded?threads=1"),
        ("2x1", "embedded"),
        ("2x1", "embedded?threads=1"),
    ] == [(row["shape"], row["backend"]) for row in rows]
    assert all(3 == len(row["seconds"]) for row in rows)
    assert all(row["p50"] <= row["p95"] <= row["p99"] for row in rows)


@pytest.mark.slow
def test_a_local_model_is_compared_with_sentence_transformers(checkpoint):
    pytest.importorskip("sentence_transformers", reason="needs the extra `local`")
    model = checkpoint("bert")
    done = bench(f"local:{model}?engine=torch", *QUICK, "--json")
    names = [row["backend"] for row in json.loads(done.stdout)]

    assert [f"sentence-transformers:{model}", f"local:{model}?engine=torch"] == names


def test_the_reference_can_be_left_out(checkpoint):
    done = bench(f"local:{checkpoint('bert')}?engine=torch", "--no-reference", *QUICK, "--json")

    assert 1 == len(json.loads(done.stdout))


def test_your_own_documents_are_used(tmp_path):
    file = tmp_path / "documents.txt"
    file.write_text("one document\nanother document\n", encoding="utf-8")

    assert 0 == bench("embedded", "--file", str(file), *QUICK).exit_code


def test_backends_may_be_given_as_an_option():
    done = bench("embedded", "--backend", "embedded?threads=1", *QUICK, "--json")

    assert ["embedded", "embedded?threads=1"] == [row["backend"] for row in json.loads(done.stdout)]


def test_quality_is_told_beside_the_speed(checkpoint, tmp_path):
    """A model in 8 bits beside the same in full precision, on texts of one's own."""
    model, texts = checkpoint("bert"), tmp_path / "texts.txt"
    texts.write_text("".join(f"panda {n} {'bear ' * n}\n" for n in range(30)))
    specs = [f"local:{model}?engine=onnx{dtype}" for dtype in ("", "&dtype=int8")]
    options = [*specs, "--no-reference", "--shape", "1x12", "--calls", "2", "--file", str(texts)]
    header, first, other = (
        line.split("\t") for line in bench(*options, "--quality").stdout.splitlines()
    )
    rows = json.loads(bench(*options, "--quality", "--json").stdout)

    assert ["τ", "top 10"] == header[-2:]
    assert ["1.000", "100 %"] == first[-2:]
    assert 0.5 < float(other[-2]) <= 1
    assert other[-1].endswith(" %")
    assert (1.0, 1.0) == (rows[0]["tau"], rows[0]["top"])
    assert "tau" not in json.loads(bench(*options, "--json").stdout)[0]


def test_tuning_prints_what_was_tried_and_what_to_paste(checkpoint):
    model = checkpoint("bert")
    tuned = ["--tune", f"local:{model}?engine=onnx", *QUICK, "--budget", "300"]
    trials, advice = bench(*tuned).stdout.split("\n\n", 1)
    header, first, *others = (line.split("\t") for line in trials.splitlines())

    assert ["settings", "× original"] == header[:2]
    assert ["engine=onnx", "1.00"] == first[:2]
    assert "exact" == first[-1]
    assert all(row[0].startswith("engine=onnx threads=") for row in others)
    assert f'backend = "local:{model}?engine=onnx' in advice
    assert '[backend]\nkind = "local"' in advice


def test_a_file_with_wrapper_tables_is_measured(tmp_path, checkpoint):
    pytest.importorskip("sentence_transformers", reason="needs the extra `local`")
    model, path = checkpoint("bert"), tmp_path / "rerank.toml"
    path.write_text(f'[backend]\nkind = "local"\nmodel = "{model}"\nengine = "torch"\n[cache]\n')
    done = bench(str(path), *QUICK, "--json")

    assert [f"sentence-transformers:{model}", str(path)] == [
        row["backend"] for row in json.loads(done.stdout)
    ]


@pytest.mark.parametrize(
    "tables", ["[cache]\n", '[[fallback]]\nkind = "embedded"\n', "[cache]\n[breaker]\n"]
)
def test_a_file_without_a_local_model_is_measured_alone(tmp_path, tables):
    path = tmp_path / "rerank.toml"
    with FakeServer(serve_dialect("tei")) as server:
        path.write_text(f'[backend]\nkind = "tei"\nbase_url = "{server.url}"\n{tables}')
        done = bench(str(path), *QUICK, "--json")

    assert [str(path)] == [row["backend"] for row in json.loads(done.stdout)], done.stderr


@pytest.mark.parametrize("tables", ["", "[cache]\n", '[[fallback]]\nkind = "embedded"\n'])
def test_the_model_of_a_file_is_tuned(tmp_path, checkpoint, monkeypatch, tables):
    model, path = checkpoint("bert"), tmp_path / "rerank.toml"
    path.write_text(f'[backend]\nkind = "local"\nmodel = "{model}"\nthreads = 1\n{tables}')
    monkeypatch.setattr(tune, "time", SimpleNamespace(monotonic=count(step=10).__next__))
    done = bench("--tune", str(path), *QUICK, "--budget", "1", "--json")

    assert f"local:{model}?threads=1" == json.loads(done.stdout)["trials"][0]["spec"]


def test_a_folder_is_tuned_without_a_prefix_and_time_may_run_out(checkpoint, monkeypatch):
    """However fast this machine is."""
    model = checkpoint("bert")
    monkeypatch.setattr(tune, "time", SimpleNamespace(monotonic=count(step=10).__next__))
    done = bench("--tune", model, *QUICK, "--budget", "1", "--json")
    result = json.loads(done.stdout)

    assert f"local:{model}" == result["trials"][0]["spec"] == result["best"]["spec"]
    assert f"{result['untried']} settings were not tried" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--tune", "embedded"], 2, "only local models"),
        (["--tune", "m", "embedded"], 2, "one model and one shape"),
        (["--allow-inexact"], 2, "only with --tune"),
        (["--tune", "m", "--quality"], 2, "--tune tells it already"),
        (["--shape", "20"], 2, "a shape is QUERIESxDOCUMENTS"),
        (["--mix", "odd"], 2, "neither natural nor skewed"),
        (["lokal:m"], 2, "unknown kind of backend 'lokal'"),
        (["local:/no/such/folder", *QUICK], 2, "there is no folder"),
        (["embedded", "--file", "/no/such/file", *QUICK], 3, "can't read"),
        (["embedded", "--file", os.devnull, *QUICK], 3, "holds no documents"),
        (["tei+http://127.0.0.1:9?max_documents=3", *QUICK], 4, "127.0.0.1"),
    ],
)
def test_mistakes_are_one_line_and_an_exit_code(arguments, code, message):
    done = bench(*arguments)

    assert code == done.exit_code
    assert message in done.stderr
    assert 1 == len(done.stderr.splitlines())


@pytest.mark.slow
def test_a_terminal_sees_how_far_it_is():
    code, shown = in_terminal("bench", *QUICK, "--shape", "1x3", streams=["stderr"])

    assert 0 == code
    assert "1x2, shape 1 of 2: calls" in shown
    assert "/5" in shown
