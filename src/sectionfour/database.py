"""The one way in which we open SQLite: WAL, foreign keys, fsync before a commit is acknowledged.

Writers queue on a file lock, first come first served: SQLite's own busy handler sleeps and polls,
which costs a checkout tens of milliseconds as soon as two worker processes write.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sectionfour.errors import FailClosed


class Fault(Exception):
    """What a database that is not SQLite had to say."""


class Clash(Fault):
    """A row that the tables do not let in."""


FAULTS = (sqlite3.Error, Fault)
CLASHES = (sqlite3.IntegrityError, Clash)


class Database:
    """A SQLite file: a reading connection a thread, one writing connection a process.

    Reads see the newest commit of any process: no statement is left open between calls.
    """

    def __init__(self, path: Path, schema: str, *, version: int, synchronous: str = "FULL") -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = path
        self._synchronous = synchronous
        self._local = threading.local()
        self._turn = threading.RLock()
        self._lock_file = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._opened: list[sqlite3.Connection] = []
        self._file: tuple[int, int] | None = None
        # Where two give a new file its log at once, SQLite lets one wait no moment for the other,
        # whatever the timeout: so one after the other.
        fcntl.flock(self._lock_file, fcntl.LOCK_EX)
        try:
            self._writer = self._connect()
            # In KiB: an import writes all over its indexes, which outgrow the 2 MiB there are.
            self._writer.execute("PRAGMA cache_size = -65536")
            self._file = _identity(path)
        finally:
            fcntl.flock(self._lock_file, fcntl.LOCK_UN)
        with self.write() as connection:
            found = connection.execute("PRAGMA user_version").fetchone()[0]
            if found == 0:
                for statement in schema.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {version}")
            elif found != version:
                raise sqlite3.DatabaseError(
                    f"{path.name} has schema version {found}, this code reads {version}"
                )

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        if self._file is not None:
            try:  # before any statement: beside an empty file SQLite deletes the log
                self._check_file()
            except BaseException:
                connection.close()
                raise
        os.chmod(self.path, 0o600)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA secure_delete = ON")  # what is erased is overwritten
        connection.execute("PRAGMA busy_timeout = 5000")  # for writers that are not ours
        # Not mapped into memory: a file that is cut would then kill the process, not raise.
        connection.execute("PRAGMA mmap_size = 0")
        self._opened.append(connection)
        return connection

    @property
    def read(self) -> sqlite3.Connection:
        """This thread's reading connection."""
        try:
            return self._local.connection  # type: ignore[no-any-return]
        except AttributeError:
            self._check_file()
            self._local.connection = self._connect()
            return self._local.connection  # type: ignore[no-any-return]

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction: on disk when the block ends, undone when it raises."""
        with self._turn:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX)
            try:
                self._check_file()
                self._writer.execute("BEGIN IMMEDIATE")
                try:
                    yield self._writer
                    self._writer.execute("COMMIT")
                except BaseException:
                    if self._writer.in_transaction:  # some errors have rolled it back already
                        self._writer.execute("ROLLBACK")
                    raise
            finally:
                fcntl.flock(self._lock_file, fcntl.LOCK_UN)

    def cut(self) -> bool:
        """Bring the write-ahead log into the file and empty it: it still holds, until then, what
        was overwritten. False where somebody is in the way; try again."""
        busy: int = self.read.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        return not busy

    def _check_file(self) -> None:
        """Raise where the file that we have open is not the one that anybody else would find."""
        if _identity(self.path) != self._file:
            raise sqlite3.OperationalError(f"{self.path.name} was replaced or removed")

    def close(self) -> None:
        """Close every connection; again is no news."""
        for connection in self._opened:
            connection.close()
        if self._opened:
            os.close(self._lock_file)
        self._opened.clear()


@contextmanager
def closed(what: str) -> Iterator[None]:
    """Whatever a database has to say, it means that no basis can be looked for in it."""
    try:
        yield
    except (*FAULTS, UnicodeDecodeError) as error:  # an error's text may be damaged, too
        raise FailClosed(f"the {what} cannot be used") from error


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells the file at `path` from any other that may come to lie there."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
