"""Locks in forked children: free, unless the thread that forks holds them."""

import ast
import os
import threading
import time
from pathlib import Path

import pytest

import rerank_plugins
from rerank_plugins._internal import locks
from rerank_plugins._internal.locks import (
    ForkSafeCondition,
    ForkSafeLock,
    hold_forks,
    reset_in_forked_child,
)

PACKAGE = Path(rerank_plugins.__file__).parent
PLAIN = {"Barrier", "BoundedSemaphore", "Condition", "Lock", "RLock", "Semaphore"}

forks = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system can't fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]


def in_child(check):
    """Return whether `check()` returned True in a forked child, within ten seconds."""
    child = os.fork()
    if child == 0:
        threading.Timer(10, os._exit, [3]).start()
        os._exit(0 if check() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def held_by_another_thread(lock):
    """Hold `lock` in another thread; return a function that releases it."""
    held, release = threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            release.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(5)

    def let_go():
        release.set()
        thread.join()

    return let_go


def can_be_taken(lock):
    with lock:
        return True


class TestForks:
    pytestmark = forks

    @pytest.mark.parametrize("kind", [ForkSafeCondition, ForkSafeLock])
    def test_a_lock_that_another_thread_holds_is_free_in_the_child(self, kind):
        lock = kind()
        let_go = held_by_another_thread(lock)

        assert in_child(lambda: can_be_taken(lock))
        let_go()
        assert can_be_taken(lock)

    @pytest.mark.parametrize("kind", [ForkSafeCondition, ForkSafeLock])
    def test_the_forking_thread_keeps_the_lock_that_it_holds(self, kind):
        """Leaving the block works in both processes, and the lock is free afterwards."""
        lock, taken = kind(), []

        def leave_and_take():
            lock.__exit__(None, None, None)
            thread = threading.Thread(target=lambda: taken.append(can_be_taken(lock)))
            thread.start()
            thread.join(5)
            return taken == [True]

        with lock:
            assert in_child(leave_and_take)
        assert can_be_taken(lock)

    def test_a_condition_has_no_waiters_in_the_child(self):
        condition, waits = ForkSafeCondition(), threading.Event()

        def wait():
            with condition:
                waits.set()
                condition.wait(20)

        thread = threading.Thread(target=wait)
        thread.start()
        assert waits.wait(5)

        def notified():
            with condition:
                condition.notify_all()
                return condition.wait_for(lambda: True, 1) and not condition.wait(0.01)

        assert in_child(notified)
        with condition:
            condition.notify_all()
        thread.join(5)
        assert not thread.is_alive()

    def test_objects_without_a_lock_are_reset_too(self):
        class Holder:
            state = "of the parent"

            def reset_after_fork(self):
                self.state = "new"

        holder = Holder()
        reset_in_forked_child(holder)

        assert in_child(lambda: holder.state == "new")
        assert holder.state == "of the parent"


def test_acquire_waits_no_longer_than_its_timeout():
    lock = ForkSafeLock()
    let_go = held_by_another_thread(lock)

    assert not lock.acquire(timeout=0.01)
    let_go()
    assert lock.acquire(timeout=5)
    lock.release()


def plain_locks(path):
    """Yield `module:line` of each call that creates a lock of `threading`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        of_module = (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in {"threading", "multiprocessing"}
            and node.attr in PLAIN
        )
        by_name = isinstance(node, ast.ImportFrom) and node.module == "threading"
        if of_module or (by_name and PLAIN & {alias.name for alias in node.names}):
            yield f"{path.relative_to(PACKAGE).as_posix()}:{node.lineno}"


def test_no_other_module_creates_a_lock_that_a_fork_may_leave_locked():
    locks = [
        place
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).as_posix() != "_internal/locks.py"
        for place in plain_locks(path)
    ]

    assert locks == []


def test_plain_locks_are_recognised(tmp_path, monkeypatch):
    """Otherwise the test above would prove nothing."""
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    module = tmp_path / "module.py"
    module.write_text(
        "import threading\nfrom threading import RLock\n"
        "a = threading.Lock()\nb = field(default_factory=threading.Condition)\n"
        "c = threading.Thread()\n"
    )

    assert sorted(plain_locks(module)) == ["module.py:2", "module.py:3", "module.py:4"]


class TestImports:
    pytestmark = forks

    def test_a_fork_waits_for_the_imports_of_other_threads(self):
        begun, ended = threading.Event(), []

        def import_slowly():
            with hold_forks():
                begun.set()
                time.sleep(0.2)
                ended.append(True)

        thread = threading.Thread(target=import_slowly)
        thread.start()
        assert begun.wait(5)

        assert in_child(lambda: ended == [True])
        thread.join()

    def test_it_does_not_wait_for_ever_and_the_child_can_import(self, monkeypatch):
        monkeypatch.setattr(locks, "_LONGEST_HOLD", 0.05)
        begun, release = threading.Event(), threading.Event()

        def import_for_ever():
            with hold_forks():
                begun.set()
                release.wait(30)

        def can_import():
            with hold_forks():
                return True

        thread = threading.Thread(target=import_for_ever)
        thread.start()
        assert begun.wait(5)

        assert in_child(can_import)
        release.set()
        thread.join()
        assert can_import()

    def test_the_thread_that_imports_may_fork_itself(self):
        with hold_forks():
            assert in_child(lambda: True)
        assert in_child(lambda: True)
