"""Which fields of a document are scored: named one after another, or placed in a template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Any, TypeAlias

from rerank_plugins.errors import ConfigError

__all__ = ["RankFields", "check_rank_fields", "fields_text", "joined_fields"]

RankFields: TypeAlias = Sequence[str] | str | None
"""Names of fields; or a template with them in braces, as in `"{title}: {text}"`."""


def check_rank_fields(value: object) -> None:
    """Check the setting `rank_fields`.

    Raises:
        ConfigError: it is neither a list of different names nor a template of names in braces.
    """
    if value is None:
        return
    if isinstance(value, str):
        _template_names(value)
        return
    if not isinstance(value, Sequence) or not all(isinstance(name, str) and name for name in value):
        raise ConfigError(
            "`rank_fields` must be a list of names, as in ['title', 'text'], or a template, as in "
            f"'{{title}}: {{text}}', not {value!r}"
        )
    if not value or len({*value}) < len(value):
        raise ConfigError(f"`rank_fields` must be names, each of them once, not {list(value)!r}")


def _template_names(template: str) -> list[str]:
    """Return the names in a template."""
    try:
        parts = [*Formatter().parse(template)]
    except ValueError as exc:
        raise ConfigError(f"`rank_fields` is no template: {exc}; write {{{{ for a brace") from exc
    names = [name for _, name, _, _ in parts if name is not None]
    if not names:
        raise ConfigError(
            f"`rank_fields`={template!r} names no field; write a list, as in ['title', 'text'], or "
            "a template with names in braces, as in '{title}: {text}'"
        )
    for _, name, form, conversion in parts:
        if name is not None and (not name.isidentifier() or form or conversion):
            raise ConfigError(
                f"`rank_fields`: {{{name}}} is no plain name of a field; a template has names in "
                "braces and nothing else in them"
            )
    return names


def fields_text(fields: Mapping[str, object], wanted: Sequence[str] | str) -> str:
    """Return the text of a document's fields; of a template, a missing field leaves a blank.

    Args:
        fields: a document's fields by their name.
        wanted: the names, or a template; checked already.

    Raises:
        ValueError: none of the fields is there, or one is neither text nor a number.
    """
    names = _template_names(wanted) if isinstance(wanted, str) else wanted
    places = {name: place for place, name in enumerate(names)}
    joined = joined_fields(fields, places)
    if not isinstance(wanted, str):
        return joined
    return wanted.format_map({name: _text(fields.get(name)) for name in names})


def joined_fields(fields: Mapping[Any, object], places: Mapping[str, int]) -> str:
    """Return the named fields, in the order of their places, one line each.

    It looks at the document's own fields: there may be far more names than those.

    Raises:
        ValueError: none is there, or one is neither text nor a number.
    """
    named = sorted(fields.keys() & places.keys(), key=places.__getitem__)
    values = [fields[name] for name in named if fields[name] is not None]
    if not values:
        raise ValueError("each document must hold text in one of these fields")
    return "\n".join([_text(value) for value in values])


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value}"  # such as a year
    raise ValueError("each document must hold text in one of these fields")
