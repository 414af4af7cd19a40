"""An update: what it refuses, what it rolls back, and that it leaves nothing behind.

The cluster is a double at the border, where kubectl is called; the measuring is real.
"""

import copy
import json
import subprocess

import pytest
import yaml

from tests.integration.deploy.recipes import DEPLOY, documents, run, script, tool

manifests = script(DEPLOY / "update" / "manifests.py")
program = script(DEPLOY / "update" / "update.py")

OLD = "registry.example.com/rerank-plugins@sha256:" + "a" * 64
NEW = "registry.example.com/rerank-plugins@sha256:" + "b" * 64
GOOD = {"ok": True, "MRR@10": 0.9, "queries": 50, "p95_seconds": 0.1}


class Cluster:
    """Answers kubectl as a cluster would, and records its commands."""

    def __init__(self, deployment):
        self.deployment = copy.deepcopy(deployment)
        for container in self._containers():
            container["image"] = OLD
        self.calls = []
        self.objects = {}
        self.figures = {"rerank": GOOD, "rerank-candidate": GOOD}
        self.failing_jobs = set()
        self.broken = {}
        """Part of a command → how often it works before it fails."""
        self.alerts = []
        """One set of names per look; the last one stays."""

    def _containers(self):
        spec = self.deployment["spec"]["template"]["spec"]
        return [*spec["initContainers"], *spec["containers"]]

    @property
    def images(self):
        return {container["image"] for container in self._containers()}

    def __call__(self, *arguments, stdin=None):  # noqa: C901, PLR0912  # a case per command
        command = " ".join(arguments)
        self.calls.append(command)
        for part in self.broken:
            if part in command:
                self.broken[part] -= 1
                if self.broken[part] < 0:
                    raise subprocess.CalledProcessError(1, "kubectl", stderr=f"{part}: timed out")
        match arguments:
            case ("get", "deployment/rerank", *_):
                return json.dumps(self.deployment)
            case ("get", "--raw", path):
                assert path == (
                    "/api/v1/namespaces/monitoring/services/prometheus:9090/proxy/api/v1/alerts"
                )
                names = self.alerts.pop(0) if len(self.alerts) > 1 else (self.alerts or [()])[0]
                return json.dumps({"data": {"alerts": [alert(name) for name in names]}})
            case ("apply", "--server-side", "-f", "-"):
                for item in json.loads(stdin)["items"]:
                    self.objects[f"{item['kind']}/{item['metadata']['name']}"] = item
            case ("get", job, "-o", "json"):
                service = job.removeprefix("job/rerank-measure-")
                key = "failed" if service in self.failing_jobs else "succeeded"
                return json.dumps({"status": {key: 1}})
            case ("logs", job):
                service = job.removeprefix("job/rerank-measure-")
                if service in self.failing_jobs:
                    return "error: score 0 of 5 is nan, which is not a finite number"
                return f"loaded\n{json.dumps(self.figures[service])}\n"
            case ("set", "image", "deployment/rerank", *changes):
                images = dict(change.split("=", 1) for change in changes)
                for container in self._containers():
                    container["image"] = images.get(container["name"], container["image"])
            case ("delete", kinds, "-l", label, *_):
                assert label == manifests.OF_UPDATE
                for key, item in [*self.objects.items()]:
                    if item["kind"].lower() in kinds.split(","):
                        assert item["metadata"]["labels"] == {"rerank.example.com/update": "true"}
                        del self.objects[key]
            case ("rollout", "status", *_) | ("label", "pod", *_) | ("delete", *_):
                pass
            case _:
                raise AssertionError(f"no such command here: {command}")
        return ""


def alert(name):
    name, _, severity = name.partition("/")
    labels = {"alertname": name, "severity": severity or "page"}
    return {"state": "firing", "labels": labels}


@pytest.fixture
def deployment(overlays):
    (manifest,) = [
        each
        for each in documents(overlays["cpu"])
        if each["kind"] == "Deployment" and each["metadata"]["name"] == "rerank"
    ]
    return manifest


@pytest.fixture
def cluster(deployment):
    return Cluster(deployment)


@pytest.fixture
def update(cluster, labelled):
    """Run an update in the cluster: return its exit code and its output."""

    def run_it(image=NEW, **gates):
        output = []
        code = program.Update(
            kubectl=cluster,
            image=image,
            labelled=labelled,
            gates=program.Gates(**{"watch_seconds": 60, **gates}),
            say=output.append,
            sleep=lambda _: None,
        ).run()
        return code, "\n".join(output)

    return run_it


def place(cluster, part):
    (found,) = [at for at, call in enumerate(cluster.calls) if part in call]
    return found


def test_a_good_image_is_rolled_out(cluster, update):
    code, output = update()

    assert code == 0
    assert {NEW} == cluster.images
    assert "updated" in output
    assert not cluster.objects


def test_traffic_comes_after_the_checks_and_the_rollout_after_the_watch(cluster, update):
    update()
    measured = max(at for at, call in enumerate(cluster.calls) if call.startswith("logs"))
    shared = place(cluster, "label pod")
    removed = place(cluster, "delete deployment,service")
    rolled = place(cluster, "set image")
    looks = [at for at, call in enumerate(cluster.calls) if "--raw" in call]

    assert measured < shared < removed < rolled
    assert len([at for at in looks if shared < at < removed]) == 4
    assert len([at for at in looks if at > rolled]) == 4


@pytest.mark.parametrize(
    "image", ["rerank-plugins:latest", "rerank-plugins@sha256:abc", NEW[:-64] + "0" * 64]
)
def test_an_image_without_a_digest_is_refused_before_anything_happens(cluster, update, image):
    code, output = update(image)

    assert code == 1
    assert "digest" in output
    assert not cluster.calls


def test_the_image_that_runs_is_left_alone(cluster, update):
    code, output = update(OLD)

    assert code == 0
    assert "nothing to do" in output
    assert len(cluster.calls) == 1


WORSE = [
    ({"MRR@10": 0.74}, "below 0.75"),
    ({"MRR@10": 0.88}, "fell from 0.900 to 0.880"),
    ({"p95_seconds": 0.13}, "p95 grew from 0.100 s to 0.130 s"),
]


@pytest.mark.parametrize(("figures", "reason"), WORSE, ids=[reason for _, reason in WORSE])
def test_a_worse_image_never_gets_traffic(cluster, update, figures, reason):
    cluster.figures["rerank-candidate"] = {**GOOD, **figures}
    code, output = update()

    assert code == 1
    assert reason in output
    assert {OLD} == cluster.images
    assert not [call for call in cluster.calls if "label pod" in call or "set image" in call]
    assert not cluster.objects


def test_noise_does_not_stop_an_update(cluster, update):
    cluster.figures["rerank-candidate"] = {**GOOD, "MRR@10": 0.895, "p95_seconds": 0.115}

    assert update()[0] == 0


def test_an_image_that_fails_conformance_is_refused(cluster, update):
    cluster.failing_jobs.add("rerank-candidate")
    code, output = update()

    assert code == 1
    assert "not a finite number" in output
    assert {OLD} == cluster.images
    assert not cluster.objects


def test_a_candidate_that_never_gets_ready_is_removed(cluster, update):
    cluster.broken["rollout status deployment/rerank-candidate"] = 0
    code, output = update()

    assert code == 1
    assert "timed out" in output
    assert not cluster.objects
    assert {OLD} == cluster.images


def test_an_update_does_not_begin_while_alerts_fire(cluster, update):
    cluster.alerts = [{"RerankLatencyP95High"}]
    code, output = update()

    assert code == 1
    assert "firing already: RerankLatencyP95High" in output
    assert not [call for call in cluster.calls if call.startswith("apply")]


def test_foreign_and_info_alerts_do_not_stop_an_update(cluster, update):
    cluster.alerts = [{"DiskFull", "RerankCpuHigh/info"}]

    assert update()[0] == 0


def test_an_alert_while_the_candidate_serves_removes_it(cluster, update):
    cluster.alerts = [(), (), {"RerankErrorBudgetBurnsFast"}]
    code, output = update()

    assert code == 1
    assert "RerankErrorBudgetBurnsFast" in output
    assert {OLD} == cluster.images
    assert not cluster.objects


def test_an_alert_after_the_rollout_brings_the_old_image_back(cluster, update):
    cluster.alerts = [(), (), (), (), (), (), {"RerankLatencyP95High"}]
    code, output = update()

    assert code == 2
    assert {OLD} == cluster.images
    assert "rolling back: alerts began to fire: RerankLatencyP95High" in output


def test_a_rollout_that_hangs_brings_the_old_image_back(cluster, update):
    cluster.broken["rollout status deployment/rerank --"] = 0
    code, output = update()

    assert code == 3  # the double fails for ever: so does the way back
    assert {OLD} == cluster.images
    assert "look at it now" in output


def test_an_unreachable_prometheus_stops_an_update(cluster, update):
    cluster.broken["--raw"] = 2
    code, output = update()

    assert code == 1
    assert "--raw: timed out" in output
    assert {OLD} == cluster.images
    assert not cluster.objects


def test_a_sidecar_keeps_its_image(cluster, update):
    side = {"name": "mesh", "image": "mesh@sha256:" + "c" * 64}
    cluster.deployment["spec"]["template"]["spec"]["containers"].append(side)
    update()

    assert {NEW, side["image"]} == cluster.images


# What is applied


def test_the_candidate_differs_only_in_image_and_traffic(deployment, overlays):
    candidate, service = manifests.candidate(deployment, NEW)
    template = candidate["spec"]["template"]
    labels = template["metadata"]["labels"]
    spec, running = template["spec"], deployment["spec"]["template"]["spec"]
    for container in [*spec["initContainers"], *spec["containers"]]:
        assert container.pop("image") == NEW
    for container in [*running["initContainers"], *running["containers"]]:
        container.pop("image")
    assert spec == running
    assert service["spec"]["selector"].items() <= labels.items()
    for other in documents(overlays["cpu"]):
        if other["kind"] == "Service":
            assert not other["spec"]["selector"].items() <= labels.items()
        if other["kind"] == "Deployment":
            assert not other["spec"]["selector"]["matchLabels"].items() <= labels.items()
    once_shared = {**labels, manifests.SERVING: "true"}
    (front,) = [
        other
        for other in documents(overlays["cpu"])
        if other["kind"] == "Service" and other["metadata"]["name"] == "rerank"
    ]
    assert front["spec"]["selector"].items() <= once_shared.items()


def test_applied_objects_are_valid(deployment, labelled, tmp_path):
    objects = [
        *manifests.candidate(deployment, NEW),
        *manifests.inputs(labelled),
        manifests.measuring_job(OLD, "rerank-candidate"),
        *documents(DEPLOY / "update" / "role.yaml"),
    ]
    file = tmp_path / "update.yaml"
    file.write_text(yaml.safe_dump_all(json.loads(json.dumps(objects))), encoding="utf-8")
    output = run("kubernetes-validate", "--strict", "--kubernetes-version", "1.35", file)

    assert "Couldn't find schema" not in output
    assert len(json.dumps(manifests.inputs(labelled))) < 2**20  # the most of a ConfigMap


def test_kubectl_knows_every_command(update, cluster):
    """The real program, without a cluster: it must fail for want of one, not of a flag."""
    tool("kubectl")
    update()
    distinct = {" ".join(call.split(" ")[:2]): call for call in cluster.calls}
    assert len(distinct) >= 8
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": []})
    for call in distinct.values():
        with pytest.raises(subprocess.CalledProcessError) as caught:
            program.real_kubectl("rerank")(
                *call.split(" "), "--server=http://127.0.0.1:9", stdin=text
            )
        assert "refused" in caught.value.stderr, f"{call}: {caught.value.stderr}"


def test_the_account_is_applied_in_one_go():
    """kubectl refuses a namespace of its own beside objects that name another."""
    text = (DEPLOY / "update" / "role.yaml").read_text(encoding="utf-8")
    namespaces = {
        each["metadata"].get("namespace") for each in documents(DEPLOY / "update/role.yaml")
    }

    assert {"rerank", "monitoring"} == namespaces
    assert "`kubectl apply -f role.yaml`" in text


def test_the_role_allows_every_command(update, cluster):
    update()
    rules = [
        rule
        for each in documents(DEPLOY / "update" / "role.yaml")
        if each["kind"] == "Role" and each["metadata"].get("namespace") != "monitoring"
        for rule in each["rules"]
    ]
    allowed = {name: set(rule["verbs"]) for rule in rules for name in rule["resources"]}
    needed = {"create", "patch", "get", "delete"}
    for resource in ("deployments", "services", "jobs", "configmaps"):
        assert needed <= allowed[resource]
    assert "patch" in allowed["pods"]
    assert "get" in allowed["pods/log"]
    assert not {"secrets", "*"} & allowed.keys()
