"""Fixtures that several test modules share."""

from __future__ import annotations

import gc
import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from rerank_plugins.testing import FakeServer, serve_dialect
from tests.support.asking import ascore, score
from tests.support.places import ROOT

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # torch's idle threads would spin
hypothesis.settings.register_profile("untimed", deadline=None)  # a loaded machine is no bug
hypothesis.settings.load_profile("untimed")

SLOW = [ROOT / "tests" / "benchmarks"] + [
    ROOT / "tests" / "integration" / name
    for name in ("clients", "deploy", "faults", "gateways", "resilience", "servers", "ui")
]
"""Folders whose every test is slow; a cheap one belongs beside the unit it tests."""


if os.environ.get("RERANK_TEST_HTTP_CLIENT") == "httpx":
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "httpx2", None)  # as if it were not installed
        importlib.import_module("rerank_plugins.backends.http.client")


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow = {
        path: any(path.is_relative_to(folder) for folder in SLOW)
        for path in {item.path for item in items}
    }
    for item in items:
        if slow[item.path]:
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    gc.freeze()  # or each collection would look through all the libraries that tests import


@pytest.fixture(params=[score, ascore])
def ask(request: pytest.FixtureRequest) -> Any:
    """Score with a backend, synchronously or asynchronously."""
    return request.param


@pytest.fixture
def fake_server() -> Iterator[FakeServer]:
    """A server that speaks TEI's protocol."""
    with FakeServer(serve_dialect("tei")) as fake_server:
        yield fake_server


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Give the folder of a tiny reranker of some kind (see `checkpoints.KINDS`), built once."""
    pytest.importorskip("transformers", reason="needs the extra `local`")
    from tests.support.checkpoints import build  # noqa: PLC0415 - it needs torch, which may be missing

    built: dict[str, Path] = {}

    def folder(kind: str) -> str:
        if kind not in built:
            built[kind] = build(kind, tmp_path_factory.mktemp(kind))
        return str(built[kind])

    return folder


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody trusts, and its key."""
    folder = tmp_path_factory.mktemp("authority")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl to make a certificate")
    command = f"{openssl} req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    return certificate, key
