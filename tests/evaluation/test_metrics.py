"""Metrics: the figures of trec_eval, to 1e-9."""

import math
import random

import pytest

from rerank_plugins import ConfigError
from rerank_plugins.evaluation import load_dataset
from rerank_plugins.evaluation.metrics import (
    DEFAULT_METRICS,
    METRIC_FORMS,
    METRICS,
    measure,
    metric_description,
    metric_name,
)

pytrec_eval = pytest.importorskip("pytrec_eval", reason="needs the extra `dev`")

ORIGINALS = {
    **{metric.name: metric.trec_eval for metric in METRICS.values() if metric.trec_eval},
    **{
        f"{metric.name}@{cutoff}": f"{metric.trec_eval_cut}_{cutoff}"
        for metric in METRICS.values()
        for cutoff in (5, 10)
        if metric.trec_eval_cut
    },
}
"""Our names → trec_eval's."""


def random_case(seed):
    """Judgements with grades of 0 to 3, some without a relevant one, and incomplete rankings."""
    draw = random.Random(seed)
    ids = [f"d{number}" for number in range(40)]
    qrels, rankings = {}, {}
    for number in range(20):
        query = f"q{number}"
        judged = draw.sample(ids, draw.randint(1, 15))
        qrels[query] = {document: draw.choice([0, 0, 1, 2, 3]) for document in judged}
        if draw.random() < 0.9:
            rankings[query] = draw.sample(ids, draw.randint(1, 40))
    return qrels, rankings


def trec_eval(qrels, rankings):
    """Measure by trec_eval, with scores that give the order without ties."""
    run = {
        query: {document: 1.0 / place for place, document in enumerate(documents, start=1)}
        for query, documents in rankings.items()
    }
    evaluator = pytrec_eval.RelevanceEvaluator(qrels, set(ORIGINALS.values()))
    return evaluator.evaluate(run)


def assert_equal_to_trec_eval(qrels, rankings):
    ours = measure(qrels, rankings, list(ORIGINALS))
    theirs = trec_eval(qrels, rankings)
    for name, original in ORIGINALS.items():
        assert set(qrels) == set(ours[name])
        for query in qrels:
            expected = theirs[query][original] if query in theirs else 0.0
            assert math.isclose(expected, ours[name][query], rel_tol=0, abs_tol=1e-9), name


@pytest.mark.parametrize("seed", range(20))
def test_random_rankings_get_the_figures_of_trec_eval(seed):
    assert_equal_to_trec_eval(*random_case(seed))


@pytest.mark.parametrize("name", ["covidqa", "xquad-zh"])
def test_real_rankings_get_the_figures_of_trec_eval(name):
    data = load_dataset(f"demo:{name}")

    assert_equal_to_trec_eval(data.qrels, data.candidates)


@pytest.mark.parametrize("seed", range(5))
def test_mrr_at_k_is_trec_evals_mrr_of_the_first_k(seed):
    """trec_eval has no MRR@k: it is its MRR of the first k documents."""
    qrels, rankings = random_case(seed)
    heads = {query: documents[:10] for query, documents in rankings.items()}
    theirs = trec_eval(qrels, heads)
    ours = measure(qrels, rankings, ["MRR@10"])["MRR@10"]

    assert pytest.approx({q: theirs.get(q, {}).get("recip_rank", 0.0) for q in qrels}) == ours


def test_a_hand_worked_example():
    qrels = {"q": {"a": 3, "b": 1, "nowhere": 1}}
    values = measure(qrels, {"q": ["x", "a", "y", "b"]}, ["MRR@10", "nDCG@10", "MAP", "Recall@2"])
    ideal = 3 / math.log2(2) + 1 / math.log2(3) + 1 / math.log2(4)

    assert 1 / 2 == values["MRR@10"]["q"]
    assert pytest.approx((3 / math.log2(3) + 1 / math.log2(5)) / ideal) == values["nDCG@10"]["q"]
    assert pytest.approx((1 / 2 + 2 / 4) / 3) == values["MAP"]["q"]
    assert pytest.approx(1 / 3) == values["Recall@2"]["q"]


def test_an_empty_or_missing_ranking_counts_as_zero():
    values = measure({"q1": {"a": 1}, "q2": {"a": 1}}, {"q1": []})

    assert {name: {"q1": 0.0, "q2": 0.0} for name in DEFAULT_METRICS} == values


def test_a_negative_grade_is_not_relevant():
    values = measure({"q": {"spam": -2, "a": 1}}, {"q": ["spam", "a"]}, ["MRR", "nDCG", "MAP"])

    assert {"MRR": 0.5, "MAP": 0.5} == {name: values[name]["q"] for name in ("MRR", "MAP")}
    assert pytest.approx(1 / math.log2(3)) == values["nDCG"]["q"]


@pytest.mark.parametrize(
    ("spelled", "name"),
    [("mrr@10", "MRR@10"), ("NDCG@5", "nDCG@5"), ("map", "MAP"), ("success@1", "Success@1")],
)
def test_spelling_does_not_matter(spelled, name):
    assert name == metric_name(spelled)


@pytest.mark.parametrize("text", ["", "f1", "MRR@0", "MRR@", "nDCG@x", "MRR@10@5"])
def test_unknown_metrics_are_refused_with_the_valid_ones(text):
    with pytest.raises(ConfigError, match=r"valid: MRR, MRR@K, nDCG, nDCG@K"):
        metric_name(text)


def test_recall_needs_a_cut_off():
    with pytest.raises(ConfigError, match="needs a cut-off, as in Recall@10"):
        metric_name("recall")


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_names_its_counterpart_in_trec_eval(name):
    """Whoever adds a metric names its original in the same entry."""
    assert {name, f"{name}@5"} & {*ORIGINALS}


@pytest.mark.parametrize("form", METRIC_FORMS.split(", "))
def test_every_form_that_messages_list_is_valid_and_described(form):
    name = form.replace("@K", "@7")

    assert name == metric_name(name)
    assert metric_description(name).startswith(f"{name}: ")
    assert ("first 7" in metric_description(name)) == ("@" in form)
