"""Every error as a problem document (RFC 9457); none repeats an identifier that was sent.

What was wrong is said in our words, from the shape of what was asked for: never from the value,
and never from a message that may quote it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from functools import cache
from traceback import extract_tb
from types import TracebackType
from typing import Any

import msgspec
from flask import Flask, Response
from msgspec.inspect import (
    DictType,
    ListType,
    LiteralType,
    Metadata,
    StructType,
    Type,
    UnionType,
    VarTupleType,
    type_info,
)
from werkzeug.exceptions import HTTPException, InternalServerError, MethodNotAllowed

from sectionfour.errors import (
    PROBLEMS,
    BadRequest,
    FailClosed,
    NotFound,
    SectionFourError,
    TooLarge,
)
from sectionfour.web.metrics import Metrics

log = logging.getLogger("sectionfour")
#: Seconds after which one more may find room: a batch takes a few.
RETRY_AFTER = "5"
MEDIA_TYPE = "application/problem+json"

_PLACE = re.compile(r" - at `\$([\w.\[\]]*)`\Z")
_STEP = re.compile(r"\.(\w+)|\[(\d+|\.\.\.)\]")
_MISSING = re.compile(r"Object missing required field `(\w+)`")
_PLAIN = re.compile(r"Expected `[a-z |]+`(, got `[a-z]+`| of length [<>]= \d+| [<>]=? -?[\d.e+]+)?")


def document(error: SectionFourError) -> dict[str, Any]:
    """Return the problem document of an error, ready for JSON."""
    said: dict[str, Any] = {
        "type": f"{PROBLEMS}{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail if error.status != 500 else "the fault is recorded, without data",
    }
    if error.pointer is not None:
        said["errors"] = [{"pointer": error.pointer, "detail": error.detail}]
    return said


def problem(error: SectionFourError) -> Response:
    """Return the answer that an error makes, with the header that its status asks for."""
    answer = Response(msgspec.json.encode(document(error)), error.status, content_type=MEDIA_TYPE)
    if error.status == 401:
        answer.headers["WWW-Authenticate"] = 'Bearer realm="sectionfour"'
    elif error.status == 415:
        answer.headers["Accept-Encoding"] = "identity"
    elif error.status == 429:
        answer.headers["Retry-After"] = RETRY_AFTER
    elif error.status == 403:
        answer.headers["WWW-Authenticate"] = (
            'Bearer realm="sectionfour", error="insufficient_scope"'
        )
    return answer


# --- what a decoder has to say, in our words


def invalid(error: msgspec.ValidationError, kind: Any) -> BadRequest:
    """Return what is wrong with a body that is no `kind`.

    >>> from sectionfour.given import Given
    >>> wrong = msgspec.ValidationError("Invalid enum value 'x' - at `$.mode`")
    >>> invalid(wrong, Given).pointer, invalid(wrong, Given).detail
    ('/mode', 'must be one of evaluate, protect')
    """
    message = str(error)
    place = _PLACE.search(message)
    steps = [name or index for name, index in _STEP.findall(place[1])] if place else []
    pointer = "".join("/*" if step == "..." else f"/{step}" for step in steps)
    said = message[: place.start()] if place else message
    missing = _MISSING.fullmatch(said)
    if missing:
        return BadRequest(f"{missing[1]} is required", pointer=f"{pointer}/{missing[1]}")
    if said.startswith("Invalid enum value"):
        values = _allowed(_known(kind), steps)
        return BadRequest(f"must be one of {', '.join(map(str, values))}", pointer=pointer)
    if said.startswith("Invalid RFC3339") or said.endswith("a timezone component"):
        return BadRequest(
            "an instant in RFC 3339, with an offset, like 2026-11-23T09:00:00+08:00",
            pointer=pointer,
        )
    if said.startswith(("Number out of range", "Integer value out of range")):
        return BadRequest("a number is out of range", pointer=pointer)
    if _PLAIN.fullmatch(said):
        return BadRequest(said.replace("`", "").replace("Expected", "expected"), pointer=pointer)
    return BadRequest(_form(_known(kind), steps), pointer=pointer)


@cache
def _known(kind: Any) -> Type:
    return type_info(kind)


def _at(kind: Type, steps: list[str]) -> Iterator[Type]:
    """Yield each type that a value at the end of `steps` may have, with what is said of it."""
    if isinstance(kind, UnionType):
        for one in kind.types:
            yield from _at(one, steps)
    elif not steps:
        yield kind
    elif isinstance(kind, Metadata):
        yield from _at(kind.type, steps)
    elif isinstance(kind, StructType):
        for field in kind.fields:
            if field.encode_name == steps[0]:
                yield from _at(field.type, steps[1:])
    elif isinstance(kind, VarTupleType | ListType):
        yield from _at(kind.item_type, steps[1:])
    elif isinstance(kind, DictType):
        yield from _at(kind.value_type, steps[1:])


def _allowed(kind: Type, steps: list[str]) -> list[Any]:
    """Return the values that are allowed at the end of `steps`."""
    found = (one.type if isinstance(one, Metadata) else one for one in _at(kind, steps))
    return [value for one in found if isinstance(one, LiteralType) for value in one.values]


def _form(kind: Type, steps: list[str]) -> str:
    """Return what is to be sent at the end of `steps`, in the words of its description."""
    for one in _at(kind, steps):
        said = (one.extra_json_schema or {}) if isinstance(one, Metadata) else {}
        if "description" in said:
            return f"expected {said['description']}"
    return "is not of the form asked for; see /openapi.json"


# --- faults: where, never what


def where(error: BaseException) -> str:
    """Return the types of an error and of its causes, and the lines they passed; no message."""
    told: list[str] = []
    link: BaseException | None = error
    while link is not None and len(told) < 5:
        told.append(f"{type(link).__name__} at {_lines(link.__traceback__)}")
        link = link.__cause__ or link.__context__
    return "; from ".join(told)


def _lines(trace: TracebackType | None) -> str:
    frames = extract_tb(trace)[-12:]
    return " > ".join(f"{f.filename.rpartition('/')[2]}:{f.lineno} {f.name}" for f in frames)


def fault(error: BaseException) -> SectionFourError:
    """Record an error that nobody expected; return what is said of it outside.

    Where the machine refuses (room, a file, one more handle) it may not refuse later: 503.
    """
    log.error("fault: %s", where(error))
    if isinstance(error, OSError):
        return FailClosed("the machine refuses what is needed: the fault is recorded")
    return SectionFourError("the fault is recorded, without data")


def note(error: SectionFourError, metrics: Metrics) -> None:
    """Count an error that is answered; what is the service's own is logged, too."""
    if error.status >= 500:
        log.error("%s: %s", error.code, where(error))
    metrics.error(error.code)


def register(app: Flask, metrics: Metrics, discard: Callable[[], None]) -> None:
    """Answer whatever is raised under `app`; `discard` takes in a body that no route has read."""

    @app.errorhandler(SectionFourError)
    def ours(error: SectionFourError) -> Response:
        note(error, metrics)
        return problem(error)

    @app.errorhandler(OSError)
    def refused(error: OSError) -> Response:
        found = fault(error)
        metrics.error(found.code)
        return problem(found)

    @app.errorhandler(InternalServerError)
    def unexpected(error: InternalServerError) -> Response:
        metrics.error(SectionFourError.code)
        return problem(SectionFourError(""))  # `Application.log_exception` has recorded it

    @app.errorhandler(HTTPException)
    def flasks(error: HTTPException) -> Response:
        status = error.code or 500
        discard()
        if status == 404:
            return ours(NotFound("there is no such route"))
        if status == 413:
            return ours(TooLarge("a body has at most 64 KiB"))
        code = error.name.lower().replace(" ", "-")
        metrics.error(code)
        said = {"type": f"{PROBLEMS}{code}", "title": error.name, "status": status}
        detail, headers = "the request cannot be answered as it is", {}
        if isinstance(error, MethodNotAllowed) and error.valid_methods:
            headers["Allow"] = ", ".join(sorted(error.valid_methods))
            detail = f"the methods here are {headers['Allow']}"
        data = msgspec.json.encode(said | {"detail": detail})
        return Response(data, status, headers, content_type=MEDIA_TYPE)
