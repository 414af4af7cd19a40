"""Xinference 4.1, with the access control that it starts with."""

from __future__ import annotations

import os

import pytest
from agreement import DOCUMENTS, QUERY, Agreement, ServerContract

from rerank_plugins import AuthenticationError, BackendRejected, InvalidResponse, load_backend
from rerank_plugins.backends.discovery import probe


def spec(server, model="tiny", key="RERANK_TEST_KEY_XINFERENCE"):
    return f"xinference+{server.url}?model={model}&timeout=300&api_key_env={key}"


@pytest.fixture(scope="module")
def remote_spec(xinference):
    return spec(xinference)


@pytest.fixture(scope="module")
def local_spec(tiny):
    return f"local:{tiny}?engine=torch"


class TestAgreement(Agreement):
    pass


class TestContract(ServerContract):
    pass


def test_it_is_recognised(xinference):
    """With a key by the models it lists, without one by what it leaves open."""
    key = os.environ["RERANK_TEST_KEY_XINFERENCE"]
    info, guarded = probe(xinference.url, api_key=key, timeout=60), probe(xinference.url)

    assert ("xinference", xinference.url) == (info.dialect, info.base_url)
    assert {"nan", "tiny"} == set(info.models)
    assert info.authorized
    assert ("xinference", (), False) == (guarded.dialect, guarded.models, guarded.authorized)


def test_an_unknown_model_is_rejected(xinference):
    with (
        load_backend(spec(xinference, model="nope")) as backend,
        pytest.raises(BackendRejected, match="nope") as caught,
    ):
        backend.score(QUERY, DOCUMENTS)

    assert 404 == caught.value.status_code


def test_a_wrong_key_is_an_authentication_error(xinference, key_variable):
    with (
        load_backend(spec(xinference, key=key_variable)) as backend,
        pytest.raises(AuthenticationError) as caught,
    ):
        backend.score(QUERY, DOCUMENTS)

    assert 401 == caught.value.status_code


def test_a_key_without_the_right_is_an_authentication_error(xinference):
    with (
        load_backend(spec(xinference, key="RERANK_TEST_KEY_XINFERENCE_OTHER")) as backend,
        pytest.raises(AuthenticationError) as caught,
    ):
        backend.score(QUERY, DOCUMENTS)

    assert 403 == caught.value.status_code


def test_scores_that_are_not_numbers_are_an_invalid_response(xinference):
    """The server sends null for NaN, with status 200."""
    with load_backend(spec(xinference, model="nan")) as backend, pytest.raises(InvalidResponse):
        backend.score(QUERY, DOCUMENTS)
