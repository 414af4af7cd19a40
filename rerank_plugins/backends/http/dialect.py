"""`Dialect`: the protocol of one kind of rerank server, as data and pure functions.

Importing this module is cheap.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias
from urllib.parse import SplitResult, quote, urlsplit

from rerank_plugins.backends.http.decoding import decode_results, decode_usage
from rerank_plugins.backends.http.text_prompt import TextPrompt
from rerank_plugins.errors import ConfigError
from rerank_plugins.scores import Scale, Usage

__all__ = ["Dialect", "Fields"]

Fields: TypeAlias = Mapping[str, object]

_VERSION = re.compile(r"v\d+")
_RERANK_PATH = re.compile(r".*/(rerank|reranks|reranking|ranking|text-rerank)")
_MODEL = "{model}"


def _as_documents(query: str, documents: Sequence[str]) -> Fields:
    return {"query": query, "documents": documents}


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """The protocol of one kind of rerank server, as data and pure functions.

    No dialect sends null or `max_chunks_per_doc`, nor `top_n` unless told: servers disagree on each
    of them, and we match scores by index and cut the ranking ourselves.
    """

    name: str
    """The kind of server, as in a spec."""
    path: str
    """The path of rerank requests below the base URL; `{model}` in it stands for the model's name,
    which the body then lacks."""
    scale: Scale
    """The scale of the scores that the server sends."""
    key_variables: tuple[str, ...] = ()
    """Environment variables that usually hold the key."""
    key_header: str = "Authorization"
    """The header that holds the key."""
    key_prefix: str = "Bearer "
    """What stands before the key in that header."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of every request, such as the version of the protocol; a user's own replace them."""
    base_url: str | None = None
    """The vendor's own address; None where users run the server themselves."""
    needs_model: bool = True
    """Whether a request must name a model."""
    max_documents: int | None = None
    """Maximum documents in one request."""
    max_characters: int | None = None
    """Longest document; longer ones are cut here, far beyond where the model would cut."""
    blank: str = " "
    """What is sent in place of a blank document."""
    repeats_query: bool = False
    """Whether a request holds the query once for each document."""
    # Factories: as plain defaults, functions would look like methods of the class.
    shape: Callable[[str, Sequence[str]], Fields] = field(default_factory=lambda: _as_documents)
    """Lays out the query and the documents."""
    always: Fields = field(default_factory=dict)
    """Fields of every request: they make the server cut a text that is too long, not refuse it."""
    raw: Fields = field(default_factory=dict)
    """Fields that make the server send logits; empty if it has no such switch."""
    instruct: Callable[[str], Fields] | None = None
    """Lays out an instruction for the model; None if the server has no field for it."""
    in_query: Callable[[str, str], str] | None = None
    """Writes an instruction and a query into one query, for models that read it there."""
    prompts_by: Literal["client", "nobody", "server"] = "server"
    """Who writes the prompt of a language model around the texts: the client, by the option
    `template`, where the server sends them to the model as they come; nobody, where it changes
    them so that no prompt survives."""
    prompt: TextPrompt | None = None
    """The prompt around the texts, which then holds the instruction too; None: there is none."""
    values_per_document: int = 256
    """How many JSON values a response may hold for each document, and 1,024 besides."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What else makes the scores, for the name of a backend."""
    one_of: tuple[str, ...] = ()
    """Fields of `always` that say the same: a server may refuse all of them but one."""
    decode: Callable[[Any, int], Sequence[float]] = field(default_factory=lambda: decode_results)
    """Reads the scores from the parsed response to this number of documents."""
    usage: Callable[[Any], Usage | None] = field(default_factory=lambda: decode_usage)
    """Reads the usage from the parsed response; None if it holds none."""

    @property
    def takes_instructions(self) -> bool:
        """Whether an instruction can be sent."""
        if self.prompt is not None:
            return self.prompt.takes_instruction
        return self.instruct is not None or self.in_query is not None

    def rerank_url(self, base_url: str, model: str | None = None) -> str:
        """Return the URL of rerank requests: `base_url` and the path, overlaps merged.

        A base URL may end in a slash, in a gateway's prefix, in a version (`…/v1`) that replaces
        the path's version, or be the whole rerank URL.

        Raises:
            ConfigError: it is not an http(s) URL, or holds a user name, a query or a fragment.
        """
        url = _split(base_url)
        if url is None:
            shown = base_url.partition("?")[0].rpartition("@")[2]
            raise ConfigError(f"`base_url` must be like https://host:port/prefix, not {shown!r}")
        if "@" in url.netloc or url.query or url.fragment:
            raise ConfigError(
                f"`base_url` for {url.hostname!r} must hold neither a user name nor a query nor a "
                "fragment; keys come from the environment (`api_key_env`)"
            )
        base = url.path.rstrip("/")
        if _RERANK_PATH.fullmatch(base):
            return url._replace(path=base).geturl()
        own_path = self.path.replace(_MODEL, quote(model or "", safe="/"))
        prefix, path = base.split("/")[1:], own_path.split("/")[1:]
        for size in range(min(len(prefix), len(path)), 0, -1):
            if prefix[-size:] == path[:size]:
                del path[:size]
                break
        else:
            if prefix and _VERSION.fullmatch(prefix[-1]) and _VERSION.fullmatch(path[0]):
                del path[0]
        return url._replace(path="/".join(["", *prefix, *path])).geturl()

    def encode(
        self,
        query: str,
        documents: Sequence[str],
        *,
        model: str | None = None,
        instruction: str | None = None,
        raw: bool = False,
    ) -> Fields:
        """Return the request's body as plain data, ready for JSON."""
        if self.prompt is not None:
            prompt = self.prompt.with_instruction(instruction) if instruction else self.prompt
            query, documents = prompt.wrap(query, documents)
            instruction = None
        if instruction and self.in_query:
            query = self.in_query(instruction, query)
        return {
            **({} if model is None or _MODEL in self.path else {"model": model}),
            **self.shape(query, documents),
            **self.always,
            **(self.raw if raw else {}),
            **(self.instruct(instruction) if self.instruct and instruction else {}),
        }


def _split(base_url: str) -> SplitResult | None:
    """Return the parts of an http(s) URL; None if it is something else."""
    try:
        url = urlsplit(base_url)
        usable = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:  # the port or an IPv6 address
        return None
    return url if usable else None
