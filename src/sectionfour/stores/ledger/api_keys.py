"""API keys, by the digest of each."""

from __future__ import annotations

from sectionfour.domain import Leaf
from sectionfour.stores.ledger.connected import Connected

SCHEMA = """
CREATE TABLE api_keys (
  key_id TEXT PRIMARY KEY, hash BLOB NOT NULL UNIQUE, role TEXT NOT NULL, at INTEGER NOT NULL,
  revoked_at INTEGER, office TEXT)
"""


class ApiKeys(Connected):
    def key(self, digest: bytes) -> tuple[str, str, int] | None:
        """Return (key_id, roles, whether operation has ceased) of a key that stands."""
        rows = self.rows(
            "SELECT key_id, role, EXISTS (SELECT 1 FROM cessation) FROM api_keys"
            " WHERE hash = ? AND revoked_at IS NULL",
            digest,
        )
        return rows[0] if rows else None

    def office(self, key_id: str) -> str | None:
        """Return the office that a key bears, if any."""
        rows = self.rows("SELECT office FROM api_keys WHERE key_id = ?", key_id)
        found: str | None = rows[0][0] if rows else None
        return found

    def add_key(
        self,
        key_id: str,
        digest: bytes,
        roles: str,
        at: int,
        leaf: Leaf,
        office: str | None = None,
    ) -> None:
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO api_keys VALUES (?, ?, ?, ?, NULL, ?)",
                (key_id, digest, roles, at, office),
            )
            self.log(connection, leaf)

    def all_keys(self) -> list[tuple[str, str, int, int | None]]:
        """Return (key_id, role, made at, revoked at) of every key, oldest first."""
        return self.rows("SELECT key_id, role, at, revoked_at FROM api_keys ORDER BY at, key_id")

    def revoke_key(self, key_id: str, at: int, leaf: Leaf) -> bool:
        """End a key; False where there is none that stands."""
        with self.transaction() as connection:
            ended = connection.execute(
                "UPDATE api_keys SET revoked_at = ? WHERE key_id = ? AND revoked_at IS NULL",
                (at, key_id),
            )
            if ended.rowcount:
                self.log(connection, leaf)
            return ended.rowcount == 1
