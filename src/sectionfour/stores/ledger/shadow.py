"""What challengers said in shadow, and which model was promoted by whom.

A shadow score is a number beside an assessment: it has no outcome and no receipt, and goes when its
assessment goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sectionfour.domain import Leaf
from sectionfour.stores.ledger.connected import Connected

SCHEMA = """
CREATE TABLE shadow_scores (
  seq INTEGER NOT NULL REFERENCES assessments (seq) ON DELETE CASCADE, version TEXT NOT NULL,
  score REAL NOT NULL, PRIMARY KEY (seq, version)) WITHOUT ROWID;
CREATE TABLE shadow_turns (
  name TEXT NOT NULL, version TEXT NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (name, version));
CREATE TABLE promotions (
  promotion_id TEXT PRIMARY KEY, at INTEGER NOT NULL, said TEXT NOT NULL)
"""


class Shadow(Connected):
    def shadow_turn(self, name: str, version: str) -> int:
        """Return the last assessment that a challenger has looked at. A new one begins at the
        newest: what was answered before it, it was not there for."""
        rows = self.rows(
            "SELECT seq FROM shadow_turns WHERE name = ? AND version = ?", name, version
        )
        if rows:
            return int(rows[0][0])
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO shadow_turns SELECT ?, ?, COALESCE(MAX(seq), 0) FROM assessments"
                " WHERE true ON CONFLICT DO NOTHING",
                (name, version),
            )
        return self.shadow_turn(name, version)

    def shadowed(
        self, purposes: Sequence[str], after: int, most: int
    ) -> list[tuple[int, str, bytes | None, bytes]]:
        """Return (seq, status, vector, answer) of the assessments of `purposes` after one."""
        marks = ", ".join("?" * len(purposes))
        return self.rows(
            "SELECT seq, status, vector, answer FROM assessments"
            f" WHERE seq > ? AND purpose IN ({marks}) ORDER BY seq LIMIT ?",
            after,
            *purposes,
            most,
        )

    def add_shadow(
        self, name: str, version: str, seq: int, scores: Iterable[tuple[int, str, float]]
    ) -> None:
        """Keep (seq, version, score) of some assessments, and how far the challenger is now.

        An assessment that was erased since it was read has none.
        """
        with self.transaction() as connection:
            connection.executemany(
                "INSERT INTO shadow_scores SELECT seq, ?, ? FROM assessments WHERE seq = ?"
                " ON CONFLICT DO NOTHING",
                ((version, score, seq) for seq, version, score in scores),
            )
            connection.execute(
                "UPDATE shadow_turns SET seq = ? WHERE name = ? AND version = ?",
                (seq, name, version),
            )

    def shadow_pairs(self, version: str, other: str) -> list[tuple[str, int, float, float]]:
        """Return (event_id, at, score, the other's score) of the calls that both have scored."""
        return self.rows(
            "SELECT a.event_id, a.at, s.score, o.score FROM shadow_scores s"
            " JOIN shadow_scores o ON o.seq = s.seq AND o.version = ?"
            " JOIN assessments a ON a.seq = s.seq WHERE s.version = ? ORDER BY s.seq",
            other,
            version,
        )

    def add_promotion(self, promotion_id: str, at: int, said: str, leaf: Leaf) -> None:
        with self.transaction() as connection:
            connection.execute("INSERT INTO promotions VALUES (?, ?, ?)", (promotion_id, at, said))
            self.log(connection, leaf)
