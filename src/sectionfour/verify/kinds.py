"""Every kind of entry but an assessment: what is kept must make the very entry again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from sectionfour.domain import Leaf, read_instant
from sectionfour.parts import Parts
from sectionfour.privacy import entries
from sectionfour.privacy.holds import Hold
from sectionfour.stores.ledger.cases import VerdictRow
from sectionfour.stores.ledger.cessation import notified
from sectionfour.stores.ledger.tallied import COLUMNS
from sectionfour.verify.books import MISSING, Books


def at_of(said: dict[str, Any]) -> int:
    return read_instant(said["at"])


def _hold(parts: Parts, books: Books, ref: str, body: bytes, said: dict[str, Any]) -> Iterator[str]:
    rows = parts.ledger.rows("SELECT * FROM holds WHERE hold_id = ?", ref)
    if not rows:
        yield MISSING
        return
    kept = Hold(*rows[0])
    times = {"placed": kept.placed_at, "lifted": kept.lifted_at}
    if times.get(said["action"], at_of(said)) != at_of(said):
        yield "its time is not that of its entry"
    if bytes(parts.ledger.rows(_NEWEST, ref, "hold")[0][0]) == body:
        yield from same(entries.hold(parts.keys, kept, said["action"], at_of(said)), body)


_NEWEST = "SELECT leaf FROM log WHERE ref = ? AND kind = ? ORDER BY idx DESC LIMIT 1"


def _cessation(
    parts: Parts, books: Books, ref: str, body: bytes, said: dict[str, Any]
) -> Iterator[str]:
    ending, newest = parts.ledger.cessation(), parts.ledger.rows(_NEWEST, ref, "cessation")[0][0]
    if ending is None:
        yield "the flag is not set any more"
    elif ref == "ceased":
        yield from same(entries.ceased(ending.announcement, ending.by, ending.at), body)
    elif ref == "attested":
        yield from same(entries.attested(ending.attestation or "", at_of(said)), body)
    elif ref == "notified" and bytes(newest) == body:
        rows = parts.ledger.rows("SELECT * FROM notifications")
        tally = notified(parts.keys, rows)
        yield from same(entries.notified(len(rows), tally, at_of(said)), body)


def same(leaf: Leaf, body: bytes) -> Iterator[str]:
    if leaf.body != body:
        yield "what is kept is not what its entry says"


def _notice(
    parts: Parts, books: Books, ref: str, body: bytes, said: dict[str, Any]
) -> Iterator[str]:
    name, _, version = ref.rpartition("@")
    kept = parts.ledger.notice(name, version)
    if kept is None:
        yield MISSING
    elif body != msgspec.json.encode(kept):  # as an import writes it
        yield from same(entries.notice(parts.regime, kept, at_of(said)), body)


def _label(
    parts: Parts, books: Books, ref: str, body: bytes, said: dict[str, Any]
) -> Iterator[str]:
    kept = parts.ledger.label(ref)
    if kept is None:
        if not parts.ledger.was_erased("label", ref):
            yield MISSING
    else:
        books.vouched("labels", [getattr(kept, name) for name in COLUMNS["labels"]])
        yield from same(entries.label(parts.keys, kept), body)


def _review(
    parts: Parts, books: Books, ref: str, body: bytes, said: dict[str, Any]
) -> Iterator[str]:
    rows = parts.ledger.rows("SELECT assessment_id, at FROM reviews WHERE review_id = ?", ref)
    if not rows:
        yield MISSING
    else:
        yield from same(entries.review(ref, *rows[0]), body)


def _training_release(
    parts: Parts, books: Books, ref: str, body: bytes, said: dict[str, Any]
) -> Iterator[str]:
    rows = parts.ledger.rows("SELECT purpose, sheet, at FROM releases WHERE release_id = ?", ref)
    if not rows:
        yield MISSING
    else:
        yield from same(entries.training_release(ref, *rows[0]), body)


def _key(parts: Parts, books: Books, ref: str, body: bytes, said: dict[str, Any]) -> Iterator[str]:
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
        yield from same(entries.key(ref, "created", made, role, office), body)
    elif revoked is None:
        yield "it was revoked, and stands again"
    else:
        yield from same(entries.key(ref, said["action"], revoked), body)


def _erasure(
    parts: Parts, books: Books, ref: str, body: bytes, said: dict[str, Any]
) -> Iterator[str]:
    """The names that an erasure left behind are those that its entry was made for: whoever takes a
    row away cannot say afterwards that it was erased."""
    if parts.ledger.erasure(ref) is None and parts.ledger.cessation() is None:
        yield "its case is missing"
    elif said["sweep"] and parts.ledger.erased_digest(ref, said["sweep"]) != said["orphaned"]:
        yield "other entries count as erased by it than when it was made"


def _verdict(
    parts: Parts, books: Books, ref: str, body: bytes, said: dict[str, Any]
) -> Iterator[str]:
    rows = parts.ledger.rows("SELECT * FROM verdicts WHERE verdict_id = ?", ref)
    if not rows:
        yield MISSING
    else:
        kept = VerdictRow._make(rows[0])
        words_gone = kept.note is None and parts.ledger.was_erased("verdict", ref)
        digest = said["note_sha256"] if words_gone else None
        yield from same(entries.verdict(*kept, digest=digest), body)


def _reidentification(
    parts: Parts, books: Books, ref: str, body: bytes, said: dict[str, Any]
) -> Iterator[str]:
    kept = parts.ledger.reidentification(ref)
    if kept is None:
        yield MISSING
        return
    steps = {
        "requested": (kept.at, kept.asked_by),
        "approved": (kept.approved_at, kept.approved_by),
        "answered": (kept.answered_at, kept.asked_by),
    }
    action = said["action"]
    at, by = steps[action]
    if at is None or by is None:
        yield f"it was {action}, and its row does not say so"
    else:
        words_gone = not kept.reason and parts.ledger.was_erased("reidentification", ref)
        leaf = entries.reidentification(
            ref, kept.case_id, action, at, by, kept.purpose, kept.reason,
            digest=said["reason_sha256"] if words_gone else None,
        )  # fmt: skip
        yield from same(leaf, body)


def _promotion(
    parts: Parts, books: Books, ref: str, body: bytes, said: dict[str, Any]
) -> Iterator[str]:
    rows = parts.ledger.rows("SELECT at, said FROM promotions WHERE promotion_id = ?", ref)
    if not rows:
        yield MISSING
    else:
        yield from same(entries.promotion(ref, rows[0][0], msgspec.json.decode(rows[0][1])), body)


CHECKS: dict[str, Callable[[Parts, Books, str, bytes, dict[str, Any]], Iterator[str]]] = {
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
