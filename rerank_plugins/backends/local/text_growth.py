"""How much longer a tokenizer may make a text before it cuts it into tokens, and how it cuts it."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from rerank_plugins.errors import ConfigError

__all__ = ["check_growth"]

_MOST = 1_000
"""Times, or characters put before a text; real ones write a few characters for one."""
_USUAL_REPLACEMENT = 64
"""Bytes that a table of characters may write for one: what Unicode has for one takes up to 33."""
_MOST_STEPS = 100
_DOUBLING = ("ByteLevel", "Metaspace")
"""Steps that may write two characters for one."""

_LONGEST_WORD = 500
"""Characters; usual are 100. WordPiece takes the cube of it for a word."""
_LONGEST_PIECE = 128
"""Characters; usual are 16. Unigram compares so many at each place of a text."""
_LONGEST_AFFIX = 100
_AFFIXES = ("continuing_subword_prefix", "end_of_word_suffix")
"""What stands before or behind each piece of a word; usual are `##` and `</w>`."""


def check_growth(tokenizer: Any) -> None:
    """Check that a tokenizer makes neither gigabytes nor hours of work of a short text.

    The regular expressions in it are not looked at: how long one takes can't be told.

    Args:
        tokenizer: a `tokenizers.Tokenizer`.

    Raises:
        ConfigError: it makes a text far longer than any real one does, in far more steps, or cuts
            it into far longer pieces.
    """
    steps = [*_steps(tokenizer.normalizer), *_steps(tokenizer.pre_tokenizer)]
    if len(steps) > _MOST_STEPS:
        raise ConfigError(
            f"the tokenizer changes a text in {len(steps)} steps, and none has more than "
            f"{_MOST_STEPS}; it is damaged"
        )
    growth = math.prod(map(_growth, steps))
    before = sum(len(_text(step, "prepend")) for step in steps)
    if max(growth, before) > _MOST:
        raise ConfigError(
            "the normalizer of the tokenizer makes a text more than "
            f"{_MOST} times as long, or puts as many characters before it; it is damaged"
        )
    _check_pieces(tokenizer.model)


def _steps(part: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the settings of a part of a tokenizer, or of those that it is made of."""
    waiting = [] if part is None else [json.loads(part.__getstate__())]
    while waiting:
        step = waiting.pop()
        if isinstance(step, Mapping):
            yield step
            waiting += step.get("normalizers") or step.get("pretokenizers") or ()


def _growth(step: Mapping[str, Any]) -> int:
    """Return how many characters a step may write for one."""
    if step.get("type") in _DOUBLING:
        return 2
    longest = _longest_in_table(_text(step, "precompiled_charsmap"))
    if longest > _USUAL_REPLACEMENT:
        return longest
    return max(len(_text(step, "content")), 1)


def _longest_in_table(encoded: str) -> int:
    """Return the length of the longest text that a table of SentencePiece writes for another.

    The table is the size of an index, the index, and the texts with a zero behind each.
    """
    table = base64.b64decode(encoded)
    texts = table[4 + int.from_bytes(table[:4], "little") :]
    return max(map(len, texts.split(b"\0")))


def _text(step: Mapping[str, Any], name: str) -> str:
    text = step.get(name)
    return text if isinstance(text, str) else ""


def _check_pieces(model: Any) -> None:
    longest_word = getattr(model, "max_input_chars_per_word", 0)
    affix = max(len(getattr(model, name, None) or "") for name in _AFFIXES)
    piece = _longest_text(model) if type(model).__name__ == "Unigram" else 0
    for what, length, most in (
        ("looks for pieces in words of", longest_word, _LONGEST_WORD),
        ("marks pieces of words by", affix, _LONGEST_AFFIX),
        ("has a piece of", piece, _LONGEST_PIECE),
    ):
        if length > most:
            raise ConfigError(
                f"the tokenizer {what} {length} characters, and none goes beyond {most}, since a "
                "long text would take hours; it is damaged"
            )


def _longest_text(model: Any) -> int:
    """Return the length of the longest text in a model: an escaped character counts as it does."""
    plain = model.__getstate__().decode().replace("\\\\", "\\").replace('\\"', "'")
    return max(map(len, plain.split('"')))
