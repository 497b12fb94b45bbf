"""The OpenAPI document of the routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import datasentinel
from datasentinel.serving.models import OUTPUTS

if TYPE_CHECKING:
    from collections.abc import Iterable

_OBJECT: dict[str, Any] = {"type": "object"}
_PARAMETERS: dict[str, Any] = {"type": "object", "additionalProperties": True}
_SHAPE: dict[str, Any] = {"type": "array", "items": {"type": "integer"}}
_SEQUENCE: dict[str, Any] = {
    "description": "For a model with memory or a season: the stream of the rows, and when they were taken.",
    "properties": {
        "sequence_id": {"type": ["string", "integer"]},
        "timestamp": {"type": ["number", "string"]},
        "sequence_start": {"type": "boolean"},
        "sequence_end": {"type": "boolean"},
    },
}

_SCHEMAS: dict[str, Any] = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "string"}},
    },
    "InferenceRequest": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "parameters": _PARAMETERS | _SEQUENCE,
            "inputs": {"type": "array", "items": {"$ref": "#/components/schemas/Input"}, "maxItems": 1},
            "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/RequestedOutput"}},
        },
    },
    "Input": {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": {"const": "input"},
            "datatype": {"const": "FP32"},
            "shape": _SHAPE | {"description": "[N, D]"},
            "data": {
                "type": "array",
                "description": "N * D numbers row by row, or N arrays of D numbers",
            },
            "parameters": _PARAMETERS,
        },
    },
    "RequestedOutput": {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"enum": list(OUTPUTS)},
            "parameters": _PARAMETERS,
        },
    },
    "InferenceResponse": {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "id": {"type": "string"},
            "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/Output"}},
        },
    },
    "Output": {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": {"type": "string"},
            "datatype": {"enum": ["FP32", "BOOL"]},
            "shape": _SHAPE,
            "data": {"type": "array", "items": {"type": ["number", "boolean", "null"]}},
            "parameters": _PARAMETERS,
        },
    },
}


def make_document(routes: Iterable[tuple[str, str, str]]) -> dict[str, Any]:
    """Make the document of routes, each given as method, path and summary."""
    paths: dict[str, Any] = {}
    for method, path, summary in routes:
        paths.setdefault(path, {})[method.lower()] = _operation(method, path, summary)
    return {
        "openapi": "3.1.0",
        "info": {"title": "datasentinel", "version": datasentinel.__version__},
        "paths": paths,
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(method: str, path: str, summary: str) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": summary,
        "responses": {
            "200": {"description": "Done", "content": _answer(path)},
            "default": {
                "description": "An error",
                "content": _json({"$ref": "#/components/schemas/Error"}),
            },
        },
    }
    names = [segment[1:-1] for segment in path.split("/") if segment.startswith("{")]
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    if method == "POST" and path.endswith("/infer"):
        operation["requestBody"] = {
            "required": True,
            "content": _json({"$ref": "#/components/schemas/InferenceRequest"}) | _BYTES,
        }
    return operation


_TEXTS = {
    "/": "text/html",
    "/page.css": "text/css",
    "/page.js": "text/javascript",
    "/live": "text/event-stream",
    "/healthz": "text/plain",
    "/metrics": "text/plain",
}


def _answer(path: str) -> dict[str, Any]:
    if path in _TEXTS:
        return {_TEXTS[path]: {"schema": {"type": "string"}}}
    if path.endswith("/infer"):
        return _json({"$ref": "#/components/schemas/InferenceResponse"}) | _BYTES
    return _json({"type": "array", "items": _OBJECT} if path == "/v2/repository/index" else _OBJECT)


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


_BYTES: dict[str, Any] = {
    "application/octet-stream": {
        "schema": {
            "type": "string",
            "format": "binary",
            "description": "JSON, as long as the header Inference-Header-Content-Length says, then tensors",
        }
    }
}
