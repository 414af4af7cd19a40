"""The prompt that the client writes where a server sends texts to the model as they come."""

import logging
import pickle

import pytest

from rerank_plugins import ConfigError, Query, UnsupportedInputError, load_backend
from rerank_plugins.backends.http import HTTPBackend
from rerank_plugins.backends.http.dialects import DIALECTS
from rerank_plugins.backends.http.text_prompt import TextPrompt
from rerank_plugins.backends.prompt_templates import TEMPLATES, Prompt
from rerank_plugins.testing import FakeResponse, FakeServer, serve_dialect
from tests.backends.http.remote import DOCUMENTS, QUERY, make, results

OURS = ["tei", "vllm"]
HEAD = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
TAIL = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
DEFAULT = "Given a web search query, retrieve relevant passages that answer the query"
"""As on the card of Qwen3-Reranker, which cuts the prompt at the same place for vLLM."""


def texts_of(body):
    return body["query"], body.get("texts") or body["documents"]


@pytest.mark.parametrize("dialect", OURS)
def test_query_and_documents_get_their_parts_of_the_prompt(fake_server, ask, dialect):
    fake_server.response = FakeResponse(results(0.5, 0.25))
    ask(make(fake_server, dialect, template="qwen3-reranker"), ["a", ""])
    query, documents = texts_of(fake_server.requests[0].body)

    assert f"{HEAD}<Instruct>: {DEFAULT}\n<Query>: {QUERY}\n" == query
    assert [f"<Document>: a{TAIL}", f"<Document>:  {TAIL}"] == documents


@pytest.mark.parametrize("instruction", ["Prefer {query}.", "Säge"])
def test_an_instruction_stands_in_the_prompt_alone(fake_server, instruction):
    fake_server.response = FakeResponse(results(0.5))
    with make(fake_server, "vllm", template="qwen3-reranker") as backend:
        backend.score(Query("q {document}", instruction=instruction), ["a"])
    body = fake_server.requests[0].body

    assert f"{HEAD}<Instruct>: {instruction}\n<Query>: q {{document}}\n" == body["query"]
    assert "instruction" not in body


@pytest.mark.parametrize("name", ["mxbai-rerank-v2", "qwen3-reranker"])
def test_both_parts_together_are_the_whole_prompt(name):
    prompt = TEMPLATES[name].prompt
    query, (document,) = TextPrompt(prompt).wrap("q", ["d"])
    whole = prompt.text.replace("{instruction}", prompt.instruction)

    assert whole.replace("{query}", "q").replace("{document}", "d") == query + document
    assert query.endswith("q\n")


def test_a_template_of_the_users_own_may_hold_an_instruction(fake_server):
    fake_server.response = FakeResponse(results(0.5))
    template = "{instruction}: Q={query} D={document}!"
    with make(fake_server, "tei", template=template, instruction="Judge") as backend:
        backend.score("a", ["b"])

    assert ("Judge: Q=a", [" D=b!"]) == texts_of(fake_server.requests[0].body)


def test_a_request_with_prompts_stays_below_the_limit_of_bytes():
    """Many short documents: most of each is the prompt."""
    with (
        FakeServer(serve_dialect("vllm")) as fake_server,
        make(fake_server, "vllm", template="{query}\n" + "x" * 1_000 + "{document}") as backend,
    ):
        scores = backend.score("panda", ["panda", "hi"] * 2_000)

    assert 4_000 == len(scores)
    assert 4 < len(fake_server.requests)
    assert all(request.size < 1_048_576 for request in fake_server.requests)


def test_a_spec_and_a_pickle_hold_the_template():
    spec = "vllm+http://gpu:8000?model=m&template=qwen3-reranker"
    with load_backend(spec) as backend:
        assert "qwen3-reranker" == backend.to_spec()["template"]
        for other in (load_backend(backend.to_spec()), pickle.loads(pickle.dumps(backend))):
            assert backend.name == other.name
            assert other.instructions


def test_the_name_tells_prompts_apart():
    names = [
        HTTPBackend("http://gpu", dialect="vllm", model="m", **options).name
        for options in (
            {},
            {"template": "qwen3-reranker"},
            {"template": "mxbai-rerank-v2"},
            {"template": "{query}{document}"},
            {"template": "{query} {document}"},
            {"template": "qwen3-reranker", "instruction": "Judge."},
        )
    ]

    assert len(names) == len({*names})
    unchanged = HTTPBackend("http://gpu", dialect="vllm", model="m", template="server")
    assert names[0] == unchanged.name


@pytest.mark.parametrize("dialect", sorted(DIALECTS.keys() - {*OURS}))
def test_kinds_that_do_not_send_texts_as_they_come_refuse_a_template(dialect):
    with pytest.raises(ConfigError, match=f"not for '{dialect}'; .*: tei, vllm$"):
        HTTPBackend("http://gpu", dialect=dialect, model="m", template="qwen3-reranker")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"template": "qwen3-rerank"}, "did you mean 'qwen3-reranker'"),
        ({"template": "bge-reranker-v2-gemma"}, "valid: mxbai-rerank-v2, qwen3-reranker, server"),
        ({"template": "{document}{query}"}, "{query} and then {document}"),
        ({"template": "{instruction}{query}{document}"}, "need each other"),
        ({"template": "{query}{document}", "instruction": "Judge."}, "need each other"),
        ({"dialect": "tei", "template": "server", "instruction": "Judge."}, "can't send an"),
    ],
)
def test_wrong_templates_are_refused(options, reason):
    with pytest.raises(ConfigError, match=reason):
        HTTPBackend("http://gpu", **{"dialect": "vllm", "model": "m"} | options)


def test_a_template_without_a_place_takes_no_instruction_of_a_query(fake_server):
    """vLLM has a field for one, which its own prompt reads and not this one."""
    with (
        make(fake_server, "vllm", template="{query}{document}") as backend,
        pytest.raises(UnsupportedInputError, match="can't tell its model"),
    ):
        backend.score(Query("q", instruction="Judge."), ["a"])


NEEDY = ["Qwen/Qwen3-Reranker-0.6B", "tomaarsen/qwen3-reranker-4b-seq-cls", "mxbai-rerank-base-v2"]


@pytest.mark.parametrize("model", NEEDY)
def test_a_model_that_needs_a_prompt_is_warned_of_once(fake_server, caplog, model):
    fake_server.response = FakeResponse(results(0.5, 0.25))
    with (
        make(fake_server, "vllm", model=model) as backend,
        caplog.at_level(logging.WARNING),
    ):
        for _ in range(3):
            backend.score(QUERY, DOCUMENTS)

    (record,) = caplog.records
    assert f"{model!r} is a language model that needs its prompt" in record.message
    assert "template=server" in record.message


def test_a_server_with_which_no_prompt_survives_is_warned_of(fake_server, caplog):
    """Infinity strips white space from both texts, and a prompt ends in line breaks."""
    fake_server.response = FakeResponse(results(0.5, 0.25))
    with (
        make(fake_server, "infinity", model=NEEDY[0]) as backend,
        caplog.at_level(logging.WARNING),
    ):
        backend.score(QUERY, DOCUMENTS)

    assert "infinity changes texts so that none survives" in caplog.text


@pytest.mark.parametrize(
    ("dialect", "options"),
    [
        ("vllm", {"model": NEEDY[0], "template": "qwen3-reranker"}),
        ("vllm", {"model": NEEDY[0], "template": "server"}),
        ("vllm", {"model": "BAAI/bge-reranker-v2-m3"}),
        ("xinference", {"model": NEEDY[0]}),
        ("siliconflow", {"model": NEEDY[0]}),
    ],
)
def test_no_warning_where_the_prompt_is_written(fake_server, caplog, dialect, options):
    fake_server.response = FakeResponse(results(0.5, 0.25))
    with make(fake_server, dialect, **options) as backend, caplog.at_level(logging.WARNING):
        backend.score(QUERY, DOCUMENTS)

    assert [] == caplog.records


@pytest.mark.parametrize("query", ["", f"?model={NEEDY[0]}"])
def test_doctor_names_the_template_that_is_missing(query):
    """Also where only the server knows which model it has."""

    def behave(received):
        if received.path == "/v1/models":
            return FakeResponse({"data": [{"id": NEEDY[0], "owned_by": "vllm"}]})
        return FakeResponse({}, 404)

    with FakeServer(behave) as fake_server:
        with load_backend(f"vllm+{fake_server.url}{query}") as backend:
            (check,) = backend.check_servers()
        with load_backend(f"vllm+{fake_server.url}?template=qwen3-reranker") as backend:
            (told,) = backend.check_servers()

    assert check.ok
    assert "set template=qwen3-reranker" in check.detail
    assert "template" not in told.detail


def test_a_prompt_is_cut_at_a_line_break_before_the_document():
    prompt = TextPrompt(Prompt("<a>{query}</a>\n\nText:\n<b>{document}</b>"))

    assert ("<a>q</a>\n\nText:\n", ["<b>d</b>"]) == prompt.wrap("q", ["d"])
