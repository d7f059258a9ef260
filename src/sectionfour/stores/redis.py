"""Velocity on Redis or Valkey, for services on several machines: the same cards in a database of
its own there.

    W card token, and the same with E               windows: see `hand`
    I key               at, readings                    for a retry
    O                   at, key, payload, in order      until settled
    A                   at                              the clock
    H                   who asks the others to wait     for two seconds at most
    M                   whose it is, and what it was made by: its form, the catalog, the run of a
                        server that may lose what it has, a number of its own; else not whole

A step watches the cards that it visits, reads them, is given its instant by the server, and is
carried out only if nobody else has been at one of them since; else it is done again. So of the
steps that visit one card each has a later instant than the one before, and has read what that one
left: all that windows are made of. Steps that share no card do not wait for each other.

Why not otherwise: one script on the server would have to count there, and Lua counts in floats,
where sums here wrap at 64 bits; a lock ends when its time is up, not when its holder is done.

That everything is still there is looked at with each step: a database that was emptied has no M,
and one that was put back has an earlier clock than this process has seen.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import chain, count, islice
from random import random
from threading import Lock
from typing import TypeVar

import msgspec
from redis.exceptions import ResponseError

from sectionfour.domain import Event
from sectionfour.errors import FailClosed, NotReady, SettingsError
from sectionfour.features import online
from sectionfour.features.definitions import fingerprint
from sectionfour.features.online import OthersOf, Readings, Visit
from sectionfour.features.plan import CARDS, WIDTH
from sectionfour.redis import Ask, Command, Server
from sectionfour.stores import cards, form, hand, leaving, whose

#: What the keys and values look like; a database of another form is made anew.
FORM = 1
#: Events a transaction of a load: nobody else is answered while it lasts, a tenth of a second.
LOT = 2_000
#: Keys that are looked at together for what is past its time.
LOOKED_AT = 500
#: Seconds, and times, that a step is tried; after so many it asks the others to wait.
PATIENCE, TRIES, POLITE = 5.0, 20, 3
_CLOCK, _META, _HOLD, _STEPS = b"A", b"M", b"H", b"O"
_STEP = 17  # bytes of the key of what is kept for a retry
_NOT_WHOLE = "the windows are not those of the ledger: run `sectionfour rebuild`"
# Returns M, what a retry is answered, the clock as it was, the instant, and who asks to wait; the
# clock is moved on where the step may go on. That alone need not be on the server's disk, which
# would cost as much as the step: it is with the step (_KEEP). Instants are below 2^53 until 2255.
_DRAW = """
local meta, known, clock, waits = unpack(redis.call('MGET', unpack(KEYS)))
local before = tonumber(clock or '-1')
local at = math.max(tonumber(ARGV[1]), before + 1)
local ours = meta and meta:sub(1, #ARGV[2]) == ARGV[2]
if ARGV[3] ~= '' and ours and not known and (not waits or waits == ARGV[3]) then
  redis.set_repl(redis.REPL_NONE)
  redis.call('SET', KEYS[3], string.format('%.0f', at))
end
return {meta, known, before, at, waits}
"""

_KEEP = "redis.call('SET', KEYS[1], redis.call('GET', KEYS[1]))"

T = TypeVar("T")


class RedisVelocity:
    """The windows in the database that `url` names: redis, rediss (TLS) or unix.

    With `new` an empty database is a beginning; without, one that has lost what it had.

    Raises SettingsError for a database of something else, or of another home than `home`, and what
    `Server` raises.
    """

    def __init__(
        self, url: str, *, home: bytes = b"", new: bool = False, synchronous: str = "FULL"
    ) -> None:
        self._server = Server(url, synchronous=synchronous)
        self._home, self._catalog = home, fingerprint()
        self._turns = tuple(Lock() for _ in range(256))  # of this process's threads
        self._cleared = False  # whether a load that is completed leaves nothing out
        self._newest = b"", -1  # the newest instant given to this process, of what M
        with self._server.asking() as ask:
            meta, size = ask(("GET", _META), ("DBSIZE",))
            if meta is None and size:
                raise SettingsError("windows need a database of their own; this one holds others'")
            if meta is None:
                ask(("SET", _META, self._made() if new else home, "NX"))
            if whose.another_s(ask(("GET", _META))[0], home):
                raise SettingsError(whose.ANOTHERS)

    @property
    def _stamp(self) -> bytes:
        return self._home + msgspec.json.encode([FORM, self._catalog, self._server.run])

    def _made(self) -> bytes:
        return self._stamp + secrets.token_bytes(8)

    @contextmanager
    def _asking(self) -> Iterator[Ask]:
        """As `Server.asking`; NotReady where another home has begun in what was emptied."""
        with self._server.asking() as ask:
            if whose.another_s(ask(("GET", _META))[0], self._home):
                raise NotReady(whose.ANOTHERS)
            yield ask

    def _until(self, attempt: Callable[[Ask, bytes], T | None]) -> T:
        """Return what `attempt` returns; None, somebody came between: then it is made again."""
        me, end, asked = secrets.token_bytes(8), time.monotonic() + PATIENCE, False
        with self._server.asking() as ask:
            for turn in count(1):
                began = time.monotonic()
                found = attempt(ask, me)
                if found is not None:
                    if asked:
                        ask(("DEL", _HOLD))
                    return found
                now = time.monotonic()
                if turn >= TRIES and now > end:
                    break
                if turn >= POLITE:  # whoever is killed meanwhile holds up nobody for long
                    lease = 500 + int(2_000 * (now - began))
                    hold = ("SET", _HOLD, me, "PX", lease, *(() if asked else ("NX",)))
                    asked = ask(hold)[0] is not None or asked
                time.sleep(random() * min(turn, 8) * 0.0005)
        raise FailClosed("the velocity store is too busy")

    # --- a step

    def exchange(
        self, key: bytes, at: int, visits: Sequence[Visit], amount: int, payload: bytes | None
    ) -> tuple[int, Readings]:
        # Threads that would meet on a card wait here for each other: that costs no journey.
        places = {hash(visit.token) % len(self._turns) for visit in visits}
        with ExitStack() as turns:
            for place in sorted(places):
                turns.enter_context(self._turns[place])
            return self._until(partial(self._step, key, at, visits, amount, payload))

    def _step(
        self,
        key: bytes,
        at: int,
        visits: Sequence[Visit],
        amount: int,
        payload: bytes | None,
        ask: Ask,
        me: bytes,
    ) -> tuple[int, Readings] | None:
        observe = payload is not None
        names = [form.LAYOUTS[visit.card.id].prefix + visit.token for visit in visits]
        ours = self._stamp
        wanted = [hand.fields(visit) for visit in visits]
        seen = self._newest
        keys = _META, b"I" + key, _CLOCK, _HOLD
        _, (meta, known, before, at, waits), *found = ask(
            ("WATCH", _META, *((b"I" + key,) if observe else ()), *names),
            ("EVAL", _DRAW, 4, *keys, at, ours, me if observe else b""),
            *(("HMGET", name, *fields) for name, fields in zip(names, wanted, strict=True)),
        )
        if meta is None or not meta.startswith(ours):
            raise NotReady(_NOT_WHOLE)
        if meta == seen[0] and before < seen[1]:
            ask(("UNWATCH",), ("SET", _META, self._home))  # for all others too
            raise NotReady(_NOT_WHOLE)
        if observe and known is not None:
            ask(("UNWATCH",))
            return cards.remembered(known, visits)
        if observe and waits not in (None, me):
            ask(("UNWATCH",))
            return None
        held = [
            (visit, name, form.opened(values[0], form.LAYOUTS[visit.card.id]),
             dict(zip([name + field for field in fields], values, strict=True)))
            for visit, name, fields, values in zip(visits, names, wanted, found, strict=True)
        ]  # fmt: skip
        cursor = hand.LookUps()
        readings: Readings = [None] * WIDTH
        for visit, name, card, kept in held:
            cards.read(cursor, kept.get, name, visit, card, at, readings)
        if cursor.asked:
            entries = ask(*(hand.first_from(key) for key in cursor.asked))
            if not all(entries):  # an entry that a card speaks of went with a change of it
                ask(("UNWATCH",))
                return None
            cursor.found = {key: entry[0] for key, entry in zip(cursor.asked, entries, strict=True)}
        written: dict[bytes, bytes] = {}
        touched: list[Command] = []
        stamp = at.to_bytes(8)
        for visit, name, card, kept in held:
            firsts = cards.read(cursor, kept.get, name, visit, card, at, readings)
            layout = form.LAYOUTS[visit.card.id]
            put = written.__setitem__
            if observe and cards.enter(put, name, visit, card, firsts, at, stamp, amount):
                written[name + b"T"] = form.closed(card, layout)
            elif observe:  # who enters it after this must have a later instant: he is told
                touched += [("HSET", name, b"", b""), ("HDEL", name, b"")]
        if payload is not None:
            touched.append(("EVAL", _KEEP, 1, _CLOCK))
            touched.append(("SET", b"I" + key, cards.memory(stamp, readings)))
            touched.append(("ZADD", _STEPS, 0, stamp + key + payload))
        *_, done = ask(("MULTI",), *hand.puts(written), *touched, ("EXEC",))
        if done is None:
            return None
        if observe and (meta != self._newest[0] or at > self._newest[1]):
            self._newest = meta, at
        return at, readings

    # --- all of it

    @property
    def fresh(self) -> bool:
        with self._server.asking() as ask:
            return bool((ask(("GET", _META))[0] or b"").startswith(self._stamp))

    def load(
        self, events: Iterable[Event], progress: Callable[[int], object] = lambda count: None
    ) -> int:
        whole, self._cleared = self.fresh or self._cleared, False
        rest = iter(events)
        number, mine = 0, self._home + secrets.token_bytes(8)
        with self._asking() as ask:
            ask(("SET", _META, mine))
            while lot := list(islice(rest, LOT)):
                self._load(ask, lot, mine)
                number += len(lot)
                progress(len(lot))
            if whole:
                _, meta = ask(("WATCH", _META), ("GET", _META))
                done = None
                if meta == mine:
                    *_, done = ask(("MULTI",), ("SET", _META, self._made()), ("EXEC",))
                if done is None:
                    raise NotReady(_NOT_WHOLE)
        return number

    def _load(self, ask: Ask, lot: Sequence[Event], mine: bytes) -> None:
        wanted: dict[bytes, dict[bytes, None]] = {}
        for event in lot:
            for visit in filter(lambda visit: any(visit.joins), online.visits(event)):
                name = form.LAYOUTS[visit.card.id].prefix + visit.token
                wanted.setdefault(name, {}).update(dict.fromkeys(hand.fields(visit)))
        done = None
        while done is None:  # whoever is erased meanwhile stays so: then it is gathered again
            _, meta, clock, *found = ask(
                ("WATCH", _META, *wanted),
                ("GET", _META),
                ("GET", _CLOCK),
                *(("HMGET", name, *fields) for name, fields in wanted.items()),
            )
            if meta != mine:  # emptied meanwhile, or somebody else fills it
                raise NotReady(_NOT_WHOLE)
            kept = {
                name + field: value
                for (name, fields), values in zip(wanted.items(), found, strict=True)
                for field, value in zip(fields, values, strict=True)
            }
            written = cards.gathered(kept.get, lot, -1 if clock is None else int(clock))
            *_, done = ask(("MULTI",), *hand.puts(written), ("SET", _CLOCK, lot[-1].at), ("EXEC",))

    def clear(self) -> None:
        kept = self._settled() if self.fresh else []
        with self._asking() as ask:
            ask(("MULTI",), ("FLUSHDB", "ASYNC"), ("SET", _META, self._home), *kept, ("EXEC",))
        self._cleared = True

    def _settled(self) -> list[Command]:
        """Return how to put back what is remembered of steps that are settled."""
        kept: list[Command] = []
        place = b""
        with self._server.asking() as ask:
            waiting = {step[8:24] for step in ask(("ZRANGE", _STEPS, 0, -1))[0]}
            while place != b"0":
                ((place, keys),) = ask(("SCAN", place or b"0", "MATCH", "I*", "COUNT", LOOKED_AT))
                names = [name for name in keys if name[1:] not in waiting]
                values = ask(*(("GET", name) for name in names))
                kept += [("SET", *item) for item in zip(names, values, strict=True) if item[1]]
        return kept

    def empty(self) -> int:
        made = self._made() if self.fresh else self._home
        with self._asking() as ask:
            *_, done = ask(
                ("MULTI",), ("DBSIZE",), ("FLUSHDB", "ASYNC"), ("SET", _META, made), ("EXEC",)
            )
            with suppress(ResponseError):  # one is under way
                ask(("BGREWRITEAOF",))  # so that the file on the server's disk is empty too
        return int(done[0]) - 1

    def close(self) -> None:
        self._server.close()

    # --- steps on their way to the ledger

    def unsettled(self, before: int) -> Sequence[tuple[int, bytes, bytes]]:
        end = b"(" + min(before, (1 << 64) - 1).to_bytes(8)
        with self._asking() as ask:
            (found,) = ask(("ZRANGEBYLEX", _STEPS, b"-", end))
        return [(int.from_bytes(each[:8]), each[8:24], each[24:]) for each in found]

    def settle(self, entries: Sequence[tuple[int, bytes]], *, forget: bool) -> None:
        gone = [_settled(at.to_bytes(8) + key) for at, key in entries]
        if forget:
            gone += [("DEL", b"I" + key) for _, key in entries]
        with self._asking() as ask:
            ask(("MULTI",), *gone, ("EXEC",))

    # --- to forget

    def forget(self, member: bytes, events: Sequence[Event], others_of: OthersOf) -> int:
        changed = 0
        for card in CARDS:
            if card.by == "member":
                name = form.LAYOUTS[card.id].prefix + member
                gone = ("HLEN", name), ("ZCARD", name + b"E"), ("DEL", name, name + b"E")
                with self._asking() as ask:
                    changed += sum(ask(("MULTI",), *gone, ("EXEC",))[-1][:2])
        for card, token, ats in leaving.met(events):  # one by one: a checkout waits for each
            name = form.LAYOUTS[card.id].prefix + token
            leave = partial(
                leaving.leave, card=card, token=token, ats=ats, member=member, others_of=others_of
            )
            changed += self._change(name, hand.EVERYTHING, leave)
        steps = [(event.at.to_bytes(8), online.key_of(event.event_id)) for event in events]
        with self._server.asking() as ask:
            *_, gone = ask(
                ("MULTI",),
                *(("DEL", b"I" + key) for _, key in steps),
                *(_settled(at + key) for at, key in steps),
                ("EXEC",),
            )
        return int(changed + sum(gone))

    def expire(self, cutoff: int, progress: Callable[[int], object] = lambda count: None) -> int:
        bound, total, place = cutoff.to_bytes(8), 0, b"0"
        while True:
            with self._asking() as ask:
                ((place, keys),) = ask(("SCAN", place, "COUNT", LOOKED_AT))
                steps = [key for key in keys if key[:1] == b"I" and len(key) == _STEP]
                values = ask(*(("GET", key) for key in steps))
                old = [k for k, v in zip(steps, values, strict=True) if v and v[:8] < bound]
                gone = sum(ask(*(("DEL", key) for key in old)))
                names = [key for key in keys if key[:1] == b"W" and len(key) == form.NAME]
                reads = [hand.reads(name, hand.before(name, bound)) for name in names]
                found = iter(ask(*chain.from_iterable(reads)))
                due = [
                    name
                    for name, each in zip(names, reads, strict=True)
                    if hand.aged(
                        name, cutoff, hand.Hand(hand.kept(name, list(islice(found, len(each)))))
                    )
                ]
            for name in due:
                gone += self._change(
                    name, hand.before(name, bound), partial(hand.expired, name, cutoff)
                )
            total += int(gone)
            if gone:
                progress(gone)
            if place == b"0":
                return total

    def _change(
        self, name: bytes, ranges: Sequence[hand.Range], change: Callable[[hand.Hand], int]
    ) -> int:
        """Change one entity in one atomic step, of whose entries those in `ranges` are wanted."""

        def attempt(ask: Ask, me: bytes) -> int | None:
            _, *found = ask(("WATCH", name, name + b"E"), *hand.reads(name, ranges))
            before = hand.kept(name, found)
            held = hand.Hand(dict(before))
            number = change(held)
            gone = {key: value for key, value in before.items() if held.kept.get(key) != value}
            new = {key: value for key, value in held.kept.items() if before.get(key) != value}
            *_, done = ask(("MULTI",), *hand.deletes(name, gone), *hand.puts(new), ("EXEC",))
            return None if done is None else number

        return self._until(attempt)


def _settled(start: bytes) -> Command:
    return "ZREMRANGEBYLEX", _STEPS, b"[" + start, hand.after(start)
