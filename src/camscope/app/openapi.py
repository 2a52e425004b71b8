"""Describe the API as OpenAPI 3.1."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from camscope import __version__
from camscope.app import bodies

_JSON = {"application/json": {"schema": {"type": "object"}}}
_ERROR = {
    "description": "One sentence: what is wrong.",
    "content": {
        "application/json": {
            "schema": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
        }
    },
}
POSTS: dict[str, tuple[type[BaseModel], str, str]] = {
    "/api/predict": (bodies.PredictBody, "Return the highest classes of a picture.", "application/json"),
    "/api/explain": (bodies.ExplainBody, "Return maps of a picture, by method, then by target.", "application/json"),
    "/api/layer-names": (bodies.PredictBody, "Return the layers that can be explained.", "application/json"),
    "/api/layers": (bodies.LayersBody, "Return the map of one class at each stage.", "application/json"),
    "/api/steps": (bodies.StepsBody, "Draw the steps that make one map.", "image/png"),
    "/api/region": (bodies.RegionBody, "Fill in a region and compare it with patches elsewhere.", "application/json"),
    "/api/files": (bodies.FilesBody, "Return a file of one map.", "application/octet-stream"),
}
"""Address -> body, summary, and media type of the answer."""


_STUDY_POSTS: dict[str, tuple[type[BaseModel], str, str]] = {
    "/api/study/open": (bodies.CaseBody, "Read the picture of a case.", "application/json"),
    "/api/study/review": (bodies.ReviewBody, "Write the review of one reader.", "application/json"),
}


def document(*, study: bool = False) -> dict[str, Any]:
    """Return the description of the API, with a study or without one.

    >>> sorted(document()["paths"])[:3]
    ['/api/examples/{number}', '/api/explain', '/api/files']
    """
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {
        "/api/info": {"get": _operation("Return the loaded models, methods, colours and fill-ins.")},
        "/api/pictures": {"post": _upload()},
        "/api/pictures/{key}": {"get": _operation("Return the facts of a picture.", ["key"])},
        "/api/pictures/{key}/pixels": {
            "get": _operation(
                "Return the shown pixels, row by row, as little-endian uint8 or uint16.",
                ["key"],
                media="application/octet-stream",
            )
        },
        "/api/examples/{number}": {"post": _operation("Add an example picture of the demo.", ["number"])},
        "/api/openapi.json": {"get": _operation("Return this document.")},
    }
    posts = POSTS
    if study:
        posts = {**POSTS, **_STUDY_POSTS}
        paths |= _study_gets()
    for address, (body, summary, media) in posts.items():
        schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        schemas[body.__name__] = schema
        operation = _operation(summary, media=media)
        reference = {"$ref": f"#/components/schemas/{body.__name__}"}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": reference}}}
        paths[address] = {"post": operation}
    return {
        "openapi": "3.1.0",
        "info": {"title": "camscope app", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _operation(summary: str, names: list[str] | None = None, *, media: str = "application/json") -> dict[str, Any]:
    answer = _JSON if media == "application/json" else {media: {}}
    operation: dict[str, Any] = {
        "summary": summary,
        "responses": {"200": {"description": "Done.", "content": answer}, "4XX": _ERROR},
    }
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    return operation


def _upload() -> dict[str, Any]:
    operation = _operation("Take the content of a picture's file (PNG, JPEG, DICOM, ...) as the body.")
    operation["parameters"] = [
        {"name": "name", "in": "query", "schema": {"type": "string"}, "description": "Name of the file."},
        {"name": "frame", "in": "query", "schema": {"type": "integer"}, "description": "Frame, from 0."},
    ]
    operation["requestBody"] = {"required": True, "content": {"application/octet-stream": {}}}
    operation["responses"]["201"] = operation["responses"].pop("200")
    return operation


def _study_gets() -> dict[str, Any]:
    """Return the addresses that read a study."""
    fields = bodies.Selection.model_json_schema()["properties"]
    filters = [{"name": name, "in": "query", "schema": schema} for name, schema in fields.items()]
    reader = [{"name": "reader", "in": "query", "schema": {"type": "string"}}]
    operations = {
        "/api/study": _operation("Return labels, methods, groups and regions of the study."),
        "/api/study/cases": _operation("Return one page of the chosen cases.") | {"parameters": filters},
        "/api/study/selection.csv": _operation("Return the chosen cases with their reviews.", media="text/csv")
        | {"parameters": filters},
        "/api/study/reviews": _operation("Return the reviews of one reader.") | {"parameters": reader},
        "/api/study/agreement": _operation("Return the agreement of the readers."),
    }
    return {address: {"get": operation} for address, operation in operations.items()}
