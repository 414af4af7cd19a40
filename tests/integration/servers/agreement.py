"""The tests that every real server with the model of a local backend must pass."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode

from rerank_plugins import AuthenticationError, BackendRejected, load_backend
from rerank_plugins.langchain import RerankCompressor
from rerank_plugins.llama_index import RerankPostprocessor
from rerank_plugins.testing import BackendContract

__all__ = ["DOCUMENTS", "QUERY", "Agreement", "Guarded", "Refusals", "ServerContract"]

QUERY = "what is a panda?"
DOCUMENTS = [
    "hi",
    "The giant panda is a bear species endemic to China.",
    "Paris is the capital of France.",
    "",
    "大熊猫是中国特有的熊科动物。",
    "A cross-encoder reads the query and the document together.",
]
CHINESE = "大熊猫住在哪里？"
HUNDRED = [f"{number} of the {number * 7 % 50} pandas live in China" for number in range(100)]


class Agreement:
    """A server, `remote_spec`, and this process, `local_spec`, give the same scores."""

    tolerance = 1e-5

    def close_to(self, expected: list[float]) -> object:
        return pytest.approx(expected, rel=0, abs=self.tolerance)

    @pytest.mark.parametrize(
        ("query", "documents"),
        [(QUERY, DOCUMENTS), (CHINESE, DOCUMENTS), (QUERY, HUNDRED), (QUERY, [""])],
        ids=["English", "Chinese", "a hundred", "one empty"],
    )
    def test_scores_are_the_local_ones(self, remote_spec, local_spec, query, documents):
        with load_backend(remote_spec) as remote, load_backend(local_spec) as local:
            expected = local.score(query, documents)

            assert self.close_to(expected) == remote.score(query, documents)
            assert max(expected) - min(expected) > 10 * self.tolerance or len(documents) == 1

    async def test_twenty_calls_at_once_keep_apart(self, remote_spec, local_spec):
        """Servers batch across requests; each caller gets the scores of its own documents."""
        with load_backend(local_spec) as local:
            expected = local.score(QUERY, HUNDRED)
        async with load_backend(remote_spec) as remote:
            calls = [remote.ascore(QUERY, HUNDRED[n : n + 10]) for n in range(20)]
            for n, scores in enumerate(await asyncio.gather(*calls)):
                assert self.close_to(expected[n : n + 10]) == scores

    def test_langchain_orders_alike(self, remote_spec, local_spec):
        """The same code, with another string for the backend."""

        def texts(spec):
            compressor = RerankCompressor(backend=spec, top_n=4)
            documents = [Document(page_content=text) for text in DOCUMENTS if text]
            return [
                document.page_content
                for document in compressor.compress_documents(documents, QUERY)
            ]

        assert texts(local_spec) == texts(remote_spec)

    def test_llama_index_orders_alike(self, remote_spec, local_spec):
        """The same code, with another string for the backend."""

        def texts(spec):
            postprocessor = RerankPostprocessor(backend=spec, top_n=4)
            nodes = [NodeWithScore(node=TextNode(text=text)) for text in DOCUMENTS if text]
            ranked = postprocessor.postprocess_nodes(nodes, query_str=QUERY)
            return [scored.node.get_content() for scored in ranked]

        assert texts(local_spec) == texts(remote_spec)

    def test_doctor_reaches_the_server_and_scores(self, remote_spec):
        """It reports that random weights rank badly, which it knows from the server's scores."""
        command = [sys.executable, "-m", "rerank_plugins", "doctor", remote_spec]
        done = subprocess.run(command, capture_output=True, text=True, check=False)

        assert "✓ server" in done.stdout
        assert "for a relevant document" in done.stdout


class Guarded:
    """A server refuses an unknown key.

    The module defines the fixture `spec_of`: a function that gives the server's spec, with
    another variable for the key as `key`.
    """

    wrong_key = 401
    """The status for such a key."""

    def test_a_wrong_key_is_rejected(self, spec_of, monkeypatch):
        """As an authentication error, where the server says that it is one."""
        monkeypatch.setenv("RERANK_TEST_KEY_WRONG", "another")
        with (
            load_backend(spec_of(key="RERANK_TEST_KEY_WRONG")) as backend,
            pytest.raises(BackendRejected) as caught,
        ):
            backend.score(QUERY, DOCUMENTS)

        assert self.wrong_key == caught.value.status_code
        assert (self.wrong_key == 401) == isinstance(caught.value, AuthenticationError)


class Refusals(Guarded):
    """It also refuses an unknown model; `spec_of` takes a `model`."""

    unknown_model: int
    """The status for such a model."""

    def test_an_unknown_model_is_rejected(self, spec_of):
        with (
            load_backend(spec_of(model="nope")) as backend,
            pytest.raises(BackendRejected, match="nope") as caught,
        ):
            backend.score(QUERY, DOCUMENTS)

        assert self.unknown_model == caught.value.status_code


class ServerContract(BackendContract):
    """The contract suite over `remote_spec`."""

    @pytest.fixture(autouse=True)
    def _address(self, remote_spec):
        self.spec = remote_spec

    def make_backend(self):
        return load_backend(self.spec)
