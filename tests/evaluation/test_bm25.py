"""BM25: what it retrieves, and how it tokenises."""

import pytest

from rerank_plugins import ConfigError
from rerank_plugins.evaluation import load_dataset
from rerank_plugins.evaluation.bm25 import bm25, tokenize
from rerank_plugins.evaluation.metrics import measure

pytest.importorskip("bm25s", reason="needs the extra `eval`")


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("What's a_b, C3PO?", ["what", "s", "a", "b", "c3po"]),
        ("大熊猫吃竹子", ["大熊", "熊猫", "猫吃", "吃竹", "竹子"]),
        ("《猫》", ["猫"]),
        ("iPhone手机壳", ["iphone", "手机", "机壳"]),
        ("Ｆｕｌｌ Straße naïve", ["full", "strasse", "naïve"]),
        ("한국어 русский", ["한국어", "русский"]),
        ("!?", []),
    ],
)
def test_tokens_are_words_and_character_bigrams(text, tokens):
    assert tokens == tokenize(text)


def test_finds_what_shares_words_and_nothing_else():
    documents = {"a": "the panda bear", "b": "a bear", "c": "Paris", "d": "a bear"}
    candidates = bm25({"q": "panda bear", "none": "zebra", "stop": "the"}, documents, depth=10)

    assert {"q": ["a", "b", "d"], "none": [], "stop": []} == candidates
    assert ["a"] == bm25({"q": "panda bear"}, documents, depth=1)["q"]


@pytest.mark.parametrize("documents", [{}, {"a": ""}, {"a": "the"}])
def test_a_corpus_without_words_gives_no_candidates(documents):
    assert {"q": []} == bm25({"q": "panda"}, documents, depth=3)


@pytest.mark.parametrize(("name", "min_share"), [("covidqa", 0.55), ("xquad-zh", 0.9)])
def test_finds_the_relevant_documents_of_real_questions(name, min_share):
    data = load_dataset(f"demo:{name}")
    values = measure(data.qrels, bm25(data.queries, data.documents, depth=20), ["MRR@10"])["MRR@10"]

    assert sum(values.values()) / len(values) > min_share


def test_a_depth_below_one_is_refused():
    with pytest.raises(ConfigError, match="`depth` must be at least 1, not 0"):
        bm25({"q": "a"}, {"d": "a"}, depth=0)
