"""Chinese pages: none is older than its English one, and none shows spaces where lines break."""

import re

import pytest
from markdown_it import MarkdownIt

from tests.integration.docs.site import pages as site
from tests.integration.docs.site.__main__ import main
from tests.support.places import ROOT

CHINESE = [page.chinese for page in site.pages() if page.chinese.exists()]
HAN = r"[\u3400-\u9fff]"
FULL_WIDTH = r"[\u3001-\u303f\uff00-\uffef“”‘’…]"


@pytest.fixture
def repository(tmp_path):
    """A repository of two pages, one of them in both languages."""
    (tmp_path / "docs").mkdir()
    for name, text in {
        "README.md": "# A\n",
        "CHANGELOG.md": "# C\n",
        "docs/cache.md": "# Cache\n\nOne day\nis long.\n",
        "docs/cache.zh-CN.md": "# 缓存\n\n一天。\n",
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def names(files):
    return [file.name for file in files]


def test_no_chinese_page_is_older_than_its_english_one():
    """After changing both: `python -m tests.integration.docs.site record NAME`."""
    assert [] == names(site.outdated())


def test_a_change_of_the_english_text_is_noticed(repository):
    page = next(page for page in site.pages(repository) if page.name == "cache")
    unrecorded = site.outdated(repository)
    site.record(page)
    recorded = site.outdated(repository)
    page.english.write_text("# Cache\n\nOne week is long.\n", encoding="utf-8")

    assert ["cache.zh-CN.md"] == names(unrecorded)
    assert [] == recorded
    assert ["cache.zh-CN.md"] == names(site.outdated(repository))
    site.record(page)
    assert [] == site.outdated(repository)
    assert 1 == site.read(page.chinese).count("<!--")


def test_where_lines_break_is_no_change(repository):
    page = next(page for page in site.pages(repository) if page.name == "cache")
    site.record(page)
    page.english.write_text("# Cache\n\nOne\nday is  long.", encoding="utf-8")

    assert [] == site.outdated(repository)


def test_pages_without_chinese_are_listed(repository):
    assert ["README.md", "CHANGELOG.md"] == names(site.untranslated(repository))


def test_the_command_lists_what_is_missing(capsys):
    assert 0 == main(["chinese"])

    listed = capsys.readouterr().out.splitlines()
    assert listed == [f"none: {file.relative_to(ROOT)}" for file in site.untranslated()]


@pytest.mark.parametrize("page", CHINESE, ids=lambda page: page.name)
def test_no_line_of_chinese_breaks_within_a_sentence(page):
    """Markdown shows a space there."""
    text = re.sub(r"(?s)```.*?```", "", site.read(page))
    for block in MarkdownIt().enable("table").parse(text):
        if block.type == "inline":
            for before, after in zip(
                block.content.split("\n"), block.content.split("\n")[1:], strict=False
            ):
                stray = re.search(rf"{FULL_WIDTH}$", before) or re.match(FULL_WIDTH, after)
                joined = re.search(rf"{HAN}$", before) and re.match(HAN, after)
                broken = f"{before} ⏎ {after}" if stray or joined else ""
                assert not broken
