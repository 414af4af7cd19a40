"""The server's OpenAPI: what the routes parse by themselves, and the limits of this server."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from rerank_plugins.server.lifecycle import Lifecycle
from rerank_plugins.server.middleware import PROBES, PUBLIC
from rerank_plugins.server.schemas import AnyRerankRequest, ProblemReply, RerankRequest
from rerank_plugins.server.settings import ServerSettings

__all__ = ["describe"]

_SPACE = r"\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""What `str.isspace` knows as white space."""

_SECONDS = {"schema": {"type": "integer", "minimum": 1}}
_TEXT = {"schema": {"type": "string"}}
_HEADERS: Mapping[str, dict[str, Any]] = {
    "401": {"WWW-Authenticate": {"description": "How to authenticate.", **_TEXT}},
    "429": {
        "Retry-After": {"description": "Seconds until the next request is taken.", **_SECONDS},
        "RateLimit": {"description": "What is left, and when there is more.", **_TEXT},
        "RateLimit-Policy": {"description": "Which rate was exceeded.", **_TEXT},
    },
    "503": {"Retry-After": {"description": "Seconds after which to try again.", **_SECONDS}},
    "504": {"Retry-After": {"description": "Seconds after which to try again.", **_SECONDS}},
}


def describe(
    app: FastAPI, lifecycle: Lifecycle, settings: ServerSettings, *, needs_keys: bool
) -> None:
    """Make `app.openapi()` tell the whole truth about this server."""
    generate = app.openapi

    @lru_cache(maxsize=1)
    def described(max_length: int | None) -> dict[str, Any]:
        app.openapi_schema = None  # else it is the one of before the model was loaded
        schema = generate()
        _, found = models_json_schema(
            [(RerankRequest, "validation"), (AnyRerankRequest, "validation")],
            ref_template="#/components/schemas/{model}",
        )
        definitions = schema["components"]["schemas"]
        definitions.update(found["$defs"])
        for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own, never sent
            definitions.pop(name, None)
        for model in (RerankRequest, AnyRerankRequest):
            _limit(definitions[model.__name__]["properties"], settings, max_length)
        _limit_texts(definitions["DocumentObject"]["properties"]["text"], settings)
        if needs_keys:
            schema["components"]["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer"}
            }
        for path, operations in schema["paths"].items():
            for operation in operations.values():
                _complete(operation, path, settings, needs_keys=needs_keys)
        return schema

    app.openapi = lambda: described(lifecycle.max_length)  # type: ignore[method-assign]  # as FastAPI's documentation does


def _limit(properties: dict[str, Any], settings: ServerSettings, max_length: int | None) -> None:
    """Add the limits of the settings and the model to the fields of a request."""
    properties["query"] |= {"maxLength": settings.query_characters, "pattern": f"[^{_SPACE}]"}
    for name in ("documents", "candidates", "texts"):
        for shape in _shapes(properties.get(name, {})):
            if shape.get("type") == "array":
                shape["maxItems"] = settings.max_documents
                for item in _shapes(shape["items"]):
                    _limit_texts(item, settings)
    for shape in _shapes(properties["model"]):
        if shape.get("type") == "string" and settings.model_names:
            shape["enum"] = list(settings.model_names)
    for shape in _shapes(properties["max_tokens_per_doc"]):
        if shape.get("type") == "integer" and max_length is not None:
            shape["minimum"] = max_length


def _shapes(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what a field may be, each by itself."""
    shapes: list[dict[str, Any]] = schema.get("anyOf", [schema])
    return shapes


def _limit_texts(schema: dict[str, Any], settings: ServerSettings) -> None:
    if schema.get("type") == "string":
        schema["maxLength"] = settings.document_characters


def _complete(
    operation: dict[str, Any], path: str, settings: ServerSettings, *, needs_keys: bool
) -> None:
    """Add what is decided before the routes, and the headers of every reply."""
    responses = operation["responses"]
    if "requestBody" not in operation:
        responses.pop("422", None)
    is_public = path in PUBLIC
    if needs_keys:
        operation["security"] = [] if is_public else [{"bearer": []}]
        if not is_public:
            responses["401"] = _problem("No valid key.")
    if path not in PROBES and (settings.client_rate or settings.address_rate):
        responses["429"] = _problem("Too many requests of this client.")
    if path not in PROBES:
        responses.setdefault("503", _problem("Too many connections, or the server is ending."))
    for status, response in responses.items():
        headers = _HEADERS.get(status, {}) if _is_problem(response) else {}
        response["headers"] = {
            "X-Request-ID": {"description": "That of the request, or a new one.", **_TEXT},
            **headers,
        }


def _problem(description: str) -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{ProblemReply.__name__}"}
    return {"description": description, "content": {"application/json": {"schema": reference}}}


def _is_problem(response: dict[str, Any]) -> bool:
    return "content" in response and response["content"] == _problem("")["content"]
