"""The ledger on PostgreSQL, where one machine is outgrown: the same rooms, another database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sectionfour.database import closed
from sectionfour.postgres import PostgresDatabase
from sectionfour.stores.ledger.connected import Connection
from sectionfour.stores.ledger.rooms import SCHEMA, VERSION, Ledger


class PostgresLedger(Ledger):
    def __init__(self, url: str, *, synchronous: str = "FULL", seconds: float = 60.0) -> None:
        super().__init__()
        with closed("ledger"):
            self._database: PostgresDatabase = PostgresDatabase(
                url, SCHEMA, version=VERSION, synchronous=synchronous, seconds=seconds
            )

    def damage(self) -> Iterator[str]:
        with closed("ledger"):
            yield from self._database.damage()

    def _move(self, connection: Connection, moved: Mapping[bytes, bytes]) -> None:
        names = {"old": list(moved), "new": list(moved.values())}
        for table, columns in self.tokens.items():
            for column in columns:
                connection.execute(
                    f"UPDATE {table} SET {column} = m.new FROM {table} AS t LEFT JOIN"
                    " unnest(CAST(:old AS BLOB[]), CAST(:new AS BLOB[])) AS m (old, new)"
                    f" ON m.old = t.{column}"
                    f" WHERE t.ctid = {table}.ctid AND t.{column} IS NOT NULL",
                    names,
                )
