"""An endless reply takes a bounded amount of memory."""

import json
import subprocess
import sys

import pytest

from rerank_plugins.testing import FakeServer, faults

CLIENT = """
import asyncio, json, resource, sys
from rerank_plugins import BackendError, load_backend
backend = load_backend(f"cohere+{sys.argv[1]}?model=m&timeout=60")
async def ascore():
    async with backend:
        await backend.ascore("q", ["a", "b"])
try:
    backend.score("q", ["warm up"])
except BackendError:
    pass
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
for ask in (lambda: backend.score("q", ["a", "b"]), lambda: asyncio.run(ascore())):
    try:
        ask()
    except BackendError as error:
        said = str(error)
print(json.dumps([peak() - before, said]))
"""
MOST = 64 * 2**20


@pytest.mark.parametrize("name", ["too large", "gzip bomb", "endless headers", "deep nesting"])
def test_an_endless_reply_takes_at_most_64_mb(name):
    fault, html = faults()[name], faults()["HTML"]

    def behave(received):
        if received.body["documents"] == ["warm up"]:
            return html
        return fault(received) if callable(fault) else fault

    with FakeServer(behave) as fake_server:
        done = subprocess.run(
            [sys.executable, "-c", CLIENT, fake_server.url],
            capture_output=True,
            text=True,
            check=True,
        )
    grown, message = json.loads(done.stdout)

    assert grown <= MOST
    assert "cohere at" in message
