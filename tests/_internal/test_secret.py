"""A secret shows itself to nobody who does not ask for it."""

import copy
import pickle
import pprint

import pytest

from rerank_plugins._internal.secret import Secret


def test_no_way_of_printing_shows_it():
    secret = Secret("sk-very").after("Bearer ")

    shown = f"{secret} {secret!r} {[secret]} {pprint.pformat({'key': secret})}"
    assert "very" not in shown
    assert not hasattr(secret, "__dict__")
    assert not isinstance(secret, str)
    assert "Bearer sk-very" == secret.reveal()


@pytest.mark.parametrize("copy", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_stays_in_its_process(copy):
    with pytest.raises(TypeError, match="can't be pickled"):
        copy(Secret("sk"))


def test_an_empty_one_is_false():
    assert Secret("sk")
    assert not Secret("")
