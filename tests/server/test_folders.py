"""No response shows a client where files are."""

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from rerank_plugins import load_backend
from rerank_plugins.server.folders import without_folders, without_folders_in
from tests.support.serving import serving


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/srv/models/bert", "bert"),
        ("/srv/my models/bert", "bert"),
        ("local:/srv/models/bert", "local:bert"),
        ("local:/srv/models/bert?engine=onnx", "local:bert?engine=onnx"),
        ("local:/a/b | local:/c/d", "local:b | local:d"),
        ("<LocalBackend local:/a/b>", "<LocalBackend local:b>"),
        ("sqlite:/var/cache/scores.db", "sqlite:scores.db"),
        ("C:\\models\\bert", "bert"),
        ("local:C:\\models\\bert", "local:bert"),
        ("BAAI/bge-reranker-base", "BAAI/bge-reranker-base"),
        ("local:BAAI/bge", "local:BAAI/bge"),
        ("./models/bert", "./models/bert"),
        ("tei+http://gpu:8080/v1/rerank", "tei+http://gpu:8080/v1/rerank"),
        ("3 of 4, and/or 1/2", "3 of 4, and/or 1/2"),
    ],
)
def test_only_absolute_paths_lose_their_folders(text, expected):
    assert expected == without_folders(text)


def test_facts_keep_their_shape():
    facts = {"a": ["/x/y", 1, None, {"path": "/x/z"}], "b": 0.5, "c": True}

    assert {"a": ["y", 1, None, {"path": "z"}], "b": 0.5, "c": True} == without_folders_in(facts)


@pytest.mark.parametrize("kind", ["cached", "with a fallback"])
def test_no_response_shows_where_models_and_caches_are(checkpoint, tmp_path, kind):
    model = {"kind": "local", "model": str(checkpoint("bert")), "engine": "onnx"}
    spec = {"backend": model, "fallback": [model]}
    if kind == "cached":
        spec = {"backend": model, "cache": {"store": f"sqlite:{tmp_path}/scores.db"}}
    file = tmp_path / "compared.toml"
    file.write_text('[backend]\nkind = "embedded"\n')
    with serving(load_backend(spec), compare=(str(file), str(file)), warm_up=False) as client:
        client.post("/v1/rerank", json={"query": "q", "documents": ["a"]})
        paths = ["/info", "/metrics", "/v1/models", "/ui/backends", "/openapi.json"]
        replies = [client.get(path).text for path in paths]

    assert model["model"].rpartition("/")[2] in replies[0]
    for path, reply in zip(paths, replies, strict=True):
        assert str(checkpoint("bert")) not in reply, path
        assert str(tmp_path) not in reply, path
