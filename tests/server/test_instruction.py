"""Instructions in requests: in the fields where each protocol's clients put them."""

import json

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from rerank_plugins import load_backend
from rerank_plugins.server import ServerSettings, create_app
from rerank_plugins.testing import FakeBackend
from rerank_plugins.wrappers.fallback import FallbackBackend
from tests.support.instructed import InstructedBackend, asked
from tests.support.serving import listening, serving

BODY = {"query": "what is a panda", "documents": ["hi", "a panda"]}
FIELDS = {
    "vLLM": {"instruction": "find bears"},
    "SGLang": {"instruct": "find bears"},
    "Xinference": {"kwargs": json.dumps({"instruction": "find bears"})},
    "spaces around": {"kwargs": ' {\n"instruction" :\t"find bears" } '},
    "escapes within": {"kwargs": r'{"instruction": "\u0066ind bears"}'},
    "twice the same": {"instruction": "find bears", "instruct": "find bears"},
    "one is blank": {"instruction": " ", "instruct": "find bears", "kwargs": "{}"},
}


@pytest.fixture(params=["batches", "concurrent"])
def instructed(request):
    """A server of a backend that takes instructions, and the backend."""
    backend = InstructedBackend()
    chain = FallbackBackend([backend, InstructedBackend()])
    with serving(backend if request.param == "batches" else chain) as client:
        backend.given.clear()
        yield client, backend


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_an_instruction_reaches_the_model(instructed, path, name):
    client, backend = instructed
    reply = client.post(path, json=BODY | FIELDS[name])

    assert 200 == reply.status_code, reply.text
    assert ["find bears"] == backend.given


def test_tei_shape_takes_one_too(instructed):
    client, backend = instructed
    body = {"query": "a panda", "texts": ["hi", "a panda"], "instruction": "find bears"}

    assert 200 == client.post("/rerank", json=body).status_code
    assert ["find bears"] == backend.given


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"instruction": ""},
        {"instruct": " \n"},
        {"instruction": None},
        {"kwargs": "null"},
        {"kwargs": ""},
        {"kwargs": '{"instruction": null}'},
    ],
)
def test_a_blank_one_is_none(instructed, fields):
    client, backend = instructed

    assert 200 == client.post("/v1/rerank", json=BODY | fields).status_code
    assert [None] == backend.given


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"instruction": "a", "instruct": "b"}, 422, "contradict"),
        ({"instruction": "a", "kwargs": '{"instruction": "b"}'}, 422, "contradict"),
        ({"kwargs": '{"fps": 1}'}, 422, "no options but `instruction`"),
        ({"kwargs": '["a"]'}, 422, "no options but `instruction`"),
        ({"kwargs": '{"instruction": 1}'}, 422, "should be a string"),
        ({"kwargs": "[" * 100_000}, 422, "no options but `instruction`"),
        ({"kwargs": '{"instruction": "a", "instruction": "a"}'}, 422, "no options but"),
        ({"kwargs": '{"instruction": ["a"]}'}, 422, "no options but `instruction`"),
        ({"kwargs": '{"instruction": tru}'}, 422, "no options but `instruction`"),
        ({"kwargs": r'{"instruction": "a\ud800"}'}, 422, "surrogate"),
        ({"instruction": 1}, 422, "string"),
        ({"instruction": "a\ud800"}, 422, ""),
        ({"instruction": "a" * 4097}, 413, "an instruction has 4096 characters at most"),
    ],
)
def test_others_are_refused(instructed, fields, status, words):
    client, backend = instructed
    body = json.dumps(BODY | fields).encode()
    reply = client.post("/v1/rerank", content=body, headers={"content-type": "application/json"})

    assert status == reply.status_code, reply.text
    assert words in reply.json()["message"]
    assert [] == backend.given


@pytest.mark.parametrize("name", FIELDS)
def test_a_model_without_one_refuses_it(name):
    with serving(FakeBackend()) as client:
        reply = client.post("/v1/rerank", json=BODY | FIELDS[name])

    assert 422 == reply.status_code
    assert "the server can't follow instructions" in reply.json()["message"]


def test_our_own_kind_sends_it():
    backend = InstructedBackend()
    with (
        listening(backend) as url,
        load_backend(f"rerank+{url}?instruction=general") as remote,
    ):
        backend.given.clear()
        remote.score(BODY["query"], BODY["documents"])
        remote.score(asked(BODY["query"]), BODY["documents"])

    assert ["general", "find bears"] == backend.given


def test_openapi_says_whether_instructions_are_taken():
    def described(backend):
        schema = create_app(backend, settings=ServerSettings(query_characters=100)).openapi()
        fields = schema["components"]["schemas"]["RerankRequest"]["properties"]
        return [fields[name]["anyOf"][0] for name in ("instruction", "instruct")]

    assert [100, 100] == [field["maxLength"] for field in described(InstructedBackend())]
    assert ["", ""] == [field["const"] for field in described(FakeBackend())]
