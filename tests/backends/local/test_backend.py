"""The local backend: its contract, and its scores against sentence-transformers'."""

from __future__ import annotations

import asyncio
import json
import math
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra `local`")
pytest.importorskip("sentence_transformers", reason="needs the extra `local`")

import torch
from sentence_transformers import CrossEncoder

from rerank_plugins import (
    Backend,
    ConfigError,
    InvalidResponse,
    Query,
    UnsupportedInputError,
    load_backend,
)
from rerank_plugins.backends.local import backend as local_backend
from rerank_plugins.backends.local.backend import LocalBackend
from rerank_plugins.backends.local.engine import Request
from rerank_plugins.backends.local.torch.engine import TorchEngine
from rerank_plugins.backends.scale import to_probability
from rerank_plugins.hooks import CallStarted, Computed, Event, Truncated
from rerank_plugins.hooks._dispatch import observe_call as heard_by
from rerank_plugins.scores import Scores, Usage
from rerank_plugins.testing import BackendContract
from tests.support.checkpoints import KINDS
from tests.support.pairs import CUT

WORDS = [
    "what",
    "is",
    "a",
    "panda",
    "the",
    "giant",
    "bear",
    "China",
    "Paris",
    "大熊猫",
    "2024",
    "!",
]


def text(seed: int, words: int) -> str:
    chosen = random.Random(seed)
    return " ".join(chosen.choice(WORDS) for _ in range(words))


def documents(seed: int, count: int = 24, longest: int = 500) -> list[str]:
    """Documents of mixed lengths; some are empty, some longer than a model can read."""
    chosen = random.Random(seed)
    lengths = [0, 1, longest, *(int(longest ** chosen.random()) for _ in range(count - 3))]
    return [text(seed + i, length) for i, length in enumerate(lengths)]


class TestLocalBERT(BackendContract):
    @pytest.fixture(autouse=True)
    def _folder(self, checkpoint: Callable[[str], str]) -> None:
        self.folder = checkpoint("bert")

    def make_backend(self) -> Backend:
        return LocalBackend(self.folder, engine="torch", device="cpu")


class TestLocalXLMRoBERTa(BackendContract):
    @pytest.fixture(autouse=True)
    def _folder(self, checkpoint: Callable[[str], str]) -> None:
        self.folder = checkpoint("xlm-roberta")

    def make_backend(self) -> Backend:
        return LocalBackend(self.folder, engine="torch", device="cpu", scale="logit")


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind != "bert")) for kind in KINDS]
)
def test_scores_equal_sentence_transformers(kind: str, checkpoint: Callable[[str], str]) -> None:
    """Every family, lengths from nothing to more than fits, several queries at once."""
    folder = checkpoint(kind)
    requests = [(text(seed, 4), documents(seed)) for seed in range(3)]
    reference = CrossEncoder(folder, device="cpu", max_length=512)
    pairs = [(query, document) for query, texts in requests for document in texts]
    logits = reference.predict(pairs, activation_fn=torch.nn.Identity()).tolist()
    chances = reference.predict(pairs, activation_fn=torch.nn.Sigmoid()).tolist()

    for scale, expected in (("logit", logits), ("probability", chances)):
        with LocalBackend(
            folder, engine="torch", device="cpu", scale=scale, max_length=512, **CUT
        ) as backend:
            many = [score for scores in backend.score_many(requests) for score in scores]

            assert many == pytest.approx(expected, rel=1e-6, abs=1e-5)
            assert many[:24] == pytest.approx(backend.score(*requests[0]), rel=1e-6, abs=1e-5)
    assert max(logits) - min(logits) > 0.2, "scores that hardly differ prove nothing"


@pytest.fixture
def backend(checkpoint: Callable[[str], str]) -> Iterator[LocalBackend]:
    with LocalBackend(
        checkpoint("bert"), engine="torch", device="cpu", long_documents="truncate"
    ) as backend:
        yield backend


def test_the_checkpoints_own_activation_is_ignored(
    checkpoint: Callable[[str], str], tmp_path: Path
) -> None:
    """A probability is one sigmoid of the logit, whatever activation a checkpoint names."""
    folder = Path(shutil.copytree(checkpoint("bert"), tmp_path / "tiny"))
    config = json.loads((folder / "config.json").read_text())
    config["sentence_transformers"] = {"activation_fn": "torch.nn.modules.linear.Identity"}
    (folder / "config.json").write_text(json.dumps(config))
    requests = (text(1, 4), documents(1))
    chances = LocalBackend(str(folder), engine="torch", device="cpu").score(*requests)
    logits = LocalBackend(str(folder), engine="torch", device="cpu", scale="logit").score(*requests)

    assert [1 / (1 + math.exp(-logit)) for logit in logits] == pytest.approx(chances)


def test_a_default_prompt_stands_before_every_query(
    checkpoint: Callable[[str], str], tmp_path: Path
) -> None:
    """As sentence-transformers reads it, which is only beside a chain of modules."""
    folder, pairs = str(tmp_path / "tiny"), [("panda", text) for text in documents(1, 5)]
    CrossEncoder(
        checkpoint("bert"), device="cpu", prompts={"q": "query: "}, default_prompt_name="q"
    ).save_pretrained(folder, create_model_card=False)
    scores = [
        LocalBackend(name, engine="torch", device="cpu", **CUT).score("panda", documents(1, 5))
        for name in (folder, checkpoint("bert"))
    ]
    expected = CrossEncoder(folder, device="cpu").predict(pairs, activation_fn=torch.nn.Sigmoid())

    assert expected.tolist() == pytest.approx(scores[0], rel=1e-5, abs=1e-5)
    assert scores[0] != pytest.approx(scores[1], abs=1e-4)
    (Path(folder) / "modules.json").unlink()
    plain = LocalBackend(folder, engine="torch", device="cpu", **CUT)
    bare = plain.score("panda", documents(1, 5))
    assert scores[1] == pytest.approx(bare)


@pytest.mark.parametrize(("logit", "expected"), [(1e4, 1.0), (-1e4, 0.0), (0.0, 0.5)])
def test_extreme_logits_have_a_probability(logit: float, expected: float) -> None:
    assert [expected] == to_probability([logit])


def test_building_is_cheap(tmp_path: Path) -> None:
    """Neither the model nor its folder is looked at before the first use."""
    missing = str(tmp_path / "missing")
    backend = LocalBackend(missing)

    assert f"<LocalBackend local:{missing}>" == repr(backend)
    assert [] == backend.score("query", [])
    with pytest.raises(ConfigError, match="there is no folder"):
        backend.score("query", ["document"])


def test_equal_documents_are_scored_once(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[Request]] = []
    real = TorchEngine.logits

    def logits(engine: TorchEngine, requests: list[Request]) -> list[Scores]:
        asked.append(requests)
        return real(engine, requests)

    monkeypatch.setattr(TorchEngine, "logits", logits)
    scores = backend.score("q", ["a", "b", "a", "a"])

    assert [[("q", ["a", "b"])]] == asked
    assert scores[0] == scores[2] == scores[3] != scores[1]


@pytest.mark.parametrize("options", [{}, {"attention": "padded"}, {"engine": "onnx"}], ids=str)
def test_scores_report_tokens_and_truncation(
    checkpoint: Callable[[str], str], options: dict[str, Any]
) -> None:
    """Which documents were cut, and how many tokens were read; equal documents once."""
    documents = ["bear", "bear " * 600, "bear", "a bear", "panda " * 600, "bear " * 600]
    with LocalBackend(
        checkpoint("bert"),
        long_documents="truncate",
        **{"engine": "torch", "device": "cpu", "max_length": 64, **options},
    ) as backend:
        one, other = backend.score_many([("panda", documents), ("panda", ["a bear"])])

        assert {1, 4, 5} == one.truncated
        assert frozenset() == other.truncated
        assert dict.fromkeys((1, 4, 5), 60 / 600) == one.read
        assert Usage(tokens=5 + 64 + 6 + 64) == one.usage
        assert Usage(tokens=6) == other.usage
        assert backend.name == one.backend == other.backend
        assert (checkpoint("bert"), "probability") == (one.model, one.scale)
        assert one[0] == one[2]


async def test_shared_batches_report_tokens_per_call(backend: LocalBackend) -> None:
    calls = [["bear"], ["bear " * 600, "a bear"], ["a bear", "bear " * 600, "bear " * 600]]
    results = await asyncio.gather(*(backend.ascore("panda", documents) for documents in calls))

    assert [set(), {0}, {1, 2}] == [set(scores.truncated) for scores in results]
    assert [5, 512 + 6] == [scores.usage.tokens for scores in results[:2] if scores.usage]


async def test_a_model_loads_and_closes_without_blocking_the_event_loop(
    checkpoint: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, ticks = local_backend.load_engine, 0

    def slowly(*args: Any) -> Any:
        time.sleep(0.3)
        return real(*args)

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    def close_slowly(engine: TorchEngine) -> None:
        time.sleep(0.3)

    monkeypatch.setattr(local_backend, "load_engine", slowly)
    monkeypatch.setattr(TorchEngine, "close", close_slowly)
    backend = LocalBackend(checkpoint("bert"), engine="torch", device="cpu")
    clock = asyncio.create_task(tick())
    await backend.ascore("panda", ["bear"])
    while_loading, ticks = ticks, 0
    await backend.aclose()
    clock.cancel()

    assert while_loading >= 5
    assert ticks >= 5


def test_a_cross_encoder_refuses_instructions_by_name(
    backend: LocalBackend, checkpoint: Callable[[str], str]
) -> None:
    name = Path(checkpoint("bert")).name
    with pytest.raises(UnsupportedInputError, match=f"an instruction, and '{name}' has no prompt"):
        backend.score(Query("panda", instruction="Find bears."), ["bear"])
    assert backend.score(Query("panda"), ["bear"]) == backend.score("panda", ["bear"])


async def test_an_instruction_that_is_refused_fails_no_other_call(backend: LocalBackend) -> None:
    """Though all are in one batch."""
    queries = ["panda", Query("panda", instruction="Find bears."), "panda"]
    first, refused, last = await asyncio.gather(
        *(backend.ascore(query, ["bear"]) for query in queries), return_exceptions=True
    )

    assert isinstance(refused, UnsupportedInputError)
    assert first == last == backend.score("panda", ["bear"])


def test_texts_are_checked_once(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the scheduler hands them over in parts."""
    checked: list[Any] = []
    real = local_backend.check_request

    def check(query: Any, documents: Any, **rules: Any) -> Any:
        checked.append(documents)
        return real(query, documents, **rules)

    monkeypatch.setattr(local_backend, "check_request", check)
    asyncio.run(backend.ascore("panda", ["a", "b"]))

    assert [["a", "b"]] == checked


def test_threads_that_come_at_once_load_one_model(
    checkpoint: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    real = local_backend.load_engine
    monkeypatch.setattr(
        local_backend, "load_engine", lambda *a: (loads.append("load"), real(*a))[1]
    )
    backend = LocalBackend(checkpoint("bert"), engine="torch", device="cpu")
    with ThreadPoolExecutor(8) as pool:
        scores = list(pool.map(lambda _: backend.score("q", ["a", "b"]), range(16)))

    assert ["load"] == loads
    assert all(scores[0] == pytest.approx(other) for other in scores)


def test_closing_waits_for_calls_in_progress(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that runs when the backend is closed ends well; then its model is freed, once."""
    closed: list[TorchEngine] = []
    real = TorchEngine.logits

    def logits(engine: TorchEngine, requests: list[Request]) -> list[Scores]:
        backend.close()
        assert [] == closed
        return real(engine, requests)

    def close(engine: TorchEngine) -> None:
        closed.append(engine)

    expected = backend.score("q", ["a", "b"])
    monkeypatch.setattr(TorchEngine, "close", close)
    with monkeypatch.context() as patch:
        patch.setattr(TorchEngine, "logits", logits)
        assert expected == pytest.approx(backend.score("q", ["a", "b"]))
    assert 1 == len(closed)
    assert expected == pytest.approx(backend.score("q", ["a", "b"]))


def test_a_nan_logit_is_an_error(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TorchEngine, "logits", lambda *_: [Scores([math.nan])])
    with pytest.raises(InvalidResponse, match="score 0 of 1 is nan"):
        backend.score("q", ["a"])


def test_the_name_holds_everything_that_changes_a_score(checkpoint: Callable[[str], str]) -> None:
    """Model, dtype, length and scale; not the threads, the batch or the cache."""

    def name(kind: str = "bert", **options: Any) -> str:
        return LocalBackend(checkpoint(kind), device="cpu", engine="torch", **options).name

    names = [
        name(),
        name("xlm-roberta"),
        name(dtype="bfloat16"),
        name(max_length=64),
        name(scale="logit"),
    ]
    assert len(names) == len(set(names))
    assert name() == name(threads=1, batch_tokens=64, cached_tokens=0)


def test_describe_has_engine_device_and_truncation(backend: LocalBackend) -> None:
    backend.score("panda", ["bear", "bear " * 600])
    facts = backend.describe()
    expected = {
        "engine": "torch",
        "engine_chosen": "set by `engine`",
        "device": "cpu",
        "dtype": "float32",
        "attention": "packed",
        "max_length": 512,
        "longest": 512,
        "truncated_pairs": 1,
        "truncated_queries": 0,
        "scale": "probability",
    }

    assert expected == {key: facts[key] for key in expected}
    assert facts == json.loads(json.dumps(facts))


@pytest.mark.parametrize(
    ("options", "padding"),
    [({"attention": "padded"}, 8), ({}, 0), ({"engine": "onnx"}, 0)],
    ids=str,
)
def test_hooks_receive_counts_of_truncation_and_padding(
    checkpoint: Callable[[str], str], options: dict[str, Any], padding: int
) -> None:
    heard: list[Event] = []
    folder = checkpoint("bert")
    backend = LocalBackend(folder, long_documents="truncate", **{"engine": "torch", **options})
    backend.score("panda", ["bear " * 600])  # nobody listens
    with heard_by((heard.append,), CallStarted("library", "local", None, 1, 2)):
        backend.score("panda", ["bear", "bear " * 9])
        backend.score("panda", ["bear " * 600])

    first, cut, second = (event for event in heard if isinstance(event, Computed | Truncated))
    assert isinstance(first, Computed)
    assert isinstance(second, Computed)
    assert Truncated(1) == cut
    assert padding == first.padding
    assert (512, 0) == (second.tokens, second.padding)
    assert Path(checkpoint("bert")).name == first.model == second.model
    assert 2**20 < first.memory["resident"] < 2**40


async def test_hooks_receive_the_counts_of_concurrent_calls(
    checkpoint: Callable[[str], str],
) -> None:
    heard: list[Event] = []
    with LocalBackend(checkpoint("bert"), engine="onnx") as backend:
        with heard_by((heard.append,), CallStarted("library", "local", None, 1, 1)):
            await backend.ascore("panda", ["bear"])
        await backend.ascore("panda", ["nobody listens"])

    assert 1 == sum(isinstance(event, Computed) for event in heard)


def test_a_spec_rebuilds_the_backend(checkpoint: Callable[[str], str]) -> None:
    """From the string, from the mapping of `to_spec()`, with defaults left out."""
    folder = checkpoint("bert")
    backend = load_backend(f"local:{folder}?engine=torch&device=cpu&max_length=64&scale=logit")
    spec = backend.to_spec()

    assert {
        "kind": "local",
        "model": folder,
        "engine": "torch",
        "device": "cpu",
        "max_length": 64,
        "scale": "logit",
    } == spec
    assert backend.name == load_backend(spec).name


def test_loops_threads_and_cancelled_calls_do_not_disturb_each_other(
    backend: LocalBackend,
) -> None:
    """Two event loops and eight threads; every call that is not cancelled gets its own scores."""
    asked = [(f"panda {i}", [f"bear {i} " * (3 * j) for j in range(4)]) for i in range(5)]
    expected = [backend.score(*request) for request in asked]

    async def ask() -> None:
        calls = [asyncio.ensure_future(backend.ascore(*asked[i % 5])) for i in range(40)]
        for call in calls[::4]:
            call.cancel()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for i, answer in enumerate(answers):
            if i % 4:
                assert expected[i % 5] == pytest.approx(answer, rel=1e-5, abs=1e-6)
            else:
                assert isinstance(answer, asyncio.CancelledError | list)

    def score(i: int) -> None:
        assert expected[i % 5] == pytest.approx(backend.score(*asked[i % 5]), rel=1e-5, abs=1e-6)

    with ThreadPoolExecutor(8) as pool:
        loops = [pool.submit(asyncio.run, ask()) for _ in range(2)]
        list(pool.map(score, range(80)))
        for loop in loops:
            loop.result()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpu_memory_fraction": 1.5}, "a number above 0 and of at most 1, not 1.5"),
        ({"gpu_memory_fraction": True}, "`gpu_memory_fraction` must be None or a number"),
        ({"template": ""}, "`template` must be None or a text"),
        ({"revision": 1}, "`revision` must be None or a text"),
        ({"compile": 1}, "`compile` must be True or False, not 1"),
        ({"local_files_only": "no"}, "`local_files_only` must be True or False, not 'no'"),
        ({"threads": True}, "`threads` must be None or an integer of at least 1, not True"),
        ({"batch_tokens": 1.5}, "`batch_tokens` must be None or an integer"),
        ({"max_length": "512"}, "`max_length` must be None or an integer of at least 1, not '512'"),
        ({"cached_tokens": "8"}, "`cached_tokens` must be None or an integer of at least 0"),
        ({"device": "cuda:0;cuda:1"}, "several, as in 'cuda:0,cuda:1' or 'cuda:all'"),
        ({"model": " "}, "`model` must be a folder or the id"),
        ({"engine": "onxx"}, "did you mean 'onnx'"),
        ({"dtype": "fp16"}, "unknown `dtype` 'fp16'.*float16"),
        ({"attention": "flash"}, "unknown `attention` 'flash'"),
        ({"scale": "percent"}, "unknown `scale` 'percent'.*probability, logit"),
        ({"max_length": 0}, "`max_length` must be None or an integer of at least 1, not 0"),
        ({"batch_tokens": -1}, "`batch_tokens` must be None or an integer of at least 1"),
        ({"threads": 0}, "`threads` must be None or an integer of at least 1"),
        ({"cached_tokens": -1}, "`cached_tokens` must be None or an integer of at least 0"),
    ],
)
def test_impossible_options_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LocalBackend(**{"model": "m", **options})


def test_torch_is_not_imported_to_build() -> None:
    """Neither torch nor transformers, until the first score."""
    code = (
        "import sys; from rerank_plugins import load_backend; load_backend('local:a/b');"
        "print([m for m in ('torch', 'transformers', 'onnxruntime', 'huggingface_hub')"
        " if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "[]" == run.stdout.strip()


@pytest.mark.parametrize("engine", ["onnx", "torch"])
@pytest.mark.parametrize("temperature", [5, 0.25, 1e-300])
def test_a_temperature_divides_the_logit(
    engine: Any, temperature: float, checkpoint: Callable[[str], str]
) -> None:
    """As the card of zerank-2 wants it: sigmoid(logit / 5)."""
    folder, documents = checkpoint("bert"), ["a", "The giant panda is a bear.", "x y z " * 30]
    pairs = [("what is a panda?", document) for document in documents]
    reference = CrossEncoder(folder, device="cpu")
    logits = torch.tensor(reference.predict(pairs, activation_fn=torch.nn.Identity()))
    options: dict[str, Any] = {"engine": engine, "device": "cpu"}
    with LocalBackend(folder, temperature=temperature, **options) as backend:
        scores = backend.score("what is a panda?", documents)
        facts = backend.describe()

    expected = (logits.double() / temperature).sigmoid().tolist()
    assert expected == pytest.approx(list(scores), abs=1e-5)
    assert f"temperature {temperature:g}" == facts["calibration"]


def test_the_temperature_is_part_of_the_name(checkpoint: Callable[[str], str]) -> None:
    folder = checkpoint("bert")
    temperatures = [1.0, 2, 2.0, 2.0000001, 5]
    names = [
        LocalBackend(folder, engine="onnx", temperature=temperature).name
        for temperature in temperatures
    ]

    assert names[1] == names[2]
    assert 4 == len(set(names))
    with LocalBackend(folder, engine="onnx") as plain:
        assert names[0] == plain.name
        assert "none" == plain.describe()["calibration"]
    with LocalBackend(folder, engine="onnx", scale="logit") as raw:
        assert "calibration" not in raw.describe()


@pytest.mark.parametrize("temperature", [0, -1, float("inf"), float("nan"), True, "5"])
def test_a_temperature_is_a_number_above_0(temperature: Any) -> None:
    with pytest.raises(ConfigError, match="`temperature` must be a number"):
        LocalBackend("x", temperature=temperature)


def test_logits_have_no_temperature() -> None:
    with pytest.raises(ConfigError, match="drop one of them"):
        LocalBackend("x", temperature=5, scale="logit")


@pytest.mark.parametrize(
    ("settings", "calibration"),
    [
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, True),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, True),
        (
            {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}},
            False,
        ),
        ({"sentence_transformers": {"activation_fn": 3}}, False),
        ({"sentence_transformers": "Identity"}, False),
    ],
)
def test_logits_of_a_teacher_are_called_uncalibrated(
    checkpoint: Callable[[str], str],
    tmp_path: Path,
    settings: dict[str, Any],
    calibration: bool,  # noqa: FBT001
) -> None:
    """Those of checkpoints whose authors apply no sigmoid."""
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("bert"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    with LocalBackend(folder, engine="onnx") as backend:
        found = backend.describe()["calibration"]
    with LocalBackend(folder, engine="onnx", temperature=2) as backend:
        scaled = backend.describe()["calibration"]

    assert ("uncalibrated" if calibration else "none", "temperature 2") == (found, scaled)
