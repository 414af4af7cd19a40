"""The one HTML writer: template files whose placeholders are escaped when they are filled."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from html import escape
from importlib.resources import files
from string import Template
from types import MappingProxyType

__all__ = ["HTML", "Templates", "join"]

_NAME = re.compile(r"^<!-- ([\w-]+) -->\n", re.MULTILINE)
_NONE: Mapping[str, str] = MappingProxyType({})


class HTML(str):
    """Text that is HTML already: it is filled into a template as it is."""

    __slots__ = ()


def join(parts: Iterable[str]) -> HTML:
    """Return the parts one after another; those that are not HTML yet are escaped."""
    return HTML("".join(map(_as_html, parts)))


def _as_html(value: object) -> str:
    return value if isinstance(value, HTML) else escape(str(value))


class Templates:
    """The templates of one package data file, each below a line `<!-- NAME -->`.

    A template is HTML with placeholders, `$name` or `${name}`. Line breaks and indentation
    between tags are dropped.

    Args:
        package: where the file is.
        file: its name.
        constants: values of placeholders that every template may use, such as styles; they are
            filled in as they are.
    """

    def __init__(self, package: str, file: str, *, constants: Mapping[str, str] = _NONE) -> None:
        self._package, self._file = package, file
        self._constants = constants

    @cached_property
    def _templates(self) -> dict[str, Template]:
        text = (files(self._package) / self._file).read_text(encoding="utf-8")
        _, *rest = _NAME.split(text)
        return {
            name: Template(_compact(body)) for name, body in zip(rest[::2], rest[1::2], strict=True)
        }

    def fill(self, name: str, /, **values: object) -> HTML:
        """Return the template with its placeholders filled.

        Args:
            name: which template.
            **values: what to fill in; escaped, unless it is `HTML`.
        """
        escaped = {key: _as_html(value) for key, value in values.items()}
        return HTML(self._templates[name].substitute(self._constants, **escaped))


def _compact(body: str) -> str:
    lines = (line.strip() for line in body.strip().splitlines())
    text = ""
    for line in lines:
        inline = text and not (text.endswith(">") or line.startswith(("<", "$")))
        text += (" " if inline else "") + line
    return text
