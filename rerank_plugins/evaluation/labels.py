"""What the backends of an evaluation are called."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from rerank_plugins.backend import Backend
from rerank_plugins.errors import ConfigError
from rerank_plugins.spec import BackendSpec

__all__ = ["labelled"]


def labelled(
    backends: Iterable[BackendSpec] | Mapping[str, BackendSpec],
) -> dict[str, BackendSpec]:
    """Give each backend a label that is no other's: its spec or its name, unless it has one.

    Args:
        backends: label → backend or spec, or several without labels, or a single one.

    Raises:
        ConfigError: there is none, or two have the same label.
    """
    if isinstance(backends, Mapping):
        found = dict(backends)
    else:
        if isinstance(backends, str | os.PathLike | Backend):
            backends = [backends]
        elif not isinstance(backends, Iterable):
            raise ConfigError(
                "`backends` must be a list of backends or specs, or a mapping from labels to "
                f"them, not `{type(backends).__name__}`"
            )
        found = {}
        for number, spec in enumerate(backends, start=1):
            label = _label(spec, number)
            if label in found:
                raise ConfigError(
                    f"the backend {label!r} is given twice; leave one out, or label them by a "
                    "mapping: {'a label': spec}"
                )
            found[label] = spec
    if not found:
        raise ConfigError("there is no backend; give one or more, as in ['embedded']")
    return found


def _label(spec: BackendSpec, number: int) -> str:
    if isinstance(spec, Backend):
        return spec.name
    if spec is None:
        return "default"
    return f"backend {number}" if isinstance(spec, Mapping) else str(spec)
