"""Options as people write them, checked against a constructor's keywords."""

from __future__ import annotations

import inspect
import os
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints
from urllib.parse import unquote

from rerank_plugins._internal.other_names import number_hint, suggestion
from rerank_plugins._internal.plain_numbers import plain_integer, plain_number, with_plain_numbers
from rerank_plugins.errors import ConfigError

__all__ = ["changed_options", "check_variable", "checked_options", "unknown", "with_options"]

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_SECRETS = frozenset({"api_key", "key", "password", "secret", "token"})
_CALL_SETTINGS = frozenset(
    {"count_tokens", "distinct", "max_tokens", "min_gap", "min_score", "score_threshold"}
    | {"top_k", "top_n"}
)
_LISTS = (Sequence, list)
_TABLES = (Mapping, dict)
_BY_KEYWORD = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def checked_options(
    constructor: type, options: Mapping[str, object], *, what: str, fixed: Iterable[str] = ()
) -> dict[str, Any]:
    """Return `options` with each value of the type that `constructor` asks for.

    Strings are read as the annotated type ("10" as a number, "true" as a boolean, "none" as
    None), so a spec string says the same as a mapping. Where a user's class has no annotation, or
    takes `**` keywords, values stay as they are.

    Args:
        constructor: the class whose `__init__` keywords are the valid options.
        options: names and values as they were written.
        what: what to call the class in messages, as in "kind 'local'".
        fixed: keywords that are set elsewhere and can't be given.

    Raises:
        ConfigError: an option is unknown, a secret, missing, or of a wrong type.
    """
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(constructor).parameters.items()
        if name not in fixed and parameter.kind in _BY_KEYWORD
    }
    takes_any = any(
        parameter.kind is parameter.VAR_KEYWORD
        for parameter in inspect.signature(constructor).parameters.values()
    )
    hints = _hints(constructor)
    # What is annotated as `Any` takes objects of another library, which no text can say.
    objects = {name for name in parameters if hints.get(name) is Any}
    writable = sorted(set(parameters) - _SECRETS - objects)
    variable = next((name for name in writable if name.endswith("_env")), None)
    for name in options:
        if name in _SECRETS:
            raise ConfigError(
                f"`{name}` is a secret and can't stand in a spec or file; put it in an environment "
                "variable"
                + (
                    f" and name that variable with `{variable}`"
                    if variable
                    else f", because {what} has no option for it; the hub's is HF_TOKEN"
                )
            )
        if name in _CALL_SETTINGS and name not in writable:
            raise ConfigError(
                f"`{name}` is no option of {what}: the backend scores all documents; give `top_n` "
                "or `min_score` to rerank() or to the adapter"
            )
        if name not in writable and not takes_any:
            raise ConfigError(unknown("option", name, writable, f" for {what}"))
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in options:
            raise ConfigError(
                f"{what} needs the option `{name}`; valid options: {_listed(writable)}"
            )
    return {
        name: _converted(name, value, hints[name])
        if name in parameters and name in hints
        else value
        for name, value in options.items()
    }


def _hints(constructor: type) -> dict[str, Any]:
    """Return the types of the keywords; none where a user's class names what it did not import."""
    try:
        return get_type_hints(constructor.__init__)  # type: ignore[misc]  # of a class
    except NameError:  # imported under TYPE_CHECKING only
        return {}


def changed_options(constructor: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of `values` that are not the constructor's defaults: what a spec must say."""
    parameters = inspect.signature(constructor).parameters
    return with_plain_numbers(
        {name: value for name, value in values.items() if value != parameters[name].default}
    )


def with_options(options: Mapping[str, object], text: str) -> dict[str, object]:
    """Return `options` and those in `text`, as in `"a=1&b=2"`.

    Raises:
        ConfigError: an option has no value, or is given twice.
    """
    all_options = dict(options)
    for part in filter(None, text.split("&")):
        name, equals, value = part.partition("=")
        name = unquote(name)
        if not equals:
            raise ConfigError(f"option {name!r} has no value; write {name}=VALUE")
        if name in all_options:
            raise ConfigError(f"option {name!r} is given twice")
        all_options[name] = unquote(value)  # `+` stays: model names may contain it
    return all_options


def check_variable(option: str, name: str | None, example: str) -> None:
    """Check that an option names an environment variable, and is not the secret itself.

    Raises:
        ConfigError: it does not; the message is without the value, which may be a secret.
    """
    if name is not None and not (isinstance(name, str) and _VARIABLE.fullmatch(name)):
        raise ConfigError(
            f"`{option}` must be the name of an environment variable in capitals, such as "
            f"{example}, and never the secret itself"
        )


def unknown(what: str, name: str, valid: Iterable[str], where: str = "") -> str:
    """Return an error's text: `name` is unknown, the likeliest correction, and all of `valid`."""
    valid = list(valid)
    return f"unknown {what} {name!r}{where}; {suggestion(name, valid)}valid: {_listed(valid)}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _converted(name: str, value: object, hint: Any) -> object:
    try:
        return _as_one_of(value, hint)
    except ValueError:
        raise ConfigError(
            f"option `{name}` must be {_described(_choices(hint))}, not {value!r}"
            f"{_written_otherwise(value, hint)}"
        ) from None


def _written_otherwise(value: object, hint: Any) -> str:
    """Return what a value of a wrong type most likely means, as a text to append; or ""."""
    if not isinstance(value, str):
        return ""
    choices = _choices(hint)
    if int in choices or float in choices:
        return number_hint(value)
    words = [
        str(word)
        for choice in choices
        if get_origin(choice) is Literal
        for word in get_args(choice)
    ]
    guess = suggestion(value, words).strip()
    return f"; {guess}" if guess else ""


def _choices(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _as_one_of(value: object, hint: Any) -> object:
    """Return `value` as the first alternative of an annotation that fits, or raise `ValueError`."""
    for choice in _choices(hint):
        try:
            if get_origin(choice) in _LISTS:
                return _as_list(value, *get_args(choice))
            if get_origin(choice) in _TABLES:
                return _as_table(value, *get_args(choice))
            return _as(value, choice)
        except (ValueError, OverflowError):  # an integer may be too large for a float
            continue
    raise ValueError


def _as_list(value: object, of: Any) -> list[object]:
    """Return a list, or a text with commas, as a list of what an annotation allows in it."""
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        raise ValueError  # noqa: TRY004  # what `_as` raises
    return [_as_one_of(item, of) for item in items]


def _as_table(value: object, names: Any, values: Any) -> dict[object, object]:
    """Return a table as a dict of what an annotation allows in it."""
    if not isinstance(value, Mapping):
        raise ValueError  # noqa: TRY004  # what `_as` raises
    return {_as_one_of(name, names): _as_one_of(item, values) for name, item in value.items()}


def _as(value: object, choice: Any) -> object:
    """Return `value` as one alternative of an annotation, or raise `ValueError`."""
    text = value.strip() if isinstance(value, str) else None
    if get_origin(choice) is Literal:
        if value in get_args(choice):
            return value
    elif choice is type(None):
        if value is None or (text is not None and text.lower() == "none"):
            return None
    elif choice is bool:
        if isinstance(value, bool):
            return value
        if text is not None and text.lower() in _BOOLEANS:
            return _BOOLEANS[text.lower()]
    elif choice in (int, float):
        if text is not None:
            return choice(text)
        number = plain_integer(value) if choice is int else plain_number(value)
        if number is not None:
            return choice(number)
    else:
        return _as_instance(value, choice)
    raise ValueError


def _as_instance(value: object, choice: Any) -> object:
    if choice is Path and isinstance(value, str | os.PathLike):
        return Path(value)
    if not inspect.isclass(choice) or isinstance(value, choice):
        return value  # of what is no class, such as `Callable[[], int]`, the constructor knows
    raise ValueError


def _described(choices: Sequence[Any]) -> str:
    words: list[str] = []
    for choice in choices:
        if choice is Path and str in choices:
            continue
        if get_origin(choice) is Literal:
            words += [repr(word) for word in get_args(choice)]
        elif choice is type(None):
            words.append("none")
        elif get_origin(choice) in _LISTS:
            words.append("a list")
        elif get_origin(choice) in _TABLES:
            words.append("a table")
        else:
            words.append(getattr(choice, "__name__", str(choice)))
    return " or ".join(words)
