"""Attestations: of sources, and of consignees who are not members."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from sectionfour.domain import Leaf
from sectionfour.errors import FailClosed
from sectionfour.privacy.attestations import SourceAttestation, ThirdPerson
from sectionfour.stores.ledger.connected import Connected

SCHEMA = """
CREATE TABLE attestations (
  attestation_id TEXT PRIMARY KEY, source TEXT NOT NULL, live_until INTEGER NOT NULL,
  body BLOB NOT NULL);
CREATE INDEX attestation_of_source ON attestations (source, live_until);
CREATE TABLE third_persons (
  attestation_id TEXT PRIMARY KEY, subject BLOB NOT NULL, order_ref BLOB NOT NULL,
  wording_version TEXT NOT NULL, attested_at INTEGER NOT NULL, recorded_by TEXT NOT NULL,
  recorded_at INTEGER NOT NULL, revoked_by TEXT, revoked_at INTEGER);
CREATE INDEX third_person_of_subject ON third_persons (subject)
"""
#: What becomes another token where an epoch of the serve domain ends.
TOKENS = {"third_persons": ("subject", "order_ref")}

_decode = msgspec.json.Decoder(SourceAttestation).decode


class Attestations(Connected):
    # --- what the gate reads, where a request names such a source or such a consignee

    def attestations(self, source: str, at: int) -> list[SourceAttestation]:
        """Return those of one source that are not over at `at`, oldest first."""
        return [
            _attestation(body)
            for (body,) in self.rows(
                "SELECT body FROM attestations WHERE source = ? AND live_until > ?"
                " ORDER BY attestation_id",
                source,
                at,
            )
        ]

    def third_person(self, attestation_id: str) -> ThirdPerson | None:
        rows = self.rows(_ONE, attestation_id)
        return ThirdPerson(**dict(zip(_COLUMNS, rows[0], strict=True))) if rows else None

    # --- how they come to be, and end

    def attestation(self, attestation_id: str) -> SourceAttestation | None:
        rows = self.rows("SELECT body FROM attestations WHERE attestation_id = ?", attestation_id)
        return _attestation(rows[0][0]) if rows else None

    def add_attestation(self, made: SourceAttestation, leaf: Leaf) -> None:
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO attestations VALUES (?, ?, ?, ?)",
                (made.attestation_id, made.source, made.expires_at, msgspec.json.encode(made)),
            )
            self.log(connection, leaf)

    def change_attestation(
        self,
        attestation_id: str,
        change: Callable[[SourceAttestation], tuple[SourceAttestation, Leaf]],
    ) -> SourceAttestation | None:
        """Put what `change` makes of one in its place, in one step; None where there is none."""
        with self.transaction() as connection:
            row = connection.execute(
                "SELECT body FROM attestations WHERE attestation_id = ?", (attestation_id,)
            ).fetchone()
            if row is None:
                return None
            changed, leaf = change(_attestation(row[0]))
            connection.execute(
                "UPDATE attestations SET live_until = ?, body = ? WHERE attestation_id = ?",
                (live_until(changed), msgspec.json.encode(changed), attestation_id),
            )
            self.log(connection, leaf)
            return changed

    def put_third_person(self, made: ThirdPerson, leaf: Leaf) -> None:
        """Keep a member's word about a consignee."""
        with self.transaction() as connection:
            connection.execute(_PUT, msgspec.structs.astuple(made))
            self.log(connection, leaf)

    def change_third_person(
        self, attestation_id: str, change: Callable[[ThirdPerson], tuple[ThirdPerson, Leaf]]
    ) -> ThirdPerson | None:
        """Put what `change` makes of one in its place, in one step; None where there is none."""
        with self.transaction() as connection:
            row = connection.execute(_ONE, (attestation_id,)).fetchone()
            if row is None:
                return None
            changed, leaf = change(ThirdPerson(**dict(zip(_COLUMNS, row, strict=True))))
            connection.execute(_PUT, msgspec.structs.astuple(changed))
            self.log(connection, leaf)
            return changed


_COLUMNS = ThirdPerson.__struct_fields__
_ONE = f"SELECT {', '.join(_COLUMNS)} FROM third_persons WHERE attestation_id = ?"
_PUT = (
    f"INSERT INTO third_persons ({', '.join(_COLUMNS)})"
    f" VALUES ({', '.join('?' * len(_COLUMNS))}) ON CONFLICT (attestation_id) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS)
)


def live_until(kept: SourceAttestation) -> int:
    """Return what the table says of when an attestation is over."""
    return kept.expires_at if kept.revoked_at is None else 0


def _attestation(body: bytes) -> SourceAttestation:
    try:
        return _decode(body)
    except msgspec.DecodeError as error:
        raise FailClosed("the ledger cannot be used: an attestation cannot be read") from error
