"""The lines of docs/coming-from.md: what they tell you to write works, and "run" means a test."""

import re

import pytest

pytest.importorskip("langchain_core", reason="needs the extra `langchain`")
pytest.importorskip("llama_index.core", reason="needs the extra `llama-index`")

from langchain_core.retrievers import BaseRetriever

from rerank_plugins import ConfigError, load_backend
from rerank_plugins.langchain import RerankCompressor, RerankRetriever
from rerank_plugins.llama_index import RerankPostprocessor
from tests.support.places import ROOT

PAGES = [*(ROOT / "docs").glob("coming-from*.md")]
TESTS = (ROOT / "tests/integration/clients/test_coming_from.py").read_text(encoding="utf-8")
CODE = re.compile(r"`([^`]+)`")


class Nothing(BaseRetriever):
    def _get_relevant_documents(self, query, *, run_manager):
        return []


NAMES = {
    "R": Nothing(),
    "RerankCompressor": RerankCompressor,
    "RerankPostprocessor": RerankPostprocessor,
    "RerankRetriever": RerankRetriever,
    "documents": [],
    "query": "q",
    "rerank": lambda query, documents, *, backend: load_backend(backend),
}


def rows(page, columns):
    """Return the cells of all tables of a page that have so many columns."""
    lines = page.read_text(encoding="utf-8").splitlines()
    table = [line for line in lines if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" |")] for line in table]
    return [row for row in cells if len(row) == columns]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_line_builds(page, monkeypatch):
    for name in ("COHERE", "DASHSCOPE", "JINA", "NVIDIA", "OPENAI", "VOYAGE"):
        monkeypatch.setenv(f"{name}_API_KEY", "a-key-of-tests")
    lines = [CODE.search(row[1])[1] for row in rows(page, 4) if "`" in row[1]]

    assert 20 < len(lines)
    for line in lines:
        assert eval(line, dict(NAMES)) is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_said_to_be_run_is(page):
    for theirs, _, _, compared in rows(page, 4):
        if compared.startswith(("run", "实测")):
            assert f"{CODE.search(theirs)[1].partition('(')[0]}(" in TESTS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_their_parameters_are_refused_by_name(page):
    names = {name for row in rows(page, 2) for name in CODE.findall(row[0]) if name.isidentifier()}

    assert {"batch_size", "device", "model_name", "use_fp16"} <= names
    for name in names - {"t", "top_n"}:
        with pytest.raises(ConfigError, match=name):
            RerankCompressor(**{name: 1})
