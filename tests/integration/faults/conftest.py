"""Fixtures of the fault suite."""

import contextlib
import importlib

import pytest

from rerank_plugins.testing import FakeServer, serve_dialect
from tests.integration.faults.surfaces import KEY


@pytest.fixture(scope="session", autouse=True)
def _frameworks():
    """Load the frameworks before a test measures time: that takes seconds."""
    for name in ("langchain", "llama_index"):
        with contextlib.suppress(ImportError):
            importlib.import_module(f"rerank_plugins.{name}")


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    """Every request carries a key, which no error or log may contain."""
    for variable in ("COHERE_API_KEY", "TEI_API_KEY"):
        monkeypatch.setenv(variable, KEY)


@pytest.fixture
def fake_server():
    with FakeServer(serve_dialect("cohere")) as fake_server:
        yield fake_server
