"""TLS over functions that move its bytes."""

import socket
import ssl
import threading

import pytest

from rerank_plugins._internal.tls import TLS

# "Hello request", which a client ignores while it shakes hands.
IGNORED = b"\x16\x03\x03\x00\x04\x00\x00\x00\x00"


class Pair:
    """The two ends of a connection: a server that echoes up to `end`, and what a client needs."""

    def __init__(self, authority):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority)
        self.client, server = socket.socketpair()
        self.client.settimeout(10)
        self.server = threading.Thread(target=self.echo, args=(server, context), daemon=True)
        self.server.start()
        self.ends = self.client.recv, self.client.sendall

    def echo(self, server, context):
        try:
            with context.wrap_socket(server, server_side=True) as encrypted:
                while (data := encrypted.recv(65536)) not in (b"", b"end"):
                    encrypted.sendall(data)
        except OSError:
            server.close()


@pytest.fixture
def pair(authority):
    pair = Pair(authority)
    yield pair
    pair.client.close()
    pair.server.join(10)
    assert not pair.server.is_alive()  # it would take a core from the tests that follow


def connected(pair, authority):
    tls = TLS(ssl.create_default_context(cafile=authority[0]), "127.0.0.1")
    tls.shake_hands(*pair.ends)
    return tls


def test_what_is_written_arrives(pair, authority):
    tls = connected(pair, authority)
    sent = bytes(range(256)) * 4000
    received = b""
    for start in range(0, len(sent), 50_000):
        tls.write(sent[start : start + 50_000], *pair.ends)
        while len(received) < min(start + 50_000, len(sent)):
            received += tls.read(10_000, *pair.ends)

    assert sent == received


def test_the_end_is_no_bytes(pair, authority):
    tls = connected(pair, authority)
    tls.write(b"end", *pair.ends)

    assert b"" == tls.read(100, *pair.ends)


@pytest.mark.parametrize("host", ["127.0.0.1", "other.test"])
def test_only_a_trusted_certificate_of_the_host_is_accepted(pair, authority, host):
    cafile = authority[0] if host == "other.test" else None
    tls = TLS(ssl.create_default_context(cafile=cafile), host)
    with pytest.raises(ssl.SSLCertVerificationError):
        tls.shake_hands(*pair.ends)


@pytest.mark.parametrize("piece", [IGNORED * 1000, IGNORED, IGNORED[:3]])
def test_a_peer_that_never_shakes_hands_can_be_left(piece):
    """A socket of the `ssl` module would read on and on."""
    sent = iter([piece] * 3)

    def receive(size):
        try:
            return next(sent)[:size]
        except StopIteration:
            raise TimeoutError from None

    with pytest.raises(TimeoutError):
        TLS(ssl.create_default_context(), "host.test").shake_hands(receive, len)
