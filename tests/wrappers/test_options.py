"""Options of wrappers, stores and hooks: a wrong type is a `ConfigError`, never a `TypeError`."""

import pytest

from rerank_plugins import ConfigError
from rerank_plugins.hooks.logging import LoggingHook
from rerank_plugins.testing import FakeBackend
from rerank_plugins.wrappers.batching import BatchingBackend
from rerank_plugins.wrappers.breaker import CircuitBreakingBackend
from rerank_plugins.wrappers.cache import CachedBackend
from rerank_plugins.wrappers.instrument import InstrumentedBackend
from rerank_plugins.wrappers.process import ModelProcess
from rerank_plugins.wrappers.retry import RetryingBackend
from rerank_plugins.wrappers.stores.memory import MemoryStore
from rerank_plugins.wrappers.stores.redis import RedisStore
from rerank_plugins.wrappers.stores.sqlite import SQLiteStore

INTEGERS = [
    (BatchingBackend, "batch_tokens"),
    (BatchingBackend, "max_length"),
    (BatchingBackend, "queue_tokens"),
    (CircuitBreakingBackend, "failures"),
    (MemoryStore, "entries"),
    (RetryingBackend, "attempts"),
    (SQLiteStore, "entries"),
]
NUMBERS = [
    (CachedBackend, "ttl"),
    (CircuitBreakingBackend, "cooldown"),
    (LoggingHook, "slow"),
    (ModelProcess, "batch_seconds"),
    (RedisStore, "pause"),
    (RedisStore, "timeout"),
    (RetryingBackend, "budget"),
    (RetryingBackend, "deadline"),
    (RetryingBackend, "initial_backoff"),
    (RetryingBackend, "longest_backoff"),
]
OTHERS = [
    (CachedBackend, "secret_env"),
    (CachedBackend, "store"),
    (InstrumentedBackend, "hooks"),
    (InstrumentedBackend, "route"),
    (RedisStore, "password_env"),
    (RedisStore, "prefix"),
]
ARGUMENTS = {
    LoggingHook: (),
    MemoryStore: (),
    RedisStore: ("redis://localhost",),
    SQLiteStore: ("x.db",),
}
NEEDED = {InstrumentedBackend: {"hooks": ["logging"]}}

CASES = [
    *((*case, value) for case in INTEGERS for value in (True, "10", 1.5, [1])),
    *((*case, value) for case in NUMBERS for value in (True, "10", 1j, [1], float("nan"), -1)),
    *((*case, value) for case in OTHERS for value in (10, 1.5, ...)),
]


def _id(value):
    return value.__name__ if isinstance(value, type) else str(value)


@pytest.mark.parametrize(("factory", "option", "value"), CASES, ids=_id)
def test_a_wrong_type_is_a_config_error_that_names_the_option(factory, option, value):
    arguments = ARGUMENTS.get(factory, (FakeBackend(),))

    with pytest.raises(ConfigError, match=f"`{option}`"):
        factory(*arguments, **{**NEEDED.get(factory, {}), option: value})
