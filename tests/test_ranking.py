"""From scores to an order."""

import math
import pickle
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins import (
    ConfigError,
    Content,
    InvalidResponse,
    Ranked,
    UnsupportedInputError,
    rank,
)

finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(finite))
def test_rank_without_limits_is_a_stable_sort(scores):
    ranked = rank(scores)

    assert sorted(range(len(scores)), key=lambda i: -scores[i]) == [r.index for r in ranked]
    assert [scores[r.index] for r in ranked] == [r.score for r in ranked]


@given(st.lists(finite), st.none() | st.integers(0, 20), st.none() | finite)
def test_rank_keeps_the_best_that_reach_the_minimum(scores, top_n, min_score):
    expected = [r for r in rank(scores) if min_score is None or r.score >= min_score]

    assert expected[:top_n] == rank(scores, top_n=top_n, min_score=min_score)


def test_ties_keep_the_input_order():
    assert [1, 0, 2, 3] == [r.index for r in rank([0.5, 0.9, 0.5, 0.5])]


def test_negative_zero_ties_with_zero():
    assert [0, 1] == [r.index for r in rank([-0.0, 0.0])]


def test_min_score_is_inclusive():
    assert [Ranked(1, 0.5)] == rank([0.49, 0.5], min_score=0.5)


def test_rank_returns_python_floats_for_numpy_scores():
    ranked = rank(np.array([1, 2], dtype=np.float32))

    assert [float, float] == [type(r.score) for r in ranked]


def test_rank_does_not_change_its_input():
    scores = [1.0, 3.0, 2.0]
    rank(scores, top_n=1)

    assert [1.0, 3.0, 2.0] == scores


@pytest.mark.parametrize("top_n", [-1, 1.0, "3", True])
def test_rank_refuses_a_wrong_top_n(top_n):
    with pytest.raises(ConfigError, match=r"`top_n` must be None .* not "):
        rank([1.0], top_n=top_n)


@pytest.mark.parametrize("min_score", [math.nan, math.inf, "0.5", True])
def test_rank_refuses_a_wrong_min_score(min_score):
    with pytest.raises(ConfigError, match="`min_score` must be None or a finite number"):
        rank([1.0], min_score=min_score)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, None, "0.5", True, 10**400])
def test_a_score_that_is_no_finite_number_is_refused(score):
    with pytest.raises(InvalidResponse, match="score 1 of 2 is"):
        rank([0.5, score])


@pytest.mark.parametrize("scores", [(score for score in [0.5]), {0: 0.5}, {0.5}, None, 0.5])
def test_scores_that_are_not_a_list_are_refused(scores):
    with pytest.raises(InvalidResponse, match="not a list of scores"):
        rank(scores)


texts = st.text("ab 熊猫ก", max_size=12)
scored_texts = st.lists(st.tuples(finite, texts), max_size=12)
HAN = [chr(0x4E00 + number) for number in range(2_000)]
WORDS = {"count_tokens": lambda text: len(text.split())}


def indexes(ranking):
    return [item.index for item in ranking]


@given(scored_texts, st.integers(0, 40), st.floats(0.01, 1), st.integers(0, 8))
def test_what_is_kept_is_in_order_and_within_the_budget(pairs, most, share, top_n):
    scores, documents = [score for score, _ in pairs], [text for _, text in pairs]

    ranking = rank(
        scores, documents, top_n=top_n, max_tokens=most, count_tokens=len, distinct=share
    )

    order = indexes(rank(scores))
    assert indexes(ranking) == sorted(indexes(ranking), key=order.index)
    assert sum(len(documents[index]) for index in indexes(ranking)) == ranking.cutoff.tokens <= most
    assert len(ranking) <= top_n
    gone = ranking.cutoff.duplicates
    assert gone.keys().isdisjoint(indexes(ranking))
    assert {*gone.values()} <= {*indexes(ranking)}
    if ranking.cutoff.by is None:
        assert {*range(len(scores))} == {*indexes(ranking), *gone}


@given(scored_texts, st.data())
def test_a_looser_setting_keeps_the_same_and_maybe_more(pairs, data):
    scores, documents = [score for score, _ in pairs], [text for _, text in pairs]
    for name, values in (
        ("max_tokens", st.integers(0, 60)),
        ("min_gap", st.floats(0.001, 1e6)),
        ("top_n", st.integers(0, 14)),
    ):
        less, more = sorted([data.draw(values), data.draw(values)])
        kept = rank(scores, documents, **{name: less})

        assert kept == rank(scores, documents, **{name: more})[: len(kept)]


@pytest.mark.parametrize(
    ("settings", "kept", "by"),
    [
        ({}, 4, None),
        ({"top_n": 4}, 4, None),
        ({"top_n": 3}, 3, "top_n"),
        ({"min_score": 0.5}, 2, "min_score"),
        ({"min_score": 0.5, "top_n": 2}, 2, "min_score"),
        ({"min_gap": 0.3}, 2, "min_gap"),
        ({"min_gap": 0.6}, 4, None),
        ({"max_tokens": 5, **WORDS}, 2, "max_tokens"),
        ({"max_tokens": 1, **WORDS}, 0, "max_tokens"),
        ({"max_tokens": 12, **WORDS}, 4, None),
    ],
)
def test_a_ranking_says_why_it_ends(settings, kept, by):
    documents = ["one two three", "four five", "six", "seven eight nine"]

    ranking = rank([0.9, 0.85, 0.4, 0.35], documents, **settings)

    assert (kept, by) == (len(ranking), ranking.cutoff.by)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (
            "The giant panda is a bear endemic to China.",
            "the  giant PANDA is a bear endemic to China",
        ),
        (
            "大熊猫是中国特有的一种熊，主要栖息于四川的山区。",
            "大熊猫是中国特有的一种熊，主要栖息于四川",
        ),
        ("หมีแพนด้ายักษ์อาศัยอยู่ในประเทศจีนตะวันตก", "หมีแพนด้ายักษ์อาศัยอยู่ในประเทศจีน"),
        ("الباندا العملاقة دب يعيش في الصين الغربية", "الباندا العملاقة دب يعيش في الصين"),
        ("a long page " * 3000 + "with one more sentence at its end", "a long page " * 2000),
        ("", ""),
        ("ｆｕｌｌ ｗｉｄｔｈ text", "full width text"),
    ],
)
def test_what_stands_in_a_better_document_is_left_out(better, worse):
    other = "Paris is the capital of France. 巴黎是法国的首都。"
    ranking = rank([0.1, 0.9, 0.5], [worse, better, other], distinct=0.8)

    assert [1, 2] == indexes(ranking)
    assert {0: 1} == ranking.cutoff.duplicates


def test_a_document_that_adds_to_a_better_one_stays():
    part = "The giant panda is a bear."
    whole = f"{part} It lives in the mountains of Sichuan, and eats bamboo for half of the day."

    assert [0, 1] == indexes(rank([0.9, 0.8], [part, whole], distinct=0.8))


def test_the_estimate_of_tokens_says_so():
    estimated = rank([1.0, 0.5], ["abc" * 10, "熊猫"], max_tokens=13).cutoff

    assert (13, True) == (estimated.tokens, estimated.tokens_estimated)
    assert not rank([1.0], ["abc"], max_tokens=9, count_tokens=len).cutoff.tokens_estimated


def test_a_tokenizer_counts_by_its_path(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "[U]": 1}, "[U]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(1)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))

    for path in (tmp_path, str(tmp_path / "tokenizer.json")):
        kept = rank([3.0, 2.0, 1.0], ["a b", "a b c", "d"], max_tokens=5, count_tokens=path)

        assert (2, 5, False) == (len(kept), kept.cutoff.tokens, kept.cutoff.tokens_estimated)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens": -1}, "`max_tokens` must be None or an integer of at least 0, not -1"),
        ({"max_tokens": 1.5}, "`max_tokens` must be None or an integer"),
        ({"min_gap": 0}, "`min_gap` must be None or a number above 0, not 0"),
        ({"min_gap": math.nan}, "`min_gap` must be None or a number"),
        ({"distinct": 1.01}, "`distinct` must be None or a number above 0 and of at most 1"),
        ({"distinct": True}, "`distinct` must be None or a number"),
        ({"count_tokens": len}, "`count_tokens` needs `max_tokens`"),
        ({"max_tokens": 1, "count_tokens": 3}, "must be a function from a text to a number, or"),
        ({"max_tokens": 1, "count_tokens": "/nowhere"}, "there is no file '/nowhere'"),
        ({"max_tokens": 1, "count_tokens": __file__}, "as a tokenizer"),
        ({"max_tokens": 1, "count_tokens": lambda _: -1}, "must return an integer of at least 0"),
        ({"max_tokens": 1, "count_tokens": str}, "must return an integer of at least 0, not 'a'"),
        ({"max_tokens": 1, "documents": None}, "need `documents`, one for each score; got none"),
        ({"distinct": 1, "documents": ["a", "b"]}, "got 2 for 1"),
    ],
)
def test_rank_refuses_wrong_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        rank([1.0], **{"documents": ["a"], **settings})


def test_the_tokens_of_an_image_are_refused_and_images_stay_distinct():
    images = [Content(image=b"1"), Content(image=b"1")]

    assert [0, 1] == indexes(rank([1.0, 1.0], images, distinct=0.5))
    with pytest.raises(UnsupportedInputError, match="document 0 holds an image"):
        rank([1.0, 1.0], images, max_tokens=9)


def test_a_ranking_survives_pickle():
    ranking = rank([1.0, 0.5], ["a", "a"], distinct=1)
    copy = pickle.loads(pickle.dumps(ranking))

    assert (ranking, ranking.cutoff) == (copy, copy.cutoff)


def test_the_share_is_exact_also_where_a_sample_is_asked_first():
    """A tenth of a text is new: of 2,000 and of 60,000 characters."""
    for length in (2_000, 60_000):
        draw = random.Random(length)
        better, other = ("".join(draw.choices(HAN, k=length)) for _ in range(2))
        worse = better[: length * 9 // 10] + other[: length // 10]

        assert [0] == indexes(rank([1, 0], [better, worse], distinct=0.89))
        assert [0, 1] == indexes(rank([1, 0], [better, worse], distinct=0.91))
