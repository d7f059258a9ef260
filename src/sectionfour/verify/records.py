"""Records that live through several entries: consents, attestations, exceptions, epochs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from sectionfour.parts import Parts
from sectionfour.privacy import consent, entries
from sectionfour.privacy.consent import ConsentEvent
from sectionfour.stores.ledger.attestations import live_until
from sectionfour.stores.ledger.bases import read_grant
from sectionfour.stores.ledger.tallied import COLUMNS
from sectionfour.verify.books import Books
from sectionfour.verify.kinds import at_of

if TYPE_CHECKING:
    from sectionfour.stores.ledger.rooms import Ledger

#: Records read at a time.
CHUNK = 5_000


def consents(parts: Parts, books: Books) -> Iterator[str]:
    """Compare each record's events, in their order, with the entries of that record."""
    ledger, after = parts.ledger, ""
    while refs := ledger.rows(
        "SELECT DISTINCT ref FROM log WHERE kind = 'consent' AND ref > ? ORDER BY ref LIMIT ?",
        after,
        CHUNK,
    ):
        for (after,) in refs:
            said = [
                bytes(body)
                for (body,) in ledger.rows(
                    "SELECT leaf FROM log WHERE ref = ? AND kind = 'consent' ORDER BY idx", after
                )
            ]
            rows = ledger.rows(_EVENTS_OF_RECORD, after)
            if not rows and ledger.was_erased("consent", after):
                continue
            if not rows:
                for body in said:
                    books.missing(f"consent {after}", body)
                continue
            # What an import began has no entry of its beginning, but one of its withdrawal here.
            begins = (consent.GIVEN, consent.REFUSED)
            began_here = msgspec.json.decode(said[0])["event_state"] in begins
            ours = rows if began_here else rows[-len(said) :]
            if said != [_consent(parts, row) for row in ours]:
                yield f"consent {after}: what is kept is not what its entries say"
            for row in ours:
                books.vouched("consent_events", row[1:])


def _consent(parts: Parts, row: tuple[Any, ...]) -> bytes:
    """Return the entry of a row of the consents."""
    seq, subject, record_id, purpose, categories, *rest, recorded_at = row
    event = ConsentEvent._make(
        (seq, record_id, purpose, categories.split(","), *rest, False, False)
    )
    return entries.consent(parts.keys, subject, event, recorded_at).body


_EVENTS_OF_RECORD = (
    f"SELECT {', '.join(COLUMNS['consent_events'])} FROM consent_events"
    " WHERE record_id = ? ORDER BY seq"
)


def attestations(parts: Parts, books: Books) -> Iterator[str]:
    """Compare each attestation with its newest entry, and its first with what it was then."""
    ledger, keys = parts.ledger, parts.keys
    for kind, table in (("attestation", "attestations"), ("third_person", "third_persons")):
        for name, body in ledger.rows(
            "SELECT ref, leaf FROM log WHERE kind = ?"
            f" AND NOT EXISTS (SELECT 1 FROM {table} WHERE attestation_id = ref)",
            kind,
        ):
            if not ledger.was_erased(kind, name):
                books.missing(f"{kind} {name}", body)
        for (name,) in ledger.rows(f"SELECT attestation_id FROM {table}"):
            leaves = ledger.rows(
                "SELECT leaf FROM log WHERE ref = ? AND kind = ? ORDER BY idx", name, kind
            )
            if not leaves:
                continue  # said of all that has no entry, below
            said = msgspec.json.decode(leaves[-1][0])
            if kind == "attestation":
                kept = ledger.attestation(name)
                assert kept is not None
                leaf = entries.attestation(kept, said["action"], at_of(said))
                columns = (kept.source, live_until(kept))
                row = "SELECT source, live_until FROM attestations WHERE attestation_id = ?"
                same = leaf.body == leaves[-1][0] and ledger.rows(row, name)[0] == columns
            else:
                word = ledger.third_person(name)
                assert word is not None
                leaf = entries.third_person(keys, word, said["action"], at_of(said))
                same = leaf.body == leaves[-1][0]
            if not same:
                yield f"{kind} {name}: what is kept is not what its entries say"


def grants(parts: Parts, books: Books) -> Iterator[str]:
    ledger = parts.ledger
    for name, body in ledger.rows(
        "SELECT ref, leaf FROM log WHERE kind = 'exception'"
        " AND NOT EXISTS (SELECT 1 FROM grants WHERE grant_id = ref)"
    ):
        books.missing(f"exception {name}", body)
    for name, until, body in ledger.rows("SELECT grant_id, live_until, body FROM grants"):
        leaves = ledger.rows(
            "SELECT leaf FROM log WHERE ref = ? AND kind = 'exception' ORDER BY idx", name
        )
        if not leaves:
            continue  # said of all that has no entry, below
        grant = read_grant(body)
        said = [msgspec.json.decode(leaf) for (leaf,) in leaves]
        last = entries.grant(parts.keys, grant, said[-1]["action"], at_of(said[-1]))
        since = {state: at_of(leaf) for leaf in reversed(said) for state in [leaf["state"]]}
        times = (since.get("requested"), since.get("live"), since.get("revoked"))
        if (
            last.body != leaves[-1][0]
            or times != (grant.requested_at, grant.live_at, grant.revoked_at)
            or (grant.told is not None and grant.scope.members != grant.scope.orphans)
            or until != (grant.expires_at if grant.state == "live" else 0)
        ):
            yield f"exception {name}: what is kept is not what its entries say"


def epochs(ledger: Ledger) -> Iterator[str]:
    """Compare what receipts commit to since the last epoch ended with the entry of that end."""
    told = ledger.rows("SELECT leaf FROM log WHERE kind = 'epoch' ORDER BY idx DESC")
    moved = [
        said for (leaf,) in told if (said := msgspec.json.decode(leaf)).get("action") == "moved"
    ]
    count, digest = ledger.carried_digest()
    if not count and ledger.cessation() is not None:
        return  # with all else, as the entry of that sweep says
    said = moved[0]["carried"] if moved else {"count": 0}
    if count != said["count"] or (moved and digest != said["digest"]):
        yield "what receipts commit to since an epoch ended is not what its entry says"
