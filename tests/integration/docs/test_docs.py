"""Every block of README and docs runs, and every example does; see `pages`."""

import json
import re
import runpy
import sys

import pytest

from tests.integration.docs.pages import run_blocks
from tests.support.places import ROOT

PAGES = [ROOT / "README.md", *ROOT.glob("README.*.md"), *sorted((ROOT / "docs").glob("*.md"))]
# They rank 70 abstracts, start processes, or do again what the English page does.
SLOW = {"README.md", "cli.md", *(page.name for page in PAGES if page.name.endswith(".zh-CN.md"))}
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

pytestmark = pytest.mark.usefixtures("encoded_once")  # the READMEs and examples share their texts


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] * (page.name in SLOW), id=page.name)
        for page in PAGES
        if page.name != "evaluation.md"  # in test_demos.py
    ],
)
def test_every_block_runs(page, hub, workspace, capsys):
    run_blocks(page, hub, workspace)


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda p: p.name)
def test_every_example_runs(example, hub, workspace, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(example)])
    runpy.run_path(str(example), run_name="__main__")

    assert capsys.readouterr().out.strip()


@pytest.mark.slow
def test_the_example_notebook_runs(monkeypatch):
    """Its code cells run in order, and the tables that it ends with are full."""
    example = ROOT / "examples" / "notebook.ipynb"
    monkeypatch.chdir(example.parent)
    notebook = json.loads(example.read_text(encoding="utf-8"))
    namespace = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), str(example), "exec"), namespace)

    assert 10 == len(namespace["result"])
    rows = [table._repr_html_().count("<td") / 5 for table in namespace["tables"]]
    assert [3, 3] == rows


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_linked_files_exist(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
