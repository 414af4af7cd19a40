"""Rows of a word table on disk: always the table's own, and few pages of it in memory."""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rerank_plugins.backends.local.onnx.build.embedding_table import EmbeddingTable
from rerank_plugins.backends.local.onnx.build.weights import Tensors

TABLE = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)


@pytest.mark.parametrize("cached_rows", [0, 1, 8, 50, 1000])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_are_those_of_the_table(cached_rows: int, dtype: str) -> None:
    """However few are kept: hits, misses, repeats, and texts of more words than fit."""
    table = TABLE.astype(dtype)
    words = EmbeddingTable(table, kept=cached_rows)
    random = np.random.default_rng(1)
    for length in (1, 3, 8, 9, 40, 200, 0, 8):
        ids = random.integers(300, size=length).astype(np.int32)
        rows = words.rows(ids)

        assert dtype == rows.dtype
        assert np.array_equal(table[ids], rows)


def test_threads_share_a_table() -> None:
    words = EmbeddingTable(TABLE, kept=40)
    texts = [np.random.default_rng(n).integers(300, size=30) for n in range(400)]
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(words.rows, texts))

    assert all(np.array_equal(TABLE[ids], row) for ids, row in zip(texts, rows, strict=True))


class SlotsAtFork(np.ndarray[Any, np.dtype[np.int32]]):
    """Slots that run something after each write, as a thread that forks does."""

    after_write: Callable[[], None] | None = None

    def __setitem__(self, ids: Any, slots: Any) -> None:
        super().__setitem__(ids, slots)
        if self.after_write is not None:
            self.after_write()


def test_a_process_forked_in_the_middle_of_a_read_has_the_right_rows() -> None:
    """By another thread: the child gets what is written so far, and a free lock."""
    parent, child = EmbeddingTable(TABLE, kept=40), EmbeddingTable(TABLE, kept=40)

    def fork() -> None:
        child._slots = np.array(parent._slots)
        child._rows = parent._rows.copy()
        child._used = parent._used

    parent._slots = parent._slots.view(SlotsAtFork)
    parent._slots.after_write = fork
    parent.rows(np.arange(10))
    child.rows(np.arange(20, 30))

    assert np.array_equal(TABLE[:10], child.rows(np.arange(10)))


def test_a_row_out_of_range_is_an_error() -> None:
    words = EmbeddingTable(TABLE)
    with pytest.raises(IndexError):
        words.rows(np.array([5, 300], np.int32))

    assert np.array_equal(TABLE[[5]], words.rows(np.array([5], np.int32)))


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_mapped_table_stays_on_disk(tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.numpy").save_file
    save_file({"table": np.ones((50_000, 64), np.float32)}, tmp_path / "model.safetensors")
    words = EmbeddingTable(Tensors(tmp_path)["table"], kept=100)
    before = mapped_kib()
    for start in range(0, 50_000, 50):
        words.rows(np.arange(start, start + 50, dtype=np.int32))

    assert mapped_kib() - before < 1024, "of 12.5 MB"


def mapped_kib() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssFile"))
