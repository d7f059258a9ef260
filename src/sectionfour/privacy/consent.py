"""Consent records in the terms of ISO/IEC TS 27560, and the state that they fold to.

A record is a series of events, never changed; its state is a fold over them. Consent is per
purpose x category x source, on one version of one notice. What is unknown is refused.
The states carry the names of the Data Privacy Vocabulary in snake case.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

GIVEN = "consent_given"
RENEWED = "renewed_consent_given"
REFUSED = "consent_refused"
WITHDRAWN = "consent_withdrawn"
EXPIRED = "consent_expired"
INVALIDATED = "consent_invalidated"  # a newer version of the notice changed what was agreed to
UNKNOWN = "consent_unknown"

#: What says neither yes nor no: it leaves a record as it was.
_PENDING = (UNKNOWN, "consent_requested", "consent_request_deferred")

EXPLICIT = "explicitly_expressed"
IMPLICIT = "implicitly_expressed"


class ConsentEvent(NamedTuple):
    """One row of the ledger: something that happened to one consent record. Times are in us."""

    seq: int
    record_id: str
    purpose: str
    categories: frozenset[str]
    source: str
    notice_id: str
    notice_version: str
    event_type: str
    event_state: str
    event_time: int
    expires_at: int | None
    superseded: bool  # a newer version of its notice, with a material change, is in force
    over: bool = False  # the ledger has seen a later time than its end, whatever the clock says now


def state(events: Iterable[ConsentEvent], at: int) -> str:
    """Return the state at `at` of the one record whose `events`, in order, are given."""
    return _fold(events, at)[0]


def _fold(events: Iterable[ConsentEvent], at: int) -> tuple[str, ConsentEvent | None]:
    """Return the state at `at` of one record, and the giving event that it rests on.

    A withdrawal, or any other end, counts as soon as it is on record, whatever clock wrote its
    time, and for good: between a person who says no and a clock that is off, the person is right.
    Of several givings the latest before `at` counts, in whichever order they came in.
    """
    newest = None
    for event in events:
        if event.event_state in (GIVEN, RENEWED):
            later = newest is None or event.event_time >= newest.event_time
            if later and event.event_time < at:  # asked for before, not after (section Five)
                newest = event
        elif event.event_state not in _PENDING:
            return event.event_state, None
    if newest is None:
        return UNKNOWN, None
    if newest.superseded:
        return INVALIDATED, newest
    if newest.over or (newest.expires_at is not None and newest.expires_at <= at):
        return EXPIRED, newest
    return GIVEN, newest


def by_record(events: Iterable[ConsentEvent]) -> dict[str, list[ConsentEvent]]:
    """Return the events of each record, records in the order in which they began."""
    records: dict[str, list[ConsentEvent]] = {}
    for event in events:
        records.setdefault(event.record_id, []).append(event)
    return records


def live(events: Iterable[ConsentEvent], at: int) -> list[ConsentEvent]:
    """Return, newest first, the giving event of each record that stands at `at`."""
    folded = (_fold(record, at) for record in by_record(events).values())
    standing = [event for found, event in folded if found == GIVEN and event is not None]
    standing.reverse()
    return standing


def refusals(events: Iterable[ConsentEvent]) -> list[ConsentEvent]:
    """Return every no. It ends no record but its own; of yes and no to one thing the later counts
    (`is_later`), in whichever records they are."""
    return [event for event in events if event.event_state == REFUSED]


def is_later(no: ConsentEvent, yes: ConsentEvent) -> bool:
    """Whether a no was said after a yes: by their own times, and where these are one by the
    ledger's order."""
    return (no.event_time, no.seq) > (yes.event_time, yes.seq)


def end_of(events: Iterable[ConsentEvent], at: int) -> str:
    """Return, in a word, why somebody's consents are no basis: for the counts of a data sheet.

    `withdrawn`, `expired` or `invalidated` where one of them came to that end, `absent` without
    any, else `not_covered`: one stands, and is for something else.
    """
    states = {state(record, at) for record in by_record(events).values()}
    for found, word in (
        (WITHDRAWN, "withdrawn"),
        (EXPIRED, "expired"),
        (INVALIDATED, "invalidated"),
        (GIVEN, "not_covered"),
    ):
        if found in states:
            return word
    return "absent"
