"""Fixtures for the tests of the HTTP backend."""

import asyncio

import pytest
from remote import DOCUMENTS, GOOD, QUERY

from rerank_plugins.testing import Answer, Endpoint


@pytest.fixture(params=["sync", "async"])
def ask(request):
    """Score in one of the two ways, on a backend that is closed afterwards."""

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
def endpoint():
    with Endpoint(Answer(GOOD)) as endpoint:
        yield endpoint
