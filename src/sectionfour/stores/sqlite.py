"""The ledger on SQLite, in a file of its own: the default, for one machine."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

from sectionfour.database import Database, closed
from sectionfour.stores.ledger.connected import Connection
from sectionfour.stores.ledger.rooms import SCHEMA, VERSION, Ledger


class SqliteLedger(Ledger):
    def __init__(self, path: Path, *, synchronous: str = "FULL") -> None:
        super().__init__()
        with closed("ledger"):
            self._database: Database = Database(
                path, SCHEMA, version=VERSION, synchronous=synchronous
            )

    def damage(self) -> Iterator[str]:
        for (found,) in self.rows("PRAGMA integrity_check"):
            if found != "ok":
                yield f"the file of the ledger is damaged: {found}"
        tables = [
            row[0] for row in self.rows("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
        ]
        if sorted(tables) != sorted(statement.strip() for statement in SCHEMA.split(";")):
            yield "the tables of the ledger are not those that it was made with"

    def _move(self, connection: Connection, moved: Mapping[bytes, bytes]) -> None:
        assert isinstance(connection, sqlite3.Connection)
        connection.create_function("moved", 1, moved.get, deterministic=True)
        for table, columns in self.tokens.items():
            changes = ", ".join(f"{column} = moved({column})" for column in columns)
            connection.execute(f"UPDATE {table} SET {changes}")
        connection.create_function("moved", 1, None)
