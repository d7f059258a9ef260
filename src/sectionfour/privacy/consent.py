"""Consent records in the terms of ISO/IEC TS 27560, and the state that they fold to.

A record is a series of events, never changed; its state is a fold over them. Consent is per
purpose x category x source, on one version of one notice. What is unknown is refused.
The states carry the names of the Data Privacy Vocabulary in snake case.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

GIVEN = "consent_given"
WITHDRAWN = "consent_withdrawn"
EXPIRED = "consent_expired"
INVALIDATED = "consent_invalidated"  # a newer version of the notice changed what was agreed to
UNKNOWN = "consent_unknown"

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


def state(events: Iterable[ConsentEvent], at: int) -> str:
    """Return the state at `at` of the one record whose `events`, in order, are given.

    A withdrawal counts as soon as it is on record, whatever clock wrote its time: between a
    person who says no and a clock that is off, the person is right.
    """
    found = UNKNOWN
    for event in events:
        if event.event_state == WITHDRAWN:
            return WITHDRAWN
        if event.event_time >= at:  # consent is asked for before, not after (section Five)
            continue
        if event.superseded:
            found = INVALIDATED
        elif event.expires_at is not None and event.expires_at <= at:
            found = EXPIRED
        else:
            found = GIVEN
    return found


def by_record(events: Iterable[ConsentEvent]) -> dict[str, list[ConsentEvent]]:
    """Return the events of each record, records in the order in which they began."""
    records: dict[str, list[ConsentEvent]] = {}
    for event in events:
        records.setdefault(event.record_id, []).append(event)
    return records


def live(events: Iterable[ConsentEvent], at: int) -> list[ConsentEvent]:
    """Return, newest first, the giving event of each record that stands at `at`."""
    records = by_record(events)
    standing = [events[0] for events in records.values() if state(events, at) == GIVEN]
    standing.reverse()
    return standing
