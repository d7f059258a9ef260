"""Cases: what a human is to look at, the verdict, and who it is about, where that must be known.

An analyst sees tokens that are made for one case alone. To be told a name takes a purpose, a reason
and a second person; it is told once, and each step is in the log.
"""

from __future__ import annotations

import secrets
from typing import Any, Literal

import msgspec
from flask import Response, request
from msgspec import Struct

from sectionfour.decisions import cases
from sectionfour.decisions.cases import Measure, Verdict
from sectionfour.domain import Event, Raw, instant
from sectionfour.errors import BadRequest, Conflict, Forbidden, NotFound
from sectionfour.parts import Parts
from sectionfour.privacy import entries
from sectionfour.privacy.rights import WORDS
from sectionfour.web import body, labels, schemas
from sectionfour.web.keys import Caller
from sectionfour.web.routes import Route, Service, answer

MOST = 500
#: How long one may take from asking who it is to being told, in microseconds.
LIFE = 24 * 3600 * 1_000_000
MINUTE = 60_000_000


class VerdictBody(Raw, frozen=True, kw_only=True):
    """`measure` is what is done about it; one against a person needs a verdict that carries it."""

    verdict: Verdict
    note: schemas.Long = ""
    measure: Measure = "none"


class ReidentifyBody(Raw, frozen=True, kw_only=True):
    purpose: schemas.Key
    reason: schemas.Long


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


class Given(Struct, kw_only=True):
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
    verdicts: list[Given]


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


# --- to read


def list_cases(service: Service, who: Caller) -> Response:
    """The cases that are open (`?state=closed`: closed), oldest first, 100 or `?limit=` at once."""
    state = request.args.get("state", "open")
    if state not in ("open", "closed"):
        raise BadRequest("state must be open or closed", pointer="/state")
    limit, after = request.args.get("limit", "100"), request.args.get("after", "")
    if not limit.isascii() or not limit.isdigit() or not 1 <= int(limit[:9]) <= MOST:
        raise BadRequest(f"limit must be from 1 to {MOST}", pointer="/limit")
    place = (-1, "")
    if after:
        found = None if "\0" in after else service.parts.ledger.case(after)
        if found is None:
            raise BadRequest("after is the id of a case", pointer="/after")
        place = (found[2], found[0])
    rows = service.parts.ledger.cases(state, place, int(limit[:9]))
    said: dict[str, Any] = {"cases": [_case(row) for row in rows]}
    if len(rows) == int(limit[:9]):
        said["next"] = rows[-1][0]
    return answer(said)


def read_case(service: Service, who: Caller, case_id: str) -> Response:
    """One case: the answer, what was seen under tokens of this case, and the verdicts."""
    parts, row = service.parts, _found(service.parts, case_id)
    given = [
        {
            "verdict_id": name,
            "at": instant(at),
            "verdict": said,
            "measure": measure,
            "note": "" if note is None else parts.keys.ring.unseal(WORDS, note, name),
            "decided_by": by,
            "label_id": label,
        }
        for name, at, said, measure, note, by, label in parts.ledger.verdicts(case_id)
    ]
    event = parts.ledger.event(_told(row)["event_id"])
    seen = {} if event is None else _seen(parts, event, case_id)
    return answer(_case(row) | {"seen": seen, "verdicts": given})


def _found(parts: Parts, case_id: str) -> tuple[Any, ...]:
    row = parts.ledger.case(case_id)
    if row is None:
        raise NotFound("there is no case of this id")
    return row


def _told(row: tuple[Any, ...]) -> dict[str, Any]:
    """Return the answer of a case's assessment; after an erasure there is nothing in it."""
    found: dict[str, Any] = msgspec.json.decode(row[6] or b'{"event_id": ""}')
    return found


def _case(row: tuple[Any, ...]) -> dict[str, Any]:
    case_id, assessment_id, at, why, state, _, said, _ = row
    return {
        "case_id": case_id,
        "assessment_id": assessment_id,
        "opened_at": instant(at),
        "why": why,
        "state": state,
        "assessment": msgspec.Raw(said or b"{}"),
        "receipt": f"/v1/receipts/{assessment_id}",
        "appeal": f"/v1/assessments/{assessment_id}/review",
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
    cases.check(given.verdict, given.measure)
    parts, row = service.parts, _found(service.parts, case_id)
    before = parts.ledger.verdicts(case_id)
    if row[4] == "closed":
        ours = (given.verdict, given.measure, who.key_id)
        if not before or (*before[-1][2:4], before[-1][5]) != ours:
            raise Conflict("the case is closed; an appeal opens it again")
        return answer(_kept(row, before[-1]) | {"warnings": warnings})
    told = _told(row)
    name = f"{case_id.replace('cs_', 'vd_')}.{len(before) + 1}"
    label_id = None
    if parts.ledger.event(told["event_id"]) is not None:
        label_id = labels.record(
            parts,
            schemas.LabelBody(
                label=given.verdict, source="analyst", label_id=name, event_id=told["event_id"]
            ),
        )[0].label_id
    note = parts.keys.ring.seal(WORDS, given.note, name) if given.note else None
    at = parts.clock()
    kept = (name, case_id, at, given.verdict, given.measure, note, who.key_id, label_id)
    parts.ledger.add_verdict(kept, entries.verdict(*kept))
    said = _kept(row, (name, at, given.verdict, given.measure, note, who.key_id, label_id))
    return answer(said | {"warnings": warnings}, 201)


def _kept(row: tuple[Any, ...], verdict: tuple[Any, ...]) -> dict[str, Any]:
    name, _, said, measure, _, _, label_id = verdict
    told = _told(row)
    return {
        "case_id": row[0],
        "state": "closed",
        "verdict_id": name,
        "verdict": said,
        "label_id": label_id,
        "measure": {
            "action": measure,
            "reasons": [reason["code"] for reason in told.get("reasons", [])],
            "receipt": f"/v1/receipts/{row[1]}",
            "appeal": f"/v1/assessments/{row[1]}/review",
        },
    }


# --- who it is


def ask_reidentification(service: Service, who: Caller, case_id: str) -> Response:
    """Ask who a case is about: a security purpose, a reason. Another key must approve."""
    given, _, warnings = body.read(ReidentifyBody)
    parts = service.parts
    if given.purpose not in parts.regime.umbrella_purposes:
        raise BadRequest("must be one of the security purposes", pointer="/purpose")
    if not given.reason.strip():
        raise BadRequest("say why", pointer="/reason")
    row = _found(parts, case_id)
    if row[7] is None:
        raise Conflict("this case is about nobody that is known")
    if row[4] != "open":
        raise Conflict("the case is closed; an appeal opens it again")
    at, name = parts.clock(), f"ri_{secrets.token_hex(12)}"
    reason = parts.keys.ring.seal(WORDS, given.reason, name)
    kept = (name, case_id, at, given.purpose, reason, who.key_id, at + LIFE)
    leaf = entries.reidentification(
        name, case_id, "requested", at, who.key_id, given.purpose, reason
    )
    parts.ledger.ask_reidentification(kept, leaf)
    return answer(_asked(kept, "requested") | {"warnings": warnings}, 201)


def approve_reidentification(service: Service, who: Caller, reidentification_id: str) -> Response:
    """Let an analyst be told who a case is about. Not by the key that asked."""
    parts, at = service.parts, service.parts.clock()
    row = _live(parts, reidentification_id, at)
    if row[5] == who.key_id:
        raise Forbidden("whoever asks does not approve")
    if row[7] is not None or not _step(parts, row, "approved", at, who.key_id):
        raise Conflict("it is approved already")
    return answer(_asked(row, "approved"))


def tell_reidentification(service: Service, who: Caller, reidentification_id: str) -> Response:
    """Tell who a case is about: once, to the key that asked, once it is approved."""
    parts, at = service.parts, service.parts.clock()
    row = _live(parts, reidentification_id, at)
    if row[5] != who.key_id:
        raise Forbidden("only the key that asked is told")
    if row[7] is None:
        raise Conflict("it is not approved yet")
    # Recorded first: whoever breaks off after this has had the one answer.
    if row[9] is not None or not _step(parts, row, "answered", at, who.key_id):
        raise Conflict("it was told already, and is told once")
    subject = _found(parts, row[1])[7]
    member = None if subject is None else parts.keys.member_of(subject)
    return answer(
        {"reidentification_id": reidentification_id, "case_id": row[1], "member_id": member}
    )


def _live(parts: Parts, name: str, at: int) -> tuple[Any, ...]:
    row = parts.ledger.reidentification(name)
    if row is None:
        raise NotFound("there is no re-identification of this id")
    if at >= row[6]:
        raise Conflict("it has expired: ask again")
    return row


def _step(parts: Parts, row: tuple[Any, ...], step: str, at: int, by: str) -> bool:
    leaf = entries.reidentification(row[0], row[1], step, at, by, row[3], row[4])
    return parts.ledger.step_reidentification(row[0], step, at, leaf, by)


def _asked(row: tuple[Any, ...], state: str) -> dict[str, Any]:
    return {
        "reidentification_id": row[0],
        "case_id": row[1],
        "state": state,
        "expires_at": instant(row[6]),
    }


ROUTES = (
    Route(
        method="GET",
        path="/v1/cases",
        handle=list_cases,
        tag="Cases",
        roles=("analyst",),
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
    ),
    Route(
        method="POST",
        path="/v1/cases/{case_id}/reidentify",
        handle=ask_reidentification,
        tag="Cases",
        roles=("analyst",),
        body=ReidentifyBody,
        answers={201: Reidentification},
    ),
    Route(
        method="POST",
        path="/v1/reidentifications/{reidentification_id}/approve",
        handle=approve_reidentification,
        tag="Cases",
        roles=("privacy",),
        answers={200: Reidentification},
    ),
    Route(
        method="POST",
        path="/v1/reidentifications/{reidentification_id}/tell",
        handle=tell_reidentification,
        tag="Cases",
        roles=("analyst",),
        answers={200: Told},
    ),
)
