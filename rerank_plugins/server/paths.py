"""Which path of the server a client means, and which paths there are."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import dropwhile
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["PathMiddleware", "meant_path", "public_paths", "route_path"]

_VERSIONS = ("v1", "v2")
_RERANK = ("rerank", "reranking")
"""What the last part of a client's path is; llama.cpp has both."""
_MODEL = "/v1/models/"


class PathMiddleware:
    """Leads clients whose base URL has a part too many or too few to the path that they mean.

    It stands before the check of keys, which so sees the path that the router sees.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = route_path(scope)
            meant = meant_path(path)
            if meant != path:
                scope = {**scope, "path": scope["path"].removesuffix(path) + meant}
        await self._app(scope, receive, send)


def route_path(scope: Scope) -> str:
    """Return the path below the place where the application is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


def meant_path(path: str) -> str:
    """Return the path that a client means by one with doubled, missing or empty parts.

    `/v1/v2/rerank` means `/v2/rerank`, `/models` means `/v1/models`, and `//v1/rerank/` means
    `/v1/rerank`. All other paths have one spelling, by which a proxy in front can deny them.
    """
    if path.startswith(_MODEL) and path != _MODEL:  # the rest is a name, with parts of its own
        return path
    parts = [part for part in path.split("/") if part]
    versions = [part for part in parts if part in _VERSIONS]
    if parts and parts[-1] in _RERANK and all(part in _VERSIONS + _RERANK for part in parts):
        return "/".join(["", *versions[-1:], "rerank"])
    rest = [*dropwhile(_VERSIONS.__contains__, parts)]
    if rest[:1] == ["models"] or rest == ["cluster", "auth"]:
        return "/".join(["", "v1", *rest])
    return path


def public_paths(openapi: Mapping[str, Any]) -> dict[str, str]:
    """Return what each method and path of an OpenAPI does, under names as `POST /v1/rerank`."""
    return {
        f"{method.upper()} {path}": operation["summary"]
        for path, operations in openapi["paths"].items()
        for method, operation in operations.items()
    }
