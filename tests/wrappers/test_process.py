"""A model in its own process: it may die, hang or fail to load, and no caller waits forever."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from rerank_plugins import (
    BackendCrashed,
    BackendError,
    BackendTimeout,
    ConfigError,
    InvalidResponse,
)
from rerank_plugins._internal.parallel import in_daemon_thread
from rerank_plugins.hooks import CallStarted, Truncated
from rerank_plugins.hooks._dispatch import observe_call
from rerank_plugins.testing import BackendContract
from rerank_plugins.wrappers import process
from rerank_plugins.wrappers.process import ModelCrashed, ModelProcess, ModelRestarting
from tests.support.doubles import Frozen, Marked, Outlived, Stuck, Unloadable, Verbose
from tests.support.places import ROOT


class KeptOpen(ModelProcess):
    """One process for many tests, which the fixture closes."""

    @classmethod
    def _rebuilt(cls, children, options):
        return ModelProcess(*children, **options)

    def close(self):
        pass

    async def aclose(self):
        pass


@pytest.fixture(scope="class")
def kept_open(request):
    request.cls.model = KeptOpen(Marked())
    yield
    ModelProcess.close(request.cls.model)


@pytest.mark.usefixtures("kept_open")
class TestContractOfOneProcess(BackendContract):
    forkable = False  # `TestFork` closes what it forks

    def make_backend(self):
        return self.model


@pytest.mark.slow
class TestContract(BackendContract):
    def make_backend(self):
        return ModelProcess(Marked())


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    """Start workers again at once, however short the last ones lived."""
    monkeypatch.setattr(process, "_MAX_PAUSE", 0.05)


@pytest.fixture(scope="module")
def model():
    with ModelProcess(Marked(), batch_seconds=1) as model:
        model.score("q", ["a"])
        yield model


def back(model, seconds=30.0):
    """Wait until calls succeed again."""
    deadline = time.monotonic() + seconds
    while model.is_restarting:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_scores_in_another_process(model):
    assert os.getpid() != model.process_id
    assert [1.0, 2.0] == model.score("q", ["a", "bb"])
    assert {"name": "marked", "process": "own"}.items() <= model.describe().items()
    assert ("logit", True) == (model.scale, model.cacheable)


def test_describe_does_not_wait_for_the_batch_in_progress(model):
    """The caller may be an event loop, which must not wait."""
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(model.score, "q", ["hang"])
        while model._call_started is None:
            time.sleep(0.001)
        facts = model.describe()
        assert not hanging.done()
        with pytest.raises(ModelRestarting):
            hanging.result()
    back(model)

    assert ("marked", "marked") == (facts["name"], model.name)


OWNER = """
from tests.support.doubles import Marked
from rerank_plugins.wrappers import process
from rerank_plugins.wrappers.process import ModelProcess

model = ModelProcess(Marked())
model.score("q", ["a"])
print(model.process_id, flush=True)
model.score("q", ["hang"])
"""


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_a_model_that_hangs_does_not_outlive_its_owner():
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with owner:
        assert owner.stdout is not None
        model = int(owner.stdout.readline())
        time.sleep(0.5)  # for the call that hangs
        owner.kill()

    deadline = time.monotonic() + 30
    while lives(model):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def lives(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{process}/stat")  # where there is no init, nobody takes a zombie away
    return not stat.exists() or ") Z " not in stat.read_text()


def test_garbage_collections_leave_out_the_model():
    with ModelProcess(Frozen()) as model:
        assert model.score("q", ["a"])[0] > 1000


def test_errors_of_the_process_keep_their_type(model):
    before = model.process_id
    with pytest.raises(InvalidResponse, match="poison"):
        model.score("q", ["poison"])
    with pytest.raises(BackendError, match="the model failed with Panic"):
        model.score("q", ["panic"])
    for text in ("no memory", "odd memory"):
        with pytest.raises(MemoryError):
            model.score("q", [text])

    assert before == model.process_id


@pytest.mark.parametrize("ending", ["kill", "hang"])
def test_a_process_that_ends_or_hangs_is_started_again(model, ending):
    before = model.process_id
    with pytest.raises(ModelRestarting):
        model.score("q", [ending])
    back(model)

    assert before != model.process_id
    assert [1.0] == model.score("q", ["a"])


def test_a_call_is_only_blamed_for_what_happened_during_it():
    """Not for a process that had ended before, nor for one that is being started."""
    with ModelProcess(Marked()) as model:
        model.score("q", ["a"])
        with pytest.raises(ModelCrashed):
            model.score("q", ["kill"])
        with pytest.raises(ModelRestarting) as caught:
            model.score("q", ["a"])

    assert not isinstance(caught.value, BackendCrashed)


@pytest.mark.slow
def test_only_processes_that_scored_nothing_are_started_after_a_pause(monkeypatch):
    """Else the pauses after documents that end it would be everybody's."""
    monkeypatch.setattr(process, "_MAX_PAUSE", 3600.0)
    with ModelProcess(Marked()) as model:
        for _ in range(4):
            model.score("q", ["a"])
            with pytest.raises(ModelCrashed):
                model.score("q", ["kill"])
            back(model)


def test_calls_fail_at_once_while_it_is_started_again():
    restarts = []
    with ModelProcess(Marked(), on_restart=partial(restarts.append, 1)) as model:
        model.score("q", ["a"])
        os.kill(model.process_id, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while not model.is_restarting:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        with pytest.raises(ModelRestarting) as caught:
            model.score("q", ["a"])
        back(model)

    assert caught.value.retry_after
    assert [1] == restarts


@pytest.mark.parametrize("calls", [1, 4])
def test_calls_may_wait_until_it_has_started_again(calls):
    with (
        ModelProcess(Marked(), wait_seconds=60) as model,
        ThreadPoolExecutor(calls) as pool,
    ):
        model.score("q", ["a"])
        with pytest.raises(ModelCrashed):
            model.score("q", ["kill"])
        results = [pool.submit(model.score, "q", ["bb"]) for _ in range(calls)]

        assert [[2.0]] * calls == [list(each.result(60)) for each in results]


def test_calls_wait_for_no_process_that_takes_too_long(tmp_path):
    """The time counts from the end of the last one: what comes later fails at once."""
    blocked = tmp_path / "blocked"
    with ModelProcess(Stuck(blocked=str(blocked)), wait_seconds=0.5) as model:
        model.score("q", ["a"])
        blocked.touch()
        os.kill(model.process_id, signal.SIGKILL)
        for _ in range(3):
            with pytest.raises(ModelRestarting):
                model.score("q", ["a"])
        assert model.is_restarting
        assert model.restarting_for() >= 0.5


@pytest.mark.parametrize("document", ["kill", "hang"])
def test_a_call_that_is_dropped_before_its_turn_does_not_reach_the_model(
    model, monkeypatch, document
):
    """Its thread can't be ended; a client that sends and leaves would keep the model at work."""
    begun = threading.Semaphore(0)

    async def calls():
        back(model)
        monkeypatch.setattr(model, "_wait_for_next", begun.release)
        with model._one_call:  # as the call in progress holds it
            dropped = [asyncio.create_task(model.ascore("q", [document])) for _ in range(3)]
            for _ in dropped:
                await asyncio.to_thread(begun.acquire)
            for each in dropped:
                each.cancel()
            await asyncio.wait(dropped)
            number = model.process_id
        scores = await model.ascore("q", ["bb"])
        return list(scores), model.process_id == number

    assert ([2.0], True) == asyncio.run(calls())


@pytest.mark.slow
def test_a_stopped_process_does_not_block_a_large_request():
    """Its pipe is full and nobody reads it."""
    with ModelProcess(Marked(), batch_seconds=1) as model:
        model.score("q", ["a"])
        os.kill(model.process_id, signal.SIGSTOP)
        with pytest.raises(ModelRestarting):
            model.score("q", ["a" * 1_000_000])


@pytest.fixture
def file_of_child(tmp_path):
    """Where a model writes the id of the child that outlives its process."""
    file = tmp_path / "child"
    yield file
    with suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int(file.read_text()), signal.SIGKILL)


def settled(function, *arguments):
    """Call in another thread; return its future, once that is done."""
    future = in_daemon_thread(partial(function, *arguments), name="call")
    futures.wait([future], 30)
    assert future.done()
    return future


@pytest.mark.skipif(os.name != "posix", reason="forks")
@pytest.mark.parametrize("way", ["forked", "started"])
@pytest.mark.parametrize("ending", ["kill", "hang"])
def test_a_child_that_outlives_the_process_keeps_no_call_waiting(file_of_child, way, ending):
    """It holds the pipes, so their end does not tell of that of the process."""
    backend = Outlived(file=str(file_of_child), way=way)
    with ModelProcess(backend, batch_seconds=1, wait_seconds=20) as model:
        assert isinstance(settled(model.score, "q", [ending]).exception(), ModelCrashed)
        assert [1.0] == settled(model.score, "q", ["a"]).result()


@pytest.mark.skipif(os.name != "posix", reason="forks")
@pytest.mark.parametrize("way", ["forked", "started"])
def test_a_child_that_outlives_the_process_keeps_no_large_request_waiting(file_of_child, way):
    """More than the pipe holds: who has the other end will never read it."""
    with ModelProcess(Outlived(file=str(file_of_child), way=way), batch_seconds=1) as model:
        model.score("q", ["a"])
        os.kill(model.process_id, signal.SIGSTOP)
        failed = settled(model.score, "q", ["a" * 1_000_000])
        assert isinstance(failed.exception(), ModelRestarting)


@pytest.mark.skipif(os.name != "posix", reason="forks")
def test_a_child_that_outlives_a_load_keeps_nobody_waiting(file_of_child):
    backend = Outlived(file=str(file_of_child), way="forked", at_load=True)
    with ModelProcess(backend) as model:
        assert isinstance(settled(model.score, "q", ["a"]).exception(), ModelRestarting)


def test_a_model_that_can_not_be_loaded_is_one_error():
    with ModelProcess(Unloadable()) as model, pytest.raises(ConfigError, match="no such model"):
        model.score("q", ["a"])


@pytest.mark.parametrize("holds_lock", [False, True], ids=["sleeps", "computes"])
def test_a_load_that_hangs_is_ended(tmp_path, holds_lock):
    (tmp_path / "blocked").touch()
    stuck = Stuck(blocked=str(tmp_path / "blocked"), holds_lock=holds_lock)
    with ModelProcess(stuck, load_seconds=1) as model:
        with pytest.raises(BackendTimeout, match="it had not loaded the model in 1 s"):
            model.score("q", ["a"])
        assert model.process_id is None


def test_a_successor_that_hangs_while_it_loads_is_ended_and_replaced(tmp_path, caplog):
    blocked = tmp_path / "blocked"
    with ModelProcess(Stuck(blocked=str(blocked)), load_seconds=3) as model:
        model.score("q", ["a"])
        blocked.touch()
        os.kill(model.process_id, signal.SIGKILL)
        wait_until(lambda: "it had not loaded the model in 3 s" in caplog.text)
        assert model.restarting_for() >= 3
        blocked.unlink()
        back(model)

        assert [1.0] == model.score("q", ["a"])
        assert model.restarting_for() == 0


@pytest.mark.parametrize("way", ["close", "kill"])
def test_a_first_load_that_hangs_ends_at_once_with_the_backend(tmp_path, way):
    (tmp_path / "blocked").touch()
    model = ModelProcess(Stuck(blocked=str(tmp_path / "blocked")))
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(model.score, "q", ["a"])
        wait_until(lambda: model._next_worker is not None)
        getattr(model, way)()
        with pytest.raises(ModelRestarting):
            call.result(30)


def test_what_the_process_writes_is_logged_and_never_blocks_it(caplog):
    with ModelProcess(Verbose(), batch_seconds=30) as model:
        assert [1.0] == model.score("q", ["a"])

    lines = [record.message for record in caplog.records]
    assert 1000 == lines.count(f"the model's process: {'x' * 99}")


def wait_until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def refuse(backend):
    raise ConfigError(f"{type(backend).__name__} is not as it was")


def test_prepare_runs_in_the_process():
    with (
        ModelProcess(Marked(), prepare=refuse) as model,
        pytest.raises(ConfigError, match="Marked is not as it was"),
    ):
        model.describe()


@pytest.mark.slow
def test_it_closes_while_other_threads_go_on_calling():
    """They start the next process before the last one has ended."""
    model, ended = ModelProcess(Marked()), threading.Event()

    def call():
        while not ended.is_set():
            with suppress(ModelRestarting):
                assert [1.0] == model.score("q", ["a"])

    with ThreadPoolExecutor(5) as pool:
        callers = [pool.submit(call) for _ in range(4)]
        try:
            model.describe()
            closing = threading.Thread(target=model.close, daemon=True)
            closing.start()
            closing.join(30)
            assert not closing.is_alive()
        finally:
            ended.set()
        for caller in callers:
            caller.result(30)
    model.close()

    assert model.process_id is None


def test_it_ends_with_the_backend():
    model = ModelProcess(Marked())
    model.score("q", ["a"])
    worker = model.process_id
    model.close()

    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


class Interrupted(BaseException):
    """As `KeyboardInterrupt`, but pytest itself never raises it."""


def interrupt(number, frame):
    raise Interrupted


def test_scores_of_an_interrupted_call_reach_no_other_call():
    """They would be the next in the pipe."""
    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with ModelProcess(Marked(seconds=1)) as model, ThreadPoolExecutor(1) as pool:
            model.describe()
            pool.submit(interrupt_once_it_scores, model)
            with pytest.raises(Interrupted):
                model.score("q", ["abc"])
            back(model)

            assert [1.0] == model.score("q", ["a"])
    finally:
        signal.signal(signal.SIGUSR1, before)


def interrupt_once_it_scores(model):
    while model._call_started is None:
        time.sleep(0.001)
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGUSR1)


def test_a_failing_on_restart_does_not_prevent_a_restart(caplog):
    with ModelProcess(Marked(), on_restart=lambda: 1 / 0) as model:
        for _ in range(2):
            model.score("q", ["a"])
            with pytest.raises(ModelRestarting):
                model.score("q", ["kill"])
            back(model)

        assert [1.0] == model.score("q", ["a"])
    messages = [record.getMessage() for record in caplog.records]
    assert 2 == messages.count("`on_restart` failed with ZeroDivisionError")


@pytest.mark.slow
def test_on_restart_may_close_the_model():
    restarted = threading.Event()

    def close():
        model.close()
        restarted.set()

    model = ModelProcess(Marked(), on_restart=close)
    with pytest.raises(ModelRestarting):
        model.score("q", ["kill"])

    assert restarted.wait(30)
    assert [1.0] == model.score("q", ["a"])
    model.close()


def test_a_hook_may_call_the_model():
    """It is called after the model is free."""
    scores = []

    def hook(event):
        if isinstance(event, Truncated):
            scores.extend(model.score("q", ["a"]))

    def call():
        with observe_call((hook,), CallStarted("library", "marked", None, 1, 1)):
            return model.score("q", ["long"])

    with ModelProcess(Marked()) as model:
        caller = threading.Thread(target=call, daemon=True)
        caller.start()
        caller.join(30)

        assert not caller.is_alive()
        assert [1.0] == scores


def closes_within(model, seconds):
    closing = threading.Thread(target=model.close, daemon=True)
    closing.start()
    closing.join(seconds)
    return not closing.is_alive()


def test_it_closes_while_a_call_hangs():
    model = ModelProcess(Marked(), batch_seconds=1)
    model.score("q", ["a"])
    worker = model.process_id
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(model.score, "q", ["hang"])
        while model._call_started is None:
            time.sleep(0.001)
        closed = closes_within(model, 30)
        if not closed:
            os.kill(worker, signal.SIGKILL)

        assert closed
        with pytest.raises(ModelRestarting):
            hanging.result(30)


def wait_while_there_is(path, backend):
    while path.exists():
        time.sleep(0.01)


@pytest.mark.slow
def test_it_closes_while_the_model_is_being_loaded_again(tmp_path):
    obstacle = tmp_path / "obstacle"
    model = ModelProcess(Marked(), prepare=partial(wait_while_there_is, obstacle))
    model.score("q", ["a"])
    obstacle.touch()
    with pytest.raises(ModelRestarting):
        model.score("q", ["kill"])
    time.sleep(1)  # else it has not begun
    try:
        assert closes_within(model, 30)
    finally:
        obstacle.unlink()


def test_a_process_that_can_not_be_supervised_is_not_used(monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    with ModelProcess(Marked()) as model:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                model.score("q", ["a"])
        assert model.process_id is None

        assert [1.0] == model.score("q", ["a"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
class TestFork:
    """A forked child has a worker of its own, and leaves that of its parent alone."""

    def child_scores(self, model):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = int(model.score("q", ["abc"]) != [3.0])
                model.close()
            finally:
                os._exit(code)
        deadline = time.monotonic() + 60
        while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
        return os.waitstatus_to_exitcode(ended[1]) == 0

    def test_after_scoring(self, model):
        worker = model.process_id
        assert [1.0] == model.score("q", ["a"])

        assert self.child_scores(model)
        assert [2.0] == model.score("q", ["bb"])
        assert worker == model.process_id

    def test_before_the_first_call(self):
        with ModelProcess(Marked()) as model:
            assert self.child_scores(model)
            assert model.process_id is None

    @pytest.mark.slow
    def test_while_another_thread_scores(self):
        with ModelProcess(Marked(seconds=1.0)) as model, ThreadPoolExecutor(1) as pool:
            model.describe()
            scores = pool.submit(model.score, "q", ["a"])
            while model._call_started is None:
                time.sleep(0.001)

            assert self.child_scores(model)
            assert [1.0] == scores.result(30)

    @pytest.mark.slow
    def test_while_another_thread_sends_a_request(self):
        """What waits in the parent's buffer is not sent twice."""
        with ModelProcess(Marked()) as model, ThreadPoolExecutor(2) as pool:
            model.score("q", ["a"])
            os.kill(model.process_id, signal.SIGSTOP)
            scores = pool.submit(model.score, "q", ["a" * 1_000_000] * 3)
            time.sleep(0.2)  # for its pipe to be full
            child = pool.submit(self.child_scores, model)
            time.sleep(0.5)
            os.kill(model.process_id, signal.SIGCONT)

            assert child.result(60)
            assert [1_000_000.0] * 3 == scores.result(30)
            assert [1.0] == model.score("q", ["a"])

    @pytest.mark.slow
    def test_while_another_thread_loads(self, tmp_path):
        obstacle = tmp_path / "obstacle"
        obstacle.touch()
        model = ModelProcess(Marked(), prepare=partial(wait_while_there_is, obstacle))
        with model, ThreadPoolExecutor(2) as pool:
            scores = pool.submit(model.score, "q", ["a"])
            time.sleep(0.5)  # for the process to start
            child = pool.submit(self.child_scores, model)
            time.sleep(0.5)
            obstacle.unlink()

            assert child.result(60)
            assert [1.0] == scores.result(30)


def test_the_loop_stays_free_while_it_loads_scores_and_closes():
    async def beats(work):
        """Return the longest time between two beats of the loop while it works."""
        task, last, longest = asyncio.create_task(work), time.monotonic(), 0.0
        while not task.done():
            await asyncio.sleep(0.005)
            now = time.monotonic()
            last, longest = now, max(longest, now - last)
        await task
        return longest

    async def use():
        model = ModelProcess(Marked(seconds=0.5))
        scoring = await beats(model.ascore("q", ["a"]))
        return scoring, await beats(model.aclose())

    assert max(asyncio.run(use())) < 0.25
