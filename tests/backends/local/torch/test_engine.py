"""The torch engine: nothing is lost when memory runs out, numbers overflow or files are odd."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sentence_transformers", reason="needs the extra `local`")

import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder

from rerank_plugins import BackendError, BackendOutOfMemory, ConfigError
from rerank_plugins.backends.local.checkpoint import resolve
from rerank_plugins.backends.local.engine import EngineSettings, Request, UnsupportedByEngine
from rerank_plugins.backends.local.tokenizer import Pairs
from rerank_plugins.backends.local.torch import engine as torch_engine
from rerank_plugins.backends.local.torch import model as torch_model
from rerank_plugins.backends.local.torch.engine import TorchEngine, load
from rerank_plugins.backends.local.torch.forward import overflows
from rerank_plugins.backends.local.torch.model import choose_dtype, load_model
from rerank_plugins.backends.local.torch.packed import PackedForward
from rerank_plugins.backends.local.torch.padded import PaddedForward
from rerank_plugins.backends.local.torch.self_check import make_check_pairs
from tests.support.checkpoints import EVERY_KIND

REQUESTS: list[Request] = [
    ("what is a panda?", [f"panda {i} " * (i % 13) for i in range(30)]),
    ("capital of France", []),
    ("capital of France", ["Paris", "", "Berlin " * 200]),
]
PATHS = {"packed": PackedForward, "padded": PaddedForward}


def engine_of(folder: str | Path, **changes: Any) -> TorchEngine:
    return load(resolve(str(folder)), EngineSettings(device="cpu", **changes))


def flat(logits: list[list[float]]) -> list[float]:
    return [logit for request in logits for logit in request]


@pytest.fixture
def folder(checkpoint: Callable[[str], str], tmp_path: Path) -> Path:
    """A checkpoint of its own for each test."""
    return Path(shutil.copytree(checkpoint("bert"), tmp_path / "tiny"))


@pytest.mark.parametrize("attention", PATHS)
@pytest.mark.parametrize("batch_tokens", [1, 100, 1000, 10**6])
def test_batches_do_not_change_logits(
    attention: str, batch_tokens: int, checkpoint: Callable[[str], str]
) -> None:
    expected = engine_of(checkpoint("bert")).logits(REQUESTS)
    engine = engine_of(checkpoint("bert"), attention=attention, batch_tokens=batch_tokens)
    logits = engine.logits(REQUESTS)

    assert [30, 0, 3] == [len(request) for request in logits]
    assert flat(expected) == pytest.approx(flat(logits), rel=1e-6, abs=1e-5)
    assert attention == engine.describe()["attention"]
    assert [] == engine.logits([])


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_neither_order_nor_other_pairs_change_a_logit(
    kind: str, checkpoint: Callable[[str], str]
) -> None:
    """Every architecture, at any length from 1 token to more than fits, in small batches."""
    drawn = random.Random(7)
    texts = ["bear " * drawn.randint(0, 500) for _ in range(16)]
    shuffled = drawn.sample(texts, len(texts))
    engine = engine_of(checkpoint(kind), batch_tokens=700)
    known = dict(zip(texts, engine.logits([("panda", texts)])[0], strict=True))
    logits = engine.logits([("bear", ["x"]), ("panda", shuffled)])[1]

    assert [known[text] for text in shuffled] == pytest.approx(logits, rel=1e-5, abs=1e-5)


def test_large_requests_are_encoded_ahead_in_chunks(
    checkpoint: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = engine_of(checkpoint("bert")).logits(REQUESTS)
    monkeypatch.setattr(torch_engine, "_CHUNK", 4)
    logits = engine_of(checkpoint("bert")).logits(REQUESTS)

    assert [30, 0, 3] == [len(request) for request in logits]
    assert flat(expected) == pytest.approx(flat(logits), rel=1e-6, abs=1e-5)


@given(st.lists(st.tuples(st.just("q"), st.lists(st.integers(), max_size=9)), max_size=6))
def test_chunks_keep_every_document_in_order(requests: list[Request]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_engine, "_CHUNK", 4)
        chunks = torch_engine._chunks(requests)

    assert [d for _, documents in requests for d in documents] == [
        d for chunk in chunks for _, documents in chunk for d in documents
    ]
    assert all(sum(len(documents) for _, documents in chunk) <= 4 for chunk in chunks)


class Memory:
    """Makes calls of a path fail: those above some tokens, and the n-th one."""

    def __init__(self, tokens: int = 10**9, call: int = -1, error: Any = None) -> None:
        self.tokens = tokens
        self.call = call
        self.error = error or torch.OutOfMemoryError("CUDA out of memory")
        self.calls = 0

    def limit(self, path: type, patch: pytest.MonkeyPatch) -> None:
        real = path.__call__

        def call(this: Any, pairs: Pairs) -> torch.Tensor:
            self.calls += 1
            taken = len(pairs) * int(pairs.lengths.max()) if this.padded else len(pairs.ids)
            if taken > self.tokens or self.calls - 1 == self.call:
                raise self.error
            return real(this, pairs)

        patch.setattr(path, "__call__", call)


@pytest.mark.parametrize("attention", PATHS)
def test_a_smaller_memory_is_found_and_remembered(
    attention: str, checkpoint: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(checkpoint("bert"), attention=attention, batch_tokens=100_000)
    expected = flat(engine.logits(REQUESTS))
    memory = Memory(tokens=600)
    memory.limit(PATHS[attention], monkeypatch)

    assert expected == pytest.approx(flat(engine.logits(REQUESTS)), rel=1e-6, abs=1e-5)
    facts = engine.describe()
    assert 0 < facts["out_of_memory"] < 10
    assert facts["batch_tokens"] <= 600
    memory.calls = 0
    engine.logits(REQUESTS)
    assert facts == engine.describe(), "the second time nothing has to be found"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("could not create a primitive"),
        MemoryError("Unable to allocate 8 GiB"),
    ],
)
def test_memory_that_runs_out_at_any_batch_loses_nothing(
    error: Exception, checkpoint: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = flat(engine_of(checkpoint("bert")).logits(REQUESTS))
    for call in range(3):
        engine = engine_of(checkpoint("bert"), attention="padded", batch_tokens=700)
        with monkeypatch.context() as patch:
            memory = Memory(call=call, error=error)
            memory.limit(PaddedForward, patch)
            logits = flat(engine.logits(REQUESTS))

        assert expected == pytest.approx(logits, rel=1e-6, abs=1e-5)
        assert memory.calls > call, "the injected failure was reached"


def test_a_single_pair_that_does_not_fit_is_one_error(
    checkpoint: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says how long the pair is and what to do; the engine works on."""
    engine = engine_of(checkpoint("bert"))
    before = engine.describe()["batch_tokens"]
    with monkeypatch.context() as patch:
        Memory(tokens=100).limit(PackedForward, patch)
        with pytest.raises(BackendOutOfMemory, match=r"pair of 206 tokens .* lower `max_length`"):
            engine.logits(REQUESTS)

    assert 3 == len(engine.logits(REQUESTS)[2])
    assert before == engine.describe()["batch_tokens"], "the pair was too large, not the batches"


@pytest.mark.parametrize("attention", PATHS)
def test_batches_grow_again_after_a_while(
    attention: str, checkpoint: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(checkpoint("bert"), attention=attention, batch_tokens=100_000)
    with monkeypatch.context() as patch:
        Memory(tokens=600).limit(PATHS[attention], patch)
        engine.logits(REQUESTS)
    lowered = engine.describe()
    monkeypatch.setattr("rerank_plugins.scheduler.limit.monotonic", lambda: math.inf)
    for _ in range(10):
        engine.logits(REQUESTS)

    assert (True, 100_000) == (lowered["batch_tokens"] <= 600, engine.describe()["batch_tokens"])
    assert "halved when memory ran out" == lowered["batch_tokens_reason"]
    assert "set by `batch_tokens`" == engine.describe()["batch_tokens_reason"]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError("x")])
def test_a_model_that_can_not_be_started_is_a_typed_error(
    error: Exception, checkpoint: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where memory runs out while it is checked."""
    Memory(call=0, error=error).limit(PaddedForward, monkeypatch)
    with pytest.raises(BackendError, match="can't start on cpu"):
        engine_of(checkpoint("bert"))


def test_other_failures_are_not_taken_for_out_of_memory(
    checkpoint: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(checkpoint("bert"))
    Memory(call=0, error=RuntimeError("device-side assert")).limit(PackedForward, monkeypatch)
    with pytest.raises(BackendError, match="failed on cpu: device-side assert"):
        engine.logits(REQUESTS)

    assert 0 == engine.describe()["out_of_memory"]


@pytest.fixture
def loud(folder: Path) -> Path:
    """A model of the same scores, but one value inside is too large for float16 in some pairs."""
    engine = engine_of(folder, attention="padded")
    forward = engine._replicas[0].forward
    seen: list[torch.Tensor] = []
    hook = forward.model.bert.register_forward_hook(
        lambda *call: seen.append(call[2].last_hidden_state[:, 0])
    )
    with torch.inference_mode():
        forward(make_check_pairs(forward.model.config, engine._replicas[0]._checkpoint))
    engine.logits(REQUESTS)
    hook.remove()
    usual, others = seen[0].abs().amax(0), torch.cat(seen[1:]).abs().amax(0)
    column = int((others - usual).argmax())
    factor = 65504 / (usual[column] * others[column]).sqrt().item()
    weights = load_file(folder / "model.safetensors")
    norm = "bert.encoder.layer.2.output.LayerNorm"
    for name in (f"{norm}.weight", f"{norm}.bias"):
        weights[name][column] *= factor
    weights["bert.pooler.dense.weight"][:, column] /= factor
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("attention", PATHS)
def test_pairs_that_overflow_in_float16_are_scored_in_bfloat16(attention: str, loud: Path) -> None:
    """Only those; the others keep the precision of float16."""
    exact = flat(engine_of(loud).logits(REQUESTS))
    engine = engine_of(loud, dtype="float16", attention=attention)
    logits = flat(engine.logits(REQUESTS))

    assert 0 < engine.describe()["overflowed_pairs"] < len(exact)
    assert exact == pytest.approx(logits, abs=0.5)
    assert "torch-float16" == engine.name


def test_a_model_that_overflows_is_noticed_when_it_loads(checkpoint: Callable[[str], str]) -> None:
    """On CUDA `dtype="auto"` then takes bfloat16 from the start."""
    resolved = resolve(checkpoint("bert"))
    model = load_model(resolved, torch.device("cpu"), torch.float16, EngineSettings())
    assert not overflows(model, resolved)

    with torch.no_grad():
        model.bert.encoder.layer[-1].output.LayerNorm.weight.fill_(6e4)
    assert overflows(model, resolved)


@pytest.mark.parametrize("attention", PATHS)
def test_the_head_computes_in_float32(attention: str, checkpoint: Callable[[str], str]) -> None:
    """Also the pooler, so that scores in half precision are no multiples of 2^-8."""
    engine = engine_of(checkpoint("bert"), dtype="bfloat16", attention=attention)
    logits = flat(engine.logits(REQUESTS))
    model = engine._replicas[0].forward.model

    assert torch.bfloat16 == model.dtype
    assert {torch.float32} == {
        weight.dtype
        for part in (model.classifier, model.bert.pooler)
        for weight in part.parameters()
    }
    assert logits != torch.tensor(logits).bfloat16().tolist()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_half_precision_scores_are_close_to_float32(
    kind: str, dtype: str, checkpoint: Callable[[str], str]
) -> None:
    """And is packed, and says what it is, also where the first weights are the wide head's."""
    exact = engine_of(checkpoint(kind)).logits(REQUESTS)
    engine = engine_of(checkpoint(kind), dtype=dtype)
    facts = engine.describe()

    assert flat(exact) == pytest.approx(flat(engine.logits(REQUESTS)), abs=0.5)
    assert f"torch-{dtype}" == engine.name
    assert dtype == facts["dtype"]
    assert "packed" == facts["attention"], facts["attention_reason"]


@pytest.mark.parametrize(
    ("saved", "dtype"), [("float32", torch.float16), ("bfloat16", torch.bfloat16)]
)
def test_automatic_dtype_follows_device_and_checkpoint(
    saved: str, dtype: torch.dtype, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": saved}))
    resolved = resolve(str(folder))
    monkeypatch.setattr(torch_model, "_has_bfloat16", lambda: True)

    assert torch.float32 == choose_dtype("auto", torch.device("cpu"), resolved)
    assert dtype == choose_dtype("auto", torch.device("cuda"), resolved)
    monkeypatch.setattr(torch_model, "_has_bfloat16", lambda: False)
    assert dtype in {choose_dtype("auto", torch.device("cuda"), resolved), torch.bfloat16}


def test_language_models_get_bfloat16(checkpoint: Callable[[str], str], monkeypatch) -> None:
    """Also with the head of a classifier, and whatever they were saved in."""
    monkeypatch.setattr(torch_model, "_has_bfloat16", lambda: True)

    assert torch.bfloat16 == choose_dtype(
        "auto", torch.device("cuda"), resolve(checkpoint("qwen3"))
    )


def test_a_dtype_that_the_device_lacks_is_refused(checkpoint: Callable[[str], str]) -> None:
    with pytest.raises(UnsupportedByEngine, match="no dtype 'tf32' on 'cpu'"):
        engine_of(checkpoint("bert"), dtype="tf32")


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:99", "not available here; available: .*'cpu'"),
        ("tpu9", "torch does not know the device 'tpu9'"),
    ],
)
def test_a_missing_device_is_named_in_the_error(
    device: str, message: str, checkpoint: Callable[[str], str]
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(resolve(checkpoint("bert")), EngineSettings(device=device))


def test_weights_that_would_be_random_are_an_error(folder: Path) -> None:
    """A base model that calls itself a classifier has no head."""
    weights = load_file(folder / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks the weights \['classifier.weight'\]"):
        engine_of(folder)


@pytest.mark.parametrize("content", [b"", b"not safetensors at all"])
def test_broken_weights_are_an_error(content: bytes, folder: Path) -> None:
    resolved = resolve(str(folder))
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match="can't load 'tiny'"):
        load(resolved, EngineSettings(device="cpu"))


def test_an_old_tokenizer_is_converted(folder: Path) -> None:
    """Without tokenizer.json, the vocabulary file is enough."""
    expected = engine_of(folder).logits(REQUESTS)
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)))
    (folder / "tokenizer.json").unlink()

    assert flat(expected) == pytest.approx(flat(engine_of(folder).logits(REQUESTS)), abs=1e-6)


@pytest.mark.parametrize("attention", PATHS)
def test_types_are_kept_back_where_the_tokenizer_says_so(attention: str, folder: Path) -> None:
    """Then the model sees zeros, from a new tokenizer as from an old one."""
    logits = flat(engine_of(folder, attention=attention).logits(REQUESTS))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["model_input_names"] = ["input_ids", "attention_mask"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    new = flat(engine_of(folder, attention=attention).logits(REQUESTS))
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)))
    (folder / "tokenizer.json").unlink()
    old = flat(engine_of(folder, attention=attention).logits(REQUESTS))
    reference = CrossEncoder(str(folder), device="cpu")
    pairs = [(query, document) for query, documents in REQUESTS for document in documents]
    expected = reference.predict(pairs, activation_fn=torch.nn.Identity()).tolist()

    assert expected == pytest.approx(new, rel=1e-6, abs=1e-5)
    assert expected == pytest.approx(old, rel=1e-6, abs=1e-5)
    assert logits != pytest.approx(new, abs=1e-3)


def test_pickled_weights_load_where_they_are_allowed(folder: Path) -> None:
    expected = engine_of(folder).logits(REQUESTS)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    engine = load(resolve(str(folder), allow_pickle=True), EngineSettings(device="cpu"))

    assert flat(expected) == pytest.approx(flat(engine.logits(REQUESTS)), abs=1e-6)


def test_a_model_outside_the_attention_interface_is_padded(folder: Path) -> None:
    """It says why; asking for packing is an error."""
    config = transformers.DebertaV2Config(
        vocab_size=30522,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        num_labels=1,
        pad_token_id=0,
    )
    transformers.DebertaV2ForSequenceClassification(config).save_pretrained(folder)
    facts = engine_of(folder).describe()

    assert "padded" == facts["attention"]
    assert "does not use the attention interface" in str(facts["attention_reason"])
    with pytest.raises(UnsupportedByEngine, match="can't be scored without padding"):
        engine_of(folder, attention="packed")


def test_threads_are_set_for_the_time_of_a_call(
    checkpoint: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    engine = engine_of(checkpoint("bert"), threads=before + 1)
    seen: list[int] = []
    real = PackedForward.__call__

    def call(this: PackedForward, pairs: Pairs) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return real(this, pairs)

    monkeypatch.setattr(PackedForward, "__call__", call)
    engine.logits(REQUESTS)

    assert {before + 1} == set(seen)
    assert before == torch.get_num_threads()


@pytest.mark.slow
def test_eight_threads_get_what_one_gets(checkpoint: Callable[[str], str]) -> None:
    """200 calls each; the cache is so small that entries come and go."""
    engine = engine_of(checkpoint("bert"), cached_tokens=200)
    requests = [[(f"panda {i}", [f"bear {i} " * (i + j) for j in range(3)])] for i in range(5)]
    expected = [flat(engine.logits(request)) for request in requests]
    with ThreadPoolExecutor(8) as pool:
        for i, logits in enumerate(pool.map(lambda i: engine.logits(requests[i % 5]), range(1600))):
            assert expected[i % 5] == pytest.approx(flat(logits), rel=1e-6, abs=1e-5)
