"""The log, entry by entry: each against what it speaks of, assessments against receipts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from sectionfour.domain import Event, instant
from sectionfour.errors import BadRequest
from sectionfour.parts import Parts
from sectionfour.privacy import merkle, receipts
from sectionfour.verify.books import MISSING, Books
from sectionfour.verify.kinds import CHECKS

#: Entries read at a time.
CHUNK = 5_000
Row = tuple[Any, ...]
#: What a row or an entry raises on being read that is not of its form.
UNREADABLE = (BadRequest, LookupError, TypeError, ValueError, AttributeError)


def entries(parts: Parts, books: Books, progress: Callable[[int], object]) -> Iterator[str]:
    ledger = parts.ledger
    books.open()
    size = ledger.size()
    if ledger.rows("SELECT COUNT(*) FROM log WHERE idx < 0")[0][0]:
        yield "the log has an entry before its first"
    newest, uses = -1, Counter[tuple[str, str, str]]()
    for start in range(0, size, CHUNK):
        stop = min(size, start + CHUNK)
        assessed = {row[0]: row[1:] for row in ledger.rows(ASSESSMENTS, start, stop)}
        for index, kind, ref, body in ledger.leaves(start, stop):
            try:
                said = msgspec.json.decode(body)
                if (kind, ref) != _name(said):
                    yield f"entry {index} is filed as {kind} {ref}, which is not what it says"
                elif kind == "assessment":
                    seq = assessed[index][0]
                    if seq is None:
                        books.missing(f"assessment {ref}", body)
                    else:
                        faults = list(_assessment(assessed[index], body, said, books))
                        yield from (f"assessment {ref}: {fault}" for fault in faults)
                    if seq is not None and seq <= newest:
                        yield f"assessment {ref}: its row is not in the order of the log"
                    newest = newest if seq is None else seq
                    uses.update(_uses(said))
                elif (check := CHECKS.get(kind)) is not None:
                    for fault in check(parts, books, ref, body, said):
                        if fault is MISSING:
                            books.missing(f"{kind} {ref}", body)
                        else:
                            yield f"{kind} {ref}: {fault}"
                books.said(kind, said)
            except UNREADABLE as error:
                yield f"entry {index}, {kind} {ref}, cannot be compared: {type(error).__name__}"
        progress(stop - start)
    for use, count in uses.items():
        if ledger.grant(use[0]) is not None and ledger.rows(_COUNT_USES, *use)[0][0] < count:
            yield f"exception {use[0]}: fewer such uses are on record than receipts rest on it"


def _uses(said: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield each grant that a receipt rests on, with the purpose and the categories."""
    by_grant: dict[str, list[str]] = {}
    for basis in said.get("basis", ()):
        if basis["kind"] == "exception":
            by_grant.setdefault(basis["ref"], []).append(basis["category"])
    for name, categories in by_grant.items():
        yield name, said["purpose"], ",".join(categories)


_COUNT_USES = (
    "SELECT COUNT(*) FROM grant_uses WHERE grant_id = ? AND purpose = ? AND categories = ?"
    " AND operation = 'score'"
)


def _name(said: dict[str, Any]) -> tuple[str, str]:
    """Return the kind and the name under which an entry that says this is filed."""
    if "receipt_version" in said:
        return "assessment", said["receipt_id"]
    if "notice_id" in said:  # as an import writes it
        return "notice", f"{said['notice_id']}@{said['version']}"
    kind = said["kind"]
    if kind == "notice":
        return kind, f"{said['id']}@{said['version']}"
    return kind, said[_NAMED_BY.get(kind, f"{kind}_id")]


_NAMED_BY = {
    "consent": "record_id",
    "exception": "grant_id",
    "third_person": "attestation_id",
    "training_release": "release_id",
}

EVENT = Event.__struct_fields__
ASSESSMENTS = (
    "SELECT l.idx, a.seq, a.assessment_id, a.event_id, a.asked, a.at, a.subject, a.purpose,"
    " a.status, a.http, a.answer, a.vector, a.nonce, a.key_id, c.commitment,"
    f" {', '.join(f'e.{name}' for name in EVENT)}"
    " FROM log l LEFT JOIN assessments a ON a.assessment_id = l.ref"
    " LEFT JOIN carried c ON c.assessment_id = l.ref"
    " LEFT JOIN events e ON e.event_id = a.event_id"
    " WHERE l.kind = 'assessment' AND l.idx >= ? AND l.idx < ?"
)


def _assessment(row: Row, body: bytes, said: dict[str, Any], books: Books) -> Iterator[str]:
    """Compare an assessment and its event with its receipt.

    Where the nonce was destroyed nothing vouches for the rest, so none of it may be left.
    """
    _, name, event_id, asked, at, subject, purpose, status, http, answer, *rest = row
    vector, nonce, key_id, carried, *columns = rest
    if (instant(at), purpose, status) != (said["at"], said["purpose"], said["status"]):
        yield "its time, purpose or status is not that of its receipt"
    if nonce is None:
        if any(value is not None for value in (subject, vector, *columns)):
            yield "its nonce was destroyed, and not all that it vouched for"
        return
    told: dict[str, Any] = msgspec.json.decode(answer)
    receipt = {"leaf_hash": merkle.leaf_hash(body).hex(), "proof": f"/v1/receipts/{name}"}
    refused = status == "refused"
    if msgspec.json.encode(told) != answer or told.pop("receipt") != receipt:
        yield "its answer does not name its receipt"
    if http != (403 if refused else 200):
        yield "its HTTP status is not that of its answer"
    if (told["assessment_id"], told["event_id"]) != (name, event_id):
        yield "its ids are not those in its answer"
    if not refused:
        rated = (told["status"], told["risk_level"], told["outcome"], told["model"])
        if rated != (said["status"], said["score_band"], said["action"], said["model"]):
            yield "its answer is not what its receipt says"
    event = None
    if columns[0] is not None:
        event = Event(**dict(zip(EVENT, columns, strict=True)))
    kept = {
        "asked": asked,
        "subject": subject,
        "key_id": key_id,
        "vector": vector,
        "answer": msgspec.json.encode(told),
    }
    # An event under the id of one that was only evaluated came by itself: it is not committed to.
    for of in dict.fromkeys((event, None)):
        if receipts.commitment(nonce, event=of, **kept) == (carried or said["commitment"]):
            if of is not None:
                books.answered(of)
            return
    yield "what is kept of it is not what its receipt was made for"
