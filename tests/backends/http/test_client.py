"""The HTTP client libraries: which one is used, and which of their internals."""

import os
import runpy
import sys
from unittest import mock

import pytest

from rerank_plugins.backends.http import client

LIBRARIES = {"httpx": "httpcore", "httpx2": "httpcore2"}


def test_the_library_is_the_one_that_is_tested():
    """By default httpx2; `tests/conftest.py` reads the variable."""
    wanted = os.environ.get("RERANK_TEST_HTTP_CLIENT", "httpx2")

    assert wanted == client.httpx.__name__
    assert LIBRARIES[wanted] == client.httpcore.__name__


@pytest.mark.parametrize("missing", [(), ("httpx2",), ("httpcore2",), ("httpcore2", "httpx2")])
def test_httpx_is_used_where_httpx2_is_missing(missing):
    """With its own core: the two pairs are never mixed."""
    pytest.importorskip("httpx")
    with mock.patch.dict(sys.modules, dict.fromkeys(missing)):
        loaded = runpy.run_path(client.__file__)

    expected = "httpx" if missing else "httpx2"
    assert expected == loaded["httpx"].__name__
    assert LIBRARIES[expected] == loaded["httpcore"].__name__


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_internals_used_for_deadlines_exist(name):
    """`network.py` puts its own network into each pool, for which there is no public way."""
    library, core = pytest.importorskip(name), pytest.importorskip(LIBRARIES[name])
    with library.Client(mounts={"http://": library.HTTPTransport()}) as client:
        transports = [client._transport, *client._mounts.values()]
        assert 2 == len(transports)
        for transport in transports:
            assert isinstance(transport, library.HTTPTransport)
            assert isinstance(transport._pool, core.ConnectionPool)
            assert isinstance(transport._pool._network_backend, core.NetworkBackend)


@pytest.mark.parametrize("name", LIBRARIES)
async def test_the_internals_that_look_ups_on_a_loop_need_exist(name):
    library, core = pytest.importorskip(name), pytest.importorskip(LIBRARIES[name])
    async with library.AsyncClient(mounts={"http://": library.AsyncHTTPTransport()}) as made:
        transports = [made._transport, *made._mounts.values()]
        assert 2 == len(transports)
        for transport in transports:
            assert isinstance(transport, library.AsyncHTTPTransport)
            assert isinstance(transport._pool, core.AsyncConnectionPool)
            assert isinstance(transport._pool._network_backend, core.AsyncNetworkBackend)


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_pool_opens_connections_through_its_network(name):
    """Also a network that is put there after the pool was made."""
    library, core = pytest.importorskip(name), pytest.importorskip(LIBRARIES[name])

    class Refusing(core.NetworkBackend):
        def connect_tcp(self, *args, **options):
            raise core.ConnectTimeout("ours")

    with library.Client(trust_env=False) as client:
        client._transport._pool._network_backend = Refusing()
        with pytest.raises(library.ConnectTimeout, match="ours"):
            client.get("http://127.0.0.1:9")
