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
late = []
if sys.argv[2] == "loading":
    thread.start()
    while backend._lock.acquire(timeout=0):  # until the thread loads
        backend._lock.release()
        time.sleep(0.001)
elif sys.argv[2] == "scored":
    backend._loaded() if backend.kind == "embedded" else backend.describe()  # both load
    loaded = set(sys.modules)
    score()
    late = sorted(set(sys.modules) - loaded)
child = os.fork()
if not child:
    threading.Timer(60, os._exit, [1]).start()
    print(score(), flush=True)
    os._exit(0)
_, status = os.waitpid(child, 0)
if thread.ident:
    thread.join()
print(score())
print(*late)
sys.exit(os.waitstatus_to_exitcode(status))
"""

STATES = ("new", "loading", "scored")
CASES = [
    *((engine, state) for engine in ("embedded", "onnx") for state in STATES),
    *(pytest.param("torch", state, marks=pytest.mark.slow) for state in STATES[1:]),
    pytest.param("torch", "new", marks=[pytest.mark.slow, pytest.mark.nightly]),
]


@pytest.mark.parametrize(("engine", "state"), CASES)
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

    child, parent, late = done.stdout.splitlines()
    assert child == parent
    # A fork waits for a load to end, but not for a score: an import there would stay locked.
    assert late == ""
