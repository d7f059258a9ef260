"""Training releases: what left the builder, and which of its rows are whose.

The second table is the builder's alone: without it no row of a release leads to anybody, and with
it erasure finds the rows of one person.
"""

from __future__ import annotations

from collections.abc import Iterable

from sectionfour.domain import Leaf
from sectionfour.stores.ledger.connected import Connected

SCHEMA = """
CREATE TABLE releases (
  release_id TEXT PRIMARY KEY, at INTEGER NOT NULL, purpose TEXT NOT NULL, sheet BLOB NOT NULL);
CREATE TABLE release_rows (
  row_ref BLOB PRIMARY KEY, release_id TEXT NOT NULL, member BLOB) WITHOUT ROWID;
CREATE INDEX release_row_of_member ON release_rows (member)
"""


TOKENS = {"release_rows": ("member",)}


class Releases(Connected):
    def add_release(
        self,
        release_id: str,
        at: int,
        purpose: str,
        sheet: bytes,
        rows: Iterable[tuple[bytes, bytes | None]],
        leaf: Leaf,
    ) -> None:
        """Record a release, with its data sheet and (row_ref, member) of each of its rows."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO releases VALUES (?, ?, ?, ?)", (release_id, at, purpose, sheet)
            )
            connection.executemany(
                "INSERT INTO release_rows (row_ref, release_id, member) VALUES (?, ?, ?)",
                ((ref, release_id, member) for ref, member in rows),
            )
            self.log(connection, leaf)

    def release_rows_of(self, member: bytes) -> dict[str, list[bytes]]:
        """Return, a release, the refs of the rows that are of one member."""
        found: dict[str, list[bytes]] = {}
        for release_id, ref in self.rows(
            "SELECT release_id, row_ref FROM release_rows WHERE member = ?", member
        ):
            found.setdefault(release_id, []).append(bytes(ref))
        return found
