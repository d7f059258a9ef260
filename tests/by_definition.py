"""What every feature is, the slow and obvious way: two nested loops over events.

Written from the words of the catalog (the docstring of `Window` and of `Operations`); it shares
with the two implementations the catalog's lines and row formulas, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace

from sectionfour.domain import EVENT_TYPES, Event
from sectionfour.features.catalog import (
    DISTINCT_CAP,
    ENTITIES,
    ROWS,
    SQUARED_CAP,
    STREAMS,
    WINDOWS,
    Window,
)

MISSING = math.nan
OF_THE_EVENT = (
    "amount",
    "item_count",
    "registered_at",
    "consignee_self",
    "page_views",
    "search_count",
    "seconds_on_page",
    "document_verified",
    "face_match_level",
)


#: (member, at, size, frauds), as found in batch.
Clusters = Sequence[tuple[object, int, int, int]]


#: (cutoff, when): at `when` all that was before the cutoff went.
Gone = Sequence[tuple[int, int]]


def features(
    event: Event, events: Sequence[Event], clusters: Clusters = (), gone: Gone = ()
) -> list[float]:
    """Return the features of `event` among `events`, in the catalog's order."""
    values = {w.name: window(w, event, events, gone) for w in WINDOWS}
    found = list(values.values())
    for name in OF_THE_EVENT:
        given = getattr(event, name)
        values[name] = MISSING if given is None else float(given)
    values["at"] = event.at
    values["type_code"] = float(EVENT_TYPES.index(event.type))
    values["cluster_size"], values["cluster_frauds"] = cluster(event, clusters)
    f = SimpleNamespace(**values)
    return found + [float(row.formula(f, Arithmetic)) for row in ROWS]


def cluster(e: Event, clusters: Clusters) -> tuple[float, float]:
    if None in (e.member, e.device, e.instrument, e.address):
        return MISSING, MISSING
    newest, size, frauds = 0, 1, 0  # alone
    for member, at, *found in clusters:
        if member == e.member and newest < at < e.at:
            newest, size, frauds = at, *found
    return float(size), float(frauds)


def window(w: Window, e: Event, events: Sequence[Event], gone: Gone = ()) -> float:
    pair = w.what in ENTITIES
    if getattr(e, w.by) is None or (pair and getattr(e, w.what) is None):
        return MISSING
    earlier = []
    for x in events:
        if x.at < e.at and x.type in STREAMS[w.of] and getattr(x, w.by) == getattr(e, w.by):
            earlier.append(x)
    if w.agg == "age":
        same = [x.at for x in earlier if not pair or getattr(x, w.what) == getattr(e, w.what)]
        for cutoff, when in gone:
            if any(cutoff <= at <= when for at in same):
                same = [max(at, cutoff) for at in same]
            else:
                same = [at for at in same if at > when]
        return (e.at - min(same)) / 1_000_000 if same else 0.0
    inside = [x for x in earlier if e.at - w.over < x.at]
    if w.agg == "count":
        return float(len(inside))
    if w.agg in ("run", "run_age"):
        others = [
            x.at
            for x in events
            if x.at < e.at
            and x.type in STREAMS[str(w.what)]
            and getattr(x, w.by) == getattr(e, w.by)
        ]
        run = [x.at for x in inside if x.at > max(others, default=0)]
        if w.agg == "run":
            return float(len(run))
        return (e.at - min(run)) / 1_000_000 if run else MISSING
    if w.agg == "since_last":
        return (min([e.at - x.at for x in inside], default=w.over)) / 1_000_000
    if w.agg in ("below", "above"):
        if e.amount is None:
            return MISSING
        newest = [x.amount for x in earlier if x.amount is not None][-16:]
        ages = [e.at - x.at < w.over for x in earlier if x.amount is not None][-16:]
        amounts = [amount for amount, young in zip(newest, ages, strict=True) if young]
        if w.agg == "below":
            return float(sum(amount < e.amount for amount in amounts))
        return float(sum(amount > e.amount for amount in amounts))
    if w.agg in ("distance", "distance_age"):
        placed = [x for x in inside if x.place is not None]
        if e.place is None or not placed:
            return MISSING
        last = max(placed, key=lambda x: x.at)
        if w.agg == "distance_age":
            return (e.at - last.at) / 1_000_000
        return math.dist(cell(last.place), cell(e.place)) * 5
    if w.agg == "distinct":
        others = {getattr(x, w.what) for x in inside} - {None}
        return float(min(len(others), DISTINCT_CAP))
    assert w.agg == "sum"
    amounts = [x.amount for x in inside if x.amount is not None]
    if w.what == "amount_sq":
        return float(sum(min(amount, SQUARED_CAP) ** 2 for amount in amounts))
    assert w.what == "amount"
    return float(sum(amounts))


def cell(place: int) -> tuple[int, int, int]:
    return place // 4096**2, place // 4096 % 4096, place % 4096


class Arithmetic:
    """`Operations`, in words: missing where b is zero; zero for what is below zero; and so on."""

    @staticmethod
    def div(a: float, b: float) -> float:
        return MISSING if b == 0 else a / b

    @staticmethod
    def sqrt(a: float) -> float:
        return 0.0 if a < 0 else math.sqrt(a)

    @staticmethod
    def is_zero(a: float) -> float:
        return MISSING if math.isnan(a) else float(a == 0)

    @staticmethod
    def less(a: float, b: float) -> float:
        return MISSING if math.isnan(a) or math.isnan(b) else float(a < b)

    @staticmethod
    def hour(at: int) -> float:
        seconds = at // 1_000_000
        return float(seconds // 3600 % 24)
