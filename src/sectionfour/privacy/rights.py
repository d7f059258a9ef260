"""Everything that is held about one person, for that person (R-53, T22).

Identifiers other than the member's own id are not held, but as tokens; these are given as the
pseudonyms that receipts have, so that no token of the serve domain leaves the house. Nothing of it
is kept: it is sent as it is read. That it was, is an entry of the log.
"""

from __future__ import annotations

import base64
import math
import secrets
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from sectionfour.domain import instant
from sectionfour.errors import NotFound
from sectionfour.privacy import entries
from sectionfour.privacy.exceptions import hidden
from sectionfour.privacy.inventory import Kept
from sectionfour.privacy.keys import TOKEN_BYTES
from sectionfour.privacy.spelling import plain

if TYPE_CHECKING:
    from sectionfour.parts import Parts
    from sectionfour.privacy.receipts import Notary

#: The key under which an analyst's own words are sealed, and where they are: each for its row.
WORDS = "cases:words"
_SEALED = {
    "verdicts": ("note", "verdict_id"),
    "reidentifications": ("reason", "reidentification_id"),
}


def export(
    parts: Parts, notary: Notary, member_id: str, *, by: str, names: tuple[str, ...], at: int
) -> Iterator[bytes]:
    """Return the JSON of all that is held about a member, in pieces; `names` are the features'.

    Raises NotFound, before anything is sent, for somebody never met.
    """
    subject = parts.keys.subject(member_id)
    if subject is None:
        raise NotFound("there is no such member here")
    alias = parts.keys.alias(subject, "audit")
    export_id = f"ex_{secrets.token_hex(12)}"
    with parts.ledger.transaction() as connection:
        parts.ledger.log(connection, entries.export(export_id, alias, by, at))
    return _pieces(_sections(parts, notary, member_id, subject, export_id, names, at))


def _pieces(sections: Iterator[tuple[str, Any]]) -> Iterator[bytes]:
    start = b"{"
    for name, value in sections:
        yield start + msgspec.json.encode(name) + b":" + msgspec.json.encode(value)
        start = b",\n"
    yield b"}\n"


def _sections(
    parts: Parts,
    notary: Notary,
    member_id: str,
    subject: bytes,
    export_id: str,
    names: tuple[str, ...],
    at: int,
) -> Iterator[tuple[str, Any]]:
    yield "export", {"export_id": export_id, "at": instant(at), "to": "the person themself"}
    alias = parts.keys.alias(subject, "audit").hex()
    yield "vault", {"member_id": plain(member_id), "pseudonym": alias}
    held: dict[str, list[dict[str, Any]]] = {}
    for kept, rows in parts.ledger.held(subject):
        if kept.name == "grant_uses":
            rows = [row for row in rows if not _under_seal(parts, row["grant_id"])]
        held[kept.name] = rows
        yield kept.name, [_row(parts, kept, row, names) for row in rows]
    agreed = {(r["notice_id"], r["notice_version"]) for r in held.get("consent_events", ())}
    yield "notices", [parts.ledger.notice(*notice) for notice in sorted(agreed)]
    yield (
        "receipts",
        [_receipt(notary, row["assessment_id"], at) for row in held.get("assessments", ())],
    )
    yield "exceptions", exceptions_of(parts, subject)
    yield "exports", _exports(parts, alias)
    learnt = held.get("events", [])
    yield (
        "models",
        [
            {"model": name, "version": version, "events_then": count, "read_at": instant(when)}
            for name, version, count, when in parts.ledger.rows(
                "SELECT name, version, events, at FROM trainings ORDER BY at"
            )
            if any(row["at"] < when for row in learnt)
        ],
    )


def _row(parts: Parts, kept: Kept, row: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Return a row as it can be read. An analyst's words may name others: whoever hands the copy
    out reads them first."""
    told = {column: _value(parts, column, value, names) for column, value in row.items()}
    if kept.name in _SEALED:
        words, about = _SEALED[kept.name]
        told[words] = parts.keys.ring.unseal(WORDS, row[words], row[about]) if row[words] else None
    return told


def _value(parts: Parts, column: str, value: Any, names: tuple[str, ...]) -> Any:
    if not isinstance(value, bytes):
        return value
    if column == "answer":
        return msgspec.json.decode(value)
    if column == "vector":
        numbers = struct.unpack(f"={len(value) // 8}d", value)
        return {n: None if math.isnan(x) else x for n, x in zip(names, numbers, strict=False)}
    if len(value) == TOKEN_BYTES:
        return parts.keys.alias(value, "audit").hex()
    return value.hex()


def _receipt(notary: Notary, assessment_id: str, at: int) -> dict[str, Any]:
    proven = notary.prove(assessment_id, at)
    if proven is None:
        return {"assessment_id": assessment_id}
    leaf, proof = proven
    return {"receipt": msgspec.Raw(leaf), "leaf": base64.b64encode(leaf), "proof": proof}


def exceptions_of(parts: Parts, subject: bytes) -> list[dict[str, Any]]:
    """Return the exceptions granted over a person or used on them, each with its uses on them.

    Of a use: when, for what, by whose key. What is under a seal is left out until it is lifted
    (R-36).
    """
    over = [grant for grant, _ in parts.ledger.grants_of(subject) if not hidden(grant)]
    uses: dict[str, list[dict[str, Any]]] = {grant.grant_id: [] for grant in over}
    for use in parts.ledger.uses_of(subject):
        uses.setdefault(use["grant_id"], []).append(use)
    found = []
    for grant_id, of in sorted(uses.items()):
        grant = parts.ledger.grant(grant_id)
        assert grant is not None  # a use has a grant
        found.append(
            {
                "grant_id": grant_id,
                "exception": grant.exception,
                "necessity": grant.necessity,
                "requested_by": grant.requested_by,
                "approved_by": grant.approved_by,
                "uses": of,
            }
        )
    return found


def _under_seal(parts: Parts, grant_id: str) -> bool:
    grant = parts.ledger.grant(grant_id)
    return grant is not None and hidden(grant)


def _exports(parts: Parts, alias: str) -> list[dict[str, str]]:
    """Return when data of the person was handed out before, and through whose key."""
    found = []
    for (leaf,) in parts.ledger.rows("SELECT leaf FROM log WHERE kind = 'export'"):
        said = msgspec.json.decode(leaf)
        if said["subject"]["pseudonym"] == alias:
            found.append({key: said[key] for key in ("export_id", "at", "by")})
    return found
