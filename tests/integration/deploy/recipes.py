"""The recipes of `examples/deploy`, and the tools that check them."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.places import ROOT

DEPLOY = ROOT / "examples" / "deploy"
REQUIRED = "RERANK_TEST_TOOLS_REQUIRED"


def is_required():
    """Whether nothing may be skipped, as in CI."""
    return os.environ.get(REQUIRED, "0") not in ("", "0")


def tool(name):
    """Return the path of a program; skip the test, or fail it, where there is none."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"])
    if program := shutil.which(name, path=path):
        return program
    if is_required():
        pytest.fail(f"{name} is not installed, and {REQUIRED} is set")
    pytest.skip(f"{name} is not installed")


def script(path):
    """Import a script by its place, as `path.stem`: so its neighbours import it, too."""
    if path.stem not in sys.modules:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        sys.modules[path.stem] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[path.stem]


def run(name, *arguments, cwd=DEPLOY):
    """Run a tool and return what it printed; fail with it if the tool does."""
    command = [tool(name), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def documents(path):
    """Return the YAML documents of a file."""
    return [
        document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document
    ]
