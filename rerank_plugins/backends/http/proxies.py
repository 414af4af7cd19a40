"""The proxies that the environment names: which one a request goes through, and why."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies

from rerank_plugins._internal.secret import Secret
from rerank_plugins.errors import ConfigError

__all__ = ["GO_AROUND", "EnvironmentProxies", "EnvironmentProxy"]

GO_AROUND = "to go around it, add the server's host to NO_PROXY"
"""The advice after a proxy failed."""

_PORTS = {"http": 80, "https": 443}
_SCHEMES = ("http", "https", "socks5", "socks5h")


@dataclass(frozen=True, slots=True)
class EnvironmentProxy:
    """One proxy; its repr shows no password."""

    variable: str
    """Where it stands, such as `"HTTPS_PROXY"`."""
    address: str
    """Its scheme, host and port, without a user."""
    url: Secret = field(compare=False)
    """The whole of it."""

    @property
    def words(self) -> str:
        """What messages call it."""
        return f"the proxy {self.address} of {self.variable}"

    @property
    def wrong_user(self) -> str:
        """The advice after 407."""
        return f"correct the user and password in {self.variable}, as in http://USER:PASSWORD@HOST"


class EnvironmentProxies:
    """What `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` say now, in capitals or not.

    Without them these are the system's settings, where Python knows them. Of `NO_PROXY` it takes
    hosts, which stand for the domains below them too, `.example.com` and `*.example.com` for these
    alone, addresses, networks such as `127.0.0.0/8` or `fe80::/10`, any of them with a port or
    a scheme, and `*`. Like curl it ignores entries that are none of these.
    """

    def __init__(self) -> None:
        found = getproxies()
        self._exceptions = _parsed(re.split(r"[,\s]+", found.pop("no", "")))
        self._urls = {name: Secret(url) for name, url in found.items() if url}
        self._found: dict[tuple[str, str], EnvironmentProxy | None] = {}

    def find(self, url: str) -> EnvironmentProxy | None:
        """Return the proxy for the requests to a URL; None if there is none.

        Raises:
            ConfigError: the variable holds no URL of a proxy; the message names the variable.
        """
        if not self._urls:
            return None
        target = urlsplit(url)
        origin = target.scheme, target.netloc
        if origin not in self._found:
            self._found[origin] = self._find(target)
        return self._found[origin]

    def _find(self, target: SplitResult) -> EnvironmentProxy | None:
        scheme = next((name for name in (target.scheme, "all") if name in self._urls), None)
        if scheme is None or any(exception.covers(target) for exception in self._exceptions):
            return None
        return _proxy(_variable(scheme), self._urls[scheme])


@dataclass(frozen=True, slots=True)
class _Exception:
    """An entry of `NO_PROXY`."""

    host: str
    """`"*"` for every host; `".example.com"` for the hosts below it alone."""
    scheme: str | None = None
    port: int | None = None

    def covers(self, target: SplitResult) -> bool:
        if self.scheme not in {None, "all", target.scheme}:
            return False
        if self.port not in {None, target.port or _PORTS.get(target.scheme)}:
            return False
        host = (target.hostname or "").rstrip(".")
        if (address := _address(host)) is not None:
            return self.host == "*" or _is_in(address, self.host)
        return self.host in {"*", host} or host.endswith(f".{self.host.removeprefix('.')}")


def _parsed(entries: Iterable[str]) -> list[_Exception]:
    return [parsed for entry in entries if (parsed := _exception(entry.lower())) is not None]


def _exception(entry: str) -> _Exception | None:
    scheme, _, rest = entry.rpartition("://")
    match = re.fullmatch(r"\[([^\]]*)\](/\d+)?(?::(\d+))?|([^:]*)(?::(\d+))?", rest)
    host, port = rest, None  # an address of version 6, without brackets
    if match is not None:
        host = match[4] if match[1] is None else match[1] + (match[2] or "")
        port = match[3] or match[5]
    host = re.sub(r"^\*(?=\.)", "", host.rstrip(".") if "/" not in host else host)
    return _Exception(host, scheme or None, int(port) if port else None) if host else None


def _is_in(address: IPv4Address | IPv6Address, network: str) -> bool:
    try:
        return address in ip_network(network, strict=False)
    except (TypeError, ValueError):  # no network, or one of the other version
        return False


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _variable(scheme: str) -> str:
    """Return the name of the variable that counts: Python prefers small letters."""
    name = f"{scheme}_proxy"
    return next(
        (each for each in (name, name.upper()) if os.environ.get(each)),
        next((each for each in os.environ if each.lower() == name), "the system's settings"),
    )


def _proxy(variable: str, url: Secret) -> EnvironmentProxy:
    if "://" not in url.reveal():
        url = url.after("http://")
    scheme, host, port = _parts(url)
    if host is None:
        raise ConfigError(
            f"{variable} holds no URL of a proxy; write http://HOST:PORT, and special characters "
            "of a password as in %40 for @"
        )
    if scheme not in _SCHEMES:
        raise ConfigError(
            f"{variable} names a proxy of the scheme {scheme!r}; write one of {', '.join(_SCHEMES)}"
        )
    address = f"{scheme}://{host}" + (f":{port}" if port else "")
    return EnvironmentProxy(variable, address, url)


def _parts(url: Secret) -> tuple[str, str | None, int | None]:
    """Return the scheme, the host and the port; the host is None where the URL is none."""
    try:
        parts = urlsplit(url.reveal())
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "", None, None
    if not re.fullmatch(r"[\w.:%-]+", host):
        return "", None, None
    return parts.scheme.lower(), f"[{host}]" if ":" in host else host, port
