"""Settings that a server refuses to start with."""

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from rerank_plugins import ConfigError
from rerank_plugins.server import ServerSettings


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_a_public_address_needs_keys(host):
    with pytest.raises(ConfigError, match="requests need no key"):
        ServerSettings(host=host).check_exposure()
    ServerSettings(host=host, api_keys_file="keys.txt").check_exposure()
    ServerSettings(host=host, insecure_no_auth=True).check_exposure()


@pytest.mark.parametrize("option", ["client_rate", "address_rate"])
def test_a_wrong_rate_is_refused_before_the_server_starts(option):
    with pytest.raises(ConfigError, match=f'`{option}` must be a rate such as "600/minute"'):
        ServerSettings(**{option: "often"})
