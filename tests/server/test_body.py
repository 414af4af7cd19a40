"""Refused bodies, whatever they hold: never a 5xx, never an echo."""

import asyncio
import contextlib
import json
import time
import tracemalloc

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from rerank_plugins import Backend, Scores
from rerank_plugins.server import ServerSettings
from rerank_plugins.server import body as body_module
from rerank_plugins.server.body import BodyReader, parse
from rerank_plugins.server.errors import APIError
from rerank_plugins.server.schemas import AnyRerankRequest, RerankRequest
from rerank_plugins.testing import FakeBackend
from tests.support.serving import serving

SECRET = "do-not-repeat-me"
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def client():
    with serving(
        FakeBackend(), body_bytes=200_000, max_documents=50, document_characters=1000,
        query_characters=100,
    ) as client:  # fmt: skip
        yield client


def body(**fields):
    return json.dumps({"query": "q", "documents": ["a"], **fields}).encode()


MALFORMED = {
    "nothing": (b"", 400),
    "no JSON": (b"{", 400),
    "a list": (b"[1]", 422),
    "no UTF-8": (b'{"query":"\xff","documents":[]}', 400),
    "a byte order mark": (b"\xef\xbb\xbf" + body(), 400),
    "a lone surrogate": (rb'{"query":"q","documents":["\ud800"]}', 422),
    "deep nesting": (b'{"documents":' + b"[" * 50, 400),
    "deeper nesting": (b'{"documents":' + b"[" * 30_000, 400),
    "the deepest nesting": (b'{"documents":' + b"[" * 150_000, 413),
    "more lists in an unknown field": (b'{"x":[' + b"[]," * 60_000 + b"[]]}", 413),
    "a lone surrogate in the query": (rb'{"query":"\udfff","documents":["a"]}', 422),
    "a lone surrogate in an object": (rb'{"query":"q","documents":["a",{"text":"\uD800a"}]}', 422),
    "a repeated key": (b'{"query":"a","query":"b","documents":[]}', 400),
    "NaN": (b'{"query":"q","documents":[],"top_n":NaN}', 422),
    "infinity": (b'{"query":"q","documents":[],"top_n":1e400}', 422),
    "a huge integer": (b'{"query":"q","documents":[],"top_n":' + b"9" * 5000 + b"}", 400),
    "a boolean for a number": (body(top_n=True), 422),
    "zero": (body(top_n=0), 422),
    "a negative number": (body(top_n=-5), 422),
    "a number for a string": (body(query=1), 422),
    "numbers for documents": (body(documents=[1] * 50), 422),
    "many numbers for documents": (body(documents=[1] * 20_000), 413),
    "long numbers for documents": (body(documents=[10**4000] * 20), 422),
    "a string for documents": (body(documents="abc"), 422),
    "an image": (body(documents=[{"image": "http://169.254.169.254/"}]), 422),
    "a blank query": (body(query=" "), 422),
    "no query": (b'{"documents":[]}', 422),
    "a long query": (body(query="q" * 101), 413),
    "a long document": (body(documents=["a", "a" * 1001]), 413),
    "many documents": (body(documents=["a"] * 51), 413),
    "many documents that are objects": (body(documents=[{"text": "a"}] * 51), 413),
    "a long body": (body(documents=["a" * 300_000]), 413),
    "false for zero": (body(priority=False), 422),
    "an instruction among the options": (body(kwargs='{"instruction": "x"}'), 422),
    "options as an object": (body(kwargs={"instruction": "x"}), 422),
    "an instruction": (body(instruction=SECRET), 422),
    "an instruction of another name": (body(instruct=SECRET), 422),
    "two numbers of results": (body(top_n=1, top_k=1), 422),
    "true for a number": (body(max_chunks_per_doc=True), 422),
    "a word for a boolean": (body(return_documents=SECRET), 422),
    "fields to rank by that no document has": (
        body(documents=[{"text": "a"}], rank_fields=["title"]),
        422,
    ),
    "fields to rank by that one document lacks": (
        body(documents=[{"title": SECRET}, {"text": "b"}], rank_fields=["title"]),
        422,
    ),
    "a field to rank by without text": (
        body(documents=[{"title": {SECRET: 1}}], rank_fields=["title"]),
        422,
    ),
    "no fields to rank by": (body(rank_fields=[]), 422),
    "a field to rank by, twice": (body(documents=[{"a": "b"}], rank_fields=["a", "a"]), 422),
    "text to rank by, twice": (body(documents=[{"text": "b"}], rank_fields=["text"] * 2), 422),
    "a field to rank by, twice with another between": (
        body(documents=[{"a": "b", "text": "c"}], rank_fields=["a", "text", "a"]),
        422,
    ),
    "numbers as fields to rank by": (body(documents=[{"text": "a"}], rank_fields=[1]), 422),
    "texts beside documents": (body(texts=["a"]), 422),
    "an image beside a text": (body(documents=[{"text": "a", "image": SECRET}]), 422),
    "a document without a text": (body(documents=["a", {"title": SECRET}]), 422),
    "a text that is a number": (body(documents=[{"text": 1}]), 422),
    "the left side": (body(truncation_side="left"), 422),
    "no token left": (body(truncate_prompt_tokens=0), 422),
    "contradicting scales": (body(raw_scores=True, use_activation=True), 422),
    "a repeated key in an unknown field": (b'{"query":"q","documents":[],"x":{"a":1,"a":2}}', 400),
}

IGNORED = {
    "lists in an unknown field": body(**{SECRET: [[]] * 15_000}),
    "objects in an unknown field": body(**{SECRET: [{}] * 40}),
    "numbers in an unknown field": body(**{SECRET: [1.5] * 20_000}),
    "a long number in an unknown field": body(**{SECRET: 10**4000}),
    "objects in an unknown field of a document": body(
        documents=[{"text": "a", SECRET: [{SECRET: 1, "text": 2}] * 40}]
    ),
    "an unknown field": body(**{SECRET: 1}),
    "an unknown field of a document": body(documents=[{"text": "a", "id": 7, SECRET: None}]),
    "a string for a number": body(top_n="3"),
    "a string for a boolean": body(return_documents="true", return_len="false"),
    "a number for a boolean": body(return_len=0),
    "chunks that overlap": body(overlap_tokens=80, max_chunks_per_doc=1024),
    "a priority": body(priority=-3),
}
"""What other servers take as well, and a strict one does not."""


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank"])
@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_bodies_are_refused(client, path, name):
    content, status = MALFORMED[name]
    reply = client.post(path, content=content, headers=JSON)

    assert status == reply.status_code, reply.text
    assert SECRET not in reply.text
    assert len(reply.content) < 4096
    assert {"error", "detail", "message"} == reply.json().keys()


@pytest.fixture(scope="module")
def strict():
    with serving(FakeBackend(), body_bytes=200_000, max_documents=50, strict=True) as client:
        yield client


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank"])
@pytest.mark.parametrize("name", IGNORED)
def test_what_changes_nothing_is_ignored_unless_the_server_is_strict(client, strict, name, path):
    expected = client.post(path, content=body(), headers=JSON).json()["results"]
    reply = client.post(path, content=IGNORED[name], headers=JSON)
    refusal = strict.post(path, content=IGNORED[name], headers=JSON)

    assert 200 == reply.status_code, reply.text
    scores = [(result["index"], result["relevance_score"]) for result in reply.json()["results"]]
    assert [(result["index"], result["relevance_score"]) for result in expected] == scores
    assert SECRET not in reply.text
    assert refusal.status_code in (413, 422)
    assert SECRET not in refusal.text


NEUTRAL_FIELDS = {"truncate": False, "max_chunks_per_doc": 1, "overlap_tokens": 0, "priority": 0}


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_nulls_and_defaults_are_taken_by_a_strict_server_too(strict, path):
    optional = {name: None for name in RerankRequest.model_fields if name != "documents"}
    neutral = {"kwargs": "{}", "rank_fields": ["text"], "return_len": False, "model": ""}
    lengths = {"truncate_prompt_tokens": -1, "max_tokens_per_doc": 0, "truncation_side": "right"}
    for fields in (optional, NEUTRAL_FIELDS, neutral, lengths):
        reply = strict.post(path, content=body(**{**fields, "query": "q"}), headers=JSON)

        assert 200 == reply.status_code, reply.text


RANKED_BY = {
    "one field": (["title"], [{"title": "panda"}, {"title": "hi", "text": "panda"}]),
    "two fields": (["title", "text"], [{"title": "a", "text": "panda"}, {"title": "hi"}]),
    "fields that some lack": (["name", "title"], [{"title": "panda"}, {"name": "hi"}]),
    "text after another": (["body", "text"], [{"text": "panda", "body": "x"}, {"body": "hi"}]),
    "strings beside": (["title"], [{"title": "panda"}, "hi"]),
}


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
@pytest.mark.parametrize("case", RANKED_BY)
def test_documents_are_scored_by_the_fields_that_are_named(case, path):
    """One after another, as Cohere and Pinecone do; also by a strict server."""
    names, documents = RANKED_BY[case]
    content = json.dumps({"query": "q", "documents": documents, "rank_fields": names}).encode()
    with serving(KeywordBackend(), strict=True) as keyword:
        reply = keyword.post(path, content=content, headers=JSON)

    assert 200 == reply.status_code, reply.text
    assert {0: 1.0, 1: 0.0} == {
        result["index"]: result["relevance_score"] for result in reply.json()["results"]
    }


class KeywordBackend(Backend):
    """Gives 1.0 to documents with the word `panda`."""

    name = "keyword"

    def score(self, query, documents):
        return [float("panda" in document) for document in documents]

    def to_spec(self):
        return {"kind": "keyword"}


class CuttingBackend(Backend):
    """Reads ten characters of a document, and says so."""

    name = "cutting"

    def score(self, query, documents):
        cut = [index for index, document in enumerate(documents) if len(document) > 10]
        return Scores([0.5] * len(documents), truncated=cut)

    def to_spec(self):
        return {"kind": "cutting"}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/rerank", "texts"),
        ("/v1/rerank", "texts"),
        ("/v1/rerank", "documents"),
        ("/rerank", "candidates"),
    ],
)
@pytest.mark.parametrize("truncate", [True, False, None, "false"])
def test_a_text_is_not_cut_against_the_clients_wish(path, name, truncate):
    """TEI answers 422 then; without a wish, the server cuts."""
    long, short = ["short", "a document of many words"], ["short", "words"]
    with serving(CuttingBackend()) as cutting:
        replies = [
            cutting.post(path, json={"query": "q", name: texts, "truncate": truncate})
            for texts in (long, short)
        ]

    expected = 422 if truncate in (False, "false") else 200
    assert [expected, 200] == [reply.status_code for reply in replies]
    if expected == 422:
        assert "input_too_long" == replies[0].json()["error"]["type"]
        assert "document 1 does not fit" in replies[0].json()["message"]


def test_texts_are_taken_at_v1_too_and_answered_as_tei_does(client):
    """Applications that add `/v1` to any base URL send TEI's requests there."""
    request = {"query": "q", "texts": ["a", "b"], "return_text": True}
    expected = client.post("/rerank", json=request)

    for path in ("/v1/rerank", "/v1/v1/rerank"):
        reply = client.post(path, json=request)
        assert (200, expected.json()) == (reply.status_code, reply.json())
    assert {"index", "score", "text"} == expected.json()[0].keys()
    assert 422 == client.post("/v2/rerank", json=request).status_code


def test_many_fields_of_many_documents_are_no_large_request(client):
    """Whatever the texts hold: metadata is dropped, not counted as documents."""
    document = {"text": "a, b: [c], " * 90, **{f"field {n}": [n, n] for n in range(30)}}
    reply = client.post("/v1/rerank", content=body(documents=[document] * 50), headers=JSON)

    assert 200 == reply.status_code, reply.text


def filled(head: bytes, piece: bytes, tail: bytes) -> bytes:
    return head + piece * ((4_000_000 - len(head) - len(tail)) // len(piece)) + tail


HEAVY = {
    "strings": filled(b'{"query":"q","documents":["a"', b',"a"', b"]}"),
    "objects": filled(b'{"query":"q","documents":[{"text":"a"}', b',{"text":"a"}', b"]}"),
    "lists": filled(b'{"query":"q","documents":[[]', b",[]", b"]}"),
    "lists without a query": filled(b'{"documents":[[1]', b",[1]", b"]}"),
    "numbers": filled(b'{"query":"q","documents":[1.5', b",1.5e308", b"]}"),
    "only numbers": filled(b"[1", b",1", b"]"),
    "an unknown field": filled(b'{"query":"q","x":[{}', b',{"a":[1]}', b"]}"),
    "unknown fields": b'{"query":"q",' + b",".join(b'"f%d":1' % n for n in range(330_000)) + b"}",
    "brackets in a text": filled(b'{"query":"q","documents":["', b"[{", b'"]}'),
    "quotes in a text": filled(b'{"query":"q","documents":["', rb"\"", b'"]}'),
    "escapes in a text": filled(b'{"query":"q","documents":["', rb"\u4e2d", b'"]}'),
    "long numbers": filled(b'{"query":"q","documents":[1', b"," + b"9" * 4000, b"]}"),
    "small numbers": filled(b'{"query":"q","documents":[1', b",1.2345678901234567e-300", b"]}"),
    "escaped quotes and commas": filled(b'{"query":"q","documents":["', rb"\",", b'"]}'),
    "a long number": filled(b'{"query":"q","documents":[],"top_n":', b"9", b"}"),
    "a long fraction": filled(b'{"query":"q","documents":[],"top_n":1.', b"9", b"}"),
    "a long key": filled(b'{"query":"q","', b"k", b'":1}'),
    "fields to rank by": body(
        documents=[{"a": "b"}] * 1000, rank_fields=["a", *map(str, range(36_000))]
    ),
    "a field to rank by, many times": body(
        documents=[{"a": "b" * 30_000}] * 100, rank_fields=["a"] * 990
    ),
    "documents of lists": filled(b'{"query":"q","documents":[{"text":"a","x":[', b"0,", b"0]}]}"),
    "numbers in an ignored field": b'{"query":"q","documents":[],"x":[' + b"1," * 39_000 + b"1]}",
    "objects in an ignored field": b'{"query":"q","documents":[],"x":['
    + b'{"":1},' * 13_000
    + b"1]}",
    "lists in the options": filled(b'{"query":"q","documents":[],"kwargs":"[[]', b",[]", b']"}'),
    "objects in the options": filled(b'{"query":"q","documents":[],"kwargs":"[{}', b",{}", b']"}'),
    "numbers as an instruction": filled(
        rb'{"query":"q","documents":[],"kwargs":"{\"instruction\":[1', b",1", b']}"}'
    ),
    "a long number as an instruction": filled(
        rb'{"query":"q","documents":[],"kwargs":"{\"instruction\":1', b"1", b'}"}'
    ),
    "many options": filled(rb'{"query":"q","documents":[],"kwargs":"{', rb"\"a\":1,", b'"}'),
    "an instruction of backslashes": filled(
        rb'{"query":"q","documents":[],"kwargs":"{\"instruction\":\"', rb"\\\\", rb'\"}"}'
    ),
    "an open string": filled(b'{"query":"q","documents":["', b"a", b""),
    "white space": filled(b'{"query":"q","documents":["a"]', b" ", b"x}"),
}


@pytest.mark.nightly
@pytest.mark.parametrize("name", HEAVY)
@pytest.mark.parametrize("model", [RerankRequest, AnyRerankRequest])
def test_no_body_is_costly_to_refuse(model, name):
    """It blocks the event loop, so it takes at most 50 ms of CPU per megabyte, or 30."""
    content = HEAVY[name]
    began = time.thread_time()
    with contextlib.suppress(APIError):
        parse(model, content, max_documents=1000)

    assert time.thread_time() - began < max(0.05 * len(content) / 1e6, 0.03)


OPTIONS = {
    "lists": "[" + "[]," * 100_000 + "[]]",
    "objects": '{"instruction": [' + "{}," * 100_000 + "{}]}",
    "other options": "{" + ",".join(f'"{n}": 1' for n in range(30_000)) + "}",
    "an instruction, many times": "{" + '"instruction": null,' * 15_000 + '"instruction": ""}',
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("model", [RerankRequest, AnyRerankRequest])
def test_values_in_the_options_are_not_built(model, name):
    """Xinference's client sends them as JSON within a string, where no limit counts its values."""
    content = body(kwargs=OPTIONS[name])
    tracemalloc.start()
    try:
        with pytest.raises(APIError, match="no options but `instruction`"):
            parse(model, content, max_documents=1000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert 4 * len(content) > peak


MULTIPLYING = {
    "a long field, many times": ([{"a": "b" * 30_000}] * 100, ["a"] * 990),
    "one long document, as often as fits": ([{"a": "b" * 900_000}], ["a"] * 300),
    "two fields in turn": ([{"a": "b" * 900, "c": "d" * 900}] * 900, ["a", "c"] * 30),
    "many fields": ([{"a": "b" * 1000, "c": "d" * 1000}] * 900, ["c", *map(str, range(30)), "a"]),
}


@pytest.mark.parametrize("name", MULTIPLYING)
@pytest.mark.parametrize("model", [RerankRequest, AnyRerankRequest])
def test_texts_are_never_larger_than_the_body_that_holds_them(model, name):
    """990 times the same field of 3 MB would be 3 GB, before any limit of a text is checked."""
    documents, names = MULTIPLYING[name]
    content = body(documents=documents, rank_fields=names)
    tracemalloc.start()
    try:
        with contextlib.suppress(APIError):
            parse(model, content, max_documents=1000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 6 * len(content)  # the text, its objects, the fields one after another


class CountingNames(list):
    """A list of names that counts how many of them are looked at."""

    looked_at = 0

    def __iter__(self):
        for name in super().__iter__():
            self.looked_at += 1
            yield name


@pytest.mark.parametrize("count", [1, 10, 1000])
def test_each_field_to_rank_by_is_looked_at_once(count):
    """However many documents there are, since 36,000 names times 1,000 take seconds."""
    names = CountingNames(["a", *map(str, range(100))])
    RerankRequest.model_validate(
        {"query": "q", "documents": [{"a": "b"}] * count, "rank_fields": names}
    )
    assert names.looked_at <= 3 * len(names)


def request(content, *headers, read=None):
    """Return a request; its body is noted in `read` when it is read."""

    async def receive():
        if read is not None:
            read.append(len(content))
        return {"type": "http.request", "body": content}

    scope = {"type": "http", "headers": [(b"content-type", b"application/json"), *headers]}
    return Request(scope, receive)


def test_other_requests_are_served_between_two_large_bodies(monkeypatch):
    """Or 32 of them would keep all others waiting for a second; small ones do not wait for them."""
    turns, parsed = [0], []
    monkeypatch.setattr(
        body_module, "parse", lambda model, body, **_: parsed.append((turns[0], len(body)))
    )
    large, small = b" " * 100_000, b" " * 100

    async def serve():
        bodies = BodyReader(ServerSettings())
        requests = [request(content) for content in [large] * 5 + [small]]
        reads = [asyncio.create_task(bodies.read(each, RerankRequest)) for each in requests]
        while not all(read.done() for read in reads):
            turns[0] += 1
            await asyncio.sleep(0)

    asyncio.run(serve())
    at = [turn for turn, length in parsed if length == len(large)]

    assert len(small) == parsed[0][1]
    assert 5 == len(set(at))


@pytest.mark.parametrize(("count", "parsed"), [(2, 2), (3, 2), (50, 2)])
@pytest.mark.parametrize("declared", [False, True])
def test_large_bodies_wait_only_where_there_is_room(monkeypatch, count, parsed, declared):
    """Or thousands of complete bodies would wait for their turn; small ones are always read."""
    monkeypatch.setattr(body_module, "parse", lambda model, body, **_: len(body))
    large = b" " * 100_000
    length = [(b"content-length", b"100000")] if declared else []
    read = []

    async def serve():
        bodies = BodyReader(ServerSettings(body_bytes=100_000, buffer_bytes=4 * 250_000))
        first = [request(large, *length) for _ in range(count)] + [request(b" ")]
        results = await asyncio.gather(
            *(bodies.read(each, RerankRequest) for each in first), return_exceptions=True
        )
        waiting = [asyncio.create_task(bodies.read(request(large), RerankRequest)) for _ in "ab"]
        await asyncio.sleep(0)
        with contextlib.suppress(APIError):
            await bodies.read(request(large, *length, read=read), RerankRequest)
        return results, await asyncio.gather(*waiting)

    (*results, small), later = asyncio.run(serve())
    refused = [each for each in results if isinstance(each, APIError)]

    assert 1 == small
    assert [100_000] * parsed == [each for each in results if each not in refused]
    assert {(503, "overloaded")} >= {(each.status_code, each.type) for each in refused}
    assert [100_000] * 2 == later
    assert ([] if declared else [100_000]) == read


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/json; charset=utf-16"}, 415),
        ({"content-type": "application/json; charset=UTF-8"}, 200),
        ({**JSON, "content-encoding": "gzip"}, 415),
        ({**JSON, "content-encoding": "identity"}, 200),
    ],
)
def test_only_plain_json_is_read(client, headers, status):
    assert status == client.post("/v1/rerank", content=body(), headers=headers).status_code


def test_a_long_body_without_a_length_is_not_read_to_its_end(client):
    sent = []

    def endless():
        for _ in range(1000):
            sent.append(1)
            yield b" " * 10_000

    assert 413 == client.post("/v1/rerank", content=endless(), headers=JSON).status_code


def test_nul_zero_width_and_empty_documents_are_scored(client):
    documents = ["", "nul \x00", "zero\u200bwidth", "\u202eright to left"]
    reply = client.post("/v1/rerank", content=body(documents=documents), headers=JSON)

    assert [0, 1, 2, 3] == sorted(item["index"] for item in reply.json()["results"])


def test_an_integer_may_be_written_with_a_decimal_point(client):
    """JSON has one kind of number: 1.0 is an integer for JSON Schema, and for some clients."""
    content = b'{"query":"q","documents":["a","b"],"top_n":1.0}'
    reply = client.post("/v1/rerank", content=content, headers=JSON)

    assert 1 == len(reply.json()["results"])


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=200),
    st.integers(0, 60),
    st.sampled_from(["/v1/rerank", "/v2/rerank", "/rerank"]),
)
def test_random_bytes_are_never_a_5xx(client, noise, place, path):
    whole = body(documents=["a", {"text": "b"}], top_n=2)
    content = whole[:place] + noise + whole[place:]
    reply = client.post(path, content=content, headers=JSON)

    assert reply.status_code < 500
    assert len(reply.content) < 4096
