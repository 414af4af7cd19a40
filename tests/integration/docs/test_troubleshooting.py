"""Each symptom of docs/troubleshooting.md appears as the page says, and goes away as it says."""

import hashlib
import itertools
import json
import math
import re
import shutil
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

pytest.importorskip("transformers", reason="needs the extra `local`")
pytest.importorskip("langchain_core", reason="needs the extra `langchain`")

import torch
from langchain_core.documents import Document
from typer.testing import CliRunner

from rerank_plugins import (
    AuthenticationError,
    BackendOutOfMemory,
    BackendOverloaded,
    BackendRejected,
    BackendTimeout,
    BackendUnavailable,
    ConfigError,
    InvalidResponse,
    load_backend,
    rerank,
)
from rerank_plugins.backends.local.lockfile import check_lock
from rerank_plugins.backends.local.torch.packed import PackedForward
from rerank_plugins.cli import app
from rerank_plugins.langchain import RerankCompressor
from rerank_plugins.testing import FakeResponse, FakeServer, in_turn, serve_dialect, silence
from tests.support.places import ROOT

pytestmark = pytest.mark.slow

PAGES = sorted((ROOT / "docs").glob("troubleshooting*.md"))
ENGLISH = ROOT / "docs" / "troubleshooting.md"
QUERY = "what is a panda?"
DOCUMENTS = ["hi", "The giant panda is a bear."]
RESULTS = {"results": [{"index": 0, "relevance_score": -3.0}, {"index": 1, "relevance_score": 2}]}


def sections(page):
    """Return each symptom's heading, with the code blocks below it."""
    found, heading = {}, None
    tokens = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    for token, after in itertools.pairwise(tokens):
        if token.type == "heading_open" and token.tag == "h2":
            heading = after.content
            found[heading] = []
        elif token.type == "fence" and heading:
            found[heading].append((token.info, token.content.strip()))
    return found


SECTIONS = sections(ENGLISH)


def shown(heading, message):
    """Check that the page quotes a message."""
    quoted = SECTIONS[heading][0][1]
    assert re.fullmatch(re.escape(quoted).replace("…", ".*"), message, re.DOTALL), message


def fails(error, spec):
    with pytest.raises(error) as raised, load_backend(spec) as backend:
        backend.score(QUERY, DOCUMENTS)
    return str(raised.value)


def works(spec):
    with load_backend(spec) as backend:
        scores = backend.score(QUERY, DOCUMENTS)
        assert 2 == len(scores)
        return scores


@pytest.fixture
def model(checkpoint, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("bert"), folder)
    return folder


class Mirror(BaseHTTPRequestHandler):
    """A hub that has one model."""

    folder: Path
    commit = "c" * 40

    def do_GET(self):
        name = self.path.rpartition("/")[2]
        files = sorted(self.folder.iterdir())
        if self.path.startswith("/api/models/owner/tiny/tree/"):
            tree = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0" * 40}
                for file in files
            ]
            self.answer(json.dumps(tree).encode())
        elif self.path.startswith("/api/models/owner/tiny"):
            listed = [{"rfilename": file.name} for file in files]
            facts = {"id": "owner/tiny", "sha": self.commit, "siblings": listed}
            self.answer(json.dumps(facts).encode())
        elif (self.folder / name).is_file():
            self.answer((self.folder / name).read_bytes())
        else:
            self.send_error(404)

    do_HEAD = do_GET  # noqa: N815  # the name that the base class calls

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", hashlib.sha256(body).hexdigest())
        self.send_header("X-Repo-Commit", self.commit)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        """Stay silent."""


@contextmanager
def mirror(folder):
    handler = type("OfFolder", (Mirror,), {"folder": folder})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_model_cant_be_downloaded(model, tmp_path, monkeypatch):
    heading = "The model can't be downloaded"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    message = fails(BackendUnavailable, "local:owner/tiny")
    shown(heading, message.replace("owner/tiny", "BAAI/bge-reranker-base"))

    expected = list(works(f"local:{model}"))  # a folder needs no hub
    with mirror(model) as url, monkeypatch.context() as patch:
        # What HF_ENDPOINT sets, before Python starts.
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        patch.setattr("huggingface_hub.constants.ENDPOINT", url)
        patch.setattr("huggingface_hub.hf_api.api.endpoint", url)
        template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        patch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        patch.delenv("TRANSFORMERS_OFFLINE", raising=False)
        assert expected == list(works("local:owner/tiny"))
    assert expected == list(works("local:owner/tiny")), "offline, once it is there"


def test_a_file_of_the_model_is_broken(model, tmp_path):
    heading = "A file of the model is broken"
    weights = model / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:5000])
    shown(heading, fails(ConfigError, f"local:{model}"))

    weights.write_bytes(whole)
    works(f"local:{model}")
    lock = tmp_path / "model.lock"
    done = CliRunner().invoke(app, ["lock", f"local:{model}", "--output", str(lock)])
    assert 0 == done.exit_code, done.output
    check_lock(str(lock), load_backend(f"local:{model}"))
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ConfigError, match="is not the one in"):
        check_lock(str(lock), load_backend(f"local:{model}"))


def test_the_weights_are_refused(model, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer  # noqa: PLC0415 - slow

    network = AutoModelForSequenceClassification.from_pretrained(model)
    expected = list(works(f"local:{model}"))
    torch.save(network.state_dict(), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    shown("The weights are refused", fails(ConfigError, f"local:{model}"))

    converted = tmp_path / "safe"
    AutoModelForSequenceClassification.from_pretrained(model).save_pretrained(converted)
    AutoTokenizer.from_pretrained(model).save_pretrained(converted)
    assert expected == pytest.approx(list(works(f"local:{converted}")), abs=1e-6)


def test_memory_runs_out(model, monkeypatch):
    """The GPU is simulated: what takes more than 40 tokens does not fit."""
    real = PackedForward.__call__

    def limited(self, pairs):
        if len(pairs.ids) > 40:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, pairs)

    spec = f"local:{model}?engine=torch&attention=packed"
    with load_backend(spec) as backend:
        backend.score(QUERY, DOCUMENTS)  # the model loads and checks itself
        monkeypatch.setattr(PackedForward, "__call__", limited)
        backend.score(QUERY, [f"panda {number}" for number in range(12)])
        assert 0 < backend.describe()["out_of_memory"]
        with pytest.raises(BackendOutOfMemory) as raised:
            backend.score(QUERY, ["panda " * 90])
    shown("Memory runs out", str(raised.value))

    monkeypatch.setattr(PackedForward, "__call__", real)
    with load_backend(f"{spec}&max_length=32") as backend:
        backend.score(QUERY, DOCUMENTS)
        monkeypatch.setattr(PackedForward, "__call__", limited)
        assert 1 == len(backend.score(QUERY, ["panda " * 90]))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_the_gpu_is_not_used(model):
    shown("The GPU is not used", fails(ConfigError, f"local:{model}?device=cuda"))

    with load_backend(f"local:{model}") as backend:
        assert "cpu" == backend.describe()["device"]
    done = CliRunner().invoke(app, ["doctor", "embedded", "--json", "--no-score"])
    assert "cpu" in json.loads(done.stdout)["environment"]["devices"]["torch"]


def test_it_is_slow(model):
    """What the page tells to change does change."""
    assert "It is slow" in SECTIONS
    with load_backend(f"local:{model}?dtype=int8&max_length=256") as backend:
        facts = backend.describe()
    assert ("onnx", "int8", 256) == (facts["engine"], facts["dtype"], facts["max_length"])


def test_the_server_cant_be_reached():
    with FakeServer(serve_dialect("tei")) as server:
        url = server.url
    shown("The server can't be reached", fails(BackendUnavailable, f"tei+{url}"))

    done = CliRunner().invoke(app, ["doctor", url])
    assert 1 == done.exit_code
    assert url in done.output


def test_a_proxy_is_in_the_way(fake_server, monkeypatch):
    with FakeServer(serve_dialect("tei")) as gone:
        proxy = gone.url
    for name in ("http_proxy", "all_proxy", "no_proxy", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", proxy)
    shown("A proxy is in the way", fails(BackendUnavailable, f"tei+{fake_server.url}"))

    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1,gpu")
    works(f"tei+{fake_server.url}")


def test_the_server_is_too_slow():
    with FakeServer(silence) as server:
        spec = {"kind": "tei", "base_url": server.url, "timeout": 0.2}
        shown("The server is too slow", fails(BackendTimeout, spec))

        scores = works({"backend": spec, "fallback": [{"kind": "embedded"}]})
    assert "embedded" in scores.backend


def test_the_server_is_overloaded(fake_server):
    busy = FakeResponse({"message": "slow down"}, 429, {"Retry-After": "0"})
    fake_server.response = busy
    spec = {"kind": "tei", "base_url": fake_server.url}
    shown("The server is overloaded", fails(BackendOverloaded, spec))

    fake_server.response = in_turn(busy, serve_dialect("tei"))
    works({"backend": spec, "retry": {}})


def test_the_server_says_404():
    def xinference(received):
        if received.path == "/v1/cluster/version":
            return FakeResponse({"version": "4.1.0"})
        if received.path == "/v1/models":
            listed = {"id": "bge", "owned_by": "xinference", "model_type": "rerank"}
            return FakeResponse({"data": [listed]})
        if received.path == "/v1/rerank":
            return serve_dialect("xinference")(received)
        return FakeResponse({"detail": "Not Found"}, 404)

    with FakeServer(xinference) as server:
        shown("The server says 404", fails(BackendRejected, f"tei+{server.url}"))

        printed = CliRunner().invoke(app, ["doctor", server.url]).output
        spec = f"xinference+{server.url}?model=bge"
        assert spec in re.sub(r"\s", "", printed)
        works(spec)


def test_the_key_is_refused(monkeypatch):
    def guarded(received):
        if received.headers.get("Authorization") != "Bearer right-key":
            return FakeResponse({"detail": "who are you?"}, 401)
        return serve_dialect("xinference")(received)

    monkeypatch.delenv("XINFERENCE_API_KEY", raising=False)
    with FakeServer(guarded) as server:
        spec = f"xinference+{server.url}?model=m"
        shown("The key is refused", fails(AuthenticationError, spec))

        monkeypatch.setenv("XINFERENCE_API_KEY", "right-key")
        works(spec)


def test_qwen3_reranker_ranks_badly_on_a_server(caplog):
    heading = "Qwen3-Reranker ranks badly on a server"
    with FakeServer(serve_dialect("vllm")) as server:
        spec = f"vllm+{server.url}?model=Qwen/Qwen3-Reranker-0.6B"
        works(spec)
        (message,) = [record.getMessage() for record in caplog.records]
        shown(heading, message)
        assert QUERY == server.requests[-1].body["query"]

        caplog.clear()
        works(f"{spec}&template=qwen3-reranker")
        assert not caplog.records
        assert f"<Query>: {QUERY}" in server.requests[-1].body["query"]


def test_min_score_is_refused():
    documents = [Document(text) for text in DOCUMENTS]
    with FakeServer(serve_dialect("xinference")) as server:
        spec = f"xinference+{server.url}?model=m"
        with pytest.raises(ConfigError) as raised:
            RerankCompressor(spec, min_score=0.5).compress_documents(documents, QUERY)
        shown("min_score is refused", str(raised.value))

        compressor = RerankCompressor(f"{spec}&server_scale=probability", min_score=0.5)
        assert [documents[1].page_content] == [
            each.page_content for each in compressor.compress_documents(documents, QUERY)
        ]


def test_a_score_lies_outside_0_to_1(fake_server):
    fake_server.response = FakeResponse(RESULTS)
    spec = f"xinference+{fake_server.url}?model=m&server_scale="
    shown("A score lies outside 0 to 1", fails(InvalidResponse, f"{spec}probability"))

    scores = works(f"{spec}logit")
    assert all(0 < score < 1 for score in scores)
    assert scores[0] < 0.5 < scores[1]


def test_min_score_lies_outside_the_range(fake_server):
    """A threshold of 1.5 was found for logits."""
    fake_server.response = FakeResponse(RESULTS)
    spec = f"xinference+{fake_server.url}?model=m&server_scale=logit"
    with pytest.raises(ConfigError) as raised:
        rerank(QUERY, DOCUMENTS, backend=spec, min_score=1.5)
    shown("min_score lies outside the range", str(raised.value))

    kept = rerank(QUERY, DOCUMENTS, backend=spec, min_score=1 / (1 + math.exp(-1.5)))
    assert [1] == [item.index for item in kept]


def test_the_end_of_long_documents_is_ignored(model):
    assert "The end of long documents is ignored" in SECTIONS
    document = Document("hi " * 60 + "The giant panda is a bear.")
    spec = f"local:{model}?max_length=32"
    (cut,) = RerankCompressor(f"{spec}&long_documents=truncate").compress_documents(
        [document], QUERY
    )
    assert cut.metadata["rerank_truncated"]

    (whole,) = RerankCompressor(spec).compress_documents([document], QUERY)
    assert "rerank_truncated" not in whole.metadata


def test_each_symptom_has_a_test():
    names = {re.sub(r"\W+", "_", heading.replace("'", "").lower()) for heading in SECTIONS}

    assert names == {
        name.removeprefix("test_") for name in globals() if name.startswith("test_")
    } - {
        "each_symptom_has_a_test",
        "both_languages_have_the_same_symptoms",
    }


def test_both_languages_have_the_same_symptoms():
    """The messages and the commands."""
    for page in PAGES:
        assert [*SECTIONS.values()] == [*sections(page).values()]
