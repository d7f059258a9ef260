"""Who a case is about: asked for with a purpose and a reason, approved by another key, told once.

Each step is in the log. `cases` shows tokens alone.
"""

from __future__ import annotations

import secrets
from typing import Any

from flask import Response
from msgspec import Struct

from sectionfour.domain import DAY, instant
from sectionfour.errors import BadRequest, Conflict, Forbidden, NotFound
from sectionfour.given import Raw
from sectionfour.parts import Parts
from sectionfour.privacy import entries
from sectionfour.privacy.rights import WORDS
from sectionfour.stores.ledger.cases import ReidentificationRow
from sectionfour.web import body, cases, schemas
from sectionfour.web.keys import Caller
from sectionfour.web.routes import Route, Service, answer

#: How long one may take from asking who it is to being told, in microseconds.
LIFE = DAY


class ReidentifyBody(Raw, frozen=True, kw_only=True):
    purpose: schemas.Key
    reason: schemas.Long


class Reidentification(Struct, kw_only=True):
    reidentification_id: str
    case_id: str
    state: str
    expires_at: str
    warnings: list[schemas.Warned] = []


class Told(Struct):
    """`member_id` is null where nobody is known under this token any more."""

    reidentification_id: str
    case_id: str
    member_id: str | None


def ask_reidentification(service: Service, who: Caller, case_id: str) -> Response:
    """Ask who a case is about: a security purpose, a reason. Another key must approve."""
    given, _, warnings = body.read(ReidentifyBody)
    parts = service.parts
    if given.purpose not in parts.regime.umbrella_purposes:
        raise BadRequest("must be one of the security purposes", pointer="/purpose")
    if not given.reason.strip():
        raise BadRequest("say why", pointer="/reason")
    row = cases.found(parts, case_id)
    if row.subject is None:
        raise Conflict("this case is about nobody that is known")
    if row.state != "open":
        raise Conflict("the case is closed; an appeal opens it again")
    at, name = parts.clock(), f"ri_{secrets.token_hex(12)}"
    reason = parts.keys.ring.seal(WORDS, given.reason, name)
    kept = ReidentificationRow(
        name, case_id, at, given.purpose, reason, asked_by=who.key_id, expires_at=at + LIFE
    )
    leaf = entries.reidentification(
        name, case_id, "requested", at, who.key_id, given.purpose, reason
    )
    parts.ledger.ask_reidentification(kept, leaf)
    return answer(_asked(kept, "requested") | {"warnings": warnings}, 201)


def approve_reidentification(service: Service, who: Caller, reidentification_id: str) -> Response:
    """Let an analyst be told who a case is about. Not by the key that asked."""
    parts, at = service.parts, service.parts.clock()
    row = _live(parts, reidentification_id, at)
    if row.asked_by == who.key_id:
        raise Forbidden("whoever asks does not approve")
    if row.approved_by is not None or not _step(parts, row, "approved", at, who.key_id):
        raise Conflict("it is approved already")
    return answer(_asked(row, "approved"))


def tell_reidentification(service: Service, who: Caller, reidentification_id: str) -> Response:
    """Tell who a case is about: once, to the key that asked, once it is approved."""
    parts, at = service.parts, service.parts.clock()
    row = _live(parts, reidentification_id, at)
    if row.asked_by != who.key_id:
        raise Forbidden("only the key that asked is told")
    if row.approved_by is None:
        raise Conflict("it is not approved yet")
    # Recorded first: whoever breaks off after this has had the one answer.
    if row.answered_at is not None or not _step(parts, row, "answered", at, who.key_id):
        raise Conflict("it was told already, and is told once")
    subject = cases.found(parts, row.case_id).subject
    member = None if subject is None else parts.keys.member_of(subject)
    return answer(
        {"reidentification_id": reidentification_id, "case_id": row.case_id, "member_id": member}
    )


def _live(parts: Parts, name: str, at: int) -> ReidentificationRow:
    row = parts.ledger.reidentification(name)
    if row is None:
        raise NotFound("there is no re-identification of this id")
    if at >= row.expires_at:
        raise Conflict("it has expired: ask again")
    return row


def _step(parts: Parts, row: ReidentificationRow, step: str, at: int, by: str) -> bool:
    name = row.reidentification_id
    leaf = entries.reidentification(name, row.case_id, step, at, by, row.purpose, row.reason)
    return parts.ledger.step_reidentification(name, step, at, leaf, by)


def _asked(row: ReidentificationRow, state: str) -> dict[str, Any]:
    return {
        "reidentification_id": row.reidentification_id,
        "case_id": row.case_id,
        "state": state,
        "expires_at": instant(row.expires_at),
    }


ROUTES = (
    Route(
        method="POST",
        path="/v1/cases/{case_id}/reidentify",
        handle=ask_reidentification,
        tag="Cases",
        roles=("analyst",),
        body=ReidentifyBody,
        answers={201: Reidentification},
        problems=(409,),
    ),
    Route(
        method="POST",
        path="/v1/reidentifications/{reidentification_id}/approve",
        handle=approve_reidentification,
        tag="Cases",
        roles=("privacy",),
        answers={200: Reidentification},
        problems=(409,),
    ),
    Route(
        method="POST",
        path="/v1/reidentifications/{reidentification_id}/tell",
        handle=tell_reidentification,
        tag="Cases",
        roles=("analyst",),
        answers={200: Told},
        problems=(409,),
    ),
)
