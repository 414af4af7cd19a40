"""The error tree."""

import copy
import pickle

import pytest

from rerank_plugins import errors


def test_every_error_is_a_rerank_error():
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), errors.RerankError)


@pytest.mark.parametrize(
    ("ours", "builtin"),
    [
        (errors.ConfigError, ValueError),
        (errors.DataError, ValueError),
        (errors.BackendOutOfMemory, MemoryError),
        (errors.MissingDependencyError, ImportError),
        (errors.UnsupportedInputError, TypeError),
    ],
)
def test_errors_are_also_builtin_exceptions(ours, builtin):
    assert issubclass(ours, builtin)


@pytest.mark.parametrize(
    ("error", "may_succeed_later"),
    [
        (errors.BackendTimeout("slow"), True),
        (errors.BackendOverloaded("busy", retry_after=2.0), True),
        (errors.BackendRejected("no", status_code=422), False),
        (errors.AuthenticationError("no", status_code=401), False),
        (errors.BackendOutOfMemory("large"), False),
        (errors.InvalidResponse("odd"), False),
        (errors.BackendCrashed("dead"), True),
        (errors.DocumentQuarantined("no", document=3), False),
    ],
)
def test_the_class_says_whether_to_retry(error, may_succeed_later):
    assert may_succeed_later == isinstance(error, errors.BackendUnavailable)


@pytest.mark.parametrize("duplicate", [copy.copy, lambda e: pickle.loads(pickle.dumps(e))])
def test_errors_keep_their_facts_when_copied(duplicate):
    """Errors cross process borders in workers and servers."""
    overloaded = duplicate(errors.BackendOverloaded("busy", retry_after=2.0))
    rejected = duplicate(errors.BackendRejected("no", status_code=422))

    assert ("busy", 2.0) == (str(overloaded), overloaded.retry_after)
    assert ("no", 422) == (str(rejected), rejected.status_code)
    assert 3 == duplicate(errors.DocumentQuarantined("no", document=3)).document
