"""What the blocks of the docs and the examples run in."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from rerank_plugins.backends.embedded.embedder import TokenEmbedder
from tests.support.places import ROOT


@pytest.fixture(scope="module")
def encoded_once():
    """The embedded model reads each window once for all tests of a module."""
    known = {}
    read = TokenEmbedder._vectors

    def look_up(self, ids, role):
        key = (*ids, role)
        if key not in known:
            known[key] = read(self, ids, role)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TokenEmbedder, "_vectors", look_up)
        yield


@pytest.fixture
def hub(tmp_path, monkeypatch, checkpoint):
    """Return a function that puts a tiny checkpoint into the hub cache under a name."""
    cache = tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def add(name):
        commit = "0" * 40
        folder = cache / f"models--{name.replace('/', '--')}"
        if not folder.exists():
            if "Qwen3-Reranker" in name:
                from tests.support.checkpoints import build_language_model  # noqa: PLC0415 - it needs torch

                build_language_model("qwen3", folder / "snapshots" / commit, chained=False)
            else:
                shutil.copytree(checkpoint("bert"), folder / "snapshots" / commit)
            (folder / "refs").mkdir()
            (folder / "refs" / "main").write_text(commit)

    return add


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A folder that looks like the root of a clone, with a tokenizer that pages name."""
    folder = tmp_path / "work"
    folder.mkdir()
    for name in ("examples", "docs"):
        (folder / name).symlink_to(ROOT / name)
    tokenizer = "tokenizer.json"
    (folder / tokenizer).symlink_to(ROOT / "tests" / "data" / "wordpiece" / tokenizer)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return folder
