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

What is past its time goes by `expire`; totals go on from where they are, since only differences of
them are read. The first time of a series whose totals did not begin with it is marked CUT: what
was before it has to be looked up.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec

from sectionfour.domain import Event
from sectionfour.errors import HistoryError
from sectionfour.features import online
from sectionfour.features.catalog import DISTINCT_CAP, NEWEST, STREAMS
from sectionfour.features.online import (
    CARDS,
    JOINS,
    WIDTH,
    Card,
    Joins,
    Pair,
    Readings,
    Recent,
    Series,
    Visit,
    squared,
)

Get = Callable[[bytes], bytes | None]
Put = Callable[[bytes, bytes], object]
#: (entity, token, types) -> (at, member) of the events that are kept
OthersOf = Callable[[str, bytes, Sequence[str]], Sequence[tuple[int, bytes]]]

_WRAP = (1 << 64) - 1  # totals may wrap: their differences are right all the same
_COUNT = struct.Struct(">Q")
_ENTRY = 24
_RECENT = struct.Struct(">QQ")
_NAME = 18  # bytes of the name of an entity: W, card, token
_NEVER = b""
#: A bit of the first time of a series that had events before it, which went.
CUT = 1 << 63
_TIME = CUT - 1


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
        entries=(_ENTRY,) * len(longest) + (_RECENT.size,) * len(card.recents),
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
        readings[place] = first & _TIME
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
                readings[place + 1] = (numbers[head + 3] - before[offset + 1]) & _WRAP
                readings[place + 2] = (numbers[head + 4] - before[offset + 2]) & _WRAP
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
                size = len(others) // _ENTRY
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
    return count - _COUNT.unpack(cursor.value())[0], int.from_bytes(cursor.key()[-8:])


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
        if others[middle * _ENTRY : middle * _ENTRY + 8] <= bound:
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
                put(name + runs + stamp, _COUNT.pack(count))
            if not numbers[head + 1]:
                numbers[head + 2] = at | CUT if count else at
            numbers[head] = count + 1
            numbers[head + 1] = at
            if summed and amount:
                numbers[head + 3] = (numbers[head + 3] + amount) & _WRAP
                numbers[head + 4] = (numbers[head + 4] + squared(amount)) & _WRAP
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
    past = _first_after(others, len(others) // _ENTRY, at - over)
    if past:
        others = others[past * _ENTRY :]
    place = others.find(other)
    while place >= 0 and (place - 8) % _ENTRY:  # bytes that only look like the token
        place = others.find(other, place + 1)
    if place >= 0:
        others = others[: place - 8] + others[place + 16 :]
    return (others + stamp + other)[-DISTINCT_CAP * _ENTRY :]


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


# --- to forget --------------------------------------------------------------------------------


def drop(txn: Any, card: Card, token: bytes) -> int:
    """Delete all that is kept under an entity; return how many keys there were."""
    name, count = LAYOUTS[card.id].prefix + token, 0
    with txn.cursor() as cursor:
        cursor.set_range(name)
        while cursor.key().startswith(name):  # of a cursor past the end it is empty
            cursor.delete()  # and stands on the next one
            count += 1
    return count


def leave(
    txn: Any, card: Card, token: bytes, ats: set[int], member: bytes, others_of: OthersOf
) -> int:
    """Take a member, and the events at `ats`, out of an entity's card and of all entries after
    them; who was beyond the cap may come back in. Returns how many entries changed."""
    layout = LAYOUTS[card.id]
    name = layout.prefix + token
    kept = txn.get(name + b"T")
    held = opened(None if kept is None else bytes(kept), layout)
    changed = 0
    if layout.series and kept is not None:
        changed += _leave_series(txn, layout, name, held.numbers, ats)
    for pair, _, place, suffix in layout.pairs:
        assert pair.what == "member", "a pair without a member is not forgotten"
        changed += int(txn.delete(name + suffix + member))
        if place >= 0:
            others = _without(held.lists[place], pair, token, member, others_of)
            changed += others != held.lists[place]
            held.lists[place] = others
    if kept is None or not changed:
        return changed
    _put_back(txn, layout, name, held)
    return changed


def _put_back(txn: Any, layout: Layout, name: bytes, card: Opened) -> None:
    if any(card.numbers[plan.head + 1] for plan in layout.series) or any(card.lists):
        txn.put(name + b"T", closed(card, layout))
    else:
        txn.delete(name + b"T")


def _leave_series(txn: Any, layout: Layout, name: bytes, numbers: list[int], ats: set[int]) -> int:
    """Take the events at `ats` out of the totals in `numbers` and in the entries."""
    entries = name + b"E"
    rows = _entries(txn, entries + min(ats).to_bytes(8), entries, layout.totals)
    lost, changed = _rewritten(txn, rows, layout.totals_of(numbers), layout.totals, ats)
    for plan, _, head, total, _, runs in layout.series:
        if not lost[total]:
            continue
        if runs:
            own_name = name + b"R" + bytes([plan.id])
            own = _entries(txn, own_name + min(ats).to_bytes(8), own_name, _COUNT)
            changed += _rewritten(txn, own, (numbers[head],), _COUNT, ats)[1]
        numbers[head] -= lost[total]
        if plan.summed:
            numbers[head + 3] = (numbers[head + 3] - lost[total + 1]) & _WRAP
            numbers[head + 4] = (numbers[head + 4] - lost[total + 2]) & _WRAP
    if changed:
        _times(layout, numbers, _entries(txn, entries, entries, layout.totals), ats)
    return changed


def _entries(
    txn: Any, start: bytes, prefix: bytes, totals: struct.Struct
) -> list[tuple[bytes, tuple[int, ...]]]:
    rows = []
    with txn.cursor() as cursor:
        if cursor.set_range(start):
            for key, value in cursor:
                if not key.startswith(prefix):
                    break
                rows.append((bytes(key), totals.unpack(value)))
    return rows


def _rewritten(
    txn: Any,
    rows: list[tuple[bytes, tuple[int, ...]]],
    now: tuple[int, ...],
    totals: struct.Struct,
    ats: set[int],
) -> tuple[tuple[int, ...], int]:
    """Delete the entries at `ats` and take what they added out of the later ones.

    Returns what was added by all of them, and how many entries changed.
    """
    after = [before for _, before in rows[1:]] + [now]
    lost, changed = (0,) * len(now), 0
    for (key, before), later in zip(rows, after, strict=True) if rows else ():
        if int.from_bytes(key[-8:]) in ats:
            txn.delete(key)
            lost = tuple((x + y - z) & _WRAP for x, y, z in zip(lost, later, before, strict=True))
            changed += 1
        elif changed:
            txn.put(key, totals.pack(*((x - y) & _WRAP for x, y in zip(before, lost, strict=True))))
            changed += 1
    return lost, changed


def _times(
    layout: Layout,
    numbers: list[int],
    rows: list[tuple[bytes, tuple[int, ...]]],
    ats: set[int],
) -> None:
    """Find anew when the first and the last event of each series was, where it was one of `ats`."""
    after = [before for _, before in rows[1:]] + [layout.totals_of(numbers)]
    for _, _, head, total, _, _ in layout.series:
        last, first = numbers[head + 1], numbers[head + 2]
        if not ats & {last, first & _TIME}:
            continue
        own = [
            (int.from_bytes(key[-8:]), before[total])
            for (key, before), later in (zip(rows, after, strict=True) if rows else ())
            if later[total] != before[total]
        ]
        if not own:
            numbers[head + 1] = numbers[head + 2] = 0
            continue
        numbers[head + 1] = own[-1][0]
        if first & _TIME in ats:
            numbers[head + 2] = own[0][0] | (CUT if own[0][1] else 0)


def _without(others: bytes, plan: Pair, token: bytes, member: bytes, others_of: OthersOf) -> bytes:
    seen = {
        others[place + 8 : place + _ENTRY]: others[place : place + 8]
        for place in range(0, len(others), _ENTRY)
    }
    if seen.pop(member, None) is None:
        return others
    if len(others) == DISTINCT_CAP * _ENTRY:
        for at, other in others_of(plan.by, token, tuple(STREAMS[plan.of])):
            if other != member:
                seen[other] = max(seen.get(other, b""), at.to_bytes(8))
    kept = sorted((stamp, other) for other, stamp in seen.items())[-DISTINCT_CAP:]
    return b"".join(stamp + other for stamp, other in kept)


# --- what is past its time --------------------------------------------------------------------


def aging(txn: Any, name: bytes, cutoff: int, most: int) -> tuple[list[bytes], bytes]:
    """Return the keys under which the next `most` entities from `name` on keep anything of before
    `cutoff`, and where to go on: empty at the end."""
    keys: list[bytes] = []
    with txn.cursor() as cursor:
        for _ in range(most):
            if not cursor.set_range(name) or cursor.key()[:1] != b"W":
                return keys, b""
            name = cursor.key()[:_NAME]
            keys += aged(txn, cursor, name, cutoff)
            name += b"\xff"
    return keys, name


def aged(txn: Any, cursor: Any, name: bytes, cutoff: int) -> Iterator[bytes]:
    """Yield the keys of one entity under which anything of before `cutoff` is kept, `T` last."""
    layout, bound = LAYOUTS[name[1]], cutoff.to_bytes(8)
    for space in (b"E", *(b"R" + bytes([s.plan.id]) for s in layout.series if s.runs)):
        for key, _ in between(cursor, name + space, name + space + bound):
            yield key
    for key, value in between(cursor, name + b"F", name + b"G"):
        if value[:8] < bound:
            yield key
    value = txn.get(name + b"T")
    if value is not None:
        numbers, lists = opened(value, layout)
        firsts = [numbers[s.head + 2] & _TIME for s in layout.series]
        firsts += [int.from_bytes(others[:8]) for others in lists]
        if any(0 < first < cutoff for first in firsts):
            yield name + b"T"


def between(cursor: Any, start: bytes, end: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values from `start` on, in order, as far as before `end`."""
    if cursor.set_range(start):
        yield from takewhile(lambda item: item[0] < end, cursor)


def expire(txn: Any, key: bytes, cutoff: int) -> bool:
    """Let go of what is kept under one of these keys of before `cutoff`; return whether there was
    anything.

    What was first seen before counts as first seen then, as long as it has been met since; else as
    never seen. An entity's keys can go one by one: no window reaches them, so every reading in
    between is right, and `T`, which says when the first event was, is the last of them.
    """
    value = txn.get(key)
    if value is None:
        return False
    bound, space = cutoff.to_bytes(8), key[_NAME : _NAME + 1]
    if space in (b"E", b"R") or key[:1] != b"W":
        return bool(txn.delete(key))
    if space == b"F":
        return bool(txn.delete(key) if value[8:] < bound else txn.put(key, bound + value[8:]))
    layout = LAYOUTS[key[1]]
    card = opened(value, layout)
    for plan in layout.series:
        last, first = card.numbers[plan.head + 1 : plan.head + 3]
        if last < cutoff:
            card.numbers[plan.head + 1] = card.numbers[plan.head + 2] = 0
        elif first & _TIME < cutoff:
            card.numbers[plan.head + 2] = cutoff  # no window begins before
    for place, entry in enumerate(layout.entries):
        kept = card.lists[place]
        past = 0
        while kept[past : past + 8] and kept[past : past + 8] < bound:
            past += entry
        card.lists[place] = kept[past:]
    _put_back(txn, layout, key[:_NAME], card)
    return True
