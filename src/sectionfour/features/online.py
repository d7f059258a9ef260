"""The catalog, online: one atomic step that reads an event's windows and then adds the event.

The plan of what to look up is drawn from the catalog once. A `Velocity` store carries it out;
what it returns are whole numbers, and their conversion to features is here, once, for every store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from types import SimpleNamespace
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from sectionfour.domain import EVENT_TYPES, Event
from sectionfour.features.catalog import (
    ENTITIES,
    INPUTS,
    NAN,
    ROWS,
    RUNS,
    SECOND,
    SQUARED_CAP,
    STREAMS,
    WINDOWS,
    Numbers,
    Window,
)

Vector = NDArray[np.float64]


class Series(NamedTuple):
    """One running count (and sums) a key: the events of stream `of`, by entity `by`.

    `runs` are windows that begin after the newest event of another series, of the same entity:
    (over, that one's id). It comes earlier in the plan.
    """

    id: int
    by: str
    of: str
    summed: bool
    overs: tuple[int, ...]
    runs: tuple[tuple[int, int], ...] = ()


class Pair(NamedTuple):
    """When each `what` was last seen with a `by`, in stream `of`; and first, where `aged`.

    `id` goes on from that of the series: it is the place in the plan.
    """

    id: int
    by: str
    what: str
    of: str
    overs: tuple[int, ...]
    aged: bool


class Lookup(NamedTuple):
    """A series or pair, with this event's tokens; `joins` says whether the event enters it."""

    plan: Series | Pair
    token: bytes
    other: bytes
    joins: bool


class SeriesReading(NamedTuple):
    """first and last `at` (0 for none) and, a window, (count, sum, sum of squares); then, a run,
    (count, `at` of its first, 0)."""

    first: int
    last: int
    windows: list[tuple[int, int, int]]


class PairReading(NamedTuple):
    """When the pair was first seen (0 for never) and, a window, the number of others."""

    first: int
    counts: list[int]


#: One a lookup, in their order; None where a retry asks for what the first call did not.
Readings = list[SeriesReading | PairReading | None]


class Velocity(Protocol):
    """A store of windows. Its clock, `at`, strictly increases."""

    def exchange(
        self, key: bytes, at: int, lookups: Sequence[Lookup], amount: int, payload: bytes | None
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
        """Drop everything, to be made anew by `load`; the store is not fresh until then."""

    def unsettled(self, before: int) -> Sequence[tuple[int, bytes, bytes]]:
        """Return (at, key, payload) of what was added before `before` and not yet settled."""

    def forget(
        self,
        member: bytes,
        events: Sequence[Event],
        others_of: Callable[[str, bytes, Sequence[str]], Sequence[tuple[int, bytes]]],
    ) -> int:
        """Take a member out of all windows, in one atomic step; return how many entries changed.

        `events` are all that the member has in them. Afterwards every window is what it would be
        had they never been. What is not there any more is no news. `others_of(entity, token,
        types)` gives (at, member) of the events that are kept, for the few windows that had more
        members than are remembered.
        """

    def close(self) -> None: ...

    @property
    def fresh(self) -> bool:
        """False where windows may lack events, or were made by another catalog: rebuild them."""

    def settle(self, entries: Sequence[tuple[int, bytes]], *, forget: bool) -> None:
        """Drop the payloads of (at, key); with `forget`, the readings kept for a retry too."""


def _plan() -> tuple[tuple[Series, ...], tuple[Pair, ...]]:
    series: dict[tuple[str, str], list[Window]] = {}
    pairs: dict[tuple[str, str, str], list[Window]] = {}
    for window in WINDOWS:
        if window.what in ENTITIES:
            pairs.setdefault((window.by, window.what, window.of), []).append(window)
        else:
            series.setdefault((window.by, window.of), []).append(window)

    def overs(windows: list[Window], aggregates: set[str]) -> tuple[int, ...]:
        return tuple(sorted({w.over for w in windows if w.agg in aggregates}))

    # What has runs comes last: a run begins where another series ends.
    order = sorted(series, key=lambda key: (any(w.agg in RUNS for w in series[key]), key))
    place = {key: i for i, key in enumerate(order)}

    def runs(windows: list[Window]) -> tuple[tuple[int, int], ...]:
        found = {(w.over, place[w.by, str(w.what)]) for w in windows if w.agg in RUNS}
        return tuple(sorted(found))

    return (
        tuple(
            Series(
                place[by, of],
                by,
                of,
                any(w.agg == "sum" for w in series[by, of]),
                overs(series[by, of], {"count", "sum"}),
                runs(series[by, of]),
            )
            for by, of in order
        ),
        tuple(
            Pair(i, by, what, of, overs(found, {"distinct"}), any(w.agg == "age" for w in found))
            for i, ((by, what, of), found) in enumerate(sorted(pairs.items()), start=len(series))
        ),
    )


SERIES, PAIRS = _plan()


@dataclass(frozen=True, slots=True)
class _Source:
    """Where one window feature is found in the readings."""

    lookup: int
    window: int
    agg: str
    over: int
    name: str


def _sources() -> tuple[_Source, ...]:
    where: dict[tuple[str, str | None, str], Series | Pair] = {
        (s.by, None, s.of): s for s in SERIES
    }
    where |= {(p.by, p.what, p.of): p for p in PAIRS}
    ids = {(s.by, s.of): s.id for s in SERIES}
    sources = []
    for w in WINDOWS:
        plan = where[w.by, w.what if w.what in ENTITIES else None, w.of]
        agg = w.what if w.agg == "sum" and w.what else w.agg
        place = plan.overs.index(w.over) if w.agg in {"count", "sum", "distinct"} else -1
        if w.agg in RUNS and isinstance(plan, Series):
            place = len(plan.overs) + plan.runs.index((w.over, ids[w.by, str(w.what)]))
        lookup = plan.id
        sources.append(_Source(lookup, place, agg, w.over, w.name))
    return tuple(sources)


_SOURCES = _sources()
_PLANS: tuple[Series | Pair, ...] = SERIES + PAIRS
_FIELDS = tuple(name for name in INPUTS if name not in {"at", "type_code"})
_TYPE_CODES = {name: float(code) for code, name in enumerate(EVENT_TYPES)}
#: For each type of event, whether it enters each series or pair.
_JOINS = {
    kind: tuple(kind in STREAMS[plan.of] for plan in _PLANS)
    for kind in frozenset().union(*STREAMS.values())
}
_TOKENS = tuple(
    (plan, attrgetter(plan.by), attrgetter(plan.what) if isinstance(plan, Pair) else None)
    for plan in _PLANS
)


#: For each type of event, the series and pairs that it enters.
_ENTERED = {
    kind: tuple(entry for entry, enters in zip(_TOKENS, joins, strict=True) if enters)
    for kind, joins in _JOINS.items()
}


def lookups(event: Event) -> list[Lookup]:
    """Return what to look up for `event`."""
    found = []
    for (plan, by, what), joins in zip(_TOKENS, _JOINS[event.type], strict=True):
        token = by(event)
        if token is None:
            continue
        other = b"" if what is None else what(event)
        if other is None:
            continue
        found.append(Lookup(plan, token, other, joins))
    return found


def entered(event: Event) -> Iterator[tuple[Series | Pair, bytes, bytes]]:
    """Yield the series and pairs that `event` enters, each with its tokens."""
    for plan, by, what in _ENTERED[event.type]:
        token = by(event)
        if token is None:
            continue
        other = b"" if what is None else what(event)
        if other is not None:
            yield plan, token, other


def key_of(event_id: str) -> bytes:
    """Return the 16 bytes under which a step is idempotent."""
    return hashlib.sha256(event_id.encode()).digest()[:16]


def read_and_observe(
    event: Event, store: Velocity, *, observe: bool = True
) -> tuple[Event, Vector]:
    """Return `event` with its final `at`, and its feature vector, shape (len(FEATURES),).

    One atomic step, idempotent by `event_id`. Missing is NaN.
    """
    found = lookups(event)
    payload = msgspec.msgpack.encode(event) if observe else None
    at, readings = store.exchange(
        key_of(event.event_id), event.at, found, event.amount or 0, payload
    )
    by_place: list[SeriesReading | PairReading | None] = [None] * len(_PLANS)
    for lookup, reading in zip(found, readings, strict=True):
        by_place[lookup.plan.id] = reading
    event = msgspec.structs.replace(event, at=at)
    return event, vector(event, by_place)


def vector(event: Event, readings: Sequence[SeriesReading | PairReading | None]) -> Vector:
    """Return the features of `event`, given what was read for each entry of the plan."""
    at = event.at
    values: dict[str, float] = {}
    for source in _SOURCES:
        values[source.name] = _window(source, readings[source.lookup], at)
    values["at"] = at
    values["type_code"] = _TYPE_CODES.get(event.type, NAN)
    for name in _FIELDS:
        given = getattr(event, name)
        values[name] = NAN if given is None else float(given)
    scope = SimpleNamespace(**values)
    out = [values[source.name] for source in _SOURCES]
    for row in ROWS:
        out.append(row.formula(scope, Numbers))
    return np.array(out, dtype=np.float64) + 0.0  # zero has no sign here


def _window(source: _Source, reading: SeriesReading | PairReading | None, at: int) -> float:
    if reading is None:
        return NAN
    agg = source.agg
    if isinstance(reading, SeriesReading):
        if agg == "count" or agg == "run":
            return float(reading.windows[source.window][0])
        if agg == "amount":
            return float(reading.windows[source.window][1])
        if agg == "amount_sq":
            return float(reading.windows[source.window][2])
        if agg == "since_last":
            gap = at - reading.last
            return (gap if reading.last and gap < source.over else source.over) / SECOND
        if agg == "run_age":
            first = reading.windows[source.window][1]
            return (at - first) / SECOND if first else NAN
        return (at - reading.first) / SECOND if reading.first else 0.0
    if agg == "distinct":
        return float(reading.counts[source.window])
    return (at - reading.first) / SECOND if reading.first else 0.0


def squared(amount: int) -> int:
    """Return the square that spreads are made from, of at most SQUARED_CAP."""
    return min(amount, SQUARED_CAP) ** 2
