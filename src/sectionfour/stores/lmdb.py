"""Velocity on LMDB: ordered keys, one write transaction a step, exact windows in O(log n).

    S series token            -> count, sum, squares, last, first    the running totals of a key
    E series token at         -> count, sum, squares before it       one an event
    P pair token              -> (at, other) * n, by at              when each other was last seen
    F pair token other        -> at                                  when a pair was first seen
    I key                     -> at, readings                        for a retry
    O at key                  -> payload                             until settled
    A                         -> at                                  the clock
    M                         -> fingerprint, boot                   what this store was made by

A window is a difference of two running totals: one look-up finds the first event inside it, whose
entry says what was before. Of the others of a pair only the newest 1,000 are kept, in one value:
older ones cannot change a count that stops at 1,000.

Commits are not flushed: state here is derived and can be rebuilt from the ledger. A killed process
loses nothing (the pages are the kernel's); after a power cut `fresh` is False: rebuild.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import lmdb
import msgspec

from sectionfour.errors import FailClosed
from sectionfour.features.catalog import DISTINCT_CAP, fingerprint
from sectionfour.features.online import (
    Lookup,
    Pair,
    PairReading,
    Readings,
    Series,
    SeriesReading,
    squared,
)

_WRAP = (1 << 64) - 1  # totals may wrap: their differences are right all the same
_HEAD = struct.Struct(">QQQQQ")
_TOTALS = struct.Struct(">QQQ")
_COUNT = struct.Struct(">Q")
_ENTRY = 24
_CLOCK = b"A"
_META = b"M"
_PREFIX = {i: bytes([i]) for i in range(256)}
_ZERO = (0, 0, 0)


def boot_id() -> str:
    """Return what tells one start of this machine from the next; empty where that is not known."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


class LmdbVelocity:
    def __init__(self, path: Path, *, map_size: int = 1 << 36) -> None:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
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
        except lmdb.Error as error:
            raise FailClosed("the velocity store does not open") from error
        stamp = msgspec.json.encode([fingerprint(), boot_id()])
        with self._env.begin(write=True) as txn:
            found = txn.get(_META)
            if found is None and txn.stat()["entries"] == 0:
                txn.put(_META, stamp)
                found = stamp
        #: False where the windows may lack events or were made by another catalog: rebuild them.
        self.fresh = bytes(found or b"") == stamp

    def exchange(
        self, key: bytes, at: int, lookups: Sequence[Lookup], amount: int, payload: bytes | None
    ) -> tuple[int, Readings]:
        observe = payload is not None
        try:
            with self._env.begin(write=observe, buffers=False) as txn:
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
                for lookup in lookups:
                    plan = lookup.plan
                    if isinstance(plan, Series):
                        readings.append(
                            self._series(txn, cursor, plan, lookup, at, stamp, amount, observe)
                        )
                    else:
                        readings.append(self._pair(txn, plan, lookup, at, stamp, observe))
                if payload is not None:
                    txn.put(_CLOCK, stamp)
                    txn.put(b"I" + key, stamp + msgspec.msgpack.encode(readings))
                    txn.put(b"O" + stamp + key, payload)
                return at, readings
        except lmdb.Error as error:
            raise FailClosed("the velocity store cannot be read") from error

    @staticmethod
    def _series(
        txn: lmdb.Transaction,
        cursor: lmdb.Cursor,
        plan: Series,
        lookup: Lookup,
        at: int,
        stamp: bytes,
        amount: int,
        observe: bool,
    ) -> SeriesReading:
        name = _PREFIX[plan.id] + lookup.token
        head = txn.get(b"S" + name)
        count = total = squares = last = first = 0
        if head is not None:
            count, total, squares, last, first = _HEAD.unpack(head)
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
        if observe and lookup.joins:
            if plan.summed:
                txn.put(b"E" + name + stamp, _TOTALS.pack(count, total, squares))
                total, squares = (total + amount) & _WRAP, (squares + squared(amount)) & _WRAP
            else:
                txn.put(b"E" + name + stamp, _COUNT.pack(count))
            txn.put(b"S" + name, _HEAD.pack(count + 1, total, squares, at, first or at))
        return SeriesReading(first, last, windows)

    @staticmethod
    def _pair(
        txn: lmdb.Transaction, plan: Pair, lookup: Lookup, at: int, stamp: bytes, observe: bool
    ) -> PairReading:
        name = _PREFIX[plan.id] + lookup.token
        first = 0
        if plan.aged:
            seen = txn.get(b"F" + name + lookup.other)
            if seen is not None:
                first = int.from_bytes(seen)
            elif observe and lookup.joins:
                txn.put(b"F" + name + lookup.other, stamp)
        if not plan.overs:
            return PairReading(first, [])
        others = bytes(txn.get(b"P" + name) or b"")
        size = len(others) // _ENTRY
        counts = [size - _first_after(others, size, at - over) for over in plan.overs]
        if observe and lookup.joins:
            txn.put(b"P" + name, _seen(others, lookup.other, stamp))
        return PairReading(first, counts)

    def unsettled(self, before: int) -> Sequence[tuple[int, bytes, bytes]]:
        found: list[tuple[int, bytes, bytes]] = []
        with self._env.begin() as txn, txn.cursor() as cursor:
            if cursor.set_range(b"O"):
                for key, value in cursor:
                    at = int.from_bytes(key[1:9])
                    if key[:1] != b"O" or at >= before:
                        break
                    found.append((at, bytes(key[9:]), bytes(value)))
        return found

    def settle(self, entries: Sequence[tuple[int, bytes]], *, forget: bool) -> None:
        with self._env.begin(write=True) as txn:
            for at, key in entries:
                txn.delete(b"O" + at.to_bytes(8) + key)
                if forget:
                    txn.delete(b"I" + key)

    def clear(self) -> None:
        """Drop everything, ready to be rebuilt from the ledger."""
        with self._env.begin(write=True) as txn:
            txn.drop(self._env.open_db(txn=txn), delete=False)
            txn.put(_META, msgspec.json.encode([fingerprint(), boot_id()]))
        self.fresh = True

    def close(self) -> None:
        self._env.close()


def _remembered(known: bytes, lookups: Sequence[Lookup]) -> tuple[int, Readings]:
    rows = msgspec.msgpack.decode(known[8:])
    readings: Readings = []
    for lookup, row in zip(lookups, rows, strict=True):
        if isinstance(lookup.plan, Series):
            readings.append(SeriesReading(row[0], row[1], [tuple(w) for w in row[2]]))
        else:
            readings.append(PairReading(row[0], row[1]))
    return int.from_bytes(known[:8]), readings


def _first_after(others: bytes, size: int, cutoff: int) -> int:
    """Return how many of the entries, which are in order of time, are at `cutoff` or before."""
    bound, low, high = cutoff.to_bytes(8), 0, size
    while low < high:
        middle = (low + high) // 2
        if others[middle * _ENTRY : middle * _ENTRY + 8] <= bound:
            low = middle + 1
        else:
            high = middle
    return low


def _seen(others: bytes, other: bytes, stamp: bytes) -> bytes:
    """Return `others` with `other` moved to the end, the oldest dropped beyond the cap."""
    place = others.find(other)
    while place >= 0 and (place - 8) % _ENTRY:  # bytes that only look like the token
        place = others.find(other, place + 1)
    if place >= 0:
        others = others[: place - 8] + others[place + 16 :]
    return (others + stamp + other)[-DISTINCT_CAP * _ENTRY :]
