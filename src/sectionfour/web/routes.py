"""A route as a value: where it is, who may call it, what it reads and answers, and what does it.

The application and the OpenAPI document are both made from these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import BoundedSemaphore
from typing import Any, Concatenate

from flask import Flask, Response, request
from msgspec import json
from werkzeug.routing import BaseConverter

from sectionfour.errors import Ceased, NotFound, SectionFourError
from sectionfour.parts import Parts
from sectionfour.privacy.receipts import Notary
from sectionfour.settings import Settings
from sectionfour.web import body, keys
from sectionfour.web.body import LIMIT
from sectionfour.web.keys import ANYBODY, Caller
from sectionfour.web.metrics import Metrics

#: Batches that a process streams at once. Each has one of the server's threads until its caller has
#: all answers, and so has one that is refused; what is left of them is for checkouts, who wait.
BATCHES = 2


@dataclass(frozen=True, slots=True)
class Service:
    """What every route may use."""

    parts: Parts
    notary: Notary
    settings: Settings
    metrics: Metrics
    #: Room in this process for batches that are under way, and for one that is refused to be sent.
    batches: BoundedSemaphore = field(default_factory=lambda: BoundedSemaphore(BATCHES))
    refusals: BoundedSemaphore = field(default_factory=BoundedSemaphore)
    #: What reads and assesses their lines: the server's threads only pass on what there is, for a
    #: caller may send all lines before reading an answer. A thread has connections: these are kept.
    readers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(BATCHES))


Handle = Callable[Concatenate[Service, Caller, ...], Response]
JSON = "application/json"
NDJSON = "application/x-ndjson"
TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one path. `roles`: any of these; none: no key is asked for.

    `answers` gives, by status, the type of the JSON that is answered, several in a tuple, or the
    media type of what is no JSON. `problems` are the statuses of problems beyond those that follow
    from the rest: see `statuses`.
    """

    method: str
    path: str
    handle: Handle
    tag: str
    roles: tuple[str, ...] = ()
    body: Any = None
    answers: Mapping[int, Any] = field(default_factory=dict)
    stays: bool | None = None  # open after operation has ceased; None: what only reads does
    query: Mapping[str, Any] = field(default_factory=dict)  # types of what may follow after a "?"
    required: tuple[str, ...] = ()  # and of those the ones that must
    most: int = LIMIT  # bytes of a body
    problems: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """What the operation is called in the document."""
        return self.handle.__name__

    @property
    def says(self) -> str:
        """What the operation does, in the words of its handler, in one line."""
        return " ".join((self.handle.__doc__ or "").split())

    @property
    def open(self) -> bool:
        """Whether it still answers after operation has ceased."""
        return self.method == "GET" if self.stays is None else self.stays

    @property
    def statuses(self) -> list[int]:
        """The statuses of problems that it may answer, but for faults of ours."""
        found = {*self.problems}
        if self.roles:
            found |= {401, 403, 503} if self.open else {401, 403, 410, 503}
        if self.body is not None:
            found |= {400, 413, 415}
        if self.query:
            found |= {400, 404}
        if "{" in self.path:
            found |= {404}
        return sorted(found)

    @property
    def rule(self) -> str:
        """The path as Flask writes it; a member's id may hold a slash."""
        rule = self.path.replace("{member_id}", "{path:member_id}")
        rule = rule.replace("{assessment_id}", "{assessment:assessment_id}")
        return rule.replace("{", "<").replace("}", ">")


class AssessmentId(BaseConverter):
    """Anything but the last word of the route for batches: who reads there is told 405, not 404."""

    regex = r"(?!batch\Z)[^/]+"
    part_isolating = True


def add(app: Flask, service: Service, route: Route) -> None:
    """Let `app` answer `route`, once the caller's key is found to have one of its roles."""
    stays, handle, roles = route.open, route.handle, frozenset(route.roles)
    ledger, names = service.parts.ledger, bool(route.query) or "{" in route.path
    steady = service.parts.keys.ring.steady
    named = tuple(role for role in keys.ROLES if role in roles)
    if isinstance(route.body, type):
        json.Decoder(route.body)  # worked out here, before there are threads: see `given`

    def view(**values: str) -> Response:
        if not named:
            return handle(service, ANYBODY, **values)
        environ = request.environ
        try:
            who = keys.caller(ledger, environ.get("HTTP_AUTHORIZATION"), named)
            if who.ceased and not stays:
                raise Ceased("operation has ceased: nothing is collected or scored any more")
            if names:
                readable(environ)
            with steady:  # no token changes under a call
                return handle(service, who, **values)
        except SectionFourError:  # most callers listen only once all is sent
            if route.most == LIMIT:
                body.discard()
            elif service.refusals.acquire(blocking=False):
                try:
                    body.discard(route.most)
                finally:
                    service.refusals.release()
            raise

    app.add_url_rule(route.rule, f"{route.method} {route.path}", view, methods=[route.method])


def readable(environ: Mapping[str, str]) -> None:
    """NotFound for a path or a query with a NUL: PostgreSQL has no such text. Of a body the schemas
    refuse it."""
    if "\0" in environ.get("PATH_INFO", "") or "%00" in environ.get("QUERY_STRING", ""):
        raise NotFound("nothing here has such a name")


def answer(value: Any, status: int = 200) -> Response:
    """Return `value` as JSON."""
    return Response(json.encode(value), status, content_type=JSON)
