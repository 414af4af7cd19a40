"""How much longer a tokenizer may make a text before it cuts it into tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rerank_plugins.errors import ConfigError

__all__ = ["check_growth"]

_MOST = 1_000
"""Times, or characters put before a text; real ones write a few characters for one."""


def check_growth(tokenizer: Any) -> None:
    """Check that a tokenizer does not make gigabytes of a short text.

    Args:
        tokenizer: a `tokenizers.Tokenizer`.

    Raises:
        ConfigError: what it replaces or puts before a text is far longer than in any real one.
    """
    if tokenizer.normalizer is None:
        return
    growth = longest = 1
    for step in _steps(json.loads(tokenizer.normalizer.__getstate__())):
        growth *= max(len(_text(step, "content")), 1)
        longest = max(longest, len(_text(step, "prepend")))
    if max(growth, longest) > _MOST:
        raise ConfigError(
            "the normalizer of the tokenizer makes a text more than "
            f"{_MOST} times as long, or puts as many characters before it; it is damaged"
        )


def _steps(normalizer: Any) -> Iterator[Mapping[str, Any]]:
    """Yield a normalizer, or those that it is made of, which may be so themselves."""
    waiting = [normalizer]
    while waiting:
        step = waiting.pop()
        if isinstance(step, Mapping):
            yield step
            waiting += step.get("normalizers") or ()


def _text(step: Mapping[str, Any], name: str) -> str:
    text = step.get(name)
    return text if isinstance(text, str) else ""
