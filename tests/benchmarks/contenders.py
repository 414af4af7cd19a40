"""The contenders: ours, sentence-transformers, and others on the same weights."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO

from tests.benchmarks.machine import instructions
from tests.benchmarks.models import export
from tests.benchmarks.peer import Peer

__all__ = ["CONTENDERS", "FEW", "REFERENCE", "Contender", "open_peer", "python_of"]

_BFLOAT16 = ("avx512_bf16", "amx_bf16")
_OURS = "local:{model}?local_files_only=true&scale=logit"
REFERENCE = "sentence-transformers"
"""What all ratios are to: torch, float32, all defaults."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A scorer and the settings that make it comparable."""

    name: str
    loader: str
    """The function of `worker.py` that loads it."""
    options: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))
    environment: str = ""
    """The virtual environment that has its library; empty: the one that runs this."""
    exported: str = ""
    """The part of the ONNX export it loads; empty: the checkpoint itself."""
    ours: bool = False
    exact: bool = True
    """Whether it computes in float32."""
    instructions: tuple[str, ...] = ()
    """It takes minutes where the processor has none of these; empty: it needs none."""


def _ours(
    name: str, options: str, *, exact: bool = True, instructions: tuple[str, ...] = ()
) -> Contender:
    spec = {"spec": f"{_OURS}&{options}"}
    return Contender(
        f"rerank-plugins, {name}",
        "backend",
        spec,
        ours=True,
        exact=exact,
        instructions=instructions,
    )


CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender(REFERENCE, "sentence_transformers"),
        Contender(
            "sentence-transformers, bfloat16",
            "sentence_transformers",
            {"model_kwargs": {"dtype": "bfloat16"}},
            exact=False,
            instructions=_BFLOAT16,
        ),
        Contender(
            "sentence-transformers, onnx",
            "sentence_transformers",
            {"backend": "onnx", "model_kwargs": {"file_name": "onnx/model.onnx"}},
            environment="optimum",
            exported="exported",
        ),
        Contender(
            "sentence-transformers, openvino",
            "sentence_transformers",
            {"backend": "openvino"},
            environment="optimum",
            exact=False,  # it takes bfloat16 by itself where the processor has it
        ),
        _ours("onnx", "engine=onnx"),
        _ours("onnx int8", "engine=onnx&dtype=int8", exact=False),
        _ours("torch packed", "engine=torch&attention=packed"),
        _ours("torch bfloat16", "engine=torch&dtype=bfloat16", exact=False, instructions=_BFLOAT16),
        _ours("torch padded", "engine=torch&attention=padded"),
        Contender(
            "FlashRank", "flashrank", environment="onnx", exported="ms-marco-TinyBERT-L-2-v2"
        ),
        Contender(
            "FlashRank, int8",
            "flashrank",
            environment="onnx",
            exported="ms-marco-MiniLM-L-12-v2",
            exact=False,
        ),
        Contender("fastembed", "fastembed", environment="onnx", exported="exported"),
        Contender("FlagEmbedding", "flagembedding", environment="torch"),
        Contender("rerankers", "rerankers", environment="torch"),
        Contender("Infinity", "infinity", environment="infinity"),
    )
}

FEW = (
    REFERENCE,
    "sentence-transformers, bfloat16",
    "sentence-transformers, openvino",
    "rerank-plugins, onnx",
    "rerank-plugins, onnx int8",
    "rerank-plugins, torch bfloat16",
)
"""Who meets the larger models."""


def python_of(environment: str, peers: Path | None) -> Path:
    """Return the interpreter of an environment.

    Raises:
        RuntimeError: it is not installed.
    """
    if not environment:
        return Path(sys.executable)
    python = (peers or Path()) / environment / "bin" / "python"
    if peers is None or not python.exists():
        raise RuntimeError(f"environment {environment!r} is not installed")
    return python


def open_peer(contender: Contender, model: Path, peers: Path | None, log: IO[str]) -> Peer:
    """Return a contender that is not started yet.

    Raises:
        RuntimeError: its environment or the processor's instructions are missing, or the model
            could not be exported for it.
    """
    if contender.instructions and not set(contender.instructions) & set(instructions()):
        raise RuntimeError(f"the processor has none of: {', '.join(contender.instructions)}")
    if contender.exported:
        model = export(model, python_of("optimum", peers)) / contender.exported
    return Peer(
        contender.name,
        python=python_of(contender.environment, peers),
        loader=contender.loader,
        model=model,
        options=contender.options,
        log=log,
    )
