"""Labels: what became known of an event or a member, and when.

A fraud enters the windows as an event of its own at the instant at which it became known to the
service, under the tokens of the event that it speaks of.
"""

from __future__ import annotations

from flask import Response
from msgspec import Struct
from msgspec.structs import replace

from sectionfour.domain import Event, Label, LabelName, instant, known_as, known_event, micros
from sectionfour.errors import BadRequest, Conflict, NotFound
from sectionfour.features import online
from sectionfour.given import Identifier, Instant, Raw
from sectionfour.parts import Parts
from sectionfour.privacy import entries
from sectionfour.web import body
from sectionfour.web.assess import OURS
from sectionfour.web.body import Warnings
from sectionfour.web.consents import CLOCK_SKEW
from sectionfour.web.keys import Caller
from sectionfour.web.routes import Route, Service, answer
from sectionfour.web.schemas import Name, Warned


class LabelBody(Raw, frozen=True, kw_only=True):
    """What became known: of an event, or of a member."""

    label: LabelName
    source: Name
    label_id: Identifier | None = None
    event_id: Identifier | None = None
    member_id: Identifier | None = None
    known_at: Instant | None = None


class LabelKept(Struct):
    label_id: str
    label: str
    source: str
    known_at: str
    recorded_at: str
    event_id: str | None
    warnings: list[Warned]


def add_label(service: Service, who: Caller) -> Response:
    """Record what became known. Sent again it is no news; without an id one is made from what
    it says."""
    given, _, warnings = body.read(LabelBody)
    label, new = record(service.parts, given)
    return _said(label, warnings, 201 if new else 200)


def record(parts: Parts, given: LabelBody) -> tuple[Label, bool]:
    """Record a label, in the windows too; returns it as it is kept, and whether it is new."""
    if (given.event_id is None) == (given.member_id is None):
        raise BadRequest("a label is of one event_id or of one member_id", pointer="/event_id")
    now = parts.clock()
    event, member = _of(parts, given)
    label = Label(
        label_id=given.label_id or _name(parts, given, member),
        label=given.label,
        source=given.source,
        at=now,
        known_at=now if given.known_at is None else min(now, micros(given.known_at)),
        event_id=given.event_id,
        member=None if event is not None else member,
    )
    known = parts.ledger.label(label.label_id)
    if known is not None:
        return _again(known, label), False
    if given.known_at is not None:
        _check(micros(given.known_at), event, now)
    kind = known_as(label.label)
    if kind is not None:
        label = _observed(parts, label, kind, event)
    if not parts.ledger.add_label(label, entries.label(parts.keys, label)):
        # the same was recorded since it was looked for
        known = parts.ledger.label(label.label_id)
        assert known is not None
        return _again(known, label), False
    return label, True


def _of(parts: Parts, given: LabelBody) -> tuple[Event | None, bytes | None]:
    """Return the event labelled, or None and the member's token."""
    if given.event_id is not None:
        event = parts.ledger.event(given.event_id)
        if event is None:
            raise NotFound("no event of this id was observed", pointer="/event_id")
        return event, None
    assert given.member_id is not None
    member = parts.keys.subject(given.member_id)
    if member is None:
        raise NotFound("this member has never been met", pointer="/member_id")
    return None, member


def _name(parts: Parts, given: LabelBody, member: bytes | None) -> str:
    """Return an id made from the content: the same said again is the same label."""
    event = (given.event_id or "").encode()
    said = (event, member or b"", given.label.encode(), given.source.encode())
    digest = parts.keys.ring.digest(b"".join(len(part).to_bytes(2) + part for part in said))
    return f"lb_{digest.hex()[:24]}"


def _check(known_at: int, event: Event | None, now: int) -> None:
    if known_at > now + CLOCK_SKEW:
        raise BadRequest("nothing is known before its time", pointer="/known_at")
    if event is not None and known_at < min(event.occurred_at, event.at):
        raise BadRequest("nothing is known of an event before it", pointer="/known_at")


def _observed(parts: Parts, label: Label, kind: str, event: Event | None) -> Label:
    """Let the windows see what became known; return the label with the instant at which they did.

    First the windows, then the ledger: the step is idempotent, so a label that was interrupted
    between the two is made whole when it is sent again.
    """
    if event is not None:
        seen = known_event(event, kind, label.label_id, label.at)
    else:
        seen = Event(
            event_id=f"{OURS}{label.label_id}",
            at=label.at,
            purpose="",
            type=kind,
            occurred_at=label.known_at,
            member=label.member,
        )
    at = online.read_and_observe(seen, parts.velocity)[0].at
    return replace(label, at=at, known_at=min(label.known_at, at))


def _again(known: Label, label: Label) -> Label:
    def content(of: Label) -> tuple[str | bytes | None, ...]:
        return of.label, of.source, of.event_id, of.member

    if content(known) != content(label):
        raise Conflict("this label_id is recorded with other content", pointer="/label_id")
    return known


def _said(label: Label, warnings: Warnings, status: int) -> Response:
    said = {
        "label_id": label.label_id,
        "label": label.label,
        "source": label.source,
        "known_at": instant(label.known_at),
        "recorded_at": instant(label.at),
        "event_id": label.event_id,
        "warnings": warnings,
    }
    return answer(said, status)


ROUTES = (
    Route(
        method="POST",
        path="/v1/labels",
        handle=add_label,
        tag="Labels",
        roles=("checkout", "analyst"),
        body=LabelBody,
        answers={200: LabelKept, 201: LabelKept},
        problems=(404, 409),
    ),
)
