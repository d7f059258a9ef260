"""Cases: what a human is to look at, and the verdict.

An analyst sees tokens that are made for one case alone; who it is about is `reidentification`'s.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from flask import Response, request
from msgspec import Meta, Struct

from sectionfour.decisions import cases
from sectionfour.decisions.cases import Measure, Verdict
from sectionfour.domain import MINUTE, Event, instant
from sectionfour.errors import BadRequest, Conflict, NotFound
from sectionfour.given import Raw
from sectionfour.parts import Parts
from sectionfour.privacy import entries
from sectionfour.privacy.rights import WORDS
from sectionfour.stores.ledger.cases import CaseRow, VerdictRow
from sectionfour.web import body, labels, schemas
from sectionfour.web.keys import Caller
from sectionfour.web.routes import Route, Service, answer

MOST = 500


class VerdictBody(Raw, frozen=True, kw_only=True):
    """`measure` is what is done about it; one against a person needs a verdict that carries it."""

    verdict: Verdict
    note: schemas.Long = ""
    measure: Measure = "none"


class Case(Struct, kw_only=True):
    """`assessment` is the answer that was given."""

    case_id: str
    assessment_id: str
    opened_at: str
    why: Literal["review", "block", "appeal"]
    state: Literal["open", "closed"]
    assessment: dict[str, Any]
    receipt: str
    appeal: str


class Cases(Struct):
    """`next` goes on where this ends, as `?after=`; absent at the end."""

    cases: list[Case]
    next: str | None = None


class VerdictGiven(Struct, kw_only=True):
    """A verdict that was given."""

    verdict_id: str
    at: str
    verdict: str
    measure: str
    note: str
    decided_by: str
    label_id: str | None


class CaseWhole(Case, kw_only=True):
    """`seen` are the event's values, with identifiers under tokens of this case alone."""

    seen: dict[str, Any]
    verdicts: list[VerdictGiven]


class MeasureTaken(Struct):
    """What R-29 asks of a measure: its reasons, its receipt, and where to appeal."""

    action: str
    reasons: list[str]
    receipt: str
    appeal: str


class VerdictKept(Struct, kw_only=True):
    case_id: str
    state: str
    verdict_id: str
    verdict: str
    label_id: str | None
    measure: MeasureTaken
    warnings: list[schemas.Warned] = []


# --- to read


def list_cases(service: Service, who: Caller) -> Response:
    """The cases that are open (`?state=closed`: closed), oldest first, 100 or `?limit=` at once."""
    limit = request.args.get("limit", "100")
    if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:9]) <= MOST:
        raise BadRequest(f"limit must be from 1 to {MOST}", pointer="/limit")
    state, after = request.args.get("state", "open"), request.args.get("after", "")
    return answer(listed(service.parts, state, after, int(limit[:9])))


def listed(parts: Parts, state: str, after: str, limit: int) -> dict[str, Any]:
    """Return the cases of a state, oldest first, that follow the case `after`, as `Cases`."""
    if state not in ("open", "closed"):
        raise BadRequest("state must be open or closed", pointer="/state")
    place = (-1, "")
    if after:
        known = parts.ledger.case(after)
        if known is None:
            raise BadRequest("after is the id of a case", pointer="/after")
        place = (known.at, known.case_id)
    rows = parts.ledger.cases(state, place, limit)
    said: dict[str, Any] = {"cases": [_case(row) for row in rows]}
    if len(rows) == limit:
        said["next"] = rows[-1].case_id
    return said


def read_case(service: Service, who: Caller, case_id: str) -> Response:
    """One case: the answer, what was seen under tokens of this case, and the verdicts."""
    return answer(whole(service.parts, case_id))


def whole(parts: Parts, case_id: str) -> dict[str, Any]:
    """Return a case as `CaseWhole`."""
    row = found(parts, case_id)
    given = [
        {
            "verdict_id": one.verdict_id,
            "at": instant(one.at),
            "verdict": one.verdict,
            "measure": one.measure,
            "note": ""
            if one.note is None
            else parts.keys.ring.unseal(WORDS, one.note, one.verdict_id),
            "decided_by": one.decided_by,
            "label_id": one.label_id,
        }
        for one in parts.ledger.verdicts(case_id)
    ]
    event = parts.ledger.event(_told(row)["event_id"])
    seen = {} if event is None else _seen(parts, event, case_id)
    return _case(row) | {"seen": seen, "verdicts": given}


def found(parts: Parts, case_id: str) -> CaseRow:
    """Return the row of a case; NotFound where there is none."""
    row = parts.ledger.case(case_id)
    if row is None:
        raise NotFound("there is no case of this id")
    return row


def _told(row: CaseRow) -> dict[str, Any]:
    """Return the answer of a case's assessment; after an erasure there is nothing in it."""
    found: dict[str, Any] = msgspec.json.decode(row.answer or b'{"event_id": ""}')
    return found


def _case(row: CaseRow) -> dict[str, Any]:
    return {
        "case_id": row.case_id,
        "assessment_id": row.assessment_id,
        "opened_at": instant(row.at),
        "why": row.why,
        "state": row.state,
        "assessment": msgspec.Raw(row.answer or b"{}"),
        "receipt": f"/v1/receipts/{row.assessment_id}",
        "appeal": f"/v1/assessments/{row.assessment_id}/review",
    }


def _seen(parts: Parts, event: Event, case_id: str) -> dict[str, Any]:
    """Return an event as an analyst may see it: times to the minute, no token of another domain."""
    seen: dict[str, Any] = {}
    for name, value in msgspec.structs.asdict(event).items():
        if value is None or name in ("event_id", "at", "permitted"):
            continue
        if isinstance(value, bytes):
            seen[name] = parts.keys.alias(value, "analyst", case_id).hex()
        elif name in ("occurred_at", "registered_at"):
            seen[name] = instant(value - value % MINUTE)
        else:
            seen[name] = value
    return seen


# --- to decide


def give_verdict(service: Service, who: Caller, case_id: str) -> Response:
    """Close a case. The verdict becomes a label of its event, in the windows too.

    A measure carries the reasons of the assessment, its receipt, and where to appeal; the same
    verdict by the same key again is no news.
    """
    given, _, warnings = body.read(VerdictBody)
    said, new = close(service.parts, case_id, given, who.key_id)
    return answer(said | {"warnings": warnings}, 201 if new else 200)


def close(parts: Parts, case_id: str, given: VerdictBody, by: str) -> tuple[dict[str, Any], bool]:
    """Close a case by the verdict of the key `by`; return it as `VerdictKept`, and whether it is
    new. Conflict where the case is closed by another."""
    cases.check(given.verdict, given.measure)
    row = found(parts, case_id)
    before = parts.ledger.verdicts(case_id)
    if row.state == "closed":
        last = before[-1] if before else None
        if last is None or (last.verdict, last.measure, last.decided_by) != (
            given.verdict,
            given.measure,
            by,
        ):
            raise Conflict("the case is closed; an appeal opens it again")
        return _kept(row, last), False
    told = _told(row)
    name = f"{case_id.replace('cs_', 'vd_')}.{len(before) + 1}"
    label_id = None
    if parts.ledger.event(told["event_id"]) is not None:
        label_id = labels.record(
            parts,
            labels.LabelBody(
                label=given.verdict, source="analyst", label_id=name, event_id=told["event_id"]
            ),
        )[0].label_id
    note = parts.keys.ring.seal(WORDS, given.note, name) if given.note else None
    at = parts.clock()
    kept = VerdictRow(name, case_id, at, given.verdict, given.measure, note, by, label_id)
    parts.ledger.add_verdict(kept, entries.verdict(*kept))
    return _kept(row, kept), True


def _kept(row: CaseRow, verdict: VerdictRow) -> dict[str, Any]:
    return {
        "case_id": row.case_id,
        "state": "closed",
        "verdict_id": verdict.verdict_id,
        "verdict": verdict.verdict,
        "label_id": verdict.label_id,
        "measure": {
            "action": verdict.measure,
            "reasons": _reasons(_told(row)),
            "receipt": f"/v1/receipts/{row.assessment_id}",
            "appeal": f"/v1/assessments/{row.assessment_id}/review",
        },
    }


def _reasons(told: dict[str, Any]) -> list[str]:
    """Return the codes of what spoke against the event, and the ids of the rules that held."""
    codes = [reason["code"] for reason in told.get("reasons", [])]
    return codes + [rule["id"] for rule in told.get("rules", [])]


ROUTES = (
    Route(
        method="GET",
        path="/v1/cases",
        handle=list_cases,
        tag="Cases",
        roles=("analyst",),
        query={
            "state": Literal["open", "closed"],
            "limit": Annotated[int, Meta(ge=1, le=MOST)],
            "after": str,
        },
        answers={200: Cases},
    ),
    Route(
        method="GET",
        path="/v1/cases/{case_id}",
        handle=read_case,
        tag="Cases",
        roles=("analyst",),
        answers={200: CaseWhole},
    ),
    Route(
        method="POST",
        path="/v1/cases/{case_id}/verdict",
        handle=give_verdict,
        tag="Cases",
        roles=("analyst",),
        body=VerdictBody,
        answers={200: VerdictKept, 201: VerdictKept},
        problems=(409,),
    ),
)
