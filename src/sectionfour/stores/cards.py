"""Cards: all that is kept under one entity, in one value, so that a step reads and writes it once.

A window is a difference of two totals: one look-up finds the first event of the entity inside it,
whose entry says what every series had before. Of the others of a pair only the newest 1,000 inside
the longest window are kept: older ones cannot change a count that stops at 1,000. Which keys and
values a card is made of is known by `form`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from sectionfour.domain import Event
from sectionfour.errors import HistoryError
from sectionfour.features import online
from sectionfour.features.catalog import DISTINCT_CAP
from sectionfour.features.online import Readings, Visit
from sectionfour.features.plan import WIDTH, Series, squared
from sectionfour.stores.form import (
    COUNT,
    CUT,
    ENTRY,
    LAYOUTS,
    NEVER,
    TIME,
    VALUE,
    WRAP,
    Opened,
    closed,
    opened,
)

Get = Callable[[bytes], bytes | None]
Put = Callable[[bytes, bytes], object]

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
        firsts.append(NEVER if seen is None else bytes(seen[:8]))
    for recent, value, kept in zip(
        layout.recents, visit.values, lists[layout.lists :], strict=True
    ):
        if value is not None:
            newest = [x for x in VALUE.iter_unpack(kept) if x[0] > at - recent.over]
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
            lists[place] = (lists[place] + VALUE.pack(at, value))[-most:]
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
