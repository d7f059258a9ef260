"""Every error as a problem document (RFC 9457); none repeats an identifier that was sent."""

from __future__ import annotations

import logging
import re

import msgspec
from flask import Flask, Response
from werkzeug.exceptions import HTTPException

from sectionfour.errors import PROBLEMS, BadRequest, SectionFourError

log = logging.getLogger("sectionfour")
MEDIA_TYPE = "application/problem+json"

_QUOTED = re.compile(r"'[^']*'")
_PATH = re.compile(r" - at `(?:key in )?\$(.*?)`$")
_NAME = re.compile(r"^[a-z0-9_]{1,40}$")


def problem(error: SectionFourError) -> Response:
    body: dict[str, object] = {
        "type": f"{PROBLEMS}{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
    }
    if error.pointer is not None:
        body["errors"] = [{"pointer": error.pointer, "detail": error.detail}]
    return Response(msgspec.json.encode(body), error.status, content_type=MEDIA_TYPE)


def invalid(error: msgspec.DecodeError) -> BadRequest:
    """Return what is wrong with a body, without the value that is wrong.

    >>> invalid(msgspec.ValidationError("Invalid enum value 'x' - at `$.event.type`")).pointer
    '/event/type'
    """
    message = str(error)
    path = _PATH.search(message)
    pointer = "/" + path[1].lstrip(".").replace(".", "/").replace("[", "/").replace("]", "") if path else ""
    if not isinstance(error, msgspec.ValidationError):
        return BadRequest("the body is not JSON", pointer="")
    detail = _PATH.sub("", message)
    missing = re.match(r"Object missing required field `(\w+)`", detail)
    if missing:
        return BadRequest(f"{missing[1]} is required", pointer=f"{pointer.rstrip('/')}/{missing[1]}")
    return BadRequest(_QUOTED.sub("(withheld)", detail), pointer=pointer.rstrip("/"))


def register(app: Flask) -> None:
    @app.errorhandler(SectionFourError)
    def ours(error: SectionFourError) -> Response:
        if error.status >= 500:
            log.error("%s: %s", error.code, error.detail, exc_info=error)
        return problem(error)

    @app.errorhandler(HTTPException)
    def flasks(error: HTTPException) -> Response:
        body = {
            "type": "about:blank",
            "title": error.name,
            "status": error.code,
            "detail": "no such route or method" if error.code in (404, 405) else error.name,
        }
        return Response(msgspec.json.encode(body), error.code, content_type=MEDIA_TYPE)
