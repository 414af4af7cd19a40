"""Roll out a new image if it passes its checks; otherwise keep the old one.

    python update.py --labelled labelled.jsonl registry.example.com/rerank-plugins@sha256:DIGEST

It starts a candidate beside the running servers; checks and measures both with the `canary` of the
running image; gives the candidate one pod's share of the traffic; and only then rolls out. It stops
if alerts begin to fire: before the rollout it removes the candidate, afterwards it rolls back.

Needs kubectl, with the rights in role.yaml. Exit codes: 0 updated, or nothing to do. 1 refused, the
old image stays. 2 rolled back to the old image. 3 the rollback failed: act now.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import manifests

PINNED = re.compile(r"[\w./:-]+@sha256:[0-9a-f]{64}")


class RefusedError(Exception):
    """The reason why the new image must not be used."""


class Kubectl(Protocol):
    """Runs kubectl."""

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        """Return its output; raise `subprocess.CalledProcessError` if it failed."""
        ...


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The measurements of `rerank-plugins canary`."""

    mrr_at_10: float
    p95_seconds: float

    @classmethod
    def read(cls, line: str) -> Figures:
        """Read them from the line of JSON that it prints."""
        report = json.loads(line)
        return cls(mrr_at_10=report["MRR@10"], p95_seconds=report["p95_seconds"])

    def __str__(self) -> str:
        return f"MRR@10 {self.mrr_at_10:.3f}, p95 {self.p95_seconds:.3f} s"


@dataclass(frozen=True, kw_only=True)
class Gates:
    """The requirements for the new image."""

    min_mrr: float = 0.75
    """The lowest MRR@10."""
    max_loss: float = 0.01
    """How far its MRR@10 may be below that of the running image."""
    max_slowdown: float = 1.2
    """The largest ratio of its p95 to that of the running image."""
    watch_seconds: float = 600.0
    """How long to watch the alerts, with one pod and again after the rollout."""

    def check(self, old: Figures, new: Figures) -> None:
        """Compare two measurements.

        Raises:
            RefusedError: the new one is not good enough.
        """
        if new.mrr_at_10 < self.min_mrr:
            raise RefusedError(f"MRR@10 is {new.mrr_at_10:.3f}, below {self.min_mrr}")
        if new.mrr_at_10 < old.mrr_at_10 - self.max_loss:
            raise RefusedError(f"MRR@10 fell from {old.mrr_at_10:.3f} to {new.mrr_at_10:.3f}")
        # 5 ms are network noise, whatever the ratio.
        if new.p95_seconds > old.p95_seconds * self.max_slowdown + 0.005:
            raise RefusedError(f"p95 grew from {old.p95_seconds:.3f} s to {new.p95_seconds:.3f} s")


@dataclass(kw_only=True)
class Update:
    """One update of one Deployment."""

    kubectl: Kubectl
    image: str
    labelled: Path
    gates: Gates
    prometheus: str = "monitoring/prometheus:9090"
    say: Callable[[str], object] = print
    sleep: Callable[[float], object] = time.sleep

    def run(self) -> int:
        """Run the update and return the exit code."""
        if not PINNED.fullmatch(self.image) or self.image.endswith("0" * 64):
            self.say(f"refused: {self.image!r} is no image by digest; write NAME@sha256:…")
            return 1
        running = self._deployment()
        old = manifests.image_of(running)
        if old == self.image:
            self.say("nothing to do: this image runs already")
            return 0
        try:
            try:
                before = self._alerts()
                self._try_out(running, old, before)
            finally:
                self._remove_candidate()
        except (RefusedError, subprocess.CalledProcessError) as reason:
            self.say(f"refused: {_message_of(reason)}; {old} stays")
            return 1
        try:
            self._roll_out(self.image)
            self._watch(before)
        except (RefusedError, subprocess.CalledProcessError) as reason:
            return self._roll_back(old, reason)
        self.say(f"updated to {self.image}; write it into your kustomization.yaml too")
        return 0

    def _try_out(self, running: dict[str, Any], old: str, before: set[str]) -> None:
        """Start a candidate, compare it with the running image, and let it serve for a while.

        Raises:
            RefusedError: the candidate is not good enough, or an alert is firing.
        """
        if before:
            raise RefusedError(f"alerts are firing already: {', '.join(sorted(before))}")
        self.say("starting a candidate")
        self._apply(manifests.candidate(running, self.image))
        self._apply(manifests.inputs(self.labelled))
        self.kubectl("rollout", "status", f"deployment/{manifests.CANDIDATE}", "--timeout=15m")
        # The trusted old image measures both, one after the other, so that times are comparable.
        new_figures = self._measured(old, manifests.CANDIDATE)
        old_figures = self._measured(old, "rerank")
        self.say(f"running: {old_figures}; candidate: {new_figures}")
        self.gates.check(old_figures, new_figures)
        self.say(f"one pod serves for {self.gates.watch_seconds:g} s")
        selector = f"app.kubernetes.io/component={manifests.CANDIDATE_COMPONENT}"
        self.kubectl("label", "pod", "-l", selector, f"{manifests.SERVING}=true", "--overwrite")
        self._watch(before)

    def _measured(self, image: str, service: str) -> Figures:
        job = manifests.measuring_job(image, service)
        name = f"job/{job['metadata']['name']}"
        self.kubectl("delete", name, "--ignore-not-found")
        self._apply([job])
        for _ in range(manifests.MOST_SECONDS // 5):
            status = json.loads(self.kubectl("get", name, "-o", "json")).get("status", {})
            if status.get("succeeded"):
                return Figures.read(self.kubectl("logs", name).strip().splitlines()[-1])
            if status.get("failed"):
                raise RefusedError(
                    f"{service} failed its checks: {self.kubectl('logs', name)[-500:]}"
                )
            self.sleep(5)
        raise RefusedError(f"measuring {service} took more than {manifests.MOST_SECONDS} s")

    def _watch(self, before: set[str]) -> None:
        """Watch the alerts for a while; a failure to read them stops the update, too."""
        for _ in range(max(1, round(self.gates.watch_seconds / 15))):
            self.sleep(15)
            if new := self._alerts() - before:
                raise RefusedError(f"alerts began to fire: {', '.join(sorted(new))}")

    def _alerts(self) -> set[str]:
        namespace, _, service = self.prometheus.partition("/")
        path = f"/api/v1/namespaces/{namespace}/services/{service}/proxy/api/v1/alerts"
        alerts = json.loads(self.kubectl("get", "--raw", path))["data"]["alerts"]
        return {
            alert["labels"]["alertname"]
            for alert in alerts
            if alert["state"] == "firing"
            and alert["labels"].get("severity") in {"page", "ticket"}
            and alert["labels"]["alertname"].startswith("Rerank")
        }

    def _roll_out(self, image: str) -> None:
        self.say(f"rolling out {image}")
        ours = manifests.containers_of(self._deployment())
        changes = [f"{name}={image}" for name in ours]
        self.kubectl("set", "image", "deployment/rerank", *changes)
        self.kubectl("rollout", "status", "deployment/rerank", "--timeout=30m")

    def _roll_back(self, old: str, reason: Exception) -> int:
        self.say(f"rolling back: {_message_of(reason)}")
        try:
            self._roll_out(old)
        except subprocess.CalledProcessError as error:
            self.say(f"the rollback failed, look at it now: {_message_of(error)}")
            return 3
        return 2

    def _remove_candidate(self) -> None:
        self.kubectl(
            *("delete", "deployment,service,job,configmap", "-l", manifests.OF_UPDATE),
            *("--ignore-not-found", "--wait=true"),
        )

    def _deployment(self) -> dict[str, Any]:
        deployment: dict[str, Any] = json.loads(
            self.kubectl("get", "deployment/rerank", "-o", "json")
        )
        return deployment

    def _apply(self, objects: Sequence[Mapping[str, Any]]) -> None:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        # Client-side apply keeps a copy in an annotation, which is limited to 256 kB.
        self.kubectl("apply", "--server-side", "-f", "-", stdin=text)


def _message_of(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return f"kubectl failed: {(error.stderr or '').strip()[-500:]}"
    return str(error)


def real_kubectl(namespace: str) -> Kubectl:
    """Return a function that runs kubectl in one namespace."""

    def kubectl(*arguments: str, stdin: str | None = None) -> str:
        command = ["kubectl", "--namespace", namespace, *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True, input=stdin)
        return done.stdout

    return kubectl


def main() -> int:
    """Run the update that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", help="NAME@sha256:DIGEST")
    parser.add_argument(
        "--labelled", type=Path, required=True, help="see kubernetes/base/labelled.jsonl"
    )
    parser.add_argument("--namespace", default="rerank")
    parser.add_argument("--prometheus", default=Update.prometheus, help="NAMESPACE/SERVICE:PORT")
    parser.add_argument("--min-mrr", type=float, default=Gates.min_mrr)
    parser.add_argument("--max-loss", type=float, default=Gates.max_loss)
    parser.add_argument("--max-slowdown", type=float, default=Gates.max_slowdown)
    parser.add_argument("--watch-seconds", type=float, default=Gates.watch_seconds)
    arguments = parser.parse_args()
    gates = Gates(
        min_mrr=arguments.min_mrr,
        max_loss=arguments.max_loss,
        max_slowdown=arguments.max_slowdown,
        watch_seconds=arguments.watch_seconds,
    )
    return Update(
        kubectl=real_kubectl(arguments.namespace),
        image=arguments.image,
        labelled=arguments.labelled,
        gates=gates,
        prometheus=arguments.prometheus,
    ).run()


if __name__ == "__main__":
    sys.exit(main())
