"""Values in a Redis server, for all machines that share it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from rerank_plugins._internal.checks import check_number
from rerank_plugins._internal.optional import require
from rerank_plugins._internal.options import check_variable
from rerank_plugins.errors import ConfigError
from rerank_plugins.wrappers.stores import SHORT
from rerank_plugins.wrappers.stores.bounded import bound_connections, operation
from rerank_plugins.wrappers.stores.guard import Guard

__all__ = ["RedisStore"]

_REPLY_BYTES = 2**20
"""What a reply may take beside its values."""
_BYTES_PER_SECOND = 50 * 2**20
"""How fast values travel at least, beyond the first MiB."""


class RedisStore:
    """Keeps values in Redis, or any server with its protocol: one round trip per call.

    A server that is down, frozen, slow or broken costs one call `timeout` seconds, three times that
    where it has to connect first, and no time for `pause` seconds. A server that is full or
    read-only is still read. Its `maxmemory-policy` decides which values it keeps.

    Args:
        url: `redis://host:port/database`, or `rediss://` for TLS; without user and password.
        username: the user, if Redis has any but the default one.
        password_env: the environment variable that holds the password.
        timeout: seconds for each step: to look up and connect, to encrypt, to ask and read all of
            the reply; a second more for every 50 MiB of vectors.
        pause: seconds to leave Redis alone after a failure.
        prefix: what all keys start with.

    Raises:
        ConfigError: the URL is malformed or holds a password, or a number is not positive.
        MissingDependencyError: the extra `redis` is not installed.
    """

    blocking = True

    def __init__(
        self,
        url: str,
        *,
        username: str | None = None,
        password_env: str | None = None,
        timeout: float = 0.05,
        pause: float = 30.0,
        prefix: str = "rerank:",
    ) -> None:
        where = _checked(url)
        check_variable("password_env", password_env, "REDIS_PASSWORD")
        for name, value in (("timeout", timeout), ("pause", pause)):
            check_number(name, value, above=0, unit="seconds")
        if not isinstance(prefix, str):
            raise ConfigError(f"`prefix` must be a string, not {prefix!r}")
        self._redis = require("redis", extra="redis")
        self._url = url
        self._options: dict[str, Any] = {
            "username": username,
            "password_env": password_env,
            "timeout": timeout,
            "pause": pause,
            "prefix": prefix,
        }
        self._prefix = prefix.encode()
        self._client: Any = None
        broken = (ValueError, TypeError, LookupError, AttributeError, RecursionError, MemoryError)
        self._server = Guard(where, (self._redis.RedisError, OSError, *broken), pause=pause)
        self._writes = Guard(f"writing to {where}", (self._redis.ResponseError,), pause=pause)

    def get_many(self, keys: Sequence[bytes], *, longest: int = SHORT) -> list[bytes | None]:
        missing: list[bytes | None] = [None] * len(keys)
        client = self._connected()
        return self._server.call(lambda: self._read(client, keys, longest), missing)

    def _read(self, client: Any, keys: Sequence[bytes], longest: int) -> list[bytes | None]:
        with self._operation(longest * len(keys)):
            values: list[bytes | None] = client.mget([self._prefix + key for key in keys])
        if len(values) != len(keys):
            raise ValueError(f"{len(values)} values for {len(keys)} keys")
        return values

    def set_many(self, items: Mapping[bytes, bytes], ttl: float | None) -> None:
        client = self._connected()
        self._writes.call(lambda: self._write(client, items, ttl), None)

    def _write(self, client: Any, items: Mapping[bytes, bytes], ttl: float | None) -> None:
        refusal = self._server.call(lambda: self._sent(client, items, ttl), None)
        if refusal is not None:
            raise refusal

    def _sent(
        self, client: Any, items: Mapping[bytes, bytes], ttl: float | None
    ) -> Exception | None:
        """Write, and return the server's first refusal, which is no reason not to read."""
        milliseconds = None if ttl is None else max(1, round(ttl * 1000))
        sent = sum(map(len, items.values())) + SHORT * len(items)
        with self._operation(sent), client.pipeline(transaction=False) as pipeline:
            for key, value in items.items():
                pipeline.set(self._prefix + key, value, px=milliseconds)
            replies = pipeline.execute(raise_on_error=False)
        refused = (reply for reply in replies if isinstance(reply, self._redis.ResponseError))
        return next(refused, None)

    def _operation(self, size: int) -> AbstractContextManager[None]:
        seconds = self._options["timeout"] + max(0, size - _REPLY_BYTES) / _BYTES_PER_SECOND
        return operation(seconds, _REPLY_BYTES + size)

    def _connected(self) -> Any:
        if self._client is None:
            no_retries = self._redis.retry.Retry(self._redis.backoff.NoBackoff(), 0)
            pool = self._redis.ConnectionPool.from_url(
                self._url,
                username=self._options["username"],
                password=self._password(),
                socket_timeout=self._options["timeout"],
                socket_connect_timeout=self._options["timeout"],
                retry=no_retries,
                protocol=2,  # 3 greets longer, and has nothing that is needed here
            )
            bound_connections(self._redis, pool)
            self._client = self._redis.Redis.from_pool(pool)
        return self._client

    def _password(self) -> str | None:
        variable = self._options["password_env"]
        if variable is None:
            return None
        password = os.environ.get(variable)
        if not password:
            raise ConfigError(
                f"the environment variable {variable!r}, named by `password_env`, is not set"
            )
        return password

    def describe(self) -> dict[str, object]:
        return {
            "kind": "redis",
            "url": self._url,
            "errors": self._server.errors + self._writes.errors,
        }

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def __reduce__(self) -> tuple[object, ...]:
        return partial(RedisStore, **self._options), (self._url,)


def _checked(url: str) -> str:
    """Return what to call the server at `url` in the log."""
    try:
        parts = urlsplit(url)
        port = parts.port or 6379
    except ValueError as exc:
        raise ConfigError(f"the URL of the Redis store is malformed: {exc}") from exc
    if "@" in parts.netloc:
        raise ConfigError(  # without the URL, which holds a secret
            "the URL of the Redis store must not hold a user or password; put the password in an "
            "environment variable and name that variable with `password_env`, the user with "
            "`username`"
        )
    database = parts.path.removeprefix("/")
    has_server = parts.scheme in {"redis", "rediss"} and parts.hostname
    has_database = database.isdecimal() or not database
    if not (has_server and has_database) or parts.query or parts.fragment:
        raise ConfigError(
            "the URL of the Redis store must be redis://HOST:PORT/DATABASE or rediss://… for TLS"
        )
    return f"Redis at {parts.hostname}:{port}"
