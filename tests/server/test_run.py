"""The server's process: where it listens, and how it says so."""

import socket

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from rerank_plugins import ConfigError
from rerank_plugins.server.run import _check_address, _curl, _url


@pytest.mark.parametrize(("family", "host"), [(2, "127.0.0.1"), (2, "localhost"), (10, "::1")])
def test_a_taken_port_is_one_line(family, host):
    with socket.socket(socket.AddressFamily(family)) as other:
        other.bind((host, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError) as caught:
            _check_address(host, port)

    assert f"can't listen on {host}:{port}: " in str(caught.value)
    assert "choose another `port`" in str(caught.value)
    _check_address(host, port)


@pytest.mark.parametrize(
    ("host", "port", "reason"),
    [
        ("nowhere.invalid", 80, "not known|resolution"),
        ("192.0.2.1", 0, "assign"),
        ("2001:db8::1", 0, "assign|not supported"),
    ],
)
def test_an_address_of_another_machine_is_one_line(host, port, reason):
    with pytest.raises(ConfigError, match=rf"can't listen on .*({reason})"):
        _check_address(host, port)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("::1", "http://[::1]:80"),
        ("gpu", "http://gpu:80"),
    ],
)
def test_the_link_leads_to_the_server(host, url):
    assert url == _url(host, 80)


def test_the_command_that_tries_a_server_sends_a_key_where_one_is_needed():
    assert "Authorization: Bearer $KEY" in _curl("http://gpu:80", with_key=True)
    assert "Authorization" not in _curl("http://gpu:80", with_key=False)
