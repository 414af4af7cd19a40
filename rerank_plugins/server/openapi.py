"""The server's OpenAPI: FastAPI's, with the limits of this server and what its middleware does."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from fastapi import FastAPI

from rerank_plugins.server.auth import KEY_HEADERS
from rerank_plugins.server.lifecycle import Lifecycle
from rerank_plugins.server.middleware import HEALTH_PATHS, PROBE_PATHS, PUBLIC_PATHS
from rerank_plugins.server.schemas import (
    LENGTHS,
    NEUTRAL,
    AnyRerankRequest,
    ErrorResponse,
    RerankRequest,
    V1RerankRequest,
)
from rerank_plugins.server.settings import ANY_MODEL, ServerSettings

__all__ = ["complete_openapi"]

_SPACE = r"\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""What `str.isspace` knows as white space."""

_OPTIONS = r'^(\{\}|null|\{"instruction": ?"[^"\\\x00-\x1f]*"\})?$'
"""The JSON in `kwargs`; the server takes it however it is written."""

_SECONDS = {"schema": {"type": "integer", "minimum": 1}}
_TEXT = {"schema": {"type": "string"}}
_HEADERS: Mapping[str, dict[str, Any]] = {
    "401": {"WWW-Authenticate": {"description": "How to authenticate.", **_TEXT}},
    "429": {
        "Retry-After": {"description": "Seconds until the server takes a request.", **_SECONDS},
        "RateLimit": {"description": "Requests left, and seconds until there are more.", **_TEXT},
        "RateLimit-Policy": {"description": "The exceeded rate.", **_TEXT},
    },
    "503": {"Retry-After": {"description": "Seconds after which to try again.", **_SECONDS}},
    "504": {"Retry-After": {"description": "Seconds after which to try again.", **_SECONDS}},
}


_COMPUTE_TOKENS = {
    "X-Compute-Tokens": {
        "description": "Tokens that the model read, in TEI's shape and if the backend counts them.",
        "schema": {"type": "integer", "minimum": 0},
    }
}


_SECURITY: list[dict[str, list[str]]] = [{name: []} for name in ("bearer", *KEY_HEADERS)]


def complete_openapi(
    app: FastAPI, lifecycle: Lifecycle, settings: ServerSettings, *, needs_keys: bool
) -> None:
    """Make `app.openapi()` describe this server completely.

    FastAPI knows neither what the middleware refuses before it finds a route, nor the limits of the
    settings and the model: a request beyond them is a 413, not a 422 of pydantic's.
    """
    generate = app.openapi

    @lru_cache(maxsize=1)
    def completed(max_length: int | None) -> dict[str, Any]:
        app.openapi_schema = None  # FastAPI caches the one from before the model was loaded
        schema = generate()
        definitions = schema["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):  # FastAPI's own, never sent
            definitions.pop(name, None)
        for model in (RerankRequest, V1RerankRequest, AnyRerankRequest):
            properties = definitions[model.__name__]["properties"]
            _limit_request(properties, settings, max_length)
            _limit_instruction(properties, settings, taken=lifecycle.backend.instructions)
            definitions[model.__name__]["additionalProperties"] = not settings.strict
        definitions["DocumentObject"]["additionalProperties"] = not settings.strict
        _limit_text(definitions["DocumentObject"]["properties"]["text"], settings)
        if needs_keys:
            schema["components"]["securitySchemes"] = {
                "bearer": {"type": "http", "scheme": "bearer"},
                **{name: {"type": "apiKey", "in": "header", "name": name} for name in KEY_HEADERS},
            }
        for path, operations in schema["paths"].items():
            for operation in operations.values():
                _add_middleware(operation, path, settings, needs_keys=needs_keys)
        return schema

    app.openapi = lambda: completed(lifecycle.max_length)  # type: ignore[method-assign]  # as FastAPI's documentation does


def _limit_request(
    properties: dict[str, Any], settings: ServerSettings, max_length: int | None
) -> None:
    """Add the limits of the settings and the model to the fields of a request."""
    properties["query"] |= {"maxLength": settings.query_characters, "pattern": f"[^{_SPACE}]"}
    for name in ("documents", "candidates", "texts"):
        for schema in _alternatives(properties.get(name, {})):
            if schema.get("type") == "array":
                schema["maxItems"] = settings.max_documents
                for item in _alternatives(schema["items"]):
                    _limit_text(item, settings)
    takes_any = ANY_MODEL in settings.model_names
    for schema in _alternatives(properties["model"]):
        if schema.get("type") == "string" and settings.model_names and not takes_any:
            schema["enum"] = [*settings.model_names, ""]
    for name, none in LENGTHS.items():
        for schema in _alternatives(properties[name]):
            if schema.get("type") == "integer":
                schema["minimum"] = max_length or 1
        properties[name]["anyOf"].append({"const": none})
    if settings.strict:
        for name, neutral in NEUTRAL.items():
            properties[name]["anyOf"] = [{"const": neutral}, {"type": "null"}]


def _limit_instruction(
    properties: dict[str, Any], settings: ServerSettings, *, taken: bool
) -> None:
    """Add which instructions the server takes, if any."""
    for name in ("instruction", "instruct"):
        for schema in _alternatives(properties[name]):
            if schema.get("type") == "string":
                schema.update({"maxLength": settings.query_characters} if taken else {"const": ""})
    for schema in _alternatives(properties["kwargs"]):
        if schema.get("type") == "string":
            schema.update({"pattern": _OPTIONS} if taken else {"enum": ["{}", "null", ""]})


def _alternatives(schema: dict[str, Any]) -> list[dict[str, Any]]:
    alternatives: list[dict[str, Any]] = schema.get("anyOf", [schema])
    return alternatives


def _limit_text(schema: dict[str, Any], settings: ServerSettings) -> None:
    if schema.get("type") == "string":
        schema["maxLength"] = settings.document_characters


def _add_middleware(
    operation: dict[str, Any], path: str, settings: ServerSettings, *, needs_keys: bool
) -> None:
    """Add what the middleware refuses, and the headers that it sets on every response."""
    responses = operation["responses"]
    if "requestBody" not in operation:
        responses.pop("422", None)
    is_public = path in PUBLIC_PATHS
    if needs_keys:
        operation["security"] = [] if is_public else _SECURITY
        if not is_public:
            responses["401"] = _error("The request has no valid key.")
    if settings.allowed_hosts or not needs_keys:
        responses["421"] = _error("The server does not answer to the name in `Host`.")
    has_client_rate = settings.client_rate and path not in PROBE_PATHS
    if has_client_rate or (settings.address_rate and path not in HEALTH_PATHS):
        responses["429"] = _error("The client sends too many requests.")
    if path not in PROBE_PATHS:
        responses.setdefault("503", _error("Too many requests, or the server is ending."))
    for status, response in responses.items():
        headers = _HEADERS.get(status, {}) if _is_error(response) else {}
        if path == "/rerank" and status == "200":
            headers = _COMPUTE_TOKENS
        response["headers"] = {
            "X-Request-ID": {"description": "The request's own, or a new one.", **_TEXT},
            **headers,
        }


def _error(description: str) -> dict[str, Any]:
    reference = {"$ref": f"#/components/schemas/{ErrorResponse.__name__}"}
    return {"description": description, "content": {"application/json": {"schema": reference}}}


def _is_error(response: dict[str, Any]) -> bool:
    return "content" in response and response["content"] == _error("")["content"]
