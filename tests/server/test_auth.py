"""Keys and tokens: how they are read, checked, and read again."""

import time

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

import jwt as pyjwt

from rerank_plugins import ConfigError
from rerank_plugins.server import JWTSettings, ServerSettings
from rerank_plugins.server.auth import AuthenticationFailed, Authenticator

KEY = "a-key-for-tests-0123456789"
SECRET = "a-secret-for-tests-" * 4


@pytest.fixture
def keys(tmp_path):
    file = tmp_path / "keys.txt"
    file.write_text(f"alice:{KEY}\n")
    return file


@pytest.fixture
def reloading(monkeypatch):
    """Make the server read the file of keys again at once."""
    monkeypatch.setattr("rerank_plugins.server.auth._RELOAD_SECONDS", 0.0)


@pytest.mark.usefixtures("reloading")
def test_keys_are_read_again_when_the_file_changes(keys):
    auth = Authenticator(ServerSettings(api_keys_file=str(keys)))
    keys.write_text("bob:another-key-for-tests\n")

    assert "key:bob" == auth.authenticate(["Bearer another-key-for-tests"])
    keys.write_text("broken")  # the old ones stay
    assert "key:bob" == auth.authenticate(["Bearer another-key-for-tests"])


@pytest.mark.usefixtures("reloading")
@pytest.mark.parametrize("failure", ["the file", "its content"])
def test_a_file_of_keys_that_is_unreadable_for_a_while_is_read_later(
    keys, caplog, failure, monkeypatch
):
    """A file may get its owner after it is written, which does not change its mtime."""
    auth = Authenticator(ServerSettings(api_keys_file=str(keys)))
    keys.write_text("bob:another-key-for-tests\n")
    changed_at = keys.stat().st_mtime_ns
    with monkeypatch.context() as patch:
        if failure == "the file":
            keys.rename(keys.with_suffix(".new"))
        else:
            patch.setattr("pathlib.Path.read_bytes", _denied)
            patch.setattr("pathlib.Path.read_text", _denied)
        for _ in range(3):
            assert "key:alice" == auth.authenticate([f"Bearer {KEY}"])
    if failure == "the file":
        keys.with_suffix(".new").rename(keys)

    assert changed_at == keys.stat().st_mtime_ns
    assert "key:bob" == auth.authenticate(["Bearer another-key-for-tests"])
    assert 1 == caplog.text.count("the keys stay as they were")


def _denied(*_args, **_options):
    raise PermissionError(13, "Permission denied")


def test_a_key_may_look_like_a_token(tmp_path, monkeypatch):
    """Both have three parts with dots between; an accepted key must work."""
    key = "part-one.part-two.part-three"
    (tmp_path / "keys.txt").write_text(f"alice:{key}\n")
    monkeypatch.setenv("RERANK_JWT_SECRET", SECRET)
    tokens = JWTSettings(
        algorithm="HS256", audience="rerank", issuer="us", secret_env="RERANK_JWT_SECRET"
    )
    auth = Authenticator(ServerSettings(api_keys_file=str(tmp_path / "keys.txt"), jwt=tokens))
    claims = {"exp": int(time.time()) + 60, "aud": "rerank", "iss": "us", "sub": "bob"}

    assert "key:alice" == auth.authenticate([f"Bearer {key}"])
    token = pyjwt.encode(claims, SECRET, algorithm="HS256")
    assert "jwt:bob" == auth.authenticate([f"Bearer {token}"])
    with pytest.raises(AuthenticationFailed, match="invalid_token"):
        auth.authenticate([f"Bearer {key}x"])


@pytest.mark.parametrize("text", ["alice:short", "no-colon", "alice:sha256:12"])
def test_weak_and_malformed_keys_are_refused(keys, text):
    keys.write_text(text)
    with pytest.raises(ConfigError) as caught:
        Authenticator(ServerSettings(api_keys_file=str(keys)))

    assert "short" not in str(caught.value)


@pytest.mark.parametrize("value", [None, ""])
def test_a_secret_that_is_not_set_is_named(monkeypatch, value):
    monkeypatch.delenv("RERANK_JWT_SECRET", raising=False)
    if value is not None:
        monkeypatch.setenv("RERANK_JWT_SECRET", value)
    tokens = JWTSettings(
        algorithm="HS256", audience="rerank", issuer="us", secret_env="RERANK_JWT_SECRET"
    )
    with pytest.raises(ConfigError, match="'RERANK_JWT_SECRET', named by `secret_env`, is not set"):
        Authenticator(ServerSettings(jwt=tokens))


def test_a_short_secret_is_refused(monkeypatch):
    monkeypatch.setenv("RERANK_JWT_SECRET", "short")
    tokens = JWTSettings(
        algorithm="HS256", audience="rerank", issuer="us", secret_env="RERANK_JWT_SECRET"
    )
    with pytest.raises(ConfigError, match="has 5 bytes"):
        Authenticator(ServerSettings(jwt=tokens))
