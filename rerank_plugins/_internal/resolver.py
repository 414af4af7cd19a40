"""Looks host names up within a time limit, which the system's own look-up does not have."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
import time
from concurrent.futures import Future
from typing import TypeAlias

from rerank_plugins._internal.locks import ForkSafeLock, reset_in_forked_child

__all__ = ["aresolve", "resolve"]

_Addresses: TypeAlias = list[str]

_GRACE = 0.25
"""Seconds that a look-up gets while another one hangs: the next server must not cost as much."""
_RENEWAL = 1.0
"""Seconds until a look-up that hangs is tried anew: a lost packet costs the system five."""
_MOST = 4
"""Look-ups of one name at the same time."""


def resolve(host: str, timeout: float | None) -> list[str]:
    """Return the addresses of a host, the preferred one first.

    Args:
        host: a name, or an address, which is returned at once.
        timeout: seconds to wait; None is no limit. While an earlier look-up hangs, a quarter of a
            second is the limit.

    Raises:
        TimeoutError: there is no answer in time.
        OSError: there is no such host.
    """
    if _is_address(host):
        return [host]
    look_up, patience = _look_ups.join(host, timeout)
    try:
        return look_up.addresses.result(patience)
    except TimeoutError:
        look_up.hangs = True
        raise
    except OSError as exc:
        raise _copied(exc) from None


async def aresolve(host: str, timeout: float | None) -> list[str]:  # noqa: ASYNC109  # as above
    """Like `resolve`, on the running event loop, which never waits for the look-up when it ends."""
    if _is_address(host):
        return [host]
    look_up, patience = _look_ups.join(host, timeout)
    try:
        return await asyncio.wait_for(asyncio.wrap_future(look_up.addresses), patience)
    except (TimeoutError, asyncio.CancelledError):
        look_up.hangs = True
        raise
    except OSError as exc:
        raise _copied(exc) from None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _copied(exc: OSError) -> OSError:
    """Return an error of one's own: several callers may raise that of the look-up they share."""
    return type(exc)(*exc.args)


class _LookUp:
    """One look-up, in a thread of its own that nobody waits for."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.started = time.monotonic()
        self.addresses: Future[_Addresses] = Future()
        self.addresses.set_running_or_notify_cancel()  # no caller cancels it for the others
        self.hangs = False
        """Whether a caller has given it up."""

    def run(self) -> None:
        try:
            found = socket.getaddrinfo(self.host, None, type=socket.SOCK_STREAM)
        except OSError as exc:
            self.addresses.set_exception(exc)
        except UnicodeError:
            self.addresses.set_exception(OSError("not the name of a host"))
        else:
            self.addresses.set_result(list(dict.fromkeys(str(entry[4][0]) for entry in found)))
        finally:
            _look_ups.leave(self)


class _LookUps:
    """The look-ups under way in this process, which callers share."""

    def __init__(self) -> None:
        self._lock = ForkSafeLock()
        self._under_way: list[_LookUp] = []
        reset_in_forked_child(self)

    def reset_after_fork(self) -> None:
        self._under_way = []  # their threads are the parent's

    def join(self, host: str, timeout: float | None) -> tuple[_LookUp, float | None]:
        """Return the newest look-up of a host, begun if need be, and how long to wait for it."""
        with self._lock:
            patience = timeout
            if any(look_up.hangs for look_up in self._under_way):
                patience = _GRACE if timeout is None else min(timeout, _GRACE)
            same = [look_up for look_up in self._under_way if look_up.host == host]
            if same and not self._is_renewed(same):
                return same[-1], patience
            look_up = _LookUp(host)
            self._under_way.append(look_up)
        try:
            threading.Thread(target=look_up.run, daemon=True).start()
        except RuntimeError as exc:  # there are too many
            self.leave(look_up)
            raise OSError(f"no thread to look the host up: {exc}") from exc
        return look_up, patience

    def _is_renewed(self, same: list[_LookUp]) -> bool:
        newest = same[-1]
        is_old = time.monotonic() - newest.started >= _RENEWAL
        return newest.hangs and is_old and len(same) < _MOST

    def leave(self, look_up: _LookUp) -> None:
        """Forget a look-up that has ended."""
        with self._lock:
            if look_up in self._under_way:
                self._under_way.remove(look_up)


_look_ups = _LookUps()
