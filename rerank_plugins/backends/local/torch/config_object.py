"""A configuration of ours as one of transformers'."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers

__all__ = ["config_object"]


def config_object(values: Mapping[str, Any]) -> Any:
    """Return the configuration that transformers can't read from the model's folder itself.

    Args:
        values: as `native_config()` returns them, with their `model_type`.
    """
    rest = dict(values)
    return transformers.AutoConfig.for_model(rest.pop("model_type"), **rest)
