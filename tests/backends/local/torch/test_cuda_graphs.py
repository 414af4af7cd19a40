"""Buckets of CUDA graphs: their padding changes no score; the graph itself is a stand-in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", reason="needs the extra `local`")

import torch

from rerank_plugins import ConfigError
from rerank_plugins.backends.local.checkpoint import resolve
from rerank_plugins.backends.local.engine import EngineSettings, UnsupportedByEngine
from rerank_plugins.backends.local.tokenizer import Pairs
from rerank_plugins.backends.local.torch import cuda_graphs as graphs
from rerank_plugins.backends.local.torch.cuda_graphs import CUDAGraphForward, Recording
from rerank_plugins.backends.local.torch.engine import load
from rerank_plugins.backends.local.torch.model import load_model
from rerank_plugins.backends.local.torch.packed import PackedForward


class Recorder:
    """Stands where CUDA records: "replaying" runs the function on the same memory again."""

    def __init__(self) -> None:
        self.replays: list[int] = []

    def __call__(self, work: Callable[[], torch.Tensor]) -> Recording:
        result = work().clone()
        number = len(self.replays)
        self.replays.append(0)

        def replay() -> None:
            self.replays[number] += 1
            result.copy_(work())

        return replay, result


def pairs_of(lengths: list[int], seed: int = 0) -> Pairs:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.random.default_rng(seed).integers(20, 150, offsets[-1]).astype(np.int32)
    return Pairs(ids, np.zeros_like(ids), offsets)


def paths(folder: str, recorder: Recorder) -> tuple[PackedForward, CUDAGraphForward]:
    resolved = resolve(folder)
    model = load_model(resolved, torch.device("cpu"), torch.float64, EngineSettings())
    path = PackedForward(model, resolved)
    return path, CUDAGraphForward(path, longest=resolved.max_length, record=recorder)


@pytest.mark.usefixtures("_poisoned_filling")
@pytest.mark.parametrize("kind", ["bert", "xlm-roberta", "qwen3"])
def test_the_padding_of_a_bucket_changes_no_score(
    kind: str, checkpoint: Callable[[str], str]
) -> None:
    """Graph after graph, each used again for other pairs."""
    recorder = Recorder()
    path, graphed = paths(checkpoint(kind), recorder)
    with torch.inference_mode():
        for lengths in ([5, 33, 120, 2], [400, 111], [7], [300] * 3, [64] * 7, [9, 9]):
            pairs = pairs_of(lengths, seed=len(lengths))

            torch.testing.assert_close(graphed(pairs), path(pairs), rtol=0, atol=1e-9)
    assert [512, 1024] == graphed.facts["cuda_graphs"]
    assert [5, 1] == recorder.replays


def test_one_token_of_a_bucket_stays_free(checkpoint: Callable[[str], str]) -> None:
    """Empty sequences point at the token that is left over."""
    recorder = Recorder()
    path, graphed = paths(checkpoint("bert"), recorder)
    with torch.inference_mode():
        for count, size in ((511, 512), (512, 1024)):
            pairs = pairs_of([count])
            torch.testing.assert_close(graphed(pairs), path(pairs), rtol=0, atol=1e-9)
            filled = graphs._filled(path.pack(pairs), size)

            assert sum(graphs._sizes(size)) == len(filled)
            assert {count} == set(filled[3 * size + 1 : 3 * size + 65].tolist())


@pytest.mark.parametrize("lengths", [[2] * 65, [500] * 17])
def test_large_batches_go_without_a_graph(
    lengths: list[int], checkpoint: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    _path, graphed = paths(checkpoint("bert"), recorder)
    seen: list[int] = []
    monkeypatch.setattr(PackedForward, "__call__", lambda _, pairs: seen.append(len(pairs)))
    graphed(pairs_of(lengths))

    assert [len(lengths)] == seen
    assert [] == recorder.replays


def test_prompts_that_share_a_beginning_go_without_a_graph(
    checkpoint: Callable[[str], str],
) -> None:
    """There computing it once saves more."""
    recorder = Recorder()
    path, graphed = paths(checkpoint("qwen3"), recorder)
    pairs = pairs_of([60, 60])
    pairs.ids[60:100] = pairs.ids[:40]
    sharing = replace(pairs, groups=np.zeros(2, np.int64), shared=np.full(2, 40))
    with torch.inference_mode():
        torch.testing.assert_close(graphed(sharing), path(pairs), rtol=0, atol=1e-9)
    assert [] == recorder.replays


def test_a_mean_of_rows_has_no_graph(checkpoint: Callable[[str], str]) -> None:
    with pytest.raises(UnsupportedByEngine, match="reads one row per pair"):
        paths(checkpoint("modernbert"), Recorder())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cuda_graphs": True}, "`cuda_graphs` needs a CUDA GPU, and the model runs on 'cpu'"),
        ({"compile": True, "attention": "padded"}, 'need attention="packed"'),
        ({"gpu_memory_fraction": 0.5}, "`gpu_memory_fraction` is for CUDA GPUs"),
        ({"device": "cuda:all"}, "device 'cuda:all' is not available here"),
        ({"device": "cpu,cpu"}, "names one device twice"),
    ],
)
def test_cuda_graphs_without_a_gpu_are_refused(
    options: dict[str, Any], message: str, checkpoint: Callable[[str], str]
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(resolve(checkpoint("bert")), EngineSettings(**{"device": "cpu", **options}))
