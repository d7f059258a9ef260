"""Epochs of keys end: what is kept gets other tokens where joins are to survive, and not elsewhere.

    serve      begin ... weeks in which the service notes, for what it meets, the next token too ...
               finish: kept rows and windows get the next epoch's tokens, the old key is destroyed
    train      a new key, and the old one destroyed, at once: releases are never joined
    partner:ID the same
    analyst    one epoch a case, destroyed with it;  export:CASE  the same
    audit      lasts for the life of the log

Members keep their joins whole: the vault knows who they are. Whatever else a token stands for is
not kept, so a device, an address, an instrument keeps its past only where it was met between begin
and finish. The past of all others stays joined in itself, under tokens that nobody can make; met
again later, they begin anew.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec

from sectionfour.domain import EVER, Event, Leaf
from sectionfour.errors import Conflict, KeyringError
from sectionfour.jobs.upkeep import settle
from sectionfour.loading.replay import rebuild
from sectionfour.parts import Parts
from sectionfour.privacy import entries, kek, receipts
from sectionfour.privacy.exceptions import Grant
from sectionfour.privacy.keys import DESTROYED, FIRST, MOVING, Keyring, epoch_key
from sectionfour.privacy.receipts import Notary
from sectionfour.verify import verify
from sectionfour.verify.log import ASSESSMENTS, CHUNK, EVENT

Moved = dict[bytes, bytes]
Progress = Callable[[str, int], object]
#: Who or what has a token in the audit domain too, which must not change: these, and the scopes
#: of grants.
_ALIASED = (
    ("assessments", "subject"),
    ("consent_events", "subject"),
    ("labels", "member"),
    ("events", "member"),
    ("third_persons", "subject"),
    ("third_persons", "order_ref"),
    ("erasures", "subject"),
    ("holds", "subject"),
    ("holds", "order_ref"),
)


def rotate(parts: Parts) -> str:
    """Begin the next epoch of the serve domain, while the service runs; return its name.

    From now on the service notes for what it meets what it will be called; `finish` ends it.
    """
    ring = parts.keys.ring
    with ring.turns.alone():  # an event is noted whole or not at all
        ring.refresh()
        if ring.coming("serve") is not None:
            raise Conflict("an epoch is ending already: `sectionfour epochs finish`")
        ring.successors.destroy()  # of one that broke off
        ring.token("serve", "subject", b"")  # there is a first one
        name = _following(ring, "serve")
        with ring.change() as kept:
            key = epoch_key("serve", name)
            kept[key] = ring.wrap(secrets.token_bytes(32), key.encode())
        ring.refresh()
    parts.ledger.add_entry(entries.epoch("serve", name, "begun", parts.clock()))
    return name


def renew(parts: Parts, domain: str) -> str:
    """Begin a new epoch of a domain whose epochs are not joined, and destroy the one before."""
    ring = parts.keys.ring
    if domain != "train" and not domain.startswith("partner:"):
        raise KeyringError(f"epochs of {domain} do not rotate")
    with ring.turns.alone():
        ring.refresh()
        before, name = ring.epoch(domain), _following(ring, domain)
        with ring.change() as kept:
            key = epoch_key(domain, name)
            kept[key] = ring.wrap(secrets.token_bytes(32), key.encode())
            kept[epoch_key(domain, before)] = DESTROYED
        ring.refresh()
    parts.ledger.add_entry(entries.epoch(domain, name, "begun", parts.clock()))
    parts.ledger.add_entry(entries.epoch(domain, before, "destroyed", parts.clock()))
    return name


def destroy(parts: Parts, domain: str, epoch: str) -> None:
    """Destroy the key of an epoch, for good: nobody can make its tokens again."""
    ring = parts.keys.ring
    ring.refresh()
    found = ring.epochs().get(domain)
    if found is None or epoch not in found.alive:
        raise KeyringError(f"{domain} has no epoch {epoch} that could be destroyed")
    if domain == "audit":
        raise KeyringError("the audit domain's epoch lasts for the life of the log")
    if domain == "serve":
        raise KeyringError("an epoch of serve ends with `epochs rotate`, then `epochs finish`")
    with ring.turns.alone(), ring.change() as kept:
        kept[epoch_key(domain, epoch)] = DESTROYED
    ring.refresh()
    parts.ledger.add_entry(entries.epoch(domain, epoch, "destroyed", parts.clock()))


def _following(ring: Keyring, domain: str) -> str:
    found = ring.epochs().get(domain)
    names = [FIRST] if found is None else [*found.alive, *found.destroyed]
    return f"e{1 + max(int(name[1:]) for name in names):02d}"


# --- the end of an epoch of serve


def finish(parts: Parts, notary: Notary, progress: Progress = lambda what, count: None) -> str:
    """End the live epoch of the serve domain: everything kept gets the next one's tokens, and its
    key is destroyed. Returns the name of the epoch that is live then.

    The service answers 503 meanwhile. Broken off, it is run again: until the ledger has moved
    nothing has changed, and after that the rest follows. Raises Conflict, and changes nothing,
    where the ledger does not match its log: that must not be covered up.
    """
    ring, ledger = parts.keys.ring, parts.ledger
    ring.refresh()
    name = ring.coming("serve")
    if name is None:
        raise Conflict("no epoch is ending: `sectionfour epochs rotate`")
    if not all(case.waits for case in ledger.open_erasures()):  # its sweeps look for one token
        raise Conflict(
            "an erasure is under way: `epochs finish` when it is done, in a minute or two"
        )
    marker = epoch_key("serve", MOVING)
    with ring.change() as kept:
        kept[marker] = DESTROYED
    try:
        with ring.turns.alone():
            ring.refresh()
            if not _has(parts, name, "moved"):
                _move(parts, notary, name, progress)
            rebuild(parts, lambda count: progress("windows", count))
            parts.keys.vault.drop_aliases(but=name)
            ring.successors.destroy()
            before = ring.epoch("serve")
            if not _has(parts, before, "destroyed"):
                ledger.add_entry(entries.epoch("serve", before, "destroyed", parts.clock()))
            with ring.change() as kept:  # the last step: until it is done, this can be run again
                kept.pop(marker)
                kept[epoch_key("serve", before)] = DESTROYED
            ring.refresh()
    finally:
        if not _has(parts, name, "moved"):
            with ring.change() as kept:
                kept.pop(marker, None)
            ring.refresh()
    return name


def _has(parts: Parts, name: str, action: str) -> bool:
    said = map(msgspec.json.decode, parts.ledger.entries_of("epoch", f"serve:{name}"))
    return any(entry["action"] == action for entry in said)


def _move(parts: Parts, notary: Notary, name: str, progress: Progress) -> None:
    settle(parts, EVER)
    notary.extend(parts.clock())
    faults = list(verify(parts, notary, progress=lambda count: progress("verified", count)))
    if faults:
        raise Conflict(f"the ledger does not match its log, see `sectionfour verify`: {faults[0]}")
    ledger, keys = parts.ledger, parts.keys
    grants = ledger.all_grants()
    moved = _moved(parts, grants, name, progress)
    scoped = {token for grant in grants for token in _scope(grant)}
    aliased = {token for place in _ALIASED for token in ledger.tokens_in(*place)} | scoped
    keys.vault.carry(name, ((moved[token], keys.alias(token, "audit")) for token in aliased))
    carried = list(_carried(parts, moved, progress))

    def leaf(count: int, digest: str, before: str, after: str) -> Leaf:
        told = {"count": count, "digest": digest}
        gone = {"rows": before, "entries": f"{0:064x}"}
        return entries.epoch(
            "serve", name, "moved", parts.clock(), carried=told, gone=gone, brought=after
        )

    ledger.retoken(
        parts.keys,
        moved,
        [_regranted(grant, moved) for grant in grants],
        carried,
        leaf,
        parts.clock(),
    )
    notary.extend(parts.clock())


def _moved(parts: Parts, grants: list[Grant], name: str, progress: Progress) -> Moved:
    """Return the next token of each one kept: by the vault, as it was noted, or else at random."""
    ledger, ring = parts.ledger, parts.keys.ring
    kept = {
        token
        for table, columns in ledger.tokens.items()
        for column in columns
        for token in ledger.tokens_in(table, column)
    } | {token for grant in grants for token in _scope(grant)}
    moved = {token: secrets.token_bytes(16) for token in kept}
    moved |= {token: after for token, after in ring.successors.all() if token in kept}
    for person in parts.keys.vault.people():
        progress("members", 1)
        before = ring.token("serve", "subject", person.subject_uid)
        if before in kept:
            moved[before] = ring.token("serve", "subject", person.subject_uid, name)
    return moved


def _scope(grant: Grant) -> set[bytes]:
    order = grant.scope.order
    return set(grant.scope.members) | (set() if order is None else {order})


def _regranted(grant: Grant, moved: Moved) -> Grant:
    scope = grant.scope
    members = frozenset(moved[member] for member in scope.members)
    order = None if scope.order is None else moved[scope.order]
    return replace(grant, scope=replace(scope, members=members, order=order))


def _carried(parts: Parts, moved: Moved, progress: Progress) -> Iterator[tuple[str, str]]:
    """Yield, by assessment, the commitment to what is kept of it under its new tokens."""
    ledger = parts.ledger
    tokens = ledger.tokens["events"]
    for start in range(0, ledger.size(), CHUNK):
        for _, _, name, _, asked, _, subject, *rest in ledger.rows(
            ASSESSMENTS, start, start + CHUNK
        ):
            _, _, _, answer, vector, nonce, key_id, carried, *columns = rest
            if nonce is None:
                continue
            told = msgspec.json.decode(answer)
            told.pop("receipt")
            kept = {
                "asked": asked,
                "key_id": key_id,
                "vector": vector,
                "answer": msgspec.json.encode(told),
            }
            event = None if columns[0] is None else Event(**dict(zip(EVENT, columns, strict=True)))
            said = carried or _said(ledger.entries_of("assessment", name)[0])
            if receipts.commitment(nonce, subject=subject, event=event, **kept) != said:
                event = None  # its event came by itself: verified just before
            if event is not None:
                changes = {t: moved[old] for t in tokens if (old := getattr(event, t)) is not None}
                event = msgspec.structs.replace(event, **changes)
            after = None if subject is None else moved[subject]
            yield name, receipts.commitment(nonce, subject=after, event=event, **kept)
            progress("receipts", 1)


def _said(leaf: bytes) -> str:
    found: str = msgspec.json.decode(leaf)["commitment"]
    return found


# --- the key-encryption key


def rewrap(
    parts: Parts, home: Path, following: bytes | None = None, progress: Progress = lambda w, c: None
) -> bool:
    """Wrap everything by a new key-encryption key, while the service runs.

    Where the key is in the file `keys/kek` a new one is made and put there. Where it comes from
    the environment or a command, `following` is the new one, and False is returned: the old one
    opens everything as well until the deployer has changed to the new one and calls `forget_kek`.

    Broken off between any two steps, both keys open everything, and this goes on where it was.
    """
    ring, vault, file = parts.keys.ring, parts.keys.vault, kek.in_file()
    with ring.turns.alone():
        ring.refresh()
        if not ring.kek_is_changing():
            if file == (following is not None):
                raise KeyringError(
                    f"{kek.NEXT} is for a key that comes from the environment or a command"
                    if file
                    else f"set {kek.NEXT} to the new key, 32 bytes in base64"
                )
            ring.change_kek(following or secrets.token_bytes(32))
    while vault.rewrap(lambda count: progress("rows", count)):
        pass  # again, for rows that came in between
    ring.rewrap()
    name = hashlib.sha256(b"kek" + ring.newest_kek).hexdigest()[:16]
    if not parts.ledger.entries_of("epoch", f"kek:{name}"):
        parts.ledger.add_entry(entries.epoch("kek", name, "rewrapped", parts.clock()))
    if file:
        if kek.load_kek(home) != ring.newest_kek:
            kek.replace_private(kek.kek_file(home), base64.b64encode(ring.newest_kek))
        ring.forget_kek(kek.load_kek(home))
    return file


def forget_kek(parts: Parts, home: Path) -> None:
    """End the change of the key-encryption key: the old one opens nothing from now on.

    KeyringError where the service would still be given the old one.
    """
    if parts.keys.vault.rewrap():
        raise KeyringError("some rows were under the old key until now: run this again")
    parts.keys.ring.forget_kek(kek.load_kek(home))
