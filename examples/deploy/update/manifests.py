"""The objects of an update: a candidate, and the jobs that measure it and the running server."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

CANDIDATE = "rerank-candidate"
CANDIDATE_COMPONENT = "candidate"
SERVING = "rerank.example.com/serving"
OF_UPDATE = "rerank.example.com/update=true"
MOST_SECONDS = 900

_UPDATE_LABEL = dict([OF_UPDATE.split("=")])
_INPUTS = "rerank-update"
_RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def image_of(deployment: dict[str, Any]) -> str:
    """Return the image of the server's container."""
    containers = deployment["spec"]["template"]["spec"]["containers"]
    (image,) = [each["image"] for each in containers if each["name"] == "server"]
    return str(image)


def containers_of(deployment: dict[str, Any]) -> list[str]:
    """Return the names of the containers that run our image, init containers included."""
    spec = deployment["spec"]["template"]["spec"]
    both = [*spec.get("initContainers", []), *spec["containers"]]
    return [each["name"] for each in both if each["image"] == image_of(deployment)]


def candidate(running: dict[str, Any], image: str) -> list[dict[str, Any]]:
    """Return a Deployment of one pod like the running ones, and a Service for that pod alone.

    The pod lacks the label that the Service `rerank` selects, so no client reaches it yet.
    """
    template = copy.deepcopy(running["spec"]["template"])
    labels = {**template["metadata"]["labels"], "app.kubernetes.io/component": CANDIDATE_COMPONENT}
    labels.pop(SERVING, None)
    template["metadata"] = {"labels": labels}
    spec = template["spec"]
    ours = containers_of(running)
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        if container["name"] in ours:
            container["image"] = image
    selector = {name: labels[name] for name in _SELECTING}
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": CANDIDATE, "labels": _UPDATE_LABEL},
            "spec": {"replicas": 1, "selector": {"matchLabels": selector}, "template": template},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": CANDIDATE, "labels": _UPDATE_LABEL},
            "spec": {
                "selector": selector,
                "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
            },
        },
    ]


_SELECTING = ("app.kubernetes.io/name", "app.kubernetes.io/component")


def inputs(labelled: Path) -> list[dict[str, Any]]:
    """Return the input of the jobs: a ConfigMap with the labelled set."""
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": _INPUTS, "labels": _UPDATE_LABEL},
            "data": {"labelled.jsonl": labelled.read_text(encoding="utf-8")},
        }
    ]


def measuring_job(image: str, service: str) -> dict[str, Any]:
    """Return a job that checks and measures the server behind a Service."""
    spec = f"infinity+http://{service}?api_key_env=RERANK_API_KEY"
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"rerank-measure-{service}", "labels": _UPDATE_LABEL},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": MOST_SECONDS,
            "template": {
                "metadata": {
                    "labels": {
                        **_UPDATE_LABEL,
                        "app.kubernetes.io/part-of": "rerank",
                        "app.kubernetes.io/component": "canary",
                        "rerank.example.com/client": "true",
                    }
                },
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": 10001,
                        "runAsGroup": 10001,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [
                        {
                            "name": "measure",
                            "image": image,
                            "args": [
                                "canary",
                                "/inputs/labelled.jsonl",
                                f"--backend={spec}",
                                "--conformance",
                            ],
                            "env": [{"name": "RERANK_API_KEY", "valueFrom": _KEY}],
                            "securityContext": _RESTRICTED,
                            "resources": {
                                "requests": {"cpu": "100m", "memory": "256Mi"},
                                "limits": {"memory": "256Mi"},
                            },
                            "volumeMounts": [
                                {"name": "inputs", "mountPath": "/inputs", "readOnly": True}
                            ],
                        }
                    ],
                    "volumes": [{"name": "inputs", "configMap": {"name": _INPUTS}}],
                },
            },
        },
    }


_KEY = {"secretKeyRef": {"name": "rerank-canary-key", "key": "key"}}
