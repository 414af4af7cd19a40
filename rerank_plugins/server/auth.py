"""Authentication of clients: API keys and JSON Web Tokens."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import jwt

from rerank_plugins.errors import ConfigError
from rerank_plugins.server.settings import JWTSettings, ServerSettings

__all__ = ["KEY_HEADERS", "AuthenticationFailed", "Authenticator"]

_log = logging.getLogger(__name__)

KEY_HEADERS = ("api-key", "x-api-key")
"""Where the clients of Azure and of llama.cpp send a key, without a word before it."""

_LINE = re.compile(r"(?P<id>[A-Za-z0-9_.@-]{1,64}):(?:(?P<hash>sha256:[0-9a-f]{64})|(?P<key>\S+))")
_MIN_KEY_LENGTH = 16  # characters
_MIN_SECRET_BYTES = 32  # bytes; RFC 7518, section 3.2, for HS256
_MAX_TOKEN_BYTES = 8192  # bytes
_LEEWAY = 30.0  # seconds by which clocks may differ
_RELOAD_SECONDS = 1.0
_SUBJECT = re.compile(r"[\w.@:/|-]{1,128}")


class AuthenticationFailed(Exception):
    """A request without a valid key.

    Args:
        reason: a word for the metrics.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class _ClientKey:
    id: str
    digest: bytes


class Authenticator:
    """Identifies the client by its key or token.

    It holds SHA-256 digests of the keys, and compares with all of them in constant time. It reads
    the file of keys again within a second of a change; while that fails, the old keys stay valid
    and the log holds the reason.

    Raises:
        ConfigError: a key, a secret or a file is missing, malformed or too weak.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._file = None if settings.api_keys_file is None else Path(settings.api_keys_file)
        self._environment_keys = _from_environment(settings.api_keys_env)
        self._read_version: object = None
        """The version of the file that was read last."""
        self._reload_error = ""
        self._checked_at = monotonic()
        self._keys = self._environment_keys
        if self._file is not None:
            self._keys = self._read(self._file)
        self._jwt = None if settings.jwt is None else _TokenVerifier(settings.jwt)
        self.is_open = not settings.has_keys

    def authenticate(self, authorization: Sequence[str], keys: Sequence[str] = ()) -> str:
        """Return the client that sent these headers, as `key:ID` or `jwt:SUBJECT`.

        Args:
            authorization: the headers `Authorization`.
            keys: those of `KEY_HEADERS`, which count where there is no `Authorization`.

        Raises:
            AuthenticationFailed: they hold no valid key or token.
        """
        sent = list(authorization) or [f"Bearer {key}" for key in keys]
        if not sent:
            raise AuthenticationFailed("missing")
        scheme, _, credential = sent[0].partition(" ")
        credential = credential.strip()
        if len(sent) > 1 or scheme.lower() != "bearer" or not credential:
            raise AuthenticationFailed("malformed")
        if len(credential) > _MAX_TOKEN_BYTES:
            raise AuthenticationFailed("too_long")
        key_id = self._key_id(credential)
        if key_id is not None:
            return f"key:{key_id}"
        if self._jwt is not None and credential.count(".") == 2:  # noqa: PLR2004  # parts of a JWT
            return f"jwt:{self._jwt.subject(credential)}"
        raise AuthenticationFailed("unknown")

    def _key_id(self, credential: str) -> str | None:
        self._reload()
        digest = _digest(credential)
        key_id = None
        for key in self._keys:  # all of them, so that the time reveals nothing
            if hmac.compare_digest(key.digest, digest):
                key_id = key.id
        return key_id

    def _reload(self) -> None:
        now = monotonic()
        if self._file is None or now - self._checked_at < _RELOAD_SECONDS:
            return
        self._checked_at = now
        try:
            if self._read_version != _version(self._file):
                self._keys = self._read(self._file)
                self._reload_error = ""
                _log.info("read %d keys from %s", len(self._keys), self._file)
        except (ConfigError, OSError) as exc:
            if str(exc) != self._reload_error:
                self._reload_error = str(exc)
                _log.error("the keys stay as they were: %s", exc)

    def _read(self, file: Path) -> tuple[_ClientKey, ...]:
        try:
            version = _version(file)
            content = file.read_bytes()
        except OSError as exc:  # and is read again: a change of permissions is no new version
            raise ConfigError(f"can't read the keys in {str(file)!r}: {exc.strerror}") from exc
        self._read_version = version
        try:
            lines = content.decode().splitlines()
        except UnicodeDecodeError:
            raise ConfigError(f"the keys in {str(file)!r} are not UTF-8") from None
        return self._environment_keys + _parse_keys(lines, where=f"{str(file)!r}, line ")


def _version(file: Path) -> object:
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _from_environment(variable: str | None) -> tuple[_ClientKey, ...]:
    if variable is None:
        return ()
    value = os.environ.get(variable, "")
    keys = _parse_keys(value.replace(",", "\n").splitlines(), where=f"{variable}, key ")
    if not keys:
        raise ConfigError(f"the environment variable {variable} holds no keys; write ID:KEY")
    return keys


def _parse_keys(lines: Iterable[str], *, where: str) -> tuple[_ClientKey, ...]:
    keys: list[_ClientKey] = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            raise ConfigError(f"{where}{number}: write ID:KEY or ID:sha256:HEX")
        if match["hash"]:
            digest = bytes.fromhex(match["hash"].removeprefix("sha256:"))
        elif len(match["key"]) < _MIN_KEY_LENGTH:
            raise ConfigError(f"{where}{number}: a key needs {_MIN_KEY_LENGTH} characters at least")
        else:
            digest = _digest(match["key"])
        keys.append(_ClientKey(match["id"], digest))
    return tuple(keys)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class _TokenVerifier:
    """Checks JSON Web Tokens of one issuer, signed with one key."""

    def __init__(self, settings: JWTSettings) -> None:
        self._settings = settings
        self._key = _secret(settings) if settings.secret_env else _public_key(settings)

    def subject(self, token: str) -> str:
        """Return the `sub` of a valid token.

        Raises:
            AuthenticationFailed: the token is not valid.
        """
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=[self._settings.algorithm],
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                leeway=_LEEWAY,
                options={
                    "require": ["exp", "aud", "iss", "sub"],
                    "enforce_minimum_key_length": True,
                },
            )
        except jwt.ExpiredSignatureError:
            raise AuthenticationFailed("expired") from None
        except (jwt.InvalidTokenError, ValueError, TypeError, RecursionError):
            raise AuthenticationFailed("invalid_token") from None
        subject = str(claims["sub"])
        if not _SUBJECT.fullmatch(subject):  # it goes into logs
            raise AuthenticationFailed("invalid_subject")
        return subject


def _secret(settings: JWTSettings) -> bytes:
    secret = os.environ.get(settings.secret_env or "", "").encode()
    if not secret:
        raise ConfigError(
            f"the environment variable {settings.secret_env!r}, named by `secret_env`, is not set"
        )
    if len(secret) < _MIN_SECRET_BYTES:
        raise ConfigError(
            f"the secret in {settings.secret_env} has {len(secret)} bytes; "
            f"{settings.algorithm} needs {_MIN_SECRET_BYTES} at least"
        )
    return secret


def _public_key(settings: JWTSettings) -> Any:
    file = str(settings.public_key_file)
    try:
        algorithm = jwt.get_algorithm_by_name(settings.algorithm)
        key = algorithm.prepare_key(Path(file).read_bytes())
    except OSError as exc:
        raise ConfigError(f"can't read the key in {file!r}: {exc.strerror or exc}") from exc
    except (ValueError, TypeError, jwt.InvalidKeyError) as exc:
        raise ConfigError(f"{file!r} holds no public key for {settings.algorithm}, in PEM") from exc
    if hasattr(key, "private_bytes"):
        raise ConfigError(f"{file!r} holds a private key; the server needs only the public one")
    return key
