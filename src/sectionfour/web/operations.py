"""For whoever runs the service: is it up, is it ready, what has it counted."""

from __future__ import annotations

from typing import Literal

from flask import Response
from msgspec import Struct
from prometheus_client import CONTENT_TYPE_LATEST

from sectionfour import room
from sectionfour.errors import NotFound, NotReady
from sectionfour.jobs import upkeep
from sectionfour.learning import registry
from sectionfour.web.keys import Caller
from sectionfour.web.routes import TEXT, Route, Service, answer


class State(Struct):
    status: Literal["up", "ready"]


def healthz(service: Service, who: Caller) -> Response:
    """The process is up."""
    return answer({"status": "up"})


def readyz(service: Service, who: Caller) -> Response:
    """Everything that an assessment needs is there; 503 names what is not."""
    parts = service.parts
    room.look(service.settings.home)
    with parts.keys.ring.steady:  # NotReady where tokens are being replaced
        parts.ledger.flush()  # raises FailClosed where it is not, or cannot be written
    parts.ledger.size()  # or read
    if not upkeep.fresh(parts):
        raise NotReady("the windows are not those of the ledger: run `sectionfour rebuild`")
    for name in registry.NAMES:
        parts.models.get(name)  # raises RegistryError where it cannot be trusted
    return answer({"status": "ready"})


def metrics(service: Service, who: Caller) -> Response:
    """Counters and latencies, of all workers together, for Prometheus."""
    if not service.settings.metrics:
        raise NotFound("there is no such route")
    return Response(service.metrics.text(), content_type=CONTENT_TYPE_LATEST)


ROUTES = (
    Route(
        method="GET",
        path="/healthz",
        handle=healthz,
        tag="Operations",
        answers={200: State},
    ),
    Route(
        method="GET",
        path="/readyz",
        handle=readyz,
        tag="Operations",
        answers={200: State},
        problems=(503,),
    ),
    Route(
        method="GET",
        path="/metrics",
        handle=metrics,
        tag="Operations",
        answers={200: TEXT},
        problems=(404,),
    ),
)
