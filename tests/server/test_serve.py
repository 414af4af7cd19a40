"""The command `serve`: how it loads, survives, drains and ends."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from tests.support.monitoring import children
from tests.support.places import ROOT
from tests.support.server_process import fetch, server_process, wait_for_status

BODY = json.dumps({"query": "panda", "documents": ["a panda", "hi"] * 20}).encode()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks into /proc")
def test_a_killed_model_hangs_no_request_and_restarts(tmp_path):
    with server_process(tmp_path) as (process, url):
        assert 200 == fetch(url, "/livez")[0]  # while it loads
        wait_for_status(url, 200)
        (model,) = children(process.pid)
        with ThreadPoolExecutor(4) as pool:
            replies = [pool.submit(fetch, url, "/v1/rerank", BODY) for _ in range(12)]
            os.kill(model, signal.SIGKILL)
            results = [reply.result(60) for reply in replies]
        assert {status for status, _ in results} <= {200, 503}
        refused = {body["error"]["type"] for status, body in results if status == 503}
        assert refused <= {"model_restarting", "overloaded"}, "the next process took too long"
        wait_for_status(url, 200)
        assert 200 == fetch(url, "/v1/rerank", BODY)[0]
        assert children(process.pid) != [model]


def test_sigterm_loses_no_accepted_request(tmp_path):
    with server_process(tmp_path, "--no-model-process") as (process, url):
        wait_for_status(url, 200)
        with ThreadPoolExecutor(8) as pool:
            replies = [pool.submit(fetch, url, "/v1/rerank", BODY) for _ in range(8)]
            time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            wait_for_status(url, 503, seconds=10)
            assert "shutting_down" == fetch(url)[1]["status"]
            assert {200} == {reply.result(60)[0] for reply in replies}
        assert 0 == process.wait(30)


def test_a_second_signal_ends_the_server_at_once(tmp_path):
    with server_process(tmp_path, "--no-model-process", table="shutdown_delay = 100.0") as (
        process,
        url,
    ):
        wait_for_status(url, 200)
        process.send_signal(signal.SIGTERM)
        wait_for_status(url, 503, seconds=10)
        process.send_signal(signal.SIGTERM)

        assert 0 == process.wait(20)


SIGNALLED = """
import functools, os, signal, uvicorn
from rerank_plugins.cli import main
from rerank_plugins.server import lifecycle, run

original = {owner}.{name}

@functools.wraps(original)
def signalled(*arguments, **options):
    signal.raise_signal(signal.{signal})
    return original(*arguments, **options)

{owner}.{name} = signalled
main()
"""


@pytest.mark.parametrize(
    ("number", "owner", "name"),
    [
        ("SIGTERM", "uvicorn.Config", "load"),  # there are handlers of signals, and no loop yet
        ("SIGINT", "uvicorn.Config", "load"),
        ("SIGTERM", "run._UvicornServer", "startup"),
        ("SIGTERM", "lifecycle.Lifecycle", "start"),
        ("SIGTERM", "run", "_lengthen_queue"),
    ],
)
def test_a_signal_at_any_moment_of_the_start_ends_the_server(tmp_path, number, owner, name):
    program = ("-c", SIGNALLED.format(owner=owner, name=name, signal=number))
    flags = ("--no-model-process",)
    with server_process(tmp_path, *flags, table="shutdown_delay = 2.0", program=program) as (
        process,
        _,
    ):
        assert 0 == process.wait(30)


def stuck(folder, *flags, holds_lock=False, table=""):
    """Give a server whose model hangs while it loads."""
    (folder / "blocked").touch()
    config = (
        '[backend]\nkind = "tests.support.doubles:Stuck"\nblocked = "blocked"\n'
        f"holds_lock = {str(holds_lock).lower()}\n"
    )
    return server_process(folder, *flags, table=table, config=config, env={"PYTHONPATH": str(ROOT)})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "holds_lock"),
    [((), False), ((), True), (("--no-model-process",), False)],
    ids=["process", "busy process", "thread"],
)
def test_sigterm_ends_a_server_whose_model_hangs_while_it_loads(tmp_path, flags, holds_lock):
    with stuck(tmp_path, *flags, holds_lock=holds_lock, table="shutdown_delay = 0.0") as (
        process,
        url,
    ):
        assert (503, {"status": "loading"}) == fetch(url)
        workers = children(process.pid)
        process.send_signal(signal.SIGTERM)

        assert 0 == process.wait(20)
        assert not any(map(is_running, workers))


@pytest.mark.parametrize("flags", [(), ("--no-model-process",)], ids=["process", "thread"])
def test_a_second_signal_ends_a_server_whose_model_hangs_while_it_loads(tmp_path, flags):
    with stuck(tmp_path, *flags, table="shutdown_delay = 100.0") as (process, url):
        process.send_signal(signal.SIGTERM)
        while "shutting_down" != fetch(url)[1]["status"]:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)

        assert 0 == process.wait(20)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--no-model-process",)], ids=["process", "thread"])
def test_a_first_load_that_takes_too_long_ends_with_one_line_and_an_exit_code(tmp_path, flags):
    with stuck(tmp_path, *flags, table="load_seconds = 1.0") as (process, _):
        assert 4 == process.wait(30)

    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert last.startswith("error: the model")
    assert "had not loaded" in last


def is_running(process):
    try:
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--no-model-process",)], ids=["process", "thread"])
def test_a_log_that_nobody_reads_stops_no_request(tmp_path, flags):
    """A pipe holds 64 KiB; the model writes more for each batch."""
    (tmp_path / "rerank.toml").write_text('[backend]\nkind = "tests.support.doubles:Verbose"\n')
    command = [sys.executable, "-m", "rerank_plugins", "serve", "rerank.toml", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*command, *flags], cwd=tmp_path, stderr=subprocess.PIPE, env=environment
    ) as process:
        try:
            assert process.stderr is not None
            while not (match := re.search(rb"http://[\d.:]+", process.stderr.readline())):
                pass
            url = match[0].decode()
            wait_for_status(url, 200)
            for _ in range(3):
                assert 200 == fetch(url, "/v1/rerank", BODY)[0]
            process.send_signal(signal.SIGTERM)
            assert 0 == process.wait(20)
        finally:
            process.kill()


@pytest.mark.slow
def test_a_server_that_fails_ends_although_nobody_reads_its_log(tmp_path):
    """Or no supervisor would ever start it again."""
    (tmp_path / "rerank.toml").write_text(
        '[backend]\nkind = "tests.support.doubles:VerboseUnloadable"\n'
    )
    command = [sys.executable, "-m", "rerank_plugins", "serve", "rerank.toml", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, env=environment
    ) as process:
        try:
            assert 1 == process.wait(30)
        finally:
            process.kill()


STUCK = """
import time
from rerank_plugins.backends.embedded import EmbeddedBackend
from rerank_plugins.cli import main

EmbeddedBackend.score_many = lambda self, requests: time.sleep(600)
main()
"""


def test_a_request_that_outlives_the_drain_gets_an_error(tmp_path):
    table = "warm_up = false\nshutdown_delay = 0.0\ndrain_seconds = 0.2"
    stuck = server_process(tmp_path, "--no-model-process", table=table, program=("-c", STUCK))
    with stuck as (process, url), ThreadPoolExecutor(1) as pool:
        wait_for_status(url, 200)
        reply = pool.submit(fetch, url, "/v1/rerank", BODY)
        while b"rerank_inflight_requests 2.0" not in text_of(f"{url}/metrics"):  # and this one
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        status, body = reply.result(60)

        assert (503, "shutting_down") == (status, body["error"]["type"])
        assert 0 == process.wait(30)


def text_of(url):
    with urllib.request.urlopen(url, timeout=60) as reply:
        return reply.read()


SHORT_OF_MEMORY = """
from rerank_plugins import BackendOutOfMemory
from rerank_plugins.backends.embedded import EmbeddedBackend
from rerank_plugins.cli import main

def score_many(self, requests):
    raise BackendOutOfMemory("a pair does not fit")

EmbeddedBackend.score_many = EmbeddedBackend.score = score_many
main()
"""


def test_single_pairs_that_do_not_fit_end_the_server_after_the_third(tmp_path):
    flags = ("--no-model-process",)
    table = "warm_up = false"
    with server_process(tmp_path, *flags, table=table, program=("-c", SHORT_OF_MEMORY)) as (
        process,
        url,
    ):
        wait_for_status(url, 200)
        for _ in range(3):
            status, reply = fetch(url, "/v1/rerank", b'{"query": "q", "documents": ["d"]}')
            assert (503, "out_of_memory") == (status, reply["error"]["type"])

        assert 70 == process.wait(30)


COLLECTED = """
import gc
from rerank_plugins.backends.embedded import EmbeddedBackend
from rerank_plugins.cli import main

def score_many(self, requests):
    return [[gc.get_freeze_count() / 1e9] * len(documents) for _, documents in requests]

EmbeddedBackend.score_many = score_many
main()
"""


def test_garbage_collections_skip_the_loaded_model(tmp_path):
    """Or each would stop all requests for a fifth of a second."""
    flags = ("--no-model-process",)
    with server_process(tmp_path, *flags, program=("-c", COLLECTED)) as (_, url):
        wait_for_status(url, 200)
        reply = fetch(url, "/v1/rerank", b'{"query": "q", "documents": ["d"]}')[1]

        assert reply["results"][0]["relevance_score"] > 10_000 / 1e9


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("prot = 1", "unknown setting 'prot'"),  # as it reads the settings
        ('model_lock = "x"', "can't read the lock 'x'"),  # as it loads the model
    ],
)
def test_wrong_settings_end_with_one_line_and_an_exit_code(tmp_path, table, message):
    (tmp_path / "rerank.toml").write_text(f'[backend]\nkind = "embedded"\n[server]\n{table}\n')
    command = [sys.executable, "-m", "rerank_plugins", "serve", "rerank.toml", "--port", "0"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100
    )

    assert 2 == done.returncode, done.stderr
    assert message in done.stderr.splitlines()[-1]


def lock(folder, *specs):
    command = [sys.executable, "-m", "rerank_plugins", "lock", *specs, "-o", "model.lock"]
    subprocess.run(command, cwd=folder, check=True, timeout=100)


@pytest.mark.slow  # starts several processes, and loads torch
@pytest.mark.parametrize("what", ["not listed", "changed"])
def test_a_compared_model_that_differs_from_its_lock_ends_the_server(tmp_path, checkpoint, what):
    model = tmp_path / "model"
    shutil.copytree(checkpoint("bert"), model)
    if what == "changed":
        lock(tmp_path, "embedded", f"local:{model}")
        with (model / "model.safetensors").open("r+b") as weights:
            weights.seek(-1, os.SEEK_END)
            weights.write(b"!")
    else:
        lock(tmp_path, "embedded")
    (tmp_path / "rerank.toml").write_text(
        '[backend]\nkind = "embedded"\n'
        f'[server]\nmodel_lock = "model.lock"\ncompare = ["local:{model}"]\n'
    )
    command = [sys.executable, "-m", "rerank_plugins", "serve", "rerank.toml", "--port", "0"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100
    )

    assert 2 == done.returncode, done.stderr
    messages = {
        "changed": "error: the model 'model': its file 'model.safetensors' is not the one in",
        "not listed": "error: the model 'model' is not in the lock 'model.lock', which lists",
    }
    assert done.stderr.splitlines()[-1].startswith(messages[what]), done.stderr


@pytest.mark.slow  # starts several processes
@pytest.mark.parametrize("flags", [(), ("--no-model-process",)], ids=["process", "thread"])
def test_a_locked_model_that_changes_while_it_serves_scores_no_more(tmp_path, checkpoint, flags):
    """The weights that are mapped into memory change with the file."""
    model = tmp_path / "model"
    shutil.copytree(checkpoint("bert"), model)
    config = f'[backend]\nkind = "local"\nmodel = "{model}"\nengine = "onnx"\n'
    lock(tmp_path, f"local:{model}")
    table = 'model_lock = "model.lock"\n'
    with server_process(tmp_path, *flags, table=table, config=config) as (process, url):
        wait_for_status(url, 200)
        assert 200 == fetch(url, "/v1/rerank", BODY)[0]
        with (model / "model.safetensors").open("r+b") as weights:
            weights.seek(-1, os.SEEK_END)
            weights.write(b"!")
        log = tmp_path / "log"
        if flags:
            assert 2 == process.wait(30)
            last = log.read_text().splitlines()[-1]
            assert last.startswith("error: the locked file 'model.safetensors' was changed")
        else:
            assert 503 == fetch(url, "/v1/rerank", BODY)[0]
            while "'model.safetensors' is not the one in" not in log.read_text():
                time.sleep(0.05)
            assert 503 == fetch(url, "/v1/rerank", BODY)[0]
            assert "model_restarting" == fetch(url)[1]["status"]


@pytest.mark.slow  # starts several processes, and loads torch
def test_locked_models_are_served_and_compared(tmp_path, checkpoint):
    lock(tmp_path, "embedded", f"local:{checkpoint('bert')}")
    table = f'model_lock = "model.lock"\ncompare = ["local:{checkpoint("bert")}"]\n'
    with server_process(tmp_path, table=table) as (_, url):
        wait_for_status(url, 200)
        deadline = time.monotonic() + 60
        while (response := fetch(url, "/ui/rerank/1", BODY))[0] != 200:
            assert time.monotonic() < deadline, response
            time.sleep(0.02)


@pytest.mark.slow  # starts several processes, and loads torch
@pytest.mark.parametrize("harm", ["missing", "truncated", "no tokenizer"])
@pytest.mark.parametrize("flags", [(), ("--no-model-process",)], ids=["process", "thread"])
def test_a_model_that_can_not_be_loaded_ends_with_one_line_and_an_exit_code(
    tmp_path, checkpoint, harm, flags
):
    model = tmp_path / "model"
    shutil.copytree(checkpoint("bert"), model)
    weights = model / "model.safetensors"
    if harm == "missing":
        weights.unlink()
    elif harm == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    else:
        for file in model.glob("tokenizer*"):
            file.unlink()
    command = [sys.executable, "-m", "rerank_plugins", "serve", f"local:{model}", "--port", "0"]
    done = subprocess.run(
        [*command, *flags], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100
    )

    assert 0 < done.returncode < 128, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: "), done.stderr
    assert "Traceback" not in done.stderr
