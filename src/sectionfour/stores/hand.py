"""Cards in Redis: which keys and values they are there, and an entity in the hand.

    W card token        a hash: T and F..., as in `form`
    W card token E      a sorted set: E... and R..., each with its value behind it, in their order

The hash changes with whatever is changed of an entity, but for what no window reaches any more: who
watches it watches both.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain

from sectionfour.features.online import Visit
from sectionfour.redis import Command
from sectionfour.stores import form, leaving

Range = tuple[bytes, bytes]
EVERYTHING: Sequence[Range] = [(b"-", b"+")]

# --- keys and values ------------------------------------------------------------------------------


def fields(visit: Visit) -> list[bytes]:
    """Return what is asked of the hash of an entity."""
    pairs = zip(form.LAYOUTS[visit.card.id].pairs, visit.others, strict=True)
    seen = [p.suffix + other for p, other in pairs if p.plan.aged and other is not None]
    return [b"T", *seen]


def puts(written: Mapping[bytes, bytes]) -> list[Command]:
    hashes: dict[bytes, list[bytes]] = {}
    ordered: dict[bytes, list[bytes | int]] = {}
    for key, value in written.items():
        name, rest = key[: form.NAME], key[form.NAME :]
        if rest[0] in b"ER":
            ordered.setdefault(name + b"E", []).extend((0, rest + value))
        else:
            hashes.setdefault(name, []).extend((rest, value))
    found: list[Command] = [("HSET", name, *fields) for name, fields in hashes.items()]
    found += [("ZADD", name, *entries) for name, entries in ordered.items()]
    return found


def deletes(name: bytes, gone: Mapping[bytes, bytes]) -> list[Command]:
    ordered = [key[form.NAME :] + gone[key] for key in gone if key[form.NAME] in b"ER"]
    fields = [key[form.NAME :] for key in gone if key[form.NAME] not in b"ER"]
    found: list[Command] = []
    if ordered:
        found.append(("ZREM", name + b"E", *ordered))
    if fields:
        found.append(("HDEL", name, *fields))
    return found


def after(start: bytes) -> bytes:
    """Return the end of the range of what begins with `start`."""
    return b"(" + (int.from_bytes(start) + 1).to_bytes(len(start))


def _length(key: bytes) -> int:
    """Return how long an entry's key is, after the name: E at, R series at."""
    return 9 if key[:1] == b"E" else 10


def first_from(key: bytes) -> Command:
    name, rest = key[: form.NAME], key[form.NAME :]
    return "ZRANGEBYLEX", name + b"E", b"[" + rest, after(rest[:-8]), "LIMIT", 0, 1


class LookUps:
    """Stands in for a store's cursor where each look-up would be a journey: what is looked up is
    noted, and nothing found; asked for all at once, it is found the second time."""

    def __init__(self) -> None:
        self.asked: dict[bytes, None] = {}
        self.found: dict[bytes, bytes] = {}

    def set_range(self, key: bytes) -> None:
        self._key = key
        if not self.found:
            self.asked[key] = None

    def key(self) -> bytes:
        found = self.found.get(self._key, bytes(10))
        return found[: _length(found)]

    def value(self) -> bytes:
        found = self.found.get(self._key)
        if found is not None:
            return found[_length(found) :]
        return bytes(8 if self._key[form.NAME] in b"R" else form.LAYOUTS[self._key[1]].totals.size)


# --- an entity in the hand ------------------------------------------------------------------------


def before(name: bytes, bound: bytes) -> list[Range]:
    """Return the ranges in which an entity's entries of before `bound` lie."""
    runs = (b"R" + bytes([s.plan.id]) for s in form.LAYOUTS[name[1]].series if s.runs)
    return [(b"[" + space, b"(" + space + bound) for space in (b"E", *runs)]


def reads(name: bytes, ranges: Sequence[Range]) -> list[Command]:
    return [("HGETALL", name), *(("ZRANGEBYLEX", name + b"E", *each) for each in ranges)]


def kept(name: bytes, found: Sequence[list[bytes]]) -> dict[bytes, bytes]:
    """Return keys and values as `form` knows them, of what `reads` has found."""
    fields, entries = found[0], chain.from_iterable(found[1:])
    kept = {name + key: value for key, value in zip(fields[::2], fields[1::2], strict=True)}
    return kept | {name + e[: _length(e)]: e[_length(e) :] for e in entries}


class Hand:
    """What is kept of an entity, in the hand: for `cards` a store, in which it can be changed."""

    def __init__(self, kept: dict[bytes, bytes]) -> None:
        self.kept = kept
        self.get = kept.get

    def put(self, key: bytes, value: bytes) -> bool:
        self.kept[key] = value
        return True

    def delete(self, key: bytes) -> bool:
        return self.kept.pop(key, None) is not None

    @contextmanager
    def cursor(self) -> Iterator[_Cursor]:
        yield _Cursor(self.kept)


class _Cursor:
    def __init__(self, kept: Mapping[bytes, bytes]) -> None:
        self._kept, self._keys, self._at = kept, sorted(kept), 0

    def set_range(self, start: bytes) -> bool:
        self._at = bisect_left(self._keys, start)
        return self._at < len(self._keys)

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return ((key, self._kept[key]) for key in self._keys[self._at :])


def aged(name: bytes, cutoff: int, held: Hand) -> list[bytes]:
    with held.cursor() as cursor:
        return list(leaving.aged(held, cursor, name, cutoff))


def expired(name: bytes, cutoff: int, held: Hand) -> int:
    return sum(leaving.expire(held, key, cutoff) for key in aged(name, cutoff, held))
