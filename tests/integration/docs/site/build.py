"""Builds the site: both languages, each in a tree of its own, with the same addresses."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.integration.docs.site.pages import SETTINGS, Page, pages, read, repository, settings
from tests.support.places import ROOT

LINK = re.compile(r"(?<=\]\()[^)\s]+(?=\))|(?<=src=\")[^\"]+(?=\")|(?<=href=\")[^\"]+(?=\")")
FENCE = re.compile(r" *(```+|~~~+)")
NESTED_ITEM = re.compile(r"^ {2,3}(?=[-*] )")
NO_CHINESE = "\n> 本页还没有中文版，下面是英文原文。\n"
TOGGLES = {
    "en": ("Always light", "Always dark", "As the system"),
    "zh": ("始终浅色", "始终深色", "跟随系统"),
}
"""What the next click of the switch brings, in each of its states."""


class SiteError(Exception):
    """The site can't be built; the message says why."""


def build(target: Path, root: Path = ROOT) -> None:
    """Build the site into a folder: English at its top, Chinese in `zh/`.

    Raises:
        SiteError: if a page is missing from the navigation, a link leads nowhere, or Zensical
            warns of anything else.
    """
    if importlib.util.find_spec("zensical") is None:
        raise SiteError("Zensical is not installed: pip install -e '.[dev]'")
    known = pages(root)
    check_navigation(known)
    with tempfile.TemporaryDirectory() as scratch:
        for language in ("en", "zh"):
            project = Path(scratch) / language
            lay_out(known, project, language, root)
            run_zensical(project)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(Path(scratch) / "en" / "site", target)
        shutil.copytree(Path(scratch) / "zh" / "site", target / "zh")


def check_navigation(known: list[Page]) -> None:
    """Raise `SiteError` unless the navigation names each page once."""
    listed = ["index", *(name for part in settings()["sections"] for name in part["pages"])]
    names = [page.name for page in known]
    wrong = sorted({*listed} ^ {*names} | {name for name in listed if listed.count(name) > 1})
    if wrong:
        raise SiteError(f"list each page of docs/ once in docs/site/site.toml: {', '.join(wrong)}")


def lay_out(known: list[Page], project: Path, language: str, root: Path) -> None:
    """Write what Zensical reads: the pages in one language, their pictures, and the settings."""
    shutil.copytree(
        root / "docs",
        project / "docs",
        ignore=shutil.ignore_patterns("*.md", "site", "__pycache__"),
    )
    shutil.copytree(SETTINGS / "overrides", project / "overrides")
    for page in known:
        is_chinese = language == "zh" and page.chinese.exists()
        text = relink(page.chinese if is_chinese else page.english, page, language, root)
        if language == "zh" and not is_chinese:
            text = re.sub(r"\A# .*\n", lambda title: title[0] + NO_CHINESE, text)
        (project / "docs" / f"{page.name}.md").write_text(text, encoding="utf-8")
    (project / "zensical.toml").write_text("\n".join(toml(configuration(language))), "utf-8")


def configuration(language: str) -> dict[str, Any]:
    """Return Zensical's settings for one language."""
    chosen = settings()
    project: dict[str, Any] = chosen["project"]
    project["nav"] = [
        "index.md",
        *(
            {part[language]: [f"{name}.md" for name in part["pages"]]}
            for part in chosen["sections"]
        ),
    ]
    project["theme"]["language"] = language
    for palette, label in zip(project["theme"]["palette"], TOGGLES[language], strict=True):
        palette["toggle"]["name"] = label
    languages = [{"name": "English", "lang": "en"}, {"name": "中文", "lang": "zh"}]
    project["extra"] = {"generator": False, "scope": "/", "alternate": languages}
    return {"project": project}


def relink(source: Path, page: Page, language: str, root: Path) -> str:
    """Return the text of a page with links that lead to pages of the site, or to the repository.

    Nested list items are indented as Markdown in Python wants it.
    """

    def mend(line: str) -> str:
        line = NESTED_ITEM.sub("    ", line)
        return LINK.sub(lambda match: follow(match[0], source, page, language, root), line)

    return "".join(
        f"{line if is_code else mend(line)}\n" for line, is_code in told_apart(read(source))
    )


def told_apart(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the lines of a page, and whether each is code."""
    fence = ""
    for line in text.splitlines():
        match = FENCE.match(line)
        is_edge = bool(match) and (not fence or line.strip() == fence)
        if match and is_edge:
            fence = "" if fence else match[1]
        yield line, bool(fence) or is_edge


def follow(target: str, source: Path, page: Page, language: str, root: Path) -> str:
    """Return where a link of a page leads to on the site."""
    path, hash_, anchor = target.partition("#")
    if "://" in path or not path:
        return target
    file = Path(os.path.normpath(source.parent / path))
    for other in pages(root):
        if file == other.chinese and language == "en":
            return up(page) + address("zh", other) + hash_ + anchor
        if file == other.english and language == "zh" and other == page:
            return up(page) + "../" + address("en", other) + hash_ + anchor
        if file in (other.english, other.chinese):
            is_same = file == (other.chinese if other.chinese.exists() else other.english)
            return f"{other.name}.md" + (hash_ + anchor if language == "en" or is_same else "")
    if file.is_relative_to(root / "docs"):
        return str(file.relative_to(root / "docs"))
    kind = "tree" if file.is_dir() else "blob"
    return f"{repository()}/{kind}/main/{file.relative_to(root)}{hash_}{anchor}"


def address(language: str, page: Page) -> str:
    """Return a page's address on the site."""
    own = "" if page.name == "index" else f"{page.name}/"
    return own if language == "en" else f"zh/{own}"


def up(page: Page) -> str:
    """Return the way from a page to the top of its language."""
    return "./" if page.name == "index" else "../"


def run_zensical(project: Path) -> None:
    """Build one language; raise `SiteError` with the report of what is wrong."""
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        cwd=project,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        report = re.sub(r"\x1b\[[\d;]*m", "", done.stdout + done.stderr)
        raise SiteError(report.strip())


def toml(table: dict[str, Any]) -> Iterator[str]:
    """Write settings as TOML: each table as one inline value."""
    for key, value in table["project"].items():
        yield f"project.{key} = {inline(value)}"


def inline(value: Any) -> str:
    """Write a value as TOML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
