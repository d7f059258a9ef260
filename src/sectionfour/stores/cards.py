"""Cards: all that is kept under one entity, in one value, so that a step reads and writes it once.

    W card token            how the keys of an entity begin: what a step touches lies together
      E at                  -> the totals of every series before it    an event that enters any
      F pair other          -> first at, last at                       when a pair was seen
      R series at           -> the count before it                     of a series that has runs
      T                     -> totals and times of each series, then each pair's (at, other) * n,
                             then each recent's (at, value) * n

A window is a difference of two totals: one look-up finds the first event of the entity inside it,
whose entry says what every series had before. Of the others of a pair only the newest 1,000 inside
the longest window are kept: older ones cannot change a count that stops at 1,000. Which keys and
values these are is known here; in what they are kept is the store's.

Totals go on from where they are when what is past its time goes (`leaving`). The first time of a
series whose totals did not begin with it is marked CUT: what was before it has to be looked up.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec

from sectionfour.domain import Event
from sectionfour.errors import HistoryError
from sectionfour.features import online
from sectionfour.features.catalog import DISTINCT_CAP, NEWEST
from sectionfour.features.online import Readings, Visit
from sectionfour.features.plan import (
    CARDS,
    JOINS,
    WIDTH,
    Card,
    Joins,
    Pair,
    Recent,
    Series,
    squared,
)

Get = Callable[[bytes], bytes | None]
Put = Callable[[bytes, bytes], object]

WRAP = (1 << 64) - 1  # totals may wrap: their differences are right all the same
COUNT = struct.Struct(">Q")
ENTRY = 24
_RECENT = struct.Struct(">QQ")
NAME = 18  # bytes of the name of an entity: W, card, token
_NEVER = b""
#: A bit of the first time of a series that had events before it, which went.
CUT = 1 << 63
TIME = CUT - 1


class _Series(NamedTuple):
    """Where a series lies: in a card's numbers, and in the totals that an entry repeats."""

    plan: Series
    number: int  # of its place among the series of the card
    head: int  # count, last, first and, where summed, sum and sum of squares
    total: int  # count and, where summed, sum and sum of squares
    nothing: tuple[int, ...]  # what is read where there is none
    runs: tuple[tuple[int, int], ...]  # (over, where the `last` of the other series lies)


class _Listed(NamedTuple):
    """A pair: `list` is the place of its others in the card, -1 where none are kept."""

    plan: Pair
    number: int  # of its place among the pairs of the card
    list: int
    suffix: bytes  # of its F keys


class _Enters(NamedTuple):
    """Where an event goes that enters some of a card: what `enter` walks over."""

    series: tuple[tuple[int, bytes, bool], ...]  # head, how R keys go on if any, whether summed
    pairs: tuple[tuple[int, bytes, int, int], ...]  # number, suffix if aged, list, longest window
    recents: tuple[tuple[int, int, int], ...]  # number, list, most bytes of it


class Layout(NamedTuple):
    card: Card
    series: tuple[_Series, ...]
    pairs: tuple[_Listed, ...]
    heads: struct.Struct
    nothing: tuple[int, ...]
    totals: struct.Struct
    totals_of: Callable[[Sequence[int]], tuple[int, ...]]
    recents: tuple[Recent, ...]  # their lists come after those of the pairs
    lists: int  # of the pairs
    sizes: struct.Struct
    entries: tuple[int, ...]  # bytes of an entry of each list
    prefix: bytes
    enters: dict[Joins, _Enters]


def _layout(card: Card) -> Layout:
    series: list[_Series] = []
    repeated: list[int] = []
    head = total = 0
    lasts: dict[int, int] = {}
    for number, plan in enumerate(card.series):
        lasts[plan.id] = head + 1
        width = 3 if plan.summed else 1
        nothing = (0, 0, *(0,) * (width * len(plan.overs) + 2 * len(plan.runs)))
        runs = tuple((over, lasts[other]) for over, other in plan.runs)
        series.append(_Series(plan, number, head, total, nothing, runs))
        repeated += [head, head + 3, head + 4] if plan.summed else [head]
        head, total = head + (5 if plan.summed else 3), total + width
    pairs: list[_Listed] = []
    for number, pair in enumerate(card.pairs):
        place = sum(bool(p.overs) for p in card.pairs[:number]) if pair.overs else -1
        pairs.append(_Listed(pair, number, place, b"F" + bytes([pair.id])))
    longest = tuple(pair.overs[-1] for pair in card.pairs if pair.overs)
    picked: Callable[[Sequence[int]], Any] = itemgetter(*repeated) if repeated else tuple
    alone = len(repeated) == 1  # of which itemgetter makes no tuple
    return Layout(
        card=card,
        series=tuple(series),
        pairs=tuple(pairs),
        heads=struct.Struct(f">{head}Q"),
        nothing=(0,) * head,
        totals=struct.Struct(f">{total}Q"),
        totals_of=(lambda numbers: (picked(numbers),)) if alone else picked,
        recents=card.recents,
        lists=len(longest),
        sizes=struct.Struct(f">{len(longest) + len(card.recents)}H"),
        entries=(ENTRY,) * len(longest) + (_RECENT.size,) * len(card.recents),
        prefix=b"W" + bytes([card.id]),
        enters={
            joins: _Enters(
                tuple((series[n].head, _runs(series[n]), series[n].plan.summed) for n in joins[0]),
                tuple(_listed(pairs[n]) for n in joins[1]),
                tuple(
                    (n, len(longest) + n, NEWEST[card.recents[n].what] * _RECENT.size)
                    for n in joins[2]
                ),
            )
            for joins in {of[card.id] for of in JOINS.values()}
        },
    )


def _runs(series: _Series) -> bytes:
    """Return how the R keys of a series go on after the entity, empty where it has none."""
    return b"R" + bytes([series.plan.id]) if series.runs else b""


def _listed(pair: _Listed) -> tuple[int, bytes, int, int]:
    plan = pair.plan
    longest = plan.overs[-1] if plan.overs else 0
    return pair.number, pair.suffix if plan.aged else b"", pair.list, longest


LAYOUTS = tuple(_layout(card) for card in CARDS)


class Opened(NamedTuple):
    """A card in the hand: its numbers; the others of each pair, and the values of each recent, in
    order of time."""

    numbers: list[int]
    lists: list[bytes]


def opened(value: bytes | None, layout: Layout) -> Opened:
    if value is None:
        return Opened(list(layout.nothing), [_NEVER] * len(layout.entries))
    lists: list[bytes] = []
    at = layout.heads.size + layout.sizes.size
    sizes = layout.sizes.unpack_from(value, layout.heads.size)
    for size, entry in zip(sizes, layout.entries, strict=True):
        lists.append(value[at : at + size * entry])
        at += size * entry
    return Opened(list(layout.heads.unpack_from(value)), lists)


def closed(card: Opened, layout: Layout) -> bytes:
    sizes = [len(each) // n for each, n in zip(card.lists, layout.entries, strict=True)]
    return b"".join((layout.heads.pack(*card.numbers), layout.sizes.pack(*sizes), *card.lists))


# --- to read ----------------------------------------------------------------------------------


def read(
    cursor: Any,
    get: Get,
    name: bytes,
    visit: Visit,
    card: Opened,
    at: int,
    readings: Readings,
) -> list[bytes]:
    """Put what the windows of `visit` hold at `at` into `readings`, each at its place.

    `name` is how the keys of the entity begin.

    Returns, for each pair, when it was first seen where that is kept; empty for never.
    """
    layout = LAYOUTS[visit.card.id]
    numbers, lists = card
    found: dict[int, tuple[int, ...]] = {}  # a cut-off, and the totals before it
    for plan, _, head, total, nothing, runs in layout.series:
        place = plan.place
        count, last, first = numbers[head : head + 3]
        if not last:
            readings[place : place + len(nothing)] = nothing
            continue
        readings[place] = first & TIME
        readings[place + 1] = last
        place += 2
        width = 3 if plan.summed else 1
        for over in plan.overs:
            cutoff = at - over
            if last <= cutoff:
                readings[place : place + width] = layout.nothing[:width]
                place += width
                continue
            if cutoff < first < CUT:
                before, offset = layout.nothing, 0
            else:
                offset = total
                if cutoff not in found:
                    # Some event is inside: the first key past the cut-off is of this entity.
                    cursor.set_range(name + b"E" + (cutoff + 1).to_bytes(8))
                    found[cutoff] = layout.totals.unpack(cursor.value())
                before = found[cutoff]
            readings[place] = count - before[offset]
            if width == 3:
                readings[place + 1] = (numbers[head + 3] - before[offset + 1]) & WRAP
                readings[place + 2] = (numbers[head + 4] - before[offset + 2]) & WRAP
            place += width
        for over, other in runs:
            after = max(at - over, numbers[other])
            readings[place : place + 2] = _run(cursor, plan, name, count, last, first, after)
            place += 2
    firsts = []
    for (pair, _, place, suffix), other_token in zip(layout.pairs, visit.others, strict=True):
        seen = None
        if other_token is not None:
            out = pair.place
            if pair.aged:
                seen = get(name + suffix + other_token)
                readings[out] = 0 if seen is None else int.from_bytes(seen[:8])
                out += 1
            if pair.overs:
                others = lists[place]
                size = len(others) // ENTRY
                for over in pair.overs:
                    readings[out] = size - _first_after(others, size, at - over) if size else 0
                    out += 1
        firsts.append(_NEVER if seen is None else bytes(seen[:8]))
    for recent, value, kept in zip(
        layout.recents, visit.values, lists[layout.lists :], strict=True
    ):
        if value is not None:
            newest = [x for x in _RECENT.iter_unpack(kept) if x[0] > at - recent.over]
            if recent.what == "place":
                found_at = newest[-1] if newest else (0, 0)
            else:
                found_at = sum(x[1] < value for x in newest), sum(x[1] > value for x in newest)
            readings[recent.place : recent.place + 2] = found_at
    return firsts


def _run(
    cursor: Any, plan: Series, name: bytes, count: int, last: int, first: int, after: int
) -> tuple[int, int]:
    """Return how many events are later than `after`, and when the first of them was."""
    if last <= after:
        return 0, 0
    if after < first < CUT:
        return count, first
    cursor.set_range(name + b"R" + bytes([plan.id]) + (after + 1).to_bytes(8))
    return count - COUNT.unpack(cursor.value())[0], int.from_bytes(cursor.key()[-8:])


def _first_after(others: bytes, size: int, cutoff: int) -> int:
    """Return how many of the entries, which are in order of time, are at `cutoff` or before."""
    if cutoff < 0:
        return 0
    bound = cutoff.to_bytes(8)
    if others[:8] > bound:  # most often all of them are inside
        return 0
    low, high = 1, size
    while low < high:
        middle = (low + high) // 2
        if others[middle * ENTRY : middle * ENTRY + 8] <= bound:
            low = middle + 1
        else:
            high = middle
    return low


# --- to add -----------------------------------------------------------------------------------


def enter(
    put: Put,
    name: bytes,
    visit: Visit,
    card: Opened,
    firsts: Sequence[bytes],
    at: int,
    stamp: bytes,
    amount: int,
) -> bool:
    """Add an event to a card, and its entries to the store; return whether it enters any window.

    `firsts` is, for each pair, when it was first seen; empty for never. The card itself is the
    caller's to keep.
    """
    layout = LAYOUTS[visit.card.id]
    series, pairs, recents = layout.enters[visit.joins]
    numbers, lists = card
    entered = False
    if series:
        entered = True
        put(name + b"E" + stamp, layout.totals.pack(*layout.totals_of(numbers)))
        for head, runs, summed in series:
            count = numbers[head]
            if runs:
                put(name + runs + stamp, COUNT.pack(count))
            if not numbers[head + 1]:
                numbers[head + 2] = at | CUT if count else at
            numbers[head] = count + 1
            numbers[head + 1] = at
            if summed and amount:
                numbers[head + 3] = (numbers[head + 3] + amount) & WRAP
                numbers[head + 4] = (numbers[head + 4] + squared(amount)) & WRAP
    for number, suffix, place, longest in pairs:
        other = visit.others[number]
        if other is not None:
            entered = True
            if suffix:
                put(name + suffix + other, (firsts[number] or stamp) + stamp)
            if place >= 0:
                lists[place] = _seen(lists[place], other, at, stamp, longest)
    for number, place, most in recents:
        value = visit.values[number]
        if value is not None:
            entered = True
            lists[place] = (lists[place] + _RECENT.pack(at, value))[-most:]
    return entered


def _seen(others: bytes, other: bytes, at: int, stamp: bytes, over: int) -> bytes:
    """Return `others` with `other` moved to the end; what no later window can count is dropped:
    what is `over` or more ago, and the oldest beyond the cap."""
    if not others:
        return stamp + other
    past = _first_after(others, len(others) // ENTRY, at - over)
    if past:
        others = others[past * ENTRY :]
    place = others.find(other)
    while place >= 0 and (place - 8) % ENTRY:  # bytes that only look like the token
        place = others.find(other, place + 1)
    if place >= 0:
        others = others[: place - 8] + others[place + 16 :]
    return (others + stamp + other)[-DISTINCT_CAP * ENTRY :]


def gathered(get: Get, lot: Sequence[Event], clock: int) -> dict[bytes, bytes]:
    """Return what is to be written so that the events of `lot` are in, in order of keys.

    One entity after the other, so that its card is opened and closed once. HistoryError where an
    event is not later than `clock`, or than the one before it.
    """
    met: dict[bytes, list[tuple[Event, Visit]]] = {}
    for event in lot:
        if event.at <= clock:
            raise HistoryError("events are loaded in order of `at`, after all that are there")
        clock = event.at
        for visit in online.visits(event):
            if any(visit.joins):
                name = LAYOUTS[visit.card.id].prefix + visit.token
                met.setdefault(name, []).append((event, visit))
    written: dict[bytes, bytes] = {}
    for name in sorted(met):
        entries = _entries_of(get, name, met[name])
        for key in sorted(entries):
            written[key] = entries[key]
    return written


def _entries_of(get: Get, name: bytes, met: Sequence[tuple[Event, Visit]]) -> dict[bytes, bytes]:
    """Return what is to be written of one entity so that these events are in its card."""
    layout = LAYOUTS[name[1]]
    card = opened(bytes(get(name + b"T") or b"") or None, layout)
    entries: dict[bytes, bytes] = {}
    entered = False
    for event, visit in met:
        firsts: list[bytes] = []
        if visit.joins[1]:
            firsts = [
                b""
                if other is None or not pair.plan.aged
                else (entries.get(key := name + pair.suffix + other) or get(key) or b"")[:8]
                for pair, other in zip(layout.pairs, visit.others, strict=True)
            ]
        at, amount = event.at, event.amount or 0
        put = entries.__setitem__
        entered |= enter(put, name, visit, card, firsts, at, at.to_bytes(8), amount)
    if entered:
        entries[name + b"T"] = closed(card, layout)
    return entries


# --- for a retry --------------------------------------------------------------------------------


def memory(stamp: bytes, readings: Readings) -> bytes:
    """Return what is kept of a step, so that a second one with its key is answered the same."""
    return stamp + msgspec.msgpack.encode(readings)


def remembered(known: bytes, visits: Sequence[Visit]) -> tuple[int, Readings]:
    """Return what the first call read, of what is asked for now: less may be permitted by now, and
    what was not read then cannot be read any more."""
    then = msgspec.msgpack.decode(known[8:])
    readings: Readings = [None] * WIDTH
    for place in itertools.chain.from_iterable(map(online.places, visits)):
        readings[place] = then[place]
    return int.from_bytes(known[:8]), readings
