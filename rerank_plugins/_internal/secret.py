"""A secret that no log line, traceback or crash report shows."""

from __future__ import annotations

import re
from typing import NoReturn

__all__ = ["Secret"]


class Secret:
    """Holds a secret in a type whose repr masks it.

    Crash reporters print the local variables of each frame: so keys travel in this type, which is
    no string, and `reveal()` is called where no frame keeps its result.

    Args:
        value: the secret.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the secret itself."""
        return self._value

    def after(self, prefix: str) -> Secret:
        """Return the secret with `prefix` before it."""
        return Secret(prefix + self._value)

    def starts_with(self, prefix: re.Pattern[str]) -> str:
        """Return the group 1 of what `prefix` matches at its start, which is no secret; or ""."""
        found = prefix.match(self._value)
        return (found[1] or "") if found else ""

    def without(self, prefix: re.Pattern[str]) -> Secret:
        """Return the secret without what `prefix` matches at its start."""
        return Secret(prefix.sub("", self._value, count=1))

    def bare(self) -> Secret:
        """Return the secret without the space and the quotes around it, as files have them."""
        stripped = self._value.strip()
        quoted = re.fullmatch(r"""(["'])(.*)\1""", stripped)
        return Secret(quoted[2] if quoted else stripped)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret can't be pickled")

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "[secret]" if self._value else "[no secret]"
