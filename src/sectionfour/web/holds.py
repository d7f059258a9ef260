"""Legal holds: nothing of a person, or of an order, is deleted by age while one stands.

Placed by one key of the privacy role; lifted by two different ones.
"""

from __future__ import annotations

import secrets
from typing import Annotated

from flask import Response
from msgspec import Meta, Struct

from sectionfour.domain import Leaf, instant, instant_or_none
from sectionfour.errors import BadRequest, NotFound
from sectionfour.given import Identifier, Raw
from sectionfour.privacy import entries
from sectionfour.privacy.holds import Hold, lifted
from sectionfour.web import body
from sectionfour.web.keys import Caller
from sectionfour.web.routes import Route, Service, answer
from sectionfour.web.schemas import LINE, Warned


class HoldBody(Raw, frozen=True, kw_only=True):
    """`law`: what forbids the deletion, like "Criminal Procedure Law, art. 54; case 2026-118"."""

    law: Annotated[str, Meta(min_length=3, max_length=256), LINE]
    member_id: Identifier | None = None
    order_id: Identifier | None = None


class HoldNow(Struct):
    hold_id: str
    of: str
    law: str
    placed_at: str
    lift_asked_by: str | None
    lifted_at: str | None


class HoldPlaced(Struct):
    hold_id: str
    of: str
    law: str
    placed_at: str
    warnings: list[Warned]


class Holds(Struct):
    holds: list[HoldNow]


def place_hold(service: Service, who: Caller) -> Response:
    """Place a legal hold on a person or an order: nothing of theirs is swept while it stands."""
    given, _, warnings = body.read(HoldBody)
    parts, at = service.parts, service.parts.clock()
    if (given.member_id is None) == (given.order_id is None):
        raise BadRequest("a hold is on one member_id or on one order_id", pointer="/member_id")
    subject = None if given.member_id is None else parts.keys.subject(given.member_id)
    if given.member_id is not None and subject is None:
        raise NotFound("this member has never been met", pointer="/member_id")
    hold = Hold(
        hold_id=f"lh_{secrets.token_hex(12)}",
        subject=subject,
        order_ref=None if given.order_id is None else parts.keys.order(given.order_id),
        law=given.law,
        placed_at=at,
        placed_by=who.key_id,
    )
    parts.ledger.add_hold(hold, entries.hold(parts.keys, hold, "placed", at))
    said = _said(hold)
    return answer(
        {name: said[name] for name in ("hold_id", "of", "law", "placed_at")}
        | {"warnings": warnings},
        201,
    )


def lift_hold(service: Service, who: Caller, hold_id: str) -> Response:
    """Ask for a hold to be lifted; lifted once a second, different key has asked too."""
    parts, at = service.parts, service.parts.clock()

    def change(hold: Hold) -> tuple[Hold, Leaf]:
        hold = lifted(hold, who.key_id, at)
        action = "lift_asked" if hold.lifted_at is None else "lifted"
        return hold, entries.hold(parts.keys, hold, action, at)

    hold = parts.ledger.change_hold(hold_id, change)
    if hold is None:
        raise NotFound("there is no hold of this id")
    return answer(_said(hold))


def list_holds(service: Service, who: Caller) -> Response:
    """Every hold, with what it rests on; whom or what it is on is not said."""
    return answer({"holds": [_said(hold) for hold in service.parts.ledger.holds()]})


def _said(hold: Hold) -> dict[str, str | None]:
    return {
        "hold_id": hold.hold_id,
        "of": "member" if hold.order_ref is None else "order",
        "law": hold.law,
        "placed_at": instant(hold.placed_at),
        "lift_asked_by": hold.lift_asked_by,
        "lifted_at": instant_or_none(hold.lifted_at),
    }


ROUTES = (
    Route(
        method="POST",
        path="/v1/holds",
        handle=place_hold,
        stays=True,
        tag="Retention",
        roles=("privacy",),
        body=HoldBody,
        answers={201: HoldPlaced},
        problems=(404,),
    ),
    Route(
        method="POST",
        path="/v1/holds/{hold_id}/lift",
        handle=lift_hold,
        stays=True,
        tag="Retention",
        roles=("privacy",),
        answers={200: HoldNow},
        problems=(409,),
    ),
    Route(
        method="GET",
        path="/v1/holds",
        handle=list_holds,
        tag="Retention",
        roles=("privacy",),
        answers={200: Holds},
    ),
)
