"""Labels: what became known of an event or a member."""

from __future__ import annotations

from collections.abc import Iterable

from sectionfour.domain import Label, Leaf
from sectionfour.errors import Conflict
from sectionfour.stores.ledger.connected import Connected, Connection

SCHEMA = """
CREATE TABLE labels (
  label_id TEXT PRIMARY KEY, at INTEGER NOT NULL, label TEXT NOT NULL, source TEXT NOT NULL,
  known_at INTEGER NOT NULL, event_id TEXT, member BLOB, settled INTEGER NOT NULL DEFAULT 0);
CREATE INDEX label_of_event ON labels (event_id);
CREATE INDEX label_of_member ON labels (member) WHERE member IS NOT NULL
"""
TOKENS = {"labels": ("member",)}


class Labels(Connected):
    def label(self, label_id: str) -> Label | None:
        rows = self.rows(
            "SELECT label_id, label, source, at, known_at, event_id, member FROM labels"
            " WHERE label_id = ?",
            label_id,
        )
        names = ("label_id", "label", "source", "at", "known_at", "event_id", "member")
        return Label(**dict(zip(names, rows[0], strict=True))) if rows else None

    def add_label(self, label: Label, leaf: Leaf) -> bool:
        """Record a label; False where one of this id is recorded already, with the same content."""
        with self.transaction() as connection:
            row = connection.execute(
                "SELECT label, source, event_id, member FROM labels WHERE label_id = ?",
                (label.label_id,),
            ).fetchone()
            if row is not None:
                if row != (label.label, label.source, label.event_id, label.member):
                    raise Conflict(
                        "this label_id is recorded with other content", pointer="/label_id"
                    )
                return False
            self.insert_labels(connection, [label])
            self.log(connection, leaf)
            return True

    @staticmethod
    def insert_labels(connection: Connection, labels: Iterable[Label]) -> None:
        connection.executemany(
            "INSERT INTO labels (label_id, at, label, source, known_at, event_id, member)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (x.label_id, x.at, x.label, x.source, x.known_at, x.event_id, x.member)
                for x in labels
            ),
        )
