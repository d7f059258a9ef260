"""The half of each person's key that is in no backup.

A vault row opens with two halves: a data key, wrapped, in the row; and this one, in a small file of
its own beside the ring of keys, `keys/persons.db`. Backups of the vault are kept for a time, and
would outlive an erasure; so this file is mirrored, never kept in older copies. A half destroyed
here closes the row in every copy of the vault there ever was.

A half is called by a digest of the sealed row that it opens, which says nothing about the person.
That of somebody erased is empty, which tells an erasure from a loss: a row put back from a backup
stays closed, and a row whose half is not here at all means that the file is not the newest one.

Beside it stands that there was an erasure, and whose: by a keyed digest of a token that nobody can
make any more. A ledger that is older than the erasure, put back, still has that token in its rows;
nothing else has. So the erasure can be done again there, and names nobody anywhere else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from sectionfour.database import Database, closed
from sectionfour.errors import KeyringError

SCHEMA = """
CREATE TABLE halves (name BLOB PRIMARY KEY, half BLOB) WITHOUT ROWID
"""
#: Made where it is missing: files of before have the halves alone.
ERASED = """
CREATE TABLE IF NOT EXISTS erased (
  seq INTEGER PRIMARY KEY, erasure_id TEXT NOT NULL UNIQUE, mark BLOB NOT NULL,
  trigger TEXT NOT NULL, requested_at INTEGER NOT NULL, half BLOB NOT NULL)
"""


class Erased(msgspec.Struct, frozen=True):
    """That an erasure was begun. `mark` is a keyed digest of the person's token, `half` the name of
    the half that was destroyed."""

    erasure_id: str
    mark: bytes
    trigger: str
    requested_at: int
    half: bytes


def name_of(sealed: bytes) -> bytes:
    """Return what the half of a sealed row is called, 16 bytes."""
    return hashlib.sha256(sealed).digest()[:16]


class Halves:
    """The file of the halves; every method raises FailClosed where it cannot be used."""

    def __init__(self, path: Path) -> None:
        with closed("file of persons' keys"):
            self._database = Database(path, SCHEMA, version=1)
            with self._database.write() as connection:
                connection.execute(ERASED)

    def get(self, name: bytes) -> bytes | None:
        """Return a half; None for that of somebody erased. KeyringError where it is not known."""
        with closed("file of persons' keys"):
            row = self._database.read.execute(
                "SELECT half FROM halves WHERE name = ?", (name,)
            ).fetchone()
        if row is None:
            raise KeyringError(
                "a person's half key is not there: put the newest keys/persons.db back"
            )
        half: bytes | None = row[0]
        return half

    def add(self, rows: Sequence[tuple[bytes, bytes]]) -> None:
        """Keep the halves of (name, half); on disk when this returns."""
        with closed("file of persons' keys"), self._database.write() as connection:
            connection.executemany("INSERT INTO halves VALUES (?, ?)", rows)

    def destroy(self, erased: Erased) -> None:
        """Overwrite a half, for good, and note for which erasure."""
        with closed("file of persons' keys"), self._database.write() as connection:
            connection.execute("UPDATE halves SET half = NULL WHERE name = ?", (erased.half,))
            connection.execute(
                "INSERT INTO erased (erasure_id, mark, trigger, requested_at, half)"
                " VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                msgspec.structs.astuple(erased),
            )

    def erased(self, newest: int = -1) -> list[Erased]:
        """Return the erasures on record, the newest first; at most so many."""
        with closed("file of persons' keys"):
            rows = self._database.read.execute(
                "SELECT erasure_id, mark, trigger, requested_at, half FROM erased"
                " ORDER BY seq DESC LIMIT ?",
                (newest,),
            ).fetchall()
        return [Erased(*row) for row in rows]

    def forget_erased(self, before: int) -> int:
        """Forget the erasures that were asked for before `before`; return how many those were."""
        with closed("file of persons' keys"), self._database.write() as connection:
            return connection.execute(
                "DELETE FROM erased WHERE requested_at < ?", (before,)
            ).rowcount

    def destroy_all(self) -> int:
        """Overwrite every half, for good; returns how many there were. Whose erasures there were
        is forgotten, too."""
        with closed("file of persons' keys"), self._database.write() as connection:
            connection.execute("DELETE FROM erased")
            return connection.execute(
                "UPDATE halves SET half = NULL WHERE half IS NOT NULL"
            ).rowcount

    def cut(self) -> bool:
        """Take what was overwritten out of the write-ahead log, too. False where somebody is in the
        way; try again."""
        with closed("file of persons' keys"):
            return self._database.cut()

    def close(self) -> None:
        self._database.close()
