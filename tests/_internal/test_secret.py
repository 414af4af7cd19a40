"""A secret shows itself to nobody who does not ask for it."""

import pprint

from rerank_plugins._internal.secret import Secret


def test_no_way_of_printing_shows_it():
    secret = Secret("sk-very").after("Bearer ")

    shown = f"{secret} {secret!r} {[secret]} {pprint.pformat({'key': secret})}"
    assert "very" not in shown
    assert not hasattr(secret, "__dict__")
    assert not isinstance(secret, str)
    assert "Bearer sk-very" == secret.reveal()


def test_an_empty_one_is_false():
    assert Secret("sk")
    assert not Secret("")
