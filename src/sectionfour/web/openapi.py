"""The contract as OpenAPI 3.1, drawn from the routes and their structs, and a page to read it.

The page is whole in itself: nothing on it comes from another host.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib import resources
from importlib.metadata import version
from typing import Any

import msgspec
from flask import Response

from sectionfour import errors
from sectionfour.errors import NotFound
from sectionfour.given import GUARD, Guard
from sectionfour.web import schemas
from sectionfour.web.keys import Caller
from sectionfour.web.problems import MEDIA_TYPE
from sectionfour.web.routes import JSON, Route, Service

_INTRODUCTION = """Risk of accounts and transactions, scored only where there is a lawful basis,
with a receipt for every answer. A key goes into `Authorization: Bearer KEY`; what its role must be
stands with each operation. Instants are RFC 3339 with an offset, amounts integers in the minor
unit. Unknown fields are answered with a warning; secrets, such as passwords, are refused. Of a
field that stands twice in one object the last counts. A body has at most 64 KiB, not packed."""
_PARAMETER = re.compile(r"\{(\w+)\}")
_REF = "#/components/schemas/{name}"


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """Return the OpenAPI document of `routes`."""
    routes = tuple(routes)
    kinds = [kind for route in routes for kind in (route.body, *route.answers.values())]
    structs: list[Any] = [schemas.Problem]
    for kind in kinds:
        structs += kind if isinstance(kind, tuple) else [kind]
    structs = [kind for kind in structs if kind is not None and not isinstance(kind, str)]
    found, components = msgspec.json.schema_components(
        structs, ref_template=_REF, schema_hook=_guarded
    )
    for struct, component in components.items():
        fields = component.get("properties", {})
        fields.pop(GUARD, None)  # not for a body to have
        for name, field in fields.items():
            said = _says("fields", f"{struct}.{name}", name), field.get("description")
            field["description"] = "; ".join(filter(None, said))
    schema_of = dict(zip(structs, found, strict=True))
    examples = _examples()
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        of = paths.setdefault(route.path, {})
        of[route.method.lower()] = _operation(route, schema_of, examples.get(route.name, {}))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Section Four",
            "version": version("sectionfour"),
            "description": _INTRODUCTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


#: What each status of a problem means, in the words of its errors.
_TITLES = {
    error.status: error.title
    for error in (
        errors.BadRequest,
        errors.Unauthenticated,
        errors.Forbidden,
        errors.NotFound,
        errors.Conflict,
        errors.Ceased,
        errors.TooLarge,
        errors.WrongMediaType,
        errors.TooMany,
        errors.NotReady,
    )
}


def _says(of: str, *names: str) -> str | None:
    """Return what is said of the first of these names that anything is said of."""
    return next((_texts()[of][name] for name in names if name in _texts()[of]), None)


@cache
def _texts() -> dict[str, dict[str, str]]:
    return tomllib.loads((resources.files("sectionfour.web") / "fields.toml").read_text("utf-8"))


def _guarded(kind: type) -> dict[str, Any]:
    if kind is not Guard:
        raise NotImplementedError(kind.__name__)
    return {"not": {}}


def _operation(route: Route, schema_of: dict[Any, Any], examples: dict[str, Any]) -> dict[str, Any]:
    roles = f" Role: {' or '.join(route.roles)}." if route.roles else ""
    said: dict[str, Any] = {
        "operationId": route.name,
        "tags": [route.tag],
        "summary": route.says.partition(".")[0].partition(":")[0],
        "description": f"{route.says}{roles}",
        "security": [{"key": []}] if route.roles else [],
    }
    parameters = [(name, "path", True, str) for name in _PARAMETER.findall(route.path)]
    parameters += [(name, "query", name in route.required, of) for name, of in route.query.items()]
    if parameters:
        said["parameters"] = [
            {
                "name": name,
                "in": where,
                "required": required,
                "description": _says("parameters", name),
                "schema": msgspec.json.schema(kind),
            }
            for name, where, required, kind in parameters
        ]
    if route.body is not None:
        said["requestBody"] = {
            "required": True,
            "content": _content(route.body, schema_of, examples.get("request")),
        }
    answers = examples.get("answers", {})
    said["responses"] = {
        str(status): {
            "description": _TITLES.get(status, "The answer"),
            "content": _content(kind, schema_of, answers.get(str(status)), status),
        }
        for status, kind in sorted(
            (dict.fromkeys(route.statuses, schemas.Problem) | {**route.answers}).items()
        )
    } | {
        "default": {
            "description": "Any other problem, as a problem document (RFC 9457)",
            "content": _content(schemas.Problem, schema_of, None, 400),
        }
    }
    return said


def _content(
    kind: Any, schema_of: dict[Any, Any], example: Any, status: int = 200
) -> dict[str, Any]:
    if isinstance(kind, str):
        return {kind.partition(";")[0]: {"schema": {"type": "string"}}}
    several = isinstance(kind, tuple)
    said: dict[str, Any] = {
        "schema": {"anyOf": [schema_of[one] for one in kind]} if several else schema_of[kind]
    }
    if example is not None:
        said["example"] = example
    return {MEDIA_TYPE if status >= 400 else JSON: said}


@cache
def _examples() -> dict[str, Any]:
    """Full requests and answers, by the name of the operation."""
    file = resources.files("sectionfour.web") / "examples.json"
    found: dict[str, Any] = msgspec.json.decode(file.read_bytes())
    return found


# --- the page

_PAGE = b"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Section Four</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<div id="contract"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</html>
"""
_START = (
    b'SwaggerUIBundle({url: "/openapi.json", dom_id: "#contract", deepLinking: true,'
    b" validatorUrl: null});\n"
)
_FILES = {
    "swagger-ui.css": "text/css; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
}
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src data:;"
_POLICY += " connect-src 'self'"


def routes(others: Iterable[Route]) -> tuple[Route, ...]:
    """Return the routes that publish `others` and themselves."""

    def openapi(service: Service, who: Caller) -> Response:
        """This document."""
        return Response(published(), content_type=JSON)

    def docs(service: Service, who: Caller) -> Response:
        """A page to read this document."""
        return _html(_PAGE, "text/html; charset=utf-8")

    def docs_file(service: Service, who: Caller, file: str) -> Response:
        """A file of that page."""
        if file == "start.js":
            return _html(_START, "text/javascript; charset=utf-8")
        if file not in _FILES:
            raise NotFound("there is no such file")
        data = (resources.files("flask_swagger_ui") / "dist" / file).read_bytes()
        return _html(data, _FILES[file])

    ours = (
        Route(
            method="GET",
            path="/openapi.json",
            handle=openapi,
            tag="Operations",
            answers={200: dict[str, Any]},
        ),
        Route(
            method="GET",
            path="/docs",
            handle=docs,
            tag="Operations",
            answers={200: "text/html"},
        ),
        Route(
            method="GET",
            path="/docs/{file}",
            handle=docs_file,
            tag="Operations",
            answers={200: "text/javascript"},
        ),
    )

    @cache
    def published() -> bytes:
        return msgspec.json.encode(document((*others, *ours)))

    return ours


def _html(data: bytes, content_type: str) -> Response:
    headers = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"}
    return Response(data, content_type=content_type, headers=headers)
