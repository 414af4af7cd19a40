"""The command `doctor`: facts about the machine, and whether a backend works."""

import importlib
import importlib.util
import json
import re
import sys

import pytest
from typer.testing import CliRunner

import rerank_plugins
from rerank_plugins import BackendUnavailable, load_backend
from rerank_plugins.backends.local import LocalBackend
from rerank_plugins.cli import app
from rerank_plugins.cli.doctor import environment
from rerank_plugins.cli.doctor.diagnose import diagnose, score_pair
from rerank_plugins.cli.doctor.environment import describe_environment
from rerank_plugins.cli.doctor.report import as_lines
from rerank_plugins.testing import (
    FailingBackend,
    FakeBackend,
    FakeResponse,
    FakeServer,
    serve_dialect,
)
from tests.support.terminal import in_terminal

KEY = "XINFERENCE_API_KEY"
SECRET = "sk-very-secret"
OWN_KEY = "0123456789abcdef0123"


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.delenv("RERANK_BACKEND", raising=False)


def xinference(*models, key=None):
    """A server that lists its models, scores, and may want a key."""

    def answer(received):
        if key and received.headers.get("Authorization") != f"Bearer {key}":
            if received.path == "/v1/cluster/auth":
                return FakeResponse({"auth": True})
            return FakeResponse(
                {"detail": f"wrong key {received.headers.get('Authorization')}"}, 401
            )
        if received.method == "POST":
            return serve_dialect("xinference")(received)
        if received.path == "/v1/models":
            described = {"owned_by": "xinference", "model_type": "rerank"}
            return FakeResponse({"data": [{"id": name, **described} for name in models]})
        if received.path == "/v1/cluster/version":
            return FakeResponse({"version": "4.1.0"})
        return FakeResponse({"detail": "Not Found"}, 404)

    return answer


def own_server(received):
    """Behave like `rerank-plugins serve` with a key, as far as the doctor looks."""
    if received.headers.get("Authorization") != f"Bearer {OWN_KEY}":
        challenge = {"WWW-Authenticate": 'Bearer realm="rerank"'}
        return FakeResponse({"message": "send a valid key"}, 401, challenge)
    if received.path == "/info":
        return FakeResponse(
            {"model_id": "m", "model_type": {"reranker": {}}, "version": "1.0", "limits": {}}
        )
    return FakeResponse([{"index": 0, "score": 0.9}, {"index": 1, "score": 0.1}])


def posts(fake_server):
    return [received for received in fake_server.requests if received.method == "POST"]


def run(*arguments):
    return CliRunner().invoke(app, ["doctor", *arguments])


class TestDescribeEnvironment:
    def test_facts_are_json(self):
        facts = json.loads(json.dumps(describe_environment()))

        assert rerank_plugins.__version__ == facts["rerank-plugins"]
        assert facts["cpu"]["cores"] >= 1
        assert facts["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
        assert "cpu" in facts["devices"]["onnxruntime"]

    def test_packages_are_those_of_the_metadata(self, monkeypatch):
        monkeypatch.setattr(
            environment,
            "requires",
            lambda name: [
                "rich>=13",
                "no-such-package<2,>=1; extra == 'local'",
                "typer",
                "rerank-plugins[local]; extra == 'all'",
                "pytest; extra == 'dev'",
            ],
        )
        facts = describe_environment()

        assert {"rich", "typer"} == facts["packages"].keys()
        assert None not in facts["packages"].values()
        assert {"local": {"no-such-package": None}} == facts["extras"]

    def test_gpus_are_named(self, monkeypatch):
        torch = pytest.importorskip("torch", reason="needs the extra `local`")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "get_device_name", "GPU of {}".format)

        expected = ["cpu", "cuda:0 (GPU of cuda:0)", "cuda:1 (GPU of cuda:1)"]
        assert expected == describe_environment()["devices"]["torch"]

    @pytest.mark.parametrize("kind", ["mps", "xpu"])
    def test_other_accelerators_are_named_as_never_measured(self, kind, monkeypatch):
        torch = pytest.importorskip("torch", reason="needs the extra `local`")
        accelerators = importlib.import_module("rerank_plugins.backends.local.torch.accelerators")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: kind == "mps")
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
        monkeypatch.setattr(accelerators, "_computes", lambda _: True)
        name = "mps" if kind == "mps" else "xpu:0"

        assert ["cpu", f"{name} (not measured by this package)"] == (
            describe_environment()["devices"]["torch"]
        )

    def test_keys_are_named_not_shown(self, monkeypatch):
        monkeypatch.setenv(KEY, SECRET)
        facts = describe_environment()

        assert KEY in facts["keys"]
        assert SECRET not in json.dumps(facts)

    def test_missing_extras_say_how_to_install_them(self):
        facts = describe_environment()
        facts["extras"] = {"local": {"torch": None, "transformers": "5.0"}, "onnx": {"onnx": "1"}}
        lines = [line for _, line in as_lines(facts, diagnose("embedded", score=False))]

        assert "  local           needs torch: pip install 'rerank-plugins[local]'" in lines
        assert "  onnx            onnx 1" in lines


class TestScorePair:
    def test_scores_and_times_are_reported(self):
        backend = FakeBackend()
        check = score_pair(backend)

        assert check.ok
        assert check.detail.startswith("0.75 for a relevant document, 0.25 for an unrelated one;")
        assert 2 == len(backend.calls)

    @pytest.mark.parametrize("function", [lambda q, d: 0.5, lambda q, d: float("Paris" in d)])
    def test_the_wrong_order_fails(self, function):
        """A classifier that was never trained to rerank scores, but not by relevance."""
        check = score_pair(FakeBackend(function))

        assert not check.ok
        assert "the order is wrong" in check.detail

    def test_an_error_fails(self):
        check = score_pair(FailingBackend(BackendUnavailable("connection refused")))

        assert (False, "connection refused") == (check.ok, check.detail)


class TestDiagnose:
    def test_the_default_is_the_embedded_model(self):
        report = diagnose(None)

        assert report.ok
        assert "embedded" == report.spec
        assert "(the default)" in report.checks[0].detail
        assert load_backend("embedded").name == report.backend["name"]

    def test_a_default_from_the_environment_variable_is_reported(self, monkeypatch):
        monkeypatch.setenv("RERANK_BACKEND", "embeded")
        report = diagnose(None)

        assert not report.ok
        assert "did you mean 'embedded'?" in report.checks[0].detail
        assert report.checks[0].detail.endswith("(from RERANK_BACKEND)")

    def test_without_scoring_no_billable_request_is_sent(self):
        with FakeServer(xinference("bge")) as fake_server:
            report = diagnose(f"xinference+{fake_server.url}?model=bge", score=False)

            assert report.ok
            assert ["spec", "server"] == [check.name for check in report.checks]
            assert [] == posts(fake_server)

    def test_without_scoring_no_model_is_loaded(self, tmp_path, checkpoint, monkeypatch):
        pytest.importorskip("tokenizers", reason="needs the extra `onnx`")
        monkeypatch.setattr(LocalBackend, "_load", None)
        report = diagnose(f"local:{checkpoint('bert')}", score=False)

        assert [("spec", True), ("model", True)] == [(c.name, c.ok) for c in report.checks]
        assert "cross-encoder" == report.model["method"]

    def test_a_model_of_a_hub_that_is_out_of_reach_says_so(self, monkeypatch):
        pytest.importorskip("huggingface_hub", reason="needs the extra `onnx`")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        report = diagnose("local:no-such/model", score=False)

        assert [("spec", True), ("model", False)] == [(c.name, c.ok) for c in report.checks]
        assert "HF_HUB_OFFLINE" in report.checks[-1].detail

    def test_a_model_that_cannot_be_loaded_fails(self, tmp_path):
        report = diagnose(f"local:{tmp_path / 'missing'}")

        assert [("spec", True), ("model", False)] == [(c.name, c.ok) for c in report.checks]
        assert "there is no folder" in report.checks[-1].detail

    def test_a_servers_facts_are_reported_and_it_is_scored(self):
        with FakeServer(xinference("bge", "other")) as fake_server:
            report = diagnose(f"xinference+{fake_server.url}?model=bge")

            assert [("spec", True), ("server", True), ("score", True)] == [
                (check.name, check.ok) for check in report.checks
            ]
            assert ("bge", "other") == report.server["models"]
            assert "4.1.0" == report.server["version"]
            assert "bge" == report.backend["model"]
            assert 2 == len(posts(fake_server))

    def test_a_plain_url_becomes_a_spec(self):
        with FakeServer(xinference("bge large")) as fake_server:
            report = diagnose(fake_server.url)

            assert report.ok
            assert f"xinference+{fake_server.url}?model=bge%20large" == report.spec
            assert "bge large" == report.backend["model"]
            assert load_backend(report.spec).name == report.backend["name"]

    def test_a_model_that_is_not_there_fails_before_scoring(self):
        with FakeServer(xinference("bge", "jina")) as fake_server:
            report = diagnose(f"xinference+{fake_server.url}?model=bgee")

            assert not report.ok
            assert "it has no rerank model 'bgee'; it has: bge, jina" == report.checks[-1].detail
            assert [] == posts(fake_server)

    def test_an_unknown_server_is_scored_all_the_same(self):
        """A proxy may speak a dialect and list nothing."""
        with FakeServer(
            lambda r: serve_dialect("cohere")(r) if r.body else FakeResponse({}, 404)
        ) as fake_server:
            report = diagnose(f"cohere+{fake_server.url}?model=m")

            assert report.ok
            assert {} == report.server
            assert (
                f"{fake_server.url} does not identify itself; taken for 'cohere', as configured"
                == (report.checks[1].detail)
            )

    def test_a_server_that_cannot_rerank_fails(self):
        with FakeServer(FakeResponse({"model_type": {"embedding": {}}})) as fake_server:
            report = diagnose(f"tei+{fake_server.url}")

            assert ("server", False) == (report.checks[-1].name, report.checks[-1].ok)
            assert "not a reranker" in report.checks[-1].detail

    @pytest.mark.parametrize("score", [True, False])
    @pytest.mark.parametrize(
        ("engine", "extra"), [("torch", "local"), ("onnx", "onnx"), ("auto", "local")]
    )
    def test_an_engine_that_is_not_installed_fails(self, monkeypatch, engine, extra, score):
        for package in ("tokenizers", "torch"):
            monkeypatch.setitem(sys.modules, package, None)
        find = importlib.util.find_spec
        gone = {"tokenizers", "torch"}
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name in gone else find(name)
        )
        report = diagnose(f"local:some/model?engine={engine}", score=score)

        assert [("spec", True), ("engine", False)] == [(c.name, c.ok) for c in report.checks]
        assert f"pip install 'rerank-plugins[{extra}]'" in report.checks[-1].detail

    @pytest.mark.parametrize("score", [True, False])
    def test_a_service_without_a_key_fails(self, monkeypatch, score):
        for name in ("COHERE_API_KEY", "CO_API_KEY", "MY_KEY"):
            monkeypatch.delenv(name, raising=False)
        usual = diagnose("cohere:rerank-v3.5", score=score).checks[-1]
        named = diagnose("tei+http://localhost:8080?api_key_env=MY_KEY", score=score).checks[-1]

        assert ("key", False) == (usual.name, usual.ok)
        assert "'cohere' needs a key: set COHERE_API_KEY or CO_API_KEY" == usual.detail
        assert (
            "the environment variable 'MY_KEY', named by `api_key_env`, is not set" == named.detail
        )

    def test_a_service_with_a_key_is_fine(self, monkeypatch):
        monkeypatch.setenv("CO_API_KEY", SECRET)

        assert diagnose("cohere:rerank-v3.5", score=False).ok

    def test_a_fallback_is_checked_too(self, monkeypatch, tmp_path):
        monkeypatch.delenv("VOYAGE_API_KEY", raising=False)
        path = tmp_path / "chain.toml"
        path.write_text(
            '[backend]\nkind = "embedded"\n[[fallback]]\nkind = "voyage"\nmodel = "rerank-2"\n',
            encoding="utf-8",
        )

        assert "VOYAGE_API_KEY" in diagnose(str(path), score=False).checks[-1].detail

    @pytest.mark.parametrize("tables", ["[retry]\n", "[cache]\n", "[retry]\n[breaker]\n[cache]\n"])
    def test_a_wrapper_hides_no_dead_server(self, tmp_path, tables):
        path = tmp_path / "rerank.toml"
        path.write_text(f'[backend]\nkind = "tei"\nbase_url = "http://127.0.0.1:9"\n{tables}')
        last = diagnose(str(path), score=False).checks[-1]

        assert ("server", False) == (last.name, last.ok)
        assert "127.0.0.1:9" in last.detail

    @pytest.mark.parametrize("kind", ["OwnClient", "OwnClientInside"])
    @pytest.mark.parametrize("tables", ["", "[retry]\n[cache]\n"])
    def test_the_servers_of_a_users_own_backend_are_checked(self, tmp_path, kind, tables):
        path = tmp_path / "own.toml"
        path.write_text(f'[backend]\nkind = "tests.support.doubles:{kind}"\n{tables}')
        report = diagnose(str(path), score=False)

        assert [("spec", True), ("server", False)] == [(c.name, c.ok) for c in report.checks]
        assert "gpu:9997 sleeps; wake it" == report.checks[-1].detail
        assert {"version": "7"} == report.server

    def test_every_server_of_a_chain_is_checked(self, tmp_path):
        path = tmp_path / "rerank.toml"
        with FakeServer(xinference("bge")) as one, FakeServer(xinference("bge")) as two:
            path.write_text(
                '[backend]\nkind = "xinference"\nmodel = "bge"\n'
                f'endpoints = ["{one.url}", "http://127.0.0.1:9"]\n[retry]\n'
                f'[[fallback]]\nkind = "xinference"\nmodel = "bgee"\nbase_url = "{two.url}"\n'
            )
            report = diagnose(str(path))

        servers = [check for check in report.checks if check.name == "server"]
        assert [True, False, False] == [check.ok for check in servers]
        assert f"xinference 4.1.0 at {one.url}" == servers[0].detail
        assert "127.0.0.1:9" in servers[1].detail
        assert "it has no rerank model 'bgee'; it has: bge" == servers[2].detail

    def test_a_chain_that_scores_without_its_first_server_is_reported(self, tmp_path):
        path = tmp_path / "rerank.toml"
        path.write_text(
            '[backend]\nkind = "tei"\nbase_url = "http://127.0.0.1:9"\n'
            '[[fallback]]\nkind = "embedded"\n'
        )
        done = run(str(path))
        verdict = done.stdout.splitlines()[0]

        assert 1 == done.exit_code
        assert verdict.startswith(f"✗ {path} scores, but not all of it works: ")
        assert "127.0.0.1:9" in verdict
        assert "✓ score" in done.stdout

    def test_a_chain_without_a_working_backend_fails(self, tmp_path):
        path = tmp_path / "rerank.toml"
        path.write_text(
            '[backend]\nkind = "tei"\nbase_url = "http://127.0.0.1:9"\n'
            '[[fallback]]\nkind = "tei"\nbase_url = "http://127.0.0.1:9"\n'
        )
        done = run(str(path))

        assert 1 == done.exit_code
        assert "does not work: " in done.stdout.splitlines()[0]
        assert "✗ score" in done.stdout

    def test_a_wrapped_backend_that_works_is_scored(self, tmp_path):
        path = tmp_path / "rerank.toml"
        with FakeServer(xinference("bge")) as server:
            path.write_text(
                f'[backend]\nkind = "xinference"\nmodel = "bge"\nbase_url = "{server.url}"\n'
                "[retry]\n[cache]\n"
            )
            report = diagnose(str(path))

        assert [("spec", True), ("server", True), ("score", True)] == [
            (check.name, check.ok) for check in report.checks
        ]
        assert ("bge",) == report.server["models"]

    @pytest.mark.parametrize("address", ["localhost:9997", "127.0.0.1:18100", "[::1]:80/v1"])
    def test_the_error_for_an_address_without_http_says_what_to_write(self, address):
        report = diagnose(address)

        assert not report.ok
        assert f"write http://{address}" == report.checks[0].detail

    def test_an_unknown_plain_url_fails(self):
        with FakeServer(FakeResponse({}, 404)) as fake_server:
            report = diagnose(fake_server.url)

            assert not report.ok
            assert ["server"] == [check.name for check in report.checks]

    def test_a_guarded_server_gets_the_usual_key(self, monkeypatch):
        monkeypatch.setenv(KEY, SECRET)
        with FakeServer(xinference("bge", key=SECRET)) as fake_server:
            report = diagnose(fake_server.url)

            assert report.ok
            assert report.spec.endswith("?model=bge")
            assert SECRET not in repr(report)

    def test_a_guarded_server_without_a_key_says_which_to_set(self, monkeypatch):
        monkeypatch.delenv(KEY, raising=False)
        with FakeServer(xinference("bge", key=SECRET)) as fake_server:
            report = diagnose(fake_server.url)

            assert [("server", False)] == [(c.name, c.ok) for c in report.checks]
            assert f"without a valid key: set {KEY}" in report.checks[0].detail

    @pytest.mark.parametrize("key", [None, "wrong", OWN_KEY])
    def test_our_own_server_is_recognised(self, monkeypatch, key):
        monkeypatch.delenv("RERANK_API_KEY", raising=False)
        if key:
            monkeypatch.setenv("RERANK_API_KEY", key)
        with FakeServer(own_server) as fake_server:
            report = diagnose(fake_server.url)

            assert report.ok is (key == OWN_KEY)
            assert "rerank-plugins" in report.checks[0].detail
            assert "asked as rerank" in report.checks[0].detail
            assert report.ok or "set RERANK_API_KEY" in report.checks[0].detail

    @pytest.mark.parametrize(
        ("end", "kept"), [("/v3", "/v3"), ("/v3/rerank", "/v3"), ("/v1", ""), ("/team", "/team")]
    )
    def test_the_version_of_an_unknown_server_is_kept(self, end, kept):
        with FakeServer(FakeResponse({}, 404)) as fake_server:
            (check,) = diagnose(fake_server.url + end).checks

            assert f" cohere+{fake_server.url}{kept}?model=NAME " in check.detail

    def test_a_named_key_is_used(self, monkeypatch):
        monkeypatch.setenv("MY_KEY", SECRET)
        with FakeServer(xinference("bge", key=SECRET)) as fake_server:
            assert diagnose(f"xinference+{fake_server.url}?model=bge&api_key_env=MY_KEY").ok

    def test_a_server_that_is_down_fails(self):
        for spec in ("http://127.0.0.1:9", "tei+http://127.0.0.1:9"):
            last = diagnose(spec).checks[-1]

            assert ("server", False) == (last.name, last.ok)
            assert "127.0.0.1:9" in last.detail
            assert last.detail.endswith("is it running?"), "without the command that just ran"

    def test_a_refusal_to_score_fails(self):
        def answer(received):
            if received.body:
                return FakeResponse({"detail": "CUDA is gone"}, 500)
            return xinference("bge")(received)

        with FakeServer(answer) as fake_server:
            report = diagnose(f"xinference+{fake_server.url}?model=bge")

            assert ("score", False) == (report.checks[-1].name, report.checks[-1].ok)
            assert "CUDA is gone" in report.checks[-1].detail
            assert "bge" == report.backend["model"]


class TestCommand:
    def test_a_working_backend_exits_0(self):
        done = run()

        assert (0, "") == (done.exit_code, done.stderr)
        assert "✓ it works; to use it: backend='embedded'" == done.stdout.splitlines()[0]
        assert f"\nrerank-plugins {rerank_plugins.__version__} · Python " in done.stdout
        assert "✓ score" in done.stdout

    def test_a_check_without_scoring_does_not_claim_to_work(self):
        first = run("embedded", "--no-score").stdout.splitlines()[0]

        assert "✓ nothing is missing, but nothing was scored: backend='embedded'" == first

    def test_a_broken_backend_exits_1(self):
        done = run("tei+http://127.0.0.1:9")

        assert (1, "") == (done.exit_code, done.stderr)
        assert "✗ server" in done.stdout
        assert done.stdout.startswith("✗ tei+http://127.0.0.1:9 does not work: ")

    def test_device_and_engine_of_a_local_model_are_shown(self, checkpoint):
        facts = json.loads(run(f"local:{checkpoint('bert')}?engine=torch", "--json").stdout)

        assert facts["backend"]["device"]
        assert "torch" == facts["backend"]["engine"]

    def test_a_server_is_shown(self):
        with FakeServer(xinference("bge", "other")) as fake_server:
            lines = run(fake_server.url).stdout.splitlines()

            assert "  dialect         xinference" in lines
            assert "  models          bge, other" in lines
            assert lines[0].endswith(f"backend='xinference+{fake_server.url}?model=bge'")

    def test_json_has_everything(self):
        done = run("embedded", "--json", "--no-score")
        facts = json.loads(done.stdout)

        assert 0 == done.exit_code
        assert facts["ok"]
        assert "embedded" == facts["spec"]
        assert ["spec"] == [check["name"] for check in facts["checks"]]
        assert {} == facts["backend"]
        assert "extras" in facts["environment"]

    @pytest.mark.parametrize("options", [(), ("--json",)])
    def test_keys_are_never_shown(self, monkeypatch, options):
        """Not even by a server that repeats them."""
        monkeypatch.setenv(KEY, SECRET)
        with FakeServer(xinference("bge", key="another key")) as fake_server:
            done = run(f"xinference+{fake_server.url}?model=bge", *options)

            assert f"Bearer {SECRET}" == posts(fake_server)[0].headers["Authorization"]
            assert 1 == done.exit_code
            assert KEY in done.stdout
            assert SECRET not in done.output


HOSTILE = "\x1b[31mred\x9b0m\u202e\n\u2066✓ score"


@pytest.mark.parametrize("arguments", [[], ["--json"], ["--no-score"]])
def test_what_a_server_says_of_itself_cannot_drive_the_terminal(fake_server, arguments):
    info = {"model_type": {"reranker": {}}, "model_id": HOSTILE, "version": HOSTILE}
    fake_server.response = lambda received: (
        FakeResponse(info)
        if received.path == "/info"
        else FakeResponse({"error": HOSTILE}, 500, {"Server": "x"})
    )
    done = CliRunner().invoke(app, ["doctor", fake_server.url, *arguments])

    assert "red" in done.output
    assert not [line for line in done.output.splitlines() if not line.isprintable()]
    assert not [line for line in done.output.splitlines() if line.lstrip().startswith("✓ score")]


ODD_MODELS = [
    {"data": [{"owned_by": ["a", "list"], "id": 5}]},
    {"data": [{"owned_by": "infinity", "capabilities": 5, "id": "m"}]},
    {"data": [{"owned_by": "infinity", "capabilities": None, "id": {}}]},
    {"data": {"owned_by": "vllm"}},
    {"data": [{"owned_by": "vllm", "max_model_len": {"a": HOSTILE}, "id": HOSTILE}]},
    {"data": [[], None, 5, {"owned_by": {}}]},
]


@pytest.mark.parametrize("models", ODD_MODELS)
def test_an_odd_list_of_models_is_no_bug_of_the_doctor(fake_server, models):
    fake_server.response = FakeResponse(models)
    done = CliRunner().invoke(app, ["doctor", fake_server.url, "--no-score"])

    assert isinstance(done.exception, SystemExit | None)
    assert done.exit_code in (0, 1)
    assert not [line for line in done.output.splitlines() if not line.isprintable()]


@pytest.mark.parametrize(
    "info",
    [
        {"model_type": {HOSTILE: 1}},
        {"model_type": {"reranker": 1}, "version": {"a": HOSTILE}, "max_input_length": [HOSTILE]},
    ],
)
def test_odd_facts_are_shown_harmlessly(fake_server, info):
    fake_server.response = FakeResponse(info)
    done = CliRunner().invoke(app, ["doctor", fake_server.url, "--no-score"])

    assert isinstance(done.exception, SystemExit | None)
    assert not [line for line in done.output.splitlines() if not line.isprintable()]


@pytest.mark.parametrize("label", ["dtype", "opentelemetry", "truncated_pairs", "a" * 30])
def test_a_label_and_its_value_are_two_words(label):
    report = diagnose("embedded", score=False)
    report.backend = {label: "0"}
    lines = [line for _, line in as_lines(describe_environment(), report)]

    assert [label, "0"] in [line.split() for line in lines]


@pytest.mark.parametrize("width", [40, 80])
def test_a_terminal_breaks_lines_between_words(width):
    code, shown = in_terminal(
        "doctor", "--no-score", "embedded", width=width, env={"NO_COLOR": "1"}
    )
    plain = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown)
    words = set(plain.split())

    assert 0 == code
    for _, line in as_lines(describe_environment(), diagnose("embedded", score=False)):
        assert set(line.split()) <= words
