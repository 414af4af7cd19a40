"""The Redis store on a real server that is frozen, filled, killed or sends false replies."""

import asyncio
import contextlib
import itertools
import logging
import os
import pickle
import random
import shutil
import signal
import socket
import socketserver
import ssl
import subprocess
import threading
import time
import tracemalloc

import pytest

from rerank_plugins import ConfigError
from rerank_plugins._internal import resolver
from rerank_plugins.testing import (
    BackendContract,
    BlackHole,
    Cut,
    Delay,
    FakeBackend,
    HalfClose,
    Proxy,
    Reset,
)
from rerank_plugins.wrappers.cache import CachedBackend
from rerank_plugins.wrappers.stores import open_store
from rerank_plugins.wrappers.stores.redis import RedisStore
from tests.support.ports import free_port

redis = pytest.importorskip("redis", reason="needs the extra `redis`")

HANGS = 2.0
"""Seconds that only a missing limit takes: the limit is 0.05."""


class Server:
    """A redis-server process of its own."""

    def __init__(self, *options):
        binary = shutil.which("redis-server")
        if binary is None:
            pytest.skip("needs redis-server on PATH, as in: apt-get install redis-server")
        self.port = free_port()
        self.command = [binary, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self.command += ["--daemonize", "no", "--dir", "/", *options]
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL)
        end = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert time.monotonic() < end
                time.sleep(0.02)
            else:
                return

    def kill(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}/0"

    def ask(self, *command):
        """Ask as an administrator who has patience."""
        with redis.Redis(port=self.port, protocol=2) as client:
            return client.execute_command(*command)


@pytest.fixture(scope="module")
def shared_server():
    server = Server()
    yield server
    server.kill()


@pytest.fixture
def server(shared_server):
    shared_server.ask("FLUSHALL")
    return shared_server


@pytest.fixture
def own_server():
    """A server that the test may break."""
    server = Server()
    yield server
    server.kill()


@pytest.fixture
def cached(request):
    """A function that builds a cache on a server, and its backend."""
    backends = []

    def build(server, **options):
        wrapped = FakeBackend()
        backends.append(CachedBackend(wrapped, store=RedisStore(server.url, **options)))
        return backends[-1], wrapped

    yield build
    for backend in backends:
        backend.close()


def errors(backend):
    return backend.describe()["cache"]["store"]["errors"]


def score(backend):
    """Score, and check that the answer is right and did not take long."""
    began = time.monotonic()
    assert [1.0, 0.0] == backend.score("q", ["q", "r"])
    assert time.monotonic() - began < HANGS


class TestRedis(BackendContract):
    @pytest.fixture(autouse=True)
    def place(self, server):
        self.url = server.url

    def make_backend(self):
        return CachedBackend(FakeBackend(), store=self.url + "?timeout=5")


def test_cached_scores_are_shared_between_caches(server, cached):
    first, wrapped = cached(server)
    second, other = cached(server)
    score(first)
    score(second)
    assert [1.0, 0.0] == asyncio.run(second.ascore("q", ["q", "r"]))

    assert 1 == len(wrapped.calls)
    assert [] == other.calls
    assert 0 == errors(first)


def test_a_call_is_one_round_trip(server, cached):
    backend, _ = cached(server)
    score(backend)
    documents = [f"document {number}" for number in range(100)]
    backend.score("q", documents)
    with redis.Redis(port=server.port, protocol=2) as administrator:
        before = administrator.info("everything")
        backend.score("q", documents)
        asyncio.run(backend.ascore("q", documents))
        known = administrator.info("everything")
        backend.score("another", documents)
        after = administrator.info("everything")

    assert 2 == known["cmdstat_mget"]["calls"] - before["cmdstat_mget"]["calls"]
    assert 2 + 1 == known["total_reads_processed"] - before["total_reads_processed"]
    assert 100 == after["cmdstat_set"]["calls"] - known["cmdstat_set"]["calls"]
    # One read and one write, which may arrive in parts, but not a hundred writes.
    assert after["total_reads_processed"] - known["total_reads_processed"] < 20


def test_scores_expire_on_the_server(server, cached):
    wrapped = FakeBackend()
    backend = CachedBackend(wrapped, store=server.url, ttl=100.0)
    backend.score("q", ["q"])
    (key,) = server.ask("KEYS", "*")

    assert key.startswith(b"rerank:")
    assert 90_000 < server.ask("PTTL", key) <= 100_000
    backend.close()


def test_without_a_ttl_scores_stay(server):
    with CachedBackend(FakeBackend(), store=server.url, ttl=None) as backend:
        backend.score("q", ["q"])

        assert [-1] == [server.ask("PTTL", key) for key in server.ask("KEYS", "*")]


@pytest.mark.parametrize("garbage", [b"", b"x", b"\x00" * 8, b"\x00" * 16, b"\xff" * 100_000])
def test_garbage_values_are_misses_and_are_replaced(server, cached, garbage):
    backend, wrapped = cached(server)
    score(backend)
    for key in server.ask("KEYS", "*"):
        server.ask("SET", key, garbage)
    score(backend)
    score(backend)

    assert 2 == len(wrapped.calls)
    assert 2 == backend.describe()["cache"]["damaged"]


def test_keys_of_another_type_are_misses(server, cached):
    backend, wrapped = cached(server)
    score(backend)
    for key in server.ask("KEYS", "*"):
        server.ask("DEL", key)
        server.ask("LPUSH", key, "x")
    score(backend)

    assert 2 == len(wrapped.calls)
    assert 0 == errors(backend)


def test_a_server_that_was_flushed_is_filled_again(server, cached):
    backend, wrapped = cached(server)
    score(backend)
    server.ask("FLUSHALL")
    score(backend)
    score(backend)

    assert 2 == len(wrapped.calls)


def test_a_frozen_server_times_out_for_one_call_only(own_server, cached, caplog):
    backend, wrapped = cached(own_server)
    score(backend)
    own_server.process.send_signal(signal.SIGSTOP)
    for _ in range(20):
        score(backend)

    assert 21 == len(wrapped.calls)
    assert 1 == errors(backend)
    (message,) = caplog.messages
    assert f"127.0.0.1:{own_server.port} failed (TimeoutError)" in message


def test_a_server_frozen_from_the_start_times_out_for_one_call_only(own_server, cached):
    own_server.process.send_signal(signal.SIGSTOP)
    backend, _ = cached(own_server)
    for _ in range(20):
        score(backend)

    assert 1 == errors(backend)


def test_a_frozen_server_does_not_hold_up_the_loop(own_server, cached):
    backend, _ = cached(own_server, timeout=1.0)

    async def ticks_while_scoring():
        call = asyncio.create_task(backend.ascore("q", ["q"]))
        ticks = 0
        while not call.done():
            await asyncio.sleep(0.01)
            ticks += 1
        assert [1.0] == call.result()
        return ticks

    own_server.process.send_signal(signal.SIGSTOP)

    assert 10 < asyncio.run(ticks_while_scoring())


def test_a_thawed_server_is_used_again(own_server, cached, caplog):
    caplog.set_level(logging.INFO)
    backend, wrapped = cached(own_server, pause=0.1)
    score(backend)
    own_server.process.send_signal(signal.SIGSTOP)
    score(backend)
    own_server.process.send_signal(signal.SIGCONT)
    time.sleep(0.2)
    score(backend)
    score(backend)

    assert 2 == len(wrapped.calls)
    assert 1 == errors(backend)
    assert "works again" in caplog.messages[-1]


def test_a_killed_server_fails_no_call_and_is_used_again(own_server, cached):
    backend, wrapped = cached(own_server, pause=0.1)
    score(backend)
    own_server.kill()
    for _ in range(5):
        score(backend)
    assert 1 <= errors(backend)
    own_server.start()
    time.sleep(0.2)
    asked = len(wrapped.calls)
    for _ in range(3):
        score(backend)

    assert asked + 1 == len(wrapped.calls)


def test_a_restart_between_two_calls_is_not_noticed(own_server, cached):
    backend, wrapped = cached(own_server)
    score(backend)
    own_server.kill()
    own_server.start()
    score(backend)
    score(backend)

    assert 2 == len(wrapped.calls)  # the server came back empty
    assert 0 == errors(backend)


def test_a_connection_that_the_server_closed_is_not_noticed(server, cached):
    backend, wrapped = cached(server)
    score(backend)
    server.ask("CLIENT", "KILL", "TYPE", "normal")
    score(backend)

    assert 1 == len(wrapped.calls)
    assert 0 == errors(backend)


def test_a_full_server_is_still_read(own_server, cached, caplog):
    backend, wrapped = cached(own_server)
    score(backend)
    own_server.ask("SET", "of somebody else", b"x" * 2**20)
    own_server.ask("CONFIG", "SET", "maxmemory", "1mb")
    for number in range(5):
        backend.score("another", [f"document {number}"])
    score(backend)
    score(backend)

    assert 6 == len(wrapped.calls)
    assert 1 == errors(backend)
    assert 1 == len(caplog.messages)


def test_a_server_that_evicts_the_oldest_keys_works(own_server, cached):
    own_server.ask("CONFIG", "SET", "maxmemory", "2mb")
    own_server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    backend, _ = cached(own_server, timeout=5.0)
    for number in range(10):
        backend.score("q", [f"{number} {other}" for other in range(2000)])
    score(backend)

    assert 0 == errors(backend)


def test_a_password_comes_from_the_environment(own_server, monkeypatch):
    own_server.ask("CONFIG", "SET", "requirepass", "s3cret")
    monkeypatch.setenv("CACHE_PASSWORD", "s3cret")
    with CachedBackend(
        wrapped := FakeBackend(), store=f"{own_server.url}?password_env=CACHE_PASSWORD"
    ) as backend:
        score(backend)
        score(backend)

        assert 1 == len(wrapped.calls)
        assert 0 == errors(backend)
        assert "s3cret" not in f"{backend.describe()} {backend!r} {vars(backend._opened)}"


@pytest.mark.parametrize("password", ["", "?password_env=CACHE_PASSWORD"])
def test_a_wrong_password_is_an_error_of_the_store(own_server, monkeypatch, caplog, password):
    own_server.ask("CONFIG", "SET", "requirepass", "s3cret")
    monkeypatch.setenv("CACHE_PASSWORD", "wr0ng")
    with CachedBackend(FakeBackend(), store=own_server.url + password) as backend:
        score(backend)
        score(backend)

        assert 1 == errors(backend)
    assert "AuthenticationError" in caplog.text
    assert "wr0ng" not in caplog.text


def test_an_unset_password_variable_is_named_in_the_error(server, monkeypatch):
    monkeypatch.delenv("CACHE_PASSWORD", raising=False)
    backend = CachedBackend(FakeBackend(), store=server.url + "?password_env=CACHE_PASSWORD")
    with pytest.raises(ConfigError, match="'CACHE_PASSWORD', named by `password_env`, is not set"):
        backend.score("q", ["q"])


@pytest.mark.parametrize("rounds", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_cancelled_calls_over_a_slow_connection_mix_up_no_scores(server, rounds):
    """The unread reply of a cancelled call must not become the reply to the next one."""

    def number_of(query, document):
        return int(document.removeprefix("document ")) / 1000

    async def storm():
        chance = random.Random(0)
        right = cancelled = 0
        for _ in range(rounds):
            numbers = [chance.randrange(1000) for _ in range(30)]
            calls = [
                asyncio.create_task(backend.ascore("q", [f"document {number}"]))
                for number in numbers
            ]
            await asyncio.sleep(chance.uniform(0.0, 0.04))
            for call in chance.sample(calls, 10):
                call.cancel()
            results = await asyncio.gather(*calls, return_exceptions=True)
            for number, scores in zip(numbers, results, strict=True):
                right += scores == [number / 1000]
                cancelled += isinstance(scores, asyncio.CancelledError)
        return right, cancelled

    with (
        Proxy(server.url, Delay(0.01)) as far,
        CachedBackend(FakeBackend(number_of), store=f"{far.url}?timeout=5") as backend,
    ):
        right, cancelled = asyncio.run(storm())
        assert 0 == errors(backend)

    assert 30 * rounds == right + cancelled
    assert cancelled > rounds


@pytest.mark.parametrize(
    "fault", [BlackHole(), Cut(), Cut(after=3), Reset(), HalfClose()], ids=repr
)
def test_a_broken_connection_is_an_error_of_the_store_only(server, fault):
    with (
        Proxy(server.url) as line,
        CachedBackend(FakeBackend(), store=f"{line.url}?pause=60") as backend,
    ):
        score(backend)
        line.fault = fault
        for _ in range(20):
            score(backend)

        assert 1 == errors(backend)


# Servers that only pretend.

LIES = {
    "http": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "nothing": b"",
    "no array": b"+OK\r\n",
    "short array": b"*1\r\n$16\r\n0123456789abcdef\r\n",
    "long array": b"*3\r\n" + b"$1\r\nx\r\n" * 3,
    "numbers": b"*2\r\n:1\r\n:2\r\n",
    "nested": b"*1\r\n" * 5000,
    "bad length": b"*x\r\n",
    "negative length": b"*-7\r\n$-9\r\n",
    "bad bulk length": b"*2\r\n$x\r\n",
    "endless bulk": b"*2\r\n$999999999999\r\n" + b"x" * 10_000,
    "endless array": b"*999999999999\r\n",
    "unknown type": b"?\r\n",
    "error": b"-ERR no\r\n",
    "binary": bytes(range(256)) * 10,
    "errors inside": b"*2\r\n-ERR a\r\n-ERR b\r\n",
}


@pytest.fixture
def liar():
    """A function that starts a server which answers the handshake well, then with a lie."""
    servers = []

    def start(lie):
        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                while data := self.request.recv(65536):
                    lies = b"MGET" in data or b"\r\nSET\r\n" in data
                    self.request.sendall(lie if lies else b"+OK\r\n")
                    if lies and not lie:
                        return

        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return f"redis://127.0.0.1:{server.server_address[1]}/0"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_false_replies_change_no_score_and_raise_nothing(liar, lie):
    with CachedBackend(FakeBackend(), store=liar(lie)) as backend:
        for _ in range(3):
            score(backend)

        assert 1 <= errors(backend) + backend.describe()["cache"]["damaged"]


def drip(pieces):
    """Answer every question piece by piece, each one well before a timeout per read ends."""

    def handle(connection):
        while connection.recv(65536):
            for piece in pieces():
                connection.sendall(piece)
                time.sleep(0.02)

    return handle


def flood(piece):
    """Answer a question for a score without end, and as fast as it can."""

    def handle(connection):
        while data := connection.recv(65536):
            if b"MGET" not in data:
                connection.sendall(b"+OK\r\n")
                continue
            while True:
                connection.sendall(piece)

    return handle


BULK = b"$16\r\n" + bytes(16) + b"\r\n"
ENDLESS = {
    "a line that drips": drip(lambda: itertools.repeat(b"x")),
    "a reply that drips": drip(lambda: itertools.repeat(b"*")),
    "a right reply that drips": drip(lambda: (bytes([b]) for b in b"*2\r\n" + BULK * 2)),
    "a greeting that drips": drip(lambda: itertools.cycle([b"+", b"O"])),
    "an endless array": flood(b"*999999999\r\n" + BULK * 1000),
    "an endless line": flood(b"x" * 65536),
    "arrays in arrays": flood(b"*1\r\n" * 10_000),
    "one endless value": flood(b"$99999999999\r\n" + b"x" * 65536),
    "values without end": flood(BULK * 1000),
}


@pytest.fixture
def pretend():
    """A function that starts a server whose connections a function handles."""
    with contextlib.ExitStack() as stack:

        def start(handle):
            class Handler(socketserver.BaseRequestHandler):
                def handle(self):
                    with contextlib.suppress(OSError):  # the client hangs up
                        handle(self.request)

            server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
            server.daemon_threads = True
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            return f"127.0.0.1:{server.server_address[1]}"

        yield start


@pytest.mark.parametrize("case", ENDLESS)
@pytest.mark.parametrize("place", ["redis://{}/0", "redis://{}/1?username=app&password_env=SECRET"])
def test_a_reply_without_end_costs_one_call_a_moment(pretend, monkeypatch, case, place):
    """Each read ends in time, so only a limit for the whole operation helps."""
    monkeypatch.setenv("SECRET", "s3cret")
    with CachedBackend(FakeBackend(), store=place.format(pretend(ENDLESS[case]))) as backend:
        for _ in range(5):
            score(backend)

        assert 1 == errors(backend)


def test_a_reply_without_end_takes_little_memory(pretend):
    url = f"redis://{pretend(ENDLESS['one endless value'])}/0?timeout=30"
    with CachedBackend(FakeBackend(), store=url) as backend:
        tracemalloc.start()
        score(backend)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

        assert 1 == errors(backend)
    assert peak < 10_000_000


def ignored(connection):
    """Send for some seconds, without a pause, what a client ignores while it shakes hands."""
    end = time.monotonic() + 2 * HANGS
    while time.monotonic() < end:
        connection.sendall(b"\x16\x03\x03\x00\x04\x00\x00\x00\x00" * 1000)


def begun(greeting):
    def handle(connection):
        connection.sendall(greeting)
        while connection.recv(1):
            pass

    return handle


@pytest.mark.parametrize(
    "handle",
    [begun(b""), begun(b"\x16\x03\x03"), ignored],
    ids=["silence", "half a record", "what is ignored"],
)
def test_encryption_that_never_begins_costs_one_call_a_moment(pretend, handle):
    with CachedBackend(FakeBackend(), store=f"rediss://{pretend(handle)}/0") as backend:
        for _ in range(5):
            score(backend)

        assert 1 == errors(backend)


def test_a_host_that_is_looked_up_without_end_costs_one_call_a_moment(monkeypatch):
    over = threading.Event()
    monkeypatch.setattr(resolver, "_look_ups", resolver._LookUps())
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: over.wait(30) and [])
    with CachedBackend(FakeBackend(), store="redis://cache.test/0") as backend:
        for _ in range(5):
            score(backend)

        assert 1 == errors(backend)
    over.set()


def test_a_slow_server_in_time_is_no_failure(server):
    with (
        Proxy(server.url, Delay(0.05)) as far,
        CachedBackend(wrapped := FakeBackend(), store=f"{far.url}?timeout=2") as backend,
    ):
        for _ in range(3):
            score(backend)

        assert 1 == len(wrapped.calls)
        assert 0 == errors(backend)


def test_an_unreachable_server_is_an_empty_store():
    url = f"redis://127.0.0.1:{free_port()}/0"
    with CachedBackend(FakeBackend(), store=url) as backend:
        score(backend)
        score(backend)

        assert 1 == errors(backend)


# What needs no server.


def test_options_stand_in_the_url_and_survive_pickle():
    store = open_store("redis://cache.example:7000/3?timeout=0.1&username=app&prefix=x:&pause=5")
    copy = pickle.loads(pickle.dumps(store))

    assert "redis://cache.example:7000/3" == store.describe()["url"]
    expected = {
        "username": "app",
        "password_env": None,
        "timeout": 0.1,
        "pause": 5.0,
        "prefix": "x:",
    }
    assert expected == store._options == copy._options


@pytest.fixture
def encrypted(pretend, server, authority):
    """Where the server answers by TLS: `host:port`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority)

    def handle(connection):
        with (
            context.wrap_socket(connection, server_side=True) as client,
            socket.create_connection(("127.0.0.1", server.port)) as redis_server,
        ):
            while data := client.recv(65536):
                redis_server.sendall(data)
                client.sendall(redis_server.recv(65536))

    return pretend(handle)


@pytest.mark.parametrize("trusted", [True, False])
def test_tls_is_checked(encrypted, authority, monkeypatch, trusted):
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority[0]))
    url = f"rediss://{encrypted}/0?timeout=5"
    with CachedBackend(wrapped := FakeBackend(), store=url) as backend:
        for _ in range(3):
            score(backend)

        assert (1 if trusted else 3) == len(wrapped.calls)
        assert (0 if trusted else 1) == errors(backend)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("redis://:s3cret@localhost", "must not hold a user or password"),
        ("redis://app:s3cret@localhost/0", "name that variable with `password_env`"),
        ("redis://localhost?password=s3cret", "name that variable with `password_env`"),
        ("redis://localhost?password_env=s3cret", "must be the name of an environment variable"),
        ("redis:localhost", "must be redis://HOST"),
        ("redis://", "must be redis://HOST"),
        ("redis://localhost/x", "must be redis://HOST"),
        ("redis://localhost/0#x", "must be redis://HOST"),
        ("redis://localhost:port", "malformed"),
        ("redis://localhost:99999", "malformed"),
        ("redis://[::1", "malformed"),
        ("redis://localhost?timeout=0", "`timeout` must be a number of seconds above 0"),
        ("redis://localhost?pause=nan", "`pause` must be a number of seconds above 0"),
        ("redis://localhost?db=1", "unknown option 'db' for store 'redis'"),
    ],
)
def test_wrong_urls_are_refused(spec, message):
    with pytest.raises(ConfigError, match=message) as raised:
        open_store(spec)

    assert "s3cret" not in str(raised.value)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system can't fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_opens_its_own_connection(server, cached):
    backend, _ = cached(server, timeout=5.0)
    score(backend)
    child = os.fork()
    if child == 0:
        known = backend.score("q", ["q", "r", "s"]) == [1.0, 0.0, 0.0]
        os._exit(0 if known and errors(backend) == 0 else 1)
    score(backend)
    _, status = os.waitpid(child, 0)

    assert 0 == os.waitstatus_to_exitcode(status)
    score(backend)
    assert 0 == errors(backend)
