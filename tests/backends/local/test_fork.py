"""A forked child scores, whatever its parent was doing: nothing yet, loading, or scoring."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system can't fork")

SCRIPT = """
import os, sys, threading, time
from rerank_plugins import load_backend

def score():
    return [round(score, 4) for score in backend.score("panda", ["bear", "a panda is a bear"])]

backend = load_backend(sys.argv[1])
thread = threading.Thread(target=score)
if sys.argv[2] == "loading":
    thread.start()
    while backend._lock.acquire(timeout=0):  # until the thread loads
        backend._lock.release()
        time.sleep(0.001)
elif sys.argv[2] == "scored":
    score()
child = os.fork()
if not child:
    threading.Timer(60, os._exit, [1]).start()
    print(score(), flush=True)
    os._exit(0)
_, status = os.waitpid(child, 0)
if thread.ident:
    thread.join()
print(score())
sys.exit(os.waitstatus_to_exitcode(status))
"""

TORCH = pytest.param("torch", marks=pytest.mark.slow)


@pytest.mark.parametrize("state", ["new", "loading", "scored"])
@pytest.mark.parametrize("engine", ["embedded", "onnx", TORCH])
def test_a_forked_child_scores_as_its_parent_does(engine, state, checkpoint):
    spec = engine
    if engine != "embedded":
        spec = f"local:{checkpoint('bert')}?engine={engine}&device=cpu"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, spec, state],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr

    child, parent = done.stdout.splitlines()
    assert child == parent


IMPORTS = """
import sys
from rerank_plugins import load_backend

backend = load_backend(sys.argv[1])
backend._loaded() if backend.kind == "embedded" else backend.describe()  # both load
loaded = set(sys.modules)
backend.score("panda", ["bear", "a panda is a bear", "\u732b", "bear " * 600])
print(*sorted(set(sys.modules) - loaded))
"""


@pytest.mark.parametrize("engine", ["embedded", "onnx", TORCH])
def test_nothing_is_left_to_import_after_loading(engine, checkpoint):
    # A fork waits for a load to end, but not for a score: an import there would stay locked.
    spec = engine
    if engine != "embedded":
        spec = f"local:{checkpoint('bert')}?engine={engine}&device=cpu"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IMPORTS, spec],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.split() == []
