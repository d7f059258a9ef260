"""Does everything that is kept match what was signed for? Yields, in words, whatever does not.

Three layers: the tables are sound (what the database itself can tell); the log is the one that its
checkpoints, in the ledger and with the witness, were signed for (`Notary.verify`); and each row
that has an entry in the log still says what its entry says. Nothing is changed, and a service may
go on beside it.

What an import brought has one entry a batch, with a tally of its rows; what a sweep or an erasure
took has one with a tally of it. So at the end the books must balance: rows without an entry of
their own against what was brought, entries without a row against what was taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from sectionfour.errors import FailClosed
from sectionfour.parts import Parts
from sectionfour.privacy import erasure, receipts
from sectionfour.privacy.receipts import Notary
from sectionfour.verify import records
from sectionfour.verify.books import Books
from sectionfour.verify.log import UNREADABLE, entries

if TYPE_CHECKING:
    from sectionfour.stores.ledger.rooms import Ledger


def verify(
    parts: Parts,
    notary: Notary,
    *,
    progress: Callable[[int], object] = lambda count: None,
    others: Mapping[str, Sequence[str]] = receipts.NOBODY,
) -> Iterator[str]:
    """Yield everything that does not match, one sentence each; nothing when all does.

    `others` are checkpoints that witnesses elsewhere have seen, by what to call each.

    `progress` is told of entries as they are done; each is done twice, once for the log and once
    for what it speaks of.
    """
    books = Books(parts)
    checks: tuple[tuple[str, Callable[[], Iterator[str]]], ...] = (
        ("tables", parts.ledger.damage),
        ("log", lambda: notary.verify(progress, others)),
        ("entries", lambda: entries(parts, books, progress)),
        ("consents", lambda: records.consents(parts, books)),
        ("attestations", lambda: records.attestations(parts, books)),
        ("grants", lambda: records.grants(parts, books)),
        ("epochs", lambda: records.epochs(parts.ledger)),
        ("rest", lambda: _without_entry(parts.ledger)),
        ("erasures", lambda: _undone(parts)),
        ("books", books.balance),
    )
    for name, check in checks:
        try:
            yield from check()
        except FailClosed as error:
            yield f"the check of the {name} could not go on: {error.detail} ({error.__cause__})"
        except UNREADABLE as error:
            yield f"the check of the {name} could not go on: {type(error).__name__}"


def _undone(parts: Parts) -> Iterator[str]:
    for one in erasure.undone(parts):
        yield (
            f"erasure {one.erasure_id}: this ledger is older, and may have what was erased:"
            " `sectionfour erase --again`, or start the service"
        )


def _without_entry(ledger: Ledger) -> Iterator[str]:
    for kind, table, ref in _ENTERED:
        for (name,) in ledger.rows(
            f"SELECT {ref} FROM {table} WHERE NOT EXISTS"
            f" (SELECT 1 FROM log WHERE log.ref = {ref} AND log.kind = ?)",
            kind,
        ):
            yield f"{kind} {name}: there is no entry of it in the log"
    for (name,) in ledger.rows(
        "SELECT key_id FROM api_keys WHERE revoked_at IS NOT NULL AND"
        " (SELECT COUNT(*) FROM log WHERE ref = key_id AND kind = 'key') < 2"
    ):
        yield f"key {name}: there is no entry of its end"
    for kind, name in ledger.rows(
        "SELECT kind, ref FROM log WHERE kind IN"
        " ('assessment', 'label', 'notice', 'review', 'promotion')"
        " GROUP BY kind, ref HAVING COUNT(*) > 1"
    ):
        yield f"{kind} {name}: there is more than one entry of it"


#: Kind of entry, table, and what names the row: each row of these has an entry.
_ENTERED = (
    ("assessment", "assessments", "assessment_id"),
    ("notice", "notices", "notice_id || '@' || version"),
    ("attestation", "attestations", "attestation_id"),
    ("third_person", "third_persons", "attestation_id"),
    ("exception", "grants", "grant_id"),
    ("review", "reviews", "review_id"),
    ("key", "api_keys", "key_id"),
    ("hold", "holds", "hold_id"),
    ("verdict", "verdicts", "verdict_id"),
    ("reidentification", "reidentifications", "reidentification_id"),
    ("training_release", "releases", "release_id"),
    ("erasure", "erased", "erasure_id"),
    ("promotion", "promotions", "promotion_id"),
)
