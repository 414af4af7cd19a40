"""A chain whose models have processes of their own."""

import json

import pytest

pytest.importorskip("fastapi", reason="needs the extra `server`")

from rerank_plugins import ConfigError, load_backend
from rerank_plugins.backends.local.lockfile import lock_of
from rerank_plugins.server import ServerSettings
from rerank_plugins.server.isolation import (
    check_locked_models,
    is_remote,
    isolate,
    model_processes,
)
from rerank_plugins.testing import FakeBackend
from rerank_plugins.wrappers.fallback import FallbackBackend
from rerank_plugins.wrappers.retry import RetryingBackend

SETTINGS = ServerSettings(watchdog_seconds=7.0)
REMOTE = {"kind": "infinity", "base_url": "http://127.0.0.1:9"}


class Listwise(FakeBackend):
    pointwise = False


def kinds(backend):
    return [part.kind for part in backend.walk()]


def test_a_model_gets_a_process():
    backend = load_backend("embedded")
    isolated = isolate(backend, SETTINGS)

    assert ["process", "embedded"] == kinds(isolated)
    assert [isolated] == model_processes(isolated)
    assert [] == model_processes(backend)


def test_the_chain_that_was_given_does_not_change():
    chain = load_backend({"backend": {"kind": "embedded"}, "cache": {"store": "memory"}})
    before = chain.to_spec(), kinds(chain)
    isolated = isolate(chain, SETTINGS)

    assert before == (chain.to_spec(), kinds(chain))
    assert ["cache", "process", "embedded"] == kinds(isolated)


def test_models_of_a_fallback_chain_share_batches_in_a_process_each():
    chain = load_backend({"backend": REMOTE, "fallback": [{"kind": "embedded"}]})
    isolated = isolate(chain, SETTINGS)

    assert ["fallback", "infinity", "batching", "process", "embedded"] == kinds(isolated)
    assert is_remote(isolated)


def test_a_listwise_model_of_a_fallback_chain_gets_whole_requests():
    chain = FallbackBackend([FakeBackend(), Listwise()])
    first, second = isolate(chain, SETTINGS).children

    assert ("batching", "process") == (first.kind, second.kind)


def test_only_models_of_this_process_are_checked_against_the_lock(tmp_path):
    lock = tmp_path / "model.lock"
    lock.write_text(json.dumps(lock_of([load_backend("embedded")])))
    settings = ServerSettings(model_lock=str(lock))
    unknown = load_backend(f"local:{tmp_path}/missing")

    check_locked_models(load_backend({"backend": REMOTE}), settings)
    check_locked_models(RetryingBackend(load_backend("embedded")), settings)
    check_locked_models(isolate(unknown, settings), settings)
    with pytest.raises(ConfigError, match="there is no folder"):
        check_locked_models(RetryingBackend(unknown), settings)
