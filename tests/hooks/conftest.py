"""Fixtures for the tests of the hooks."""

import asyncio

import pytest

from rerank_plugins.testing import Endpoint, speak


@pytest.fixture(params=["sync", "async"])
def ask(request):
    """Score in one of the two ways."""
    if request.param == "sync":
        return lambda backend, documents=("q", "r"): backend.score("q", documents)
    return lambda backend, documents=("q", "r"): asyncio.run(backend.ascore("q", documents))


@pytest.fixture
def endpoint():
    with Endpoint(speak("tei")) as endpoint:
        yield endpoint
