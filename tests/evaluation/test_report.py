"""Reports: what they say, and that they are self-contained."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest

from rerank_plugins.evaluation import evaluate
from rerank_plugins.evaluation.datasets.dataset import checked
from rerank_plugins.evaluation.report import as_html, as_json, as_markdown
from rerank_plugins.evaluation.report.format import milliseconds, remarks, signed, verdict
from rerank_plugins.evaluation.report.svg import nice_ticks
from rerank_plugins.evaluation.results import Latency
from rerank_plugins.evaluation.scoring import Timing
from rerank_plugins.testing import FakeBackend

NASTY = "<script>alert('大熊猫')</script> | \x1b[31m \u202e"


def dataset(queries=40):
    names = [f"d{number}" for number in range(4)]
    return checked(
        "made <up>",
        queries={f"q{number}": f"query {number} {NASTY}" for number in range(queries)},
        documents={name: f"{name} {NASTY}" for name in names},
        qrels={f"q{number}": {"d2": 1} for number in range(queries)},
        candidates={f"q{number}": names for number in range(queries)},
        warnings=["7 things are odd"],
        credit="CC BY-SA, by somebody",
    )


@pytest.fixture(scope="module")
def evaluation():
    better = FakeBackend(lambda query, document: float(document.startswith("d2")), name="better")
    worse = FakeBackend(lambda query, document: float(document.startswith("d3")), name="worse")
    same = FakeBackend(lambda query, document: 0.5, name="same")
    named = {"good | one": better, "bad <one>": worse, "same": same}
    return evaluate(dataset(), named, depth=4, depths=[2, 3])


def test_verdicts_are_better_worse_or_unclear(evaluation):
    better, worse, same = (verdict(evaluation, system) for system in evaluation.backends)

    assert ("better", "worse", "unclear") == (better.kind, worse.kind, same.kind)
    assert better.sentence == (
        "Better than first stage: MRR@10 0.333 → 1.000, +0.667 (+0.667 to +0.667, p < 0.001 "
        "adjusted for 6 comparisons); better on 40 of 40 queries, worse on 0."
    )
    assert worse.sentence.startswith("Worse than first stage: MRR@10 0.333 → 0.250, \u22120.083 (")
    assert same.sentence.startswith("No clear difference: MRR@10 0.333 → 0.333, 0.000 (0.000 to")


@pytest.mark.parametrize(("backends", "comparisons"), [(1, None), (2, 3), (3, 6)])
def test_a_verdict_tells_for_how_many_comparisons_p_is_adjusted(backends, comparisons):
    named = {f"same {number}": FakeBackend(lambda *_: 0.5) for number in range(backends)}
    result = evaluate(dataset(4), named, depth=4)
    sentence = verdict(result, result.backends[0]).sentence

    if comparisons is None:
        assert "adjusted" not in sentence
    else:
        assert f" adjusted for {comparisons} comparisons)" in sentence


def test_json_holds_every_value(evaluation):
    document = json.loads(as_json(evaluation))
    better = document["systems"][1]

    assert ["first stage", "good | one", "bad <one>", "same"] == [
        system["label"] for system in document["systems"]
    ]
    assert {f"q{number}": 1.0 for number in range(40)} == better["per_query"]["MRR@10"]
    assert [2, 3, 4] == [row["depth"] for row in better["depths"]]
    assert better["depths"][-1]["speed"]["pairs_per_second"] > 0
    assert {"mean": 1.0, "low": 1.0, "high": 1.0} == better["figures"]["MRR@10"]
    assert 6 * 5 == len(document["comparisons"])
    assert "7 things are odd" in document["warnings"]
    assert "大熊猫" not in as_json(evaluation)


def test_names_of_data_cannot_break_out_of_the_markdown():
    data = replace(dataset(2), name=NASTY, first_stage=NASTY)
    text = as_markdown(evaluate(data, [FakeBackend()], depth=4))

    assert "<script>" not in text
    assert text.startswith("# Reranking &lt;script>alert")


def test_markdown_tables_have_as_many_cells_as_columns(evaluation):
    text = as_markdown(evaluation)
    widths = {}
    for line in text.splitlines():
        if line.startswith("|"):
            block = widths.setdefault(text[: text.index(line)].count("\n## "), set())
            block.add(len(re.findall(r"(?<!\\)\|", line)))

    assert {1: {7}, 2: {9}, 3: {13}} == widths
    assert "7 things are odd" in text
    assert "CC BY-SA, by somebody" in text
    assert "<one>" not in text


class Strict(HTMLParser):
    """Notes what a page loads, and whether its tags are balanced."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.loads = [], [], []

    def handle_starttag(self, tag, attributes):
        self.handle_startendtag(tag, attributes)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.loads += [value for name, value in attributes if name in {"src", "href"}]
        assert not [name for name, _ in attributes if name.startswith("on")]

    def handle_endtag(self, tag):
        assert tag == self.open.pop()


def test_the_page_is_whole_and_loads_nothing(evaluation):
    page = as_html(evaluation)
    parsed = Strict()
    parsed.feed(page)

    assert [] == parsed.open
    assert [] == parsed.loads
    assert {"script", "link", "iframe", "img"}.isdisjoint(parsed.tags)
    assert "url(" not in page
    assert "@import" not in page
    assert "prefers-color-scheme:dark" in page


def test_the_page_shows_texts_and_never_runs_them(evaluation):
    page = as_html(evaluation)

    assert "&lt;script&gt;alert(&#x27;大熊猫&#x27;)" in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "bad &lt;one&gt;" in page
    assert "7 things are odd" in page


def test_the_pictures_are_well_formed(evaluation):
    pictures = re.findall(r"<svg.*?</svg>", as_html(evaluation), re.DOTALL)

    assert 2 + 3 == len(pictures)
    for picture in pictures:
        root = ET.fromstring(picture)  # raises on what no browser should have to guess
        width, height = map(float, root.attrib["viewBox"].split()[2:])
        assert root.attrib["aria-label"]
        for circle in root.iter("{http://www.w3.org/2000/svg}circle"):
            assert 0 <= float(circle.attrib["cx"]) <= width
            assert 0 <= float(circle.attrib["cy"]) <= height


def test_queries_that_got_worse_come_with_their_documents(evaluation):
    page = as_html(evaluation)

    assert "40 queries, the 10 with the largest drops." in page
    assert 10 == page.count("<details")
    assert 1 == page.count("<details open>")
    assert "place after: 1" in page


def test_a_single_query_makes_a_report(tmp_path):
    evaluation = evaluate(dataset(1), [FakeBackend(lambda q, d: 0.0)], depth=1)

    assert any(line.startswith("there is only 1 query") for line in remarks(evaluation))
    assert as_html(evaluation)
    assert as_markdown(evaluation)


def test_the_limit_set_by_missing_candidates_is_reported():
    data = dataset(3)
    evaluation = evaluate(data, [FakeBackend()], depth=2)

    assert any(
        "hold a relevant document for 0 of 3 queries" in line for line in remarks(evaluation)
    )


def test_speed_counts_calls_by_nearest_rank():
    speed = Latency.of([Timing(5, 5, seconds / 100) for seconds in range(100, 0, -1)])

    assert (0.5, 0.95, 0.99) == tuple(speed.percentile(p) for p in (50, 95, 99))
    assert pytest.approx(500 / 50.5) == speed.pairs_per_second
    assert Latency.of([]) is None


def test_numbers_have_one_format():
    assert ["+0.120", "\u22120.120", "0.000", "0.000"] == [
        signed(value) for value in (0.12, -0.12, 0.0, -0.0001)
    ]
    assert ["1.23", "12.3", "123", "1,234"] == [
        milliseconds(value) for value in (0.001234, 0.01234, 0.1234, 1.234)
    ]


@pytest.mark.parametrize(("low", "high"), [(0.31, 0.94), (0.0, 1.0), (0.9501, 0.9502), (0, 3000)])
def test_ticks_are_round_and_hold_the_data(low, high):
    ticks = nice_ticks(low, high)

    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 3 <= len(ticks) <= 9
