"""Notices and consents: what members were told, what they said yes to, and when they took it back.

A record is for one member, on one version of one notice; a withdrawal is on disk before it is
acknowledged, and the gate reads the ledger at every call.
"""

from __future__ import annotations

import calendar
import re
import secrets
from datetime import datetime, timedelta
from typing import Annotated, Literal

from flask import Response
from msgspec import Meta, Struct

from sectionfour.domain import SECOND, Notice, instant, instant_or_none, micros
from sectionfour.errors import BadRequest, Conflict, NotFound
from sectionfour.given import Identifier, Instant, Raw
from sectionfour.learning import audit
from sectionfour.privacy import consent, entries
from sectionfour.privacy.consent import ConsentEvent
from sectionfour.privacy.regime import Regime
from sectionfour.web import body
from sectionfour.web.body import Warnings
from sectionfour.web.keys import Caller
from sectionfour.web.routes import Route, Service, answer
from sectionfour.web.schemas import Digest, Key, Keys, Name, Warned

#: How far ahead of ours a caller's clock may be.
CLOCK_SKEW = 5 * SECOND

Language = Annotated[
    str,
    Meta(
        min_length=2,
        max_length=35,
        pattern=r"^[A-Za-z0-9-]+(?![\s\S])",
        description="a language tag, like zh-CN",
    ),
]


class NoticeBody(Raw, frozen=True, kw_only=True):
    """A version of a privacy notice. `material`: consent to earlier versions no longer holds."""

    version: Name
    language: Language
    text_sha256: Digest
    purposes: Keys
    categories: Keys
    valid_from: Instant
    material: bool = True


class NoticeRef(Raw, frozen=True, kw_only=True):
    id: Name
    version: Name


class ConsentBody(Raw, frozen=True, kw_only=True):
    """A yes, or a no. A category may name a type of document: "identity.document:passport"."""

    member_id: Identifier
    notice: NoticeRef
    purpose: Key
    categories: Keys
    event_type: Literal["explicitly_expressed", "implicitly_expressed"]
    event_time: Instant
    source: Annotated[str, Meta(min_length=1, max_length=160)] = "first_party"
    event_state: Annotated[
        Literal["consent_given", "consent_refused"], Meta(description="a no is recorded, too")
    ] = "consent_given"
    validity_duration: Annotated[str, Meta(max_length=32, description="ISO 8601: P1Y")] | None = (
        None
    )


class NoticeKept(Struct):
    """`purposes` with the umbrella spelt out."""

    id: str
    version: str
    language: str
    text_sha256: str
    purposes: list[str]
    categories: list[str]
    valid_from: str
    material: bool
    warnings: list[Warned]


class ConsentKept(Struct):
    record_id: str
    event_state: str
    purposes: list[str]
    warnings: list[Warned]


class ConsentEnded(Struct):
    record_id: str
    event_state: str


class ConsentHappened(Struct):
    event_state: str
    event_time: str


class ConsentRecord(Struct):
    record_id: str
    event_state: str
    purpose: str
    purposes: list[str]
    categories: list[str]
    source: str
    notice: NoticeRef
    event_type: str
    expires_at: str | None
    events: list[ConsentHappened]


class Consents(Struct):
    records: list[ConsentRecord]


# --- notices


def put_notice(service: Service, who: Caller, notice_id: str) -> Response:
    """Record a version of a notice. Repeated it is no news; changed content needs a new version."""
    given, _, warnings = body.read(NoticeBody)
    regime = service.parts.regime
    if not _NOTICE_ID.fullmatch(notice_id):
        raise BadRequest("a notice's id has letters, digits, and . _ - @, up to 64", pointer="")
    purposes = _spelt_out(regime, given.purposes)
    for place, category in enumerate(given.categories):
        regime.data(category, pointer=f"/categories/{place}")
    notice = Notice(
        notice_id=notice_id,
        version=given.version,
        language=given.language,
        text_sha256=given.text_sha256,
        purposes=given.purposes,
        categories=given.categories,
        valid_from=micros(given.valid_from),
        material=given.material,
    )
    said = {
        "id": notice_id,
        "version": notice.version,
        "language": notice.language,
        "text_sha256": notice.text_sha256,
        "purposes": purposes,
        "categories": list(notice.categories),
        "valid_from": instant(notice.valid_from),
        "material": notice.material,
    }
    service.parts.ledger.add_notice(notice, entries.notice(regime, notice, service.parts.clock()))
    return answer(said | {"warnings": warnings})


_NOTICE_ID = re.compile(r"[\w.@-]{1,64}")


def _spelt_out(regime: Regime, purposes: tuple[str, ...]) -> list[str]:
    """Return what a notice's purposes stand for, each once, in their order."""
    found: dict[str, None] = {}
    for place, name in enumerate(purposes):
        found |= dict.fromkeys(regime.stands_for(name, pointer=f"/purposes/{place}"))
    return list(found)


# --- consents


def give_consent(service: Service, who: Caller) -> Response:
    """Record a consent, or a no: per purpose, category and source, on a version of a notice. Of
    yes and no to one thing the later counts. The same sent again is the same record.

    Personally sensitive categories need an explicitly expressed consent of their own; named
    beside others they are recorded, and a warning says that this is no basis for them.
    """
    given, _, warnings = body.read(ConsentBody)
    parts = service.parts
    at = parts.clock()
    notice = parts.ledger.notice(given.notice.id, given.notice.version)
    if notice is None:
        raise NotFound("this version of the notice is not recorded", pointer="/notice")
    if notice.valid_from > at:
        raise Conflict("this version of the notice is not in force yet", pointer="/notice")
    purposes = parts.regime.stands_for(given.purpose)
    if not set(purposes).issubset(_spelt_out(parts.regime, notice.purposes)):
        raise BadRequest("the notice does not name this purpose", pointer="/purpose")
    for place, category in enumerate(given.categories):
        rule = parts.regime.data(category, pointer=f"/categories/{place}")
        if not {category, rule.key}.intersection(notice.categories):
            raise BadRequest(
                "the notice does not name this category", pointer=f"/categories/{place}"
            )
    parts.regime.source(given.source)
    event_time = micros(given.event_time)
    if event_time > at + CLOCK_SKEW:
        raise BadRequest("a consent is recorded once it is given", pointer="/event_time")
    expires_at = None
    if given.validity_duration is not None:
        expires_at = micros(_after(given.event_time, given.validity_duration))
    subject = parts.keys.subject(given.member_id, enrol=True)
    assert subject is not None  # enrolled
    event = ConsentEvent(
        seq=0,
        record_id=f"cr_{secrets.token_hex(12)}",
        purpose=given.purpose,
        categories=frozenset(given.categories),
        source=given.source,
        notice_id=notice.notice_id,
        notice_version=notice.version,
        event_type=given.event_type,
        event_state=given.event_state,
        # What a clock ahead of ours says has just happened has happened: it holds from now on.
        event_time=min(event_time, at - 1),
        expires_at=expires_at,
        superseded=False,
    )
    leaf = entries.consent(parts.keys, subject, event, at)
    record_id = parts.ledger.give_consent(subject, event, event_time, at, leaf)
    if event.event_state == consent.REFUSED:
        audit.drop_if_ended(parts, subject, at)
    kept = parts.ledger.consent_record(record_id, at)
    assert kept is not None  # just recorded
    said = {
        "record_id": record_id,
        "event_state": consent.state(kept[1], at),
        "purposes": list(purposes),
        "warnings": warnings + _no_basis(parts.regime, given),
    }
    return answer(said, 201)


def _no_basis(regime: Regime, given: ConsentBody) -> Warnings:
    """Warn of each category that this consent is no basis for."""
    if given.event_state != consent.GIVEN:
        return []
    explicit = given.event_type == consent.EXPLICIT
    alone = len(set(given.categories)) == 1
    umbrella = given.purpose == regime.umbrella
    found = []
    for place, key in enumerate(given.categories):
        rule = regime.data(key)
        how = rule.security
        denied = (how if umbrella else regime.admission(given.purpose, rule.key)) == "denied"
        if how == "explicit" and not (explicit and alone):
            text = f"{key} is sensitive: it needs an explicitly expressed consent of its own"
        elif rule.types and key == rule.key:
            text = (
                f"{key} without a type is no basis for any one type of document:"
                f" name it, like {key}:{rule.types[0]}"
            )
        elif denied and umbrella:
            text = f"{key} is not among what section Four lists: name the very purpose"
        elif denied and not explicit:
            text = f"{key} was not collected for this: it needs an explicitly expressed consent"
        else:
            continue
        pointer = f"/categories/{place}"
        found.append({"code": "no_basis", "input_pointer": pointer, "warning": text})
    return found


def withdraw_consent(service: Service, who: Caller, record_id: str) -> Response:
    """Take a consent back. It holds for the next call, on every worker; again is no news."""
    parts = service.parts
    at = parts.clock()
    found = parts.ledger.consent_record(record_id, at)
    if found is None:
        raise NotFound("there is no consent record of this id")
    subject, events = found
    if consent.state(events, at) != consent.WITHDRAWN:
        event = events[0]._replace(event_state=consent.WITHDRAWN, event_time=at)
        leaf = entries.consent(parts.keys, subject, event, at)
        parts.ledger.add_consent_event(subject, event, at, leaf)
    audit.drop_if_ended(parts, subject, parts.clock())
    return answer({"record_id": record_id, "event_state": consent.WITHDRAWN})


def list_consents(service: Service, who: Caller, member_id: str) -> Response:
    """Every consent record of a member, with the state that it folds to now.

    A member never met has none, like one who never gave any.
    """
    parts = service.parts
    at = parts.clock()
    subject = parts.keys.subject(member_id)
    events = [] if subject is None else parts.ledger.consents(subject, at)
    records = [_record(parts.regime, of, at) for of in consent.by_record(events).values()]
    return answer({"records": records})


def _record(regime: Regime, events: list[ConsentEvent], at: int) -> dict[str, object]:
    first = events[0]
    return {
        "record_id": first.record_id,
        "event_state": consent.state(events, at),
        "purpose": first.purpose,
        "purposes": list(regime.stands_for(first.purpose)),
        "categories": sorted(first.categories),
        "source": first.source,
        "notice": {"id": first.notice_id, "version": first.notice_version},
        "event_type": first.event_type,
        "expires_at": instant_or_none(first.expires_at),
        "events": [
            {"event_state": event.event_state, "event_time": instant(event.event_time)}
            for event in events
        ],
    }


# --- durations

_DURATION = re.compile(
    r"P(?=\d|T\d)(?:(\d{1,4})Y)?(?:(\d{1,5})M)?(?:(\d{1,5})W)?(?:(\d{1,7})D)?"
    r"(?:T(?=\d)(?:(\d{1,7})H)?(?:(\d{1,9})M)?(?:(\d{1,9})S)?)?"
)


def _after(start: datetime, duration: str) -> datetime:
    """Return the end of an ISO 8601 duration from `start`; years and months as the calendar has.

    >>> from datetime import UTC
    >>> _after(datetime(2028, 2, 29, tzinfo=UTC), "P1YT12H").isoformat()
    '2029-02-28T12:00:00+00:00'
    """
    pointer = "/validity_duration"
    match = _DURATION.fullmatch(duration)
    if match is None:
        raise BadRequest("a duration in ISO 8601, like P1Y, P30D or PT12H", pointer=pointer)
    years, months, weeks, days, hours, minutes, seconds = (int(n or 0) for n in match.groups())
    carried, month = divmod(start.month - 1 + months, 12)
    year = start.year + years + carried
    try:
        day = min(start.day, calendar.monthrange(year, month + 1)[1])
        end = start.replace(year=year, month=month + 1, day=day) + timedelta(
            weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds
        )
    except (ValueError, OverflowError):
        raise BadRequest("ends later than any calendar has", pointer=pointer) from None
    if end <= start:
        raise BadRequest("a consent holds for some time", pointer=pointer)
    return end


ROUTES = (
    Route(
        method="PUT",
        path="/v1/notices/{notice_id}",
        handle=put_notice,
        tag="Consent",
        roles=("consent",),
        body=NoticeBody,
        answers={200: NoticeKept},
        problems=(409,),
    ),
    Route(
        method="POST",
        path="/v1/consents",
        handle=give_consent,
        tag="Consent",
        roles=("consent",),
        body=ConsentBody,
        answers={201: ConsentKept},
        problems=(404, 409),
    ),
    Route(
        method="POST",
        path="/v1/consents/{record_id}/withdraw",
        handle=withdraw_consent,
        stays=True,
        tag="Consent",
        roles=("consent",),
        answers={200: ConsentEnded},
    ),
    Route(
        method="GET",
        path="/v1/members/{member_id}/consents",
        handle=list_consents,
        tag="Consent",
        roles=("consent", "privacy"),
        answers={200: Consents},
    ),
)
