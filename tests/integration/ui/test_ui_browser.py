"""The page at `/ui` in a real browser."""

import os
import shutil
import threading
import time
from contextlib import contextmanager

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
uvicorn = pytest.importorskip("uvicorn", reason="needs the extra `server`")

from selenium.common.exceptions import TimeoutException  # noqa: E402  # after the line above
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from rerank_plugins import load_backend  # noqa: E402
from rerank_plugins.server import ServerSettings, create_app  # noqa: E402

KEY = "a-key-of-the-tests-0123"
REQUIRED = "RERANK_TEST_TOOLS_REQUIRED"


def program(name):
    if path := shutil.which(name):
        return path
    if os.environ.get(REQUIRED, "0") not in ("", "0"):
        pytest.fail(f"{name} is not installed, and {REQUIRED} is set")
    pytest.skip(f"{name} is not installed")


class Page:
    """The page in a browser, and what a person does with it."""

    def __init__(self, driver):
        self.driver = driver

    def __call__(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def open(self, url, *, width=1280, dark=False):
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
        )
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.driver.get(url)
        self.until(lambda: self("#state").get_attribute("data-name") in {"ready", "locked"})

    def until(self, holds):
        try:
            WebDriverWait(self.driver, 30, poll_frequency=0.05).until(lambda _: holds())
        except TimeoutException:
            pytest.fail(f"never came:\n{self('body').text}")

    def script(self, code, *arguments):
        return self.driver.execute_script(code, *arguments)

    def fill(self, query, documents):
        for field, text in (("query", query), ("documents", documents)):
            self.script(
                "const f = document.getElementById(arguments[0]); f.value = arguments[1];"
                "f.dispatchEvent(new Event('input'))",
                *(field, text),
            )

    def rerank(self):
        self("#go").click()
        self.until(lambda: self("#go").get_attribute("aria-busy") == "false")

    def example(self, language):
        self(f"[data-example={language}]").click()
        self.rerank()

    def texts(self, column=0):
        rows = self.all("#board ol")[column].find_elements(By.CSS_SELECTOR, "li p")
        return [row.text for row in rows]


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = program("chromium")
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "lang=en-US"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SE_OFFLINE", "true")
        patch.setenv("SE_AVOID_STATS", "true")
        driver = webdriver.Chrome(options=options, service=Service(program("chromedriver")))
        yield driver
        driver.quit()


@pytest.fixture
def page(browser):
    """A page on which nothing may go wrong unseen."""
    browser.get_log("browser")
    yield Page(browser)
    messages = [line["message"] for line in browser.get_log("browser")]
    assert not [text for text in messages if "Failed to load resource" not in text]


@contextmanager
def served(**settings):
    """Give the URL of a server's page."""
    app = create_app(load_backend("embedded"), settings=ServerSettings(**settings))
    config = uvicorn.Config(app, port=0, log_level="critical", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 60
    ready = app.state.lifecycle.why_not_ready
    while not server.started or ready() is not None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (listening,) = [s for listener in server.servers for s in listener.sockets]
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/ui"
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def url():
    with served() as address:
        yield address


@pytest.fixture(scope="module")
def url_of_two():
    with served(compare=("embedded?max_length=8",)) as address:
        yield address


def test_documents_move_to_their_new_rank(page, url):
    page.open(url)
    page.example("en")
    before = page("#documents").get_attribute("value").split("\n")
    scores = load_backend("embedded").score(page("#query").get_attribute("value"), before)
    order = sorted(range(len(before)), key=lambda index: -scores[index])

    assert [before[index] for index in order] == page.texts()
    digits = [4 if scores[index] < 0.001 else 3 for index in order]
    shown = [f"{scores[index]:.{n}f}" for index, n in zip(order, digits, strict=True)]
    assert shown == [e.text for e in page.all("li .score")]
    assert [str(place) for place in range(1, 9)] == [e.text for e in page.all("li .rank")]
    widths = page.script(
        "return [...document.querySelectorAll('.meter i')].map(e => e.style.width)"
    )
    assert [scores[i] * 100 for i in order] == pytest.approx(
        [float(width[:-1]) for width in widths], abs=1e-3
    )
    assert "ms" in page(".title").text
    moves = [e.get_attribute("title") for e in page.all("li .move")]
    assert moves[0] == f"up from {order[0] + 1} to 1"
    assert len(page.all(".lane path")) == len(before)


def test_the_chinese_example_is_ranked_on_a_chinese_page(page, url):
    page.open(url)
    page("#language").click()
    page.example("zh")

    assert page("html").get_attribute("lang") == "zh"
    assert page("#go").text.startswith("重排序")
    assert page.texts()[0].startswith("野生大熊猫主要吃竹子")


def test_both_languages_have_the_same_texts(page, url):
    page.open(url)
    names = page.script("return Object.values(TEXTS).map(texts => Object.keys(texts).sort())")

    assert names[0] == names[1]


def test_blank_lines_keep_paragraphs_together(page, url):
    page.open(url)
    page.fill("what is a panda?", "A bear\nof China.\n\n\nA city\r\n  \r\nA fish\n")
    assert page("#count").text == "3, by blank lines"
    page.rerank()

    assert {"A bear\nof China.", "A city", "A fish"} == set(page.texts())


def test_markup_in_documents_stays_text(page, url):
    evil = [
        "<img src=x onerror='window.ran = 1'>",
        "<script>window.ran = 2</script>",
        "<svg onload='window.ran = 3'></svg><style>*{display:none}</style>",
        "\"><a href='javascript:window.ran=4'>x</a>",
    ]
    page.open(url)
    page.fill("<b onmouseover='window.ran = 5'>q</b>", "\n".join(evil))
    page.rerank()

    assert set(evil) == set(page.texts())
    assert page.script("return window.ran") is None
    assert page.all("#board img, #board script, #board a, #board style") == []


def test_a_keyboard_is_enough(page, url):
    page.open(url)
    keys = ActionChains(page.driver)
    keys.send_keys(Keys.TAB * 3).send_keys("what is a panda?")  # past the two buttons of the head
    keys.send_keys(Keys.TAB).send_keys("A city.", Keys.ENTER, "A bear of China.")
    keys.key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(Keys.CONTROL).perform()
    page.until(lambda: page.all("#board li"))

    assert page.texts() == ["A bear of China.", "A city."]


def test_enter_in_the_query_submits(page, url):
    page.open(url)
    page.fill("", "A city.\nA bear.")
    page("#query").send_keys("what is a panda?", Keys.ENTER)
    page.until(lambda: page.all("#board li"))

    assert page("#query").get_attribute("value") == "what is a panda?"


def test_every_control_has_a_name(page, url_of_two):
    page.open(url_of_two)
    nameless = page.script(
        "return [...document.querySelectorAll('input, textarea, select, button')]"
        ".filter(e => !(e.labels?.length || e.textContent.trim())).map(e => e.id)"
    )

    assert nameless == []


def test_two_backends_are_shown_side_by_side(page, url_of_two):
    page.open(url_of_two)
    page.script("document.getElementById('second').selectedIndex = 2")
    page.example("en")

    names = ["embedded", "embedded?max_length=8"]
    assert names == [e.text for e in page.all("#board h2")]
    assert set(page.texts(0)) == set(page.texts(1))
    assert "of the top 5 in common" in page("#verdict").text
    assert "▲ green is higher here" in page("#verdict").text
    first = page("#documents").get_attribute("value").split("\n")
    before = [int(e.text.removeprefix("before: ")) for e in page.all("#board small")]
    assert [first[place - 1] for place in before[:8]] == page.texts(0)
    assert len(page.all(".lane path")) == 8
    margins = {e.value_of_css_property("margin-right") for e in page.all("#board small")}
    assert "0px" not in margins  # "more" may stand beside it
    for column, name in enumerate(names):
        documents = page("#documents").get_attribute("value").split("\n")
        scores = load_backend(name).score(page("#query").get_attribute("value"), documents)
        best = max(range(8), key=lambda index: scores[index])
        assert page.texts(column)[0] == documents[best]


def test_the_page_prompts_for_the_key_and_keeps_it_in_memory_only(page, monkeypatch):
    monkeypatch.setenv("RERANK_API_KEYS", f"tests:{KEY}")
    with served(api_keys_env="RERANK_API_KEYS") as url:
        page.open(url)
        assert page("#state").text == "needs a key"
        page.example("en")
        assert page("#key-dialog").is_displayed()
        page("#secret").send_keys("a-wrong-key-0123456789", Keys.ENTER)
        page.until(lambda: page("#error").text == "The server refused this key.")
        assert page("#key-dialog").is_displayed()
        page("#secret").send_keys(KEY, Keys.ENTER)
        page.until(lambda: page("#state").text == "ready")
        page.rerank()
        assert len(page.texts()) == 8
        assert not page("#error").is_displayed()
        stored = page.script(
            "return JSON.stringify([localStorage, sessionStorage, document.cookie, location.href,"
            " document.documentElement.outerHTML, document.getElementById('secret').value])"
        )
        assert KEY not in stored
        page.open(url)
        assert page("#state").text == "needs a key"


@pytest.mark.parametrize("written", ["Bearer {}", "Authorization: Bearer {}", " bearer  {} "])
def test_the_key_may_come_with_its_word(page, monkeypatch, written):
    monkeypatch.setenv("RERANK_API_KEYS", f"tests:{KEY}")
    with served(api_keys_env="RERANK_API_KEYS") as url:
        page.open(url)
        page.example("en")
        page("#secret").send_keys(written.format(KEY), Keys.ENTER)
        page.until(lambda: page("#state").text == "ready")

        assert not page("#error").is_displayed()


@pytest.mark.parametrize("key", ["wrong", "kéy", "密钥"])
def test_a_key_that_is_refused_is_called_refused(page, monkeypatch, key):
    """A browser sends no request at all with a key that no header can hold."""
    monkeypatch.setenv("RERANK_API_KEYS", f"tests:{KEY}")
    with served(api_keys_env="RERANK_API_KEYS") as url:
        page.open(url)
        page.example("en")
        page("#secret").send_keys(key, Keys.ENTER)
        page.until(lambda: page("#error").text == "The server refused this key.")


def test_a_refusal_says_why(page):
    with served(max_documents=3) as url:
        page.open(url)
        page.example("en")
        error = page("#error").text

    assert error == "The server answered 413: a request has 3 documents at most."


def test_an_unreachable_server_is_reported(page):
    with served() as url:
        page.open(url)
    page.example("en")

    assert page("#error").text == "The server can't be reached. Is it running?"


def test_the_page_loads_nothing_from_other_servers(page, url):
    page.open(url)
    page.example("en")
    urls = page.script("return performance.getEntriesByType('resource').map(entry => entry.name)")

    assert urls
    assert all(name.startswith(url.removesuffix("ui")) for name in urls)


@pytest.mark.parametrize("width", [320, 480, 800, 1280, 1920])
@pytest.mark.parametrize("second", [0, 2])
def test_no_width_needs_scrolling_sideways(page, url_of_two, width, second):
    page.open(url_of_two, width=width)
    page.script("document.getElementById('second').selectedIndex = arguments[0]", second)
    page.example("en")
    wide = page.script("return [document.documentElement.scrollWidth, innerWidth]")

    assert wide[0] <= wide[1]


CONTRAST = """
const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
const rgb = (color) => { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3); };
const light = (color) => rgb(color).map((v) => v / 255)
  .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (element) => { for (let e = element; e; e = e.parentElement) {
  const color = getComputedStyle(e).backgroundColor; if (!/, 0\\)$/.test(color)) return color; }
  return "white"; };
const found = {};
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  if (!own || !element.checkVisibility() || element.closest("svg, script, style, .sr")) continue;
  const [a, b] = [light(getComputedStyle(element).color), light(behind(element))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) found[element.className || element.id || element.tagName] = ratio;
}
return found;
"""


@pytest.mark.parametrize("dark", [False, True])
def test_all_text_has_enough_contrast(page, url, dark):
    """WCAG 2.2, 1.4.3: a contrast of 4.5 at least."""
    page.open(url, dark=dark)
    page.example("en")

    assert page.script(CONTRAST) == {}
    background = page.script("return getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(21, 23, 27)") is dark
