"""Datasets: every way to name one, and the errors of those that can't be used."""

import gzip
import json
import sys
from types import SimpleNamespace

import pytest

from rerank_plugins import ConfigError, DataError, MissingDependencyError
from rerank_plugins.evaluation import from_retriever, load_dataset
from rerank_plugins.evaluation.datasets.dataset import checked
from rerank_plugins.evaluation.datasets.demo import DEMO_NAMES
from rerank_plugins.evaluation.datasets.trec import read_qrels, read_run

CORPUS = [
    {"_id": "d1", "title": "Pandas", "text": "They eat bamboo."},
    {"_id": "d2", "text": "Paris is in France."},
    {"_id": "d3", "text": "大熊猫吃竹子。"},
]
QUERIES = [{"_id": "q1", "text": "what do pandas eat"}, {"_id": "q2", "text": "where is paris"}]
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t2\n"
RUN = "q1 Q0 d2 1 9.5 me\nq1 Q0 d1 2 8.5 me\nq2 Q0 d2 1 3 me\n"


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.fixture
def folder(tmp_path):
    """A BEIR folder with a run."""
    files = {
        "corpus.jsonl": lines(CORPUS),
        "queries.jsonl": lines(QUERIES),
        "qrels/test.tsv": QRELS,
        "run.trec": RUN,
    }
    for name, text in files.items():
        path = tmp_path / "pandas" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path / "pandas"


class TestFolder:
    def test_holds_texts_judgements_and_the_first_stages_order(self, folder):
        data = load_dataset(folder)

        assert "pandas" == data.name
        assert {"q1": "what do pandas eat", "q2": "where is paris"} == data.queries
        assert "Pandas\nThey eat bamboo." == data.documents["d1"]
        assert {"q1": {"d1": 1}, "q2": {"d2": 2}} == data.qrels
        assert {"q1": ("d2", "d1"), "q2": ("d2",)} == data.candidates
        assert () == data.warnings

    def test_bm25_finds_candidates_where_there_is_no_run(self, folder):
        pytest.importorskip("bm25s", reason="needs the extra `eval`")
        (folder / "run.trec").unlink()
        data = load_dataset(str(folder), depth=1)

        assert "BM25" == data.first_stage
        assert {"q1": ("d1",), "q2": ("d2",)} == data.candidates

    def test_files_may_be_gzipped(self, folder):
        plain = load_dataset(folder)
        for name in ("corpus.jsonl", "run.trec"):
            (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
            (folder / name).unlink()

        assert plain.digest == load_dataset(folder).digest

    def test_the_parts_may_have_other_names(self, folder):
        topics = folder / "topics.tsv"
        topics.write_text("q1\twhat do pandas eat\nq2\twhere is paris\n", encoding="utf-8")
        data = load_dataset(
            folder / "corpus.jsonl",
            queries=topics,
            qrels=folder / "qrels/test.tsv",
            run=folder / "run.trec",
        )

        assert load_dataset(folder).digest == data.digest

    @pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
    def test_a_missing_file_is_named(self, folder, name):
        (folder / name).unlink()

        with pytest.raises(DataError, match=name):
            load_dataset(folder)

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("corpus.jsonl", lines(CORPUS) + "{oops\n", r"corpus.jsonl:4: not valid JSON"),
            ("corpus.jsonl", '["d1"]\n', r"corpus.jsonl:1: expected a JSON object, not an array"),
            ("corpus.jsonl", lines([*CORPUS, CORPUS[0]]), r":4: the id 'd1' was used .*jsonl:1"),
            ("corpus.jsonl", '{"text": "a"}\n', r"corpus.jsonl:1: there is no id"),
            ("corpus.jsonl", '{"_id": "a", "body": "b"}\n', r":1: found no text under .*_id, body"),
            (
                "corpus.jsonl",
                '{"_id": "a", "text": 5}\n',
                r":1: `text` is a number, not a string",
            ),
            (
                "corpus.jsonl",
                '{"_id": "a", "text": "\\ud800"}\n',
                r":1: the text holds a lone surr",
            ),
            ("queries.jsonl", lines([*QUERIES, QUERIES[1]]), r"queries.jsonl:3: the id 'q2' was"),
            ("queries.jsonl", "", "no query can be evaluated: 0 queries"),
            ("queries.jsonl", '{"_id": "q1", "text": " \\n"}', "query 'q1' is blank"),
            (
                "qrels/test.tsv",
                QRELS + "q1\td2\n",
                r"test.tsv:4: a judgement has 4 columns .* not 2",
            ),
            ("qrels/test.tsv", QRELS + "q1\td2\tyes\n", r"test.tsv:4: the grade 'yes' is not an"),
            (
                "qrels/test.tsv",
                QRELS + "q1\td1\t0\n",
                r"test.tsv:4: .*'d1' is judged twice .*1 and 0",
            ),
            ("qrels/test.tsv", "", "of which 0 have a relevant document"),
            ("qrels/test.tsv", "q1\td1\t0\n", "of which 0 have a relevant document"),
            ("run.trec", RUN + "q2 Q0 d9 2 1 me\n", "candidate 'd9' of query 'q2' has no text"),
            ("run.trec", RUN + "q2 Q0 d2 2 1 me\n", r"run.trec:4: document 'd2' comes twice for"),
            ("run.trec", RUN + "q2 Q0 d1 2 nan me\n", r"run.trec:4: 'nan' is not a number"),
            ("run.trec", RUN + "q2 d1\n", r"run.trec:4: a run has 6 columns .* not 2"),
        ],
    )
    def test_errors_name_file_and_line(self, folder, name, text, message):
        (folder / name).write_text(text, encoding="utf-8")

        with pytest.raises(DataError, match=message):
            load_dataset(folder)

    def test_a_file_that_is_not_utf8_is_refused(self, folder):
        (folder / "corpus.jsonl").write_bytes(lines(CORPUS).encode("gb18030"))

        with pytest.raises(DataError, match=r"corpus.jsonl:3: not UTF-8 text \(byte"):
            load_dataset(folder)

    @pytest.mark.parametrize(
        ("name", "text", "warning"),
        [
            ("qrels/test.tsv", QRELS + "q9\td1\t1\n", "1 judged query has no text: left out"),
            ("qrels/test.tsv", QRELS[:-8], "1 query has no relevant document: left out"),
            ("qrels/test.tsv", QRELS + "q1\td7\t1\n", "1 relevant document is not among the doc"),
            ("qrels/test.tsv", QRELS + "q1\td1\t1\n", "test.tsv: 1 judgement is repeated"),
            ("run.trec", RUN[: RUN.index("q2")], "1 query has no candidates: counted as 0"),
        ],
    )
    def test_queries_and_documents_left_out_are_counted(self, folder, name, text, warning):
        (folder / name).write_text(text, encoding="utf-8")
        (message,) = load_dataset(folder).warnings

        assert message.startswith(warning)


class TestTables:
    def test_runs_are_ordered_as_trec_eval_orders_them(self, tmp_path):
        """By score, then by id, both descending; the rank column is not read."""
        path = tmp_path / "run"
        path.write_text("q 0 a 1 1.0 t\nq 0 c 2 2.0 t\nq 0 b 3 2.0 t\nq 0 d 4 10 t\n")

        assert {"q": ["d", "c", "b", "a"]} == read_run(path)

    def test_a_heading_says_that_the_third_column_is_the_rank(self, tmp_path):
        path = tmp_path / "candidates.tsv"
        path.write_text("query-id\tcorpus-id\trank\tbm25\nq\tb\t2\t9\nq\ta\t1\t3\n")

        assert {"q": ["a", "b"]} == read_run(path)

    def test_a_heading_with_another_third_column_is_refused(self, tmp_path):
        path = tmp_path / "candidates.tsv"
        path.write_text("query-id\tcorpus-id\tscore\nq\tb\t2\n")

        with pytest.raises(DataError, match="third column of a run must be `rank`"):
            read_run(path)

    def test_judgements_of_trec_and_beir_read_alike(self, tmp_path):
        trec, beir = tmp_path / "a.txt", tmp_path / "b.tsv"
        trec.write_text("q1 0 d1 1\nq1 0 d2 -1\n")
        beir.write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t-1\n")

        assert read_qrels(trec) == read_qrels(beir)


class TestJSONLines:
    def read(self, tmp_path, *rows):
        path = tmp_path / "mine.jsonl"
        path.write_text(lines(rows), encoding="utf-8")
        return load_dataset(path)

    @pytest.mark.parametrize(
        "row",
        [
            {"documents": ["a", "b"], "relevant": [1]},
            {"documents": ["a", {"text": "b", "relevance": 1}]},
            {"documents": ["a", {"text": "b", "id": "q/1"}], "relevant": ["q/1"]},
            {"documents": ["a", {"text": "b", "id": "q/1"}], "relevant": {"q/1": 1}},
            {"documents": ["a", "b"], "relevant": 1},
        ],
    )
    def test_relevance_can_be_written_in_several_ways(self, tmp_path, row):
        data = self.read(tmp_path, {"id": "q", "query": "?", **row})

        assert {"q": {"q/1": 1}} == data.qrels
        assert ["a", "b"] == data.texts("q", 10)

    @pytest.mark.parametrize(
        "names",
        [
            ("pos", "neg"),
            ("pos", "negative"),
            ("positive", "negative"),
            ("positives", "negatives"),
            ("positive", "hard_negatives"),
        ],
    )
    def test_flag_embeddings_names_are_read(self, tmp_path, names):
        row = {"query": "q", names[0]: ["good"], names[1]: ["a", "b"], "prompt": "", "id": "7"}
        data = self.read(tmp_path, row)

        assert {"good", "a", "b"} == set(data.documents.values())
        assert ["good"] == [
            data.documents[name] for name, grade in data.qrels["7"].items() if grade
        ]

    @pytest.mark.parametrize("name", ["negative_passages", "negative_1", "wrong"])
    def test_a_file_of_relevant_texts_alone_is_not_perfect(self, tmp_path, name):
        """Their others stand under a key that is not read."""
        row = {"query": "q", "positive": ["good"], name: ["a", "b"]}

        with pytest.raises(DataError, match=f"every text is relevant, .* query, positive, {name}"):
            self.read(tmp_path, row)

    def test_positive_and_negative_texts_are_shuffled(self, tmp_path):
        rows = [
            {"query": f"query {n}", "positive": [f"good {n}"], "negative": [f"a{n}", f"b{n}"]}
            for n in range(40)
        ]
        data = self.read(tmp_path, *rows)
        first = sum(data.qrels[query][data.candidates[query][0]] for query in data.queries)

        assert "no order" == data.first_stage
        assert 5 < first < 25

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"query": 5}, ":1: `query` must be a string"),
            ({"query": "q"}, ":1: there is neither `documents` nor `positive`; valid: id, query"),
            ({"query": "q", "documents": "a"}, ":1: `documents` must be a list"),
            ({"query": "q", "documents": [3]}, ":1: document 0 must be a string or an object"),
            ({"query": "q", "documents": ["a"], "relevant": [1]}, "neither an id nor a position"),
            ({"query": "q", "documents": ["a"], "relevant": [True]}, "`relevant` holds True"),
            ({"query": "q", "documents": [{"text": "a", "relevance": 0.5}]}, "grade 0.5 is not"),
            ({"query": "q", "documents": ["a"], "relevant": {"a": None}}, "grade None is not"),
            (
                {"query": "q", "documents": [{"id": 1, "text": "a"}, {"id": 1, "text": "b"}]},
                "document 1: the id '1' comes twice",
            ),
        ],
    )
    def test_errors_name_file_and_line(self, tmp_path, row, message):
        with pytest.raises(DataError, match=message):
            self.read(tmp_path, row)

    def test_one_id_has_one_text(self, tmp_path):
        rows = [
            {"query": "q", "documents": [{"id": "d", "text": text}], "relevant": [0]}
            for text in ("a", "b")
        ]

        with pytest.raises(DataError, match=":2: document 'd' has another text than"):
            self.read(tmp_path, *rows)

    def test_an_id_is_used_once(self, tmp_path):
        row = {"id": "q", "query": "q", "documents": ["a"], "relevant": [0]}

        with pytest.raises(DataError, match=":2: the id 'q' was used before"):
            self.read(tmp_path, row, row)


class TestRetriever:
    JUDGED = (("what do pandas eat", ["d1"]), ("where is paris", {"d2": 2}))

    def test_a_langchain_retriever_is_a_first_stage(self):
        documents = pytest.importorskip("langchain_core.documents", reason="needs `langchain`")
        from langchain_core.runnables import RunnableLambda  # noqa: PLC0415

        retrieved = [documents.Document(row["text"], id=row["_id"]) for row in CORPUS]
        data = from_retriever(RunnableLambda(lambda query: retrieved), self.JUDGED, depth=2)

        assert {"q1": ("d1", "d2"), "q2": ("d1", "d2")} == data.candidates
        assert {"q1": {"d1": 1}, "q2": {"d2": 2}} == data.qrels
        assert ["They eat bamboo.", "Paris is in France."] == data.texts("q1", 5)

    def test_the_id_may_stand_in_the_metadata(self):
        documents = pytest.importorskip("langchain_core.documents", reason="needs `langchain`")
        retrieved = [documents.Document("text", metadata={"source": "a.md", "page": 1})]
        data = from_retriever(lambda query: retrieved, [("q", ["a.md"])])
        by_page = from_retriever(
            lambda query: retrieved, [("q", ["1"])], id_of=lambda d: str(d.metadata["page"])
        )

        assert {"q1": ("a.md",)} == data.candidates
        assert {"q1": ("1",)} == by_page.candidates

    def test_a_llama_index_retriever_is_a_first_stage(self):
        schema = pytest.importorskip("llama_index.core.schema", reason="needs `llama-index`")
        from llama_index.core.retrievers import BaseRetriever  # noqa: PLC0415

        class Mine(BaseRetriever):
            def _retrieve(self, query_bundle):
                nodes = [
                    schema.TextNode(
                        id_=row["_id"],
                        text=row["text"],
                        metadata={"secret": "x", "topic": "bears"},
                        excluded_embed_metadata_keys=["secret"],
                    )
                    for row in CORPUS
                ]
                return [schema.NodeWithScore(node=node, score=1.0) for node in nodes]

        data = from_retriever(Mine(), self.JUDGED)

        assert "Mine" == data.first_stage
        assert ("d1", "d2", "d3") == data.candidates["q1"]
        assert "topic: bears\n\nThey eat bamboo." == data.documents["d1"]

    @pytest.mark.parametrize("queries", [["both"], ["a", "b"]])
    def test_one_id_has_one_text(self, queries):
        """As of chunks whose only id is the file that they are of."""
        chunks = {"a": [("file", "one")], "b": [("file", "two")]}
        chunks["both"] = [*chunks["a"], *chunks["b"]]

        with pytest.raises(DataError, match=r"'file' has another text .*`id_of=`"):
            from_retriever(chunks.get, [(query, "file") for query in queries])

    def test_judgements_may_be_a_mapping(self):
        judged = {"what do pandas eat": ["d1"], "where is paris": {"d2": 2}}
        retrieved = [(row["_id"], row["text"]) for row in CORPUS]

        assert (
            from_retriever(lambda query: retrieved, list(judged.items())).qrels
            == from_retriever(lambda query: retrieved, judged).qrels
        )

    def test_a_function_may_give_pairs(self):
        data = from_retriever(lambda query: [("a", "x"), ("b", "y"), ("a", "x")], [("q", "b")])

        assert {"q1": ("a", "b")} == data.candidates
        assert ("1 document was retrieved twice for a query",) == data.warnings

    def test_an_unusable_retriever_is_refused(self):
        with pytest.raises(ConfigError, match="must have `invoke` or `retrieve`"):
            from_retriever(5, self.JUDGED)
        with pytest.raises(DataError, match="returned a `str`, not a document"):
            from_retriever(lambda query: ["text"], self.JUDGED)
        nameless = SimpleNamespace(page_content="text", metadata={"page": 1})
        with pytest.raises(DataError, match=r"no id; give `id_of=`.*metadata: page"):
            from_retriever(lambda query: [nameless], self.JUDGED)


class TestIrDatasets:
    @pytest.fixture
    def registered(self, folder):
        """Two local datasets in the real catalogue; the second has a run."""
        module = pytest.importorskip("ir_datasets", reason="needs the extra `ir-datasets`")
        from ir_datasets.formats import (  # noqa: PLC0415
            JsonlDocs,
            TrecQrels,
            TrecScoredDocs,
            TsvQueries,
        )

        class Local:
            def __init__(self, text):
                path = folder / f"ir-{len(text)}"
                path.write_text(text, encoding="utf-8")
                self._path = path

            def stream(self):
                return self._path.open("rb")

            def path(self, _force=None):
                return self._path

        rows = lines([{"doc_id": row["_id"], "text": row["text"]} for row in CORPUS])
        qrels = TrecQrels(Local("q1 0 d1 1\nq2 0 d2 1\n"), {1: "relevant"})
        queries = TsvQueries(Local("q1\twhat do pandas bamboo\nq2\twhere is paris\n"))
        docs = JsonlDocs(Local(rows), mapping={"doc_id": "doc_id", "text": "text"})
        run = TrecScoredDocs(Local(RUN))
        module.registry.register("ours/pandas", module.Dataset(docs, queries, qrels))
        module.registry.register("ours/run", module.Dataset(docs, queries, qrels, run))
        yield "irds:ours/pandas", "irds:ours/run"
        for name in ("ours/pandas", "ours/run"):
            del module.registry._registered[name]

    def test_bm25_searches_its_documents(self, registered):
        data = load_dataset(registered[0])

        assert "ours/pandas" == data.name
        assert {"q1": ("d1",), "q2": ("d2",)} == data.candidates

    def test_its_own_run_is_the_first_stage(self, registered):
        data = load_dataset(registered[1])

        assert {"q1": ("d2", "d1"), "q2": ("d2",)} == data.candidates
        assert "They eat bamboo." == data.documents["d1"]

    def test_an_unknown_id_is_named_in_the_error(self):
        pytest.importorskip("ir_datasets", reason="needs the extra `ir-datasets`")
        with pytest.raises(ConfigError, match="ir_datasets has no dataset 'no/such'"):
            load_dataset("irds:no/such")

    def test_a_missing_install_names_the_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "ir_datasets", None)
        with pytest.raises(MissingDependencyError, match=r"rerank-plugins\[ir-datasets\]"):
            load_dataset("irds:no/such")


@pytest.mark.parametrize("name", DEMO_NAMES)
def test_the_sets_in_the_package_say_where_they_are_from(name):
    data = load_dataset(f"demo:{name}")

    assert len(data.queries) >= 40
    assert 20 == max(map(len, data.candidates.values()))
    assert "CC BY" in data.credit


def test_the_digest_covers_everything_that_scores_depend_on():
    parts = {
        "queries": {"q": "a"},
        "documents": {"d": "x", "e": "y"},
        "qrels": {"q": {"d": 1}},
        "candidates": {"q": ["d", "e"]},
    }
    digests = {
        checked("a", **(parts | change)).digest
        for change in (
            {},
            {"queries": {"q": "b"}},
            {"documents": {"d": "x", "e": "z"}},
            {"candidates": {"q": ["e", "d"]}},
        )
    }

    assert 4 == len(digests)
    assert digests >= {checked("b", **(parts | {"qrels": {"q": {"e": 1}}})).digest}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no/such",), r"no dataset 'no/such': give a BEIR folder.*demo:covidqa, demo:xquad-zh"),
        (("demo:x",), r"no dataset 'x' in this package; valid: covidqa, xquad-zh"),
    ],
)
def test_unknown_datasets_are_refused_with_the_valid_ones(arguments, message):
    with pytest.raises(ConfigError, match=message):
        load_dataset(*arguments)


def test_a_corpus_needs_queries_and_judgements(folder):
    with pytest.raises(ConfigError, match="needs both `queries` and `qrels`, not only"):
        load_dataset(folder / "corpus.jsonl", qrels=folder / "qrels/test.tsv")
    with pytest.raises(ConfigError, match="qrels: valid only with a corpus file"):
        load_dataset("demo:covidqa", qrels=folder / "qrels/test.tsv")


def test_a_file_of_unknown_kind_is_refused(tmp_path):
    path = tmp_path / "x.parquet"
    path.touch()

    with pytest.raises(DataError, match=r"can't tell what .*x.parquet' is"):
        load_dataset(path)
