"""Every block of README and docs runs, and every example does.

`python` blocks of a page run in order, in one namespace and an empty folder. `toml` blocks are
loaded as a configuration. In `bash` blocks the commands of this package run. Hub models that
the pages name are tiny checkpoints in a cache that the test makes, so nothing is downloaded.
"""

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from rerank_plugins import load_backend
from tests.support.places import ROOT

PAGES = [ROOT / "README.md", *ROOT.glob("README.*.md"), *sorted((ROOT / "docs").glob("*.md"))]
EVALUATION = ROOT / "docs" / "evaluation.md"
SLOW = {"README.zh-CN.md", "cli.md"}  # they run whole evaluations
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
HUB_MODEL = re.compile(r"local:([\w.-]+/[\w.-]+)|model\"? ?[=:] ?\"([\w-]+/[\w.-]+)\"")


def blocks(page):
    """Yield (language, code, line) of each fenced block."""
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type == "fence":
            yield token.info.partition(" ")[0], token.content, token.map[0] + 1


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
    """An empty folder that looks like the root of a clone."""
    folder = tmp_path / "work"
    folder.mkdir()
    for name in ("examples", "docs"):
        (folder / name).symlink_to(ROOT / name)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    return folder


def run_shell(code):
    """Run the `rerank-plugins` commands of a block; CI installs and starts services."""
    for line in re.sub(r"\\\n", "", code).splitlines():
        command = line.rpartition("&& ")[2]
        if re.match(r"(.*\| *)?rerank-plugins ", command):
            done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
            assert done.returncode in {0, 1}, f"{command}\n{done.stdout}{done.stderr}"
            assert done.stdout, command
        else:
            assert shlex.split(command, comments=True) is not None


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] * (page.name in SLOW), id=page.name)
        for page in PAGES
        if page != EVALUATION
    ],
)
def test_every_block_runs(page, hub, workspace, capsys):
    run_blocks(page, hub, workspace)


@pytest.mark.slow
@pytest.mark.timeout(400)  # it scores both demos
@pytest.mark.parametrize("page", [EVALUATION], ids=["evaluation.md"])
def test_every_block_of_the_evaluation_page_runs_and_gives_its_figures(
    page, hub, workspace, capsys
):
    """On any processor, and with any version of ONNX Runtime."""
    run_blocks(page, hub, workspace)
    text = re.sub(r"\s+", " ", page.read_text(encoding="utf-8"))
    for name, sentence in (
        ("covidqa", r"raises MRR@10 from ([\d.]+) to ([\d.]+) \(p = 0.002, (\d+) queries\)"),
        ("xquad-zh", r"raises it from ([\d.]+) to ([\d.]+) \((\d+) queries\)"),
    ):
        results = json.loads((workspace / "rerank-eval" / name / "results.json").read_bytes())
        *stated, count = map(float, re.search(sentence, text).groups())

        assert count == results["dataset"]["queries"]
        assert stated == [
            pytest.approx(system["figures"]["MRR@10"]["mean"], abs=0.002)
            for system in results["systems"]
        ]


def run_blocks(page, hub, workspace):
    """Run all blocks of a page in order."""
    text = page.read_text(encoding="utf-8")
    for match in HUB_MODEL.finditer(text):
        hub(match[1] or match[2])
    namespace = {"__name__": "__main__"}
    for language, code, line in blocks(page):
        if language == "python":
            source = "\n" * line + code  # errors then tell the line of the page
            exec(compile(source, str(page), "exec"), namespace)
        elif language == "toml":
            (workspace / "rerank.toml").write_text(code, encoding="utf-8")
            load_backend("rerank.toml")
        elif language == "bash":
            run_shell(code)
        else:
            assert language in {"text", "json", "html", "mermaid"}, f"{page.name}:{line}"


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda p: p.name)
def test_every_example_runs(example, hub, workspace, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(example)])
    runpy.run_path(str(example), run_name="__main__")

    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_linked_files_exist(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
