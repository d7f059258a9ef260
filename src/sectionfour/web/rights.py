"""Rights of a person: a copy of everything, and to be forgotten."""

from __future__ import annotations

from typing import Any, Literal

from flask import Response
from msgspec import Struct

from sectionfour.domain import Trigger, instant, instant_or_none
from sectionfour.errors import NotFound
from sectionfour.features.catalog import NAMES
from sectionfour.given import Raw
from sectionfour.parts import Parts
from sectionfour.privacy import erasure, rights
from sectionfour.web import body
from sectionfour.web.keys import Caller
from sectionfour.web.routes import JSON, Route, Service, answer
from sectionfour.web.schemas import Warned


class ErasureBody(Raw, frozen=True, kw_only=True):
    """Why somebody is to be forgotten."""

    trigger: Trigger


#: `held`: a law holds what is theirs, and it is begun when that is over; until then nothing is due.
State = Literal["held", "running", "retrain_due", "completed"]


class ErasureAsked(Struct, frozen=True, kw_only=True):
    erasure_id: str
    state: State
    due_at: str | None
    warnings: list[Warned] = []


class ErasureTarget(Struct, frozen=True, kw_only=True):
    """What became of one store; `retained` names a law and an end, `retrain_due` a date."""

    store: str
    action: Literal["deleted", "shredded", "anonymised", "retained", "retrain_due", "retrained"]
    rows: int
    law: str | None = None
    until: str | None = None
    due: str | None = None
    done_by: str | None = None


class Erasure(Struct, frozen=True, kw_only=True):
    erasure_id: str
    trigger: str
    state: State
    requested_at: str
    due_at: str | None
    completed_at: str | None
    targets: list[ErasureTarget]


def export_member(service: Service, who: Caller, member_id: str) -> Response:
    """Everything held about one person, for that person; sent as it is read, and kept nowhere."""
    parts = service.parts
    pieces = rights.export(
        parts, service.notary, member_id, by=who.key_id, names=NAMES, at=parts.clock()
    )
    return Response(pieces, content_type=JSON)


def erase_member(service: Service, who: Caller, member_id: str) -> Response:
    """Forget a member, at once where that can be, the rest by a date. Again, for a day, it is the
    same erasure. Where a law holds what is theirs it is begun when that is over."""
    given, _, warnings = body.read(ErasureBody)
    parts = service.parts
    case = erasure.erase(parts, member_id, given.trigger, parts.clock())
    said = told(parts, case.erasure_id)
    if case.waits:
        warnings = [*warnings, {"code": "held", "input_pointer": "", "warning": erasure.HELD}]
    kept = {key: said[key] for key in ("erasure_id", "state", "due_at")}
    return answer(kept | {"warnings": warnings}, 202)


def read_erasure(service: Service, who: Caller, erasure_id: str) -> Response:
    """What became of every store: deleted, shredded, anonymised, or retained by which law and
    until when; and which models are to be trained anew, by when."""
    return answer(told(service.parts, erasure_id))


def told(parts: Parts, erasure_id: str) -> dict[str, Any]:
    """Return what is said of an erasure; NotFound where there is none of this id."""
    case = parts.ledger.erasure(erasure_id)
    if case is None:
        raise NotFound("there is no erasure of this id")
    anew = erasure.models_done(parts, erasure_id)
    targets, due = [], False
    for target in parts.ledger.targets(erasure_id):
        action, done_by = target.action, target.done_by
        if action == "retrain_due":
            done_by = anew.get(target.store.partition(":")[2].partition("/")[0])
            action = "retrained" if done_by else action
            due = due or done_by is None
        targets.append(
            {
                "store": target.store,
                "action": action,
                "rows": target.rows,
                "law": target.law,
                "until": instant_or_none(target.until),
                "due": instant_or_none(target.due),
                "done_by": done_by,
            }
        )
    state = "completed"
    if case.completed_at is None:
        state = "held" if case.waits else "running"
    elif due:
        state = "retrain_due"
    return {
        "erasure_id": erasure_id,
        "trigger": case.trigger,
        "state": state,
        "requested_at": instant(case.requested_at),
        "due_at": None if case.waits else instant(case.due_at),
        "completed_at": instant_or_none(case.completed_at),
        "targets": targets,
    }


ROUTES = (
    Route(
        method="GET",
        path="/v1/members/{member_id}/export",
        handle=export_member,
        tag="Rights",
        roles=("privacy",),
        answers={200: dict[str, Any]},
    ),
    Route(
        method="POST",
        path="/v1/members/{member_id}/erasure",
        handle=erase_member,
        tag="Rights",
        roles=("privacy",),
        body=ErasureBody,
        answers={202: ErasureAsked},
    ),
    Route(
        method="GET",
        path="/v1/erasures/{erasure_id}",
        handle=read_erasure,
        tag="Rights",
        roles=("privacy",),
        answers={200: Erasure},
    ),
)
