"""The clusters that members are in: how many members, and of how many of them a fraud is known.

Rows change slowly: one is written when a member's values are others than before, and it counts for
events after its own `at`. A member without a row is alone. Derived from events and labels, like the
windows, so no entry of the log speaks of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sectionfour.domain import EVER
from sectionfour.errors import Conflict, NotReady
from sectionfour.stores.ledger.connected import Connected, Connection

SCHEMA = """
CREATE TABLE clusters (
  member BLOB, at INTEGER, size INTEGER NOT NULL, frauds INTEGER NOT NULL,
  PRIMARY KEY (member, at)) WITHOUT ROWID
"""
TOKENS = {"clusters": ("member",)}
#: What ends that somebody is known by a token: rows made before it may be of nobody.
_ENDS = ("erasure", "epoch", "cessation")

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

    def clusters(self, before: int = EVER) -> list[tuple[bytes, int, int, int]]:
        """Return (member, at, size, frauds) of every row before an instant."""
        return self.rows(
            "SELECT member, at, size, frauds FROM clusters WHERE at < ? ORDER BY at, member", before
        )

    def newest_clusters(self, before: int = EVER) -> dict[bytes, tuple[int, int]]:
        """Return (size, frauds) of every member that has a row before an instant, by the newest."""
        rows = self.rows(
            "SELECT member, size, frauds FROM clusters WHERE (member, at) IN"
            " (SELECT member, MAX(at) FROM clusters WHERE at < ? GROUP BY member)",
            before,
        )
        return {member: (size, frauds) for member, size, frauds in rows}

    def linked(
        self, after: int, before: int
    ) -> list[tuple[int, bytes, bytes | None, bytes | None, bytes | None, int, str | None]]:
        """Return what members have used between two instants: (at, member, device, instrument,
        address, permitted, brought) of each event, oldest first."""
        return self.rows(
            "SELECT at, member, device, instrument, address, permitted, brought FROM events"
            " WHERE at > ? AND at < ? AND member IS NOT NULL ORDER BY at",
            after,
            before,
        )

    def known_of_members(self, before: int) -> list[tuple[int, str, str | None, bytes]]:
        """Return (at, label, event_id, member) of all that became known of members, or of events
        of theirs, before an instant; oldest first."""
        return self.rows(
            "SELECT l.at, l.label, l.event_id, COALESCE(e.member, l.member) AS who FROM labels l"
            " LEFT JOIN events e ON e.event_id = l.event_id"
            " WHERE l.at < ? AND COALESCE(e.member, l.member) IS NOT NULL ORDER BY l.at",
            before,
        )

    def add_clusters(
        self, found: Iterable[Found], begin: Callable[[], int], log_size: int
    ) -> tuple[int, int]:
        """Write a row for each of `found`, in one transaction. Returns how many, and their `at`.

        `begin` is asked for it once the ledger is ours. NotReady, and nothing is written, where
        since the log had `log_size` entries somebody was erased, tokens were replaced or operation
        has ceased: what was found before may be of nobody.
        """
        with self.transaction() as connection:
            _still(connection, log_size)
            newest = connection.execute("SELECT COALESCE(MAX(at), 0) FROM clusters").fetchone()[0]
            at = max(begin(), newest)
            done = connection.executemany(
                "INSERT INTO clusters (member, at, size, frauds) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (member, at) DO UPDATE SET size = excluded.size,"
                " frauds = excluded.frauds",
                [(member, at, size, frauds) for member, size, frauds in found],
            )
            return max(done.rowcount, 0), at

    def replace_clusters(
        self, rows: Iterable[tuple[bytes, int, int, int]], since: int, log_size: int
    ) -> None:
        """Put these rows (member, at, size, frauds) in the place of all from `since` on.

        Conflict, and nothing is written, where anything was scored at that time or after it: it
        was scored by the rows that were there. NotReady as above.
        """
        with self.transaction() as connection:
            _still(connection, log_size)
            scored = "SELECT 1 FROM assessments WHERE at >= ? LIMIT 1"
            if connection.execute(scored, (since,)).fetchone() is not None:
                raise Conflict(
                    "something was scored since: clusters can be found as of past days only"
                    " where nothing was scored by those that were known then"
                )
            connection.execute("DELETE FROM clusters WHERE at >= ?", (since,))
            connection.executemany("INSERT INTO clusters VALUES (?, ?, ?, ?)", rows)


def _still(connection: Connection, log_size: int) -> None:
    marks = ", ".join("?" * len(_ENDS))
    ended = connection.execute(
        f"SELECT 1 FROM log WHERE idx >= ? AND kind IN ({marks}) LIMIT 1", (log_size, *_ENDS)
    ).fetchone()
    if ended is not None:
        raise NotReady(
            "somebody was erased, tokens were replaced or operation has ceased meanwhile:"
            " run it again"
        )
