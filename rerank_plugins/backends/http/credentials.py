"""The key of a server: passed by the user, or read from the environment at each request."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from urllib.parse import quote

from rerank_plugins._internal.options import check_variable
from rerank_plugins.errors import ConfigError

__all__ = ["Credentials", "Key"]


class Key(NamedTuple):
    """A key, and where it comes from."""

    value: str
    """The key; "" if there is none."""
    source: str
    """Where the key comes from, or how to set it, in words."""
    other_secrets: tuple[str, ...] = ()
    """What else was sent and is masked too."""

    def mask(self, text: str) -> str:
        """Replace the secrets in `text`, also where they are quoted or escaped, by `[key]`.

        Runs of white space in `text` must be single spaces.
        """
        forms = [form for secret in (self.value, *self.other_secrets) for form in _forms(secret)]
        for form in sorted(forms, key=len, reverse=True):
            text = text.replace(form, "[key]")
        return text


class Credentials:
    """Where the key of a server is.

    Args:
        literal: the key itself.
        variable: the environment variable that holds the key.
        default_variables: the variables to try if both are None; the first that is set counts.

    Raises:
        ConfigError: both are set, or `variable` can't be the name of a variable.
    """

    def __init__(
        self, literal: str | None, variable: str | None, default_variables: Sequence[str]
    ) -> None:
        if literal is not None and variable is not None:
            raise ConfigError("give either `api_key` or `api_key_env`, not both")
        self._example = default_variables[0] if default_variables else "API_KEY"
        check_variable("api_key_env", variable, self._example)
        self._literal = literal
        self._variable = variable
        self._default_variables = default_variables

    def read(self) -> Key:
        """Read the key; call it once per request, because the environment may change.

        Raises:
            ConfigError: the variable is not set, or the key can't stand in a header.
        """
        if self._literal is not None:
            return Key(_checked(self._literal, "`api_key`"), "the key is the `api_key` you passed")
        if self._variable is not None:
            key = _checked(os.environ.get(self._variable, ""), self._variable)
            if not key:
                raise ConfigError(
                    f"the environment variable {self._variable!r}, named by `api_key_env`, is "
                    "not set"
                )
            return Key(key, f"the key is that of the environment variable {self._variable}")
        for variable in self._default_variables:
            if key := _checked(os.environ.get(variable, ""), variable):
                return Key(key, f"the key is that of the environment variable {variable}")
        hint = "name the variable of the key with `api_key_env`"
        if self._default_variables:
            hint = f"set {self._example}, or name your variable with `api_key_env`"
        return Key("", f"no key was sent: {hint}")


def _checked(key: str, source: str) -> str:
    key = key.strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"the key in {source} holds characters that no HTTP header may hold")
    return key


def _forms(secret: str) -> set[str]:
    """Return a secret as servers write it: bare, quoted for JSON, Python, HTML or a URL."""
    forms = {secret}
    for _ in range(2):  # an error that quotes an error is escaped twice
        forms |= {escaped for form in forms for escaped in _escapes(form)}
    return {" ".join(form.split()) for form in forms} - {""}


def _escapes(text: str) -> Iterable[str]:
    return json.dumps(text)[1:-1], repr(text)[1:-1], html.escape(text), quote(text, safe="")
