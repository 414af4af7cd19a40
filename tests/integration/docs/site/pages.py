"""The pages of the documentation: their order, and what is Chinese of them."""

from __future__ import annotations

import hashlib
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.places import ROOT

SETTINGS = ROOT / "docs" / "site"
SUFFIX = ".zh-CN.md"
MARK = re.compile(r"\n*<!-- translates (\S+) at ([0-9a-f]{12}) -->\n*")


@dataclass(frozen=True)
class Page:
    """A page of the repository, and its Chinese twin."""

    english: Path

    @property
    def chinese(self) -> Path:
        """Where the Chinese text stands, or will."""
        return self.english.with_name(self.english.stem + SUFFIX)

    @property
    def name(self) -> str:
        """The page's name in the navigation and in its address."""
        return {"README": "index"}.get(self.english.stem, self.english.stem.lower())


def settings() -> dict[str, Any]:
    """Return the order of the pages and the settings of the site."""
    return tomllib.loads((SETTINGS / "site.toml").read_text(encoding="utf-8"))


def repository() -> str:
    """Return the address where the repository is published."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return str(project["project"]["urls"]["Repository"])


def pages(root: Path = ROOT) -> list[Page]:
    """Return all pages: the README, the changelog, and those in `docs/`."""
    texts = [root / "README.md", root / "CHANGELOG.md", *sorted((root / "docs").glob("*.md"))]
    return [Page(text) for text in texts if not text.name.endswith(SUFFIX)]


def digest(text: str) -> str:
    """Return what identifies an English text, wherever its lines break."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:12]


def outdated(root: Path = ROOT) -> list[Path]:
    """Return the Chinese pages whose English text has changed since they were written."""
    return [
        page.chinese
        for page in pages(root)
        if page.chinese.exists() and recorded(page.chinese) != digest(read(page.english))
    ]


def untranslated(root: Path = ROOT) -> list[Path]:
    """Return the English pages that lack a Chinese one."""
    return [page.english for page in pages(root) if not page.chinese.exists()]


def recorded(chinese: Path) -> str | None:
    """Return which English text a Chinese page says that it tells, or `None`."""
    match = MARK.search(read(chinese))
    return match[2] if match else None


def record(page: Page) -> None:
    """Write into the Chinese page that it tells what the English one says now."""
    text = MARK.sub("\n", read(page.chinese)).rstrip()
    mark = f"<!-- translates {page.english.name} at {digest(read(page.english))} -->"
    page.chinese.write_text(f"{text}\n\n{mark}\n", encoding="utf-8")


def read(file: Path) -> str:
    """Return the text of a page."""
    return file.read_text(encoding="utf-8")
