"""The code for GPUs, run without one: devices, dtypes and shapes are real, values are not.

A tensor left on the host, a dtype that a kernel does not take and anything that waits for a value
end in an error here. What kernels compute can only be seen on a GPU.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="needs the extra `local`")

import torch
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import LayerNorm
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from transformers import AutoTokenizer

from rerank_plugins.backends.local.answer_tokens import answer_token_ids
from rerank_plugins.backends.local.checkpoint import Checkpoint, resolve
from rerank_plugins.backends.local.engine import EngineSettings
from rerank_plugins.backends.local.torch import attention as varlen
from rerank_plugins.backends.local.torch import packed
from rerank_plugins.backends.local.torch.cuda_graphs import CUDAGraphForward
from rerank_plugins.backends.local.torch.model import load_model
from rerank_plugins.backends.local.torch.packed import PackedForward
from rerank_plugins.backends.local.torch.padded import PaddedForward
from rerank_plugins.backends.local.torch.self_check import make_check_pairs
from tests.support.checkpoints import EVERY_KIND, build_chain, build_language_model

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="torch's library has other names")

DTYPES = [torch.float16, torch.bfloat16, torch.float32]

CUDA, META = 1, 14
"""Numbers of devices, as c10/core/DeviceType.h counts them."""


class Recorded(Exception):
    """A graph would be replayed now, which only a GPU can."""


@contextmanager
def gpu(model: Any) -> Iterator[None]:
    """Put a model onto a GPU that is not there.

    Indexing makes a tensor's device the current one, which a torch without CUDA can't: it gets
    what does so for the device "meta", where there is nothing to do.
    """
    core = ctypes.CDLL(str(Path(torch.__file__).with_name("lib") / "libc10.so"))
    guards = (ctypes.c_void_p * (META + 1)).in_dll(
        core, "_ZN3c104impl26device_guard_impl_registryE"
    )
    before = guards[CUDA]
    guards[CUDA] = before or guards[META]
    try:
        with torch.inference_mode(), FakeTensorMode(allow_non_fake_inputs=True):
            for part in model.modules():
                for name, weight in part._parameters.items():
                    if weight is not None:
                        there = torch.nn.Parameter(on_gpu(weight), requires_grad=False)
                        part._parameters[name] = there
                for name, buffer in part._buffers.items():
                    part._buffers[name] = None if buffer is None else on_gpu(buffer)
            yield
    finally:
        guards[CUDA] = before


def on_gpu(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")


@pytest.fixture(autouse=True)
def no_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)


def loaded(folder: str, dtype: Any) -> tuple[Any, Checkpoint]:
    resolved = resolve(folder)
    return load_model(resolved, torch.device("cpu"), dtype, EngineSettings()), resolved


def check(logits: torch.Tensor, pairs: int) -> None:
    assert ((pairs,), "cuda", torch.float32) == (logits.shape, logits.device.type, logits.dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_packed(kind: str, dtype: Any, checkpoint: Callable[[str], str]) -> None:
    model, resolved = loaded(checkpoint(kind), dtype)
    path, pairs = PackedForward(model, resolved), make_check_pairs(model.config, resolved)
    with gpu(model):
        if (kind, dtype) == ("modernbert", torch.float32):
            with pytest.raises(NotImplementedError, match="no float32 kernel for windows"):
                path(pairs)
            return
        check(path(pairs), len(pairs))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_padded(kind: str, dtype: Any, checkpoint: Callable[[str], str]) -> None:
    model, resolved = loaded(checkpoint(kind), dtype)
    path, pairs = (
        PaddedForward(model, resolved, check=True),
        make_check_pairs(model.config, resolved),
    )
    with gpu(model):
        check(path(pairs), len(pairs))


@pytest.mark.parametrize("path", [PackedForward, PaddedForward])
def test_a_language_model(path: Any, tmp_path: Path) -> None:
    resolved = resolve(str(build_language_model("qwen3", tmp_path)))
    tokenizer = AutoTokenizer.from_pretrained(resolved.folder).backend_tokenizer
    answers = answer_token_ids(resolved, tokenizer)
    cpu, dtype = torch.device("cpu"), torch.bfloat16
    model = load_model(resolved, cpu, dtype, EngineSettings(), answers)
    called, pairs = path(model, resolved), make_check_pairs(model.config, resolved)
    with gpu(model):
        check(called(pairs), len(pairs))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("path", [PackedForward, PaddedForward])
@pytest.mark.parametrize("pooling", ["cls", "lasttoken", "mean"])
def test_a_chain_of_modules(pooling: str, path: Any, dtype: Any, tmp_path: Path) -> None:
    """With two labels, whose difference is computed on the device as well."""
    head = [
        Dense(64, 64, bias=False, activation_function=torch.nn.GELU(), use_residual=True),
        LayerNorm(64),
        Dense(64, 2, activation_function=None, module_output_name="scores"),
    ]
    folder = build_chain("qwen3", tmp_path / "model", pooling, *head)
    model, resolved = loaded(str(folder), dtype)
    called, pairs = path(model, resolved), make_check_pairs(model.config, resolved)
    with gpu(model):
        check(called(pairs), len(pairs))


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
def test_the_batch_of_a_graph(kind: str, checkpoint: Callable[[str], str]) -> None:
    """Filled up to its bucket, a batch takes the same kernels."""
    model, resolved = loaded(checkpoint(kind), torch.float16)
    pairs, held = make_check_pairs(model.config, resolved), []

    def record(work: Callable[[], torch.Tensor]) -> Any:
        held.append(work())
        raise Recorded

    path = CUDAGraphForward(
        PackedForward(model, resolved), longest=resolved.max_length, record=record
    )
    with gpu(model), pytest.raises(Recorded):
        path(pairs)
    check(held[0], 64)


def test_waiting_is_an_error(
    checkpoint: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the tests above would prove nothing."""
    model, resolved = loaded(checkpoint("bert"), torch.float16)
    path, pairs = PackedForward(model, resolved), make_check_pairs(model.config, resolved)

    def waiting(query: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        assert query.isfinite().all()
        return varlen.varlen_attention(query, *rest, **options)

    monkeypatch.setattr(packed, "varlen_attention", waiting)
    with gpu(model), pytest.raises(DataDependentOutputException):
        path(pairs)
