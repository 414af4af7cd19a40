"""The commands of the README start from a checkout, wherever their modules are filed."""

import subprocess
import sys

import pytest

from tests.support.places import ROOT

BENCHMARKS = ROOT / "tests" / "benchmarks"
SCRIPTS = (
    "calibration",
    "modular",
    "gpu",
    "install",
    "quality",
    "run",
    "serving",
    "train_cross_encoder",
    "transfer",
)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_explains_itself(name, tmp_path):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / f"{name}.py", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout.startswith("usage: ")
