"""One call to a rerank server: what to send, in which pieces, to whom, and what comes of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from rerank_plugins.backends.http.credentials import Credentials
from rerank_plugins.backends.http.dialects import Dialect, decode
from rerank_plugins.backends.http.endpoints import Endpoint, Endpoints
from rerank_plugins.backends.http.errors import complaint, failure, parsed
from rerank_plugins.backends.http.limits import too_large
from rerank_plugins.backends.http.responses import Reply, Request
from rerank_plugins.backends.http.splitting import Part, split, to_json
from rerank_plugins.backends.http.transport import Asking
from rerank_plugins.backends.scale import Scaling
from rerank_plugins.errors import (
    AuthenticationError,
    BackendError,
    BackendRejected,
    UnsupportedInputError,
)
from rerank_plugins.hooks import Split, Truncated
from rerank_plugins.hooks._dispatch import emit

__all__ = ["Asker"]

MAX_BODY = 1_000_000
"""Largest request in bytes, where it can be split: nginx refuses more than 1 MiB by default."""

_SUCCESS = range(200, 300)


class Asker:
    """Turns a query and documents into requests, and replies into scores; does no I/O.

    Args:
        servers: whom to ask.
        protocol: how they want to be asked.
        model: the model's name, if it is sent.
        instruction: what the model should look for.
        credentials: where the key is.
        scaling: what to make of the scores.
        max_documents: most documents in one request; None is no limit.
        listwise: whether documents must not be split.
    """

    def __init__(
        self,
        servers: Endpoints,
        *,
        protocol: Dialect,
        model: str | None,
        instruction: str | None,
        credentials: Credentials,
        scaling: Scaling,
        max_documents: int | None,
        listwise: bool,
    ) -> None:
        self._servers = servers
        self._protocol = protocol
        self._model = model
        self._instruction = instruction
        self._credentials = credentials
        self._scaling = scaling
        self.max_documents = max_documents
        self._listwise = listwise

    def parts(self, query: str, texts: Sequence[str]) -> list[Part]:
        """Split the documents into requests that the server takes."""
        longest = self._protocol.max_characters
        sent = [text[:longest] if text and not text.isspace() else " " for text in texts]
        if longest is not None and (cut := sum(len(text) > longest for text in texts)):
            emit(Truncated(cut))
        limit = self.max_documents
        if self._listwise and limit is not None and len(sent) > limit:
            raise UnsupportedInputError(
                f"{len(sent)} documents for a listwise model, which must see all of them in one "
                f"request, and that holds {limit}; pass fewer, or raise `max_documents`"
            )
        return self._pieces(query, Part(0, sent)) if sent else []

    def _pieces(self, query: str, part: Part) -> list[Part]:
        """Split a part by all the limits that are known by now."""
        if self._listwise:
            return [part]
        limits = (self.max_documents, self._servers.most("documents"))
        pieces = split(
            part,
            max_documents=min((most for most in limits if most), default=len(part.texts)),
            max_bytes=(self._servers.most("bytes") or MAX_BODY) - len(to_json(query)),
        )
        if len(pieces) > 1:
            emit(Split(self._servers.label, len(part.texts), len(pieces)))
        return pieces

    def asking(self, query: str, part: Part, deadline: float) -> Asking:
        """Score one part, in smaller pieces where a server says that it is too large."""
        pieces = self._pieces(query, part)
        if len(pieces) == 1:
            try:
                return (yield from self._piece(query, part, deadline))
            except _TooLarge as refusal:
                pieces = self._pieces(query, part)  # by what has been learned
                if len(pieces) == 1:
                    raise BackendRejected(str(refusal), status_code=refusal.status_code) from None
        scores: list[float] = []
        for piece in pieces:
            scores += yield from self.asking(query, piece, deadline)
        return scores

    def _piece(self, query: str, part: Part, deadline: float) -> Asking:
        """Ask a server, and another one if it fails; raise what the last one says."""
        tried: dict[Endpoint, str] = {}
        while True:
            try:
                with self._servers.asked(tried, len(part.texts)) as (server, told):
                    tried[server] = ""
                    request = self._encode(server, query, part.texts, told.headers)
                    now = time.monotonic()
                    # Where there is another server, a silent one gets half of the time.
                    end = now + (deadline - now) / 2 if self._servers.others(tried) else deadline
                    reply = yield request, end
                    told.status_code = reply.status
                    return self._decode(server, request, reply, query, part)
            except BackendRejected:
                raise
            except BackendError as error:
                if not self._servers.others(tried) or time.monotonic() >= deadline:
                    for earlier in filter(None, tried.values()):
                        error.add_note(earlier)
                    raise
                tried[server] = f"before that, {type(error).__name__}: {error}"

    def _encode(
        self, server: Endpoint, query: str, texts: Sequence[str], additions: Mapping[str, str]
    ) -> Request:
        body = self._protocol.encode(
            query, texts, model=self._model, instruction=self._instruction, raw=self._scaling.raw
        )
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        key = self._credentials.key()
        if key.value:
            headers["Authorization"] = f"Bearer {key.value}"
        elif self._protocol.base_url and server.url.startswith(f"{self._protocol.base_url}/"):
            raise AuthenticationError(f"{server.where}: {key.source}")
        ours = {name.lower() for name in headers}
        headers |= {name: said for name, said in additions.items() if name.lower() not in ours}
        return Request("POST", server.url, headers, to_json(body), server.where)

    def _decode(
        self, server: Endpoint, request: Request, reply: Reply, query: str, part: Part
    ) -> list[float]:
        key, sent = self._credentials.key(), [query, *part.texts]
        if reply.status not in _SUCCESS:
            error = failure(
                reply,
                where=server.where,
                key=key.value,
                key_source=key.source,
                texts=sent,
                start=part.start,
            )
            count, size = len(part.texts), len(request.body)
            refused = too_large(reply, documents=count, size=size)
            if refused is not None and count > 1 and not self._listwise:
                server.limits.learn(refused)
                raise _TooLarge(str(error), status_code=reply.status)
            raise error
        try:
            return self._scaling.applied(decode(parsed(reply), len(part.texts)))
        except BackendError as exc:
            said = complaint(reply, key=key.value, texts=sent)
            reason = f"{exc}; it says {said}" if said else str(exc)
            raise type(exc)(f"{server.where}: {reason}") from exc


class _TooLarge(BackendRejected):
    """A request that may be sent in smaller pieces; never leaves this module."""
