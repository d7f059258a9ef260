"""The catalog, online: one atomic step that reads an event's windows and then adds the event.

What to look up is the `plan`, and a `Velocity` store carries it out; what it returns are whole
numbers, and their conversion to features is here, once, for every store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from sectionfour.domain import EVENT_TYPES, SECOND, Event
from sectionfour.features.catalog import (
    ALONE,
    CLUSTER_BY,
    CLUSTER_INPUTS,
    ENTITIES,
    INPUTS,
    NAN,
    NEWEST,
    RECENT,
    ROWS,
    Numbers,
    distance,
)
from sectionfour.features.plan import CARDS, JOINS, SOURCES, Card, Joins

Vector = NDArray[np.float64]
#: Looks up (size, frauds) of a member's cluster as of an instant; None for who was never in one.
Cluster = Callable[[bytes, int], tuple[int, int] | None]


class Visit(NamedTuple):
    """A card, with this event's token and, for each of its pairs, the other (None: missing), and
    for each of its recents the event's own value.

    `joins` tells which of its series, pairs and recents, by number, the event enters.
    """

    card: Card
    token: bytes
    others: tuple[bytes | None, ...]
    values: tuple[int | None, ...]
    joins: Joins


#: (entity, token, types) -> (at, member) of the events that are kept
OthersOf = Callable[[str, bytes, Sequence[str]], Sequence[tuple[int, bytes]]]
#: What was read, each at its place, WIDTH in all; None where the event does not say whose.
Readings = list[int | None]


class Velocity(Protocol):
    """A store of windows. Its clock, `at`, strictly increases."""

    def exchange(
        self, key: bytes, at: int, visits: Sequence[Visit], amount: int, payload: bytes | None
    ) -> tuple[int, Readings]:
        """Read, then add, in one atomic step; return the event's `at` and what was read.

        `at` is moved on to stay strictly increasing. Idempotent by `key`: a second call with the
        same key returns what the first one read, of what it still asks for, and adds nothing.
        `payload` is kept until `settle`; with None the step only reads.
        """

    def load(
        self, events: Iterable[Event], progress: Callable[[int], object] = lambda count: None
    ) -> int:
        """Add events of the past at their own `at`, without reading; return how many.

        They must be in order, and later than everything that is there: else a HistoryError.
        `progress` is told of each lot that is in. The store is not fresh until all are; and after
        `clear` it is fresh again with the first load that is completed.
        """

    def empty(self) -> int:
        """Delete everything, for good; returns how many keys there were."""

    def clear(self) -> None:
        """Drop everything, to be made anew by `load`; the store is not fresh until then.

        Of a store that is fresh, what is remembered of settled steps stays, for a retry.
        """

    def unsettled(self, before: int) -> Sequence[tuple[int, bytes, bytes]]:
        """Return (at, key, payload) of what was added before `before` and not yet settled."""

    def forget(self, member: bytes, events: Sequence[Event], others_of: OthersOf) -> int:
        """Take a member out of all windows; return how many entries changed.

        One entity after the other, each in an atomic step beside scoring; broken off in between, it
        can be done again. `events` are all that the member has in them. Afterwards every window is
        what it would be had they never been. What is not there any more is no news.
        `others_of(entity, token, types)` gives (at, member) of the events that are kept, for the
        few windows that had more members than are remembered.
        """

    def expire(self, cutoff: int, progress: Callable[[int], object] = lambda count: None) -> int:
        """Let go of everything of before `cutoff`, beside scoring; return how many keys had any.

        No window may reach back as far. Who was first seen before counts from then on as first seen
        at `cutoff`, and who was last seen before as never seen. `progress` is told of each lot.
        """

    def close(self) -> None: ...

    @property
    def fresh(self) -> bool:
        """False where windows may lack events, or were made by another catalog: rebuild them.

        A store in which that can come about while it is open takes no step until then: NotReady.
        """

    def settle(self, entries: Sequence[tuple[int, bytes]], *, forget: bool) -> None:
        """Drop the payloads of (at, key); with `forget`, the readings kept for a retry too."""


_WINDOW_NAMES = tuple(source.name for source in SOURCES)
#: Where the readings are the features: counts, sums, distinct others.
_AS_READ = tuple(source.place for source in SOURCES)
#: And, by place in the vector, where they are times from which to count.
_TIMES = tuple(
    (number, source.agg, source.over)
    for number, source in enumerate(SOURCES)
    if source.agg in {"since_last", "age", "run_age"}
)
#: Where one reads when the newest was, and in the next place where.
_PLACED = tuple(
    (number, source.agg == "distance")
    for number, source in enumerate(SOURCES)
    if RECENT.get(source.agg) == "place"
)
_FIELDS = tuple(name for name in INPUTS if name not in {"at", "type_code"})
_TYPE_CODES = {name: float(code) for code, name in enumerate(EVENT_TYPES)}
_HELD = (*ENTITIES, *NEWEST)
_held = attrgetter(*_HELD)  # of an event, its tokens and values, and below their places among these
_PLACES = {name: place for place, name in enumerate(_HELD)}
#: For each type of event the cards, with where their tokens and values are among what is held.
_LOOKED_AT = {
    kind: tuple(
        (
            card,
            _PLACES[card.by],
            tuple(_PLACES[pair.what] for pair in card.pairs),
            tuple(_PLACES[recent.what] for recent in card.recents),
            joins,
        )
        for card, joins in zip(CARDS, of, strict=True)
    )
    for kind, of in JOINS.items()
}


def visits(event: Event) -> list[Visit]:
    """Return the cards to look at for `event`."""
    held = _held(event)
    return [
        Visit(card, token, tuple([held[n] for n in whats]), tuple([held[n] for n in of]), joins)
        for card, by, whats, of, joins in _LOOKED_AT[event.type]
        if (token := held[by]) is not None
    ]


def places(visit: Visit) -> Iterator[int]:
    """Yield the places in the readings that a visit fills."""
    for series in visit.card.series:
        yield from range(series.place, series.place + series.width)
    for pair, other in zip(visit.card.pairs, visit.others, strict=True):
        if other is not None:
            yield from range(pair.place, pair.place + pair.width)
    for recent, value in zip(visit.card.recents, visit.values, strict=True):
        if value is not None:
            yield from range(recent.place, recent.place + recent.width)


def key_of(event_id: str) -> bytes:
    """Return the 16 bytes under which a step is idempotent."""
    return hashlib.sha256(event_id.encode()).digest()[:16]


def read_and_observe(
    event: Event, store: Velocity, *, observe: bool = True, cluster: Cluster | None = None
) -> tuple[Event, Vector]:
    """Return `event` with its final `at`, and its feature vector, shape (len(FEATURES),).

    One atomic step, idempotent by `event_id`. Missing is NaN. The cluster of its member is looked
    up as of the final `at`, where the event may have one; without a `cluster` all are alone.
    """
    payload = msgspec.msgpack.encode(event) if observe else None
    at, readings = store.exchange(
        key_of(event.event_id), event.at, visits(event), event.amount or 0, payload
    )
    event = msgspec.structs.replace(event, at=at)
    of = event.member if cluster is not None and _may_be_joined(event) else None
    found = None if of is None or cluster is None else cluster(of, at)
    return event, vector(event, readings, found)


def _may_be_joined(event: Event) -> bool:
    return all(getattr(event, name) is not None for name in CLUSTER_BY)


def vector(event: Event, readings: Readings, cluster: tuple[int, int] | None = None) -> Vector:
    """Return the features of `event`, given what was read for it."""
    at = event.at
    read = [NAN if (x := readings[place]) is None else float(x) for place in _AS_READ]
    for number, agg, over in _TIMES:
        then = readings[_AS_READ[number]]
        if then is None:
            continue
        if agg == "since_last":
            gap = at - then
            read[number] = (gap if then and gap < over else over) / SECOND
        elif then:
            read[number] = (at - then) / SECOND
        else:
            read[number] = NAN if agg == "run_age" else 0.0
    for number, far in _PLACED:
        then = readings[_AS_READ[number]]
        if not then:
            read[number] = NAN
        elif far:
            read[number] = distance(readings[_AS_READ[number] + 1], event.place, Numbers)
        else:
            read[number] = (at - then) / SECOND
    values: dict[str, Any] = dict(zip(_WINDOW_NAMES, read, strict=True))
    values["at"] = at
    values["type_code"] = _TYPE_CODES.get(event.type, NAN)
    for name in _FIELDS:
        given = getattr(event, name)
        values[name] = NAN if given is None else float(given)
    joined = (cluster or ALONE) if _may_be_joined(event) else (NAN, NAN)
    values.update(zip(CLUSTER_INPUTS, map(float, joined), strict=True))
    scope = SimpleNamespace(**values)
    for row in ROWS:
        read.append(row.formula(scope, Numbers))
    return np.array(read, dtype=np.float64) + 0.0  # zero has no sign here
