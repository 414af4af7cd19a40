"""Which path a client means."""

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from rerank_plugins.server import create_app
from rerank_plugins.server.paths import meant_path
from rerank_plugins.testing import FakeBackend
from tests.support.serving import ready


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/v1/v1/rerank", "/v1/rerank"),
        ("/v1/v2/rerank", "/v2/rerank"),
        ("/v2/v1/rerank", "/v1/rerank"),
        ("/rerank/v1/rerank", "/v1/rerank"),
        ("/v1/rerank/v2/rerank", "/v2/rerank"),
        ("/v1/rerank/rerank", "/v1/rerank"),
        ("/v1/rerank/", "/v1/rerank"),
        ("//v1/rerank", "/v1/rerank"),
        ("//rerank", "/rerank"),
        ("/reranking", "/rerank"),
        ("/v1/reranking", "/v1/rerank"),
        ("/models", "/v1/models"),
        ("/models/BAAI/bge", "/v1/models/BAAI/bge"),
        ("/v1/v1/models", "/v1/models"),
        ("/v2/models", "/v1/models"),
        ("/v1/models/", "/v1/models"),
        ("//v1/models/BAAI/bge", "/v1/models/BAAI/bge"),
        ("//v1/cluster/auth", "/v1/cluster/auth"),
        ("/v1/v1/cluster/auth", "/v1/cluster/auth"),
        ("/v1" * 1000 + "/models", "/v1/models"),
    ],
)
def test_a_doubled_or_missing_part_is_forgiven(path, meant):
    assert meant == meant_path(path)


@pytest.mark.parametrize(
    "path",
    [
        *("/", "", "//", "/v1", "/v1/rerank", "/v2/rerank", "/rerank", "/v1/models"),
        *("/v1/models/a//b", "/v1/models/rerank", "/v1/models/v1/rerank", "/v1/cluster/auth"),
        *("//metrics", "/v1/metrics", "/metrics/", "/v1/../metrics", "//livez", "/v1/info"),
        *("/ui/rerank/1", "/v1/nope/rerank", "/v3/rerank", "/rerank/1", "/modelsx", "/V1/rerank"),
    ],
)
def test_other_paths_stay_as_they_are(path):
    assert path == meant_path(path)


@pytest.mark.parametrize(
    ("path", "version"), [("/v2/rerank", "2"), ("/v1/v2/rerank", "2"), ("/v2/v1/rerank", "1")]
)
def test_a_mounted_server_forgives_too(path, version):
    app = Starlette(routes=[Mount("/inner", create_app(FakeBackend()))])
    with TestClient(app) as client:
        client.get("/inner/readyz")
        ready(_Inner(client))
        reply = client.post(f"/inner{path}", json={"query": "q", "documents": ["a"]})

    assert version == reply.json()["meta"]["api_version"]["version"]


class _Inner:
    """The client of a mounted server."""

    def __init__(self, client):
        self._client = client

    def get(self, path):
        return self._client.get(f"/inner{path}")
