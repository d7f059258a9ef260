"""Does everything that is kept match what was signed for? Yields, in words, whatever does not.

Three layers: the file is sound (SQLite's own check); the log is the one that its checkpoints, in
the ledger and with the witness, were signed for (`Notary.verify`); and each row that has an entry
in the log still says what its entry says. Nothing is changed, and a service may go on beside it.

What has no entry cannot be checked by one: events, consents and labels of an import, and events
that nobody was answered for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
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

if TYPE_CHECKING:
    from sectionfour.stores.sqlite import SqliteLedger

CHUNK = 5_000
Row = tuple[Any, ...]
#: What a row or an entry raises on being read that is not of its form.
UNREADABLE = (BadRequest, LookupError, TypeError, ValueError, AttributeError)


def verify(
    parts: Parts, notary: Notary, *, progress: Callable[[int], object] = lambda count: None
) -> Iterator[str]:
    """Yield everything that does not match, one sentence each; nothing when all does.

    `progress` is told of entries as they are done; each is done twice, once for the log and once
    for what it speaks of.
    """
    checks: tuple[tuple[str, Callable[[], Iterator[str]]], ...] = (
        ("file", lambda: _file(parts.ledger)),
        ("log", lambda: notary.verify(progress)),
        ("entries", lambda: _entries(parts, progress)),
        ("consents", lambda: _consents(parts)),
        ("grants", lambda: _grants(parts)),
        ("rest", lambda: _without_entry(parts.ledger)),
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


# --- each entry, and what it speaks of -------------------------------------------------------


def _entries(parts: Parts, progress: Callable[[int], object]) -> Iterator[str]:
    ledger = parts.ledger
    size = ledger.size()
    if ledger.rows("SELECT COUNT(*) FROM log WHERE idx < 0 OR typeof(idx) != 'integer'")[0][0]:
        yield "the log has an entry before its first"
    newest, uses = -1, Counter[tuple[str, str, str]]()
    for start in range(0, size, CHUNK):
        stop = min(size, start + CHUNK)
        assessed = {row[0]: row[1:] for row in ledger.rows(_ASSESSMENTS, start, stop)}
        for index, kind, ref, body in ledger.leaves(start, stop):
            try:
                said = msgspec.json.decode(body)
                if (kind, ref) != _name(said):
                    yield f"entry {index} is filed as {kind} {ref}, which is not what it says"
                elif kind == "assessment":
                    seq = assessed[index][0]
                    faults = list(_assessment(assessed[index], body, said))
                    yield from (f"assessment {ref}: {fault}" for fault in faults)
                    if seq is not None and seq <= newest:
                        yield f"assessment {ref}: its row is not in the order of the log"
                    newest = newest if seq is None else seq
                    uses.update(_uses(said))
                elif (check := _CHECKS.get(kind)) is not None:
                    yield from (f"{kind} {ref}: {fault}" for fault in check(parts, ref, body, said))
            except UNREADABLE as error:
                yield f"entry {index}, {kind} {ref}, cannot be compared: {type(error).__name__}"
        progress(stop - start)
    for use, count in uses.items():
        if ledger.rows(_COUNT_USES, *use)[0][0] < count:
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


_NAMED_BY = {"consent": "record_id", "exception": "grant_id"}

_EVENT = Event.__struct_fields__
_ASSESSMENTS = (
    "SELECT l.idx, a.seq, a.assessment_id, a.event_id, a.asked, a.at, a.subject, a.purpose,"
    " a.status, a.http, a.answer, a.vector, a.nonce, a.key_id,"
    f" {', '.join(f'e.{name}' for name in _EVENT)}"
    " FROM log l LEFT JOIN assessments a ON a.assessment_id = l.ref"
    " LEFT JOIN events e ON e.event_id = a.event_id"
    " WHERE l.kind = 'assessment' AND l.idx >= ? AND l.idx < ?"
)


def _assessment(row: Row, body: bytes, said: dict[str, Any]) -> Iterator[str]:
    """Compare an assessment and its event with its receipt.

    Where the nonce was destroyed nothing vouches for the rest, so none of it may be left.
    """
    seq, name, event_id, asked, at, subject, purpose, status, http, answer, *rest = row
    vector, nonce, key_id, *columns = rest
    if seq is None:
        yield "its row is missing"
        return
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
        event = Event(**dict(zip(_EVENT, columns, strict=True)))
    kept = {
        "asked": asked,
        "subject": subject,
        "key_id": key_id,
        "vector": vector,
        "answer": msgspec.json.encode(told),
    }
    # An event under the id of one that was only evaluated came by itself: it is not committed to.
    if not any(
        receipts.commitment(nonce, event=of, **kept) == said["commitment"] for of in (event, None)
    ):
        yield "what is kept of it is not what its receipt was made for"


# --- the other kinds -------------------------------------------------------------------------


def _at(said: dict[str, Any]) -> int:
    return micros(datetime.fromisoformat(said["at"]))


def _same(leaf: Leaf, body: bytes) -> Iterator[str]:
    if leaf.body != body:
        yield "what is kept is not what its entry says"


def _notice(parts: Parts, ref: str, body: bytes, said: dict[str, Any]) -> Iterator[str]:
    name, _, version = ref.rpartition("@")
    kept = parts.ledger.notice(name, version)
    if kept is None:
        yield "its row is missing"
    elif body != msgspec.json.encode(kept):  # as an import writes it
        yield from _same(entries.notice(parts.regime, kept, _at(said)), body)


def _label(parts: Parts, ref: str, body: bytes, said: dict[str, Any]) -> Iterator[str]:
    kept = parts.ledger.label(ref)
    if kept is None:
        if not parts.ledger.was_erased("label", ref):
            yield "its row is missing"
    else:
        yield from _same(entries.label(parts.keys, kept), body)


def _review(parts: Parts, ref: str, body: bytes, said: dict[str, Any]) -> Iterator[str]:
    rows = parts.ledger.rows("SELECT assessment_id, at FROM reviews WHERE review_id = ?", ref)
    if not rows:
        yield "its row is missing"
    else:
        yield from _same(entries.review(ref, *rows[0]), body)


def _key(parts: Parts, ref: str, body: bytes, said: dict[str, Any]) -> Iterator[str]:
    rows = parts.ledger.rows(
        "SELECT hash, role, at, revoked_at FROM api_keys WHERE key_id = ?", ref
    )
    if not rows:
        yield "its row is missing"
        return
    digest, role, made, revoked = rows[0]
    if ref != f"k_{digest.hex()[:16]}":
        yield "its digest is not that of the key"
    if said["action"] == "created":
        yield from _same(entries.key(ref, "created", made, role), body)
    elif revoked is None:
        yield "it was revoked, and stands again"
    else:
        yield from _same(entries.key(ref, said["action"], revoked), body)


def _erasure(parts: Parts, ref: str, body: bytes, said: dict[str, Any]) -> Iterator[str]:
    """The names that an erasure left behind are those that its entry was made for: whoever takes a
    row away cannot say afterwards that it was erased."""
    if parts.ledger.erasure(ref) is None:
        yield "its case is missing"
    elif said["sweep"] and parts.ledger.erased_digest(ref, said["sweep"]) != said["orphaned"]:
        yield "other entries count as erased by it than when it was made"


_CHECKS: dict[str, Callable[[Parts, str, bytes, dict[str, Any]], Iterator[str]]] = {
    "notice": _notice,
    "label": _label,
    "review": _review,
    "key": _key,
    "erasure": _erasure,
}


def _consents(parts: Parts) -> Iterator[str]:
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
            kept = [
                entries.consent(
                    parts.keys,
                    subject,
                    ConsentEvent._make((*event[:3], event[3].split(","), *event[4:], False)),
                    recorded_at,
                ).body
                for subject, recorded_at, *event in ledger.rows(_EVENTS_OF_RECORD, after)
            ]
            if not kept and ledger.was_erased("consent", after):
                continue
            # What an import began has no entry of its beginning, but one of its withdrawal here.
            began_here = msgspec.json.decode(said[0])["event_state"] == consent.GIVEN
            if said != (kept if began_here else kept[-len(said) :]):
                yield f"consent {after}: what is kept is not what its entries say"


_EVENTS_OF_RECORD = (
    "SELECT subject, recorded_at, seq, record_id, purpose, categories, source, notice_id,"
    " notice_version, event_type, event_state, event_time, expires_at FROM consent_events"
    " WHERE record_id = ? ORDER BY seq"
)


def _grants(parts: Parts) -> Iterator[str]:
    ledger = parts.ledger
    for name, live_until, body in ledger.rows("SELECT grant_id, live_until, body FROM grants"):
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
            or live_until != (grant.expires_at if grant.state == "live" else 0)
        ):
            yield f"exception {name}: what is kept is not what its entries say"


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
        "SELECT kind, ref FROM log WHERE kind IN ('assessment', 'label', 'notice', 'review')"
        " GROUP BY kind, ref HAVING COUNT(*) > 1"
    ):
        yield f"{kind} {name}: there is more than one entry of it"


#: Kind of entry, table, and what names the row: each row of these has an entry.
_ENTERED = (
    ("assessment", "assessments", "assessment_id"),
    ("notice", "notices", "notice_id || '@' || version"),
    ("exception", "grants", "grant_id"),
    ("review", "reviews", "review_id"),
    ("key", "api_keys", "key_id"),
    ("erasure", "erased", "erasure_id"),
)
