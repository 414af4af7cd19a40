"""Models that read each text alone: late interaction and embedding models, from their files."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from rerank_plugins.backends.local.module_chain import (
    MASK,
    ListedModule,
    ModuleChain,
    Read,
    is_pylate,
)
from rerank_plugins.errors import ConfigError

__all__ = ["METADATA", "BiEncoder", "Expansion", "TextFormat", "is_stanford", "read_bi_encoder"]

Similarity: TypeAlias = Literal["cosine", "dot", "maxsim", "meanmaxsim"]
"""How the vectors of a query and of a document make a score.

`"maxsim"` adds up the best products of each of the query's vectors, `"meanmaxsim"` averages them.
"""

METADATA = "artifact.metadata"
"""The settings of a checkpoint of Stanford's ColBERT, in JSON."""

_PASSAGE_PROMPTS = ("document", "passage", "corpus")
"""What the prompt of documents is called, the first that holds a text first."""
_QUERY_LENGTH = 32
"""Tokens of a query in ColBERT, where the files say none."""
_STRATEGIES = ("fixed", "min")


@dataclass(frozen=True, slots=True)
class Expansion:
    """How short queries are filled up with mask tokens, which are compared, too."""

    length: int
    """Tokens to fill up to."""
    attend: bool
    """Whether the query's tokens see the ones that fill it up."""
    token: str | None
    """What fills it up; None: the tokenizer's mask, or its end of a text."""
    cuts: bool
    """Whether longer queries are cut to that length."""


@dataclass(frozen=True, slots=True)
class TextFormat:
    """How texts of one role, queries or documents, are read."""

    prompt: str = ""
    """What stands before the text."""
    max_length: int | None = None
    """The most tokens, special ones and the prompt included; None: as the model can read."""
    expansion: Expansion | None = None
    """How short texts are filled up; None: they are not."""
    skipped: tuple[str, ...] = ()
    """Tokens that are read, and not compared."""
    only: frozenset[int] | None = None
    """The ids of the tokens that are compared; None: all."""

    @property
    def hides_tokens(self) -> bool:
        """Whether the tokens of a text may not see those that fill it up."""
        return self.expansion is not None and not self.expansion.attend

    def longest(self, limit: int) -> int:
        """Return the most tokens of a text.

        Args:
            limit: the same where the files do not say it.
        """
        length = self.max_length or limit
        if self.expansion is None:
            return length
        return self.expansion.length if self.expansion.cuts else max(length, self.expansion.length)


@dataclass(frozen=True, slots=True)
class BiEncoder:
    """How texts are read, and how their vectors are compared."""

    method: Literal["late interaction", "embedding model"]
    similarity: Similarity
    query: TextFormat
    document: TextFormat
    markers: tuple[str, ...] = ()
    """Prompts that are one token of the vocabulary, wherever the tokenizer would split them."""


def is_stanford(config: Mapping[str, Any]) -> bool:
    """Whether `config.json` is that of a checkpoint of Stanford's ColBERT."""
    return "HF_ColBERT" in (config.get("architectures") or ())


def read_bi_encoder(
    model: str, modules: Sequence[ListedModule], chain: ModuleChain, read: Read
) -> BiEncoder:
    """Read how texts become vectors, and these become a score.

    Args:
        model: what to call the model in messages.
        modules: what `modules.json` lists; empty for a checkpoint of Stanford's ColBERT.
        chain: those modules, read.
        read: gives another JSON file of the checkpoint.

    Raises:
        ConfigError: a setting is malformed, or can't be run here; the message names it.
    """
    settings = read("config_sentence_transformers.json") or {}
    body = read("sentence_bert_config.json") or {}
    try:
        if not modules:
            return _stanford(read(METADATA) or {})
        _check_plain(body)
        if chain.pooling != "tokens":
            return _embedding_model(chain, settings)
        if is_pylate(modules, read):
            return _pylate(settings)
        masks = [module for module in modules if module.kind == MASK]
        mask = read(f"{masks[0].folder}/config.json") or {} if masks else {}
        return _multi_vector(settings, body, mask)
    except ValueError as exc:
        raise ConfigError(f"{model!r} {exc}, which this package can't run") from exc


def _check_plain(body: Mapping[str, Any]) -> None:
    if "message" in (body.get("modality_config") or {}):
        raise ValueError("reads texts through a chat template (modality_config)")


def _embedding_model(chain: ModuleChain, settings: Mapping[str, Any]) -> BiEncoder:
    kind = settings.get("model_type")
    if kind not in (None, "SentenceTransformer"):
        raise ValueError(f"pools its tokens and calls itself a {kind!r}")
    similarity = settings.get("similarity_fn_name") or "cosine"
    if similarity not in ("cosine", "dot"):
        raise ValueError(f"compares vectors by {similarity!r} (similarity_fn_name)")
    query, document = _prompts(settings)
    if (query or document) and not chain.include_prompt:
        raise ValueError("leaves its prompts out of the Pooling (include_prompt)")
    return BiEncoder(
        "embedding model",
        cast("Similarity", similarity),
        TextFormat(query),
        TextFormat(document),
    )


def _multi_vector(
    settings: Mapping[str, Any], body: Mapping[str, Any], mask: Mapping[str, Any]
) -> BiEncoder:
    """Read what sentence-transformers saves of a `MultiVectorEncoder`."""
    query, document = _prompts(settings)
    skipped = _words(mask.get("skiplist_words"))
    tasks, only = mask.get("skiplist_tasks"), mask.get("keep_only_token_ids")
    if not isinstance(tasks, list | str | None) or not isinstance(only, list | None):
        raise ValueError(  # noqa: TRY004 - told as a ConfigError
            f"has skiplist_tasks={repr(tasks)[:100]}, keep_only_token_ids={repr(only)[:100]}"
        )
    tasks = ["document"] if tasks is None else [tasks] if isinstance(tasks, str) else tasks
    return _late_interaction(
        settings,
        TextFormat(
            query,
            _length("query_length", body.get("query_length")),
            _expansion(body.get("query_expansion")),
            skipped if "query" in tasks else (),
        ),
        TextFormat(
            document,
            _length("document_length", body.get("document_length")),
            None,
            skipped if "document" in tasks else (),
            frozenset(map(int, only)) if only else None,
        ),
    )


def _pylate(settings: Mapping[str, Any]) -> BiEncoder:
    """Read what PyLate saves: markers, lengths and the skip list beside the prompts."""
    texts = _prompts(settings)
    prefixes = [str(settings.get(f"{role}_prefix") or "") for role in ("query", "document")]
    query, document = (
        prefix + text.removeprefix(prefix) for prefix, text in zip(prefixes, texts, strict=True)
    )
    length = _length("query_length", settings.get("query_length"))
    expansion = None
    if settings.get("do_query_expansion") is not False:
        attend = settings.get("attend_to_expansion_tokens", settings.get("attend_to_mask_tokens"))
        expansion = Expansion(length or _QUERY_LENGTH, bool(attend), None, cuts=True)
    skipped = settings.get("skiplist_words")
    return _late_interaction(
        settings,
        TextFormat(query, length, expansion),
        TextFormat(
            document,
            _length("document_length", settings.get("document_length")),
            skipped=tuple(string.punctuation) if skipped is None else _words(skipped),
        ),
        tuple(filter(None, prefixes)),
    )


def _stanford(metadata: Mapping[str, Any]) -> BiEncoder:
    """Read the settings of Stanford's ColBERT; it fills up every query."""
    query, document = (
        f"{metadata.get(name) or usual} "
        for name, usual in (("query_token_id", "[unused0]"), ("doc_token_id", "[unused1]"))
    )
    length = _length("query_maxlen", metadata.get("query_maxlen")) or _QUERY_LENGTH
    expansion = Expansion(length, bool(metadata.get("attend_to_mask_tokens")), None, cuts=True)
    skips = metadata.get("mask_punctuation", True)
    return _late_interaction(
        {},
        TextFormat(query, length, expansion),
        TextFormat(
            document,
            _length("doc_maxlen", metadata.get("doc_maxlen")),
            skipped=tuple(string.punctuation) if skips else (),
        ),
        (query, document),
    )


def _late_interaction(
    settings: Mapping[str, Any],
    query: TextFormat,
    document: TextFormat,
    markers: tuple[str, ...] = (),
) -> BiEncoder:
    averages = settings.get("similarity_fn_name") == "meanmaxsim"
    similarity: Similarity = "meanmaxsim" if averages else "maxsim"
    return BiEncoder("late interaction", similarity, query, document, markers)


def _prompts(settings: Mapping[str, Any]) -> tuple[str, str]:
    """Return the texts before queries and before documents."""
    prompts = settings.get("prompts") or {}
    if not isinstance(prompts, Mapping):
        raise ValueError(f"has prompts={prompts!r}")  # noqa: TRY004 - told as a ConfigError
    document = next(filter(None, map(prompts.get, _PASSAGE_PROMPTS)), "")
    return str(prompts.get("query") or ""), str(document)


def _length(name: str, value: object) -> int | None:
    if value is None:
        return None
    if type(value) is not int or value < 1:
        raise ValueError(f"has {name}={value!r}")
    return value


def _words(words: object) -> tuple[str, ...]:
    if not isinstance(words, list | None) or not all(isinstance(word, str) for word in words or ()):
        raise ValueError(f"has skiplist_words={repr(words)[:100]}")
    return tuple(words or ())


def _expansion(value: object) -> Expansion | None:
    if value is None:
        return None
    settings = value if isinstance(value, Mapping) else {}
    length, token = settings.get("length"), settings.get("token")
    if settings.get("strategy") not in _STRATEGIES or not isinstance(token, str | None):
        raise ValueError(f"has query_expansion={value!r}")
    if _length("the length of query_expansion", length) is None:
        raise ValueError(f"has query_expansion={value!r} without its length")
    return Expansion(
        cast("int", length), settings.get("attend") is True, token, settings["strategy"] == "fixed"
    )
