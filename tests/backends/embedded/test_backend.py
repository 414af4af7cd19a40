"""The embedded backend: its contract, its quality on real data, and its limits."""

import csv
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

from rerank_plugins import BackendError, ConfigError, load_backend, rank
from rerank_plugins.backends.embedded import EmbeddedBackend, files
from rerank_plugins.backends.embedded.embedder import TokenEmbedder
from rerank_plugins.scores import Usage
from rerank_plugins.testing import BackendContract
from tests.support.places import DATA

PANDA = "what is a panda?"
PANDAS = [
    "hi",
    "The giant panda is a bear species endemic to China.",
    "Paris is the capital of France.",
    "pandas is a Python library for data analysis.",
    "Bears are carnivoran mammals.",
]
SCORES = [0.0, 0.4493, 0.0, 0.1786, 0.0006]


@pytest.fixture(scope="module")
def embedded():
    with EmbeddedBackend() as backend:
        yield backend


class TestContract(BackendContract):
    """Kept by the embedded backend."""

    def make_backend(self):
        return EmbeddedBackend(max_windows=8)  # of a megabyte; 128 take a quarter of a minute


def read(name):
    """Return [(query, texts in BM25's order, whether each is relevant)] of a shipped sample."""
    folder = DATA / name
    lines = {
        kind: [json.loads(line) for line in (folder / f"{kind}.jsonl").read_bytes().splitlines()]
        for kind in ("corpus", "queries")
    }
    texts = {document["_id"]: document["text"] for document in lines["corpus"]}
    with (folder / "qrels.tsv").open(encoding="utf-8") as file:
        relevant = {
            (row["query-id"], row["corpus-id"]) for row in csv.DictReader(file, delimiter="\t")
        }
    judged = {query["_id"]: [] for query in lines["queries"]}
    with (folder / "candidates.tsv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            judged[row["query-id"]].append(row["corpus-id"])
    return [
        (
            query["text"],
            [texts[document] for document in judged[query["_id"]]],
            [(query["_id"], document) in relevant for document in judged[query["_id"]]],
        )
        for query in lines["queries"]
    ]


def reciprocal_rank(relevant):
    return 1 / (relevant.index(True) + 1) if True in relevant else 0.0


def mrr(backend, sample):
    """Return MRR@10 of BM25's order and of the backend's."""
    before, after = [], []
    for query, texts, relevant in sample:
        before.append(reciprocal_rank(relevant))
        order = rank(backend.score(query, texts))
        after.append(reciprocal_rank([relevant[item.index] for item in order]))
    return float(np.mean(before)), float(np.mean(after))


@pytest.mark.slow
def test_finds_code_better_than_bm25_by_the_figures_measured(embedded):
    """On every processor, and with any version of ONNX Runtime.

    The questions of the demos, English and Chinese, are measured in `test_demos.py`.
    """
    assert mrr(embedded, read("cosqa")[::3]) == pytest.approx((0.3767, 0.3917), abs=0.002)


def test_scores_are_pinned(embedded):
    """On every processor, up to the rounding of floats."""
    scores = embedded.score(PANDA, PANDAS)

    assert pytest.approx(SCORES, abs=1e-3) == scores


def test_probabilities_separate_relevant_from_unrelated_texts(embedded):
    """A fair match lies near one half, an unrelated text near zero."""
    scores = embedded.score(PANDA, PANDAS)

    assert scores[1] > 0.4
    assert scores[2] < 0.05


def test_the_files_are_those_of_the_notice():
    notice = (files.FOLDER / "NOTICE.md").read_text(encoding="utf-8")
    for name, digest in files.DIGESTS.items():
        content = (files.FOLDER / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
        assert f"| `{name}` | {len(content):,} | `{digest}` |" in notice


def test_works_offline_and_loads_little():
    """With every socket refused, and nothing heavier than onnxruntime imported."""
    code = """
import socket, sys
class Refused(socket.socket):
    def __init__(self, *args, **kwargs):
        raise AssertionError("a socket was opened")
socket.socket = Refused
from rerank_plugins import load_backend
scores = load_backend("embedded").score("what is a panda?", ["hi", "The panda is a bear."])
heavy = {"httpx", "langchain_core", "llama_index", "onnx", "torch", "transformers"}
print(scores[0] < scores[1], sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "True []\n"


def test_cached_scores_equal_fresh_ones(embedded):
    with EmbeddedBackend(cached_tokens=0) as forgetful:
        fresh = forgetful.score(PANDA, PANDAS)
        embedded.score("another query", PANDAS)

        assert fresh == pytest.approx(embedded.score(PANDA, PANDAS), abs=1e-6)


def test_known_documents_are_not_encoded_again(monkeypatch):
    with EmbeddedBackend() as backend:
        backend.score(PANDA, PANDAS)
        runs = []
        run = TokenEmbedder._vectors
        monkeypatch.setattr(
            TokenEmbedder,
            "_vectors",
            lambda self, ids, *read: (runs.append(len(ids)), run(self, ids, *read))[1],
        )
        backend.score("how heavy is a panda?", [*PANDAS, *PANDAS, "new"])

    assert sorted(runs) == [1, 7], "one new document and the query"


@pytest.mark.parametrize("cached_tokens", [1 << 17, 70, 0])
@pytest.mark.parametrize("query", [PANDA, "word " * 800, "熊猫" * 2048, "..."])
def test_a_query_in_many_calls_is_encoded_once(monkeypatch, query, cached_tokens):
    """As a server scores a long request: the query would take longer than all documents."""
    roles = []
    vectors = TokenEmbedder._vectors
    monkeypatch.setattr(
        TokenEmbedder, "_vectors", lambda self, *read: (roles.append(read), vectors(self, *read))[1]
    )
    with EmbeddedBackend(cached_tokens=cached_tokens) as backend:
        at_once = backend.score(query, PANDAS)
        windows = sum(role == "query" for _, role in roles)
        one_by_one = [backend.score(query, [document])[0] for document in PANDAS]

    assert at_once == pytest.approx(one_by_one, abs=1e-6)
    assert windows == sum(role == "query" for _, role in roles) > 0


def test_text_beyond_max_length_does_not_count():
    filler, answer = "word " * 300, "The giant panda is a bear."
    with EmbeddedBackend(max_length=256) as backend, EmbeddedBackend(max_length=512) as longer:
        short = backend.score(PANDA, [filler, filler + answer])
        long = longer.score(PANDA, [filler, filler + answer])

    assert short[0] == short[1]
    assert long[1] > long[0] + 0.01
    assert long.chunked == {0, 1}
    assert not short.chunked


def test_scores_report_tokens_and_truncation():
    """Equal documents once; a text beyond `max_length`, or beyond what is tokenised, is cut."""
    with EmbeddedBackend(max_length=4) as backend:
        documents = ["bear", "a b c d e", "bear", " " * 9 + "x" * 200, "a b c d"]
        scores = backend.score(PANDA, documents)
        cut_query = backend.score("what is a giant panda?", ["bear"])

        assert scores.backend == backend.name
        assert scores.scale == "probability"
        assert scores.truncated == {0, 1, 2, 3, 4}, "the query has six tokens"
        assert backend.score("panda", documents).truncated == {1, 3}
        assert backend.score("panda", ["a b c", "a b c"]).usage == Usage(tokens=5)
        assert cut_query.truncated == {0}


def test_names_differ_where_scores_do():
    assert EmbeddedBackend().name == EmbeddedBackend(threads=1, cached_tokens=0).name
    assert EmbeddedBackend().name != EmbeddedBackend(max_length=128).name
    assert files.VERSION in EmbeddedBackend().name


def test_specs_rebuild_the_backend():
    backend = EmbeddedBackend(max_length=128, threads=2)
    twin = load_backend(backend.to_spec())

    assert backend.name == twin.name
    assert backend.to_spec() == twin.to_spec()
    assert backend.name == load_backend("embedded?max_length=128").name


@pytest.mark.parametrize(
    "options",
    [
        {"max_length": 0},
        {"max_length": True},
        {"max_length": "512"},
        {"threads": 0},
        {"threads": True},
        {"threads": 1.5},
        {"cached_tokens": -1},
        {"cached_tokens": None},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        EmbeddedBackend(**options)


def test_describe_names_the_model():
    facts = EmbeddedBackend(threads=3).describe()

    assert "multilingual-e5-small" in facts["model"]
    assert facts["threads"] == 3


def test_missing_files_are_a_backend_error(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "FOLDER", tmp_path)

    with pytest.raises(BackendError, match="reinstall rerank-plugins"):
        EmbeddedBackend().score(PANDA, PANDAS)


def shorten(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "no model": (files.MODEL, lambda path: path.write_bytes(b"")),
    "half a model": (files.MODEL, shorten),
    "half of the words": (files.WORDS, shorten),
    "no word": (files.WORDS, lambda path: path.write_bytes(b"")),
    "fewer words": (files.WORDS, lambda path: np.save(path, np.zeros((9, 216), np.uint8))),
    "narrow words": (files.WORDS, lambda path: np.save(path, np.zeros((214_001, 18), np.uint8))),
    "words of floats": (files.WORDS, lambda path: np.save(path, np.zeros((214_001, 216)))),
    "half of the pieces": (files.PIECES, lambda path: path.write_text("\n".join("abcdefgh"))),
    "pieces in another encoding": (files.PIECES, lambda path: path.write_bytes(b"\xff\xfe")),
    "half of the scores": (files.SCORES, shorten),
    "fewer scores": (files.SCORES, lambda path: np.save(path, np.zeros(7, np.float32))),
}


@pytest.mark.parametrize(("name", "damage"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_files_are_a_backend_error(monkeypatch, tmp_path, name, damage):
    """At load: a vocabulary that doesn't fit to the scores would only score badly."""
    for each in files.DIGESTS:
        place = shutil.copy if each == name else os.symlink
        place(files.FOLDER / each, tmp_path / each)
    damage(tmp_path / name)
    monkeypatch.setattr(files, "FOLDER", tmp_path)

    with pytest.raises(BackendError, match="reinstall rerank-plugins"):
        EmbeddedBackend().score(PANDA, PANDAS)


def test_white_space_around_a_text_is_no_truncation(embedded):
    scores = embedded.score("panda", ["bear" + " " * 99_999, " " * 99_999 + "bear", "bear"])

    assert not scores.truncated
    assert scores[0] == scores[1] == pytest.approx(scores[2])


class Full:
    """A session that runs out of memory, with the message of ONNX Runtime's arena."""

    def run(self, *_):
        raise RuntimeError("Failed to allocate memory for requested buffer of size 123")


def test_running_out_of_memory_raises_out_of_memory(monkeypatch):
    """Then batches shrink; as any other failure, it would fail the request."""
    with EmbeddedBackend(cached_tokens=0) as backend:
        backend.score(PANDA, PANDAS)
        monkeypatch.setattr(backend._scorer._embedder, "_session", Full())

        with pytest.raises(MemoryError, match="lower `threads`"):
            backend.score(PANDA, PANDAS)


class Broken:
    """A session of damaged weights."""

    def run(self, _, feeds):
        return [np.full_like(feeds["words"], np.nan)]


def test_numbers_that_are_not_finite_are_a_backend_error(monkeypatch):
    with EmbeddedBackend(cached_tokens=0) as backend:
        backend.score(PANDA, PANDAS)
        monkeypatch.setattr(backend._scorer._embedder, "_session", Broken())

        with pytest.raises(BackendError, match="not finite"):
            backend.score(PANDA, PANDAS)


def refuse(thread):
    raise RuntimeError("can't start new thread")


def test_a_thread_that_can_not_start_raises_out_of_memory(monkeypatch):
    with EmbeddedBackend(cached_tokens=0, threads=2) as backend:
        expected = backend.score(PANDA, PANDAS)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(MemoryError, match="lower `threads`"):
                backend.score(PANDA, PANDAS)

        assert expected == backend.score(PANDA, PANDAS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_tokens": 9, "max_windows": 2}, "has more than `max_windows`=2 windows"),
        ({"window_tokens": 9, "max_length": 20}, "has more than `max_length`=20 tokens"),
        ({"long_documents": "truncate", "max_length": 20}, "set long_documents='best'"),
    ],
)
def test_the_first_document_that_is_cut_is_logged_and_all_are_counted(options, message, caplog):
    long = "The giant panda is a bear. " * 20
    backend = EmbeddedBackend(**options)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            scores = backend.score(PANDA, ["hi", long, long + "!", long])
    facts = backend.describe()

    assert {1, 2, 3} == scores.truncated == {*scores.read}
    assert 4 == facts["truncated_documents"], "equal ones are one"
    assert (0 if "long_documents" in options else 4) == facts["windowed_documents"]
    assert 1 == len(caplog.messages)
    assert message in caplog.messages[0]
    assert "panda" not in caplog.text


def test_windows_and_a_query_that_is_cut_are_told_apart(caplog):
    backend = EmbeddedBackend(window_tokens=9)
    with caplog.at_level(logging.WARNING):
        assert backend.score(PANDA, ["The giant panda is a bear. " * 9]).windows
        assert not caplog.messages
        for _ in range(2):
            assert {0} == backend.score("panda " * 2000, ["hi"]).truncated
    facts = backend.describe()

    assert ["a query was cut to the 1024 tokens"] == [text[:34] for text in caplog.messages]
    assert (0, 1, 2) == tuple(
        facts[f"{name}_{what}"]
        for name, what in (
            ("truncated", "documents"),
            ("windowed", "documents"),
            ("truncated", "queries"),
        )
    )


@pytest.mark.parametrize(
    ("query", "answer", "other"),
    [
        ("How long is the notice period?", "Notice is given 30 days ahead. ", "Keep this secret. "),
        (
            "解除合同要提前多少天通知？",
            "任何一方可提前三十天书面通知解除合同。",
            "双方同意对此保密。",
        ),
    ],
)
@pytest.mark.parametrize("window_tokens", [40, None])
def test_the_sentence_that_answers_is_told(query, answer, other, window_tokens):
    document = other * 60 + answer + other * 60
    scores = EmbeddedBackend(window_tokens=window_tokens).score(
        query, ["short", document, "", document]
    )
    start, end = scores.highlights[1]

    assert answer.strip() in document[start:end]
    assert end - start <= len(answer) + 1
    assert scores.passages[1].start <= start < end <= scores.passages[1].end
    assert {1, 3} == scores.highlights.keys() == scores.passages.keys()
