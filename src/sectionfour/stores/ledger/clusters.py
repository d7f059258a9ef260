"""The clusters that members are in: how many members, and of how many of them a fraud is known.

Rows change slowly: one is written when a member's values are others than before, and it counts for
events after its own `at`. A member without a row is alone. Derived from events and labels, like the
windows, so no entry of the log speaks of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sectionfour.errors import NotReady
from sectionfour.stores.ledger.connected import Connected

SCHEMA = """
CREATE TABLE clusters (
  member BLOB, at INTEGER, size INTEGER NOT NULL, frauds INTEGER NOT NULL,
  PRIMARY KEY (member, at)) WITHOUT ROWID
"""
TOKENS = {"clusters": ("member",)}
#: What ends that somebody is known by a token: rows made before it may be of nobody.
_ENDS = ("erasure", "epoch", "ceased")

#: A member, with the size of the cluster and how many frauds are known in it.
Found = tuple[bytes, int, int]


class Clusters(Connected):
    def cluster(self, member: bytes, at: int) -> tuple[int, int] | None:
        """Return (size, frauds) of a member's cluster as of `at`; None for who never was in one."""
        rows = self.rows(
            "SELECT size, frauds FROM clusters WHERE member = ? AND at < ?"
            " ORDER BY at DESC LIMIT 1",
            member,
            at,
        )
        return rows[0] if rows else None

    def clusters(self, before: int) -> list[tuple[bytes, int, int, int]]:
        """Return (member, at, size, frauds) of every row before an instant."""
        return self.rows(
            "SELECT member, at, size, frauds FROM clusters WHERE at < ? ORDER BY at, member", before
        )

    def newest_clusters(self) -> dict[bytes, tuple[int, int]]:
        """Return (size, frauds) of every member that has a row, by the newest."""
        rows = self.rows("SELECT member, size, frauds, MAX(at) FROM clusters GROUP BY member")
        return {member: (size, frauds) for member, size, frauds, _ in rows}

    def add_clusters(
        self, found: Iterable[Found], at: Callable[[], int], log_size: int
    ) -> tuple[int, int]:
        """Write a row for each member whose values are not these yet, in one transaction.

        `at` is asked once the ledger is ours. Returns how many rows, and their `at`. NotReady, and
        nothing is written, where since the log had `log_size` entries somebody was erased, tokens
        were replaced or operation has ceased: what was found before may be of nobody.
        """
        with self.transaction() as connection:
            marks = ", ".join("?" * len(_ENDS))
            ended = connection.execute(
                f"SELECT 1 FROM log WHERE idx >= ? AND kind IN ({marks}) LIMIT 1",
                (log_size, *_ENDS),
            ).fetchone()
            if ended is not None:
                raise NotReady("somebody was erased, or tokens replaced, meanwhile: run it again")
            begins = at()
            done = connection.executemany(
                "INSERT INTO clusters SELECT ?1, ?4, ?2, ?3 WHERE (?2, ?3) IS NOT"
                " (SELECT size, frauds FROM clusters WHERE member = ?1 ORDER BY at DESC LIMIT 1)",
                [(*one, begins) for one in found],
            )
            return done.rowcount, begins
