"""From the likeliest tokens of an answer to a logit, in the layouts of all servers."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins import BackendError, BackendRejected, InvalidResponse
from rerank_plugins.backends.chat.answer_words import AnswerWords
from rerank_plugins.backends.scale import sigmoid

WORDS = AnswerWords("yes", "no")
EXACT = AnswerWords("yes", "no", exact=True)


def objects(tokens):
    return [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in tokens.items()]


def chat(tokens, **message):
    """OpenAI, vLLM, SGLang; llama.cpp for completions too."""
    top = objects(tokens)
    content = [{**top[0], "top_logprobs": top}]
    return {"choices": [{"message": message, "logprobs": {"content": content}}]}


def completions(tokens):
    """OpenAI, vLLM, SGLang."""
    top = {token: math.log(p) for token, p in tokens.items()}
    return {"choices": [{"text": "", "logprobs": {"tokens": ["x"], "top_logprobs": [top]}}]}


def ollama(tokens):
    """Ollama below /api/generate."""
    top = objects(tokens)
    return {"response": "", "done": True, "logprobs": [{**top[0], "top_logprobs": top}]}


def ollama_chat(tokens):
    """Ollama below /api/chat."""
    body = ollama(tokens)
    return {"message": {"content": body.pop("response")}, **body}


@pytest.mark.parametrize("layout", [chat, completions, ollama, ollama_chat])
def test_the_score_is_the_share_of_the_true_word(layout):
    body = layout({"yes": 0.6, "no": 0.2, "I": 0.1})

    assert pytest.approx(0.75) == sigmoid(EXACT.logit(body))
    assert pytest.approx(math.log(3)) == WORDS.logit(body)


def test_all_spellings_of_a_word_add_up():
    tokens = {"Yes": 0.3, "yes": 0.2, " YES": 0.1, "No": 0.15, "no": 0.05, "yesterday": 0.1}

    assert pytest.approx(0.75) == sigmoid(WORDS.logit(chat(tokens)))


def test_a_known_template_counts_the_one_token_of_its_authors():
    tokens = {"Yes": 0.3, "yes": 0.2, "No": 0.15, "no": 0.05}

    assert pytest.approx(0.8) == sigmoid(EXACT.logit(chat(tokens)))


@pytest.mark.parametrize(
    ("tokens", "score"),
    [
        # at most as likely as the last one told
        ({"yes": 0.5, "I": 0.2}, 0.5 / 0.7),
        ({"no": 0.5, "I": 0.2}, 0.2 / 0.7),
        # at most what the others leave
        ({"yes": 0.5, "I": 0.4}, 0.5 / 0.6),
        ({"no": 0.9, "I": 0.09}, 0.01 / 0.91),
        # nothing is left
        ({"no": 0.75, "I": 0.25}, 0.25),
    ],
)
def test_a_missing_word_gets_the_highest_probability_it_can_have(tokens, score):
    assert pytest.approx(score) == sigmoid(EXACT.logit(chat(tokens)))


@given(
    yes=st.floats(1e-6, 1.0),
    no=st.floats(1e-6, 1.0),
    others=st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=6),
    top=st.integers(1, 6),
)
def test_the_exact_score_is_never_on_the_other_side_of_the_bound(yes, no, others, top):
    """Where a server tells `top` tokens, the score lies between 0.5 and the exact one."""
    total = yes + no + sum(others)
    all_tokens = {"yes": yes, "no": no} | {f"t{i}": p for i, p in enumerate(others)}
    told = sorted(all_tokens.items(), key=lambda item: -item[1])[:top]
    if not {"yes", "no"} & dict(told).keys():
        return
    exact = yes / (yes + no)
    score = sigmoid(EXACT.logit(chat({token: p / total for token, p in told})))

    assert min(exact, 0.5) - 1e-6 <= score <= max(exact, 0.5) + 1e-6


@pytest.mark.parametrize(
    ("message", "hint"),
    [
        ({"content": "I"}, "check `template`"),
        ({"content": "", "reasoning_content": "Okay"}, "thinks before it answers"),
        ({"content": "", "reasoning": "Okay"}, "thinks before it answers"),
        ({"content": "<think>"}, "thinks before it answers"),
    ],
)
def test_an_answer_without_either_word_is_an_error(message, hint):
    with pytest.raises(InvalidResponse, match=rf"neither 'yes' nor 'no' is among the 2.*{hint}"):
        WORDS.logit(chat({"I": 0.5, "The": 0.3}, **message))


@pytest.mark.parametrize("layout", [chat, completions, ollama, ollama_chat])
def test_integers_beyond_all_fractions_are_read(layout):
    body = json.loads(json.dumps(layout({"yes": 0.6, "no": 0.2})).replace(str(math.log(0.2)), _LOW))

    assert 9_000 < WORDS.logit(body)
    with pytest.raises(InvalidResponse, match="is inf, above 0"):
        WORDS.logit(json.loads(json.dumps(body).replace(_LOW, _LOW.removeprefix("-"))))


_LOW = f"-{10**320}"


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [{"message": {"content": "yes"}, "logprobs": None}]},
        {"choices": [{"message": {"content": "yes"}}]},
        {"choices": [{"text": "yes", "logprobs": None}]},
        {"choices": [{"message": {"content": "yes"}, "logprobs": {"content": []}}]},
        {"response": "yes", "done": True},
        {"message": {"content": "yes"}, "done": True},
    ],
)
def test_a_server_without_log_probabilities_is_refused_for_good(body):
    """Another try would end the same way; the message says where they are to be had."""
    with pytest.raises(BackendRejected, match=r"Ollama sends them .*mode='listwise'"):
        WORDS.logit(body)


BROKEN = {
    "a list": [],
    "null": None,
    "an error": {"error": {"message": "out of memory"}},
    "no choices": {"choices": []},
    "no top list": {"choices": [{"logprobs": {"content": [{"token": "yes", "logprob": -0.1}]}}]},
    "an empty top list": {"choices": [{"logprobs": {"content": [{"top_logprobs": []}]}}]},
    "logprobs as a text": {"choices": [{"logprobs": {"content": ["yes"]}}]},
    "a token that is a number": {
        "choices": [{"logprobs": {"content": [{"top_logprobs": [{"token": 1, "logprob": -1}]}]}}]
    },
    "a logprob that is a text": {"choices": [{"logprobs": {"top_logprobs": [{"yes": "-1"}]}}]},
    "a logprob that is true": {"choices": [{"logprobs": {"top_logprobs": [{"yes": True}]}}]},
    "a logprob that is null": {"choices": [{"logprobs": {"top_logprobs": [{"yes": None}]}}]},
    "a probability instead": {"choices": [{"logprobs": {"top_logprobs": [{"yes": 0.9}]}}]},
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_can_not_be_read_is_an_invalid_response(case):
    with pytest.raises(InvalidResponse):
        WORDS.logit(BROKEN[case])


def test_servers_write_a_probability_of_zero_as_any_large_number():
    body = {"choices": [{"logprobs": {"top_logprobs": [{"yes": 0.0, "no": -3.4e38}]}}]}

    assert 10_000 == EXACT.logit(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "logprobs", "content", "top_logprobs", "token", "logprob", "message"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(JSON)
def test_any_body_gives_a_finite_logit_or_an_error_of_ours(body):
    try:
        logit = WORDS.logit(body)
    except BackendError:
        return

    assert math.isfinite(logit)
