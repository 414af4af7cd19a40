"""An ONNX Runtime session with one thread per run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime  # type: ignore[import-untyped]  # it ships no types

from rerank_plugins.backends.local.engine import UnsupportedByEngine
from rerank_plugins.backends.local.foreign_errors import reason_of
from rerank_plugins.backends.local.onnx.build.embedding_table import EmbeddingTable
from rerank_plugins.backends.local.onnx.build.weights import Array
from rerank_plugins.backends.local.out_of_memory import is_out_of_memory
from rerank_plugins.errors import BackendError, BackendOutOfMemory, ConfigError

__all__ = ["Session"]

_ERRORS_ONLY = 3
_INPUTS = {"attended", "attention_mask", "input_ids", "token_type_ids"}
_TYPES = {"tensor(int32)": np.int32, "tensor(int64)": np.int64}


class Session:
    """Runs one sequence at a time; several threads may run at once.

    Args:
        model: the content of an ONNX file, or its path.
        constants: the external constants of the model and their names; each is copied, then
            released.
        table: the word embeddings, if the model takes the rows of its tokens as an input.

    Raises:
        UnsupportedByEngine: the model has unknown inputs, or no output `logits`.
        ConfigError: ONNX Runtime can't load the model.
    """

    def __init__(
        self,
        model: bytes | Path,
        constants: Iterable[tuple[str, Array]] = (),
        table: EmbeddingTable | None = None,
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        options.enable_mem_pattern = False  # it would keep a pattern for each length
        copies = {name: _copied(array) for name, array in constants}
        options.add_external_initializers(list(copies), list(copies.values()))
        try:
            self._session = onnxruntime.InferenceSession(
                str(model) if isinstance(model, Path) else model,
                options,
                providers=["CPUExecutionProvider"],
            )
        except Exception as exc:  # onnxruntime has a class per status code, without a public base
            raise ConfigError(f"ONNX Runtime can't load the model: {reason_of(exc)}") from exc
        self._table = table
        inputs = {i.name: i.type for i in self._session.get_inputs()}
        if table is not None:
            inputs.pop("words", None)
        self._inputs = inputs
        outputs = [output.name for output in self._session.get_outputs()]
        if not set(self._inputs) <= _INPUTS or not set(self._inputs.values()) <= set(_TYPES):
            raise UnsupportedByEngine(f"the ONNX model has unknown inputs: {self._inputs}")
        if "logits" not in outputs:
            raise UnsupportedByEngine(f"the ONNX model has no output `logits`, only: {outputs}")

    def run(self, output: str, ids: Array, types: Array, attended: int | None = None) -> Array:
        """Return one output for one sequence of token ids and their types.

        Only the first `attended` tokens are seen by the others, if the model can leave any out;
        None: all.

        Raises:
            BackendOutOfMemory: memory ran out.
            BackendError: the run failed.
        """
        row = {"attention_mask": np.ones_like(ids), "input_ids": ids, "token_type_ids": types}
        feeds = {
            name: row[name][np.newaxis].astype(_TYPES[kind], copy=False)
            for name, kind in self._inputs.items()
            if name in row
        }
        if "attended" in self._inputs:
            feeds["attended"] = np.array([len(ids) if attended is None else attended], np.int64)
        try:
            if self._table is not None:
                feeds["words"] = self._table.rows(ids)[np.newaxis]
            (value,) = self._session.run([output], feeds)
        except Exception as exc:  # onnxruntime has a class per status code, without a public base
            if is_out_of_memory(exc):
                raise BackendOutOfMemory(
                    f"a pair of {len(ids)} tokens does not fit into memory; lower `max_length`, "
                    "choose a smaller model, or free memory"
                ) from exc
            raise BackendError(f"ONNX Runtime failed on {len(ids)} tokens: {exc}") from exc
        return np.asarray(value)


def _copied(array: Array) -> Any:
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)
