"""The OpenAPI document: what each call answers, errors included, and who may call it.

FastAPI makes it of the routes; :func:`answers` is how a route says what it answers, :func:`document` mends what FastAPI
assumes otherwise: our validation errors are 400, and the app-key is checked by the guard, not by a dependency.
protocols/rest/openapi.json is this document of a node; scripts/openapi writes it.
"""

from __future__ import annotations

import re
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from golemp2p.api.auth import is_open
from golemp2p.wire.rest.base import ErrorBody

UNSUPPORTED_TAG: Final = "not supported"

_MEANINGS: Final = {
    400: "Wrong: the message says what",
    403: "Refused by a rule, or a Host or Origin that is not served",
    404: "Unknown",
    408: "Not in time",
    409: "Contradicts what is already so",
    410: "Ended",
    413: "The body is too large",
    416: "No such part of the file",
    500: "The other side or the network failed, or this node did (code `internal`)",
    501: "This node does not do that",
    502: "The other side broke the protocol",
}
_TEXT: Final[dict[str, Any]] = {"text/plain": {"schema": {"type": "string"}}}
NULL: Final[dict[str, Any]] = {"content": {"application/json": {"schema": {"type": "null"}}}}
EVENT_STREAM: Final[dict[str, Any]] = {"text/event-stream": {}}
TEXT: Final[dict[str, Any]] = {"content": _TEXT}
BYTES: Final[dict[str, Any]] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}

# What the guard and the app answer on any call.
EVERYWHERE: Final[dict[int | str, dict[str, Any]]] = {
    400: {"model": ErrorBody, "description": _MEANINGS[400]},
    401: {"model": ErrorBody, "description": "No app-key, or an unknown one"},
    403: {"model": ErrorBody, "description": _MEANINGS[403]},
    413: {"model": ErrorBody, "description": _MEANINGS[413]},
    500: {"model": ErrorBody, "description": _MEANINGS[500]},
}


def answers(*errors: int, ok: dict[int, dict[str, Any]] | None = None) -> dict[int | str, dict[str, Any]]:
    """``responses=`` of a route: the error statuses beyond EVERYWHERE; ``ok``: success that is no model, by status."""
    told: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorBody, "description": _MEANINGS[status]} for status in errors
    }
    for status, content in (ok or {}).items():
        told[status] = {"description": "Done", **content}
    return told


def json_body(schema: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    """``openapi_extra=`` of a route that reads its body itself."""
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


def _add_path_parameters(path: str, operation: dict[str, Any]) -> None:
    """Those that the route's function does not look at."""
    told = operation.get("parameters", [])
    known = {parameter["name"] for parameter in told if parameter["in"] == "path"}
    missing = [name for name in re.findall(r"\{(\w+)\}", path) if name not in known]
    if missing:
        operation["parameters"] = told + [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in missing
        ]


def document(app: FastAPI) -> dict[str, Any]:
    """For ``app.openapi``."""
    if app.openapi_schema is None:
        made = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
        )
        components = made.setdefault("components", {})
        for name in ("HTTPValidationError", "ValidationError"):
            components.get("schemas", {}).pop(name, None)
        components["securitySchemes"] = {
            "appKey": {"type": "http", "scheme": "bearer", "description": "An app-key of this node"},
            "authToken": {"type": "apiKey", "in": "query", "name": "authToken"},
        }
        made["security"] = [{"appKey": []}, {"authToken": []}]
        told = components.setdefault("responses", {})
        for path, operations in made["paths"].items():
            for operation in operations.values():
                _add_path_parameters(path, operation)
                responses = operation["responses"]
                responses.pop("422", None)
                if is_open(path):
                    operation["security"] = []
                    responses.pop("401", None)
                for status in [status for status in responses if int(status) >= 400]:  # alike everywhere: said once
                    if told.setdefault(status, responses[status]) == responses[status]:
                        responses[status] = {"$ref": f"#/components/responses/{status}"}
        app.openapi_schema = made
    return app.openapi_schema
