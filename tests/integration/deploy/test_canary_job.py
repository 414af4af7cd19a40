"""The jobs that measure a server, run as their containers would be, against a real one."""

import json
import os
import re
import subprocess
import sys
import time

import pytest

from rerank_plugins import load_backend
from tests.integration.deploy.processes import KEY, server
from tests.integration.deploy.recipes import DEPLOY, documents, script
from tests.support.ports import free_ports
from tests.support.pushgateway import pushgateway

manifests = script(DEPLOY / "update" / "manifests.py")
update = script(DEPLOY / "update" / "update.py")
BASE = DEPLOY / "kubernetes" / "base"
IMAGE = "registry.example.com/rerank-plugins@sha256:" + "a" * 64


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Where a real server with the embedded model listens, which wants a key."""
    (port,) = free_ports(1)
    with server(tmp_path_factory.mktemp("server"), port):
        yield f"127.0.0.1:{port}"


MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""
"""A small process in between: what a process has at its start counts as its child's, too."""


def canary(pod, replaced, key=KEY):
    """Run the only container of a pod here; return what it did, and the most KiB that it took."""
    (container,) = pod["containers"]
    arguments = container["args"]
    for there, here in replaced.items():
        assert sum(there in argument for argument in arguments) == 1, there
        arguments = [argument.replace(there, str(here)) for argument in arguments]
    (variable,) = [each["name"] for each in container["env"]]
    command = [sys.executable, "-m", "rerank_plugins", *arguments]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *command],
        env={**os.environ, variable: key},
        capture_output=True,
        text=True,
        check=False,
    )
    return done, int(done.stderr.splitlines()[-1])


@pytest.fixture
def hourly(address):
    """Run the CronJob of the recipe, with another set, gateway or key if given."""
    (job,) = documents(BASE / "canary.yaml")
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]

    def run_it(gateway, labelled=BASE / "labelled.jsonl", **key):
        replaced = {
            "/canary/labelled.jsonl": labelled,
            "http://rerank?": f"http://{address}?",
            "http://pushgateway.monitoring.svc:9091": gateway.url,
        }
        return canary(pod, replaced, **key)[0]

    return run_it


def test_the_example_set_is_measured_and_pushed_under_its_name(hourly):
    with pushgateway() as gateway:
        done = hourly(gateway)
    ((path, _),) = gateway.groups.items()
    metrics = gateway.values(path)

    assert done.returncode == 0, done.stderr
    assert path == "/metrics/job/rerank-canary/set/labelled"
    assert json.loads(done.stdout)["queries"] == 20
    assert metrics["rerank_canary_mrr_at_10"] == json.loads(done.stdout)["MRR@10"]
    assert 0 <= time.time() - metrics["rerank_canary_last_success_timestamp_seconds"] < 120


def test_a_low_mrr_is_pushed_and_fails_the_job(hourly, tmp_path):
    case = {"query": "what is a panda?", "documents": ["A bear of China.", "x"], "relevant": [1]}
    labelled = tmp_path / "low.jsonl"
    labelled.write_text(json.dumps(case) + "\n")
    with pushgateway() as gateway:
        done = hourly(gateway, labelled)
    metrics = gateway.values("/metrics/job/rerank-canary/set/low")

    assert done.returncode == 1
    assert metrics["rerank_canary_mrr_at_10"] == json.loads(done.stdout)["MRR@10"] == 0.5
    assert metrics["rerank_canary_regression"] == 1


def test_a_server_that_refuses_is_no_success(hourly):
    with pushgateway() as gateway:
        done = hourly(gateway, key="another-key-of-the-tests")
    ((path, _),) = gateway.groups.items()

    assert done.returncode == 5
    assert "RERANK_API_KEY" in done.stderr
    assert gateway.values(path)["rerank_canary_failures_total"] == 1
    assert "rerank_canary_last_success_timestamp_seconds" not in gateway.values(path)


def test_an_update_reads_what_its_job_measured(address, labelled):
    job = manifests.measuring_job(IMAGE, "rerank-candidate")
    pod = job["spec"]["template"]["spec"]
    replaced = {
        "http://rerank-candidate?": f"http://{address}?",
        "/inputs/labelled.jsonl": labelled,
    }
    done, memory = canary(pod, replaced)
    places = []
    with load_backend("embedded") as backend:
        for line in labelled.read_text().splitlines():
            case = json.loads(line)
            scores = backend.score(case["query"], case["documents"])
            places.append(1 + sum(score > scores[2] for score in scores))
    figures = update.Figures.read(done.stdout.splitlines()[-1])

    assert done.returncode == 0, done.stderr
    assert figures.mrr_at_10 == pytest.approx(sum(1 / place for place in places) / 30)
    assert 0 < figures.p95_seconds < 60
    update.Gates().check(figures, figures)
    limit = pod["containers"][0]["resources"]["limits"]["memory"]
    assert memory < 1024 * int(limit.removesuffix("Mi")) / 2


def test_the_job_the_alert_and_the_update_want_the_same_mrr():
    (job,) = documents(BASE / "canary.yaml")
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    (minimum,) = [each for each in container["args"] if each.startswith("--min=")]
    alerts = (DEPLOY / "prometheus" / "alerts.yaml").read_text(encoding="utf-8")
    (alarming,) = re.findall(r"rerank_canary_mrr_at_10 < ([\d.]+)", alerts)

    assert update.Gates().min_mrr == float(alarming) == float(minimum.removeprefix("--min="))


@pytest.mark.parametrize("job", ["hourly", "of an update"])
def test_both_jobs_check_conformance(job):
    if job == "hourly":
        (cron_job,) = documents(BASE / "canary.yaml")
        pod = cron_job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    else:
        pod = manifests.measuring_job(IMAGE, "rerank")["spec"]["template"]["spec"]

    assert "--conformance" in pod["containers"][0]["args"]
