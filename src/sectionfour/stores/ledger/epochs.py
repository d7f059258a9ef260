"""What becomes of the ledger's rows when an epoch of the serve domain ends: other tokens.

A receipt commits to tokens, and the log cannot be changed: for rows under new tokens `carried` has
what their receipt's commitment is by now, and one entry of the log has a digest of that table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import msgspec

from sectionfour.domain import Leaf
from sectionfour.privacy import entries, inventory
from sectionfour.privacy.exceptions import Grant
from sectionfour.privacy.pseudonym import Keys
from sectionfour.privacy.tally import Tally
from sectionfour.stores.ledger.bases import read_grant
from sectionfour.stores.ledger.connected import Connected, Connection
from sectionfour.stores.ledger.tallied import COLUMNS, counted
from sectionfour.stores.ledger.unvouched import ALL, Row, step_of, unvouched

SCHEMA = """
CREATE TABLE carried (assessment_id TEXT PRIMARY KEY, commitment TEXT NOT NULL) WITHOUT ROWID
"""


class Epochs(Connected):
    #: The columns that hold tokens of the serve domain, by table; from the rooms.
    tokens: ClassVar[Mapping[str, tuple[str, ...]]]

    def _move(self, connection: Connection, moved: Mapping[bytes, bytes]) -> None:
        """Put `moved[token]` in the place of every token in the columns of `tokens`."""
        raise NotImplementedError

    def holds_tokens(self) -> bool:
        """Whether any row holds a token, which nobody could make again without the keys."""
        return any(
            self.rows(f"SELECT 1 FROM {table} WHERE {column} IS NOT NULL LIMIT 1")
            for table, columns in self.tokens.items()
            for column in columns
        )

    def tokens_in(self, table: str, column: str) -> Iterable[bytes]:
        """Return the tokens in a column, each once."""
        found = self.rows(f"SELECT DISTINCT {column} FROM {table} WHERE {column} IS NOT NULL")
        return (row[0] for row in found)

    def all_grants(self) -> list[Grant]:
        return [
            read_grant(body) for (body,) in self.rows("SELECT body FROM grants ORDER BY grant_id")
        ]

    def persons(self) -> set[bytes]:
        """Return the token of everybody of whom there is anything."""
        named = {member for grant in self.all_grants() for member in grant.scope.members}
        for kept in inventory.load().of("ledger"):
            if "subject" in kept.person:
                named.update(map(bytes, self.tokens_in(kept.name, kept.person["subject"])))
        return named

    def add_entry(self, leaf: Leaf) -> None:
        """Put an entry into the log that speaks of no row."""
        with self.transaction() as connection:
            self.log(connection, leaf)

    def entries_of(self, kind: str, ref: str) -> list[bytes]:
        """Return the entries of the log of this kind and name, oldest first."""
        sql = "SELECT leaf FROM log WHERE ref = ? AND kind = ? ORDER BY idx"
        return [bytes(leaf) for (leaf,) in self.rows(sql, ref, kind)]

    def carried_digest(self) -> tuple[int, str]:
        """Return how many rows `carried` has, and their digest."""
        return _digest(self.rows("SELECT * FROM carried ORDER BY assessment_id"))

    def retoken(
        self,
        keys: Keys,
        moved: Mapping[bytes, bytes],
        grants: Iterable[Grant],
        carried: Iterable[tuple[str, str]],
        leaf: Callable[[int, str, str, str], Leaf],
        at: int,
    ) -> None:
        """Put `moved[token]` in the place of every token, in one transaction.

        `carried` are the commitments to assessments under their new tokens; `leaf(count, digest,
        before, after)` makes the entry that speaks of them, and of the tallies of the rows that no
        entry of their own vouches for.
        """
        rows = sorted(carried)
        with self.transaction() as connection:
            before, after = Tally(keys.ring), Tally(keys.ring)
            alone, steps = _alone(keys, connection, before)
            self._move(connection, moved)
            connection.executemany(
                "UPDATE grants SET body = ? WHERE grant_id = ?",
                ((msgspec.json.encode(grant), grant.grant_id) for grant in grants),
            )
            connection.execute("DELETE FROM carried")
            connection.executemany("INSERT INTO carried VALUES (?, ?)", rows)
            for table, name in alone:
                after.row(table, counted(table)(_row(connection, table, name)))
            for name in steps:  # a step that is still to be answered keeps an entry of its own
                row = _row(connection, "events", name)
                tally = Tally(keys.ring)
                tally.row("events", row)
                event_id = row[COLUMNS["events"].index("event_id")]
                self.log(connection, entries.step(keys, event_id, tally.text(), at))
            self.log(connection, leaf(*_digest(rows), before.text(), after.text()))
        self.cut()


def _alone(
    keys: Keys, connection: Connection, tally: Tally
) -> tuple[list[tuple[str, Any]], list[int]]:
    """Return (table, key) of the rows that no entry of their own vouches for, all in `tally`; and
    the keys of events that are steps, and have one."""
    alone: list[tuple[str, Any]] = []
    steps: list[int] = []
    for table, row in unvouched(connection, ALL, {}):
        if table == "events" and step_of(keys, connection, row) is not None:
            steps.append(row[0])
        else:
            tally.row(table, counted(table)(row))
            alone.append((table, row[0]))
    return alone, steps


def _row(connection: Connection, table: str, key: Any) -> Row:
    columns = COLUMNS[table]
    found: Row = connection.execute(
        f"SELECT {', '.join(columns)} FROM {table} WHERE {columns[0]} = ?", (key,)
    ).fetchone()
    return found


def _digest(rows: Iterable[tuple[str, str]]) -> tuple[int, str]:
    count, digest = 0, hashlib.sha256()
    for row in rows:
        count += 1
        digest.update(msgspec.msgpack.encode(row))
    return count, digest.hexdigest()
