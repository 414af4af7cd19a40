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


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("max_documents", 0, "an integer of at least 1"),
        ("max_documents", True, "an integer of at least 1"),
        ("batch_tokens", 1.5, "an integer of at least 1"),
        ("body_seconds", "10", "a number of seconds above 0"),
        ("queue_seconds", -1.0, "a number of seconds above 0"),
        ("watchdog_seconds", float("nan"), "a number of seconds above 0"),
        ("drain_seconds", float("inf"), "a number of seconds above 0"),
        ("shutdown_delay", -0.1, "a number of seconds of at least 0"),
        ("port", -1, "an integer of at least 0"),
        ("port", 65_536, "at most 65535"),
        ("warm_up", "no", "True or False"),
    ],
)
def test_a_wrong_value_names_the_setting_and_what_it_may_be(option, value, message):
    with pytest.raises(ConfigError) as caught:
        ServerSettings(**{option: value})

    assert f"`{option}` must be {message}, not {value!r}" == str(caught.value)
