"""The one way in which we open SQLite: WAL, foreign keys, fsync before a commit is acknowledged.

Writers queue on a file lock, first come first served: SQLite's own busy handler sleeps and polls,
which costs a checkout tens of milliseconds as soon as two worker processes write.

A commit is put on disk after that lock is let go, so that the next writer need not wait for the
disk: SQLite leaves its write-ahead log unflushed (NORMAL), and whoever committed flushes it. One
flush serves all who committed before it began. Others may see a commit that is not on disk yet;
but whatever they commit upon it comes later in the same log, and is flushed with it. Who answers by
what was read alone, and commits nothing, calls `flush` first.
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


#: Flushes what a file holds, not when it was written to; where there is no such call, both.
_flush = getattr(os, "fdatasync", os.fsync)


class Database:
    """A SQLite file: a reading connection a thread, one writing connection a process.

    Reads see the newest commit of any process: no statement is left open between calls.
    `synchronous`: FULL, a commit is on disk when `write` returns; NORMAL, a power cut may lose it;
    OFF, and a power cut may ruin the file.
    """

    def __init__(self, path: Path, schema: str, *, version: int, synchronous: str = "FULL") -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = path
        self._pragma = "OFF" if synchronous == "OFF" else "NORMAL"
        self._flushes = synchronous == "FULL"
        self._local = threading.local()
        self._turn = threading.RLock()
        self._lock_file = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._log_file: int | None = None
        self._commits = self._flushed = 0
        self._flushing = threading.Lock()
        self._lost = False
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
        connection.execute(f"PRAGMA synchronous = {self._pragma}")
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
        self._check_disk()
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
                self._check_disk()
                self._writer.execute("BEGIN IMMEDIATE")
                try:
                    yield self._writer
                    self._writer.execute("COMMIT")
                except BaseException:
                    if self._writer.in_transaction:  # some errors have rolled it back already
                        self._writer.execute("ROLLBACK")
                    raise
                self._commits += 1
                mine = self._commits
            finally:
                fcntl.flock(self._lock_file, fcntl.LOCK_UN)
        if self._flushes:
            self._flush(mine)

    def flush(self) -> None:
        """Return once all that could be read before this call is on disk, whoever wrote it, in the
        file that anybody else would find."""
        self._check_file()
        if self._flushes:
            with self._turn:
                self._commits += 1
                mine = self._commits
            self._flush(mine)

    def _flush(self, mine: int) -> None:
        """Return once the commit of this number is on disk. Whoever comes while another flushes
        waits for it, and of those who have waited the first flushes for all."""
        with self._flushing:
            if self._flushed >= mine:
                return
            upto = self._commits
            try:
                if self._log_file is None:  # by now it is there, and stays while the file is open
                    self._log_file = os.open(f"{self.path}-wal", os.O_RDONLY | os.O_CLOEXEC)
                _flush(self._log_file)
            except OSError as error:
                # What the kernel could not write it may forget, and a second flush would succeed.
                self._lost = True
                raise sqlite3.OperationalError("the disk does not take the log") from error
            self._flushed = upto

    def cut(self) -> bool:
        """Bring the write-ahead log into the file and empty it: it still holds, until then, what
        was overwritten. False where somebody is in the way; try again."""
        busy: int = self.read.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        return not busy

    def _check_disk(self) -> None:
        """Raise once a flush has failed: what is read may not be on disk, and never get there."""
        if self._lost:
            raise sqlite3.OperationalError("the disk has failed: open the file anew")

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
            if self._log_file is not None:
                os.close(self._log_file)
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
