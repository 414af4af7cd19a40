"""The compose file: valid, pinned, closed, and all of its files are there."""

import re

import pytest
import yaml

from rerank_plugins import load_backend
from rerank_plugins.server.settings import read_settings
from tests.integration.deploy.recipes import DEPLOY, run

FOLDER = DEPLOY / "compose"
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]
ON_A_GPU = yaml.safe_load((FOLDER / "compose.gpu.yaml").read_text(encoding="utf-8"))["services"]


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_compose_knows_every_field(name):
    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", FOLDER / name)


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_pinned_and_hardened(name):
    service = SERVICES[name]
    assert "build" in service or re.search(r"@sha256:[0-9a-f]{64}$", service["image"])
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service["user"].startswith("0")
    assert "mem_limit" in service
    assert "pids_limit" in service
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


@pytest.mark.parametrize("name", SERVICES)
def test_mounted_files_exist(name):
    for volume in SERVICES[name].get("volumes", ()):
        source = re.split(r":(?![?])", volume, maxsplit=1)[0]
        if source.startswith("."):
            assert (FOLDER / source).exists(), source


def test_referenced_networks_and_secrets_exist():
    assert COMPOSE["networks"]["inside"]["internal"] is True
    assert SERVICES["redis"]["networks"] == ["inside"]
    for service in SERVICES.values():
        assert set(service["networks"]) <= set(COMPOSE["networks"])
        assert set(service.get("secrets", ())) <= set(COMPOSE["secrets"])


@pytest.mark.parametrize("name", ["rerank.toml", "rerank.gpu.toml"])
def test_the_configuration_is_one_that_the_server_takes(name):
    tables, settings = read_settings(str(FOLDER / name))
    load_backend(tables)
    settings.check_exposure()
    secret = settings.api_keys_file.removeprefix("/run/secrets/")
    assert secret in SERVICES["rerank"]["secrets"]
    assert [f"127.0.0.1:{settings.port}:{settings.port}"] == SERVICES["rerank"]["ports"]
    stop = int(SERVICES["rerank"]["stop_grace_period"].removesuffix("s"))
    assert stop >= settings.shutdown_delay + settings.drain_seconds + 5


def test_on_a_gpu_the_image_the_model_and_the_memory_are_others():
    """Compose puts what is listed there over the same path, name or limit."""
    ((name, service),) = ON_A_GPU.items()
    (volume,) = service["volumes"]
    source, target, mode = volume.split(":")
    tables, _ = read_settings(str(FOLDER / source))
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]

    assert any(other.endswith(f":{target}:{mode}") for other in SERVICES[name]["volumes"])
    assert "AS cuda\n" in (DEPLOY / "docker" / "Dockerfile").read_text(encoding="utf-8")
    assert service["build"]["target"] == "cuda"
    assert service["mem_limit"] == service["memswap_limit"]
    assert device["capabilities"] == ["gpu"]
    assert tables["backend"]["device"].startswith("cuda")
    assert 0.5 < tables["backend"]["gpu_memory_fraction"] < 1


def test_prometheus_scrapes_the_server_with_a_key():
    config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    assert [{"targets": ["rerank:8787"]}] == job["static_configs"]
    secret = job["authorization"]["credentials_file"].removeprefix("/run/secrets/")
    assert secret in SERVICES["prometheus"]["secrets"]


def test_grafana_finds_prometheus_and_the_dashboard():
    source = yaml.safe_load((FOLDER / "grafana" / "datasources" / "prometheus.yaml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    folder = yaml.safe_load((FOLDER / "grafana" / "dashboards" / "rerank.yaml").read_text())
    path = folder["providers"][0]["options"]["path"]
    assert any(f":{path}/rerank.json:" in volume for volume in SERVICES["grafana"]["volumes"])
