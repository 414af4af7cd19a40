"""How many requests a client may send."""

from __future__ import annotations

import re
from dataclasses import dataclass
from time import monotonic

from rerank_plugins.errors import ConfigError

__all__ = ["MAX_CLIENTS", "Rate", "RateLimitResult", "RateLimiter", "parse_rate"]

MAX_CLIENTS = 10_000
"""The largest number of clients that a limiter remembers."""

_RATE = re.compile(r"([1-9]\d{0,8}) ?(?:/|per) ?(second|minute|hour|day)")
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
_ROUNDING_ERROR = 1e-9


@dataclass(frozen=True)
class Rate:
    """A number of requests in a number of seconds."""

    requests: int
    seconds: int


def parse_rate(option: str, text: object) -> Rate:
    """Return the rate that a text such as `"600/minute"` or `"10 per second"` states.

    Raises:
        ConfigError: the text, the value of `option`, is not a rate.
    """
    match = _RATE.fullmatch(text.strip().lower()) if isinstance(text, str) else None
    if match is None:
        raise ConfigError(
            f'`{option}` must be a rate such as "600/minute", not {text!r}; '
            f"valid units: {', '.join(_SECONDS)}"
        )
    return Rate(int(match[1]), _SECONDS[match[2]])


@dataclass(frozen=True)
class RateLimitResult:
    """Whether a request is within its client's rate, and what is left of that."""

    allowed: bool
    rate: Rate
    remaining: int
    reset: float
    """Seconds until the next request is allowed, or until all of them are."""

    def headers(self, name: str) -> dict[str, str]:
        """Return the fields `RateLimit` and `RateLimit-Policy` of the IETF's draft."""
        return {
            "RateLimit-Policy": f'"{name}";q={self.rate.requests};w={self.rate.seconds}',
            "RateLimit": f'"{name}";r={self.remaining};t={max(1, round(self.reset))}',
        }


class RateLimiter:
    """Counts the requests of many clients in bounded memory, by a clock that never jumps.

    Each client has a bucket that holds the requests of one window and fills up within that window
    (the generic cell rate algorithm), so there is no burst at the border of two windows. Beyond
    `MAX_CLIENTS` the limiter forgets the tenth with the fullest buckets: a client over its rate
    must not get rid of its past by sending from many addresses.
    """

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._interval = rate.seconds / rate.requests
        self._full_at: dict[str, float] = {}
        """When each client's bucket is full again."""

    def hit(self, client: str) -> RateLimitResult:
        """Count a request, unless it is one too many."""
        now = monotonic()
        full_at = max(self._full_at.get(client, 0.0), now) + self._interval
        excess = full_at - now - self._rate.seconds
        if excess > _ROUNDING_ERROR:
            return RateLimitResult(allowed=False, rate=self._rate, remaining=0, reset=excess)
        self._full_at[client] = full_at
        if len(self._full_at) > MAX_CLIENTS:
            self._forget()
        remaining = int(-excess / self._interval + _ROUNDING_ERROR)
        return RateLimitResult(
            allowed=True, rate=self._rate, remaining=remaining, reset=full_at - now
        )

    def _forget(self) -> None:
        by_fullness = sorted(self._full_at, key=self._full_at.__getitem__)
        for client in by_fullness[: MAX_CLIENTS // 10]:
            del self._full_at[client]

    def __len__(self) -> int:
        return len(self._full_at)
