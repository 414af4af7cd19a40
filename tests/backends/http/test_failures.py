"""What a crash reporter may print of an error: neither the key nor the request stands there."""

import gzip
import pathlib
import socket
import threading
from collections.abc import Mapping, Sequence

import pytest

from rerank_plugins import RerankError
from rerank_plugins.backends.http import Dialect
from rerank_plugins.backends.http.backend import HTTPBackend
from rerank_plugins.backends.http.discovery import probe
from rerank_plugins.testing import FakeResponse, cut_short, drip, faults, hang_up, reset, silence
from tests.backends.http.remote import DOCUMENTS, QUERY, make
from tests.support.ports import free_port

KEY = "sk-Zq8T4vWx2Lm9Rk7Yb3"  # made up


def chain(error):
    """Yield an error and all that hang on it."""
    waiting, seen = [error], []
    while waiting:
        error = waiting.pop()
        if error is not None and error not in seen:
            seen.append(error)
            yield error
            waiting += [error.__cause__, error.__context__]


def printed(value, depth=4):
    """Print a value as crash reporters do: containers item by item, all else by its repr."""
    if depth and isinstance(value, Mapping):
        return " ".join(printed(item, depth - 1) for pair in value.items() for item in pair)
    if depth and isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return " ".join(printed(item, depth - 1) for item in value)
    try:
        return repr(value)
    except AttributeError:  # it is not built yet
        return ""


def report(error):
    """Return all that a crash reporter prints of an error, with the variables of its frames.

    The frames of the tests hold the key: there it was written.
    """
    words = []
    for each in chain(error):
        words += [repr(each), printed(each.args), printed(vars(each))]
        frames = each.__traceback__
        while frames is not None:
            frame = frames.tb_frame
            if "tests" not in pathlib.Path(frame.f_code.co_filename).parts:
                words += [printed(frame.f_locals)]
            frames = frames.tb_next
    return " ".join(words)


def misread(body, count):
    return float(body["results"])


def in_words(response):
    """Return a behaviour that sends a response whose status is a phrase with the key and a text."""

    def write(handler):
        handler.wfile.write(f"HTTP/1.1 200 {KEY} panda\r\n{response}".encode())
        handler.close_connection = True

    return lambda received: write


# What the client library says of a broken connection may also stand in what a server sends.
SAYINGS = ["closed", "disconnected", "before its request", "Receive buffer too long", "look-up"]

DRIPPING = drip()
ENDLESS = (DRIPPING, silence)

FAILURES = {
    "a key as status, not gzip": in_words("Content-Encoding: gzip\r\n\r\npanda"),
    "a key as status, not JSON": in_words("Content-Type: application/json\r\n\r\n{panda"),
    "a key as status, odd packing": in_words("Content-Encoding: br\r\n\r\npanda"),
    "a key as status, too large": in_words("\r\n" + 100_000 * "panda"),
    **{f"a key as header, {words}": in_words(f"{words} {KEY} panda\r\n\r\n") for words in SAYINGS},
    **{
        f"a key as chunk, {words}": in_words(
            f"Transfer-Encoding: chunked\r\n\r\n5\r\npanda{words} {KEY} panda\r\n\r\n"
        )
        for words in SAYINGS
    },
    "a dialect that fails": FakeResponse({"results": "panda"}),
    "a malformed redirect": FakeResponse(b"", 302, {"Location": "http://[::1"}),
    "a refused key": FakeResponse({"error": f"bad key {KEY}"}, 401),
    "a reply cut short": cut_short,
    "a reset": reset,
    "a server that hangs up": hang_up,
    "another protocol": faults()["not HTTP"],
    "a key as media type": FakeResponse(b"", content_type=f"text/{KEY}"),
    "a key as packing": FakeResponse(b"", headers={"Content-Encoding": KEY}),
    "a key in a large reply": FakeResponse(KEY.encode() * 100_000),
    "a key in a packed large reply": FakeResponse(
        gzip.compress(KEY.encode() * 100_000), headers={"Content-Encoding": "gzip"}
    ),
    "a key in another packing": FakeResponse(KEY.encode(), headers={"Content-Encoding": "br"}),
    "a key in broken JSON": FakeResponse(f'{{"results": "{KEY}'.encode()),
    "a key in results": FakeResponse({"results": [{"index": KEY, "score": KEY}] * 2}),
    "a key that claims to be packed": FakeResponse(
        KEY.encode(), headers={"Content-Encoding": "gzip"}
    ),
    "a redirect to a key": FakeResponse(b"", 302, {"Location": f"http://{KEY}/"}),
    "broken JSON": FakeResponse(b'{"results": "panda'),
    "dripping": DRIPPING,
    "endless headers": faults()["endless headers"],
    "false gzip": FakeResponse(b"panda", headers={"Content-Encoding": "gzip"}),
    "overload": FakeResponse(b"", 503),
    "silence": silence,
}


@pytest.mark.parametrize("case", FAILURES)
@pytest.mark.parametrize("where", ["api_key", "environment"])
def test_no_frame_and_no_cause_holds_a_key(fake_server, ask, monkeypatch, case, where):
    monkeypatch.setenv("TEAM_KEY", KEY)
    option = {
        "api_key": {"api_key": KEY},
        "environment": {"api_key_env": "TEAM_KEY", "headers": {"X-Gateway-Key": "$TEAM_KEY"}},
    }[where]
    fake_server.response = FAILURES[case]
    seconds = 1.0 if FAILURES[case] in ENDLESS else 30.0  # a busy machine sends it late
    backend = make(fake_server, timeout=seconds, **option)
    if case == "a dialect that fails":
        own = Dialect(name="own", path="/", scale="unknown", needs_model=False, decode=misread)
        backend = HTTPBackend(fake_server.url, dialect=own, **option)

    with pytest.raises(RerankError) as caught:
        ask(backend)

    assert KEY.lower() not in report(caught.value).lower()
    assert fake_server.wait_for_requests(1)
    sent = fake_server.requests[0].headers
    assert f"Bearer {KEY}" == sent["Authorization"]
    assert sent.get("X-Gateway-Key") == (KEY if where == "environment" else None)


def test_the_report_would_show_a_key():
    """Else the test above shows nothing."""
    scope = {}
    exec(compile("def fail(key):\n    raise ValueError", "other.py", "exec"), scope)
    with pytest.raises(ValueError, match=r"^$") as caught:
        scope["fail"]({"Authorization": [KEY]})

    assert KEY in report(caught.value)


def test_no_cause_holds_a_key_of_a_server_that_is_not_there(ask):
    backend = HTTPBackend(f"http://127.0.0.1:{free_port()}", dialect="tei", api_key=KEY)
    with pytest.raises(RerankError) as caught:
        ask(backend)

    assert KEY not in report(caught.value)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    "make_it",
    [
        lambda: HTTPBackend("http://gpu", dialect="tei", api_key=KEY, timeout=-1),
        lambda: HTTPBackend("http://gpu", dialect="tei", api_key=KEY, api_key_env="TEAM_KEY"),
        lambda: HTTPBackend("http://gpu", dialect="tei", api_key=KEY).to_spec(),
        lambda: HTTPBackend("http://gpu", dialect="tei", api_key=KEY + "\r\n").score(
            QUERY, DOCUMENTS
        ),
    ],
    ids=["a wrong option", "two keys", "a spec", "no header"],
)
def test_wrong_options_do_not_show_the_key_either(make_it):
    with pytest.raises(RerankError) as caught:
        make_it()

    assert KEY not in report(caught.value)


def test_an_unusable_proxy_does_not_show_its_password(fake_server, ask, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"ftp://user:{KEY}@proxy")
    with pytest.raises(RerankError, match="proxy") as caught:
        ask(make(fake_server))

    assert KEY not in report(caught.value)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_refuses_does_not_show_its_password(ask, monkeypatch, scheme):
    """Of a tunnel's refusal the client library quotes the phrase."""

    def refuse():
        connection, _ = listener.accept()
        with connection:
            connection.recv(100_000)
            head = f"HTTP/1.1 407 not {KEY}\r\nContent-Length: {len(KEY)}\r\n\r\n"
            connection.sendall((head + KEY).encode())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=refuse, daemon=True).start()
        proxy = f"http://user:{KEY}@127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", proxy)
        with pytest.raises(RerankError, match=r"proxy.*407|407.*proxy") as caught:
            ask(HTTPBackend(f"{scheme}://gpu.test", dialect="tei"))

    assert KEY not in report(caught.value)


def test_a_probe_does_not_show_the_key(fake_server):
    fake_server.response = FakeResponse({"error": KEY}, 429)
    with pytest.raises(RerankError) as caught:
        probe(fake_server.url, api_key=KEY)

    assert KEY not in report(caught.value)
    assert f"Bearer {KEY}" == fake_server.requests[0].headers["Authorization"]


@pytest.mark.parametrize("case", FAILURES)
def test_no_error_holds_a_document(fake_server, ask, case):
    """Neither in its message, nor in its attributes, nor in what hangs on it."""
    fake_server.response = FAILURES[case]
    with pytest.raises(RerankError) as caught:
        ask(make(fake_server, timeout=0.3))

    for error in chain(caught.value):
        assert "panda" not in printed([repr(error), error.args, vars(error)])


@pytest.mark.parametrize(
    "location",
    [
        "http://[::1",
        "http://host:port/",
        "//[",
        "http://\x9b31mred/",
        "\xff\xfe",
        "http://a b/c",
        "",
    ],
)
@pytest.mark.parametrize("status", [301, 307, 308, 201])
def test_a_redirect_to_nowhere_is_a_redirect(fake_server, ask, location, status):
    """Malformed, it was "not HTTP", and was sent twice."""
    fake_server.response = FakeResponse(b"", status, {"Location": location})
    with pytest.raises(RerankError) as caught:
        ask(make(fake_server))

    refused = "not valid JSON" if status == 201 else f"answered {status}; it points to"
    assert refused in str(caught.value)
    assert str(caught.value).isprintable()
    assert 1 == len(fake_server.requests)
