"""Stage: where the time of the ONNX engine goes, by operator."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnxruntime

from rerank_plugins.backends.local.onnx.build.architectures import read_encoder
from rerank_plugins.backends.local.onnx.build.build import build_graph
from rerank_plugins.backends.local.onnx.build.linear import Precision
from rerank_plugins.backends.local.onnx.build.verify import Sample, with_peaks
from tests.benchmarks.models import MODELS

__all__ = ["measure_operators"]

_TOKENS = 185
"""Of a pair of middle length in the natural mix."""


def measure_operators(model: str, models: Path, *, runs: int) -> dict[str, Any]:
    """Return, by precision, milliseconds a run of one pair spends in each kind of operator."""
    folder = MODELS[model].build(models)
    return {
        "model": model,
        "tokens": _TOKENS,
        "ms": {dtype: _profiled(folder, dtype, runs) for dtype in get_args(Precision)},
    }


def _profiled(model: Path, dtype: Precision, runs: int) -> dict[str, float]:
    encoder = read_encoder(model)
    if encoder.head is not None:  # as the engine does
        encoder = with_peaks(encoder, Sample.draw(encoder, encoder.head, longest=512))
    graph = build_graph(encoder, dtype=dtype, embeddings=dtype, max_length=512).to_bytes()
    ids = np.random.default_rng(0).integers(1000, 30000, (1, _TOKENS)).astype(np.int32)
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = f"{folder}/profile"
        session = onnxruntime.InferenceSession(graph, options)
        feeds = {
            node.name: ids if node.name == "input_ids" else ids * 0 for node in session.get_inputs()
        }
        for _ in range(runs):
            session.run(["logits"], feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    spent: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            spent[event["args"]["op_name"]] += event["dur"]
    return {name: round(us / runs / 1000, 3) for name, us in spent.most_common()}
