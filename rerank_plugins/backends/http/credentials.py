"""The key of a server: passed by the user, or read from the environment at each request."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from rerank_plugins._internal.options import check_variable
from rerank_plugins._internal.secret import Secret
from rerank_plugins.backends.http.masking import mask
from rerank_plugins.errors import ConfigError

__all__ = ["Credentials", "Key", "can_be_sent", "read_key"]

_SCHEMES = (
    *("ApiKey", "Api-Key", "Basic", "Bot", "Digest", "DPoP", "Key", "Negotiate", "OAuth"),
    *("PrivateToken", "Token"),
)
"""The schemes that people write before a key, besides `Bearer`."""
_OTHER_SCHEME = re.compile(
    rf"(?:authorization:\s*(?=\S+\s+\S))?((?<=[\s:])[a-z][\w-]*|{'|'.join(_SCHEMES)})\s+(?=\S)",
    re.IGNORECASE,
)
"""A scheme and the space after it; after the name of the header, any word is one."""
_OF_VARIABLE = "the key is that of the environment variable {}"


class Key(NamedTuple):
    """A key, and where it comes from."""

    value: Secret
    """The key; "" if there is none."""
    source: str
    """Where the key comes from, or how to set it, in words."""
    other_secrets: tuple[Secret, ...] = ()
    """What else was sent and is masked too."""
    prefix: str = "Bearer "
    """What is sent before the key."""

    @property
    def header(self) -> Secret:
        """The key as it is sent; "" if there is none."""
        return self.value.after(self.prefix) if self.value else self.value

    def mask(self, text: str) -> str:
        """Replace the secrets in `text` by `[key]`, also where they are escaped or cut short.

        A text that holds one in another form, such as in groups of four, becomes "".

        Args:
            text: what a server wrote; runs of white space in it must be single spaces.
        """
        for secret in (self.value, *self.other_secrets):
            text = mask(text, secret)
        return text


class Credentials:
    """Where the key of a server is.

    Args:
        literal: the key itself.
        variable: the environment variable that holds the key.
        default_variables: the variables to try if both are None; the first that is set counts.
        prefix: what is sent before the key; a key may come with it, or with another scheme, which
            is then sent.

    Raises:
        ConfigError: both are set, or `variable` can't be the name of a variable.
    """

    def __init__(
        self,
        literal: Secret | None,
        variable: str | None,
        default_variables: Sequence[str],
        *,
        prefix: str = "Bearer ",
    ) -> None:
        if literal is not None and variable is not None:
            raise ConfigError("give either `api_key` or `api_key_env`, not both")
        self._example = default_variables[0] if default_variables else "API_KEY"
        check_variable("api_key_env", variable, self._example)
        self._literal = None if literal is None else read_key(literal, prefix)
        self._prefix = prefix
        self._variable = variable
        self._default_variables = default_variables

    def read(self) -> Key:
        """Read the key; call it once per request, because the environment may change.

        Raises:
            ConfigError: the variable is not set, or the key can't stand in a header.
        """
        if self._literal is not None:
            return _key(self._literal, "`api_key`", "the key is the `api_key` you passed")
        if self._variable is not None:
            key = self._read(self._variable)
            if not key[1]:
                raise ConfigError(
                    f"the environment variable {self._variable!r}, named by `api_key_env`, is "
                    "not set"
                )
            return _key(key, self._variable, _OF_VARIABLE.format(self._variable))
        for variable in self._default_variables:
            key = self._read(variable)
            if key[1]:
                return _key(key, variable, _OF_VARIABLE.format(variable))
        hint = "name the variable of the key with `api_key_env`"
        if self._default_variables:
            hint = f"set {self._example}, or name your variable with `api_key_env`"
        return Key(Secret(""), f"no key was sent: {hint}")

    def _read(self, variable: str) -> tuple[str, Secret]:
        return read_key(Secret(os.environ.get(variable, "").strip()), self._prefix)


def read_key(key: Secret, prefix: str = "Bearer ") -> tuple[str, Secret]:
    """Return what to send before a key, and the key without what was copied along with it.

    That is space, quotes and words of a header. A scheme that is neither `Bearer` nor that of
    `prefix` is sent in its place, because no server takes `Bearer Basic k`.

    Args:
        key: as in `"k"`, `"Bearer k"`, `"Authorization: Bearer k"` or `"Basic k"`.
        prefix: what is sent before a key that has no other scheme.
    """
    bare = key.bare()
    scheme = bare.starts_with(_OTHER_SCHEME)
    if scheme and scheme.lower() not in {"bearer", prefix.strip().lower()}:
        return f"{scheme} ", bare.without(_OTHER_SCHEME).bare()
    return prefix, bare.without(_header(prefix)).bare()


@cache
def _header(prefix: str) -> re.Pattern[str]:
    words = "|".join(re.escape(word) for word in {"Bearer", prefix.strip()} if word)
    return re.compile(rf"(?:authorization:\s*)?(?:(?:{words}):?(?:\s+|$))*", re.IGNORECASE)


def _key(key: tuple[str, Secret], place: str, source: str) -> Key:
    prefix, value = key
    if not can_be_sent(value):
        raise ConfigError(f"the key in {place} holds characters that no HTTP header may hold")
    return Key(value, source, prefix=prefix)


def can_be_sent(secret: Secret) -> bool:
    """Whether a secret can stand in an HTTP header."""
    return secret.reveal().isascii() and secret.reveal().isprintable()
