"""Settings that a server refuses to start with."""

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from rerank_plugins import ConfigError
from rerank_plugins.server import ServerSettings
from rerank_plugins.server.settings import read_settings


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


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("prot = 1", "unknown setting 'prot' in the table `server`; did you mean 'port'?"),
        ("gpu_memory_fraction = 0.5", "an option of a local model: set it in [backend]"),
        ("queue_seconds = -1.0", "`queue_seconds` must be a number of seconds above 0, not -1.0"),
        ('queue_seconds = "soon"', "`queue_seconds` must be float, not 'soon'"),
        ('ui = false\ncompare = ["embedded"]', "`compare` is for the page at /ui: set `ui = true`"),
        ('client_rate = "often"', '`client_rate` must be a rate such as "600/minute"'),
        ("client_rate = 600", '`client_rate` must be a rate such as "600/minute", not 600'),
        ("address_rate = [1]", '`address_rate` must be a rate such as "600/minute", not [1]'),
        ('model_names = "one"', "`model_names` must be a list of strings, not 'one'"),
        ("jwt = 1", "`jwt` must be a table; write: [server.jwt]"),
        ("api_keys = 1", "unknown setting 'api_keys'"),
    ],
)
def test_a_file_with_a_wrong_setting_is_refused(tmp_path, table, message):
    file = tmp_path / "rerank.toml"
    file.write_text(f'[backend]\nkind = "embedded"\n[server]\n{table}\n')
    with pytest.raises(ConfigError) as caught:
        read_settings(str(file))

    assert message in str(caught.value)


def test_a_server_that_is_not_a_table_is_refused(tmp_path):
    file = tmp_path / "rerank.toml"
    file.write_text("server = 1\n")
    with pytest.raises(ConfigError, match="`server` must be a table, not 1"):
        read_settings(str(file))


def test_overrides_replace_the_settings_of_a_file(tmp_path):
    file = tmp_path / "rerank.toml"
    file.write_text('[backend]\nkind = "embedded"\n[server]\nport = 1\nmax_documents = 5\n')
    tables, settings = read_settings(str(file), {"port": 2})

    assert {"backend": {"kind": "embedded"}} == tables
    assert (2, 5) == (settings.port, settings.max_documents)
