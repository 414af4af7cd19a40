"""Fixtures of the fault suite."""

import pytest

from rerank_plugins.testing import FakeServer, serve_dialect
from tests.integration.faults.surfaces import KEY


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    """Every request carries a key, which nothing may tell."""
    for variable in ("COHERE_API_KEY", "TEI_API_KEY"):
        monkeypatch.setenv(variable, KEY)


@pytest.fixture
def fake_server():
    with FakeServer(serve_dialect("cohere")) as fake_server:
        yield fake_server
