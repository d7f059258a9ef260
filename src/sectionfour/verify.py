"""Does everything that is kept match what was signed for? Yields, in words, whatever does not.

Three layers: the file is sound (SQLite's own check); the log is the one that its checkpoints, in
the ledger and with the witness, were signed for (`Notary.verify`); and each row that has an entry
in the log still says what its entry says. Nothing is changed, and a service may go on beside it.

What an import brought has one entry a batch, with a tally of its rows; what a sweep or an erasure
took has one with a tally of it. So at the end the books must balance: rows without an entry of
their own against what was brought, entries without a row against what was taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from sectionfour.domain import Event, Leaf, instant, micros
from sectionfour.errors import BadRequest, FailClosed
from sectionfour.parts import Parts
from sectionfour.privacy import consent, entries, merkle, receipts
from sectionfour.privacy.consent import ConsentEvent
from sectionfour.privacy.exceptions import Grant
from sectionfour.privacy.receipts import Notary
from sectionfour.privacy.tally import Tally
from sectionfour.stores.ledger.attestations import live_until
from sectionfour.stores.ledger.cessation import notified
from sectionfour.stores.ledger.retention import Hold
from sectionfour.stores.ledger.tallied import COLUMNS

if TYPE_CHECKING:
    from sectionfour.stores.sqlite import SqliteLedger

CHUNK = 5_000
Row = tuple[Any, ...]
#: What a row or an entry raises on being read that is not of its form.
UNREADABLE = (BadRequest, LookupError, TypeError, ValueError, AttributeError)


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
    books = _Books(parts)
    checks: tuple[tuple[str, Callable[[], Iterator[str]]], ...] = (
        ("file", lambda: _file(parts.ledger)),
        ("log", lambda: notary.verify(progress, others)),
        ("entries", lambda: _entries(parts, books, progress)),
        ("consents", lambda: _consents(parts, books)),
        ("attestations", lambda: _attestations(parts)),
        ("grants", lambda: _grants(parts, books)),
        ("epochs", lambda: _epochs(parts.ledger)),
        ("rest", lambda: _without_entry(parts.ledger)),
        ("books", books.balance),
    )
    for name, check in checks:
        try:
            yield from check()
        except FailClosed as error:
            yield f"the check of the {name} could not go on: {error.detail} ({error.__cause__})"
        except UNREADABLE as error:
            yield f"the check of the {name} could not go on: {type(error).__name__}"


def _file(ledger: SqliteLedger) -> Iterator[str]:
    for (found,) in ledger.rows("PRAGMA integrity_check"):
        if found != "ok":
            yield f"the file of the ledger is damaged: {found}"
    tables = [row[0] for row in ledger.rows("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")]
    if sorted(tables) != sorted(statement.strip() for statement in ledger.schema.split(";")):
        yield "the tables of the ledger are not those that it was made with"


class _Books:
    """Rows that no entry of their own vouches for, and entries whose rows are gone, against what
    the log says was brought and taken."""

    def __init__(self, parts: Parts) -> None:
        self._ledger, self._keys = parts.ledger, parts.keys
        self.rows, self._brought = Tally(parts.keys.ring), Tally(parts.keys.ring)
        self._lost, self._taken = Tally(parts.keys.ring), Tally(parts.keys.ring)
        self._missing: list[str] = []
        self._steps: dict[str, str] = {}

    def open(self) -> None:
        for table in COLUMNS:
            self.rows.rows(table, self._ledger.tallied_rows(table))
        for ref, leaf in self._ledger.rows(
            "SELECT ref, leaf FROM log WHERE kind = 'step' ORDER BY idx"
        ):
            self._steps[ref] = msgspec.json.decode(leaf)["tally"]  # the newest counts
        for tally in self._steps.values():
            self._brought.text_of(tally)

    def said(self, kind: str, said: dict[str, Any]) -> None:
        """Take in what an entry says of many rows at once."""
        if kind == "import":
            self._brought.text_of(said["tally"])
        elif kind == "epoch" and "brought" in said:  # the same rows, under other tokens
            self._brought.text_of(said["brought"])
        gone = said.get("gone")
        if isinstance(gone, dict):
            self._brought.text_of(gone["rows"], taken=True)
            self._taken.text_of(gone["entries"])

    def vouched(self, table: str, values: Sequence[Any]) -> None:
        """An entry of its own vouches for this row."""
        self.rows.row(table, values, taken=True)

    def answered(self, event: Event) -> None:
        """An assessment vouches for this event, whether or not it was kept as a step before."""
        self.vouched("events", [getattr(event, name) for name in COLUMNS["events"]])
        if self._steps:
            tally = self._steps.get(entries.step_id(self._keys, event.event_id))
            if tally is not None:
                self._brought.text_of(tally, taken=True)

    def missing(self, name: str, body: bytes) -> None:
        """The row that this entry speaks of is not there."""
        self._lost.entry(body)
        if len(self._missing) < MOST_NAMED:
            self._missing.append(name)

    def balance(self) -> Iterator[str]:
        if self.rows.total != self._brought.total:
            yield (
                "events, labels or consents that have no entry of their own are not those that"
                " imports brought"
            )
        if self._lost.total != self._taken.total:
            yield from (f"{name}: {MISSING}" for name in self._missing)
            yield "the entries without a row are not those that sweeps and erasures took"


#: How many missing rows are named, where more are missing than were taken.
MOST_NAMED = 100
MISSING = "its row is missing"


# --- each entry, and what it speaks of -------------------------------------------------------


def _entries(parts: Parts, books: _Books, progress: Callable[[int], object]) -> Iterator[str]:
    ledger = parts.ledger
    books.open()
    size = ledger.size()
    if ledger.rows("SELECT COUNT(*) FROM log WHERE idx < 0 OR typeof(idx) != 'integer'")[0][0]:
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
                elif (check := _CHECKS.get(kind)) is not None:
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


def _assessment(row: Row, body: bytes, said: dict[str, Any], books: _Books) -> Iterator[str]:
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


# --- the other kinds -------------------------------------------------------------------------


def _at(said: dict[str, Any]) -> int:
    return micros(datetime.fromisoformat(said["at"]))


def _hold(
    parts: Parts, books: _Books, ref: str, body: bytes, said: dict[str, Any]
) -> Iterator[str]:
    rows = parts.ledger.rows("SELECT * FROM holds WHERE hold_id = ?", ref)
    if not rows:
        yield MISSING
        return
    kept = Hold(*rows[0])
    times = {"placed": kept.placed_at, "lifted": kept.lifted_at}
    if times.get(said["action"], _at(said)) != _at(said):
        yield "its time is not that of its entry"
    if bytes(parts.ledger.rows(_NEWEST, ref, "hold")[0][0]) == body:
        yield from _same(entries.hold(parts.keys, kept, said["action"], _at(said)), body)


_NEWEST = "SELECT leaf FROM log WHERE ref = ? AND kind = ? ORDER BY idx DESC LIMIT 1"


def _cessation(
    parts: Parts, books: _Books, ref: str, body: bytes, said: dict[str, Any]
) -> Iterator[str]:
    ending, newest = parts.ledger.cessation(), parts.ledger.rows(_NEWEST, ref, "cessation")[0][0]
    if ending is None:
        yield "the flag is not set any more"
    elif ref == "ceased":
        yield from _same(entries.ceased(ending.announcement, ending.by, ending.at), body)
    elif ref == "attested":
        yield from _same(entries.attested(ending.attestation or "", _at(said)), body)
    elif ref == "notified" and bytes(newest) == body:
        rows = parts.ledger.rows("SELECT * FROM notifications")
        tally = notified(parts.keys, rows)
        yield from _same(entries.notified(len(rows), tally, _at(said)), body)


def _same(leaf: Leaf, body: bytes) -> Iterator[str]:
    if leaf.body != body:
        yield "what is kept is not what its entry says"


def _notice(
    parts: Parts, books: _Books, ref: str, body: bytes, said: dict[str, Any]
) -> Iterator[str]:
    name, _, version = ref.rpartition("@")
    kept = parts.ledger.notice(name, version)
    if kept is None:
        yield MISSING
    elif body != msgspec.json.encode(kept):  # as an import writes it
        yield from _same(entries.notice(parts.regime, kept, _at(said)), body)


def _label(
    parts: Parts, books: _Books, ref: str, body: bytes, said: dict[str, Any]
) -> Iterator[str]:
    kept = parts.ledger.label(ref)
    if kept is None:
        if not parts.ledger.was_erased("label", ref):
            yield MISSING
    else:
        books.vouched("labels", [getattr(kept, name) for name in COLUMNS["labels"]])
        yield from _same(entries.label(parts.keys, kept), body)


def _review(
    parts: Parts, books: _Books, ref: str, body: bytes, said: dict[str, Any]
) -> Iterator[str]:
    rows = parts.ledger.rows("SELECT assessment_id, at FROM reviews WHERE review_id = ?", ref)
    if not rows:
        yield MISSING
    else:
        yield from _same(entries.review(ref, *rows[0]), body)


def _training_release(
    parts: Parts, books: _Books, ref: str, body: bytes, said: dict[str, Any]
) -> Iterator[str]:
    rows = parts.ledger.rows("SELECT purpose, sheet, at FROM releases WHERE release_id = ?", ref)
    if not rows:
        yield MISSING
    else:
        yield from _same(entries.training_release(ref, *rows[0]), body)


def _key(parts: Parts, books: _Books, ref: str, body: bytes, said: dict[str, Any]) -> Iterator[str]:
    rows = parts.ledger.rows(
        "SELECT hash, role, at, revoked_at, office FROM api_keys WHERE key_id = ?", ref
    )
    if not rows:
        yield MISSING
        return
    digest, role, made, revoked, office = rows[0]
    if ref != f"k_{digest.hex()[:16]}":
        yield "its digest is not that of the key"
    if said["action"] == "created":
        yield from _same(entries.key(ref, "created", made, role, office), body)
    elif revoked is None:
        yield "it was revoked, and stands again"
    else:
        yield from _same(entries.key(ref, said["action"], revoked), body)


def _erasure(
    parts: Parts, books: _Books, ref: str, body: bytes, said: dict[str, Any]
) -> Iterator[str]:
    """The names that an erasure left behind are those that its entry was made for: whoever takes a
    row away cannot say afterwards that it was erased."""
    if parts.ledger.erasure(ref) is None:
        yield "its case is missing"
    elif said["sweep"] and parts.ledger.erased_digest(ref, said["sweep"]) != said["orphaned"]:
        yield "other entries count as erased by it than when it was made"


def _verdict(
    parts: Parts, books: _Books, ref: str, body: bytes, said: dict[str, Any]
) -> Iterator[str]:
    rows = parts.ledger.rows("SELECT * FROM verdicts WHERE verdict_id = ?", ref)
    if not rows:
        yield MISSING
    else:
        yield from _same(entries.verdict(*rows[0]), body)


def _reidentification(
    parts: Parts, books: _Books, ref: str, body: bytes, said: dict[str, Any]
) -> Iterator[str]:
    row = parts.ledger.reidentification(ref)
    if row is None:
        yield MISSING
        return
    name, case, asked_at, purpose, reason, asked_by, _, approved_by, approved_at, answered_at = row
    steps = {
        "requested": (asked_at, asked_by),
        "approved": (approved_at, approved_by),
        "answered": (answered_at, asked_by),
    }
    action = said["action"]
    at, by = steps[action]
    if at is None:
        yield f"it was {action}, and its row does not say so"
    else:
        leaf = entries.reidentification(name, case, action, at, by, purpose, reason)
        yield from _same(leaf, body)


def _promotion(
    parts: Parts, books: _Books, ref: str, body: bytes, said: dict[str, Any]
) -> Iterator[str]:
    rows = parts.ledger.rows("SELECT at, said FROM promotions WHERE promotion_id = ?", ref)
    if not rows:
        yield MISSING
    else:
        yield from _same(entries.promotion(ref, rows[0][0], msgspec.json.decode(rows[0][1])), body)


_CHECKS: dict[str, Callable[[Parts, _Books, str, bytes, dict[str, Any]], Iterator[str]]] = {
    "notice": _notice,
    "label": _label,
    "review": _review,
    "key": _key,
    "hold": _hold,
    "cessation": _cessation,
    "verdict": _verdict,
    "reidentification": _reidentification,
    "training_release": _training_release,
    "erasure": _erasure,
    "promotion": _promotion,
}


def _consents(parts: Parts, books: _Books) -> Iterator[str]:
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


def _consent(parts: Parts, row: Row) -> bytes:
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


def _attestations(parts: Parts) -> Iterator[str]:
    """Compare each attestation with its newest entry, and its first with what it was then."""
    ledger, keys = parts.ledger, parts.keys
    for kind, table in (("attestation", "attestations"), ("third_person", "third_persons")):
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
                leaf = entries.attestation(kept, said["action"], _at(said))
                columns = (kept.source, live_until(kept))
                row = "SELECT source, live_until FROM attestations WHERE attestation_id = ?"
                same = leaf.body == leaves[-1][0] and ledger.rows(row, name)[0] == columns
            else:
                word = ledger.third_person(name)
                assert word is not None
                leaf = entries.third_person(keys, word, said["action"], _at(said))
                same = leaf.body == leaves[-1][0]
            if not same:
                yield f"{kind} {name}: what is kept is not what its entries say"


def _grants(parts: Parts, books: _Books) -> Iterator[str]:
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
        grant = msgspec.json.decode(body, type=Grant)
        said = [msgspec.json.decode(leaf) for (leaf,) in leaves]
        last = entries.grant(parts.keys, grant, said[-1]["action"], _at(said[-1]))
        since = {state: _at(leaf) for leaf in reversed(said) for state in [leaf["state"]]}
        times = (since.get("requested"), since.get("live"), since.get("revoked"))
        if (
            last.body != leaves[-1][0]
            or times != (grant.requested_at, grant.live_at, grant.revoked_at)
            or until != (grant.expires_at if grant.state == "live" else 0)
        ):
            yield f"exception {name}: what is kept is not what its entries say"


def _epochs(ledger: SqliteLedger) -> Iterator[str]:
    """Compare what receipts commit to since the last epoch ended with the entry of that end."""
    moved = ledger.rows(
        "SELECT leaf FROM log WHERE kind = 'epoch'"
        " AND json_extract(leaf, '$.action') = 'moved' ORDER BY idx DESC LIMIT 1"
    )
    count, digest = ledger.carried_digest()
    said = msgspec.json.decode(moved[0][0])["carried"] if moved else {"count": 0}
    if count != said["count"] or (moved and digest != said["digest"]):
        yield "what receipts commit to since an epoch ended is not what its entry says"


# --- what ought to have an entry, and has none -----------------------------------------------


def _without_entry(ledger: SqliteLedger) -> Iterator[str]:
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
