"""What a token of the ending epoch will be called in the next one, for values met in between.

Kept only while a rotation is under way, in a file of its own that goes when it ends: for as long as
it is there, tokens of both epochs can be joined. It holds tokens alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

from sectionfour.database import Database, closed

SCHEMA = """
CREATE TABLE successors (token BLOB PRIMARY KEY, next BLOB NOT NULL) WITHOUT ROWID
"""
#: Tokens that a process remembers to have noted; past this it asks the file again.
MEMORY = 1_000_000


class Successors:
    """The file of them, made with the first that is noted; FailClosed where it cannot be used."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._guard = threading.Lock()
        self._database: Database | None = None
        self._noted: set[bytes] = set()

    def note(self, token: bytes, following: bytes) -> None:
        """Keep that `token` becomes `following`; a killed process loses nothing of it."""
        if token in self._noted:
            return
        with closed("successors"), self._open().write() as connection:
            connection.execute(
                "INSERT INTO successors VALUES (?, ?) ON CONFLICT DO NOTHING", (token, following)
            )
        if len(self._noted) >= MEMORY:
            self._noted.clear()
        self._noted.add(token)

    def all(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield (token, the next token) of each that was noted."""
        if self._path.exists():
            with closed("successors"):
                yield from self._open().read.execute("SELECT token, next FROM successors")

    def _open(self) -> Database:
        with self._guard:
            if self._database is None:
                # Not flushed at each commit: of a power cut in these weeks the last moments may
                # be lost, and what was met in them only keeps its past when it is met again.
                self._database = Database(self._path, SCHEMA, version=1, synchronous="NORMAL")
            return self._database

    def forget(self) -> None:
        """Close the file; whatever was noted is asked anew."""
        with self._guard:
            if self._database is not None:
                self._database.close()
            self._database = None
            self._noted.clear()

    def destroy(self) -> None:
        """Overwrite what was noted and remove the file."""
        if self._path.exists():
            with closed("successors"):
                with self._open().write() as connection:
                    connection.execute("DELETE FROM successors")  # secure_delete: overwritten
                self._open().cut()
        self.forget()
        for path in self._path.parent.glob(f"{self._path.name}*"):
            path.unlink(missing_ok=True)
