"""The manifests: valid, and as our policies require."""

import itertools
import re
import tomllib

import pytest
import yaml

from rerank_plugins import load_backend
from rerank_plugins.server.app import create_app
from rerank_plugins.server.middleware import PROBE_PATHS
from rerank_plugins.server.settings import ServerSettings, read_settings
from tests.integration.deploy.recipes import DEPLOY, documents, run

KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
DIGEST = re.compile(r"[\w./:-]+@sha256:[0-9a-f]{64}")
TEMPLATES = {
    "Deployment": ("template",),
    "CronJob": ("jobTemplate", "spec", "template"),
    "Job": ("template",),
}

# The fields of custom resources that the recipes use, as their definitions name them.
CUSTOM = {
    "ScaledObject": {
        "apiVersion": "keda.sh/v1alpha1",
        "required": {"scaleTargetRef", "triggers"},
        "fields": {
            "scaleTargetRef": {"name"},
            "minReplicaCount": int,
            "maxReplicaCount": int,
            "pollingInterval": int,
            "fallback": {"failureThreshold", "replicas"},
            "advanced": {"horizontalPodAutoscalerConfig"},
            "triggers": {"type", "name", "metricType", "metadata"},
        },
    },
    "HTTPRoute": {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "required": {"parentRefs", "rules"},
        "fields": {
            "parentRefs": {"name", "namespace", "sectionName"},
            "hostnames": list,
            "rules": {"matches", "backendRefs", "timeouts"},
        },
    },
}


def test_a_model_on_a_gpu_leaves_some_of_its_memory():
    """Both as a limit and for the size of batches, which is why it stands with the backend."""
    tables, _ = read_settings(str(KUBERNETES / "components" / "gpu" / "rerank.toml"))

    assert 0.5 < tables["backend"]["gpu_memory_fraction"] < 1
    assert load_backend(tables).to_spec()["backend"]["gpu_memory_fraction"] == 0.9


@pytest.fixture(params=OVERLAYS)
def objects(request, overlays):
    """All objects of an overlay."""
    return documents(overlays[request.param])


def of(objects, kind):
    return [manifest for manifest in objects if manifest["kind"] == kind]


def only(objects, kind, name="rerank"):
    (manifest,) = [
        manifest for manifest in of(objects, kind) if manifest["metadata"]["name"] == name
    ]
    return manifest


def pods(objects):
    """Yield the name and the spec of each pod template."""
    for manifest in objects:
        if manifest["kind"] in TEMPLATES:
            spec = manifest["spec"]
            for key in TEMPLATES[manifest["kind"]]:
                spec = spec[key]
            yield manifest["metadata"]["name"], spec["spec"], spec["metadata"]["labels"]


def containers(objects):
    for name, pod, _ in pods(objects):
        for container in itertools.chain(pod.get("initContainers", ()), pod["containers"]):
            yield f"{name}/{container['name']}", pod, container


def server(objects):
    (pod,) = [pod for name, pod, _ in pods(objects) if name == "rerank"]
    (container,) = pod["containers"]
    return pod, container


# Valid


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_field_is_known_to_kubernetes(overlay, overlays):
    output = run(
        "kubernetes-validate", "--strict", "--kubernetes-version", "1.35", overlays[overlay]
    )

    unknown = re.findall(r"WARN .*kind (\w+) with", output)
    assert set(unknown) <= set(CUSTOM)


def test_the_check_of_fields_finds_a_misspelt_probe(overlays, tmp_path):
    broken = tmp_path / "broken.yaml"
    text = overlays["cpu"].read_text(encoding="utf-8")
    broken.write_text(text.replace("livenessProbe:", "livenesProbe:"), encoding="utf-8")

    with pytest.raises(AssertionError, match="livenesProbe"):
        run("kubernetes-validate", "--strict", "--kubernetes-version", "1.35", broken)


def test_custom_resources_have_only_known_fields(objects):
    for manifest in objects:
        if (rules := CUSTOM.get(manifest["kind"])) is None:
            continue
        assert rules["apiVersion"] == manifest["apiVersion"]
        spec = manifest["spec"]
        assert rules["required"] <= set(spec) <= set(rules["fields"])
        for name, value in spec.items():
            expected = rules["fields"][name]
            if isinstance(expected, set):
                for part in value if isinstance(value, list) else [value]:
                    assert set(part) <= expected, name
            else:
                assert isinstance(value, expected), name


def test_referenced_objects_exist(objects):
    maps = {manifest["metadata"]["name"] for manifest in of(objects, "ConfigMap")}
    accounts = {manifest["metadata"]["name"] for manifest in of(objects, "ServiceAccount")} | {None}
    for _, pod, _ in pods(objects):
        assert pod.get("serviceAccountName") in accounts
        volumes = {volume["name"]: volume for volume in pod.get("volumes", ())}
        assert {v["configMap"]["name"] for v in volumes.values() if "configMap" in v} <= maps
    for _, pod, container in containers(objects):
        names = {volume["name"] for volume in pod.get("volumes", ())}
        assert {mount["name"] for mount in container.get("volumeMounts", ())} <= names
    services = {manifest["metadata"]["name"] for manifest in of(objects, "Service")}
    for route in of(objects, "HTTPRoute"):
        assert {ref["name"] for rule in route["spec"]["rules"] for ref in rule["backendRefs"]} <= (
            services
        )


def test_services_and_budgets_select_the_pods(objects):
    labels = {name: own for name, _, own in pods(objects)}
    for manifest in of(objects, "Service"):
        selector = manifest["spec"]["selector"].items()
        assert any(selector <= own.items() for own in labels.values()), manifest["metadata"]["name"]
    budget = only(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"]
    assert budget.items() <= labels["rerank"].items()


def test_everything_is_in_one_namespace(objects):
    assert {"rerank"} == {manifest["metadata"]["namespace"] for manifest in objects}


# Policy


def test_images_are_pinned_by_digest(objects):
    for name, pod, container in containers(objects):
        assert DIGEST.fullmatch(container["image"]), name
        for volume in pod.get("volumes", ()):
            if "image" in volume:
                assert DIGEST.fullmatch(volume["image"]["reference"]), name


def test_digests_of_third_party_images_are_real(objects):
    """Only the images that a user builds have the digest of zeros, which can't be pulled."""
    for _, _, container in containers(objects):
        if not container["image"].startswith("registry.example.com/"):
            assert "@sha256:" + "0" * 64 not in container["image"]


def test_containers_are_unprivileged(objects):
    for name, pod, container in containers(objects):
        own, shared = container["securityContext"], pod["securityContext"]
        assert own["readOnlyRootFilesystem"] is True, name
        assert own["allowPrivilegeEscalation"] is False, name
        assert {"drop": ["ALL"]} == own["capabilities"], name
        assert shared["runAsNonRoot"] is True, name
        assert shared["runAsUser"] >= 999, name
        assert {"type": "RuntimeDefault"} == shared["seccompProfile"], name
        assert pod["automountServiceAccountToken"] is False, name
        assert not pod.get("hostNetwork"), name
        assert not any("hostPath" in volume for volume in pod.get("volumes", ())), name


def test_our_containers_run_as_the_user_of_the_image(objects):
    for name, pod, container in containers(objects):
        if "rerank-plugins" in container["image"]:
            assert pod["securityContext"]["runAsUser"] == 10001, name


def test_memory_limit_equals_its_request_and_cpu_is_not_throttled(objects):
    for name, _, container in containers(objects):
        resources = container["resources"]
        assert resources["requests"]["memory"] == resources["limits"]["memory"], name
        assert "cpu" in resources["requests"], name
        assert "cpu" not in resources["limits"], name


def test_writable_volumes_have_a_size_limit(objects):
    for name, pod, _ in pods(objects):
        for volume in pod.get("volumes", ()):
            if "emptyDir" in volume:
                assert "sizeLimit" in volume["emptyDir"], name
    pod, container = server(objects)
    writable = {v["name"] for v in pod["volumes"] if "emptyDir" in v}
    assert all(m.get("readOnly") for m in container["volumeMounts"] if m["name"] not in writable)


def test_weights_are_checked_against_sums_stored_elsewhere(objects):
    pod, _ = server(objects)
    (check,) = pod["initContainers"]
    assert ["sha256sum", "--check", "--strict"] == check["command"][:3]
    mounts = {mount["name"]: mount["mountPath"] for mount in check["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert "configMap" in volumes["weights"]
    assert check["command"][-1].startswith(mounts["weights"])
    assert check["workingDir"] == mounts["models"]


def test_the_list_of_weights_names_the_model(objects):
    (sums,) = [
        manifest["data"]["SHA256SUMS"]
        for manifest in of(objects, "ConfigMap")
        if "SHA256SUMS" in manifest.get("data", {})
    ]
    model = tomllib.loads(config_of(objects))["backend"]["model"].removeprefix("/models/")
    assert re.search(rf"^[0-9a-f]{{64}}  {model}/model.safetensors$", sums, re.MULTILINE)


def test_the_canary_reads_its_mounted_set_and_calls_the_service(objects):
    (canary,) = of(objects, "CronJob")
    assert canary["spec"]["concurrencyPolicy"] == "Forbid"
    ((_, pod, container),) = containers([canary])
    (mount,) = container["volumeMounts"]
    (volume,) = pod["volumes"]
    assert volume["name"] == mount["name"]
    data = only(objects, "ConfigMap", volume["configMap"]["name"])["data"]
    assert "command" not in container  # the entry point of the image
    _, path, backend, *_ = container["args"]
    assert path.removeprefix(f"{mount['mountPath']}/") in data
    host = backend.removeprefix("--backend=infinity+http://").partition("?")[0]
    assert host in {manifest["metadata"]["name"] for manifest in of(objects, "Service")}
    ((_, _, labels),) = pods([canary])
    assert labels["rerank.example.com/client"] == "true"


def test_the_command_of_the_quality_alert_finds_the_jobs(objects):
    (canary,) = of(objects, "CronJob")
    labels = canary["spec"]["jobTemplate"]["metadata"]["labels"]
    alerts = (DEPLOY / "prometheus" / "alerts.yaml").read_text(encoding="utf-8")
    (name, value) = re.search(r"get jobs -l (\S+)=(\w+)", alerts).groups()
    assert labels[name] == value


def test_probes_use_paths_of_the_server(objects):
    app = create_app("embedded", settings=ServerSettings())
    paths = set(app.openapi()["paths"])
    _, container = server(objects)
    ports = {port["name"] for port in container["ports"]}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        get = container[probe]["httpGet"]
        assert get["path"] in paths
        assert get["port"] in ports
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_a_model_has_minutes_to_load_before_the_liveness_probe_counts(objects):
    _, container = server(objects)
    startup = container["startupProbe"]

    assert startup["periodSeconds"] * startup["failureThreshold"] >= 300


def test_the_grace_period_exceeds_pre_stop_and_drain(objects):
    pod, container = server(objects)
    settings = settings_of(objects)
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = settings.shutdown_delay + settings.drain_seconds

    assert pod["terminationGracePeriodSeconds"] >= pause + drain + 5


def test_a_rollout_never_takes_the_last_server(objects):
    (deployment,) = [f for f in of(objects, "Deployment") if f["metadata"]["name"] == "rerank"]
    rolling = deployment["spec"]["strategy"]["rollingUpdate"]
    assert rolling["maxUnavailable"] + rolling["maxSurge"] == 1
    assert "replicas" not in deployment["spec"]
    (minimum,) = [
        f["spec"].get("minReplicas") or f["spec"].get("minReplicaCount")
        for f in objects
        if f["kind"] in {"HorizontalPodAutoscaler", "ScaledObject"}
    ]
    assert minimum >= 2
    budget = only(objects, "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_scaling_up_is_fast_and_down_is_slow(objects):
    for manifest in objects:
        if manifest["kind"] == "HorizontalPodAutoscaler":
            behavior = manifest["spec"]["behavior"]
        elif manifest["kind"] == "ScaledObject":
            behavior = manifest["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        else:
            continue
        assert behavior["scaleUp"]["stabilizationWindowSeconds"] == 0
        assert behavior["scaleDown"]["stabilizationWindowSeconds"] >= 300


def test_network_policies_cover_every_pod_and_have_no_open_rule(objects):
    policies = [manifest["spec"] for manifest in of(objects, "NetworkPolicy")]
    for name, _, labels in pods(objects):
        covering = [
            policy["policyTypes"]
            for policy in policies
            if policy["podSelector"].get("matchLabels", {}).items() <= labels.items()
        ]
        assert {"Ingress", "Egress"} <= set(itertools.chain(*covering)), name
    for policy in policies:
        for rule in (*policy.get("ingress", ()), *policy.get("egress", ())):
            assert rule["ports"]
            assert rule.get("from") or rule.get("to")


def test_the_gateway_exposes_only_the_paths_of_clients(objects):
    """Xinference's client, for one, fetches whether there are keys, and the model by its name."""
    paths = create_app("embedded", settings=ServerSettings()).openapi()["paths"]
    wanted = {
        (path, method.upper())
        for path, operations in paths.items()
        if path not in {*PROBE_PATHS, "/"}
        for method in operations
    }
    (route,) = of(objects, "HTTPRoute")
    (rule,) = route["spec"]["rules"]
    exposed = set()
    for match in rule["matches"]:
        path, method = match["path"], match["method"]
        exposed.add((path["value"], method))
        if path["type"] == "PathPrefix":
            exposed.add((f"{path['value']}/{{name}}", method))

    assert wanted == exposed


def test_the_gateway_waits_longer_than_the_server(objects):
    for route in of(objects, "HTTPRoute"):
        for rule in route["spec"]["rules"]:
            seconds = int(rule["timeouts"]["backendRequest"].removesuffix("s"))
            assert seconds >= settings_of(objects).request_seconds + 5


# The configuration


def config_of(objects):
    (config,) = [
        manifest["data"]["rerank.toml"]
        for manifest in of(objects, "ConfigMap")
        if "rerank.toml" in manifest.get("data", {})
    ]
    return config


def settings_of(objects):
    return ServerSettings(**tomllib.loads(config_of(objects)).get("server", {}))


def test_the_configuration_is_one_that_the_server_takes(objects, tmp_path, monkeypatch):
    file = tmp_path / "rerank.toml"
    file.write_text(config_of(objects), encoding="utf-8")
    tables, settings = read_settings(str(file))
    load_backend(tables)
    settings.check_exposure()
    assert settings.has_keys
    _, container = server(objects)
    assert [settings.port] == [port["containerPort"] for port in container["ports"]]
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    for path in (settings.api_keys_file, tables["backend"]["model"]):
        assert any(path.startswith(mount + "/") for mount in mounts), path


def test_the_model_has_as_many_threads_as_the_pod_has_processors(objects):
    """Without a limit on CPU, a process sees all processors of the node, and would use them."""
    backend = tomllib.loads(config_of(objects))["backend"]
    _, container = server(objects)
    if backend["engine"] == "onnx":
        assert str(backend["threads"]) == container["resources"]["requests"]["cpu"]
    (threads,) = [each for each in container["env"] if each["name"] == "OMP_NUM_THREADS"]
    assert {"resource": "requests.cpu"} == threads["valueFrom"]["resourceFieldRef"]


def test_every_component_is_used_by_an_overlay():
    used = set()
    for overlay in OVERLAYS:
        text = (KUBERNETES / "overlays" / overlay / "kustomization.yaml").read_text("utf-8")
        used |= {path.rpartition("/")[2] for path in yaml.safe_load(text)["components"]}

    assert {path.name for path in (KUBERNETES / "components").iterdir()} == used
