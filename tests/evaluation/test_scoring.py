"""Each pair is scored once, depths take turns, and a killed run resumes."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import pytest

from rerank_plugins import BackendUnavailable, ConfigError, InvalidResponse, load_backend
from rerank_plugins.evaluation import load_dataset
from rerank_plugins.evaluation.datasets.dataset import checked
from rerank_plugins.evaluation.scoring import score_candidates
from rerank_plugins.testing import FailingBackend, FakeBackend
from rerank_plugins.wrappers.fallback import FallbackBackend


def dataset(queries=6, documents=10):
    names = [f"d{number}" for number in range(documents)]
    return checked(
        "made up",
        queries={f"q{number}": f"query {number}" for number in range(queries)},
        documents={name: f"document {name}" for name in names},
        qrels={f"q{number}": {"d0": 1} for number in range(queries)},
        candidates={f"q{number}": names for number in range(queries)},
    )


def size(folder):
    return sum(path.stat().st_size for path in folder.iterdir())


def pairs(backend):
    """Return every (query, document) pair that was scored but for the warm-up."""
    return [(q, d) for q, documents in backend.calls for d in documents if d != "warm-up"]


def test_every_pair_is_scored_once():
    backend, data = FakeBackend(), dataset()
    scored = score_candidates(backend, data, [2, 5, 10])

    assert 60 == len(pairs(backend)) == len(set(pairs(backend)))
    assert list(data.queries) == list(scored)
    assert {10} == {len(result.down_to(10)) for result in scored.values()}
    assert scored["q0"].down_to(10)[:2] == scored["q0"].down_to(2)


def test_depths_are_timed_in_turns_on_new_documents():
    scored = score_candidates(FakeBackend(), dataset(), [2, 5, 10])

    assert [10, 2, 10, 5, 10, 2] == [result.timing.depth for result in scored.values()]
    assert [10, 2, 10, 5, 10, 2] == [result.timing.documents for result in scored.values()]
    assert all(result.timing.seconds > 0 for result in scored.values())


def test_the_first_call_is_not_timed():
    backend = FakeBackend()
    score_candidates(backend, dataset(), [10])

    assert ("query 0", ("warm-up",)) == backend.calls[0]


def test_a_listwise_backend_scores_each_depth():
    class Listwise(FakeBackend):
        cacheable = False
        pointwise = False

        def score(self, query, documents):
            super().score(query, documents)
            return [float(len(documents) + place) for place in range(len(documents))]

    backend = Listwise()
    scored = score_candidates(backend, dataset(1), [2, 10])

    assert [2.0, 3.0] == scored["q0"].down_to(2)
    assert [10.0, 11.0] == scored["q0"].down_to(10)[:2]


def test_a_query_without_candidates_is_not_scored():
    data = dataset(2)
    data = replace(data, candidates={"q0": (), "q1": data.candidates["q1"]})
    scored = score_candidates(FakeBackend(), data, [5, 10])

    assert ([], None) == (scored["q0"].down_to(5), scored["q0"].timing)


def test_too_few_scores_are_an_error():
    class Short(FakeBackend):
        def score(self, query, documents):
            return [1.0]

    with pytest.raises(InvalidResponse, match="got 1 scores for 10 documents"):
        score_candidates(Short(), dataset(), [10])


class TestJournal:
    def test_what_was_scored_is_not_scored_again(self, tmp_path):
        data, steps = dataset(), []
        first = score_candidates(FakeBackend(), data, [5, 10], folder=tmp_path)
        again = FakeBackend()
        second = score_candidates(
            again, data, [5, 10], folder=tmp_path, on_query=lambda: steps.append(1)
        )

        assert first == second
        assert [] == again.calls
        assert 6 == len(steps)

    def test_other_names_and_other_data_have_separate_files(self, tmp_path):
        score_candidates(FakeBackend(), dataset(), [10], folder=tmp_path)
        for backend, data in ((FakeBackend(name="b"), dataset()), (FakeBackend(), dataset(5))):
            score_candidates(backend, data, [10], folder=tmp_path)

            assert backend.calls

        assert 3 == len(list(tmp_path.iterdir()))

    def test_chains_with_other_settings_have_separate_files(self, tmp_path):
        """The name of a fallback chain lists labels only, which these two share."""
        data = dataset()
        chains = [
            FallbackBackend([load_backend({"kind": "embedded", "max_length": n}), FakeBackend()])
            for n in (1, 256)
        ]
        scored = [score_candidates(chain, data, [10], folder=tmp_path) for chain in chains]
        again = score_candidates(chains[1], data, [10], folder=tmp_path)

        assert scored[1] == again
        assert scored[0]["q0"].down_to(10) != scored[1]["q0"].down_to(10)
        assert 2 == len(list(tmp_path.iterdir()))

    def test_a_deeper_run_scores_anew_and_a_shallower_one_does_not(self, tmp_path):
        data = dataset()
        for depth, calls in ((5, True), (10, True), (3, False), (10, False)):
            backend = FakeBackend()
            scored = score_candidates(backend, data, [depth], folder=tmp_path)

            assert calls == bool(backend.calls), depth
            assert depth == len(scored["q0"].down_to(depth))

    @pytest.mark.parametrize("cut", [1, 20, 90])
    def test_a_line_that_was_cut_off_is_scored_again(self, tmp_path, cut):
        data = dataset()
        expected = score_candidates(FakeBackend(), data, [10], folder=tmp_path)
        (path,) = tmp_path.iterdir()
        path.write_bytes(path.read_bytes()[:-cut])
        for known in (5 if cut > 1 else 6, 6):
            backend = FakeBackend()
            scored = score_candidates(backend, data, [10], folder=tmp_path)

            assert {q: s.by_depth for q, s in expected.items()} == {
                q: s.by_depth for q, s in scored.items()
            }
            assert 6 - known == len({query for query, _ in pairs(backend)})

    @pytest.mark.parametrize(
        "line",
        [
            b"5",
            b"null",
            b'{"query": "q0"}',
            b'{"query": ["q0"]}',
            b'{"query": "q0", "scores": {"10": [1]}, "timing": null}',
            b'{"query": "q0", "scores": {"10": ["x"]}, "timing": null}',
            b'{"query": "q0", "scores": {}, "timing": null}',
            b'{"query": "q0", "scores": 1, "timing": 2}',
            b"\xff\xfe",
        ],
    )
    def test_an_invalid_line_is_ignored(self, tmp_path, line):
        data = dataset()
        expected = score_candidates(FakeBackend(), data, [10], folder=tmp_path)
        (path,) = tmp_path.iterdir()
        path.write_bytes(line + b"\n" + path.read_bytes() + line + b"\n")

        assert expected == score_candidates(FakeBackend(), data, [10], folder=tmp_path)

    def test_scores_from_before_a_failure_are_kept(self, tmp_path):
        class Breaking(FakeBackend):
            def score(self, query, documents):
                if query == "query 3":
                    raise BackendUnavailable("gone")
                return super().score(query, documents)

        with pytest.raises(BackendUnavailable):
            score_candidates(Breaking(), dataset(), [10], folder=tmp_path)
        backend = FakeBackend()
        score_candidates(backend, dataset(), [10], folder=tmp_path)

        assert {"query 3", "query 4", "query 5"} == {query for query, _ in pairs(backend)}

    def test_the_backend_is_not_called_if_all_scores_are_saved(self, tmp_path):
        score_candidates(FakeBackend(name="failing"), dataset(), [10], folder=tmp_path)

        score_candidates(FailingBackend(RuntimeError()), dataset(), [10], folder=tmp_path)

    def test_a_folder_that_cannot_be_written_is_an_error(self, tmp_path):
        (tmp_path / "file").touch()

        with pytest.raises(ConfigError, match=r"can't (read|write) .*file"):
            score_candidates(FakeBackend(), dataset(), [10], folder=tmp_path / "file")

    def test_a_killed_run_resumes(self, tmp_path):
        """A process is killed while it scores real data; the next one does the rest alone."""
        script = textwrap.dedent(
            """
            import sys, time
            from pathlib import Path
            from rerank_plugins.evaluation import load_dataset
            from rerank_plugins.evaluation.scoring import score_candidates
            from rerank_plugins.testing import FakeBackend, word_overlap

            def slow(query, document):
                time.sleep(0.001)
                return word_overlap(query, document)

            data = load_dataset("demo:covidqa")
            score_candidates(FakeBackend(slow), data, [5, 20], folder=Path(sys.argv[1]))
            """
        )
        child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and size(tmp_path) < 2000:
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL)
        child.wait(timeout=30)
        (path,) = tmp_path.iterdir()
        whole = [line for line in path.read_bytes().split(b"\n")[:-1] if line]
        known = sum("query" in json.loads(line) for line in whole)
        data, backend = load_dataset("demo:covidqa"), FakeBackend()
        scored = score_candidates(backend, data, [5, 20], folder=tmp_path)
        asked = {query for query, documents in backend.calls if documents != ("warm-up",)}

        assert 3 <= known < 40
        assert 40 - known == len(asked)
        assert [s.by_depth for s in score_candidates(FakeBackend(), data, [5, 20]).values()] == [
            s.by_depth for s in scored.values()
        ]


def test_a_fallback_chain_resumes(tmp_path):
    """It is not cacheable, since another model may answer, but pointwise: depths are cut."""
    backend, data = FallbackBackend([FakeBackend(), FakeBackend()]), dataset()
    once = score_candidates(backend, data, [2, 10], folder=tmp_path)
    calls = len(backend.children[0].calls)

    assert once == score_candidates(backend, data, [2, 10], folder=tmp_path)
    assert calls == len(backend.children[0].calls)
    assert 60 == len(set(pairs(backend.children[0])))
