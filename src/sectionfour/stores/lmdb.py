"""Velocity on LMDB: ordered keys, one write transaction a step, exact windows in O(log n).

    W card token ...          -> windows: see `form`
    I key                     -> at, readings                        for a retry
    O at key                  -> payload                             until settled
    A                         -> at                                  the clock
    M                         -> whose it is; and its form, the catalog, the boot, by which it was
                                 made

Commits are not flushed: state here is derived and can be rebuilt from the ledger. A killed process
loses nothing (the pages are the kernel's); after a power cut, or where a load was broken off,
`fresh` is False, and no step is taken: rebuild.

The file is sparse, and written through memory, where a full disk would kill the process: so every
transaction that writes has room taken for it first, or is refused (`_writing`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import cast

import lmdb
import msgspec

from sectionfour import room
from sectionfour.domain import Event
from sectionfour.errors import FailClosed, NotReady, SettingsError
from sectionfour.features import online
from sectionfour.features.definitions import fingerprint
from sectionfour.features.online import OthersOf, Readings, Visit
from sectionfour.features.plan import CARDS, WIDTH
from sectionfour.stores import cards, form, leaving, whose

#: What the keys and values look like; a store of another form is made anew.
FORM = 4
#: Events a transaction of a load: the more, the fewer cards are opened more than once. The store is
#: locked only while they are written, a tenth of a second or two.
LOT = 60_000
#: Keys a transaction of what is past its time: a millisecond or two, for a checkout may wait.
EXPIRED = 500
#: Entities that are looked at for it at once; nobody waits for that.
LOOKED_AT = 2_000
#: Bytes that a transaction may need beyond those in use: a step some hundred pages, `EXPIRED` keys
#: each a page and those above it. And bytes that are taken at once, for thousands of steps.
ROOM, AHEAD = 1 << 22, 1 << 22
#: The same of what rewrites all that is kept of a device or a payee, which may be many events; and
#: of what frees all pages, one byte for so many: it writes a list of them.
MUCH, FREED = 1 << 26, 1 << 8
#: Length of the file of locks. It is mapped, too; LMDB makes as many places for readers as fit.
LOCKS = 1 << 16

_CLOCK = b"A"
_META = b"M"


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
    except (lmdb.Error, OSError) as error:
        raise FailClosed("the velocity store cannot be used") from error


class LmdbVelocity:
    def __init__(
        self, path: Path, *, home: bytes = b"", map_size: int = 1 << 36, new: bool = True
    ) -> None:
        """`new`: an empty store is a beginning; without, one that has lost what it had."""
        self._folder = path
        self._cleared = False  # whether a load that is completed leaves nothing out
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        locks = path / "lock.mdb"
        # Made by LMDB where somebody has it open: to close a file lets go of our locks on it.
        with _closed():
            if not locks.exists():
                room.make(locks, LOCKS)
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
            self._file = os.open(path / "data.mdb", os.O_RDWR | os.O_CLOEXEC)
            self._page = int(self._env.stat()["psize"])
            self._map_size, self._taken = map_size, 0
            self._home = home
            self._stamp = home + msgspec.json.encode([FORM, fingerprint(), boot_id()])
            with self._env.begin(write=True) as txn:
                if txn.stat()["entries"] == 0:
                    self._make_room()
                    txn.put(_META, self._stamp if new else home)
                found = txn.get(_META)
        if whose.another_s(found, home):
            self.close()
            raise SettingsError(whose.ANOTHERS)

    @contextmanager
    def _writing(self) -> Iterator[lmdb.Transaction[bytes]]:
        """One transaction that writes, and has room for that; undone where it raises."""
        with _closed(), self._env.begin(write=True) as txn:
            self._make_room()
            yield txn

    def _make_room(self, more: int = 0) -> None:
        """Let the file have `ROOM` beyond the bytes in use; FailClosed where the disk is full, or
        has no `more` left. In a transaction that writes: then nobody else does.

        `more` is for what comes rarely, and mostly needs far less: it is looked for, not taken.
        """
        used = self._used()
        end = min(used + ROOM, self._map_size)
        if end > self._taken:
            end = min(end + AHEAD, self._map_size)
            room.take(self._file, self._taken, end)
            self._taken = end
        if more:
            room.look(self._folder, min(more, self._map_size - used))

    def _used(self) -> int:
        return (int(self._env.info()["last_pgno"]) + 1) * self._page

    @property
    def fresh(self) -> bool:
        with _closed(), self._env.begin() as txn:
            return bool(txn.get(_META) == self._stamp)

    def exchange(
        self, key: bytes, at: int, visits: Sequence[Visit], amount: int, payload: bytes | None
    ) -> tuple[int, Readings]:
        observe = payload is not None
        with _closed(), self._env.begin(write=observe) as txn:
            get, put = txn.get, txn.put
            if get(_META) != self._stamp:
                raise NotReady("the windows are not those of the ledger: run `sectionfour rebuild`")
            if observe:
                known = get(b"I" + key)
                if known is not None:
                    return cards.remembered(known, visits)
                self._make_room()
            last = get(_CLOCK)
            if last is not None:
                at = max(at, int.from_bytes(last) + 1)
            stamp = at.to_bytes(8)
            readings: Readings = [None] * WIDTH
            cursor = txn.cursor()
            for visit in visits:
                layout = form.LAYOUTS[visit.card.id]
                name = layout.prefix + visit.token
                card = form.opened(get(name + b"T"), layout)
                firsts = cards.read(cursor, get, name, visit, card, at, readings)
                if observe and cards.enter(put, name, visit, card, firsts, at, stamp, amount):
                    put(name + b"T", form.closed(card, layout))
            if payload is not None:
                put(_CLOCK, stamp)
                put(b"I" + key, cards.memory(stamp, readings))
                put(b"O" + stamp + key, payload)
            return at, readings

    def load(
        self, events: Iterable[Event], progress: Callable[[int], object] = lambda count: None
    ) -> int:
        whole, self._cleared = self.fresh or self._cleared, False
        with _closed():
            with self._writing() as txn:
                txn.put(_META, self._home)
            rest = iter(events)
            count = 0
            while lot := list(islice(rest, LOT)):
                with self._env.begin() as txn:
                    seen, rows = txn.id(), _gathered(txn, lot)
                with self._env.begin(write=True) as txn:
                    if txn.id() != seen + 1:  # somebody has written since
                        rows = _gathered(txn, lot)
                    # A page that changes is written elsewhere; new ones are half full, or more.
                    changed = min(len(rows) * self._page, self._used())
                    fresh = 2 * sum(len(key) + len(value) for key, value in rows)
                    self._make_room(changed + fresh)
                    txn.cursor().putmulti(rows)
                count += len(lot)
                progress(len(lot))
            if whole:
                with self._writing() as txn:
                    txn.put(_META, self._stamp)
        return count

    def clear(self) -> None:
        with self._writing() as txn:
            self._make_room(self._used() // FREED)
            kept = _settled(txn) if txn.get(_META) == self._stamp else []
            txn.drop(self._env.open_db(txn=txn), delete=False)
            txn.put(_META, self._home)
            txn.cursor().putmulti(kept)
        self._cleared = True

    def empty(self) -> int:
        """Delete everything but what the store was made by; returns how many keys there were."""
        with self._writing() as txn:
            self._make_room(self._used() // FREED)
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
        with self._writing() as txn:
            for at, key in entries:
                txn.delete(b"O" + at.to_bytes(8) + key)
                if forget:
                    txn.delete(b"I" + key)

    def forget(self, member: bytes, events: Sequence[Event], others_of: OthersOf) -> int:
        changed = 0
        with self._writing() as txn:
            self._make_room(min(MUCH, self._used()))
            for card in CARDS:
                if card.by == "member":
                    changed += leaving.drop(txn, card, member)
        for card, token, ats in leaving.met(events):  # one by one: a checkout waits for each
            with self._writing() as txn:
                changed += leaving.leave(txn, card, token, ats, member, others_of)
        with self._writing() as txn:
            for event in events:
                key = online.key_of(event.event_id)
                changed += txn.delete(b"I" + key)
                changed += txn.delete(b"O" + event.at.to_bytes(8) + key)
        return changed

    def expire(self, cutoff: int, progress: Callable[[int], object] = lambda count: None) -> int:
        with _closed(), self._env.begin() as txn, txn.cursor() as cursor:
            # Readings for a retry of what nobody was answered; those of others go when settled.
            steps = leaving.between(cursor, b"I", b"J")
            keys = [key for key, value in steps if value[:8] < cutoff.to_bytes(8)]
        gone, name = 0, b"W"
        while keys or name:
            with _closed():
                for start in range(0, len(keys), EXPIRED):
                    with self._writing() as txn:
                        lot = keys[start : start + EXPIRED]
                        count = sum(leaving.expire(txn, key, cutoff) for key in lot)
                    gone += count
                    progress(count)
                keys = []
                if name:
                    with self._env.begin() as txn:
                        keys, name = leaving.aging(txn, name, cutoff, LOOKED_AT)
        return gone

    def close(self) -> None:
        self._env.close()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _settled(txn: lmdb.Transaction) -> list[tuple[bytes, bytes]]:
    """Return what is remembered of steps that are settled."""
    with txn.cursor() as cursor:
        waiting = {key[9:] for key, _ in leaving.between(cursor, b"O", b"P")}
        return [item for item in leaving.between(cursor, b"I", b"J") if item[0][1:] not in waiting]


def _gathered(txn: lmdb.Transaction, lot: Sequence[Event]) -> list[tuple[bytes, bytes]]:
    """Return what is to be written so that `lot` is in, in order of keys."""
    clock = int.from_bytes(txn.get(_CLOCK) or b"")
    written = cards.gathered(cast(cards.Get, txn.get), lot, clock)
    return [(_CLOCK, lot[-1].at.to_bytes(8)), *written.items()]
