"""A real Prometheus scrapes a real server, with a key, and answers all queries of the recipes."""

import json
import re
import subprocess
import time

import httpx2 as httpx
import pytest
import yaml

from tests.integration.deploy.metrics_queried import EXPRESSIONS
from tests.integration.deploy.processes import KEY, server
from tests.integration.deploy.recipes import DEPLOY, tool
from tests.support.ports import free_ports

CONFIG = yaml.safe_load((DEPLOY / "compose" / "prometheus.yaml").read_text(encoding="utf-8"))
VARIABLES = {"$job": "rerank", "$instance": ".*", "$__rate_interval": "1m"}


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    """A Prometheus with the configuration of the compose file, hurried, and a client of it."""
    program = tool("prometheus")
    folder = tmp_path_factory.mktemp("prometheus")
    port, serving = free_ports(2)
    (folder / "key").write_text(KEY)
    config = json.loads(json.dumps(CONFIG))
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    for name in config["rule_files"]:
        text = (DEPLOY / "prometheus" / name).read_text(encoding="utf-8")
        (folder / name).write_text(re.sub(r"interval: \d+s", "interval: 500ms", text))
    (job,) = config["scrape_configs"]
    job["authorization"]["credentials_file"] = str(folder / "key")
    job["static_configs"] = [{"targets": [f"127.0.0.1:{serving}"]}]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    command = [program, f"--config.file={folder}/prometheus.yaml"]
    command += [f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}"]
    with server(folder, serving), (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=30) as client:
                headers = {"Authorization": f"Bearer {KEY}"}
                body = {"query": "what is a panda?", "documents": ["A bear.", "A city."]}
                url = f"http://127.0.0.1:{serving}/v1/rerank"
                deadline = time.monotonic() + 60
                while not ready(f"http://127.0.0.1:{port}/-/ready"):
                    assert time.monotonic() < deadline, (folder / "log").read_text()
                    time.sleep(0.05)
                while not query(client, "rerank:requests:rate5m > 0"):
                    assert time.monotonic() < deadline, (folder / "log").read_text()
                    assert process.poll() is None, (folder / "log").read_text()
                    assert httpx.post(url, json=body, headers=headers).status_code == 200
                    time.sleep(0.3)
                yield client
        finally:
            process.terminate()
            process.wait(20)


def ready(url):
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:  # it does not listen yet
        return False


def query(client, expression):
    reply = client.get("/query", params={"query": expression})
    assert reply.status_code == 200, f"{expression}: {reply.text}"
    return reply.json()["data"]["result"]


def filled(expression):
    """Return an expression of the dashboard as Grafana would send it."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def test_the_server_is_scraped_with_its_key(prometheus):
    (target,) = prometheus.get("/targets").json()["data"]["activeTargets"]

    assert target["health"] == "up", target["lastError"]
    assert target["labels"]["job"] == "rerank"


@pytest.mark.parametrize(
    "expression",
    [expression for name, expression in EXPRESSIONS if not name.startswith("variable ")],
)
def test_prometheus_answers_every_query_of_the_recipes(prometheus, expression):
    query(prometheus, filled(expression))


def test_the_panels_of_a_working_server_are_not_empty(prometheus):
    names = {"panel Latency", "panel Requests per second", "panel Wait in the queue"}
    samples = {}
    for name, expression in EXPRESSIONS:
        if name in names:
            samples[name] = samples.get(name, True) and bool(query(prometheus, filled(expression)))

    assert dict.fromkeys(names, True) == samples


def test_all_rules_are_in_good_health(prometheus):
    groups = prometheus.get("/rules").json()["data"]["groups"]
    sick = [rule for group in groups for rule in group["rules"] if rule["health"] == "err"]

    assert groups
    assert not sick


def test_a_server_in_good_health_fires_no_alert(prometheus):
    assert [] == prometheus.get("/alerts").json()["data"]["alerts"]
