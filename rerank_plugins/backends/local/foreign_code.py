"""Python code that a model takes from other repositories of the hub (`auto_map`)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from rerank_plugins.errors import ConfigError

__all__ = ["check_kernels", "code_repositories", "parse_code_revisions", "pinned"]

_PINNED = re.compile(r"([\w.-]+/[\w.-]+)@([0-9a-f]{40})")


_IMPLEMENTATION = "_implementation"
"""How the settings end that say which code computes a part, such as `attn_implementation`."""


def check_kernels(where: str, config: Mapping[str, Any]) -> None:
    """Check that `config.json` takes no compiled code from a repository.

    transformers would fetch and run it wherever the package `kernels` is installed, whether or not
    a model may run code.

    Args:
        where: what messages call the model.
        config: the content of the file.

    Raises:
        ConfigError: it does; the message names the repository.
    """
    waiting: list[tuple[str, object]] = [*config.items()]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, Mapping):  # a part of a model, or an implementation for each part
            inner = name if name.endswith(_IMPLEMENTATION) else ""
            waiting += [(inner or str(each), content) for each, content in value.items()]
        elif name.endswith(_IMPLEMENTATION) and isinstance(value, str) and "/" in value:
            raise ConfigError(
                f"config.json of {where} takes compiled code from the repository {value!r:.100} "
                f"({name}), which nothing pins; remove that line"
            )


def code_repositories(*configs: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the ids of the repositories, other than the model's own, whose code it runs."""
    references = (each for config in configs for each in _references(config.get("auto_map")))
    return tuple(sorted({each.partition("--")[0] for each in references if "--" in each}))


def parse_code_revisions(text: str | None) -> dict[str, str]:
    """Read `"OWNER/NAME@COMMIT"`, or several with commas between them.

    Raises:
        ConfigError: a part is something else.
    """
    revisions: dict[str, str] = {}
    for part in text.split(",") if text else ():
        found = _PINNED.fullmatch(part.strip())
        if found is None:
            raise ConfigError(
                "`code_revisions` must be repositories with the commit of each that you have read, "
                f"as in 'OWNER/NAME@COMMIT' (40 hexadecimal digits), not {part!r}"
            )
        revisions[found[1]] = found[2]
    return revisions


def pinned(model: str, repositories: tuple[str, ...], revisions: Mapping[str, str]) -> None:
    """Check that every repository whose code runs has a commit, and no other has.

    Raises:
        ConfigError: one has none, or a commit is for a repository that the model does not name.
    """
    for name in repositories:
        if name not in revisions:
            raise ConfigError(
                f"{model!r} takes its Python code from the repository {name!r}; read it, and name "
                f"the commit that you have read: code_revisions='{name}@COMMIT'"
            )
    for name in revisions:
        if name not in repositories:
            named = ", ".join(map(repr, repositories)) or "none"
            raise ConfigError(
                f"`code_revisions` names {name!r}, and {model!r} takes no code from there; other "
                f"repositories that it names: {named}"
            )


def _references(auto_map: object) -> Iterator[str]:
    """Yield `"module.Class"` or `"owner/name--module.Class"`; a tokenizer has a list of two."""
    for value in auto_map.values() if isinstance(auto_map, Mapping) else ():
        for each in value if isinstance(value, list) else (value,):
            if isinstance(each, str):
                yield each
