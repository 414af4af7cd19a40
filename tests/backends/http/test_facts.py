"""The facts of a server's scores, and the instruction of a query."""

import pytest

from rerank_plugins import BackendRejected, UnsupportedInputError
from rerank_plugins.backends.http.decoding import DocumentFacts, decode_facts, decode_usage
from rerank_plugins.backends.http.dialects import DIALECTS
from rerank_plugins.content import Query
from rerank_plugins.scores import Passage, Usage
from rerank_plugins.testing import FakeResponse, serve_dialect, word_overlap
from tests.backends.http.remote import DOCUMENTS, EXPECTED, GOOD, QUERY, make

INSTRUCTED = sorted(name for name, dialect in DIALECTS.items() if dialect.takes_instructions)


def test_scores_name_backend_and_model(fake_server, ask):
    backend = make(fake_server, server_scale="probability")
    scores = ask(backend)

    assert EXPECTED == scores
    assert (backend.name, "m", "probability") == (scores.backend, scores.model, scores.scale)
    assert (frozenset(), 0, None) == (scores.truncated, scores.cached, scores.usage)


def test_no_documents_are_scored_without_a_request(fake_server, ask):
    scores = ask(make(fake_server), [])

    assert ([], "m") == (scores, scores.model)
    assert [] == fake_server.requests


USAGES = {
    "a count that is no number": ({"usage": {"total_tokens": "43"}}, None),
    "a boolean": ({"usage": {"total_tokens": True}}, None),
    "a fraction": ({"usage": {"total_tokens": 1.5}}, None),
    "a list as body": ([{"index": 0, "score": 1}], None),
    "a negative count": ({"usage": {"total_tokens": -1}}, None),
    "both of Cohere": (
        {"meta": {"tokens": {"input_tokens": 43}, "billed_units": {"search_units": 1.0}}},
        Usage(43, 1),
    ),
    "empty": ({"usage": {}, "meta": {}}, None),
    "what our server estimates": (
        {"usage": {"total_tokens": 9}, "meta": {"estimated": ["billed_units", "tokens"]}},
        None,
    ),
    "estimated units": (
        {
            "usage": {"total_tokens": 9},
            "meta": {"billed_units": {"search_units": 1}, "estimated": ["billed_units"]},
        },
        Usage(9, None),
    ),
    "Pinecone's units": ({"usage": {"rerank_units": 3}}, Usage(None, 3)),
    "SiliconFlow's tokens": ({"tokens": {"input_tokens": 43, "output_tokens": 0}}, Usage(43)),
    "tokens beside the results": ({"total_tokens": 43, "total_bytes": 900}, Usage(43)),
    "input tokens beside the results": ({"input_tokens": 43}, Usage(43)),
    "null": ({"usage": None, "meta": {"tokens": None, "billed_units": None}}, None),
    "only the prompt": ({"usage": {"prompt_tokens": 43}}, Usage(43)),
    "search units": ({"meta": {"billed_units": {"search_units": 2}}}, Usage(None, 2)),
    "total": ({"usage": {"prompt_tokens": 40, "total_tokens": 43}}, Usage(43)),
    "wrong types": ({"usage": [1], "meta": "none"}, None),
}


FACTS = {
    "all": (
        {"truncated": [1], "windows": {"0": 3}, "passages": {"0": [4, 9]}},
        DocumentFacts(frozenset({1}), {0: 3}, {0: Passage(4, 9)}),
    ),
    "of documents that there are not": (
        {"truncated": [-1, 2], "windows": {"2": 3, "-1": 3}, "passages": {"2": [0, 1]}},
        DocumentFacts(),
    ),
    "of no sense": (
        {
            "truncated": [True, "1", None, 0.0],
            "windows": {"0": 1, "1": True, "01": 3},
            "passages": {"0": [4, 4], "1": [-1, 2], "00": [0, 1]},
        },
        DocumentFacts(),
    ),
    "of other shapes": (
        {"truncated": True, "windows": [1], "passages": {"0": {"start": 1}, "1": [1, 2, 3]}},
        DocumentFacts(),
    ),
    "none": ([], DocumentFacts()),
}


@pytest.mark.parametrize("case", FACTS)
def test_what_our_server_tells_of_documents_is_read(case):
    meta, expected = FACTS[case]

    assert expected == decode_facts({"results": [], "meta": meta}, 2)


def test_a_passage_lies_in_its_document(fake_server, ask):
    """Adapters cut documents to it."""
    scored = [{"index": at, "relevance_score": 0.5} for at in range(len(DOCUMENTS))]
    spans = {"0": [0, len(DOCUMENTS[0]) + 1], "1": [0, len(DOCUMENTS[1])]}
    fake_server.response = FakeResponse({"results": scored, "meta": {"passages": spans}})

    assert {1: Passage(0, len(DOCUMENTS[1]))} == ask(make(fake_server)).passages


@pytest.mark.parametrize("case", USAGES)
def test_usage_is_read_where_a_server_sends_it(case):
    body, expected = USAGES[case]

    assert expected == decode_usage(body)


@pytest.mark.parametrize("case", [name for name in USAGES if isinstance(USAGES[name][0], dict)])
def test_scores_carry_the_usage(fake_server, ask, case):
    """However it is malformed, the scores count."""
    extra, expected = USAGES[case]
    fake_server.response = FakeResponse(GOOD | extra)
    scores = ask(make(fake_server))

    assert (EXPECTED, expected) == (list(scores), scores.usage)


def test_the_usage_of_parts_adds_up(fake_server, ask):
    right = serve_dialect("vllm")

    def behave(received):
        response = right(received)
        response.body["usage"] = {"total_tokens": len(received.body["documents"])}
        return response

    fake_server.response = behave
    scores = ask(make(fake_server, "vllm", max_documents=3), ["panda", "hi"] * 5)

    assert (10, Usage(10)) == (len(scores), scores.usage)
    assert 4 == len(fake_server.requests)


def test_the_usage_of_parts_split_after_a_refusal_adds_up(fake_server, ask):
    right = serve_dialect("vllm")

    def behave(received):
        count = len(received.body["documents"])
        if count > 4:
            return FakeResponse({"error": "at most 4 documents"}, 400)
        response = right(received)
        response.body["usage"] = {"total_tokens": count}
        return response

    fake_server.response = behave
    documents = ["panda", "hi", "a bear"] * 3

    whole = ask(make(fake_server, "vllm"), documents)
    assert Usage(9) == whole.usage
    fake_server.response = right
    assert ask(make(fake_server, "vllm"), documents) == whole


def test_truncated_documents_are_listed(fake_server, ask):
    fake_server.response = serve_dialect("infinity")
    documents = ["a", "a" * 122_880, "a" * 122_881, "b", "a" * 200_000]

    scores = ask(make(fake_server, "infinity", max_documents=2), documents)
    assert frozenset({2, 4}) == scores.truncated


def ignoring_an_instruction(query, document):
    """Score by the query alone, where a dialect writes the instruction into it."""
    return word_overlap(query.rpartition("Query: ")[2], document)


@pytest.mark.parametrize("dialect", INSTRUCTED)
def test_an_instruction_of_the_query_replaces_that_of_the_backend(fake_server, ask, dialect):
    fake_server.response = serve_dialect(dialect, score=ignoring_an_instruction)
    backend = make(fake_server, dialect, instruction="general", model="m")
    assert backend.instructions
    for query, instruction in [
        (QUERY, "general"),
        (Query(QUERY), "general"),
        (Query(QUERY, instruction="Säge"), "Säge"),
    ]:
        options = {"instruction": "general", "model": "m", "server_scale": "probability"}
        with make(fake_server, dialect, **options) as one:
            assert EXPECTED == one.score(query, DOCUMENTS)
        encoded = DIALECTS[dialect].encode(QUERY, DOCUMENTS, model="m", instruction=instruction)
        assert encoded == fake_server.requests[-1].body


async def test_an_instruction_of_the_query_is_sent_from_a_loop_too(fake_server):
    fake_server.response = serve_dialect("vllm")
    async with make(fake_server, "vllm") as backend:
        assert EXPECTED == await backend.ascore(Query(QUERY, instruction="find"), DOCUMENTS)

    assert "find" == fake_server.requests[0].body["instruction"]


@pytest.mark.parametrize("dialect", sorted(DIALECTS.keys() - set(INSTRUCTED)))
def test_other_dialects_refuse_an_instruction(fake_server, dialect):
    """They would drop it, and the scores would be of another question."""
    with make(fake_server, dialect) as backend:
        assert not backend.instructions
        with pytest.raises(
            UnsupportedInputError, match=f"instruction, and backend '{dialect}:?m?' "
        ):
            backend.score(Query(QUERY, instruction="find"), DOCUMENTS)

    assert [] == fake_server.requests


@pytest.mark.parametrize("dialect", INSTRUCTED)
def test_no_error_repeats_the_instruction_of_a_query(fake_server, dialect):
    secret = "weigh the names of our customers"
    fake_server.response = FakeResponse({"error": f"can't: {secret}"}, 400)
    with (
        make(fake_server, dialect, model="m") as backend,
        pytest.raises(BackendRejected) as caught,
    ):
        backend.score(Query(QUERY, instruction=secret), DOCUMENTS)

    assert "customers" not in str(caught.value)


@pytest.mark.parametrize(("listwise", "pointwise"), [(False, True), (True, False)])
def test_listwise_models_are_not_pointwise(fake_server, listwise, pointwise):
    with make(fake_server, listwise=listwise) as backend:
        assert (pointwise, pointwise) == (backend.pointwise, backend.cacheable)
        assert ("xinference", "m", "xinference:m") == (backend.kind, backend.model, backend.label)
