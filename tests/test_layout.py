"""What stands at the top of the repository."""

import subprocess

import pytest

from tests.support.places import ROOT

SKELETON = {
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "README.zh-CN.md",
    "docs",
    "examples",
    "pyproject.toml",
    "rerank_plugins",
    "tests",
}
"""Beside these, only what begins with a dot."""


def tracked():
    """Return the paths that git tracks; skip the test outside of a checkout."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout of git's")
    command = ["git", "-C", ROOT, "ls-files", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return listed.rstrip("\0").split("\0")


def test_the_top_level_is_fixed():
    top = {path.partition("/")[0] for path in tracked()}

    assert {name for name in top if not name.startswith(".")} == SKELETON
