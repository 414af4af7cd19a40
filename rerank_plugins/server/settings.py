"""The settings of the server: the table `[server]` of a configuration file."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, fields
from inspect import signature
from typing import Any, Literal

from rerank_plugins._internal.checks import check_boolean, check_integer, check_number
from rerank_plugins._internal.options import check_variable, checked_options, unknown
from rerank_plugins._internal.toml import read_toml
from rerank_plugins.backends.local.backend import LocalBackend
from rerank_plugins.errors import ConfigError
from rerank_plugins.server.hosts import is_loopback
from rerank_plugins.server.rate_limit import parse_rate

__all__ = ["ANY_MODEL", "BATCH_SECONDS", "JWTSettings", "ServerSettings", "read_settings"]

ANY_MODEL = "*"
"""The name in `model_names` that stands for all."""
BATCH_SECONDS = 0.25
"""How long a batch takes at most: what the next request of another client waits for."""

_COUNTS = (
    "batch_pairs",
    "batch_tokens",
    "body_bytes",
    "buffer_bytes",
    "document_characters",
    "max_connections",
    "max_documents",
    "query_characters",
    "queue_pairs",
    "queue_tokens",
)
_SECONDS = (
    "body_seconds",
    "drain_seconds",
    "header_seconds",
    "keep_alive_seconds",
    "load_seconds",
    "queue_seconds",
    "request_seconds",
    "watchdog_seconds",
    "write_seconds",
)
_BOOLEANS = ("insecure_no_auth", "model_process", "return_documents", "strict", "ui", "warm_up")
_RATES = ("address_rate", "client_rate")
_LISTS = ("allowed_hosts", "compare", "model_names", "trusted_proxies")
_MAX_PORT = 65_535


@dataclass(frozen=True, kw_only=True)
class JWTSettings:
    """The JSON Web Tokens that the server accepts: the table `[server.jwt]`.

    A token must be signed with this algorithm and hold `exp`, `aud`, `iss` and `sub`.
    """

    algorithm: Literal["HS256", "HS384", "HS512", "RS256", "ES256", "EdDSA"]
    """The only algorithm that the server accepts."""
    audience: str
    """What `aud` must hold."""
    issuer: str
    """What `iss` must be."""
    secret_env: str | None = None
    """For HS…: the environment variable that holds the secret, of at least 32 bytes."""
    public_key_file: str | None = None
    """For RS…, ES… and EdDSA: a file with the public key, in PEM."""

    def __post_init__(self) -> None:
        check_variable("secret_env", self.secret_env, "RERANK_JWT_SECRET")
        needed, other = "public_key_file", "secret_env"
        if self.algorithm.startswith("HS"):
            needed, other = other, needed
        if getattr(self, needed) is None or getattr(self, other) is not None:
            raise ConfigError(f"`algorithm` {self.algorithm} needs `{needed}`; remove `{other}`")


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """The limits and timeouts of the server; each field is a key of the table `[server]`.

    Raises:
        ConfigError: a value is out of range, or settings contradict each other.
    """

    host: str = "127.0.0.1"
    """The address to listen on. One that others can reach needs keys, or `insecure_no_auth`."""
    port: int = 8787
    """The port; 0 picks a free one."""
    model_names: tuple[str, ...] = ()
    """The names that `model` may have in a request, the default first; `"*"` stands for any.
    Empty: the backend's."""
    return_documents: bool = False
    """Whether results repeat their documents when a request does not say, as Jina's and vLLM's do;
    not in TEI's shape."""
    strict: bool = False
    """Whether to refuse fields that the server does not know or ignores, and values of another type
    that mean the same, as `"true"` does."""

    ui: bool = True
    """Whether there is a page at `/ui`, which shows rankings and compares backends."""
    compare: tuple[str, ...] = ()
    """Specs or files of more backends that the page compares with; they need `ui`."""

    api_keys_file: str | None = None
    """A file with a line `ID:KEY` or `ID:sha256:HEX` per key; the server reads it again when it
    changes."""
    api_keys_env: str | None = None
    """The environment variable that holds such lines, separated by commas or line breaks."""
    jwt: JWTSettings | None = None
    """Which JSON Web Tokens the server accepts; None accepts none."""
    insecure_no_auth: bool = False
    """Whether to listen on a public address without any key."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks of proxies, whose `X-Forwarded-For` counts."""
    allowed_hosts: tuple[str, ...] = ()
    """Names that the header `Host` may have, beside addresses and names without a dot; `"*"` stands
    for all. Empty: any, except for requests to a loopback address of a server without keys, which a
    web page could otherwise reach by having its own name resolve to that address."""
    client_rate: str | None = None
    """Most requests of a client (a key, a subject or an address), such as `"600/minute"`."""
    address_rate: str | None = None
    """Most requests of an address (of a /64 for IPv6), counted before the check of keys."""

    body_bytes: int = 4 * 1024 * 1024
    """Longest body."""
    max_documents: int = 1000
    """Most documents in a request."""
    document_characters: int = 32_768
    """Longest document."""
    query_characters: int = 4096
    """Longest query."""
    header_seconds: float = 10.0
    """How long the headers of a request may take to arrive."""
    body_seconds: float = 10.0
    """How long the body of a request may take to arrive."""
    request_seconds: float = 30.0
    """How long a request may wait for its scores."""
    write_seconds: float = 30.0
    """How long a client may take to read a response."""
    keep_alive_seconds: float = 75.0
    """How long an idle connection stays open; longer than a proxy in front keeps its own."""
    max_connections: int = 4096
    """Most connections; the one that waits longest for its client makes room for another. If this
    many requests are in progress, or seven eighths of them of one client, more get 503, except for
    probes."""
    buffer_bytes: int = 256 * 1024 * 1024
    """Most bytes of requests that arrive and of responses that wait to be read, of all connections;
    the slowest make room for others. And most bytes of the texts that wait for their scores."""

    batch_pairs: int = 256
    """Most pairs in a batch."""
    batch_tokens: int = 16_384
    """Most estimated tokens in a batch; the server halves it for a while when memory runs out."""
    queue_pairs: int = 20_000
    """Most pairs of a new request and of those that wait, of each as many as its own."""
    queue_tokens: int = 4_194_304
    """Most estimated tokens of a new request and of what is scored before its last document."""
    queue_seconds: float = 2.0
    """Longest wait of a new request for the turns of others, estimated from the last batches; a
    longer one is a 503."""

    model_process: bool = True
    """Whether `rerank-plugins serve` runs local models in processes of their own."""
    model_lock: str | None = None
    """A file of `rerank-plugins lock`; the files of all models must match it."""
    warm_up: bool = True
    """Whether to score a few texts of all lengths before the server is ready."""
    cache_warm_up: str | None = None
    """A file of `{"query": …, "documents": […]}` lines that the ready server scores to fill
    `[cache]`."""
    load_seconds: float = 600.0
    """How long a model may take to load, its download included; then its process is killed, or the
    server ends if it has no other."""
    watchdog_seconds: float = 60.0
    """A batch that takes longer counts as hanging; where the model may be loaded again in one
    (`unload_after`), it has `load_seconds` more."""
    shutdown_delay: float = 1.0
    """How long the server takes requests after SIGTERM, while load balancers notice `/readyz`."""
    drain_seconds: float = 25.0
    """How long requests in progress may take after that."""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            check_integer(name, getattr(self, name))
        for name in _SECONDS:
            check_number(name, getattr(self, name), above=0, unit="seconds")
        check_number("shutdown_delay", self.shutdown_delay, least=0, unit="seconds")
        check_integer("port", self.port, least=0)
        for name in _BOOLEANS:
            check_boolean(name, getattr(self, name))
        _check_rates(vars(self))
        if self.port > _MAX_PORT:
            raise ConfigError(f"`port` must be at most {_MAX_PORT}, not {self.port!r}")
        if self.buffer_bytes < self.body_bytes:
            raise ConfigError(
                f"`buffer_bytes` ({self.buffer_bytes}) must hold one body of `body_bytes` "
                f"({self.body_bytes})"
            )
        if self.compare and not self.ui:
            raise ConfigError(
                "`compare` is for the page at /ui: set `ui = true`, or remove `compare`"
            )
        check_variable("api_keys_env", self.api_keys_env, "RERANK_API_KEYS")
        self.trusted_networks()

    def longest_batch(self, *, reloads: bool) -> float:
        """Return after how many seconds a batch hangs.

        Args:
            reloads: whether the model may be loaded again in it (`Backend.reloads`).
        """
        return self.watchdog_seconds + (self.load_seconds if reloads else 0.0)

    def trusted_networks(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """Return `trusted_proxies` as networks."""
        try:
            return tuple(ipaddress.ip_network(proxy) for proxy in self.trusted_proxies)
        except ValueError as exc:
            raise ConfigError(f"`trusted_proxies` must be addresses or networks: {exc}") from exc

    @property
    def has_keys(self) -> bool:
        """Whether requests must carry a key or a token."""
        return bool(self.api_keys_file or self.api_keys_env or self.jwt)

    def check_exposure(self) -> None:
        """Refuse to listen on a public address without any key.

        Raises:
            ConfigError: `host` is not a loopback address, and there is no way to authenticate.
        """
        if self.has_keys or self.insecure_no_auth or is_loopback(self.host):
            return
        raise ConfigError(
            f"`host` {self.host!r} is a public address and requests need no key: set "
            "`api_keys_file`, `api_keys_env` or [server.jwt], or accept it with `insecure_no_auth`"
        )


def read_settings(
    path: str | None, overrides: Mapping[str, object] | None = None
) -> tuple[dict[str, Any] | None, ServerSettings]:
    """Return the other tables of a file, and the settings in its `[server]`.

    Args:
        path: a TOML file; None stands for no tables.
        overrides: settings that replace those of the file.

    Raises:
        ConfigError: the file can't be read, or a setting is unknown or out of range.
    """
    tables: dict[str, Any] | None = None
    server_table: object = {}
    if path is not None:
        tables = read_toml(path)
        server_table = tables.pop("server", {})
    if not isinstance(server_table, Mapping):
        raise ConfigError(f"`server` must be a table, not {server_table!r}; write: [server]")
    return tables, settings_from({**server_table, **(overrides or {})})


def settings_from(table: Mapping[str, object]) -> ServerSettings:
    """Return the settings in a `[server]` table.

    Raises:
        ConfigError: a setting is unknown, of a wrong type or out of range.
    """
    options = dict(table)
    lists: dict[str, Any] = {
        name: _strings(name, options.pop(name)) for name in _LISTS if name in options
    }
    jwt = options.pop("jwt", None)
    if jwt is not None and not isinstance(jwt, Mapping):
        raise ConfigError("`jwt` must be a table; write: [server.jwt]")
    names = [field.name for field in fields(ServerSettings)]
    for name in options:
        if name not in names:
            where = " in the table `server`"
            if name in signature(LocalBackend).parameters:
                where += ", but an option of a local model: set it in [backend]"
            raise ConfigError(unknown("setting", name, names, where))
    _check_rates(options)
    checked = checked_options(ServerSettings, options, what="table 'server'")
    if jwt is not None:
        checked["jwt"] = JWTSettings(
            **checked_options(JWTSettings, dict(jwt), what="table 'server.jwt'")
        )
    return ServerSettings(**checked, **lists)


def _check_rates(settings: Mapping[str, object]) -> None:
    for name in _RATES:
        if (rate := settings.get(name)) is not None:
            parse_rate(name, rate)


def _strings(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"`{name}` must be a list of strings, not {value!r}")
    return tuple(value)
