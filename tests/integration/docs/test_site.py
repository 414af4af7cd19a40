"""The site: it builds strictly, shows what the repository shows, and finds words."""

import functools
import http.server
import re
import shutil
import threading

import pytest
from markdown_it import MarkdownIt

pytest.importorskip("zensical", reason="needs Zensical")
webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")

from selenium.webdriver.common.by import By  # noqa: E402  # after the line above
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from tests.integration.docs.site import build as builder  # noqa: E402
from tests.integration.docs.site.build import SiteError, build  # noqa: E402
from tests.integration.docs.site.pages import Page, pages, read, settings  # noqa: E402
from tests.integration.ui.test_ui_browser import browser  # noqa: E402, F401  # a fixture
from tests.support.places import ROOT  # noqa: E402

pytestmark = pytest.mark.slow

PARTS = ("h1", "h2", "h3", "ul", "ol", "li", "table", "tr", "pre", "img", "strong", "code")
FOUND = """
const box = document.activeElement.shadowRoot;
return box ? [...box.querySelectorAll("a")].map(link => link.href) : [];
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "out"
    build(folder)
    return folder


@pytest.fixture(scope="module")
def url(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Quiet, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def shown(site, page, language):
    folder = site / "zh" if language == "zh" else site
    html = read(folder / ("index.html" if page.name == "index" else f"{page.name}/index.html"))
    return re.search(r"<article.*?</article>", html, re.DOTALL)[0]


def parts(html):
    return {part: len(re.findall(rf"<{part}[ >]", html)) for part in PARTS}


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_a_page_has_the_parts_that_it_has_in_the_repository(site, page):
    """Python's Markdown nests lists and ends blocks by other rules than GitHub's."""
    markdown = MarkdownIt("commonmark").enable("table")
    for language, source in (("en", page.english), ("zh", page.chinese)):
        if source.exists():
            assert parts(markdown.render(read(source))) == parts(shown(site, page, language))


def test_pages_without_chinese_say_so(site):
    page = Page(ROOT / "docs" / "benchmarks-amx.md")

    assert "本页还没有中文版" in shown(site, page, "zh")
    assert "本页还没有中文版" not in shown(site, page, "en")


def test_the_navigation_has_the_order_of_the_settings(site):
    html = read(site / "index.html")
    listed = re.findall(r'href="?(?:\./)?([^" >]+)', html)
    order = [f"{name}/" for part in settings()["sections"] for name in part["pages"]]

    assert order == [link for link in dict.fromkeys(listed) if link in order]


def test_nothing_is_fetched_from_elsewhere(site):
    for file in [*site.rglob("*.html"), *site.rglob("*.css")]:
        assert not re.findall(r'(?:src="|rel="stylesheet" href="|url\()https?:[^")]+', read(file))


def test_links_that_lead_nowhere_stop_the_build(tmp_path):
    for name in ("README.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    page = tmp_path / "docs" / "caching.md"
    page.write_text(
        read(page) + "\n[one](nowhere.md) [two](server.md#no-such-part)\n", encoding="utf-8"
    )

    with pytest.raises(SiteError) as error:
        build(tmp_path / "out", tmp_path)

    assert "nowhere.md" in str(error.value)
    assert "no-such-part" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_page_that_the_navigation_lacks_is_named():
    unknown = Page(ROOT / "docs" / "of-tomorrow.md")

    with pytest.raises(SiteError, match=r"site\.toml: of-tomorrow$"):
        builder.check_navigation([*pages(), unknown])
    with pytest.raises(SiteError, match=r"site\.toml: caching$"):
        builder.check_navigation([page for page in pages() if page.name != "caching"])


class Reader:
    """Someone who reads the site on a screen of some width, by day or by night."""

    def __init__(self, driver, url):
        self.driver, self.url = driver, url

    def open(self, path, *, width=1280, dark=False):
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(self.url + path)

    def search(self, words):
        """Return the pages that a search finds."""

        def opened(driver):
            driver.find_element(By.CSS_SELECTOR, ".md-search__button").click()
            return driver.execute_script("return document.activeElement.shadowRoot !== null")

        self.wait(opened)
        self.driver.switch_to.active_element.send_keys(words)
        found = self.wait(lambda driver: driver.execute_script(FOUND))
        self.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
        return {re.sub(r"[?#].*", "", link).removeprefix(self.url) for link in found}

    def wait(self, holds):
        return WebDriverWait(self.driver, 30, poll_frequency=0.05).until(holds)


@pytest.fixture
def reader(browser, url):  # noqa: F811
    return Reader(browser, url)


@pytest.mark.parametrize(
    ("path", "pages_of"),
    [
        ("", {"circuit breaker": "reliability/", "LogitScore": "local/"}),
        (
            "zh/",
            {
                "昇腾": "zh/local/",
                "词干还原": "zh/retrieval/",
                "崩溃报告": "zh/remote/",
                "logprobs": "zh/chat/",
            },
        ),
    ],
    ids=["english", "chinese"],
)
def test_a_search_finds_the_page(reader, path, pages_of):
    for words, page in pages_of.items():
        reader.open(path)

        assert page in reader.search(words)


@pytest.mark.parametrize("word", ["重排", "缓存", "阈值"])
def test_a_search_for_a_chinese_word_finds_pages_that_have_it(reader, site, word):
    reader.open("zh/")
    found = reader.search(word)

    assert 1 < len(found)
    assert all(word in read(site / page / "index.html") for page in found)


@pytest.mark.parametrize("path", ["remote/", "zh/"])
@pytest.mark.parametrize("width", [360, 1280])
def test_pages_fit_the_screen_by_day_and_by_night(reader, path, width):
    brightness = []
    for dark in (False, True):
        reader.open(path, width=width, dark=dark)
        too_wide, color = reader.driver.execute_script(
            "const page = document.documentElement;"
            "return [page.scrollWidth - page.clientWidth,"
            " getComputedStyle(document.body).backgroundColor]"
        )
        brightness.append(sum(map(int, re.findall(r"\d+", color)[:3])) / 765)
        assert 0 == too_wide

    assert brightness[0] > 0.9
    assert brightness[1] < 0.2


def test_the_language_switch_stays_on_the_page(reader):
    reader.open("chat/")
    reader.driver.find_element(By.CSS_SELECTOR, ".language").click()
    assert reader.url + "zh/chat/" == reader.driver.current_url
    assert "zh" == reader.driver.find_element(By.TAG_NAME, "html").get_attribute("lang")

    reader.driver.find_element(By.CSS_SELECTOR, ".language").click()
    assert reader.url + "chat/" == reader.driver.current_url


def test_a_chinese_page_links_to_its_english_text(reader):
    reader.open("zh/chat/")
    reader.driver.find_element(By.LINK_TEXT, "英文文档").click()

    assert reader.url + "chat/" == reader.driver.current_url
