"""To be forgotten: one person taken out of every place that the inventory names (R-06, T19, T20).

The order is what makes it safe to be killed anywhere: the case is written; then the vault row is
closed, from where on nobody makes a token of that person; then the windows are put right, from the
ledger's events; then these go, in one transaction with the log's entry. Every step may be done
twice. What was on its way meanwhile is swept once more when it must have arrived; only then is the
case done, and forgets whose it was.

Where a law holds what is theirs the case is written and waits: nothing of it is done until that is
over, and then it is begun by the next upkeep.

A ledger that is put back may be older than an erasure. That is told by what stands beside the half
keys, of which no older copies are kept; the erasure is then done again (`redo`).
"""

from __future__ import annotations

import hmac
import secrets
from typing import TYPE_CHECKING

import msgspec

from sectionfour.domain import DAY, EVER, MINUTE, Event
from sectionfour.errors import NotFound
from sectionfour.privacy import entries, inventory, retention
from sectionfour.privacy.halves import Erased
from sectionfour.privacy.spelling import plain

if TYPE_CHECKING:
    from sectionfour.parts import Parts

#: By when all is to be done, the models' retraining included.
DUE = 30 * DAY
#: How long a request may be on its way to the ledger: as in `upkeep`.
ARRIVED = MINUTE
#: How long a request for an erasure that is sent again is known for the same one.
RETRY = DAY
HELD = (
    "the law holds what is of this person, or of an order of theirs, for now: nothing is erased"
    " yet, and it is begun when that is over"
)

_event = msgspec.msgpack.Decoder(Event).decode


class Case(msgspec.Struct, frozen=True):
    """One erasure. `subject`, `place` and `half` (where the vault row is) until it is done.

    `due_at` is 0 while it waits: a law holds what is theirs.
    """

    erasure_id: str
    trigger: str
    requested_at: int
    due_at: int
    sweeps: int
    completed_at: int | None
    subject: bytes | None
    place: bytes | None
    half: bytes | None
    nonce: bytes | None

    @property
    def waits(self) -> bool:
        """Whether a law holds what is theirs, so that nothing of it is done yet."""
        return self.due_at == 0

    @property
    def begun_at(self) -> int:
        """When it was begun, in microseconds; of no meaning while it waits."""
        return self.due_at - DUE


class Target(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one store. Instants in microseconds."""

    store: str
    action: str
    rows: int = 0
    law: str | None = None
    until: int | None = None
    due: int | None = None
    done_by: str | None = None


def erase(parts: Parts, member_id: str, trigger: str, at: int) -> Case:
    """Erase a member, and return the case; the same again, for a day, is the same case.

    It waits where a law holds what is theirs, by a hold or by a grant, which may be sealed: so the
    case does not tell which. Raises NotFound for somebody never met.
    """
    name = plain(member_id)
    subject = parts.keys.subject(member_id)
    row = parts.keys.vault.row_of(name)
    if subject is None or row is None:
        known = parts.ledger.erasure_at(parts.keys.vault.place(name))
        if known is None:
            raise NotFound("there is no such member here")
        return known
    erasure_id, nonce = f"er_{secrets.token_hex(12)}", secrets.token_bytes(32)
    due = 0 if parts.ledger.is_held(subject, retention.load(), at) else at + DUE
    case = parts.ledger.open_erasure(
        Case(erasure_id, trigger, at, due, 0, None, subject, *row, nonce),
        entries.erasure_waits(erasure_id, trigger, at) if not due else None,
    )
    return case if case.waits and not due else _begun(parts, case, at)


def _begun(parts: Parts, case: Case, at: int) -> Case:
    if case.waits:
        case = parts.ledger.begin_erasure(case, at + DUE)
    sweep(parts, case, at)
    return case


def sweep(parts: Parts, case: Case, at: int) -> None:
    """Take out all that is there of a person now."""
    assert case.subject is not None
    assert case.place is not None
    assert case.half is not None
    assert case.nonce is not None
    subject, first = case.subject, case.sweeps == 0
    mark = parts.keys.vault.mark(subject)
    parts.keys.vault.shred(
        case.place, Erased(case.erasure_id, mark, case.trigger, case.begun_at, case.half)
    )
    under_way = [
        msgspec.structs.replace(event, at=stamp)
        for stamp, _, payload in parts.velocity.unsettled(EVER)
        if (event := _event(payload)).member == subject
    ]
    past = parts.ledger.past_of(subject) + under_way
    count = parts.velocity.forget(subject, past, parts.ledger.others_of)
    done = [Target("velocity", "deleted", count)]
    if first:
        done += [
            Target("vault.subjects", "shredded", 1),
            Target("persons.halves", "shredded", 1),
            Target("elsewhere:backup", "shredded"),
            *(
                Target(kept.place, "retained", 0, kept.law, case.begun_at + kept.keep_days * DAY)
                for kept in inventory.load().places
                if kept.erasure == "retain" and kept.kind in ("ledger", "persons")
            ),
        ]
    commitment = hmac.digest(case.nonce, subject, "sha256").hex()
    parts.ledger.erase_rows(
        parts.keys,
        case,
        done,
        lambda number, targets, names, gone: entries.erasure(
            case.erasure_id,
            case.trigger,
            requested_at=case.requested_at,
            at=at,
            sweep=number,
            commitment=commitment,
            targets=[(target.store, target.action, target.rows) for target in targets],
            names=names,
            gone=gone,
        ),
    )


def resume(parts: Parts, at: int) -> int:
    """Go on with whatever erasure is not done; return how many are done now."""
    done = 0
    for case in parts.ledger.open_erasures():
        assert case.subject is not None
        if case.sweeps == 0:
            if not (case.waits and parts.ledger.is_held(case.subject, retention.load(), at)):
                _begun(parts, case, at)
        elif at >= case.begun_at + ARRIVED:
            sweep(parts, case, at)
            if case.subject not in {hold.subject for hold in parts.ledger.holds()}:
                parts.keys.vault.drop_alias(case.subject)  # else the entries of holds speak of it
            if parts.keys.vault.cut() and parts.ledger.cut():
                parts.ledger.put_targets(case.erasure_id, models_due(parts, case))
                leaf = entries.erasure_done(case.erasure_id, at)
                parts.ledger.complete_erasure(case.erasure_id, at, leaf)
                parts.ledger.cut()  # the case itself has forgotten whose it was
                done += 1
    if parts.ledger.forget_retries(at - RETRY):
        parts.ledger.cut()
    return done


# --- in a ledger that was put back


#: An older ledger lacks the newest erasures first: whoever has these has all.
NEWEST = 100


def undone(parts: Parts) -> list[Erased]:
    """Return the erasures that this ledger knows nothing of: it is older than they are."""
    if parts.ledger.cessation() is not None:  # nothing is left, of cases neither
        return []
    for at_most in (NEWEST, -1):
        noted = parts.keys.vault.erased(at_most)
        lacking = set(parts.ledger.lacks_erasures([one.erasure_id for one in noted]))
        if not lacking:
            return []
    return [one for one in reversed(noted) if one.erasure_id in lacking]


def redo(parts: Parts, at: int) -> int:
    """Do again what erasures were done since this ledger was copied; return how many.

    No hold is asked about: who has been erased cannot be asked for by anybody any more, and the
    holds of an older ledger may be lifted by now.
    """
    lacking = undone(parts)
    if not lacking:
        return 0
    marked = {one.mark: one.erasure_id for one in lacking}
    theirs = {
        marked[mark]: subject
        for subject in parts.ledger.persons()
        if (mark := parts.keys.vault.mark(subject)) in marked
    }
    places = parts.keys.vault.places()  # the vault may have been put back as well
    for one in lacking:
        subject = theirs.get(one.erasure_id)
        case = Case(
            one.erasure_id,
            one.trigger,
            one.requested_at,
            one.requested_at + DUE,
            0,
            None,
            subject,
            places.get(one.half, b""),
            one.half,
            secrets.token_bytes(32),
        )
        if subject is None:  # older than all that there was of the person
            parts.ledger.note_erasure(case, at, entries.erasure_done(one.erasure_id, at))
        else:
            sweep(parts, parts.ledger.open_erasure(case), at)
    return len(lacking)


# --- models


def models_due(parts: Parts, case: Case) -> list[Target]:
    """Return the models of this home that were made while the person's events were there.

    A model says nothing of who is in it. What is known is the size of the log when its data was
    read: an erasure has an entry in the log, and what was read after it is without that person.
    """
    return [
        Target(f"model:{name}/{version}", "retrain_due", due=case.due_at)
        for name, version in _made_here(parts)
        if not without(parts, case.erasure_id, name, version)
    ]


def without(parts: Parts, erasure_id: str, name: str, version: str) -> bool:
    """Whether a version was made of data read after the erasure: the proof that T20 asks for."""
    size = parts.ledger.trained_at(name, version)
    found = parts.ledger.find(erasure_id)
    return size is not None and found is not None and size > found[0]


def _made_here(parts: Parts) -> list[tuple[str, str]]:
    ours = parts.keys.ring.signing("models").public_key().public_bytes_raw()
    return [(name, version) for name, version, by in parts.models.all() if by == ours]


def models_done(parts: Parts, erasure_id: str) -> dict[str, str]:
    """Return, for each model that is served by a version without the person, that version."""
    served = {name: parts.models.current(name) for name, _ in _made_here(parts)}
    return {
        name: version
        for name, version in served.items()
        if version is not None and without(parts, erasure_id, name, version)
    }
