"""Legal holds, and of whom and of what nothing may go: by a hold, or by a grant that keeps it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from sectionfour.database import closed
from sectionfour.domain import Leaf
from sectionfour.privacy.holds import Hold
from sectionfour.privacy.retention import Retention
from sectionfour.stores.ledger.bases import read_grant
from sectionfour.stores.ledger.connected import Connected, Connection

SCHEMA = """
CREATE TABLE holds (
  hold_id TEXT PRIMARY KEY, subject BLOB, order_ref BLOB, law TEXT NOT NULL,
  placed_at INTEGER NOT NULL, placed_by TEXT NOT NULL, lift_asked_by TEXT, lifted_at INTEGER,
  lifted_by TEXT)
"""
TOKENS = {"holds": ("subject", "order_ref")}


class Held(NamedTuple):
    """The persons and the orders of which nothing may go (tokens)."""

    members: set[bytes]
    orders: set[bytes]


class Holds(Connected):
    def holds(self) -> list[Hold]:
        return [Hold(*row) for row in self.rows("SELECT * FROM holds ORDER BY placed_at, hold_id")]

    def is_held(self, subject: bytes, rules: Retention, at: int) -> bool:
        """Whether the law holds a person's data, or that of an order of theirs, at `at`: by a hold,
        or by a live grant of an exception that keeps what it speaks of."""
        with closed("ledger"):
            members, orders = held(self._database.read, rules, at)
        if subject in members or not orders:
            return subject in members
        theirs = self.rows("SELECT DISTINCT order_ref FROM events WHERE member = ?", subject)
        return not orders.isdisjoint(ref for (ref,) in theirs)

    def add_hold(self, hold: Hold, leaf: Leaf) -> None:
        with self.transaction() as connection:
            marks = ", ".join("?" * len(Hold.__struct_fields__))
            connection.execute(f"INSERT INTO holds VALUES ({marks})", msgspec.structs.astuple(hold))
            self.log(connection, leaf)

    def change_hold(self, hold_id: str, change: Callable[[Hold], tuple[Hold, Leaf]]) -> Hold | None:
        """Put what `change` makes of a hold in its place; None where there is none."""
        with self.transaction() as connection:
            row = connection.execute("SELECT * FROM holds WHERE hold_id = ?", (hold_id,)).fetchone()
            if row is None:
                return None
            hold, leaf = change(Hold(*row))
            connection.execute(
                "UPDATE holds SET lift_asked_by = ?, lifted_at = ?, lifted_by = ?"
                " WHERE hold_id = ?",
                (hold.lift_asked_by, hold.lifted_at, hold.lifted_by, hold_id),
            )
            self.log(connection, leaf)
            return hold


def held(connection: Connection, rules: Retention, at: int) -> Held:
    """Return what may not go at `at`, as this connection sees it."""
    found = connection.execute("SELECT subject, order_ref FROM holds WHERE lifted_at IS NULL")
    members: set[bytes] = set()
    orders: set[bytes] = set()
    for subject, order in found.fetchall():
        members |= set() if subject is None else {subject}
        orders |= set() if order is None else {order}
    for (body,) in connection.execute(
        "SELECT body FROM grants WHERE live_until > ?", (at,)
    ).fetchall():
        grant = read_grant(body)
        if rules.keeps(grant.exception):
            members |= grant.scope.members
            orders |= set() if grant.scope.order is None else {grant.scope.order}
    return Held(members, orders)
