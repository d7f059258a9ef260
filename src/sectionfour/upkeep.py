"""What is done beside answering: checkpoints are signed, and windows are settled with the ledger.

A step of the windows comes before its row in the ledger, so a worker that is killed between the
two leaves a step that nobody was told of. It counted in the windows of others, so it is put into
the ledger as an event: a rebuild then finds the same windows.
"""

from __future__ import annotations

import fcntl
import logging
import threading

import msgspec

from sectionfour.domain import Event
from sectionfour.errors import SectionFourError
from sectionfour.parts import Parts
from sectionfour.privacy.receipts import Notary
from sectionfour.settings import Settings

log = logging.getLogger("sectionfour")

#: How long a step may be on its way to the ledger, in microseconds.
SETTLE_AFTER = 60_000_000
#: Entries a transaction: the windows are locked while it lasts, about a millisecond.
BATCH = 500

_event = msgspec.msgpack.Decoder(Event).decode


def fresh(parts: Parts) -> bool:
    """Whether the windows are those of the ledger: of this catalog, whole, and not behind it.

    A step of the windows comes before its row in the ledger, so their clock is never behind,
    unless they were dropped, or put back from an older copy.
    """
    clock, _ = parts.velocity.exchange(b"", 0, [], 0, None)  # reads nothing but the clock
    newest = parts.ledger.rows("SELECT COALESCE(MAX(at), -1) FROM events")[0][0]
    return parts.velocity.fresh and bool(clock > newest)


def upkeep(parts: Parts, notary: Notary, at: int) -> None:
    """Sign what the log has gained by `at`, and settle the steps that are old enough."""
    notary.extend(at)
    settle(parts, at - SETTLE_AFTER)


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
        lost = [step for step in steps if step[2].event_id not in answered]
        if lost:
            parts.ledger.add_events(event for _, _, event in lost)
            parts.velocity.settle([(at, key) for at, key, _ in lost], forget=False)
        kept = [(at, key) for at, key, event in steps if event.event_id in answered]
        parts.velocity.settle(kept, forget=True)


class Upkeep:
    """A thread that does the upkeep at intervals. Of all workers of a home one does, by a lock."""

    def __init__(self, parts: Parts, notary: Notary, settings: Settings) -> None:
        self._parts, self._notary = parts, notary
        self._every = settings.checkpoint_seconds
        self._lock = settings.home / "upkeep.lock"
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upkeep")
        self._thread.start()

    def stop(self) -> None:
        """End the thread, once what it is about is done."""
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(self._every):
            self._once()
        self._once()  # what was answered last gets its checkpoint too

    def _once(self) -> None:
        with open(self._lock, "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # another worker is at it
            try:
                upkeep(self._parts, self._notary, self._parts.clock())
            except SectionFourError as error:  # tried again at the next turn
                log.error("upkeep: %s: %s", error.code, error.detail)
