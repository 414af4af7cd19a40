"""Writes docs/reference.md, the list of all that is public, from the docstrings.

python -m tests.integration.docs.reference
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from types import GenericAlias, ModuleType
from typing import Any, is_typeddict

from tests.support.places import ROOT

PAGE = ROOT / "docs" / "reference.md"
PUBLIC = (
    "rerank_plugins",
    "rerank_plugins.backend",
    "rerank_plugins.content",
    "rerank_plugins.scores",
    "rerank_plugins.ranking",
    "rerank_plugins.errors",
    "rerank_plugins.result",
    "rerank_plugins.spec",
    "rerank_plugins.langchain",
    "rerank_plugins.llama_index",
    "rerank_plugins.backends.embedded",
    "rerank_plugins.backends.bedrock",
    "rerank_plugins.backends.chat",
    "rerank_plugins.backends.http",
    "rerank_plugins.backends.local",
    "rerank_plugins.wrappers.base",
    "rerank_plugins.wrappers.batching",
    "rerank_plugins.wrappers.breaker",
    "rerank_plugins.wrappers.cache",
    "rerank_plugins.wrappers.calibrated",
    "rerank_plugins.wrappers.ensemble",
    "rerank_plugins.wrappers.fallback",
    "rerank_plugins.wrappers.instrument",
    "rerank_plugins.wrappers.long_documents",
    "rerank_plugins.wrappers.process",
    "rerank_plugins.wrappers.retry",
    "rerank_plugins.wrappers.stores",
    "rerank_plugins.hooks",
    "rerank_plugins.hooks.logging",
    "rerank_plugins.hooks.opentelemetry",
    "rerank_plugins.hooks.prometheus",
    "rerank_plugins.scheduler",
    "rerank_plugins.evaluation",
    "rerank_plugins.evaluation.calibration",
    "rerank_plugins.bench",
    "rerank_plugins.server",
    "rerank_plugins.testing",
)
"""The public modules, as the page lists them: what the user types first."""

HEAD = """# Reference

All that is public, from the docstrings. Import each name from the module that lists it. Everything
else is internal, whether or not its name starts with an underscore, and may change in any release.
`help(NAME)` in Python shows the whole docstring: arguments, order, units and errors.

This page is written by `python -m tests.integration.docs.reference`.
"""


def page() -> str:
    """Return the whole page."""
    return "\n".join([HEAD, *(section(importlib.import_module(name)) for name in PUBLIC)])


def section(module: ModuleType) -> str:
    """Return the part of the page about one module."""
    lines = [f"## `{module.__name__}`", "", first_line(module.__doc__), ""]
    for name in module.__all__:
        value = getattr(module, name)
        lines.append(f"- **`{name}{signature(value)}`**: {summary(module, name)}")
        if inspect.isclass(value) and module.__name__ != PUBLIC[0]:  # there it is a list of names
            lines += [f"  - `{method}`: {text}" for method, text in methods(value)]
    return "\n".join([*lines, ""])


def summary(module: ModuleType, name: str) -> str:
    """Return the first line of a public name's documentation, or ""."""
    value = getattr(module, name)
    if inspect.isclass(value) or inspect.isroutine(value):
        return first_line(value.__doc__ if inspect.isroutine(value) else own_doc(value))
    return first_line(constants(home(module, name)).get(name))


def own_doc(value: type) -> str | None:
    """Return the docstring of a class, not the one that `@dataclass` makes of its fields."""
    doc = value.__dict__.get("__doc__")
    return None if doc is None or doc.startswith(f"{value.__name__}(") else doc


def home(module: ModuleType, name: str) -> ModuleType:
    """Return the module that defines what `module` exports."""
    for node in syntax(module).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    return home(importlib.import_module(node.module), alias.name)
    return module


def constants(module: ModuleType) -> dict[str, str]:
    """Return the string under each assignment of a module, by the name that is assigned."""
    texts = {}
    body = syntax(module).body
    for node, after in itertools.pairwise(body):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and isinstance(after, ast.Expr):
            texts[target.id] = ast.literal_eval(after.value)
    return texts


@functools.cache
def syntax(module: ModuleType) -> ast.Module:
    """Parse the source of a module."""
    return ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))


def methods(value: type) -> Iterator[tuple[str, str]]:
    """Yield the public methods and properties that a class adds, each with its first line."""
    for name, member in vars(value).items():
        function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if name.startswith("_"):
            continue
        if isinstance(member, property | functools.cached_property):
            text, shown = first_line(member.__doc__), name
        elif inspect.isfunction(function) and function.__module__ == value.__module__:
            text, shown = first_line(function.__doc__), name + signature(function, method=True)
        else:
            continue
        if text:  # an override keeps its parent's contract
            yield shown, text


def signature(value: Any, *, method: bool = False) -> str:
    """Return the parameters of a function or a class, with defaults and without types."""
    is_class = isinstance(value, type) and not isinstance(value, GenericAlias)
    if not is_class and not inspect.isroutine(value):
        return ""
    if is_class and (issubclass(value, BaseException) or is_protocol(value)):
        return ""
    try:
        parameters = [*inspect.signature(value).parameters.values()]
    except ValueError:  # a class whose constructor is written in C
        return ""
    return f"({', '.join(shown(parameters[method:]))})"


def is_protocol(value: type) -> bool:
    """Say whether a class is a type that others fulfil, or of a mapping's keys."""
    return getattr(value, "_is_protocol", False) or is_typeddict(value)


def shown(parameters: list[inspect.Parameter]) -> Iterator[str]:
    """Yield the parameters as Python writes them."""
    keywords = False
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            keywords = True
            yield f"*{parameter.name}"
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not keywords:
            keywords = True
            yield "*"
        stars = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
        yield stars + parameter.name + default(parameter.default)


def default(value: object) -> str:
    """Return `=VALUE`, where that is short and the same in every run."""
    if value is inspect.Parameter.empty:
        return ""
    plain = value is None or isinstance(value, bool | int | float | str | tuple)
    return f"={value!r}" if plain and len(repr(value)) <= 20 else "=…"


def first_line(doc: str | None) -> str:
    """Return the first line of a docstring, as Markdown takes it."""
    return re.sub(r"([<>|])", r"\\\1", inspect.cleandoc(doc or "").partition("\n")[0])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
