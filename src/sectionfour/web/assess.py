"""Assessments: the hot path's edge, one and in batches, the answer again, and the appeal."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from itertools import count
from queue import SimpleQueue
from threading import Event
from time import perf_counter
from types import TracebackType

import msgspec
from flask import Response, request

from sectionfour.decide import decide
from sectionfour.errors import (
    BadRequest,
    Ceased,
    NotFound,
    SectionFourError,
    TooLarge,
    TooMany,
    WrongMediaType,
)
from sectionfour.given import Given
from sectionfour.privacy import entries
from sectionfour.web import body, problems, schemas
from sectionfour.web.keys import Caller
from sectionfour.web.problems import MEDIA_TYPE
from sectionfour.web.routes import JSON, NDJSON, Route, Service, answer

MOST_LINES = 10_000
#: What the service calls events of its own; a caller's must not be taken for one.
OURS = "label:"

_canonical = msgspec.json.Encoder(order="deterministic").encode


def assess(service: Service, who: Caller) -> Response:
    """Rate one event. The same `event_id` and body give the same answer, and count once."""
    start = perf_counter()
    status, found = _assess(service, who, body.received(), start)
    return Response(found, status, content_type=JSON if status == 200 else MEDIA_TYPE)


def _assess(service: Service, who: Caller, data: bytes, start: float) -> tuple[int, bytes]:
    parts = service.parts
    given, plain, warnings = body.decode(data, Given)
    if given.purpose == "security.transaction_risk" and given.transaction is None:
        raise BadRequest("transaction is required for this purpose", pointer="/transaction")
    if given.event_id.startswith(OURS):
        raise BadRequest(f"an id that begins with {OURS} is the service's own", pointer="/event_id")
    for key, source in given.sources.items():
        if key not in parts.regime.categories:
            raise BadRequest("sources are given by category", pointer="/sources")
        parts.regime.source(source, pointer=f"/sources/{key}")
    parts.regime.purpose(given.purpose)
    asked = parts.keys.ring.digest(_canonical(plain))
    status, found = decide(given, asked, parts, key_id=who.key_id, warnings=warnings)
    service.metrics.answered(given.purpose, status, found, perf_counter() - start)
    return status, found


# --- many at once


def assess_batch(service: Service, who: Caller) -> Response:
    """Rate up to 10,000 events, one JSON object a line, answered line by line in order.

    A line that cannot be read gets a problem document with its number, and the others go on.
    Lines count from 1; empty ones are passed over. Send them all and then read, or read while you
    send: answers come as soon as they are there, and wait for whoever reads later. Where other
    batches are under way it is answered 429: again after `Retry-After`.
    """
    if request.mimetype not in _LINES:
        raise WrongMediaType(f"send {NDJSON}")
    body.unpacked()
    if (request.content_length or 0) > MOST_BYTES:
        raise TooLarge(f"a batch has at most {MOST_LINES:,} lines, and a line at most 64 KiB")
    if not service.batches.acquire(blocking=False):
        raise TooMany("other batches are under way: send this one again in a few seconds")
    # Of 10,000 lines at most: some 15 MB for a caller who reads nothing yet, 75 at the worst.
    answers: SimpleQueue[bytes] = SimpleQueue()
    gone = Event()
    read = request.environ["wsgi.input"].read
    reading = service.readers.submit(_answer_lines, service, who, read, answers, gone)

    def end() -> None:
        gone.set()
        reading.add_done_callback(lambda _: service.batches.release())

    response = Response(iter(answers.get, b""), content_type=NDJSON)
    response.call_on_close(end)
    return response


MOST_BYTES = MOST_LINES * (body.LIMIT + 2)
_LINES = {
    "",
    "application/json",
    "application/json-lines",
    "application/jsonl",
    "application/ndjson",
    "application/octet-stream",
    "application/x-ndjson",
    "application/x-www-form-urlencoded",
    "text/plain",
}
Read = Callable[[int], bytes]


def _answer_lines(
    service: Service, who: Caller, read: Read, answers: SimpleQueue[bytes], gone: Event
) -> None:
    """Put an answer to each line into `answers`, and b"" at the end; stop when `gone` is set."""
    try:
        for said in _each(service, who, read):
            if gone.is_set():
                return
            answers.put(said)
        while read(body.LIMIT):  # lines beyond the last: left unread, they end the connection
            pass
    finally:
        answers.put(b"")


def _each(service: Service, who: Caller, read: Read) -> Iterator[bytes]:
    lines = _lines(read)
    for number in count(1):
        said = _Said(service, number)
        with said:
            line = next(lines, None)
            if line is None:
                return
            if number > MOST_LINES:
                raise TooLarge(f"a batch has at most {MOST_LINES:,} lines; the rest is left out")
            if service.parts.ledger.cessation() is not None:
                raise Ceased("operation has ceased since this batch began")
            if len(line) > body.LIMIT:
                raise TooLarge("a line has at most 64 KiB")
            if not line.strip():
                continue
            with service.parts.keys.ring.steady:
                said.answer = _assess(service, who, line, perf_counter())[1]
        yield said.answer + b"\n"
        if number > MOST_LINES:
            return


def _lines(read: Read) -> Iterator[bytes]:
    """Yield the lines of a body without their ends; of one that is too long, one byte too many.

    They are read byte by byte: the server waits until it has as many as it is asked for, and who
    has sent a line may wait for its answer before anything else is sent.
    """
    line = bytearray()
    for byte in iter(partial(read, 1), b""):
        if byte == b"\n":
            yield bytes(line.removesuffix(b"\r"))
            line.clear()
        elif len(line) < body.LIMIT + 2:
            line += byte
    if line:
        yield bytes(line.removesuffix(b"\r"))


class _Said(AbstractContextManager["_Said"]):
    """Does for one line what the error handlers do for a call: the answer to it has begun."""

    def __init__(self, service: Service, number: int) -> None:
        self.answer = b""
        self._metrics, self._number = service.metrics, number

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        if not isinstance(error, SectionFourError):
            error = problems.fault(error)
        self._metrics.error(error.code)
        self.answer = msgspec.json.encode(problems.document(error) | {"line": self._number})
        return True


# --- one that was made


def read_assessment(service: Service, who: Caller, assessment_id: str) -> Response:
    """Repeat an answer, to the byte. A checkout reads its own alone."""
    return Response(_found(service, who, assessment_id), 200, content_type=JSON)


def ask_review(service: Service, who: Caller, assessment_id: str) -> Response:
    """Ask for a human review of an assessment: the appeal. Asked again, it is the same one."""
    _found(service, who, assessment_id)
    at = service.parts.clock()
    review_id = f"rv_{secrets.token_hex(12)}"
    review_id, state, new = service.parts.ledger.open_review(
        review_id, assessment_id, at, entries.review(review_id, assessment_id, at)
    )
    return answer({"review_id": review_id, "state": state}, 201 if new else 200)


def _found(service: Service, who: Caller, assessment_id: str) -> bytes:
    found = service.parts.ledger.assessment(assessment_id)
    if found is None or not found[1] or (who.role == "checkout" and found[2] != who.key_id):
        raise NotFound("there is no assessment of this id that this key may read")
    return found[1]


ROUTES = (
    Route(
        method="POST",
        path="/v1/assessments",
        handle=assess,
        tag="Assess",
        roles=("checkout",),
        body=Given,
        answers={200: schemas.Assessment, 403: (schemas.Refused, schemas.Problem)},
        problems=(409,),
    ),
    Route(
        method="POST",
        path="/v1/assessments/batch",
        handle=assess_batch,
        tag="Assess",
        roles=("checkout",),
        body=NDJSON,
        most=MOST_BYTES,
        answers={200: NDJSON},
        problems=(429,),
    ),
    Route(
        method="GET",
        path="/v1/assessments/{assessment_id}",
        handle=read_assessment,
        tag="Assess",
        roles=("checkout", "analyst"),
        answers={200: (schemas.Assessment, schemas.Refused)},
    ),
    Route(
        method="POST",
        path="/v1/assessments/{assessment_id}/review",
        handle=ask_review,
        tag="Assess",
        roles=("checkout", "analyst"),
        answers={200: schemas.Review, 201: schemas.Review},
    ),
)
