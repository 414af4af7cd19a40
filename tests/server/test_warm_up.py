"""Known requests are scored at the start to fill the cache; a wrong file ends the start."""

import asyncio
import json
import time

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from rerank_plugins.server import ServerSettings, create_app
from rerank_plugins.testing import FakeBackend
from rerank_plugins.wrappers.cache import CachedBackend
from tests.support.serving import serving

REQUESTS = [("panda", ["a panda", "hi"]), ("paris", ["Paris is in France."])]


def lines(requests):
    return "\n".join(json.dumps({"query": q, "documents": d}) for q, d in requests) + "\n\n"


def test_the_cache_is_full_before_the_first_request(tmp_path):
    (tmp_path / "known.jsonl").write_text(lines(REQUESTS))
    inner = FakeBackend()
    with serving(
        CachedBackend(inner), cache_warm_up=str(tmp_path / "known.jsonl"), warm_up=False
    ) as client:
        deadline = time.monotonic() + 30
        while len(inner.calls) < len(REQUESTS):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for query, documents in REQUESTS:
            body = {"query": query, "documents": documents}
            assert 200 == client.post("/v1/rerank", json=body).status_code

    assert [(query, tuple(documents)) for query, documents in REQUESTS] == inner.calls


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "can't read"),
        (
            '{"query": "q", "documents": ["d"]}\n[]\n',
            "known.jsonl:2: expected a JSON object, not an array",
        ),
        ('{"query": "q"}\n', "known.jsonl:1: write"),
        ('{"query": "q", "documents": "d"}\n', "known.jsonl:1: write"),
        ('{"query": "q", "documents": ["d", 1]}\n', "known.jsonl:1: write"),
    ],
)
async def test_a_wrong_file_ends_the_start(tmp_path, content, message):
    file = tmp_path / "known.jsonl"
    if content is not None:
        file.write_text(content)
    app = create_app(FakeBackend(), settings=ServerSettings(cache_warm_up=str(file)))
    async with app.router.lifespan_context(app):
        deadline = time.monotonic() + 30
        while app.state.lifecycle.failure is None:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)

        assert message in str(app.state.lifecycle.failure)
        assert app.state.lifecycle.why_not_ready() is not None
