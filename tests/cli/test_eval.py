"""`rerank-plugins eval` and `canary`: what they print and write, and how they exit."""

import errno
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from rerank_plugins import BackendUnavailable
from rerank_plugins.cli import app
from rerank_plugins.cli.canary import seconds_of
from rerank_plugins.testing import FailingBackend, FakeBackend
from tests.support.places import ROOT
from tests.support.pushgateway import pushgateway
from tests.support.terminal import in_terminal

pytest.importorskip("prometheus_client", reason="needs the extra `prometheus`")

COMMAND = [sys.executable, "-m", "rerank_plugins"]
ALERTS = ROOT / "examples" / "deploy" / "prometheus" / "alerts.yaml"
QUICK = ["demo:xquad-zh", "--queries", "6", "--depth", "3"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RERANK_BACKEND", raising=False)
    return tmp_path


@pytest.fixture
def use(monkeypatch):
    """Return a function that makes every spec load one backend."""

    def put(backend):
        for command in ("eval", "canary"):  # the package's attribute `canary` is the command
            module = sys.modules[f"rerank_plugins.cli.{command}"]
            monkeypatch.setattr(module, "load_backend", lambda spec: backend)

    return put


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


class TestEval:
    def test_reports_of_a_run_before_stay_when_the_disk_is_full(self, folder, monkeypatch):
        run("eval", *QUICK)
        files = sorted((folder / "rerank-eval" / "xquad-zh").iterdir())
        before = [file.read_bytes() for file in files]
        fsync, left = os.fsync, [2]

        def full(number):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            fsync(number)

        monkeypatch.setattr(os, "fsync", full)
        done = run("eval", *QUICK, "--seed", "1")

        assert 6 == done.exit_code, done.stderr
        assert files == sorted((folder / "rerank-eval" / "xquad-zh").iterdir())
        assert before == [file.read_bytes() for file in files]

    def test_a_pipe_gets_lines_and_the_folder_gets_reports(self, folder):
        done = run("eval", *QUICK)
        head, before, after = (line.split("\t") for line in done.stdout.splitlines())

        assert 0 == done.exit_code, done.stderr
        assert ["xquad-zh", "MRR@10", "nDCG@10", "MAP", "Recall@10", "Success@1"] == head[:6]
        assert "BM25" == before[0]
        assert "embedded" == after[0]
        assert len(head) == len(before) == len(after)
        assert {"report.html", "report.md", "results.json"} == {
            file.name for file in (folder / "rerank-eval" / "xquad-zh").iterdir()
        }
        assert "report: rerank-eval/xquad-zh/report.html" in done.stderr

    def test_the_demo_covers_two_languages(self, use):
        use(FakeBackend())
        done = run("eval", "--demo", "--json", "--metric", "mrr@10", "-b", "embedded")
        result = json.loads(done.stdout)

        assert ["covidqa", "xquad-zh"] == [each["dataset"]["name"] for each in result]
        assert [["BM25", "embedded"]] * 2 == [
            [system["label"] for system in each["systems"]] for each in result
        ]

    def test_only_one_model_is_loaded_at_a_time(self, monkeypatch):
        loaded, counts = set(), []

        class Loadable(FakeBackend):
            def score(self, query, documents):
                loaded.add(self.name)
                counts.append(len(loaded))
                return super().score(query, documents)

            def close(self):
                loaded.discard(self.name)

        module = sys.modules["rerank_plugins.cli.eval"]
        monkeypatch.setattr(module, "load_backend", lambda spec: Loadable(name=spec))
        sets = ["demo:xquad-zh", "demo:covidqa", "--queries", "3", "--depth", "5"]
        done = run("eval", *sets, "-b", "A", "-b", "B", "-b", "C", "--json")

        assert (0, 1, set()) == (done.exit_code, max(counts), loaded)
        assert [["BM25", "A", "B", "C"]] * 2 == [
            [system["label"] for system in each["systems"]] for each in json.loads(done.stdout)
        ]

    def test_a_wrong_spec_is_found_before_anything_is_scored(self, folder):
        done = run("eval", *QUICK, "-b", "embedded", "-b", "lokal:x")

        assert 2 == done.exit_code
        assert 0 == scored(folder)

    def test_a_second_run_reuses_scores_unless_told_otherwise(self, use):
        backend = FakeBackend()
        use(backend)
        calls = []
        for arguments in ([], [], ["--fresh"]):
            run("eval", *QUICK, *arguments)
            calls.append(len(backend.calls))

        assert calls[0] == calls[1]
        assert 2 * calls[0] == calls[2]

    @pytest.mark.slow
    def test_a_killed_run_resumes(self, folder, use):
        """The command is killed while the embedded model scores; the next run does the rest."""
        command = [*COMMAND, "eval", "demo:covidqa", "--queries", "12", "--depth", "3"]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and child.poll() is None and scored(folder) < 2:
            time.sleep(0.02)
        os.kill(child.pid, signal.SIGKILL)
        child.wait(timeout=30)
        known = scored(folder)
        assert 2 <= known < 12
        assert not (folder / "rerank-eval" / "covidqa").exists()

        done = run("eval", "demo:covidqa", "--queries", "12", "--depth", "3", "--json")

        assert 0 == done.exit_code
        assert 12 == scored(folder)

    def test_a_terminal_sees_a_table_and_verdicts(self, folder):
        code, shown = in_terminal(
            "eval", *QUICK, streams=["stdout", "stderr"], width=160, env={"NO_COLOR": "1"}
        )

        assert 0 == code
        assert "xquad-zh: queries" in shown
        assert "No clear difference: MRR@10" in shown

    @pytest.mark.parametrize("name", ["embedded", "embedded?max_length=100"])
    def test_eighty_columns_cut_no_name_and_no_figure(self, name):
        metrics = ["MRR@10", "nDCG@10", "MAP", "Recall@10", "Success@1"]
        both = ("stdout", "stderr")
        code, shown = in_terminal(
            "eval", *QUICK, "-b", name, streams=both, width=80, env={"NO_COLOR": "1"}
        )
        plain = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown)
        lines = plain[plain.index(" xquad-zh ") :].splitlines()

        assert 0 == code
        assert ["xquad-zh", *metrics] == lines[0].split()
        assert "…" not in plain
        head = next(line.split() for line in lines if "p50" in line)
        assert ["xquad-zh", "p50", "ms", "p95", "ms", "p99", "ms", "pairs/s"] == head
        assert name in "".join(line[:17].strip() for line in lines if not line.startswith("="))

    def test_a_pipe_gets_the_verdict_on_standard_error(self):
        done = run("eval", *QUICK)

        assert "embedded: No clear difference: MRR@10" in done.stderr
        assert "No clear difference" not in done.stdout

    def test_a_script_that_wants_json_gets_no_verdict(self):
        assert "difference" not in run("eval", *QUICK, "--json").stderr

    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            ([], 2, "name a dataset, or see --demo"),
            (["no/such"], 2, "there is no dataset 'no/such'"),
            ([*QUICK, "--metric", "F1"], 2, "unknown metric 'F1'"),
            ([*QUICK, "-b", "lokal:x"], 2, "unknown kind of backend 'lokal'"),
            (["x.jsonl"], 3, "can't read 'x.jsonl'"),
            ([*QUICK, "-b", "tei+http://127.0.0.1:9?max_documents=5"], 4, "127.0.0.1"),
            ([*QUICK, "--out", "/proc/nothing"], 2, "can't write '/proc/nothing/scores/"),
        ],
    )
    def test_mistakes_are_one_line_and_an_exit_code(self, arguments, code, message):
        done = run("eval", *arguments)

        assert code == done.exit_code
        assert message in done.stderr
        assert 1 == len(done.stderr.splitlines())


def scored(folder):
    """Count the queries whose scores are saved."""
    return sum(
        line.startswith(b'{"query"')
        for path in folder.glob("rerank-eval/scores/*")
        for line in path.read_bytes().split(b"\n")[:-1]
    )


class TestCanary:
    def test_one_run_prints_one_object(self, use):
        use(FakeBackend(lambda query, document: 0.5))
        done = run("canary", *QUICK)
        result = json.loads(done.stdout)

        assert 0 == done.exit_code
        assert result["ok"]
        assert result["MRR@10"] == result["first_stage"]["MRR@10"]
        assert 6 == result["queries"]
        assert 0 < result["p95_seconds"] < 60

    def test_without_publishing_prometheus_is_not_needed(self, use, monkeypatch):
        use(FakeBackend())
        monkeypatch.setitem(sys.modules, "prometheus_client", None)

        assert 0 == run("canary", *QUICK).exit_code
        assert "rerank-plugins[prometheus]" in run("canary", *QUICK, "--textfile", "r.prom").stderr

    def test_conformance_is_checked_only_on_request(self, folder, use):
        places = itertools.count()
        use(FakeBackend(lambda query, document: float(next(places)), scale="logit"))
        unasked = run("canary", *QUICK)
        asked = run("canary", *QUICK, "--conformance", "--textfile", "r.prom")

        assert [0, 5] == [unasked.exit_code, asked.exit_code]
        assert "error: the same request got different scores" in asked.stderr
        assert 'rerank_canary_failures_total{set="xquad-zh"} 1.0' in (folder / "r.prom").read_text()

    def test_an_mrr_below_the_limit_exits_with_1(self, folder, use):
        use(FakeBackend(lambda query, document: -float(len(document)), scale="logit"))
        done = run("canary", *QUICK, "--min", "0.99", "--textfile", "r.prom", "--set", "mine")

        assert 1 == done.exit_code
        assert not json.loads(done.stdout)["ok"]
        assert 'rerank_canary_regression{set="mine"} 1.0' in (folder / "r.prom").read_text()

    def test_a_baseline_allows_for_the_tolerance(self, use):
        good = FakeBackend(lambda query, document: 0.5, name="good")
        use(good)
        run("eval", *QUICK)
        baseline = ["--baseline", "rerank-eval/xquad-zh/results.json"]
        same = run("canary", *QUICK, *baseline)
        use(FakeBackend(lambda query, document: -float(len(document)), scale="logit"))
        worse = run("canary", *QUICK, *baseline)
        lenient = run("canary", *QUICK, *baseline, "--tolerance", "1")

        assert [0, 1, 0] == [done.exit_code for done in (same, worse, lenient)]

    def test_a_failing_backend_is_counted_and_reported(self, folder, use):
        use(FailingBackend(BackendUnavailable("no answer from gpu")))
        done = run("canary", *QUICK, "--textfile", "r.prom")

        assert 4 == done.exit_code
        assert "error: no answer from gpu" == done.stderr.strip()
        assert 'rerank_canary_failures_total{set="xquad-zh"} 1.0' in (folder / "r.prom").read_text()

    def test_a_run_that_fails_leaves_the_last_figures_at_the_gateway(self, use):
        """Each run is a process of its own, as in a CronJob, and knows nothing of the last."""
        with pushgateway() as gateway:
            once = ["canary", *QUICK, "--push", gateway.url]
            use(FakeBackend(lambda query, document: 0.5))
            good = run(*once)
            ((path, _),) = gateway.groups.items()
            before = gateway.values(path)
            use(FailingBackend(BackendUnavailable("no answer from gpu")))
            bad = run(*once)
            after = gateway.values(path)
        last_run = "rerank_canary_last_run_timestamp_seconds"
        changed = {name for name in before if before[name] != after[name]}

        assert [0, 4] == [good.exit_code, bad.exit_code]
        assert [path] == list(gateway.groups)
        assert json.loads(good.stdout)["MRR@10"] == after["rerank_canary_mrr_at_10"]
        assert 1 == after["rerank_canary_failures_total"]
        assert {
            last_run, "rerank_canary_failures_total", "rerank_canary_failures_created",
        } == changed  # fmt: skip
        assert after["rerank_canary_last_success_timestamp_seconds"] < after[last_run]
        assert set(before) == set(after)

    def test_the_gateway_holds_what_the_alerts_ask_for(self, use):
        asked = set(re.findall(r"rerank_canary_\w+", ALERTS.read_text(encoding="utf-8")))
        use(FakeBackend())
        with pushgateway() as gateway:
            run("canary", *QUICK, "--push", gateway.url)
        ((path, _),) = gateway.groups.items()

        assert asked
        assert asked <= set(gateway.values(path))

    def test_it_goes_on_after_failures(self, folder, use):
        use(FailingBackend(BackendUnavailable("no answer from gpu")))
        done = run(
            "canary", *QUICK, "--textfile", "r.prom", "--every", "0.01s", "--runs", 3,
        )  # fmt: skip

        assert 0 == done.exit_code
        assert 3 == len(done.stderr.splitlines())
        assert 'rerank_canary_failures_total{set="xquad-zh"} 3.0' in (folder / "r.prom").read_text()

    def test_a_backend_that_comes_back_is_measured(self, use):
        use(FakeBackend())
        done = run("canary", *QUICK, "--every", "0.01s", "--runs", 2)

        assert 2 == len([json.loads(line) for line in done.stdout.splitlines()])

    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            (
                [*QUICK, "--every", "often"],
                2,
                "'often' is not a duration; write 30s, 10m, 1h or 1d",
            ),
            ([*QUICK, "--every", "0s"], 2, "'0s' is not a duration"),
            ([*QUICK, "--runs", "2"], 2, "only with --every"),
            ([*QUICK, "--baseline", "none.json"], 2, "can't read 'none.json'"),
            ([*QUICK, "--textfile", "/proc/nothing/r.prom"], 6, "can't publish the metrics"),
            (["no/such"], 2, "there is no dataset"),
        ],
    )
    def test_mistakes_are_one_line_and_an_exit_code(self, use, arguments, code, message):
        use(FakeBackend())
        done = run("canary", *arguments)

        assert code == done.exit_code
        assert message in done.stderr
        assert 1 == len(done.stderr.splitlines())

    def test_times_are_written_with_their_unit(self):
        assert [30, 600, 3600, 86400, 1.5] == [
            seconds_of(text) for text in ("30s", "10m", "1h", "1d", "1.5s")
        ]
