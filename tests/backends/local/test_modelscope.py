"""Models from ModelScope: which files are fetched, and its failures as our errors."""

import json
import time

import pytest

pytest.importorskip("modelscope_hub", reason="needs the extra `modelscope`")
pytest.importorskip("sentence_transformers", reason="needs the extra `local`")

from rerank_plugins import (
    AuthenticationError,
    BackendUnavailable,
    ConfigError,
    load_backend,
)
from rerank_plugins.backends.local.checkpoint import resolve
from rerank_plugins.testing import FakeResponse, FakeServer, cut_short
from tests.backends.local.bi_encoders import build_stanford
from tests.support.checkpoints import build
from tests.support.modelscope_hub import COMMIT, MODEL, ModelScopeHub


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build("bert", tmp_path_factory.mktemp("model"))


@pytest.fixture
def hub(folder):
    return ModelScopeHub(folder)


@pytest.fixture
def server(hub, monkeypatch, tmp_path):
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MODELSCOPE_API_TOKEN", raising=False)
    # Its client waits between tries, by either of these.
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(
        "modelscope_hub._download_control._DownloadControl.sleep", lambda self, seconds: None
    )
    with FakeServer(hub) as fake_server:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", fake_server.url)
        yield fake_server


def fetch(**options):
    return resolve(MODEL, hub="modelscope", **options)


def test_the_code_of_another_repository_comes_from_the_same_hub(server, hub):
    """Two commits, so that the one that was named is seen to be the one that is used."""
    config = json.loads(hub.files["config.json"])
    config["auto_map"] = {"AutoConfig": "someone/code--configuration.FancyConfig"}
    hub.files["config.json"] = json.dumps(config).encode()
    for commit in ("a" * 40, "b" * 40):
        hub.others["someone/code", commit] = {"configuration.py": commit.encode()}
    found = {}
    for commit in ("a" * 40, "b" * 40):
        pins = {"someone/code": commit}
        options = {"revision": COMMIT, "trust_remote_code": True, "code_revisions": pins}
        checkpoint = fetch(**options)
        found[commit] = (checkpoint.code["someone/code"] / "configuration.py").read_text()
        assert pins == checkpoint.code_revisions
    assert found == {commit: commit for commit in found}

    with pytest.raises(ConfigError, match=r"'someone/code' \(revision 'd+'\) is not on ModelScope"):
        fetch(**{**options, "code_revisions": {"someone/code": "d" * 40}})


def test_doctor_says_what_a_model_is_before_its_weights(server, hub):
    hub.files["README.md"] = b"---\nlanguage: zh\nlicense: mit\n---\n"
    (found,) = load_backend(f"local:{MODEL}?hub=modelscope").check_models()

    assert found.ok, found.detail
    expected = {"method": "cross-encoder", "languages": ["zh"], "licence": "mit"}
    assert expected == {name: found.facts[name] for name in expected}
    assert "model.safetensors" not in hub.fetched
    assert "parameters" not in found.facts
    size = sum(len(hub.files[name]) for name in hub.files if name.endswith((".json", "tensors")))
    assert f"download: {size / 1e6:.3g} MB" in found.detail

    (missing,) = load_backend("local:iic/nothing?hub=modelscope").check_models()
    assert not missing.ok
    assert "is not on ModelScope" in missing.detail


def test_doctor_takes_no_colbert_of_stanfords_for_damaged(server, tmp_path):
    """Its projection stands among the weights, of which this hub sends nothing alone."""
    server.response = ModelScopeHub(build_stanford(tmp_path / "stanford"))
    (found,) = load_backend(f"local:{MODEL}?hub=modelscope").check_models()

    assert found.ok, found.detail
    assert "late interaction" == found.facts["method"]


def test_the_files_of_a_model_are_fetched_and_no_others(server, hub, folder):
    checkpoint = fetch()

    assert MODEL == checkpoint.model
    assert "model.safetensors" in hub.fetched
    assert "onnx/model.onnx" not in hub.fetched
    assert resolve(str(folder)).revision == checkpoint.revision
    asked = len(hub.fetched)
    assert checkpoint == fetch()
    assert checkpoint == fetch(local_files_only=True)
    assert asked == len(hub.fetched)


def test_a_backend_scores_as_from_the_folder(server, folder):
    documents = ["hi", "a panda"]
    spec = f"local:{MODEL}?hub=modelscope&device=cpu"
    with load_backend(spec) as backend, load_backend(f"local:{folder}?device=cpu") as local:
        assert list(local.score("panda", documents)) == list(backend.score("panda", documents))
        assert MODEL == backend.describe()["model"]
        assert {"kind": "local", "model": MODEL, "hub": "modelscope", "device": "cpu"} == (
            backend.to_spec()
        )


def test_a_revision_is_asked_for(server):
    assert fetch(revision="v1").revision
    with pytest.raises(ConfigError, match=r"revision 'v9'\) is not on ModelScope"):
        fetch(revision="v9")


def test_without_the_network_the_way_to_an_earlier_download_is_named(server):
    checkpoint = fetch()
    server.response = cut_short

    with pytest.raises(BackendUnavailable, match="take an earlier download with `local_files_o"):
        fetch()
    assert checkpoint == fetch(local_files_only=True)


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (401, AuthenticationError, "set MODELSCOPE_API_TOKEN"),
        (403, AuthenticationError, "set MODELSCOPE_API_TOKEN"),
        (404, ConfigError, "is not on ModelScope"),
        (429, BackendUnavailable, "could not be downloaded"),
        (500, BackendUnavailable, "could not be downloaded"),
        (503, BackendUnavailable, "could not be downloaded"),
    ],
)
def test_a_refused_listing_is_one_of_our_errors(server, hub, status, error, words):
    hub.changes = {"/repo/files": FakeResponse({"Code": status, "Message": "no"}, status)}

    with pytest.raises(error, match=words) as caught:
        fetch()
    assert f"the model '{MODEL}'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("end", ["/repo/files", "/repo"])
@pytest.mark.parametrize("failure", ["sign-in", "cut"])
def test_a_broken_download_is_unavailable(server, hub, failure, end):
    page = FakeResponse(b"<html>Sign in to the network</html>", content_type="text/html")
    good = server.response
    server.response = lambda received: (
        (page if failure == "sign-in" else cut_short(received))
        if received.path.partition("?")[0].endswith(end)
        else good(received)
    )

    with pytest.raises(BackendUnavailable, match="could not be downloaded"):
        fetch()


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "no url", "http://[::1"])
def test_a_hub_that_can_not_be_reached_is_unavailable(server, monkeypatch, endpoint):
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", endpoint)

    with pytest.raises(BackendUnavailable, match="could not be downloaded"):
        fetch()


def test_a_model_that_was_never_downloaded_is_named(server):
    with pytest.raises(ConfigError, match="not in the local cache of ModelScope"):
        fetch(local_files_only=True)
