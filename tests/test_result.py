"""The result of `rerank()`: what it holds, and how a notebook and a terminal show it."""

import asyncio
import dataclasses
import io
import math
import pickle
import re
import sys
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from rerank_plugins import (
    BackendUnavailable,
    ConfigError,
    Content,
    InvalidResponse,
    MissingDependencyError,
    Passage,
    Ranked,
    RerankResult,
    Scores,
    UnsupportedInputError,
    arerank,
    load_backend,
    rerank,
)
from rerank_plugins.scores import Usage
from rerank_plugins.testing import FailingBackend, FakeBackend
from rerank_plugins.wrappers.fallback import FallbackBackend

QUERY = "what is a panda?"
DOCUMENTS = ["hi", "the panda is a bear", "what is a panda"]
VOID = {"col", "br"}


def numbers(scale="unknown"):
    """A backend that scores a document by the number that it holds."""
    return FakeBackend(lambda _, document: float(document), scale=scale, name="numbers")


class Page(HTMLParser):
    """Parses, insists that every element is closed, and keeps what the tests ask about."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.seen, self.cells, self.attributes = [], [], [], []
        self.feed(html)
        self.close()
        assert [] == self.open

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag == "td":
            self.cells.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag == self.open.pop()

    def handle_data(self, data):
        if "td" in self.open:
            self.cells[-1] += data

    def rows(self):
        return [self.cells[start : start + 5] for start in range(0, len(self.cells), 5)]


def terminal(result, width=80, **options):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, **options)
    console.print(result)
    return console.file.getvalue()


class TestRerank:
    def test_ranks_and_says_where_each_document_was(self):
        result = rerank(QUERY, DOCUMENTS, backend=FakeBackend())

        assert [(1, 2, 1.0, 2), (2, 1, 0.75, 0), (3, 0, 0.0, -2)] == [
            (item.rank, item.index, item.score, item.moved) for item in result
        ]
        assert ["what is a panda", "the panda is a bear", "hi"] == [i.document for i in result]

    def test_top_n_and_min_score_work_as_in_rank(self):
        assert 2 == len(rerank(QUERY, DOCUMENTS, backend=FakeBackend(), top_n=2))
        assert 1 == len(rerank(QUERY, DOCUMENTS, backend=FakeBackend(), min_score=0.8))

    def test_keeps_the_documents_as_given(self):
        documents = ["b", Content(text="a")]
        result = rerank("a", documents, backend=FakeBackend())

        assert documents[1] is result[0].document
        assert tuple(documents) == result.documents
        assert (Ranked(1, 1.0), Ranked(0, 0.0)) == result.ranked
        assert ("a", "fake", "probability") == (result.query, result.backend, result.scale)

    def test_async_twin_gives_the_same(self):
        expected = rerank(QUERY, DOCUMENTS, backend=FakeBackend(), top_n=2, min_score=0.1)
        actual = asyncio.run(
            arerank(QUERY, DOCUMENTS, backend=FakeBackend(), top_n=2, min_score=0.1)
        )

        assert expected == actual

    def test_leaves_a_given_backend_open(self):
        backend = FakeBackend()
        rerank(QUERY, DOCUMENTS, backend=backend)
        asyncio.run(arerank(QUERY, DOCUMENTS, backend=backend))

        assert 0 == backend.closed

    def test_closes_a_backend_it_built(self, monkeypatch):
        built = FakeBackend()
        monkeypatch.setattr("rerank_plugins.result.load_backend", lambda spec: built)
        rerank(QUERY, DOCUMENTS, backend="fake")
        asyncio.run(arerank(QUERY, DOCUMENTS, backend="fake"))

        assert 2 == built.closed

    def test_loads_a_model_once(self, monkeypatch):
        """The name of a local backend loads its model, so it is asked for before closing."""

        class Loading(FakeBackend):
            @property
            def name(self):
                assert 0 == self.closed
                return "loading"

            def score(self, query, documents):
                return list(super().score(query, documents))

        monkeypatch.setattr("rerank_plugins.result.load_backend", lambda spec: Loading())

        assert "loading" == rerank(QUERY, DOCUMENTS, backend="fake").backend
        assert "loading" == asyncio.run(arerank(QUERY, DOCUMENTS, backend="fake")).backend

    def test_without_documents_no_model_is_loaded(self):
        """A model that is not there is not missed."""
        assert [] == list(rerank(QUERY, [], backend="local:no-such/model"))
        assert [] == list(asyncio.run(arerank(QUERY, [], backend="local:no-such/model")))

    @pytest.mark.parametrize(
        "scores", [[], [0.5], [0.1, 0.2, 0.3, 0.4], [0.5, math.nan, 0.1], None]
    )
    def test_wrong_scores_are_errors(self, scores):
        class Wrong(FakeBackend):
            def score(self, query, documents):
                return scores

        with pytest.raises(InvalidResponse):
            rerank(QUERY, DOCUMENTS, backend=Wrong())
        with pytest.raises(InvalidResponse):
            asyncio.run(arerank(QUERY, DOCUMENTS, backend=Wrong()))

    def test_closes_a_backend_it_built_after_an_error(self, monkeypatch):
        built = FakeBackend()
        monkeypatch.setattr("rerank_plugins.result.load_backend", lambda spec: built)
        with pytest.raises(UnsupportedInputError):
            rerank("", DOCUMENTS, backend="fake")

        assert 1 == built.closed

    @pytest.mark.parametrize("cut", [{"top_n": -1}, {"min_score": float("nan")}])
    def test_wrong_limits_are_refused_before_any_work(self, cut):
        with pytest.raises(ConfigError):
            rerank(QUERY, DOCUMENTS, backend=FailingBackend(AssertionError("asked")), **cut)

    def test_min_score_needs_a_known_scale(self):
        with pytest.raises(ConfigError, match="min_score"):
            rerank("q", ["1"], backend=numbers(), min_score=0.5)

    @pytest.mark.parametrize(
        ("documents", "answer"),
        [
            ("one string", r"pass a list: \[document\]$"),
            (None, "not `NoneType`$"),
            ((x for x in "ab"), r"pass list\(documents\)$"),
            ({"a", "b"}, r"pass list\(documents\)$"),
            (np.array(["a", "b"]), r"pass documents.tolist\(\)$"),
        ],
    )
    def test_documents_that_are_not_a_list_are_refused(self, documents, answer):
        with pytest.raises(UnsupportedInputError, match=answer):
            rerank(QUERY, documents, backend=FakeBackend())

    def test_those_of_pandas_are_answered_with_how_to_make_them_a_list(self):
        frame = pytest.importorskip("pandas").DataFrame({"text": ["a", "b"]})

        with pytest.raises(UnsupportedInputError, match=r"pass documents.tolist\(\)$"):
            rerank(QUERY, frame["text"], backend=FakeBackend())
        with pytest.raises(UnsupportedInputError, match=r"documents\['text'\].tolist\(\)$"):
            rerank(QUERY, frame, backend=FakeBackend())

    @pytest.mark.parametrize(
        ("document", "answer"),
        [
            (SimpleNamespace(page_content="a"), "pass its text: document.page_content$"),
            (SimpleNamespace(text="a"), "pass its text: document.text$"),
            ({"text": "a"}, r"pass its text, as in document\['text'\]$"),
            (b"a", r"pass document.decode\(\)$"),
            (math.nan, "missing value"),
            (3, "not `int`$"),
        ],
    )
    def test_a_document_of_another_library_is_answered_with_its_text(self, document, answer):
        with pytest.raises(UnsupportedInputError, match=f"document 1 must be .*{answer}"):
            rerank(QUERY, ["fine", document], backend=FakeBackend())

    def test_the_default_backend_is_that_of_load_backend(self, monkeypatch):
        monkeypatch.delenv("RERANK_BACKEND", raising=False)
        result = rerank(QUERY, DOCUMENTS, top_n=1)

        assert load_backend("embedded").name == result.backend
        assert 0 != result[0].index


class TestRerankResult:
    result = rerank("q", ["3", "1", "2"], backend=numbers())

    def test_is_a_sequence(self):
        assert 3 == len(self.result)
        assert "3" == self.result[0].document
        assert "1" == self.result[-1].document
        assert ["2", "1"] == [item.document for item in self.result[1:]]
        assert self.result[1] in self.result
        assert list(self.result)[::-1] == list(reversed(self.result))
        with pytest.raises(IndexError):
            self.result[3]

    def test_is_false_when_empty(self):
        assert not rerank("q", ["1"], backend=numbers(), top_n=0)
        assert not rerank("q", [], backend=numbers())

    def test_is_frozen(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            self.result.query = "other"

    def test_survives_pickle(self):
        assert self.result == pickle.loads(pickle.dumps(self.result))

    def test_repr_tells_counts_and_backend_but_no_text(self):
        result = rerank("secret query", ["secret text"], backend=FakeBackend())

        assert "<RerankResult 1 of 1 documents by fake>" == repr(result)

    def test_is_a_plain_value(self):
        parts = {f.name: getattr(self.result, f.name) for f in dataclasses.fields(self.result)}

        assert self.result == RerankResult(**parts)


class TestDataFrame:
    def test_has_a_row_for_each_kept_document(self):
        pytest.importorskip("pandas")
        frame = rerank("q", ["0.25", "0.125", "0.5"], backend=numbers(), top_n=2).to_pandas()

        assert [
            {
                "rank": 1,
                "index": 2,
                "moved": 2,
                "score": 0.5,
                "document": "0.5",
                "truncated": False,
            },
            {
                "rank": 2,
                "index": 0,
                "moved": -1,
                "score": 0.25,
                "document": "0.25",
                "truncated": False,
            },
        ] == frame.to_dict("records")

    def test_an_empty_result_has_the_same_columns(self):
        pytest.importorskip("pandas")
        assert "moved" in rerank("q", [], backend=FakeBackend()).to_pandas().columns

    def test_without_pandas_the_error_says_what_to_install(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "pandas", None)
        with pytest.raises(MissingDependencyError, match="pip install pandas"):
            rerank("q", ["1"], backend=numbers()).to_pandas()


class TestNotebook:
    def test_shows_before_and_after(self):
        result = rerank("q", ["0.25", "0.125", "0.5"], backend=numbers("probability"))

        assert [
            ["1", "3", "▲2", "0.500", "0.5"],
            ["2", "1", "▼1", "0.250", "0.25"],
            ["3", "2", "▼1", "0.125", "0.125"],
        ] == Page(result._repr_html_()).rows()

    def test_a_document_that_stays_has_no_arrow(self):
        page = Page(rerank("q", ["1"], backend=numbers())._repr_html_())

        assert "=" == page.rows()[0][2]

    @pytest.mark.parametrize(
        ("scale", "documents", "widths"),
        [
            ("probability", ["1", "0.5", "0"], ["100.0%", "50.0%", "0.0%"]),
            ("logit", ["9", "-1", "-11"], ["100.0%", "52.0%", "4.0%"]),
            ("unknown", ["7", "7"], ["100.0%", "100.0%"]),
        ],
    )
    def test_bars_follow_the_scale(self, scale, documents, widths):
        html = rerank("q", documents, backend=numbers(scale))._repr_html_()

        assert widths == re.findall(r"display:block;width:([\d.]+%)", html)

    def test_is_self_contained(self):
        """No script, style sheet, image or address: nothing to load and nothing to sanitise."""
        page = Page(rerank(QUERY, DOCUMENTS, backend=FakeBackend())._repr_html_())

        assert set() == {"script", "style", "link", "img", "iframe", "svg"} & set(page.seen)
        assert {"style", "title", "dir", "scope", "aria-hidden"} >= {
            name for _, name, _ in page.attributes
        }
        assert not any("url(" in value for _, _, value in page.attributes)

    def test_escapes_what_it_shows(self):
        evil = """<script>alert('x')</script> & "quoted" onload='y'"""
        backend = FakeBackend(name="<i>name</i>")
        page = Page(rerank(evil, [evil], backend=backend)._repr_html_())

        assert evil == page.rows()[0][4]
        assert {"script", "i"}.isdisjoint(page.seen)
        assert "onload" not in {name for _, name, _ in page.attributes}

    def test_long_text_is_cut_and_hovering_shows_more(self):
        text = "word " * 200_000
        html = rerank("q", [text], backend=FakeBackend())._repr_html_()
        (title,) = [value for tag, name, value in Page(html).attributes if value[:4] == "word"]

        assert len(html) < 6_000
        assert Page(html).rows()[0][4].endswith("word…")
        assert len(title) > len(Page(html).rows()[0][4])

    def test_long_lists_are_folded(self):
        page = Page(rerank("q", ["1"] * 100, backend=numbers())._repr_html_())

        assert 100 == len(page.rows())
        assert 1 == page.seen.count("details")
        assert 20 == page.seen[: page.seen.index("details")].count("tr") - 1

    @pytest.mark.parametrize(("count", "digits"), [(9, 1), (10, 2), (120, 3), (2000, 4)])
    def test_ranks_have_room_for_their_digits(self, count, digits):
        """Of ten pixels each, beside the padding of their cell."""
        html = rerank("q", ["1"] * count, backend=numbers())._repr_html_()
        rank, was, move = map(float, re.findall(r"<col style=\"width:([\d.]+)px", html)[:3])

        assert min(rank, was) >= 20 + 10 * digits
        assert move >= 20 + 10 * (digits + 1)

    def test_on_a_phone_the_table_scrolls_rather_than_lose_the_texts(self):
        html = rerank("q", ["1"], backend=numbers())._repr_html_()

        assert html.index("overflow-x:auto") < html.index("<table")
        assert "min-width:600px" in html
        assert "width:clamp(76px,100vw - 480px,170px)" in html

    def test_short_lists_are_not_folded(self):
        assert "details" not in Page(rerank("q", ["1"] * 20, backend=numbers())._repr_html_()).seen

    def test_text_runs_in_its_own_direction(self):
        page = Page(rerank("الباندا", ["دب"], backend=FakeBackend())._repr_html_())

        assert "bdi" in page.seen
        assert ("td", "dir", "auto") in page.attributes

    def test_an_empty_result_says_so(self):
        html = rerank("q", ["1", "2"], backend=numbers(), top_n=0)._repr_html_()

        assert "0 of 2 documents" in html
        assert "table" not in Page(html).seen

    def test_images_are_named_not_embedded(self):
        documents = (Content(image=b"\x89PNG", text="a chart"), Content(image="https://x/y.png"))
        result = RerankResult(
            "q", documents, (Ranked(0, 1.0), Ranked(1, 0.5)), Scores([1.0, 0.5]), "b"
        )

        assert ["[image] a chart", "[image]"] == [
            row[4] for row in Page(result._repr_html_()).rows()
        ]

    def test_a_blank_document_is_called_empty(self):
        page = Page(rerank("q", ["", " "], backend=FakeBackend())._repr_html_())

        assert ["(empty)", "(empty)"] == [row[4] for row in page.rows()]

    def test_facts_of_the_scores_are_shown(self):
        scores = Scores(
            [1.0, 0.5],
            backend="a",
            truncated=[1],
            windows={0: 2},
            cached=1,
            usage=Usage(tokens=1234, search_units=1),
        )
        result = RerankResult("q", ("x", "y"), (Ranked(0, 1.0), Ranked(1, 0.5)), scores, "b")
        facts = "a · 1 truncated · 1 in windows · 1 cached · 1,234 tokens · 1 search unit"

        assert facts in result._repr_html_()
        assert ["x", "truncated: y"] == [row[4] for row in Page(result._repr_html_()).rows()]
        assert facts in terminal(result, width=120, no_color=True)
        assert "truncated: " in terminal(result, width=120, no_color=True)

    @pytest.mark.parametrize(
        ("share", "shown"), [(0.003, "<1 %"), (0.01, "1 %"), (0.306, "31 %"), (0.999, "99 %")]
    )
    def test_the_share_that_was_read_is_shown(self, share, shown):
        scores = Scores([1.0], backend="a", truncated=[0], read={0: share})
        result = RerankResult("q", ("x",), (Ranked(0, 1.0),), scores, "b")
        mark = f"truncated, {shown} read: x"

        assert [mark] == [row[4] for row in Page(result._repr_html_()).rows()]
        assert mark[:-1] in terminal(result, width=120, no_color=True)

    def test_the_passage_that_answers_is_shown(self):
        scores = Scores([1.0], backend="a", windows={0: 2}, passages={0: Passage(4, 10)})
        result = RerankResult("q", ("far answer", "y"), (Ranked(0, 1.0),), scores, "b")
        row = Page(result._repr_html_()).rows()[0]

        assert "… answer" == row[4]
        assert 'title="the passage that made the score"' in result._repr_html_()
        assert "… answer" in str(result)

    def test_a_passage_is_shown_from_its_best_sentence_on(self):
        document = "Far. Near the answer. It is here. Behind."
        sentence = Passage(22, 33)
        scores = Scores(
            [1.0],
            backend="a",
            windows={0: 2},
            passages={0: Passage(5, 41)},
            highlights={0: sentence},
        )
        result = RerankResult("q", (document,), (Ranked(0, 1.0),), scores, "b")

        assert "… It is here. Behind." == Page(result._repr_html_()).rows()[0][4]
        assert '<b title="the sentence that matches best">It is here.</b>' in result._repr_html_()
        assert "\x1b[1mIt is here." in terminal(result, width=120)
        assert "… It is here. Behind." in str(result)
        assert sentence == result[0].highlight

    def test_a_long_sentence_is_cut_to_the_line(self):
        spans = {0: Passage(1, 5000)}
        scores = Scores([1.0], backend="a", passages=spans, highlights=spans)
        result = RerankResult("q", ("x" * 5000,), (Ranked(0, 1.0),), scores, "b")

        assert Page(result._repr_html_()).rows()[0][4].endswith("xx…")

    def test_the_whole_name_of_the_backend_is_a_title(self):
        result = RerankResult(
            "q",
            ("d",),
            (Ranked(0, 1.0),),
            Scores([1.0], backend="tei+http://h:1/rerank", label="tei:m", scale="logit"),
            "chain",
        )
        page = Page(result._repr_html_())

        assert "1 of 1 document · logit · tei:m" in result._repr_html_()
        assert "tei+http://h:1/rerank" in [value for _, _, value in page.attributes]


class TestText:
    def test_print_shows_the_ranking(self):
        lines = str(rerank("q", ["0.25", "0.5"], backend=numbers("probability"))).splitlines()

        assert ["#", "moved", "score", "document"] == lines[0].split()
        assert ["1", "▲1", "0.500", "0.5"] == [lines[2].split()[i] for i in (0, 1, 2, -1)]
        assert "2 of 2 documents" in lines[-1]

    @pytest.mark.parametrize("documents", [[], ["1"], ["x\x1b[2Jy"]])
    def test_it_drives_no_terminal(self, documents):
        assert "\x1b" not in str(rerank("q", documents, backend=FakeBackend()))


class TestTerminal:
    result = rerank("q", ["0.5", "0.25", "1"], backend=numbers("probability"))

    def test_is_a_table(self):
        text = re.sub(r"\x1b\[[\d;]*m", "", terminal(self.result))
        rows = [line.split() for line in text.splitlines()]

        assert ["#", "moved", "score", "document"] == rows[0]
        assert ["1", "▲2", "1.000", "━" * 12, "1"] == rows[2]
        assert ["2", "▼1", "0.500", "0.5"] == [rows[3][i] for i in (0, 1, 2, -1)]
        assert "3 of 3 documents · probability · numbers" == " ".join(rows[5])

    def test_a_blank_document_is_called_empty(self):
        text = terminal(rerank("q", [""], backend=FakeBackend()), color_system="standard")

        assert "\x1b[2m(empty)" in text

    @pytest.mark.parametrize(
        ("facts", "shown"),
        [
            ({"backend": "local:a/b@main?engine=onnx", "label": "local:a/b"}, "local:a/b"),
            ({"backend": "vllm+https://h:8000/rerank?model=a", "label": "vllm:a"}, "vllm:a"),
            ({"backend": "mine"}, "mine"),
            ({}, "called"),
        ],
    )
    def test_the_label_of_the_backend_that_scored_is_shown(self, facts, shown):
        result = RerankResult("q", ("d",), (Ranked(0, 1.0),), Scores([1.0], **facts), "called")

        text = re.sub(r"\x1b\[[\d;]*m", "", terminal(result))

        assert f"1 of 1 document · {shown}" == text.splitlines()[-1].strip()

    def test_colours_tell_up_from_down(self):
        text = terminal(self.result, color_system="standard")

        assert re.search(r"\x1b\[32m\s*▲2", text)
        assert re.search(r"\x1b\[31m\s*▼1", text)

    def test_no_colour_is_respected(self):
        text = terminal(self.result, no_color=True)

        assert "▲2" in text
        assert not re.search(r"\x1b\[3\dm", text)

    @pytest.mark.parametrize("document", ["word " * 999, "大熊猫" * 999, "x" * 9999, "a\n" * 99])
    @pytest.mark.parametrize("width", [50, 80, 200])
    def test_rows_stay_one_line(self, document, width):
        text = terminal(rerank("q", [document] * 2, backend=FakeBackend()), width, no_color=True)

        assert 5 == len(text.splitlines())
        assert 2 == text.count("…")

    def test_control_characters_do_not_reach_the_terminal(self):
        result = rerank("q", ["a\x1b[31mred\x07\x00\u202edne"], backend=FakeBackend())
        text = terminal(result, no_color=True)

        assert "a [31mred dne" in text
        assert {"\x07", "\x00", "\u202e"}.isdisjoint(text)


def test_it_names_the_backend_of_a_chain_that_scored():
    down = FailingBackend(BackendUnavailable("down"))
    chain = FallbackBackend([down, FakeBackend(name="second")])

    assert "second" == rerank("q", ["q"], backend=chain).backend
    assert "second" == asyncio.run(arerank("q", ["q"], backend=chain)).backend


@pytest.mark.parametrize(
    ("name", "answer"),
    [("top_k", "`top_k` is called `top_n`"), ("model", "give it in `backend`"), ("x", "valid: ba")],
)
def test_names_from_other_rerankers_get_an_error_with_the_right_one(name, answer):
    with pytest.raises(ConfigError, match=answer):
        rerank(QUERY, DOCUMENTS, **{name: 2})
    with pytest.raises(ConfigError, match=answer):
        asyncio.run(arerank(QUERY, DOCUMENTS, **{name: 2}))


@pytest.mark.parametrize("min_score", [-0.1, 1.1])
def test_min_score_must_be_one_that_scores_can_have(min_score):
    with pytest.raises(ConfigError, match="outside 0 to 1"):
        rerank(QUERY, DOCUMENTS, backend=FakeBackend(), min_score=min_score)

    logits = FakeBackend(lambda _query, _document: 1.5, scale="logit")

    assert 3 == len(rerank(QUERY, DOCUMENTS, backend=logits, min_score=min_score))
