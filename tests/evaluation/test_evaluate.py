"""`evaluate()`: figures, comparisons and depths, against hand-worked cases and ir-measures."""

import importlib
import math
import subprocess
import sys
from types import SimpleNamespace

import pytest

from rerank_plugins import BackendUnavailable, ConfigError, load_backend
from rerank_plugins.evaluation import Dataset, evaluate, load_dataset
from rerank_plugins.evaluation.datasets.dataset import checked
from rerank_plugins.evaluation.evaluate import sweep
from rerank_plugins.evaluation.scoring import reranked
from rerank_plugins.testing import FakeBackend


def dataset(queries=40):
    """Each query has one relevant document, which the first stage finds last of four."""
    names = [f"d{number}" for number in range(4)]
    return checked(
        "made up",
        queries={f"q{number}": f"query {number}" for number in range(queries)},
        documents={name: name for name in names},
        qrels={f"q{number}": {"d3": 1} for number in range(queries)},
        candidates={f"q{number}": names for number in range(queries)},
    )


PERFECT = FakeBackend(lambda query, document: float(document == "d3"), name="perfect")
LAZY = FakeBackend(lambda query, document: 0.5, name="lazy")


def test_the_first_stage_is_always_the_baseline():
    evaluation = evaluate(dataset(), [PERFECT])

    assert ["first stage", "perfect"] == [system.label for system in evaluation.systems]
    assert 0.25 == evaluation.baseline.figures["MRR@10"].mean
    assert 1.0 == evaluation.backends[0].figures["MRR@10"].mean
    assert ("d3", "d0", "d1", "d2") == evaluation.backends[0].rankings["q0"]


def test_judgements_are_matched_to_queries_by_id():
    """Only what `load_dataset()` and its like build has both in one order."""
    data = Dataset(
        "made up",
        queries={"a": "query a", "b": "query b"},
        documents={"1": "1", "2": "2"},
        qrels={"b": {"2": 1}, "a": {"1": 1}},
        candidates={"a": ["1", "2"], "b": ["1", "2"]},
    )
    evaluation = evaluate(data, [LAZY], metrics=["MRR@10"])

    assert {"MRR@10": [1.0, 0.5]} == evaluation.baseline.values == evaluation.backends[0].values


def test_a_backend_is_not_used_again_once_it_is_closed(monkeypatch):
    """Its name may load the model, which nobody would close then."""
    closed = []

    class Loading(FakeBackend):
        @property
        def name(self):
            assert not closed
            return "loading"

        def close(self):
            closed.append(self)

    module = importlib.import_module("rerank_plugins.evaluation.evaluate")  # hidden by its function
    monkeypatch.setattr(module, "load_backend", lambda spec: Loading())
    evaluation = evaluate(dataset(1), {"label": "a spec"})

    assert 1 == len(closed)
    assert "loading" == evaluation.backends[0].name


def test_equal_scores_keep_the_first_stages_order():
    evaluation = evaluate(dataset(), [LAZY])

    assert evaluation.baseline.values == evaluation.backends[0].values
    assert 1.0 == evaluation.compared("lazy", "first stage").p_value


def test_documents_below_the_depth_keep_their_order_at_the_end():
    reverse = FakeBackend(lambda query, document: float("d0d1d2d3".find(document)), scale="logit")
    evaluation = evaluate(dataset(), [reverse], depth=3)

    assert ("d2", "d1", "d0", "d3") == evaluation.backends[0].rankings["q0"]
    assert 0.25 == evaluation.backends[0].figures["MRR@10"].mean


def test_depths_are_cut_from_one_scoring():
    backend = FakeBackend(lambda query, document: float(document == "d3"))
    evaluation = evaluate(dataset(2), [backend], depth=4, depths=[3])
    shallow, deep = evaluation.backends[0].by_depth

    assert (3, 0.25) == (shallow.depth, shallow.figures["MRR@10"].mean)
    assert (4, 1.0) == (deep.depth, deep.figures["MRR@10"].mean)
    assert 8 == sum(len(d) for _, d in backend.calls if d != ("warm-up",))
    assert (1, 4) == (len(deep.speed.seconds), deep.speed.pairs)


def test_comparisons_are_paired_and_adjusted():
    evaluation = evaluate(dataset(), {"a": PERFECT, "b": LAZY}, metrics=["MRR@10", "Success@1"])
    names = [(c.label, c.against) for c in evaluation.comparisons if c.metric == "MRR@10"]
    result = evaluation.compared("a", "first stage")

    assert [("a", "first stage"), ("b", "first stage"), ("b", "a")] == names
    assert 0.75 == result.difference.mean == result.difference.low == result.difference.high
    assert (40, 0) == (result.better, result.worse)
    assert pytest.approx(1 / 10_001) == result.p_value
    assert pytest.approx(3 / 10_001) == result.adjusted
    assert result.significant
    assert not evaluation.compared("b", "first stage", "Success@1").significant


def test_real_data_gets_the_figures_of_ir_measures(tmp_path):
    """The embedded model on a set in the package, beside ir-measures on a run file."""
    ir_measures = pytest.importorskip("ir_measures", reason="needs the extra `dev`")

    data = load_dataset("demo:covidqa").head(4)
    evaluation = evaluate(data, ["embedded"], depth=10)
    names = {
        "MRR@10": ir_measures.RR @ 10,
        "nDCG@10": ir_measures.nDCG @ 10,
        "MAP": ir_measures.AP,
        "Recall@10": ir_measures.R @ 10,
        "Success@1": ir_measures.Success @ 1,
    }
    for system in evaluation.systems:
        run, qrels = tmp_path / "run", tmp_path / "qrels"
        run.write_text(
            "".join(
                f"{query} Q0 {document} {place} {100 - place} x\n"
                for query, ids in system.rankings.items()
                for place, document in enumerate(ids, start=1)
            )
        )
        qrels.write_text(
            "".join(f"{q} 0 {d} {g}\n" for q, ds in data.qrels.items() for d, g in ds.items())
        )
        expected = ir_measures.calc_aggregate(
            names.values(),
            ir_measures.read_trec_qrels(str(qrels)),
            ir_measures.read_trec_run(str(run)),
        )
        for name, measure in names.items():
            ours = system.figures[name].mean
            assert math.isclose(expected[measure], ours, rel_tol=0, abs_tol=1e-9), name


def test_equal_seeds_give_equal_results():
    once, again = (evaluate(load_dataset("demo:xquad-zh"), [FakeBackend()], depth=5, seed=7)
                   for _ in range(2))  # fmt: skip

    assert once.comparisons == again.comparisons
    assert once.backends[0].figures == again.backends[0].figures


def test_backends_of_the_caller_stay_open():
    backend = FakeBackend()
    evaluate(dataset(1), [backend])

    assert 0 == backend.closed


def test_a_list_of_specs_is_labelled_by_them():
    evaluation = evaluate(dataset(1), ["embedded", load_backend("embedded?max_length=8")])
    names = [system.name for system in evaluation.backends]

    assert ["embedded", names[1]] == [system.label for system in evaluation.backends]


def test_a_backend_may_have_the_label_of_the_first_stage():
    evaluation = evaluate(dataset(1), {"first stage": PERFECT})

    assert ["first stage (before)", "first stage"] == [
        system.label for system in evaluation.systems
    ]


def test_depths_are_swept_on_the_way_to_the_deepest():
    assert (5, 10, 20, 50, 100) == sweep(100)
    assert (5, 7) == sweep(7)
    assert (3,) == sweep(3)
    assert (1, 2, 8) == sweep(8, [2, 1, 8])


@pytest.mark.parametrize(
    ("depth", "depths"), [(0, None), (2.0, None), (True, None), (5, [6]), (5, [0])]
)
def test_impossible_depths_are_refused(depth, depths):
    with pytest.raises(ConfigError, match="a depth must be an integer from 1 to the deepest"):
        sweep(depth, depths)


def test_a_comparison_is_found_by_labels_and_metric():
    evaluation = evaluate(dataset(2), {"a": PERFECT, "b": LAZY})

    assert "MRR@10" == evaluation.compared("a", "first stage").metric
    assert "nDCG@10" == evaluation.compared("b", "a", "ndcg@10").metric
    with pytest.raises(ConfigError, match=r"not compared with 'a' on MAP; valid: .*'b' with 'a'"):
        evaluation.compared("c", "a", "map")


def test_the_repr_of_an_evaluation_is_one_line():
    """Not megabytes of texts."""
    evaluation = evaluate(dataset(2), [PERFECT])

    assert "<Evaluation of made up: MRR@10 first stage 0.250, perfect 1.000>" == repr(evaluation)
    assert "<Dataset made up: 2 queries, candidates of first stage>" == repr(evaluation.dataset)
    assert "d3" not in repr(evaluation.systems)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backends": []}, "there is no backend"),
        ({"backends": None}, "not `NoneType`"),
        ({"backends": ["embedded", "embedded"]}, "'embedded' appears twice"),
        ({"backends": ["lokal:x"]}, "unknown kind of backend 'lokal'"),
        ({"backends": ["embedded"], "metrics": []}, "`metrics` is empty"),
        ({"backends": ["embedded"], "metrics": "MAP"}, r"a list of names, as in \['MAP'\]"),
        ({"backends": ["embedded"], "depth": None}, "a depth must be an integer"),
        ({"backends": ["embedded"], "metrics": ["F1"]}, "unknown metric 'F1'"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        evaluate(dataset(1), **settings)


def test_importing_the_module_loads_nothing_heavy():
    code = (
        "import sys, rerank_plugins.evaluation, rerank_plugins.cli; "
        "print({'numpy', 'ir_measures', 'bm25s', 'scipy', 'prometheus_client', 'langchain_core', "
        "'llama_index', 'ir_datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "set()" == done.stdout.strip()


class Loadable(FakeBackend):
    """Holds a model from its first score until it is closed; counts how many are held at once."""

    def __init__(self, name, held):
        super().__init__(name=name)
        self.held = held

    def score(self, query, documents):
        self.held.loaded.add(self.name)
        self.held.most = max(self.held.most, len(self.held.loaded))
        return super().score(query, documents)

    def close(self):
        self.held.loaded.discard(self.name)


@pytest.fixture
def held():
    return SimpleNamespace(loaded=set(), most=0)


def test_only_one_model_is_loaded_at_a_time(monkeypatch, held):
    module = importlib.import_module("rerank_plugins.evaluation.evaluate")
    monkeypatch.setattr(module, "load_backend", lambda spec: Loadable(spec, held))
    evaluation = evaluate(dataset(3), ["a", "b", "c"])

    assert (1, set()) == (held.most, held.loaded)
    assert ["a", "b", "c"] == [system.name for system in evaluation.backends]


def test_backends_that_fail_leave_none_loaded(monkeypatch, held):
    class Broken(Loadable):
        def score(self, query, documents):
            super().score(query, documents)
            raise BackendUnavailable("no memory is left")

    module = importlib.import_module("rerank_plugins.evaluation.evaluate")
    monkeypatch.setattr(module, "load_backend", lambda spec: Broken(spec, held))
    with pytest.raises(BackendUnavailable):
        evaluate(dataset(3), ["a", "b"])

    assert set() == held.loaded


def test_a_wrong_spec_is_found_before_anything_is_scored():
    backend = FakeBackend()
    with pytest.raises(ConfigError, match="unknown kind of backend 'lokal'"):
        evaluate(dataset(3), {"a": backend, "b": "lokal:x"})

    assert [] == backend.calls


def test_backends_that_the_caller_built_stay_open(held):
    evaluate(dataset(3), [Loadable("a", held), Loadable("b", held)])

    assert {"a", "b"} == held.loaded


def test_each_ranking_is_computed_once(monkeypatch):
    module = importlib.import_module("rerank_plugins.evaluation.evaluate")
    made = []

    def counted(data, scored, depth):
        made.append(depth)
        return reranked(data, scored, depth)

    monkeypatch.setattr(module, "reranked", counted)
    evaluation = evaluate(dataset(3), [PERFECT], depth=4, depths=[1, 2])

    assert [1, 2, 4] == made
    assert ("d3", "d0", "d1", "d2") == evaluation.backends[0].rankings["q0"]
