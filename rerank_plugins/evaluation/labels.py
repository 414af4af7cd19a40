"""Labels of the backends in an evaluation or a comparison."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from rerank_plugins.backend import Backend
from rerank_plugins.errors import ConfigError
from rerank_plugins.spec import BackendSpec

__all__ = ["label_backends"]


def label_backends(
    backends: Iterable[BackendSpec] | Mapping[str, BackendSpec],
) -> dict[str, BackendSpec]:
    """Give each backend a unique label: the one in the mapping, else its spec or its name.

    Args:
        backends: label → backend or spec, or several without labels, or a single one.

    Raises:
        ConfigError: there is none, or two have the same label.
    """
    if isinstance(backends, Mapping):
        labels = dict(backends)
    else:
        if isinstance(backends, str | os.PathLike | Backend):
            backends = [backends]
        elif not isinstance(backends, Iterable):
            raise ConfigError(
                "`backends` must be a list of backends or specs, or a mapping from labels to "
                f"them, not `{type(backends).__name__}`"
            )
        labels = {}
        for number, spec in enumerate(backends, start=1):
            label = _label(spec, number)
            if label in labels:
                raise ConfigError(
                    f"the backend {label!r} appears twice; remove one, or label them with a "
                    "mapping: {'a label': spec}"
                )
            labels[label] = spec
    if not labels:
        raise ConfigError("there is no backend; give at least one, as in ['embedded']")
    return labels


def _label(spec: BackendSpec, number: int) -> str:
    if isinstance(spec, Backend):
        return spec.name
    if spec is None:
        return "default"
    return f"backend {number}" if isinstance(spec, Mapping) else str(spec)
