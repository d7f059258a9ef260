"""The plan: what is kept of each entity, and where each reading of it lies, from the catalog.

A series counts the events of an entity, a pair knows when another was last seen with it, a recent
what its newest events had. A card is all of these of one kind of entity. A store carries this out.
"""

from __future__ import annotations

from typing import NamedTuple

from sectionfour.features.catalog import (
    ENTITIES,
    RECENT,
    RUNS,
    SQUARED_CAP,
    STREAMS,
    WINDOWS,
    Window,
)


class Series(NamedTuple):
    """One running count (and sums) a key: the events of stream `of`, by entity `by`.

    `runs` are windows that begin after the newest event of another series, of the same entity:
    (over, that one's id). It comes earlier in the plan. `place` is where its readings begin: first
    and last `at` (0 for none); a window, the count and, where `summed`, sum and sum of squares; a
    run, the count and the `at` of its first.
    """

    id: int
    by: str
    of: str
    summed: bool
    overs: tuple[int, ...]
    runs: tuple[tuple[int, int], ...]
    place: int

    @property
    def width(self) -> int:
        return 2 + len(self.overs) * (3 if self.summed else 1) + 2 * len(self.runs)


class Pair(NamedTuple):
    """When each `what` was last seen with a `by`, in stream `of`; and first, where `aged`.

    `id` goes on from that of the series. Its readings: when the pair was first seen (0 for never)
    where `aged`; a window, the number of others.
    """

    id: int
    by: str
    what: str
    of: str
    overs: tuple[int, ...]
    aged: bool
    place: int

    @property
    def width(self) -> int:
        return int(self.aged) + len(self.overs)


class Recent(NamedTuple):
    """What the newest of stream `of` had as `what`, and when. A member's own alone.

    Its readings, where the event has a `what` itself: of amounts, how many were less and how many
    were more; of places, when the newest was (0 for never) and where.
    """

    by: str
    what: str
    of: str
    over: int
    place: int

    @property
    def width(self) -> int:
        return 2


class Card(NamedTuple):
    """All that is kept of one kind of entity: what a store may keep together."""

    id: int
    by: str
    series: tuple[Series, ...]
    pairs: tuple[Pair, ...]
    recents: tuple[Recent, ...]


#: Which of a card's series, pairs and recents, by number, an event enters.
Joins = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def _plan() -> tuple[tuple[Series, ...], tuple[Pair, ...], tuple[Recent, ...], int]:
    grouped: dict[tuple[str, str], list[Window]] = {}
    paired: dict[tuple[str, str, str], list[Window]] = {}
    looked_at: dict[tuple[str, str, str, int], None] = {}
    for window in WINDOWS:
        if window.agg in RECENT:
            assert window.by == "member", "who is taken out takes all of it along"
            looked_at[window.by, RECENT[window.agg], window.of, window.over] = None
        elif window.what in ENTITIES:
            paired.setdefault((window.by, window.what, window.of), []).append(window)
        else:
            grouped.setdefault((window.by, window.of), []).append(window)

    def overs(windows: list[Window], aggregates: set[str]) -> tuple[int, ...]:
        return tuple(sorted({w.over for w in windows if w.agg in aggregates}))

    # What has runs comes last: a run begins where another series ends.
    order = sorted(grouped, key=lambda key: (any(w.agg in RUNS for w in grouped[key]), key))
    ids = {key: i for i, key in enumerate(order)}
    place = 0
    series: list[Series] = []
    for by, of in order:
        found = grouped[by, of]
        runs = {(w.over, ids[w.by, str(w.what)]) for w in found if w.agg in RUNS}
        summed = any(w.agg == "sum" for w in found)
        windows = overs(found, {"count", "sum"})
        series.append(Series(ids[by, of], by, of, summed, windows, tuple(sorted(runs)), place))
        place += series[-1].width
    pairs: list[Pair] = []
    for number, ((by, what, of), found) in enumerate(sorted(paired.items()), start=len(series)):
        aged = any(w.agg == "age" for w in found)
        pairs.append(Pair(number, by, what, of, overs(found, {"distinct"}), aged, place))
        place += pairs[-1].width
    recents: list[Recent] = []
    for key in sorted(looked_at):
        recents.append(Recent(*key, place))
        place += recents[-1].width
    return tuple(series), tuple(pairs), tuple(recents), place


SERIES, PAIRS, RECENTS, WIDTH = _plan()
CARDS = tuple(
    Card(
        number,
        by,
        tuple(series for series in SERIES if series.by == by),
        tuple(pair for pair in PAIRS if pair.by == by),
        tuple(recent for recent in RECENTS if recent.by == by),
    )
    for number, by in enumerate(sorted({s.by for s in SERIES} | {p.by for p in PAIRS}))
)


class Source(NamedTuple):
    """Where one window feature is found in the readings."""

    place: int
    agg: str
    over: int
    name: str


def _sources() -> tuple[Source, ...]:
    ids = {(s.by, s.of): s for s in SERIES}
    pairs = {(p.by, p.what, p.of): p for p in PAIRS}
    recents = {(r.by, r.what, r.of, r.over): r for r in RECENTS}
    sources = []
    for w in WINDOWS:
        if w.agg in RECENT:
            place = recents[w.by, RECENT[w.agg], w.of, w.over].place + (w.agg == "above")
        elif w.what in ENTITIES:
            pair = pairs[w.by, w.what, w.of]
            place = pair.place
            if w.agg == "distinct":
                place += pair.aged + pair.overs.index(w.over)
        else:
            plan = ids[w.by, w.of]
            place = plan.place
            if w.agg == "since_last":
                place += 1
            elif w.agg in RUNS:
                run = plan.runs.index((w.over, ids[w.by, str(w.what)].id))
                place += plan.width - 2 * (len(plan.runs) - run) + (w.agg == "run_age")
            elif w.agg != "age":
                place += 2 + plan.overs.index(w.over) * (3 if plan.summed else 1)
                place += {"amount": 1, "amount_sq": 2}.get(w.what or "", 0)
        sources.append(Source(place, w.agg, w.over, w.name))
    return tuple(sources)


#: A source for each of WINDOWS, in that order.
SOURCES = _sources()
#: For each type of event, and each card, which of its series, pairs and recents it enters.
JOINS = {
    kind: tuple(
        (
            tuple(i for i, plan in enumerate(card.series) if kind in STREAMS[plan.of]),
            tuple(i for i, plan in enumerate(card.pairs) if kind in STREAMS[plan.of]),
            tuple(i for i, plan in enumerate(card.recents) if kind in STREAMS[plan.of]),
        )
        for card in CARDS
    )
    for kind in frozenset().union(*STREAMS.values())
}


def squared(amount: int) -> int:
    """Return the square that spreads are made from, of at most SQUARED_CAP."""
    return min(amount, SQUARED_CAP) ** 2
