"""Numbers of NumPy are as good as Python's own, wherever a setting takes one."""

import json

import numpy as np
import pytest

from rerank_plugins import ConfigError, load_backend, rank, rerank
from rerank_plugins._internal.plain_numbers import plain_integer, plain_number
from rerank_plugins.backends.http.backend import HTTPBackend
from rerank_plugins.backends.local.backend import LocalBackend
from rerank_plugins.wrappers.retry import RetryingBackend


@pytest.mark.parametrize("kind", [np.int8, np.int32, np.int64, np.uint64, int])
def test_integers_become_an_int(kind):
    assert 7 == plain_integer(kind(7)) == plain_number(kind(7))
    assert int is type(plain_integer(kind(7)))


@pytest.mark.parametrize(
    "value", [True, np.True_, np.array([1, 2]), np.array(["1"]), "1", None, 1.0, np.float64(1), 1j]
)
def test_what_is_no_integer_is_none(value):
    assert plain_integer(value) is None


@pytest.mark.parametrize("value", [np.float16(0.5), np.float32(0.5), np.float64(0.5), 0.5])
def test_real_numbers_become_a_float(value):
    assert 0.5 == plain_number(value)
    assert float is type(plain_number(value))


@pytest.mark.parametrize("value", [False, np.False_, np.array([0.5]), "0.5", None, 1j])
def test_what_is_no_number_is_none(value):
    assert plain_number(value) is None


@pytest.mark.parametrize("top_n", [np.int64(1), np.uint8(1)])
def test_top_n_may_be_an_integer_of_numpy(top_n):
    assert [1] == [item.index for item in rank([0.1, 0.9, 0.5], top_n=top_n)]
    assert 1 == len(rerank("panda", ["hi", "a panda"], backend="embedded", top_n=top_n))


@pytest.mark.parametrize("top_n", [np.True_, np.float64(1), np.array([1, 2]), np.int64(-1)])
def test_what_is_no_count_is_refused_whatever_its_library(top_n):
    with pytest.raises(ConfigError, match="`top_n` must be None or an integer of at least 0, not "):
        rank([0.1, 0.9], top_n=top_n)


def test_settings_stay_json_when_they_were_numbers_of_numpy():
    server = HTTPBackend(
        "http://gpu", dialect="tei", max_documents=np.int32(7), timeout=np.float32(2.5)
    )
    retrying = RetryingBackend(server, attempts=np.int16(9), deadline=np.float32(4))
    model = LocalBackend("owner/model", max_length=np.int64(64), temperature=np.float16(2))

    written = json.loads(json.dumps([retrying.to_spec(), model.to_spec()]))
    assert {"max_documents": 7, "timeout": 2.5}.items() <= written[0]["backend"].items()
    assert {"attempts": 9, "deadline": 4.0}.items() <= written[0]["retry"].items()
    assert {"max_length": 64, "temperature": 2.0}.items() <= written[1].items()


@pytest.mark.parametrize(
    "spec",
    [
        {"kind": "embedded", "max_length": np.int64(64)},
        {"kind": "tei", "base_url": "http://gpu", "timeout": np.float32(2.5)},
        {"kind": "tei", "base_url": "http://gpu", "timeout": np.int64(3)},
    ],
)
def test_mappings_may_hold_numbers_of_numpy(spec):
    assert json.dumps(load_backend(spec).to_spec())


def test_a_fraction_of_numpy_is_no_integer_in_a_mapping():
    with pytest.raises(ConfigError, match=r"`max_length` must be int or none, not np\.float64"):
        load_backend({"kind": "embedded", "max_length": np.float64(64)})
