"""The queries of the rules, the alerts, the dashboard and the autoscaler to Prometheus."""

import json

import yaml

from tests.integration.deploy.recipes import DEPLOY

DASHBOARD = json.loads((DEPLOY / "grafana" / "rerank.json").read_text(encoding="utf-8"))


def rules():
    for name in ("rules.yaml", "alerts.yaml"):
        text = (DEPLOY / "prometheus" / name).read_text(encoding="utf-8")
        for group in yaml.safe_load(text)["groups"]:
            yield from group["rules"]


RECORDED = {rule["record"] for rule in rules() if "record" in rule}


def expressions():
    """Yield the name and the expression of each query to Prometheus."""
    for rule in rules():
        yield rule.get("record") or rule["alert"], rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield f"panel {panel['title']}", target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield f"variable {variable['name']}", variable["definition"]
    for annotation in DASHBOARD["annotations"]["list"]:
        yield f"annotation {annotation['name']}", annotation["expr"]
    scaled = DEPLOY / "kubernetes" / "components" / "keda" / "scaledobject.yaml"
    for trigger in yaml.safe_load(scaled.read_text(encoding="utf-8"))["spec"]["triggers"]:
        yield f"trigger {trigger['name']}", trigger["metadata"]["query"]


EXPRESSIONS = [*expressions()]
