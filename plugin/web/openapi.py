"""The OpenAPI 3.1 description of the REST routes, made from the table that also serves them."""

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from plugin.web.router import IDENTIFIER, JSON, Problem, Route

SCHEMAS = "#/components/schemas/{model}"

OF_ANY = (403, 503)
"""Errors of every route: the user may not, or queue, archive or a model cannot be used."""

PATH_SCHEMA = {"type": "string", "pattern": f"^{IDENTIFIER}$"}


def openapi(routes: Sequence[Route], *, version: str) -> dict[str, Any]:
    """The whole document.

    Args:
        routes: in the order to be described.
        version: of our software.
    """
    models = {Problem, *(route.signature["return"] for route in routes)}
    bodies = {body for route in routes if (body := route.signature.get("body"))}
    _, definitions = models_json_schema(
        [(model, "serialization") for model in sorted(models, key=_name)]
        + [(model, "validation") for model in sorted(bodies, key=_name)],
        ref_template=SCHEMAS,
    )
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "orthanc-oar",
            "version": version,
            "description": "Organs at risk on head-and-neck CT, as DICOM SEG. Research use only.",
        },
        "paths": paths,
        "components": {"schemas": definitions["$defs"]},
    }


def _operation(route: Route) -> dict[str, Any]:
    names = re.findall(r"\{(\w+)\}", route.path)
    body, query = route.signature.get("body"), route.signature.get("query")
    errors = {*route.errors, *OF_ANY}
    if body or query:
        errors.add(400)
    if names:
        errors.add(404)
    operation: dict[str, Any] = {
        "summary": route.summary,
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": PATH_SCHEMA} for name in names
        ]
        + (_query_parameters(query) if query else []),
        "responses": {
            str(route.status): _content(
                route.status, route.signature["return"], route.content_type
            ),
            **{str(status): _problem(status) for status in sorted(errors)},
        },
    }
    if body:
        operation["requestBody"] = {"required": False, "content": _schema(body, JSON)}
    return operation


def _query_parameters(query: type[BaseModel]) -> list[dict[str, Any]]:
    schema = query.model_json_schema(ref_template=SCHEMAS)
    properties: Mapping[str, Any] = schema["properties"]
    return [
        {"name": name, "in": "query", "required": False, "schema": each}
        for name, each in properties.items()
    ]


def _content(status: int, model: type[BaseModel], content_type: str = JSON) -> dict[str, Any]:
    return {"description": HTTPStatus(status).phrase, "content": _schema(model, content_type)}


def _problem(status: int) -> dict[str, Any]:
    problem = _content(status, Problem)
    # Orthanc from 1.12.2 on says so of every error, though it is JSON (plugin/orthanc_api.py).
    problem["content"] |= {"text/plain": {"schema": {"type": "string"}}}
    return problem


def _schema(model: type[BaseModel], content_type: str) -> dict[str, Any]:
    return {content_type: {"schema": {"$ref": SCHEMAS.format(model=_name(model))}}}


def _name(model: type[BaseModel]) -> str:
    return model.__name__
