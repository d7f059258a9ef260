"""What leaves a card: a member, by an erasure, and whatever is past its time.

`txn` is the store's transaction, or an entity in the hand that looks like one: get, put, delete,
and a cursor over keys in order.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

from sectionfour.domain import Event
from sectionfour.features import online
from sectionfour.features.catalog import DISTINCT_CAP, STREAMS
from sectionfour.features.online import OthersOf
from sectionfour.features.plan import Card, Pair
from sectionfour.stores.form import (
    COUNT,
    CUT,
    ENTRY,
    LAYOUTS,
    NAME,
    TIME,
    WRAP,
    Layout,
    Opened,
    closed,
    opened,
)

# --- a member ---------------------------------------------------------------------------------


def met(events: Sequence[Event]) -> list[tuple[Card, bytes, set[int]]]:
    """Return each card that any of `events` is in, but those of their member: with its token, and
    the instants of these events."""
    found: dict[tuple[int, bytes], tuple[Card, bytes, set[int]]] = {}
    for event in events:
        for visit in online.visits(event):
            if visit.card.by != "member" and any(visit.joins):
                place = visit.card.id, visit.token
                found.setdefault(place, (visit.card, visit.token, set()))[2].add(event.at)
    return list(found.values())


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
            own = _entries(txn, own_name + min(ats).to_bytes(8), own_name, COUNT)
            changed += _rewritten(txn, own, (numbers[head],), COUNT, ats)[1]
        numbers[head] -= lost[total]
        if plan.summed:
            numbers[head + 3] = (numbers[head + 3] - lost[total + 1]) & WRAP
            numbers[head + 4] = (numbers[head + 4] - lost[total + 2]) & WRAP
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
            lost = tuple((x + y - z) & WRAP for x, y, z in zip(lost, later, before, strict=True))
            changed += 1
        elif changed:
            txn.put(key, totals.pack(*((x - y) & WRAP for x, y in zip(before, lost, strict=True))))
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
        if not ats & {last, first & TIME}:
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
        if first & TIME in ats:
            numbers[head + 2] = own[0][0] | (CUT if own[0][1] else 0)


def _without(others: bytes, plan: Pair, token: bytes, member: bytes, others_of: OthersOf) -> bytes:
    seen = {
        others[place + 8 : place + ENTRY]: others[place : place + 8]
        for place in range(0, len(others), ENTRY)
    }
    if seen.pop(member, None) is None:
        return others
    if len(others) == DISTINCT_CAP * ENTRY:
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
            name = cursor.key()[:NAME]
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
        firsts = [numbers[s.head + 2] & TIME for s in layout.series]
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
    bound, space = cutoff.to_bytes(8), key[NAME : NAME + 1]
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
        elif first & TIME < cutoff:
            card.numbers[plan.head + 2] = cutoff  # no window begins before
    for place, entry in enumerate(layout.entries):
        kept = card.lists[place]
        past = 0
        while kept[past : past + 8] and kept[past : past + 8] < bound:
            past += entry
        card.lists[place] = kept[past:]
    _put_back(txn, layout, key[:NAME], card)
    return True
