"""A dialect of the user's own."""

import dataclasses
import pickle

import pytest

from rerank_plugins import ConfigError, InvalidResponse
from rerank_plugins.backends.http import Dialect, HTTPBackend
from rerank_plugins.backends.http.dialects import DIALECTS
from rerank_plugins.scores import Usage
from rerank_plugins.testing import FakeResponse, word_overlap
from tests.backends.http.remote import DOCUMENTS, EXPECTED, QUERY


def lay_out(query, documents):
    return {"question": query, "answers": [{"body": text} for text in documents]}


def read(body, count):
    scores = [float(percent) / 100 for percent in body["percent"]]
    if len(scores) != count:
        raise InvalidResponse(f"{len(scores)} scores for {count} documents")
    return scores


def bill(body):
    return Usage(tokens=body["cost"])


OWN = Dialect(
    name="house",
    path="/judge",
    scale="probability",
    key_variables=("HOUSE_KEY",),
    needs_model=False,
    key_header="X-House-Key",
    key_prefix="",
    shape=lay_out,
    decode=read,
    usage=bill,
)


def judge(received):
    query, answers = received.body["question"], received.body["answers"]
    percent = [100 * word_overlap(query, answer["body"]) for answer in answers]
    return FakeResponse({"percent": percent, "cost": 7})


def test_requests_and_responses_follow_the_dialect(fake_server, ask, monkeypatch):
    monkeypatch.setenv("HOUSE_KEY", "sk-house")
    fake_server.response = judge
    backend = HTTPBackend(fake_server.url, dialect=OWN)
    scores = ask(backend)

    assert pytest.approx(EXPECTED) == list(scores)
    assert Usage(7) == scores.usage
    received = fake_server.requests[0]
    assert ("/judge", "sk-house") == (received.path, received.headers["X-House-Key"])
    assert "Authorization" not in received.headers
    assert lay_out(QUERY, DOCUMENTS) == received.body
    assert ("house", f"house+{fake_server.url}/judge") == (
        backend.kind,
        backend.name.partition("?")[0],
    )


def test_errors_name_the_dialect(fake_server, ask):
    fake_server.response = FakeResponse({"percent": [1], "cost": 7})

    with pytest.raises(InvalidResponse, match=r"^house at http.*: 1 scores for 2 documents"):
        ask(HTTPBackend(fake_server.url, dialect=OWN))


MISREAD = {
    "a body of another form": ({"error": "out of memory"}, "KeyError.*; the server says 'out of"),
    "a list": ([1, 2], "TypeError"),
    "text for numbers": ({"percent": ["a", "b"], "cost": 7}, "ValueError"),
    "no usage": ({"percent": [1, 2]}, "KeyError"),
    "not finite": ({"percent": [1, 1e308 * 100], "cost": 7}, "Infinity|finite"),
    "null": (None, "TypeError"),
}


@pytest.mark.parametrize("case", MISREAD)
def test_an_exception_of_the_dialect_is_an_invalid_response(fake_server, ask, case):
    body, reason = MISREAD[case]
    fake_server.response = FakeResponse(body)

    with pytest.raises(InvalidResponse, match=reason):
        ask(HTTPBackend(fake_server.url, dialect=OWN))


@pytest.mark.parametrize("scores", [[], [0.5], [0.5, None], [0.5, float("nan")], 3, [0.5] * 3])
def test_invalid_scores_of_the_dialect_are_refused(fake_server, ask, scores):
    """One finite number per document, whoever reads them."""
    fake_server.response = judge
    misreading = dataclasses.replace(OWN, decode=lambda body, count: scores)

    with pytest.raises(InvalidResponse, match=r"^house at http"):
        ask(HTTPBackend(fake_server.url, dialect=misreading))


def test_it_can_be_pickled_but_has_no_spec(fake_server, ask):
    fake_server.response = judge
    backend = HTTPBackend(fake_server.url, dialect=OWN, timeout=5.0)

    assert pytest.approx(EXPECTED) == list(ask(pickle.loads(pickle.dumps(backend))))
    with pytest.raises(ConfigError, match="'house' of your own"):
        backend.to_spec()


@pytest.mark.parametrize("name", DIALECTS)
def test_a_built_in_dialect_may_be_changed(fake_server, name):
    """Under its own name, it is another dialect all the same."""
    changed = dataclasses.replace(DIALECTS[name], path="/elsewhere")
    with HTTPBackend(fake_server.url, dialect=changed, model="m") as backend:
        assert f"{fake_server.url}/elsewhere" == backend.describe()["url"]
        with pytest.raises(ConfigError, match="of your own"):
            backend.to_spec()
    with HTTPBackend(fake_server.url, dialect=DIALECTS[name], model="m") as backend:
        assert name == backend.to_spec()["kind"]


@pytest.mark.parametrize("wrong", [None, 3, ["tei"], "tie"])
def test_values_that_are_not_a_dialect_are_refused(wrong):
    with pytest.raises(ConfigError, match="dialect"):
        HTTPBackend("http://gpu", dialect=wrong)
