"""The evaluation page gives its figures; each retrieval recipe runs, and prints its gain.

They rerank the same two demos, so the embedded model encodes each text once for all of them.
Recipes run on their real engines; Elasticsearch's and OpenSearch's official clients run against a
stand-in (`search_engine`).
"""

import json
import re
import runpy
import sys

import pytest

from rerank_plugins.evaluation import load_dataset
from tests.integration.docs.pages import run_blocks
from tests.support.places import ROOT
from tests.support.search_engine import search_engine

PAGE = ROOT / "docs" / "evaluation.md"
FOLDER = ROOT / "examples" / "retrieval"
NEEDS = {
    "bm25_rerank": ["bm25s", "tantivy"],
    "chroma_rerank": ["chromadb", "langchain_core"],
    "elasticsearch_rerank": ["elasticsearch", "langchain_core"],
    "hybrid_rerank": ["bm25s", "langchain_core"],
    "lancedb_rerank": ["lancedb"],
    "opensearch_rerank": ["opensearchpy"],
    "qdrant_rerank": ["qdrant_client", "llama_index.core"],
}
FIGURES = re.compile(r"  (as found|reranked) +([01]\.\d{3}) +([01]\.\d{3})")
GAIN = re.compile(r"  gain in nDCG@10 +([+-]\d\.\d{3})  \[([+-]\d\.\d{3}), ([+-]\d\.\d{3})\]")

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.usefixtures("encoded_once"),
    # What the engines' own packages warn of is theirs to mend.
    pytest.mark.filterwarnings("default::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    """A configuration with a cache, so that all recipes together score a pair once."""
    file = tmp_path_factory.mktemp("recipes") / "rerank.toml"
    file.write_text('[backend]\nkind = "embedded"\n[cache]\n', encoding="utf-8")
    return str(file)


@pytest.fixture(scope="module")
def printed():
    """The output of each recipe, by its name."""
    return {}


@pytest.fixture
def run(monkeypatch, capsys, backend, printed):
    """Return a function that runs a recipe as a script, once, and returns its output."""

    def runner(name):
        if name not in printed:
            for package in NEEDS[name]:
                pytest.importorskip(package, reason="needs the extra `examples`")
            monkeypatch.setattr(sys, "argv", [f"{name}.py", backend])
            monkeypatch.syspath_prepend(FOLDER)
            runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
            printed[name] = capsys.readouterr().out
        return printed[name]

    return runner


def figures(printed):
    """Read the tables: per table the figures of the first stage, reranked, and the gain."""
    values = [(float(ndcg), float(mrr)) for _, ndcg, mrr in FIGURES.findall(printed)]
    gains = [tuple(map(float, gain)) for gain in GAIN.findall(printed)]
    return list(zip(values[::2], values[1::2], gains, strict=True))


@pytest.mark.slow
def test_every_block_of_the_evaluation_page_runs_and_gives_its_figures(hub, workspace, capsys):
    """On any processor, and with any version of ONNX Runtime."""
    run_blocks(PAGE, hub, workspace)
    text = re.sub(r"\s+", " ", PAGE.read_text(encoding="utf-8"))
    for name, sentence in (
        ("covidqa", r"raises MRR@10 from ([\d.]+) to ([\d.]+) \(p = 0.002, (\d+) queries\)"),
        ("xquad-zh", r"raises it from ([\d.]+) to ([\d.]+) \((\d+) queries\)"),
    ):
        results = json.loads((workspace / "rerank-eval" / name / "results.json").read_bytes())
        *stated, count = map(float, re.search(sentence, text).groups())

        assert count == results["dataset"]["queries"]
        assert stated == [
            pytest.approx(system["figures"]["MRR@10"]["mean"], abs=0.002)
            for system in results["systems"]
        ]


def test_every_recipe_is_tested():
    assert sorted(NEEDS) == sorted(p.stem for p in FOLDER.glob("*_rerank.py"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tables"),
    [
        ("bm25_rerank", 2),
        ("hybrid_rerank", 3),
        ("qdrant_rerank", 1),
        ("chroma_rerank", 1),
        ("lancedb_rerank", 2),
    ],
)
def test_reranking_improves_every_english_first_stage(run, name, tables):
    tables_printed = figures(run(name))

    assert tables == len(tables_printed)
    for (before, _), (after, _), (gain, low, high) in tables_printed:
        assert 0.2 < before < 1
        assert before < after
        assert low <= gain <= high
        assert gain == pytest.approx(after - before, abs=0.002)


@pytest.mark.slow
@pytest.mark.parametrize("product", ["elasticsearch", "opensearch"])
def test_official_clients_work_against_the_documented_wire_format(run, monkeypatch, product):
    with search_engine(product) as (url, asked):
        monkeypatch.setenv(f"{product.upper()}_URL", url)
        ((before, after, _),) = figures(run(f"{product}_rerank"))

    assert 0.2 < before[0] < 1
    assert 0.2 < after[0] < 1
    assert ("DELETE", "/rerank-plugins-recipe") == next(a for a in asked if a[1] != "/")
    expected = {"elasticsearch": 60, "opensearch": 40}[product] + 1
    assert expected == sum(path.endswith("/_search") for _, path in asked)


@pytest.mark.slow
def test_hybrid_search_beats_either_part(run):
    words, vectors, hybrid = figures(run("hybrid_rerank"))

    assert max(words[1][0], vectors[1][0]) < hybrid[1][0], "once all three are reranked"


def test_the_shared_module_uses_the_shipped_sets(monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.syspath_prepend(FOLDER)
    common = __import__("common")
    documents, judged = common.chinese()
    data = load_dataset("demo:xquad-zh")

    assert data.documents == documents
    assert list(data.queries.values()) == [question for question, _ in judged]
    vector = common.embed(["a passage", "a passage", "another"])
    assert pytest.approx(1.0, abs=1e-5) == float(vector[0] @ vector[1])
    assert float(vector[0] @ vector[2]) < 0.99
