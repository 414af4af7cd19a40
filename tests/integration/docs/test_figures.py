"""The figures of the demo that the page states come out, on any processor and any version."""

import re

import pytest

from rerank_plugins.evaluation import evaluate, load_dataset
from tests.support.places import ROOT

_PAGE = re.sub(r"\s+", " ", (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("covidqa", r"raises MRR@10 from ([\d.]+) to ([\d.]+) \(p = 0.002, (\d+) queries\)"),
        ("xquad-zh", r"raises it from ([\d.]+) to ([\d.]+) \((\d+) queries\)"),
    ],
)
def test_the_demo_gives_the_stated_figures(name, sentence):
    before, after, count = map(float, re.search(sentence, _PAGE).groups())
    evaluation = evaluate(load_dataset(f"demo:{name}"), ["embedded"], metrics=("MRR@10",))
    systems = (evaluation.baseline, *evaluation.backends)

    assert count == len(evaluation.dataset.queries)
    assert [before, after] == [
        pytest.approx(system.figures["MRR@10"].mean, abs=0.002) for system in systems
    ]
