"""The table of a result, in a notebook on a phone."""

import pytest

pytest.importorskip("selenium.webdriver", reason="needs selenium")

from rerank_plugins import rerank
from rerank_plugins.testing import FakeBackend
from tests.integration.ui.test_ui_browser import browser  # noqa: F401  # a fixture

PAGE = (
    "<!doctype html><meta charset=utf-8>"
    "<meta name=viewport content='width=device-width, initial-scale=1'>{}"
)
MEASURES = """
const rows = [...document.querySelectorAll("tbody tr")].filter(row => row.offsetParent);
return {
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    rows: rows.length,
    cut: rows.flatMap(row => [...row.cells].slice(0, 3))
        .filter(cell => cell.scrollWidth > cell.clientWidth).map(cell => cell.textContent),
    scores: rows.map(row => {
        const cell = row.cells[3].getBoundingClientRect();
        const value = row.cells[3].firstElementChild;
        const range = document.createRange();
        range.selectNodeContents(value);
        return range.getBoundingClientRect().right <= cell.right;
    }),
    text: Math.min(...rows.map(row => row.cells[4].clientWidth)),
    size: Math.min(...rows.map(row => parseFloat(getComputedStyle(row.cells[4]).fontSize))),
};
"""


@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("count", [12, 150])
def test_ranks_are_whole_and_texts_are_readable(browser, tmp_path, width, count):  # noqa: F811
    documents = [f"The giant panda {n} is a bear that eats bamboo." for n in range(count)]
    file = tmp_path / "table.html"
    html = rerank("what is a panda?", documents, backend=FakeBackend())._repr_html_()
    file.write_text(PAGE.format(html.replace("<details", "<details open")), encoding="utf-8")
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    browser.get(file.as_uri())
    seen = browser.execute_script(MEASURES)

    assert 0 == seen["overflow"]
    assert count == seen["rows"]
    assert [] == seen["cut"]
    assert all(seen["scores"])
    assert 250 <= seen["text"]  # about 40 letters
    assert 12 <= seen["size"]
