"""From the words that answer a prompt to the ids of their tokens."""

from __future__ import annotations

from typing import Any

from rerank_plugins.backends.local.checkpoint import Checkpoint
from rerank_plugins.errors import ConfigError

__all__ = ["answer_token_ids"]


def answer_token_ids(checkpoint: Checkpoint, tokenizer: Any) -> list[int]:
    """Return the tokens whose logits make the score: true and false, or true alone, or none.

    Args:
        checkpoint: names the words.
        tokenizer: a `tokenizers.Tokenizer`.

    Raises:
        ConfigError: a word is not one token.
    """
    if checkpoint.answer_tokens is None:
        return []
    words = [
        ("true_token", checkpoint.answer_tokens.true),
        ("false_token", checkpoint.answer_tokens.false),
    ]
    return [_id(option, word, tokenizer) for option, word in words if word is not None]


def _id(option: str, word: str | int, tokenizer: Any) -> int:
    if isinstance(word, int):
        return word
    known: int | None = tokenizer.token_to_id(word)
    if known is not None:
        return known
    ids: list[int] = tokenizer.encode(word, add_special_tokens=False).ids
    if len(ids) != 1:
        raise ConfigError(
            f"`{option}` must be one token of the model's tokenizer, and {word!r} is {len(ids)}; "
            "check `template` and the model's card"
        )
    return ids[0]
