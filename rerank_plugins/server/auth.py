"""Who may ask: API keys and JSON Web Tokens."""

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

__all__ = ["Authenticator", "Refusal"]

_log = logging.getLogger(__name__)

_LINE = re.compile(r"(?P<id>[A-Za-z0-9_.@-]{1,64}):(?:(?P<hash>sha256:[0-9a-f]{64})|(?P<key>\S+))")
_LEAST_KEY = 16  # characters
_LEAST_SECRET = 32  # bytes; RFC 7518, section 3.2, for HS256
_MOST_TOKEN = 8192  # bytes
_LEEWAY = 30.0  # seconds by which clocks may differ
_RELOAD_SECONDS = 1.0
_SUBJECT = re.compile(r"[\w.@:/|-]{1,128}")


class Refusal(Exception):
    """A request without a valid key; its text is a word for the metrics."""


@dataclass(frozen=True)
class _Key:
    id: str
    digest: bytes


class Authenticator:
    """Tells the client of an `Authorization` header.

    Keys are kept as SHA-256 digests only, and all of them are compared in constant time. The
    file of keys is read again within a second of a change; one that can't be read keeps the old
    keys, and is logged.

    Raises:
        ConfigError: a key, a secret or a file is missing, malformed or too weak.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._file = None if settings.api_keys_file is None else Path(settings.api_keys_file)
        self._fixed = _from_environment(settings.api_keys_env)
        self._changed: object = None
        self._checked = monotonic()
        self._keys = self._fixed
        if self._file is not None:
            self._keys = self._read(self._file)
        self._jwt = None if settings.jwt is None else _TokenVerifier(settings.jwt)
        self.is_open = not settings.has_keys

    def client(self, authorization: Sequence[str]) -> str:
        """Return who sent these headers, as `key:ID` or `jwt:SUBJECT`.

        Raises:
            Refusal: nobody who is known.
        """
        if not authorization:
            raise Refusal("missing")
        scheme, _, credential = authorization[0].partition(" ")
        credential = credential.strip()
        if len(authorization) > 1 or scheme.lower() != "bearer" or not credential:
            raise Refusal("malformed")
        if len(credential) > _MOST_TOKEN:
            raise Refusal("too_long")
        if self._jwt is not None and credential.count(".") == 2:  # noqa: PLR2004  # parts of a JWT
            return f"jwt:{self._jwt.subject(credential)}"
        return f"key:{self._key_id(credential)}"

    def _key_id(self, credential: str) -> str:
        self._reload()
        digest = _digest(credential)
        found = None
        for key in self._keys:  # all of them, so that time tells nothing
            if hmac.compare_digest(key.digest, digest):
                found = key
        if found is None:
            raise Refusal("unknown")
        return found.id

    def _reload(self) -> None:
        now = monotonic()
        if self._file is None or now - self._checked < _RELOAD_SECONDS:
            return
        self._checked = now
        try:
            if self._changed != _stamp(self._file):
                self._keys = self._read(self._file)
                _log.info("read %d keys from %s", len(self._keys), self._file)
        except (ConfigError, OSError) as exc:
            _log.error("the keys stay as they were: %s", exc)

    def _read(self, file: Path) -> tuple[_Key, ...]:
        try:
            self._changed = _stamp(file)
            lines = file.read_text(encoding="utf-8").splitlines()
        except OSError as exc:
            raise ConfigError(f"can't read the keys in {str(file)!r}: {exc.strerror}") from exc
        except UnicodeDecodeError:
            raise ConfigError(f"the keys in {str(file)!r} are not UTF-8") from None
        return self._fixed + _parsed(lines, where=f"{str(file)!r}, line ")


def _stamp(file: Path) -> object:
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _from_environment(variable: str | None) -> tuple[_Key, ...]:
    if variable is None:
        return ()
    value = os.environ.get(variable, "")
    keys = _parsed(value.replace(",", "\n").splitlines(), where=f"{variable}, key ")
    if not keys:
        raise ConfigError(f"the environment variable {variable} holds no keys; write ID:KEY")
    return keys


def _parsed(lines: Iterable[str], *, where: str) -> tuple[_Key, ...]:
    keys: list[_Key] = []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            raise ConfigError(f"{where}{number}: write ID:KEY or ID:sha256:HEX")
        if match["hash"]:
            digest = bytes.fromhex(match["hash"].removeprefix("sha256:"))
        elif len(match["key"]) < _LEAST_KEY:
            raise ConfigError(f"{where}{number}: a key needs {_LEAST_KEY} characters at least")
        else:
            digest = _digest(match["key"])
        keys.append(_Key(match["id"], digest))
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
            Refusal: it is not valid.
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
            raise Refusal("expired") from None
        except (jwt.InvalidTokenError, ValueError, TypeError, RecursionError):
            raise Refusal("invalid_token") from None
        subject = str(claims["sub"])
        if not _SUBJECT.fullmatch(subject):  # it goes into logs
            raise Refusal("invalid_subject")
        return subject


def _secret(settings: JWTSettings) -> bytes:
    secret = os.environ.get(settings.secret_env or "", "").encode()
    if len(secret) < _LEAST_SECRET:
        raise ConfigError(
            f"the secret in {settings.secret_env} has {len(secret)} bytes; "
            f"{settings.algorithm} needs {_LEAST_SECRET} at least"
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
