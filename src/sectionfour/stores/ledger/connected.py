"""What every room of the ledger stands on: reading, a transaction, and an entry in the log.

Each statement is written once, in the SQL that SQLite and PostgreSQL share; where they have no word
in common, in SQLite's, which `sectionfour.postgres` translates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from sectionfour.database import closed
from sectionfour.domain import Leaf


class Cursor(Protocol):
    """What a statement has found or done."""

    @property
    def rowcount(self) -> int: ...
    @property
    def description(self) -> Any: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...
    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """What the rooms ask of a connection, whichever database it is to."""

    def execute(self, sql: str, values: Sequence[Any] | Mapping[str, Any] = ..., /) -> Cursor: ...
    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> Cursor: ...


class Backend(Protocol):
    """A database: any number of readers, and one writer at a time among all processes."""

    @property
    def read(self) -> Connection: ...
    def write(self) -> AbstractContextManager[Connection]: ...
    def flush(self) -> None: ...
    def cut(self) -> bool: ...
    def close(self) -> None: ...


class Connected:
    """A room of the ledger. `stores.ledger.rooms.Ledger` is all rooms at once."""

    _database: Backend

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query; FailClosed where the ledger cannot be read."""
        with closed("ledger"):
            return self._database.read.execute(sql, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        with closed("ledger"), self._database.write() as connection:
            yield connection

    def flush(self) -> None:
        """Return once all that could be read before is on disk; FailClosed where it cannot be."""
        with closed("ledger"):
            self._database.flush()

    def cut(self) -> bool:
        """Let go of what was overwritten or deleted; False where that has to wait."""
        with closed("ledger"):
            return self._database.cut()

    @staticmethod
    def log(connection: Connection, leaf: Leaf) -> None:
        """Append a leaf to the log, in the transaction of what it speaks of."""
        connection.execute(
            "INSERT INTO log (idx, kind, ref, leaf)"
            " VALUES ((SELECT COALESCE(MAX(idx), -1) + 1 FROM log), ?, ?, ?)",
            (leaf.kind, leaf.ref, leaf.body),
        )
