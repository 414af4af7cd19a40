"""Fixtures for the tests of the backends."""

import asyncio
from typing import Any

import pytest

from rerank_plugins.testing import FakeResponse, FakeServer
from tests.backends.http.remote import DOCUMENTS, GOOD, QUERY


@pytest.fixture(params=["sync", "async"])
def ask(request):
    """Score with a backend, synchronously or asynchronously, and close it."""

    def sync(backend, documents=DOCUMENTS):
        with backend:
            return backend.score(QUERY, documents)

    def in_loop(backend, documents=DOCUMENTS):
        async def main():
            async with backend:
                return await backend.ascore(QUERY, documents)

        return asyncio.run(main())

    return sync if request.param == "sync" else in_loop


@pytest.fixture
def fake_server():
    with FakeServer(FakeResponse(GOOD)) as fake_server:
        yield fake_server


@pytest.fixture
def _poisoned_filling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make attention return NaN for tokens that belong to no sequence, as kernels may."""
    from rerank_plugins.backends.local.torch import packed  # noqa: PLC0415 - it needs torch
    from rerank_plugins.backends.local.torch.attention import varlen_attention  # noqa: PLC0415 - as above

    def poisoned(query: Any, key: Any, value: Any, offsets: Any, *rest: Any, **options: Any) -> Any:
        mixed = varlen_attention(query, key, value, offsets, *rest, **options)
        mixed[offsets[-1] :] = float("nan")
        return mixed

    monkeypatch.setattr(packed, "varlen_attention", poisoned)
