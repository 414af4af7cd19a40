"""How often a client may ask."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from time import monotonic

import limits

from rerank_plugins.errors import ConfigError

__all__ = ["RateLimiter", "Verdict"]

_MOST_CLIENTS = 10_000


@dataclass(frozen=True)
class Verdict:
    """What became of one request."""

    allowed: bool
    limit: int
    remaining: int
    reset: float
    """Seconds until the next request is allowed, or until all of them are."""
    window: int
    """Seconds."""

    def headers(self, name: str) -> dict[str, str]:
        """Return the fields `RateLimit` and `RateLimit-Policy` of the IETF's draft."""
        return {
            "RateLimit-Policy": f'"{name}";q={self.limit};w={self.window}',
            "RateLimit": f'"{name}";r={self.remaining};t={max(1, round(self.reset))}',
        }


class RateLimiter:
    """Counts the requests of many clients in fixed memory, by a clock that never jumps.

    Each client has a bucket that holds `limit` requests and fills up within the window (the
    generic cell rate algorithm), so there is no burst at the border of two windows. Beyond
    10,000 clients the one not seen for longest is forgotten.

    Args:
        rate: as `limits` writes it: `"600/minute"`, `"10 per second"`.

    Raises:
        ConfigError: `rate` is malformed.
    """

    def __init__(self, rate: str) -> None:
        try:
            parsed = limits.parse(rate)
        except ValueError as exc:
            raise ConfigError(f'a rate is written like "600/minute", not {rate!r}') from exc
        self._limit = parsed.amount
        self._window = parsed.get_expiry()
        self._interval = self._window / self._limit
        self._full: OrderedDict[str, float] = OrderedDict()  # when each bucket is full again

    def hit(self, client: str) -> Verdict:
        """Count a request, unless it is one too many."""
        now = monotonic()
        full = max(self._full.get(client, 0.0), now) + self._interval
        excess = full - now - self._window
        allowed = excess <= 1e-9  # noqa: PLR2004  # a rounding error
        if allowed:
            self._full[client] = full
            self._full.move_to_end(client)
            if len(self._full) > _MOST_CLIENTS:
                self._full.popitem(last=False)
        left = max(0, int((self._window - (full - now)) / self._interval + 1e-9)) if allowed else 0
        reset = full - now if allowed else excess
        return Verdict(allowed, self._limit, left, reset, self._window)

    def __len__(self) -> int:
        return len(self._full)
