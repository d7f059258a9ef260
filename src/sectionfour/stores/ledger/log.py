"""The log of leaves, its Merkle tree and its checkpoints, for receipts."""

from __future__ import annotations

from collections.abc import Callable

from sectionfour.privacy import merkle
from sectionfour.stores.ledger.connected import Connected

SCHEMA = """
CREATE TABLE log (
  idx INTEGER PRIMARY KEY, kind TEXT NOT NULL, ref TEXT NOT NULL, leaf BLOB NOT NULL);
CREATE INDEX log_of_ref ON log (ref);
CREATE TABLE nodes (level INTEGER, idx INTEGER, hash BLOB NOT NULL, PRIMARY KEY (level, idx))
  WITHOUT ROWID;
CREATE TABLE checkpoints (size INTEGER PRIMARY KEY, at INTEGER NOT NULL, note TEXT NOT NULL)
"""
#: Leaves that the tree takes in at a time: the ledger is locked for about a millisecond.
GROWTH = 2_000


class Log(Connected):
    def leaves(self, start: int, stop: int) -> list[tuple[int, str, str, bytes]]:
        return self.rows(
            "SELECT idx, kind, ref, leaf FROM log WHERE idx >= ? AND idx < ? ORDER BY idx",
            start,
            stop,
        )

    def find(self, ref: str) -> tuple[int, bytes] | None:
        """Return the index and the leaf of the newest entry called `ref`."""
        rows = self.rows("SELECT idx, leaf FROM log WHERE ref = ? ORDER BY idx DESC LIMIT 1", ref)
        return (rows[0][0], bytes(rows[0][1])) if rows else None

    def checkpoints(self) -> list[tuple[int, str]]:
        return self.rows("SELECT size, note FROM checkpoints ORDER BY size")

    def newest_checkpoint(self) -> tuple[int, str] | None:
        rows = self.rows("SELECT size, note FROM checkpoints ORDER BY size DESC LIMIT 1")
        return rows[0] if rows else None

    def size(self) -> int:
        return int(self.rows("SELECT COALESCE(MAX(idx), -1) + 1 FROM log")[0][0])

    def node(self, level: int, index: int) -> bytes:
        rows = self.rows("SELECT hash FROM nodes WHERE level = ? AND idx = ?", level, index)
        if not rows:
            raise LookupError(f"the log has no node {index} at level {level}")
        return bytes(rows[0][0])

    def nodes(self, level: int, start: int, stop: int) -> list[tuple[int, bytes]]:
        return self.rows(
            "SELECT idx, hash FROM nodes WHERE level = ? AND idx >= ? AND idx < ? ORDER BY idx",
            level,
            start,
            stop,
        )

    def grow(self, most: int) -> int:
        """Take up to `most` of the leaves that are not in the tree yet into it; return how many.

        Leaves are hashed before the ledger is locked: a checkout waits for the rows alone.
        """
        before = self._grown()
        rows = self.rows("SELECT leaf FROM log WHERE idx >= ? ORDER BY idx LIMIT ?", before, most)
        if not rows:
            return 0
        nodes = merkle.new_nodes(before, [merkle.leaf_hash(row[0]) for row in rows], self.node)
        with self.transaction() as connection:
            connection.executemany(
                "INSERT INTO nodes VALUES (?, ?, ?) ON CONFLICT DO NOTHING", nodes
            )
        return len(rows)

    def _grown(self) -> int:
        """Return how many leaves are in the tree."""
        return int(self.rows("SELECT COALESCE(MAX(idx), -1) + 1 FROM nodes WHERE level = 0")[0][0])

    def extend(self, at: int, note_of: Callable[[int, bytes], str]) -> tuple[int, str] | None:
        """Take the leaves since the last checkpoint into the tree and sign it.

        `note_of(size, root)` makes the signed note. Returns (size, note), None where no leaf is
        new.
        """
        size = self.size()
        while self._grown() < size:
            self.grow(GROWTH)
        with self.transaction() as connection:
            newest = connection.execute("SELECT COALESCE(MAX(size), 0) FROM checkpoints").fetchone()
            if size <= newest[0]:  # another worker's is as new
                return None
            note = note_of(size, merkle.root_at(size, self.node))
            connection.execute("INSERT INTO checkpoints VALUES (?, ?, ?)", (size, at, note))
            return size, note
