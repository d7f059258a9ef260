"""The end of operation (policy, last paragraph): stop collecting, tell people, delete everything.

Begun again it goes on where it was broken off. What the law forbids to delete (a legal hold, or a
live grant for criminal proceedings) makes the deletion wait, and nothing else.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from sectionfour.domain import instant
from sectionfour.errors import Conflict, NotReady
from sectionfour.parts import Parts
from sectionfour.privacy import entries, notes, retention
from sectionfour.privacy.receipts import Notary
from sectionfour.settings import Settings
from sectionfour.stores.ledger.cessation import Ending

#: Seconds after which no call that began before the flag is still under way.
PROPAGATION = 2.0
#: How often what a late call has left is taken again.
PASSES = 5
Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Ceased:
    """What was done. `attestation` is a note, signed with the log's key."""

    at: int
    notified: int
    attestation: str


def cease(
    parts: Parts,
    notary: Notary,
    settings: Settings,
    *,
    announcement: str,
    by: str,
    wait: float = PROPAGATION,
    say: Say = lambda text: None,
) -> Ceased:
    """Stop collection and scoring for good, record the notices, delete everything, attest it.

    Raises Conflict where the law forbids to delete yet: collection has ceased all the same. Raises
    NotReady where something keeps on writing.
    """
    ledger, keys = parts.ledger, parts.keys
    begun = Ending(parts.clock(), announcement, by, None)
    ending = ledger.cease(begun, entries.ceased(announcement, by, begun.at))
    if ending.attestation is not None:
        told = int(ledger.rows("SELECT COUNT(*) FROM notifications")[0][0])
        return Ceased(ending.at, told, ending.attestation)
    say("collection and scoring have ceased")
    time.sleep(wait)
    told = ledger.notify(keys, parts.clock())
    say(f"{told:,} persons are on record as told by the announcement")
    held = ledger.spoken_for(retention.load(), parts.clock())
    if held:
        raise Conflict(
            f"collection has ceased, but of {held} persons or orders the law forbids the deletion"
            " yet: call again once their holds are lifted and the grants are over"
        )
    total: Counter[str] = Counter()
    for _ in range(PASSES):
        gone = _everything(parts)
        total += gone
        if not +gone:
            break
        say(f"{sum(gone.values()):,} rows are deleted")
    else:
        raise NotReady("something keeps on writing: end every service of this home, call again")
    note = _attested(parts, notary, settings, ending, told, total)
    return Ceased(ending.at, told, note)


def _everything(parts: Parts) -> Counter[str]:
    """Delete all there is, once. Returns how much there was."""
    gone = Counter({f"ledger.{t}": n for t, n in
                    parts.ledger.take_everything(parts.keys, parts.clock()).items()})  # fmt: skip
    gone["vault"] = parts.keys.vault.clear()
    gone["velocity"] = parts.velocity.empty()
    return gone


def _attested(
    parts: Parts,
    notary: Notary,
    settings: Settings,
    ending: Ending,
    told: int,
    total: Counter[str],
) -> str:
    """Sign what was deleted, and keep it; the log's newest checkpoint is part of it."""
    checkpoint = notary.extend(parts.clock()) or ""
    size, root = checkpoint.split("\n")[1:3]
    lines = [
        "sectionfour.example/cessation/v1",
        f"log {settings.origin} {size} {root}",
        f"ceased {instant(ending.at)}",
        f"announcement {ending.announcement}",
        f"notified {told}",
        *(f"deleted {place} {count}" for place, count in sorted(total.items()) if count),
        "left 0",
        f"attested {instant(parts.clock())}",
    ]
    key = parts.keys.ring.signing("log")
    note = notes.sign("\n".join(lines) + "\n", settings.origin, key)
    parts.ledger.attest(note, entries.attested(note, parts.clock()))
    notary.extend(parts.clock())
    return note
