"""The stores that need no server."""

import logging
import multiprocessing
import os
import pickle
import sqlite3
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from rerank_plugins import ConfigError, MissingDependencyError
from rerank_plugins.wrappers.stores import Store, open_store, sqlite
from rerank_plugins.wrappers.stores.guard import Guard
from rerank_plugins.wrappers.stores.memory import MemoryStore
from rerank_plugins.wrappers.stores.sqlite import SQLiteStore


class Clock:
    """Stands still until it is told otherwise."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=["memory", "sqlite"])
def make_store(request, tmp_path, clock):
    """A function that builds a store, with the same place each time."""

    def make(**options):
        if request.param == "memory":
            return MemoryStore(clock=clock, **options)
        return SQLiteStore(tmp_path / "scores.db", clock=clock, **options)

    return make


def test_values_come_back_in_the_order_of_the_keys(make_store):
    store = make_store()
    store.set_many({b"a": b"1", b"b": b"2"}, None)

    assert [b"2", None, b"1", b"2"] == list(store.get_many([b"b", b"c", b"a", b"b"]))
    assert [] == list(store.get_many([]))
    store.close()


def test_a_value_is_replaced(make_store):
    store = make_store()
    store.set_many({b"a": b"1"}, None)
    store.set_many({b"a": b"2"}, None)

    assert [b"2"] == store.get_many([b"a"])
    store.close()


def test_a_value_is_out_of_date_after_its_time(make_store, clock):
    store = make_store()
    store.set_many({b"short": b"1"}, 10.0)
    store.set_many({b"long": b"2"}, 20.0)
    store.set_many({b"forever": b"3"}, None)
    clock.now += 9.9
    assert [b"1", b"2", b"3"] == store.get_many([b"short", b"long", b"forever"])
    clock.now += 0.2
    assert [None, b"2", b"3"] == store.get_many([b"short", b"long", b"forever"])
    clock.now += 1e9
    assert [None, None, b"3"] == store.get_many([b"short", b"long", b"forever"])
    store.close()


def test_the_number_of_values_is_bounded(make_store):
    store = make_store(entries=3)
    for number in range(10):
        store.set_many({b"%d" % number: b"x"}, None)
    values = store.get_many([b"%d" % number for number in range(10)])

    assert [None] * 7 + [b"x"] * 3 == values
    store.close()


@pytest.mark.parametrize("size", [16, 400, 2_500, 20_000])
def test_what_values_take_is_bounded(make_store, tmp_path, size):
    most = 1 << 19
    store = make_store(max_bytes=most)
    for batch in range(150):
        items = {b"%d.%d" % (batch, n): os.urandom(size) for n in range(50_000 // (size + 400))}
        store.set_many(items, None)
        if (file := tmp_path / "scores.db").exists():
            assert file.stat().st_size <= most
        else:
            assert store.describe()["bytes"] <= most
    values = store.get_many(list(items), longest=size)

    assert list(items.values()) == values, "the newest are there"
    assert [None] == store.get_many([b"0.0"], longest=size), "the oldest are gone"
    assert 0 == store.describe().get("errors", 0)
    store.close()


def test_replacing_and_expiring_frees_their_bytes(make_store, clock):
    store = make_store(max_bytes=1 << 18)
    for _ in range(50):
        store.set_many({b"a": bytes(9_000), b"b": bytes(9_000)}, 10.0)
    assert [bytes(9_000)] * 2 == store.get_many([b"a", b"b"], longest=9_000)

    clock.now += 20
    assert [None] == store.get_many([b"a"], longest=9_000)
    store.set_many({b"c": bytes(9_000)}, 10.0)
    assert [bytes(9_000)] == store.get_many([b"c"], longest=9_000)
    assert store.describe().get("bytes", 0) < 20_000
    store.close()


def test_values_too_large_for_the_bound_are_left_out(make_store):
    store = make_store(max_bytes=1 << 16)
    store.set_many({b"small": b"1"}, None)
    store.set_many({b"large": bytes(1 << 17)}, None)

    assert [None] == store.get_many([b"large"], longest=1 << 18)
    assert 0 == store.describe().get("errors", 0)
    store.close()


def test_a_file_that_is_too_large_already_is_used_on(tmp_path):
    path = tmp_path / "scores.db"
    large = SQLiteStore(path)
    large.set_many({b"%d" % n: os.urandom(5_000) for n in range(200)}, None)
    large.close()
    before = path.stat().st_size
    small = SQLiteStore(path, max_bytes=1 << 17)
    small.set_many({b"new": b"1"}, None)

    assert [b"1"] == small.get_many([b"new"])
    assert [None] == small.get_many([b"0"], longest=5_000)
    assert path.stat().st_size <= before
    assert 0 == small.describe()["errors"]
    small.close()


def test_values_longer_than_asked_for_are_not_read_from_a_file(tmp_path):
    store = SQLiteStore(tmp_path / "scores.db")
    store.set_many({b"a": bytes(300)}, None)

    assert [None] == store.get_many([b"a"])
    assert [bytes(300)] == store.get_many([b"a"], longest=300)
    store.close()


def test_memory_evicts_the_least_recently_read():
    store = MemoryStore(entries=2)
    store.set_many({b"a": b"1", b"b": b"2"}, None)
    store.get_many([b"a"])
    store.set_many({b"c": b"3"}, None)

    assert [b"1", None, b"3"] == store.get_many([b"a", b"b", b"c"])


def test_more_keys_than_fit_into_one_query(make_store):
    store = make_store()
    items = {b"%d" % number: b"%d" % -number for number in range(2500)}
    store.set_many(items, None)

    assert list(items.values()) == store.get_many(list(items))
    store.close()


def test_a_store_can_be_used_after_it_was_closed(make_store):
    store = make_store()
    store.set_many({b"a": b"1"}, None)
    store.close()
    store.close()
    store.set_many({b"b": b"2"}, None)

    assert [b"2"] == store.get_many([b"b"])
    store.close()


def test_threads_share_a_store(make_store):
    store = make_store()

    def work(number):
        store.set_many({b"%d" % number: b"%d" % number}, None)
        return store.get_many([b"%d" % number])

    with ThreadPoolExecutor(8) as pool:
        assert [[b"%d" % n] for n in range(200)] == list(pool.map(work, range(200)))
    store.close()


def test_a_pickled_memory_store_starts_empty_with_the_same_bound():
    store = MemoryStore(entries=7)
    store.set_many({b"a": b"1"}, None)
    copy = pickle.loads(pickle.dumps(store))

    assert [None] == copy.get_many([b"a"])
    assert 7 == copy.describe()["max_entries"]


def test_a_pickled_sqlite_store_opens_the_same_file(tmp_path):
    store = SQLiteStore(tmp_path / "scores.db", entries=7)
    store.set_many({b"a": b"1"}, None)
    copy = pickle.loads(pickle.dumps(store))

    assert [b"1"] == copy.get_many([b"a"])
    assert 7 == copy.describe()["max_entries"]
    store.close()
    copy.close()


def _write_in_a_process(path, number):
    store = SQLiteStore(path)
    for index in range(50):
        store.set_many({b"%d.%d" % (number, index): b"%d" % index}, None)
    errors = store.describe()["errors"]
    store.close()
    return errors


def test_processes_share_a_file(tmp_path):
    path = tmp_path / "scores.db"
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert [0, 0] == pool.starmap(_write_in_a_process, [(path, 0), (path, 1)])
    store = SQLiteStore(path)
    keys = [b"%d.%d" % (number, index) for number in (0, 1) for index in range(50)]

    assert None not in store.get_many(keys)
    store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system can't fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_uses_the_store_even_if_a_thread_held_its_lock(make_store):
    store = make_store()
    store.set_many({b"a": b"1"}, None)
    with store._lock:
        child = os.fork()
        if child == 0:
            signal_after = threading.Timer(30, os._exit, [2])  # instead of hanging
            signal_after.daemon = True
            signal_after.start()
            store.set_many({b"b": b"2"}, None)
            os._exit(0 if store.get_many([b"a", b"b"]) == [b"1", b"2"] else 1)
    _, status = os.waitpid(child, 0)

    assert 0 == os.waitstatus_to_exitcode(status)
    store.set_many({b"c": b"3"}, None)
    assert [b"1", b"3"] == store.get_many([b"a", b"c"])
    store.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system can't fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_neither_uses_nor_closes_the_connection_of_its_parent(tmp_path):
    """SQLite forbids both: https://www.sqlite.org/howtocorrupt.html, section 2.6."""
    store = SQLiteStore(tmp_path / "scores.db")
    store.set_many({b"a": b"1"}, None)
    inherited = store._connection
    child = os.fork()
    if child == 0:
        store.close()
        untouched = inherited.execute("SELECT 1").fetchall() == [(1,)]
        store.get_many([b"a"])
        own = store._connection not in {None, inherited}
        store.close()
        untouched &= inherited.execute("SELECT 1").fetchall() == [(1,)]
        os._exit(0 if own and untouched else 1)
    _, status = os.waitpid(child, 0)

    assert 0 == os.waitstatus_to_exitcode(status)
    store.close()


@pytest.mark.parametrize(
    "content", [b"this is a text that somebody needs" * 100, b"SQLite format 3\x00" + b"x" * 5000]
)
def test_a_file_that_is_no_database_is_an_empty_store_and_stays_as_it_is(tmp_path, caplog, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    store = SQLiteStore(path)
    for _ in range(3):
        assert [None, None] == store.get_many([b"a", b"b"])
        store.set_many({b"a": b"1"}, None)
    store.close()

    assert content == path.read_bytes()
    assert 2 == store.describe()["errors"]  # one read, one write
    assert 2 == len(caplog.records)


def test_a_file_that_breaks_later_is_an_empty_store(tmp_path):
    path = tmp_path / "scores.db"
    store = SQLiteStore(path)
    store.set_many({b"%d" % n: b"x" * 100 for n in range(1000)}, None)
    store.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 40_000)

    assert [None] == store.get_many([b"5"])
    assert 1 == store.describe()["errors"]
    store.close()


_ENDLESS = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r)"
FOREIGN = {
    "a view without an end": f"""
        CREATE VIEW rerank_scores AS
        {_ENDLESS} SELECT n id, x'00' key, x'00' value, 9e9 ends FROM r
    """,
    "a trigger without an end": f"""
        CREATE TABLE rerank_scores (id INTEGER PRIMARY KEY, key UNIQUE, value, ends);
        CREATE TABLE more (n);
        CREATE VIEW numbers AS {_ENDLESS} SELECT n FROM r;
        CREATE TRIGGER t AFTER INSERT ON rerank_scores
        BEGIN INSERT INTO more SELECT n FROM numbers; END
    """,
    "a value of a gigabyte": """
        CREATE VIEW rerank_scores AS
        SELECT 1 id, x'61' key, zeroblob(900000000) value, 9e9 ends
    """,
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_file_of_others_takes_neither_endless_time_nor_memory(case, tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite, "_MOST_SECONDS", 0.1)
    path = tmp_path / "scores.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(FOREIGN[case])
    connection.close()
    store = SQLiteStore(path)
    store.set_many({b"a": b"1"}, None)

    assert [None] == store.get_many([b"a"])
    assert store.describe()["errors"]
    store.close()


def test_a_store_that_is_made_smaller_forgets_in_parts(tmp_path, monkeypatch):
    """So that no write takes longer than it may."""
    monkeypatch.setattr(sqlite, "_FORGOTTEN", 20)
    path = tmp_path / "scores.db"
    SQLiteStore(path).set_many({b"%d" % n: b"x" for n in range(100)}, None)
    store = SQLiteStore(path, entries=5)
    counts = []
    with sqlite3.connect(path) as connection:
        for n in range(6):
            store.set_many({b"new %d" % n: b"x"}, None)
            counts += connection.execute("SELECT count(*) FROM rerank_scores").fetchone()
    connection.close()
    store.close()

    assert [76, 52, 28, 5, 5, 5] == counts


def test_a_missing_folder_is_an_empty_store(tmp_path):
    store = SQLiteStore(tmp_path / "missing" / "scores.db")
    store.set_many({b"a": b"1"}, None)

    assert [None] == store.get_many([b"a"])


def test_a_process_that_holds_the_file_locked_stops_only_writing(tmp_path):
    path = tmp_path / "scores.db"
    store = SQLiteStore(path)
    store.set_many({b"a": b"1"}, None)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    store.set_many({b"b": b"2"}, None)

    assert [b"1", None] == store.get_many([b"a", b"b"])
    assert 1 == store.describe()["errors"]
    holder.close()
    store.close()


def test_specs_open_stores(tmp_path):
    memory = open_store("memory?entries=5")
    file = open_store(f"sqlite:{tmp_path}/what%3F.db?entries=6")

    assert {
        "kind": "memory",
        "entries": 0,
        "max_entries": 5,
        "bytes": 0,
        "max_bytes": 1 << 28,
    } == memory.describe()
    assert f"{tmp_path}/what?.db" == file.describe()["path"]
    assert 6 == file.describe()["max_entries"]
    assert isinstance(memory, Store)
    assert isinstance(file, Store)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("memori", "unknown kind of store 'memori'; did you mean 'memory'"),
        ("", "unknown kind of store ''"),
        ("disk", "'disk' is no kind of store; for a file write: sqlite:PATH"),
        ("file:x.db", "'file' is no kind of store; for a file write: sqlite:PATH"),
        ("scores.db", "for a file write: sqlite:PATH"),
        ("memory:here", "write: memory"),
        ("memory?entries=0", "at least 1, not 0"),
        ("memory?entries=many", "must be int"),
        ("memory?max_bytes=0", "at least 1, not 0"),
        ("sqlite:x.db?max_bytes=1000", "at least 65536, not 1000"),
        ("memory?size=5", "unknown option 'size' for store 'memory'"),
        ("sqlite:", "no path"),
        ("sqlite", "no path"),
        ("sqlite:x.db?entries=-1", "at least 1, not -1"),
        ("sqlite:x.db?path=y.db", "unknown option 'path'"),
    ],
)
def test_wrong_specs_are_refused(spec, message):
    with pytest.raises(ConfigError, match=message):
        open_store(spec)


def test_a_guard_pauses_a_failed_store_until_it_works_again(clock, caplog):
    caplog.set_level(logging.INFO)
    guard = Guard("the thing", (OSError,), pause=30.0, clock=clock)
    calls = []

    def fail():
        calls.append(clock.now)
        raise OSError("secret text")

    assert ["no"] * 3 == [guard.call(fail, "no") for _ in range(3)]
    clock.now += 30
    assert ["no"] * 3 == [guard.call(fail, "no") for _ in range(3)]
    clock.now += 30
    assert ["yes"] * 2 == [guard.call(lambda: "yes", "no") for _ in range(2)]
    assert [1000.0, 1030.0] == calls
    assert 2 == guard.errors
    assert 2 == len(caplog.messages)  # when it broke, and when it worked again
    assert "secret text" not in caplog.text


def test_while_one_caller_probes_the_others_do_not_wait(clock, tmp_path):
    guard = Guard("the thing", (OSError,), pause=30.0, clock=clock)
    guard.call((tmp_path / "missing").stat, None)
    clock.now += 30
    seen = []

    def trial():
        seen.append(guard.call(lambda: "asked", "left out"))
        return "works"

    assert "works" == guard.call(trial, "no")
    assert ["left out"] == seen


def test_a_guard_hides_no_other_errors(clock):
    guard = Guard("the thing", (OSError,), pause=30.0, clock=clock)
    with pytest.raises(ZeroDivisionError):
        guard.call(lambda: 1 / 0, 0)


def test_the_extra_that_redis_needs_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(MissingDependencyError, match=r"rerank-plugins\[redis\]"):
        open_store("redis://localhost")
