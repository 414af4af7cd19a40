"""The page at `/ui`, which ranks a query's documents and compares backends."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

from rerank_plugins.server.folders import without_folders
from rerank_plugins.server.lifecycle import Lifecycle
from rerank_plugins.server.rerank import RerankHandler
from rerank_plugins.server.responses import json_response
from rerank_plugins.server.routes import RerankRoute
from rerank_plugins.server.settings import ServerSettings

__all__ = ["ui_routes"]

_INLINE = re.compile(rb"<(script|style)>(.*?)</\1>", re.DOTALL)


@cache
def _page() -> tuple[bytes, dict[str, str]]:
    """Return the page and its headers.

    The policy lets it run its own script and style, known by their hashes, and talk to its own
    server. It loads nothing, frames nothing and can't turn text into markup.
    """
    body = Path(__file__).with_name("ui.html").read_bytes()
    hashes = {
        tag.decode(): f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"
        for tag, text in _INLINE.findall(body)
    }
    policy = (
        "default-src 'none'",
        "connect-src 'self'",
        f"script-src {hashes['script']}",
        f"style-src {hashes['style']}",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
    return body, {
        "Content-Security-Policy": "; ".join(policy),
        "Cache-Control": "no-cache",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


def ui_routes(lifecycles: Sequence[Lifecycle], settings: ServerSettings) -> APIRouter:
    """Return the page and what it fetches: the list of backends, and their scores.

    The page holds no secret and needs no key; what it fetches does.

    Args:
        lifecycles: that of the server's backend, then those of the backends to compare with.
        settings: the server's; the same limits hold for all.
    """
    router = APIRouter(include_in_schema=False)

    @router.get("/ui")
    async def page() -> Response:
        body, headers = _page()
        return Response(body, headers=headers, media_type="text/html; charset=utf-8")

    paths = ["v1/rerank", *(f"ui/rerank/{number}" for number in range(1, len(lifecycles)))]

    @router.get("/ui/backends")
    async def backends() -> Response:
        names = [lifecycle.model_names()[0] for lifecycle in lifecycles]
        for number, spec in enumerate(settings.compare, start=1):
            if names[number] in names[:number]:  # the same model with other options
                names[number] = without_folders(spec)
        listed = [{"name": name, "path": path} for name, path in zip(names, paths, strict=True)]
        ready = lifecycles[0].why_not_ready() is None
        return json_response({"backends": listed, "ready": ready})

    for path, lifecycle in zip(paths[1:], lifecycles[1:], strict=True):
        router.add_api_route(
            f"/{path}",
            RerankHandler(lifecycle, settings).rerank,
            methods=["POST"],
            route_class_override=RerankRoute,
        )
    return router
