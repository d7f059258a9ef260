"""The audit set: age band and gender of members who said that these may be used to audit models.

Kept apart from everything that is learnt from or scored by: no feature, no vector and no release
reads it. A row goes with its person, and when the consent that it stands on has ended.
"""

from __future__ import annotations

from collections.abc import Sequence

from sectionfour.domain import Leaf
from sectionfour.stores.ledger.connected import Connected

SCHEMA = """
CREATE TABLE audit_set (
  member BLOB PRIMARY KEY, at INTEGER NOT NULL, age_band TEXT, gender TEXT) WITHOUT ROWID
"""


TOKENS = {"audit_set": ("member",)}


class AuditSet(Connected):
    def audit_set(self) -> list[tuple[bytes, str | None, str | None]]:
        """Return (member, age band, gender) of everybody in it; the gate is asked by whoever
        reads."""
        return [
            (bytes(member), band, gender)
            for member, band, gender in self.rows(
                "SELECT member, age_band, gender FROM audit_set ORDER BY member"
            )
        ]

    def in_audit_set(self, member: bytes) -> bool:
        return bool(self.rows("SELECT 1 FROM audit_set WHERE member = ?", member))

    def change_audit_set(
        self,
        at: int,
        kept: Sequence[tuple[bytes, str | None, str | None]],
        gone: Sequence[bytes],
        leaf: Leaf,
    ) -> None:
        """Put in or replace `kept`, take out `gone`, and log how many, in one step."""
        with self.transaction() as connection:
            connection.executemany("DELETE FROM audit_set WHERE member = ?", [(m,) for m in gone])
            connection.executemany(
                "INSERT INTO audit_set VALUES (?, ?, ?, ?) ON CONFLICT (member) DO UPDATE SET"
                " at = excluded.at, age_band = excluded.age_band, gender = excluded.gender",
                [(member, at, band, gender) for member, band, gender in kept],
            )
            self.log(connection, leaf)
