"""Velocity on LMDB: ordered keys, one write transaction a step, exact windows in O(log n).

    S series token            -> count, sum, squares, last, first    the running totals of a key
    E series token at         -> count, sum, squares before it       one an event
    P pair token              -> (at, other) * n, by at              when each other was last seen
    F pair token other        -> at                                  when a pair was first seen
    I key                     -> at, readings by plan                for a retry
    O at key                  -> payload                             until settled
    A                         -> at                                  the clock
    M                         -> fingerprint, boot                   what this store was made by

A window is a difference of two running totals: one look-up finds the first event inside it, whose
entry says what was before. Of the others of a pair only the newest 1,000 inside the longest window
are kept, in one value: older ones cannot change a count that stops at 1,000.

Commits are not flushed: state here is derived and can be rebuilt from the ledger. A killed process
loses nothing (the pages are the kernel's); after a power cut, or where a load was broken off,
`fresh` is False: rebuild.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import lmdb
import msgspec

from sectionfour.domain import Event
from sectionfour.errors import FailClosed, HistoryError
from sectionfour.features.catalog import DISTINCT_CAP, STREAMS, fingerprint
from sectionfour.features.online import (
    PAIRS,
    SERIES,
    Lookup,
    Pair,
    PairReading,
    Readings,
    Series,
    SeriesReading,
    entered,
    key_of,
    squared,
)

#: Events a transaction of a load: the store is locked while it lasts, about a third of a second.
LOT = 10_000

_WRAP = (1 << 64) - 1  # totals may wrap: their differences are right all the same
_HEAD = struct.Struct(">QQQQQ")
_TOTALS = struct.Struct(">QQQ")
_COUNT = struct.Struct(">Q")
_ENTRY = 24
_CLOCK = b"A"
_META = b"M"
_PREFIX = {i: bytes([i]) for i in range(256)}
_ZERO = (0, 0, 0)

Head = tuple[int, int, int, int, int]  # count, sum, squares, last, first
Get = Callable[[bytes], bytes | None]
Put = Callable[[bytes, bytes], object]


def boot_id() -> str:
    """Return what tells one start of this machine from the next; empty where that is not known."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@contextmanager
def _closed() -> Iterator[None]:
    try:
        yield
    except lmdb.Error as error:
        raise FailClosed("the velocity store cannot be used") from error


class LmdbVelocity:
    def __init__(self, path: Path, *, map_size: int = 1 << 36) -> None:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _closed():
            self._env = lmdb.open(
                str(path),
                map_size=map_size,
                sync=False,
                metasync=False,
                writemap=True,  # halves a step; the file is sparse, `du` tells its true size
                map_async=True,
                readahead=False,
                max_readers=512,
                mode=0o600,
            )
            self._stamp = msgspec.json.encode([fingerprint(), boot_id()])
            with self._env.begin(write=True) as txn:
                if txn.stat()["entries"] == 0:
                    txn.put(_META, self._stamp)
                found = txn.get(_META)
        self.fresh: bool = found == self._stamp
        self._whole = self.fresh  # whether a load that is completed leaves nothing out

    def exchange(
        self, key: bytes, at: int, lookups: Sequence[Lookup], amount: int, payload: bytes | None
    ) -> tuple[int, Readings]:
        observe = payload is not None
        with _closed(), self._env.begin(write=observe) as txn:
            if observe:
                known = txn.get(b"I" + key)
                if known is not None:
                    return _remembered(known, lookups)
            last = txn.get(_CLOCK)
            if last is not None:
                at = max(at, int.from_bytes(last) + 1)
            stamp = at.to_bytes(8)
            readings: Readings = []
            cursor = txn.cursor()
            get, put = txn.get, txn.put
            newest: dict[int, int] = {}  # a series of this event, and when its last event was
            for plan, token, other, joins in lookups:
                name = _PREFIX[plan.id] + token
                if isinstance(plan, Series):
                    head = _head(get, name)
                    newest[plan.id] = head[3]
                    reading = _read_series(cursor, plan, name, head, at)
                    for over, other_id in plan.runs:
                        after = max(at - over, newest[other_id])
                        reading.windows.append(_read_run(cursor, name, head, after))
                    readings.append(reading)
                    if observe and joins:
                        _enter_series(put, plan, name, head, at, stamp, amount)
                else:
                    first, others = _pair(get, plan, name, other)
                    size = len(others) // _ENTRY
                    counts = [size - _first_after(others, size, at - over) for over in plan.overs]
                    readings.append(PairReading(first, counts))
                    if observe and joins:
                        _enter_pair(put, plan, name, other, first, others, stamp)
            if payload is not None:
                put(_CLOCK, stamp)
                places = [lookup.plan.id for lookup in lookups]
                put(b"I" + key, stamp + msgspec.msgpack.encode((places, readings)))
                put(b"O" + stamp + key, payload)
            return at, readings

    def load(
        self, events: Iterable[Event], progress: Callable[[int], object] = lambda count: None
    ) -> int:
        with _closed():
            with self._env.begin(write=True) as txn:
                txn.put(_META, b"")
            whole, self.fresh, self._whole = self._whole, False, False
            rest = iter(events)
            count = 0
            while lot := list(islice(rest, LOT)):
                with self._env.begin(write=True) as txn:
                    _enter(txn, lot)
                count += len(lot)
                progress(len(lot))
            if whole:
                with self._env.begin(write=True) as txn:
                    txn.put(_META, self._stamp)
                self.fresh = self._whole = True
        return count

    def clear(self) -> None:
        with _closed(), self._env.begin(write=True) as txn:
            txn.drop(self._env.open_db(txn=txn), delete=False)
            txn.put(_META, b"")
        self.fresh, self._whole = False, True

    def empty(self) -> int:
        """Delete everything but what the store was made by; returns how many keys there were."""
        with _closed(), self._env.begin(write=True) as txn:
            count = int(txn.stat()["entries"]) - (txn.get(_META) is not None)
            stamp = txn.get(_META)
            txn.drop(self._env.open_db(txn=txn), delete=False)
            if stamp is not None:
                txn.put(_META, stamp)
        return count

    def unsettled(self, before: int) -> Sequence[tuple[int, bytes, bytes]]:
        found: list[tuple[int, bytes, bytes]] = []
        with _closed(), self._env.begin() as txn, txn.cursor() as cursor:
            if cursor.set_range(b"O"):
                for key, value in cursor:
                    at = int.from_bytes(key[1:9])
                    if key[:1] != b"O" or at >= before:
                        break
                    found.append((at, key[9:], value))
        return found

    def settle(self, entries: Sequence[tuple[int, bytes]], *, forget: bool) -> None:
        with _closed(), self._env.begin(write=True) as txn:
            for at, key in entries:
                txn.delete(b"O" + at.to_bytes(8) + key)
                if forget:
                    txn.delete(b"I" + key)

    def forget(
        self,
        member: bytes,
        events: Sequence[Event],
        others_of: Callable[[str, bytes, Sequence[str]], Sequence[tuple[int, bytes]]],
    ) -> int:
        series: dict[bytes, tuple[Series, set[int]]] = {}
        pairs: dict[bytes, tuple[Pair, bytes]] = {}
        for event in events:
            for plan, token, _ in entered(event):
                name = _PREFIX[plan.id] + token
                if plan.by == "member":
                    continue
                if isinstance(plan, Series):
                    series.setdefault(name, (plan, set()))[1].add(event.at)
                else:
                    assert plan.what == "member", "a pair without a member is not forgotten"
                    pairs[name] = (plan, token)
        changed = 0
        with _closed(), self._env.begin(write=True) as txn:
            own: tuple[Series | Pair, ...] = (*SERIES, *PAIRS)
            for plan in own:
                if plan.by == "member":
                    for space in (b"S", b"E", b"P", b"F"):
                        changed += _drop(txn, space + _PREFIX[plan.id] + member)
            for name, (plan, ats) in series.items():
                changed += _leave_series(txn, plan, name, ats)
            for name, (pair, token) in pairs.items():
                changed += _leave_pair(txn, pair, name, token, member, others_of)
            for event in events:
                key = key_of(event.event_id)
                changed += txn.delete(b"I" + key)
                changed += txn.delete(b"O" + event.at.to_bytes(8) + key)
        return changed

    def close(self) -> None:
        self._env.close()


# --- to read ----------------------------------------------------------------------------------


def _head(get: Get, name: bytes) -> Head:
    found = get(b"S" + name)
    return (0, 0, 0, 0, 0) if found is None else _HEAD.unpack(found)


def _read_series(
    cursor: lmdb.Cursor, plan: Series, name: bytes, head: Head, at: int
) -> SeriesReading:
    count, total, squares, last, first = head
    windows: list[tuple[int, int, int]] = []
    for over in plan.overs:
        cutoff = at - over
        if last <= cutoff:
            windows.append(_ZERO)
        elif first > cutoff:
            windows.append((count, total, squares))
        else:
            # Some event is inside, so the first key past the cut-off is one of this entity's.
            cursor.set_range(b"E" + name + (cutoff + 1).to_bytes(8))
            if plan.summed:
                before = _TOTALS.unpack(cursor.value())
                windows.append(
                    (
                        count - before[0],
                        (total - before[1]) & _WRAP,
                        (squares - before[2]) & _WRAP,
                    )
                )
            else:
                windows.append((count - _COUNT.unpack(cursor.value())[0], 0, 0))
    return SeriesReading(first, last, windows)


def _read_run(cursor: lmdb.Cursor, name: bytes, head: Head, after: int) -> tuple[int, int, int]:
    """Return how many events are later than `after`, and when the first of them was."""
    count, _, _, last, first = head
    if last <= after:
        return _ZERO
    if first > after:
        return count, first, 0
    cursor.set_range(b"E" + name + (after + 1).to_bytes(8))
    before = _COUNT.unpack_from(cursor.value())[0]
    return count - before, int.from_bytes(cursor.key()[-8:]), 0


def _pair(get: Get, plan: Pair, name: bytes, other: bytes) -> tuple[int, bytes]:
    """Return when the pair was first seen (0 for never), and when each other was last seen."""
    first = get(b"F" + name + other) if plan.aged else None
    others = get(b"P" + name) if plan.overs else None
    return 0 if first is None else int.from_bytes(first), others or b""


def _first_after(others: bytes, size: int, cutoff: int) -> int:
    """Return how many of the entries, which are in order of time, are at `cutoff` or before."""
    if cutoff < 0:
        return 0
    bound, low, high = cutoff.to_bytes(8), 0, size
    while low < high:
        middle = (low + high) // 2
        if others[middle * _ENTRY : middle * _ENTRY + 8] <= bound:
            low = middle + 1
        else:
            high = middle
    return low


def _remembered(known: bytes, lookups: Sequence[Lookup]) -> tuple[int, Readings]:
    """Return what the first call read, of what is asked for now: less may be permitted by now, and
    what was not read then cannot be read any more."""
    places, rows = msgspec.msgpack.decode(known[8:])
    found = dict(zip(places, rows, strict=True))
    readings: Readings = []
    for lookup in lookups:
        row = found.get(lookup.plan.id)
        if row is None:
            readings.append(None)
        elif isinstance(lookup.plan, Series):
            readings.append(SeriesReading(row[0], row[1], [tuple(w) for w in row[2]]))
        else:
            readings.append(PairReading(row[0], row[1]))
    return int.from_bytes(known[:8]), readings


# --- to add -----------------------------------------------------------------------------------


def _enter_series(
    put: Put, plan: Series, name: bytes, head: Head, at: int, stamp: bytes, amount: int
) -> None:
    count, total, squares, _, first = head
    if plan.summed:
        put(b"E" + name + stamp, _TOTALS.pack(count, total, squares))
        total, squares = (total + amount) & _WRAP, (squares + squared(amount)) & _WRAP
    else:
        put(b"E" + name + stamp, _COUNT.pack(count))
    put(b"S" + name, _HEAD.pack(count + 1, total, squares, at, first or at))


def _enter_pair(
    put: Put, plan: Pair, name: bytes, other: bytes, first: int, others: bytes, stamp: bytes
) -> None:
    if plan.aged and not first:
        put(b"F" + name + other, stamp)
    if plan.overs:
        put(b"P" + name, _seen(others, other, stamp, plan.overs[-1]))


def _seen(others: bytes, other: bytes, stamp: bytes, over: int) -> bytes:
    """Return `others` with `other` moved to the end; what no later window can count is dropped:
    what is `over` or more ago, and the oldest beyond the cap."""
    past = _first_after(others, len(others) // _ENTRY, int.from_bytes(stamp) - over)
    others = others[past * _ENTRY :]
    place = others.find(other)
    while place >= 0 and (place - 8) % _ENTRY:  # bytes that only look like the token
        place = others.find(other, place + 1)
    if place >= 0:
        others = others[: place - 8] + others[place + 16 :]
    return (others + stamp + other)[-DISTINCT_CAP * _ENTRY :]


def _enter(txn: lmdb.Transaction, lot: Sequence[Event]) -> None:
    """Add `lot` to what is there: what one key gets is put together first, and written once."""
    written: dict[bytes, bytes] = {}

    def get(key: bytes) -> bytes | None:
        value = written.get(key)
        return bytes(txn.get(key) or b"") or None if value is None else value

    put = written.__setitem__
    clock = int.from_bytes(txn.get(_CLOCK) or b"")
    for event in lot:
        at, amount = event.at, event.amount or 0
        if at <= clock:
            raise HistoryError("events are loaded in order of `at`, after all that are there")
        clock, stamp = at, at.to_bytes(8)
        for plan, token, other in entered(event):
            name = _PREFIX[plan.id] + token
            if isinstance(plan, Series):
                _enter_series(put, plan, name, _head(get, name), at, stamp, amount)
            else:
                _enter_pair(put, plan, name, other, *_pair(get, plan, name, other), stamp)
    put(_CLOCK, clock.to_bytes(8))
    txn.cursor().putmulti([(key, written[key]) for key in sorted(written)])


# --- to forget --------------------------------------------------------------------------------


def _drop(txn: Any, prefix: bytes) -> int:
    """Delete every key that begins so; return how many there were."""
    count = 0
    with txn.cursor() as cursor:
        cursor.set_range(prefix)
        while cursor.key().startswith(prefix):  # of a cursor past the end it is empty
            cursor.delete()  # and stands on the next one
            count += 1
    return count


def _leave_series(txn: Any, plan: Series, name: bytes, ats: set[int]) -> int:
    """Take the events at `ats` out of the running totals, and so out of all that came after."""
    head = _head(txn.get, name)
    prefix = b"E" + name
    totals = _TOTALS if plan.summed else _COUNT
    rows: list[tuple[bytes, tuple[int, ...]]] = []
    with txn.cursor() as cursor:
        if cursor.set_range(prefix + min(ats).to_bytes(8)):
            for key, value in cursor:
                if not key.startswith(prefix):
                    break
                rows.append((key, totals.unpack(value)))
    width = 3 if plan.summed else 1
    after = [before for _, before in rows[1:]] + [head[:width]]
    lost, gone = (0,) * width, 0
    for (key, before), later in zip(rows, after, strict=True) if rows else ():
        if int.from_bytes(key[-8:]) in ats:
            txn.delete(key)
            lost = tuple(x + y - z for x, y, z in zip(lost, later, before, strict=True))
            gone += 1
        elif gone:
            txn.put(key, totals.pack(*_less(before, lost)))
    if not gone:
        return 0
    if head[0] == gone:
        txn.delete(b"S" + name)
        return len(rows)
    with txn.cursor() as cursor:
        cursor.set_range(prefix)
        first = int.from_bytes(cursor.key()[-8:])
        # What follows the last key of this name may be nothing at all.
        found = cursor.set_range(prefix + b"\xff" * 8) and cursor.prev()
        last = int.from_bytes((cursor if found else _at_end(cursor)).key()[-8:])
    count, total, squares = (*_less(head[:width], lost), 0, 0)[:3]
    txn.put(b"S" + name, _HEAD.pack(count, total, squares, last, first))
    return len(rows)


def _at_end(cursor: Any) -> Any:
    cursor.last()
    return cursor


def _less(totals: Sequence[int], lost: Sequence[int]) -> tuple[int, ...]:
    return tuple((x - y) & _WRAP for x, y in zip(totals, lost, strict=True))


def _leave_pair(
    txn: Any,
    plan: Pair,
    name: bytes,
    token: bytes,
    member: bytes,
    others_of: Callable[[str, bytes, Sequence[str]], Sequence[tuple[int, bytes]]],
) -> int:
    """Take a member out of those seen with an entity; who was beyond the cap may come back in."""
    changed = int(txn.delete(b"F" + name + member))
    others = txn.get(b"P" + name) or b""
    seen = {
        others[place + 8 : place + _ENTRY]: others[place : place + 8]
        for place in range(0, len(others), _ENTRY)
    }
    if seen.pop(member, None) is None:
        return changed
    if len(others) == DISTINCT_CAP * _ENTRY:
        for at, other in others_of(plan.by, token, tuple(STREAMS[plan.of])):
            if other != member:
                seen[other] = max(seen.get(other, b""), at.to_bytes(8))
    kept = sorted((stamp, other) for other, stamp in seen.items())[-DISTINCT_CAP:]
    if kept:
        txn.put(b"P" + name, b"".join(stamp + other for stamp, other in kept))
    else:
        txn.delete(b"P" + name)
    return changed + 1
