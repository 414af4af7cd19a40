"""Vectors of documents in the store of a cache: in 8 bits, after restarts, between processes."""

from __future__ import annotations

import math
import pickle
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra `local`")
pytest.importorskip("sentence_transformers", reason="needs the extra `local`")

from rerank_plugins.backends.late_interaction import TextVectors, compress, from_bytes, to_bytes
from rerank_plugins.backends.local.backend import LocalBackend
from rerank_plugins.server.isolation import isolate
from rerank_plugins.server.settings import ServerSettings
from rerank_plugins.testing.doubles import FakeBackend
from rerank_plugins.wrappers.breaker import CircuitBreakingBackend
from rerank_plugins.wrappers.cache import CachedBackend
from rerank_plugins.wrappers.process import ModelProcess
from rerank_plugins.wrappers.retry import RetryingBackend
from rerank_plugins.wrappers.stores.memory import MemoryStore
from tests.backends.local.bi_encoders import build_embedding_model, build_pylate
from tests.support.pairs import DOCUMENTS, QUERY
from tests.support.ports import free_port

OTHER = "another query about bears"


@pytest.fixture(scope="module")
def colbert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_pylate("modernbert", tmp_path_factory.mktemp("vectors") / "colbert")


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_embedding_model("bert", tmp_path_factory.mktemp("vectors") / "embedder", "mean")


def cached(folder: Path, store: Any, **options: Any) -> CachedBackend:
    return CachedBackend(LocalBackend(folder, device="cpu", engine="onnx", **options), store=store)


def facts(backend: CachedBackend) -> tuple[int, int]:
    """Return how many documents' vectors came from the store, and how many were made."""
    told: Any = backend.describe()
    return told["vectors_from_store"], told["vectors_made"]


class Counting(MemoryStore):
    """Counts calls for vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def get_many(self, keys: Sequence[bytes], *, longest: int = 0) -> list[bytes | None]:
        if longest:
            self.calls.append(f"read {len(keys)}")
        return super().get_many(keys)

    def set_many(self, items: Mapping[bytes, bytes], ttl: float | None) -> None:
        if any(len(value) > 64 for value in items.values()):
            self.calls.append(f"write {len(items)}")
        super().set_many(items, ttl)


@pytest.mark.parametrize("engine", ["onnx", "torch"])
@pytest.mark.parametrize("kind", ["colbert", "embedder"])
def test_scores_stay_within_the_rounding_to_8_bits(
    kind: str, engine: Any, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(kind)
    plain = LocalBackend(folder, device="cpu", engine=engine)
    store = MemoryStore()
    with plain, CachedBackend(plain, store=store) as kept:
        exact, rounded = plain.score(QUERY, DOCUMENTS), kept.score(QUERY, DOCUMENTS)
        vectors = plain._loaded.engine._documents._entries.values()  # type: ignore[union-attr]
        query = plain._loaded.engine._queries._entries.values()  # type: ignore[union-attr]

        # Each number moves by half a step, and the vector is then given its length again.
        steps = max(math.sqrt(v.rows.shape[1]) * float(np.abs(v.rows).max()) / 127 for v in vectors)
        bound = steps * sum(float(np.linalg.norm(q.rows, axis=1).sum()) for q in query)
        assert max(abs(a - b) for a, b in zip(exact, rounded, strict=True)) <= bound
        assert list(exact) == pytest.approx(list(rounded), rel=0.01)
        assert exact != rounded
        assert f"{plain.name.partition('&')[0]}+int8-vectors" == kept.name.partition("&")[0]


@pytest.mark.parametrize("kind", ["colbert", "embedder"])
def test_a_restart_finds_the_vectors(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(kind)
    with cached(folder, f"sqlite:{tmp_path}/kept.db") as first:
        before = first.score(QUERY, DOCUMENTS), first.score(OTHER, DOCUMENTS)
        assert (0, len(set(DOCUMENTS))) == facts(first)

    with cached(folder, f"sqlite:{tmp_path}/kept.db") as second:
        known = second.score(QUERY, DOCUMENTS)
        new = second.score("a query that is new", DOCUMENTS)
        assert (len(set(DOCUMENTS)), 0) == facts(second)

    assert before[0] == known, "from the store of scores"
    assert known.cached == len(DOCUMENTS)
    with cached(folder, "memory") as alone:
        assert new == alone.score("a query that is new", DOCUMENTS), "to the last bit"
        assert before[1] == alone.score(OTHER, DOCUMENTS)


def test_a_model_without_vectors_is_loaded_once(
    checkpoint: Callable[[str], str], colbert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache around it calls the backend that it was given; of a hub's model once it is loaded."""
    with LocalBackend(checkpoint("bert"), engine="onnx") as backend:
        assert CachedBackend(backend).wrapped is backend
        backend.score(QUERY, DOCUMENTS)
        monkeypatch.setattr(Path, "is_dir", lambda _: False)
        first, second = CachedBackend(backend), CachedBackend(RetryingBackend(backend))
        assert [backend, backend] == [first.wrapped, second.wrapped.children[0]]

    hub = LocalBackend("owner/model")
    assert CachedBackend(hub).wrapped is not hub
    monkeypatch.undo()
    own = LocalBackend(colbert)
    assert CachedBackend(own).wrapped is not own


def test_a_request_reads_once_and_writes_once(colbert: Path) -> None:
    store = Counting()
    with cached(colbert, store) as backend:
        backend.score(QUERY, DOCUMENTS)
        count = len(set(DOCUMENTS))
        assert [f"read {count}", f"write {count}"] == store.calls

        backend.score(OTHER, [*DOCUMENTS, "a new text"])
        assert ["read 1", "write 1"] == store.calls[2:], "what is in memory is not read again"


@pytest.mark.parametrize("damage", ["flipped", "cut", "swapped", "empty", "other type", "long"])
def test_a_damaged_value_is_a_miss(damage: str, colbert: Path, tmp_path: Path) -> None:
    place = tmp_path / "kept.db"
    with cached(colbert, f"sqlite:{place}") as backend:
        before = backend.score(QUERY, DOCUMENTS)
    with sqlite3.connect(place) as connection:
        connection.execute("DELETE FROM rerank_scores WHERE length(value) < 64")
        rows = connection.execute("SELECT key, value FROM rerank_scores").fetchall()
        values = [value for _, value in rows]
        damaged: list[Any] = {
            "flipped": [value[:40] + bytes([value[40] ^ 1]) + value[41:] for value in values],
            "cut": [value[:-1] for value in values],
            "swapped": values[1:] + values[:1],
            "empty": [b"" for _ in values],
            "other type": ["a text" for _ in values],
            "long": [value + bytes(1 << 18) for value in values],
        }[damage]
        pairs = [(value, key) for value, (key, _) in zip(damaged, rows, strict=True)]
        connection.executemany("UPDATE rerank_scores SET value = ? WHERE key = ?", pairs)
    connection.close()
    assert len(set(DOCUMENTS)) == len(rows)

    with cached(colbert, f"sqlite:{place}") as backend:
        assert before == backend.score(QUERY, DOCUMENTS)
        assert (0, len(rows)) == facts(backend)


def test_other_settings_and_secrets_find_nothing(
    colbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"sqlite:{tmp_path}/kept.db"
    with cached(colbert, store) as backend:
        backend.score(QUERY, DOCUMENTS)
    for options in ({"max_length": 9}, {"dtype": "int8"}):
        with cached(colbert, store, **options) as backend:
            backend.score(QUERY, DOCUMENTS)
            assert 0 == facts(backend)[0]
    monkeypatch.setenv("RERANK_CACHE_KEY", "a secret")
    with cached(colbert, store) as backend:
        backend.score(QUERY, DOCUMENTS)
        assert 0 == facts(backend)[0]


def test_the_store_holds_neither_texts_nor_more_than_8_bits(colbert: Path, tmp_path: Path) -> None:
    with cached(colbert, f"sqlite:{tmp_path}/kept.db") as backend:
        backend.score(QUERY, ["the giant panda is a bear"])
        width = 32
    content = (tmp_path / "kept.db").read_bytes()
    with sqlite3.connect(tmp_path / "kept.db") as connection:
        longest = connection.execute("SELECT max(length(value)) FROM rerank_scores").fetchone()[0]
    connection.close()

    assert b"giant" not in content
    assert longest < 40 * (width + 4) + 64


def test_vectors_can_be_left_out(colbert: Path) -> None:
    plain = LocalBackend(colbert, device="cpu", engine="onnx")
    with CachedBackend(plain, store="memory", vectors=False) as backend:
        assert backend.wrapped is plain
        assert plain.name == backend.name
        assert plain.score(QUERY, DOCUMENTS) == backend.score(QUERY, DOCUMENTS)
        assert "vectors_made" not in backend.describe()


def test_the_store_reaches_a_model_below_other_wrappers(colbert: Path) -> None:
    store = Counting()
    inner = RetryingBackend(CircuitBreakingBackend(LocalBackend(colbert, engine="onnx")))
    with CachedBackend(inner, store=store) as backend:
        backend.score(QUERY, DOCUMENTS[:2])
        assert ["read 2", "write 2"] == store.calls
    remote = FakeBackend()
    assert CachedBackend(remote).wrapped is remote, "what keeps no vectors is not copied"


def test_a_store_that_fails_fails_no_request(colbert: Path, tmp_path: Path) -> None:
    (tmp_path / "no database").write_bytes(b"something else" * 999)
    with cached(colbert, "memory") as backend:
        expected = backend.score(QUERY, DOCUMENTS)
    for store in (f"sqlite:{tmp_path}/no database", f"sqlite:{tmp_path}/no folder/kept.db"):
        with cached(colbert, store) as backend:
            assert expected == backend.score(QUERY, DOCUMENTS)


@pytest.fixture
def redis_server() -> Iterator[tuple[str, Any]]:
    pytest.importorskip("redis", reason="needs the extra `redis`")
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("needs redis-server on PATH, as in: apt-get install redis-server")
    port = free_port()
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", "/"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if "Ready to accept connections" in line:
                break
        yield f"redis://127.0.0.1:{port}/0?timeout=5", process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_replicas_share_vectors_through_redis_and_live_without_it(
    colbert: Path, redis_server: tuple[str, Any]
) -> None:
    url, process = redis_server
    long = [f"{document} {n}" for n in range(40) for document in DOCUMENTS[1:3]]
    with cached(colbert, url) as first, cached(colbert, url) as second:
        expected = first.score(QUERY, long)
        assert (0, len(long)) == facts(first)
        second.score(OTHER, long)
        assert (len(long), 0) == facts(second), "the other replica made them"

        process.kill()
        process.wait()
        with cached(colbert, f"{url}&pause=60") as third:
            began = time.monotonic()
            assert expected == third.score(QUERY, long)
            assert (0, len(long)) == facts(third)
            assert time.monotonic() - began < 60
        assert expected == second.score(QUERY, long)


@pytest.mark.slow
def test_a_process_shares_its_vectors_with_the_next(colbert: Path, tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path}/kept.db"
    local = LocalBackend(colbert, device="cpu", engine="onnx")
    with CachedBackend(ModelProcess(local), store=store) as own:
        expected = own.score(QUERY, DOCUMENTS)
        assert "+int8-vectors" in own.name
    with sqlite3.connect(tmp_path / "kept.db") as connection:
        connection.execute("DELETE FROM rerank_scores WHERE length(value) < 64")
    connection.close()
    with cached(colbert, store) as here:
        assert expected == here.score(QUERY, DOCUMENTS)
        assert (len(set(DOCUMENTS)), 0) == facts(here)


def test_bytes_are_read_as_they_were_written_or_not_at_all() -> None:
    draw = np.random.default_rng(3)
    for rows, windows in ((0, ()), (0, (0,)), (1, (0,)), (7, (0, 3)), (300, (0, 256))):
        exact = TextVectors(draw.normal(size=(rows, 5)).astype(np.float32), None, windows, 9, True)
        data = to_bytes(compress(exact))
        again = from_bytes(data)
        assert again is not None
        assert (windows, 9, True) == (again.windows, again.tokens, again.is_truncated)
        assert again.vectors() == pytest.approx(compress(exact).vectors())
        for _ in range(200):
            position, change = int(draw.integers(len(data))), int(draw.integers(1, 256))
            other = bytearray(data)
            other[position] ^= change
            found = from_bytes(bytes(other))
            assert found is None or np.isfinite(found.vectors()).all()
        for end in range(0, len(data), max(1, len(data) // 50)):
            assert from_bytes(data[:end]) is None
        assert from_bytes(data + b"\0") is None


def test_a_server_s_process_gets_the_store(colbert: Path, tmp_path: Path) -> None:
    store = f"sqlite:{tmp_path}/kept.db?max_bytes=1000000"
    served = isolate(cached(colbert, store), ServerSettings())
    (process,) = served.children
    (model,) = process.children
    sent = pickle.loads(pickle.dumps(model))  # as it goes to the process

    assert isinstance(process, ModelProcess)
    assert "+int8-vectors" in sent.name
    sent.score(QUERY, DOCUMENTS)
    with cached(colbert, store) as replica:
        replica.score(OTHER, DOCUMENTS)
        assert (len(set(DOCUMENTS)), 0) == facts(replica)
    served.close()
