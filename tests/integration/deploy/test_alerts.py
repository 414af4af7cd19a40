"""Rules and alerts: valid, and each alert fires when it should and only then."""

import re

import pytest
import yaml

from tests.integration.deploy.recipes import DEPLOY, run

PROMETHEUS = DEPLOY / "prometheus"
GROUPS = {
    group["name"]: group["rules"]
    for name in ("rules.yaml", "alerts.yaml")
    for group in yaml.safe_load((PROMETHEUS / name).read_text(encoding="utf-8"))["groups"]
}
RULES = [rule for group in GROUPS.values() for rule in group]
ALERTS = [rule for rule in RULES if "alert" in rule]
TESTS = ("tests.yaml", "tests-traffic.yaml")


def test_rules_are_valid():
    run("promtool", "check", "rules", "rules.yaml", "alerts.yaml", cwd=PROMETHEUS)


@pytest.mark.parametrize("file", TESTS)
def test_alerts_fire_when_they_should(file):
    assert "SUCCESS" in run("promtool", "test", "rules", file, cwd=PROMETHEUS)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: rule["alert"])
def test_each_alert_is_fired_by_a_test_and_kept_silent_by_one(alert):
    cases = set()
    for file in TESTS:
        for case in yaml.safe_load((PROMETHEUS / file).read_text(encoding="utf-8"))["tests"]:
            for check in case["promql_expr_test"]:
                if f'alertname="{alert["alert"]}"' in check["expr"]:
                    cases.add(bool(check["exp_samples"]))

    assert {True, False} == cases


@pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: rule["alert"])
def test_each_alert_says_how_bad_and_what_to_do(alert):
    assert alert["labels"]["severity"] in {"page", "ticket", "info"}
    assert {"summary", "description"} == set(alert["annotations"])


def test_the_coarse_test_orders_all_groups():
    """Else a group may read what another records later, and see nothing at all."""
    order = yaml.safe_load((PROMETHEUS / "tests-traffic.yaml").read_text("utf-8"))

    assert set(GROUPS) == set(order["group_eval_order"])


def test_recorded_names_say_level_and_operation():
    names = [rule["record"] for rule in RULES if "record" in rule]

    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"rerank:\w+:\w+", name) for name in names)


def test_scrape_configuration_of_compose_is_valid():
    run("promtool", "check", "config", "--syntax-only", DEPLOY / "compose" / "prometheus.yaml")


def test_scrape_configuration_of_kubernetes_is_valid(tmp_path):
    """Debian's promtool is built without Kubernetes, so its part is checked by name only."""
    config = yaml.safe_load((PROMETHEUS / "scrape-kubernetes.yaml").read_text(encoding="utf-8"))
    pods, canary = config["scrape_configs"]
    assert canary["job_name"] == "rerank-canary"  # as what is pushed, so there is one name
    assert canary["honor_labels"] is True  # the set's name is what the canary says
    (discovery,) = pods.pop("kubernetes_sd_configs")
    rest = tmp_path / "rest.yaml"
    rest.write_text(yaml.safe_dump(config), encoding="utf-8")

    run("promtool", "check", "config", "--syntax-only", rest)
    assert {"role": "pod", "namespaces": {"names": ["rerank"]}} == discovery
