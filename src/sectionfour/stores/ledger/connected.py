"""What every room of the ledger stands on: reading, a transaction, and an entry in the log."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sectionfour.database import Database, closed
from sectionfour.domain import Leaf


class Connected:
    """A room of the ledger. `SqliteLedger` opens the database and is all rooms at once."""

    _database: Database

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query; FailClosed where the ledger cannot be read."""
        with closed("ledger"):
            return self._database.read.execute(sql, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        with closed("ledger"), self._database.write() as connection:
            yield connection

    @staticmethod
    def log(connection: sqlite3.Connection, leaf: Leaf) -> None:
        """Append a leaf to the log, in the transaction of what it speaks of."""
        connection.execute(
            "INSERT INTO log (idx, kind, ref, leaf)"
            " VALUES ((SELECT COALESCE(MAX(idx), -1) + 1 FROM log), ?, ?, ?)",
            (leaf.kind, leaf.ref, leaf.body),
        )
