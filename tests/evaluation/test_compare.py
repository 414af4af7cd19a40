"""Several backends on the same documents, side by side."""

import json
from html.parser import HTMLParser
from io import StringIO

import pytest
from rich.console import Console

from rerank_plugins import Backend, ConfigError, Content
from rerank_plugins.backends.embedded import EmbeddedBackend
from rerank_plugins.evaluation.compare import FIRST_STAGE, compare
from rerank_plugins.scores import Scores, Usage
from rerank_plugins.testing import FailingBackend

DOCUMENTS = ["Paris is in France.", "熊猫是熊。", "Pandas are bears that eat bamboo.", "hi"]


class Table(Backend):
    """Gives the scores it was made with."""

    def __init__(self, name, *scores):
        self._name, self.scores, self.closed = name, scores, 0

    @property
    def name(self):
        return self._name

    def score(self, query, documents):
        return list(self.scores)

    def close(self):
        self.closed += 1


class Reader(HTMLParser):
    """Reads what a page shows, and notes what is not closed."""

    def __init__(self, page):
        super().__init__()
        self.open, self.text, self.tags = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "path"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag != "path":
            assert tag == self.open.pop()

    def handle_data(self, data):
        self.text.append(data)


def by_two():
    return compare(
        "bears", DOCUMENTS, [Table("a", 0.0, 3.0, 2.0, 1.0), Table("b", 1.0, 2.0, 2.0, 0.0)]
    )


def printed(comparison, width=100):
    console = Console(file=StringIO(), width=width)
    console.print(comparison)
    return console.file.getvalue()


def test_each_order_ranks_all_documents():
    comparison = by_two()

    assert [FIRST_STAGE, "a", "b"] == [o.label for o in comparison.orderings]
    assert [(0, 1, 2, 3), (1, 2, 3, 0), (1, 2, 0, 3)] == [o.order for o in comparison.orderings]
    assert [(1, 2, 3, 4), (4, 1, 2, 3), (3, 1, 2, 4)] == [o.ranks for o in comparison.orderings]
    assert [None, (0.0, 3.0, 2.0, 1.0), (1.0, 2.0, 2.0, 0.0)] == [
        o.scores for o in comparison.orderings
    ]


def test_each_pair_of_orders_is_compared():
    comparison = compare("q", DOCUMENTS, {"same": Table("s", 4, 3, 2, 1)}, top_n=2)
    (pair,) = comparison.agreements

    assert (FIRST_STAGE, "same", 1.0, 2) == (pair.first, pair.second, pair.tau, pair.overlap)
    assert 1.0 == pytest.approx(pair.rbo)
    assert [(FIRST_STAGE, "a"), (FIRST_STAGE, "b"), ("a", "b")] == [
        (pair.first, pair.second) for pair in by_two().agreements
    ]


def test_tau_counts_ties_and_is_none_where_all_scores_are_equal():
    comparison = compare("q", DOCUMENTS, {"flat": Table("f", 1, 1, 1, 1)})

    assert None is comparison.agreements[0].tau
    assert (0, 1, 2, 3) == comparison.orderings[1].order
    assert "4 tied, kept as found" in comparison._repr_html_()
    assert "–" in printed(comparison)


def test_only_what_is_in_the_top_of_an_order_is_shown():
    comparison = compare("q", DOCUMENTS, {"last": Table("l", 0, 1, 2, 3)}, top_n=1)

    assert (3, 0) == comparison.shown
    assert 4 == len(comparison.documents)


def test_labels_are_kind_and_model_where_these_differ():
    alone = compare("q", ["a b", "b"], ["embedded"])
    two = compare("q", ["a b", "b"], ["embedded", "embedded?max_length=8"])

    assert "embedded" == alone.orderings[1].label
    assert ["embedded", "embedded?max_length=8"] == [o.label for o in two.orderings[1:]]


def test_a_backend_that_was_passed_stays_open_and_unchanged():
    backend, documents = Table("mine", 1, 2), ["a", "b"]
    compare("q", documents, [backend])

    assert 0 == backend.closed
    assert ["a", "b"] == documents


@pytest.mark.parametrize(
    ("backends", "options", "message"),
    [
        ([], {}, "there is no backend"),
        (None, {}, "not `NoneType`"),
        (["embedded", "embedded"], {}, "'embedded' appears twice"),
        ({FIRST_STAGE: "embedded"}, {}, "no backend may be called"),
        (["embedded"], {"top_n": 0}, "at least 1"),
        (["embedded"], {"ids": ["a"]}, "4 documents but 1 ids"),
        (["lokal:x"], {}, "unknown kind of backend 'lokal'"),
    ],
)
def test_mistakes_are_refused(backends, options, message):
    with pytest.raises(ConfigError, match=message):
        compare("q", DOCUMENTS, backends, **options)


@pytest.mark.parametrize("backend", ["embedded", EmbeddedBackend()])
def test_one_backend_needs_no_list(backend):
    labels = [ordering.label for ordering in compare("q", DOCUMENTS, backend).orderings]

    assert [FIRST_STAGE, "embedded"] == labels


def test_a_failing_backend_fails_the_comparison():
    failing = FailingBackend(OSError("no"))
    with pytest.raises(OSError, match="no"):
        compare("q", DOCUMENTS, [Table("t", 1, 2, 3, 4), failing])


def test_no_documents_are_no_error():
    comparison = compare("q", [], ["embedded"])

    assert () == comparison.shown
    assert "0 documents" in comparison._repr_html_()


def test_the_chart_draws_a_line_per_document_and_gap():
    reader = Reader(by_two()._repr_html_())
    lines = [attrs["class"] for tag, attrs in reader.tags if tag == "path"]

    assert [] == reader.open
    assert 2 * 4 == len(lines)
    assert {"d0", "d1", "d2", "d3"} == {*lines}
    assert "熊猫是熊。" in reader.text


def test_a_rank_that_is_not_shown_gets_a_dotted_stub():
    comparison = compare("q", DOCUMENTS, {"last": Table("l", 0, 1, 2, 3)}, top_n=2)
    dotted = [a for t, a in Reader(comparison._repr_html_()).tags if "stroke-dasharray" in a]

    assert 4 == len(dotted)


def test_the_page_is_self_contained_and_shows_everything_in_full():
    long = "A long document. " * 100
    page = compare("熊猫?", [*DOCUMENTS, long], {"a": Table("a", 1, 2, 3, 4, 5)}).to_html()
    reader = Reader(page.removeprefix("<!doctype html>\n"))

    assert [] == reader.open
    assert not {"script", "link", "img"} & {tag for tag, _ in reader.tags}
    assert "://" not in page
    assert long.strip() in " ".join(reader.text)


def test_texts_can_not_break_out_of_the_page():
    evil = '"><script>alert(1)</script>\x1b[31m\u202e'
    comparison = compare(
        evil, [evil, Content(text=evil)], {evil: Table(evil, 1, 2)}, ids=[evil, evil]
    )

    assert "<script" not in comparison.to_html()
    assert "\x1b" not in printed(comparison)
    assert "\u202e" not in comparison.to_html()


def test_a_terminal_shows_ranks_moves_and_agreement():
    lines = printed(by_two()).splitlines()

    assert ["first", "a", "b", "document"] == lines[0].split()
    assert ["2", "1", "▲1", "1", "▲1", "熊猫是熊。"] == lines[2].split()
    assert any("a ↔ b" in line for line in lines)
    assert all(len(line) <= 80 for line in printed(by_two(), width=80).splitlines())


def test_its_json_holds_no_text_but_the_query():
    facts = json.loads(json.dumps(by_two().to_dict()))

    assert "Paris" not in json.dumps(facts)
    assert [0, 1, 2, 3] == facts["orderings"][0]["order"]
    assert {"first", "second", "kendall_tau", "rbo", "overlap"} == {*facts["agreement"][0]}


def test_its_repr_holds_no_text():
    assert "<Comparison 4 documents by a, b>" == repr(by_two())


def test_facts_of_the_scores_are_shown_and_written():
    class Telling(Table):
        def score(self, query, documents):
            return Scores(
                self.scores,
                backend="who scored",
                model="m",
                truncated=[2],
                cached=1,
                usage=Usage(tokens=7),
            )

    comparison = compare("q", DOCUMENTS, {"label": Telling("chain", 1, 2, 3, 4)})
    first, second = comparison.to_dict()["orderings"]
    facts = {"model": "m", "truncated": [2], "cached": 1, "backend": "who scored"}

    assert facts.items() <= second.items()
    assert {"tokens": 7, "search_units": None} == second["usage"]
    assert (None, None, []) == (first["backend"], first["usage"], first["truncated"])
    assert "1 truncated" in comparison._repr_html_()
    assert 'title="who scored"' in comparison._repr_html_()
