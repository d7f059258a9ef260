"""The end of operation, over the service: one call; then 410 for what collects or scores."""

from __future__ import annotations

from typing import Annotated

from flask import Response
from msgspec import Meta, Struct

from sectionfour.domain import instant
from sectionfour.errors import BadRequest, NotFound
from sectionfour.given import Raw
from sectionfour.jobs import cessation
from sectionfour.web import body
from sectionfour.web.keys import Caller
from sectionfour.web.routes import Route, Service, answer
from sectionfour.web.schemas import LINE


class CessationBody(Raw, frozen=True, kw_only=True):
    """`announcement`: where people are told, in a line; it goes into the log and is for all."""

    announcement: Annotated[str, Meta(min_length=3, max_length=512), LINE]
    confirm: bool


class Ended(Struct):
    """`attestation`: a note signed with the log's key; null while deletion waits."""

    ceased_at: str
    announcement: str
    notified: int
    attestation: str | None
    vkey: str


def cease(service: Service, who: Caller) -> Response:
    """End operation, for good: no collection, no scoring (410); notices; everything deleted.

    Answers with a signed attestation. 409 where the law forbids to delete yet: collection has
    ceased all the same, and the same call goes on later.
    """
    given, _, _ = body.read(CessationBody)
    if not given.confirm:
        raise BadRequest("this cannot be undone: confirm it", pointer="/confirm")
    cessation.cease(
        service.parts,
        service.notary,
        service.settings,
        announcement=given.announcement,
        by=who.key_id,
    )
    return read_cessation(service, who)


def read_cessation(service: Service, who: Caller) -> Response:
    """Whether, since when and as announced where operation has ceased, and the attestation."""
    ledger = service.parts.ledger
    ending = ledger.cessation()
    if ending is None:
        raise NotFound("operation has not ceased")
    told = ledger.rows("SELECT COUNT(*) FROM notifications")[0][0]
    said = {
        "ceased_at": instant(ending.at),
        "announcement": ending.announcement,
        "notified": told,
        "attestation": ending.attestation,
        "vkey": service.notary.vkey,
    }
    return answer(said)


ROUTES = (
    Route(
        method="POST",
        path="/v1/cessation",
        handle=cease,
        tag="Cessation",
        roles=("admin",),
        body=CessationBody,
        answers={200: Ended},
        stays=True,
        problems=(409,),
    ),
    Route(
        method="GET",
        path="/v1/cessation",
        handle=read_cessation,
        tag="Cessation",
        roles=("admin", "privacy"),
        answers={200: Ended},
        problems=(404,),
    ),
)
