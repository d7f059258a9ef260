"""What is done beside answering: checkpoints are signed, windows are settled with the ledger, and
challengers score in shadow.

A step of the windows comes before its row in the ledger, so a worker that is killed between the
two leaves a step that nobody was told of. It counted in the windows of others, so it is put into
the ledger as an event: a rebuild then finds the same windows.
"""

from __future__ import annotations

import fcntl
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from sectionfour.domain import EVER, KNOWN, MINUTE, Event
from sectionfour.errors import SectionFourError
from sectionfour.jobs.sweep import sweep
from sectionfour.learning.shadow import Shadow
from sectionfour.loading.replay import Progress, rebuild
from sectionfour.parts import Parts
from sectionfour.privacy import entries, erasure
from sectionfour.privacy.receipts import Notary
from sectionfour.privacy.witness import Publisher
from sectionfour.settings import Settings
from sectionfour.stores.ledger.log import GROWTH

log = logging.getLogger("sectionfour")

#: How long a step may be on its way to the ledger, in microseconds.
SETTLE_AFTER = MINUTE
#: Entries a transaction: the windows are locked while it lasts, about a millisecond.
BATCH = 200
#: Seconds between two sweeps of what is past its time; the first comes an hour after the start.
SWEEP_EVERY, FIRST_SWEEP = 86_400.0, 3_600.0
#: Seconds between two looks at what the tree of the log has to take in.
GROW_EVERY = 1.0
LOCK = "upkeep.lock"

_event = msgspec.msgpack.Decoder(Event).decode


def fresh(parts: Parts) -> bool:
    """Whether the windows are those of the ledger: of this catalog, whole, and not behind it.

    A step of the windows comes before its row in the ledger, so their clock is never behind,
    unless they were dropped, or put back from an older copy.
    """
    if not parts.velocity.fresh:
        return False
    # First what is in the ledger: what comes in between is in the windows, too.
    newest = parts.ledger.rows("SELECT COALESCE(MAX(at), -1) FROM events")[0][0]
    clock, _ = parts.velocity.exchange(b"", 0, [], 0, None)  # reads nothing but the clock
    return bool(clock > newest)


def anew(parts: Parts, progress: Progress = lambda count: None) -> int:
    """Make the windows anew from the ledger. Returns how many events went in.

    Whoever is between the windows and the ledger is waited for, and what comes meanwhile is told
    to try again: what is in the ledger then is all that there is. KeyringError where others are at
    it for long.
    """
    with parts.keys.ring.steady.alone("the windows are being made anew: try again soon"):
        if fresh(parts):
            settle(parts, EVER)
        return rebuild(parts, progress)


def upkeep(parts: Parts, notary: Notary, at: int, publisher: Publisher | None = None) -> None:
    """Sign what the log has gained by `at`, settle the steps that are old enough, and tell the
    witness."""
    notary.extend(at)
    erasure.redo(parts, at)  # of a ledger that was put back beside us
    erasure.resume(parts, at)  # before steps are settled: what is erased is not to come back
    settle(parts, at - SETTLE_AFTER)
    if publisher is not None:  # last: a witness that does not answer must hold nothing up
        publisher.publish()


def settle(parts: Parts, before: int) -> None:
    """Settle each step before `before`: forgotten where it was answered, since a retry is then
    answered from the ledger; else kept there as an event, and remembered for a retry."""
    entries = parts.velocity.unsettled(before)
    for start in range(0, len(entries), BATCH):
        steps = [
            (at, key, msgspec.structs.replace(_event(payload), at=at))
            for at, key, payload in entries[start : start + BATCH]
        ]
        answered = parts.ledger.recorded([event.event_id for _, _, event in steps])
        # The step of a label waits for its label: it is no event that anybody asked about.
        lost = [s for s in steps if s[2].event_id not in answered and s[2].type not in KNOWN]
        if lost:
            _keep(parts, [event for _, _, event in lost])
            parts.velocity.settle([(at, key) for at, key, _ in lost], forget=False)
        kept = [(at, key) for at, key, event in steps if event.event_id in answered]
        parts.velocity.settle(kept, forget=True)


def _keep(parts: Parts, lost: list[Event]) -> None:
    """Put events that nobody was answered for into the ledger, each with an entry of its own."""
    for event in lost:
        with parts.ledger.transaction() as connection:
            tally, rows = parts.ledger.bring(connection, parts.keys.ring, events=[event])
            if rows["events"]:  # not answered since it was looked for
                leaf = entries.step(parts.keys, event.event_id, tally, parts.clock())
                parts.ledger.log(connection, leaf)


class Upkeep:
    """A thread that does the upkeep at intervals. Of all workers of a home one leads, for life."""

    def __init__(self, parts: Parts, notary: Notary, settings: Settings) -> None:
        self._parts, self._notary = parts, notary
        self._publisher = Publisher(parts.ledger, settings.witness_to)
        self._shadow = Shadow(parts)
        self._every = settings.checkpoint_seconds
        self._due = time.monotonic() + self._every
        self._sweep_due = time.monotonic() + FIRST_SWEEP
        self._lock = settings.home / LOCK
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upkeep")
        self._thread.start()

    def stop(self) -> None:
        """End the thread, once what it is about is done."""
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        with open(self._lock, "w") as lock:
            leads = False
            while not self._end.wait(min(GROW_EVERY, self._every)):
                leads = leads or _taken(lock)
                if leads:
                    self._turn(due=time.monotonic() >= self._due)
                    self._sweep()
            fcntl.flock(lock, fcntl.LOCK_EX)  # whoever ends last signs what was answered last
            self._turn(due=True)

    def _sweep(self) -> None:
        if time.monotonic() < self._sweep_due:
            return
        self._sweep_due = time.monotonic() + SWEEP_EVERY
        try:
            sweep(self._parts, self._parts.clock())
        except (SectionFourError, OSError) as error:  # tried again tomorrow
            _told("sweep", error)

    def _turn(self, *, due: bool) -> None:
        """Let the tree grow by a bite, so that no checkout waits for many at once; all upkeep
        where that is due; then let challengers catch up by a bite."""
        try:
            if due:
                self._due = time.monotonic() + self._every
                with self._parts.keys.ring.steady:  # what is settled has tokens
                    upkeep(self._parts, self._notary, self._parts.clock(), self._publisher)
            else:
                self._parts.ledger.grow(GROWTH)
            self._shadow.turn()
        except (SectionFourError, OSError) as error:  # tried again at the next turn
            _told("upkeep", error)


def _told(what: str, error: SectionFourError | OSError) -> None:
    """Log what went wrong: a disk that is full, say, is no reason to end for good."""
    if isinstance(error, OSError):
        log.error("%s: %s", what, error.strerror)
    else:
        log.error("%s: %s: %s", what, error.code, error.detail)


@contextmanager
def alone(home: Path) -> Iterator[bool]:
    """Keep any service of this home from leading; False where one does already."""
    with open(home / LOCK, "w") as lock:
        yield _taken(lock)


def _taken(lock: IO[str]) -> bool:
    """Take the lock, to be kept for life; False where another worker has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
