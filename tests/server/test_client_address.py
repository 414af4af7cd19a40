"""The address of a client counts from trusted proxies only."""

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from rerank_plugins.server import ServerSettings
from rerank_plugins.server.client_address import client_address, rate_key


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("1.2.3.4", "9.9.9.9", "1.2.3.4"),
        ("10.0.0.1", "9.9.9.9", "9.9.9.9"),
        ("10.0.0.1", "6.6.6.6, 9.9.9.9, 10.0.0.2", "9.9.9.9"),
        ("10.0.0.1", "6.6.6.6, garbage", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("::ffff:10.0.0.1", "9.9.9.9", "9.9.9.9"),
    ],
)
def test_forwarded_addresses_count_from_trusted_proxies_only(peer, forwarded, address):
    trusted = ServerSettings(trusted_proxies=("10.0.0.0/8",)).trusted_networks()
    scope = {"client": (peer, 1), "headers": [(b"x-forwarded-for", forwarded.encode())]}

    assert address == client_address(scope, trusted)


def test_an_ipv6_prefix_of_64_bits_is_one_client():
    assert rate_key("2001:db8::1") == rate_key("2001:db8::ffff:1")
    assert "9.9.9.9" == rate_key("::ffff:9.9.9.9")
