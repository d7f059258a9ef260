"""What was acknowledged is on disk: a power cut is played by keeping, of the files, what was there
when the last flush that has ended began."""

from __future__ import annotations

import errno
import shutil
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sectionfour import database
from sectionfour.database import Database

SCHEMA = "CREATE TABLE written (x INTEGER PRIMARY KEY)"


class Disk:
    """Stands for the flush: what is at `path` when it begins is what outlasts a power cut."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.path, self.folder, self.flushes, self.kept = path, folder, 0, folder / "none"
        self._guard = threading.Lock()

    def flush(self, _file: int) -> None:
        with self._guard:
            self.flushes += 1
            image = self.folder / str(self.flushes)
        image.mkdir()
        for name in (self.path.name, f"{self.path.name}-wal"):
            shutil.copy(self.path.with_name(name), image / name)
        time.sleep(0.003)
        self.kept = image

    def after_the_cut(self) -> set[int]:
        with sqlite3.connect(self.kept / self.path.name) as connection:
            found = {x for (x,) in connection.execute("SELECT x FROM written")}
        connection.close()
        return found


@pytest.fixture
def disk(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    disk = Disk(tmp_path / "kept.db", tmp_path / "images")
    monkeypatch.setattr(database, "_flush", disk.flush)
    return disk


def write(to: Database, x: int) -> None:
    with to.write() as connection:
        connection.execute("INSERT INTO written VALUES (?)", (x,))


def test_a_power_cut_takes_nothing_that_was_acknowledged_and_those_who_wait_share_a_flush(disk):
    ours = Database(disk.path, SCHEMA, version=1)
    before = disk.flushes
    with ThreadPoolExecutor(8) as threads:

        def written(x: int) -> bool:
            write(ours, x)
            kept = disk.kept  # may be a later one by the time that it is read: never an earlier
            return kept.exists() and x in disk.after_the_cut()

        assert all(threads.map(written, range(160)))
    assert disk.flushes - before < 120  # of 160 commits
    ours.close()


def test_a_writer_does_not_wait_for_the_flush_of_another(disk, monkeypatch):
    begun, over = threading.Event(), threading.Event()
    ours, theirs = (Database(disk.path, SCHEMA, version=1) for _ in range(2))

    def slow(_file: int) -> None:
        begun.set()
        assert over.wait(10)

    monkeypatch.setattr(database, "_flush", slow)
    thread = threading.Thread(target=write, args=(ours, 1))
    thread.start()
    assert begun.wait(10)
    monkeypatch.setattr(database, "_flush", disk.flush)
    write(theirs, 2)  # sees what is not flushed yet, and puts it on disk with its own
    assert thread.is_alive()
    assert disk.after_the_cut() == {1, 2}
    over.set()
    thread.join()
    ours.close()
    theirs.close()


def test_what_was_read_of_another_is_on_disk_once_it_is_flushed(disk, monkeypatch):
    ours, theirs = (Database(disk.path, SCHEMA, version=1) for _ in range(2))
    monkeypatch.setattr(ours, "_flush", lambda _mine: None)  # committed, and on its way to the disk
    write(ours, 1)
    assert theirs.read.execute("SELECT x FROM written").fetchall() == [(1,)]
    assert 1 not in disk.after_the_cut()
    theirs.flush()
    assert 1 in disk.after_the_cut()
    ours.close()
    theirs.close()


@pytest.mark.sqlite
def test_a_retry_is_answered_by_what_is_on_disk(client, a_request, parts, monkeypatch):
    flushed: list[int] = []
    checkout = client("checkout")
    first = checkout.post("/v1/assessments", json=a_request())
    monkeypatch.setattr(type(parts.ledger._database), "flush", lambda _: flushed.append(1))
    again = checkout.post("/v1/assessments", json=a_request())
    assert (again.data, flushed) == (first.data, [1])


def test_a_disk_that_has_failed_once_is_not_believed_again(disk, monkeypatch):
    ours = Database(disk.path, SCHEMA, version=1)
    write(ours, 1)

    def failing(_file: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(database, "_flush", failing)
    with pytest.raises(sqlite3.OperationalError, match="does not take"):
        write(ours, 2)
    monkeypatch.setattr(database, "_flush", disk.flush)
    with pytest.raises(sqlite3.OperationalError, match="open the file anew"):
        write(ours, 3)
    with pytest.raises(sqlite3.OperationalError, match="open the file anew"):
        _ = ours.read
    ours.close()
    again = Database(disk.path, SCHEMA, version=1)
    write(again, 3)
    assert 3 in disk.after_the_cut()
    again.close()


@pytest.mark.parametrize("synchronous", ["NORMAL", "OFF"])
def test_nothing_is_flushed_where_that_is_not_asked_for(disk, synchronous):
    ours = Database(disk.path, SCHEMA, version=1, synchronous=synchronous)
    write(ours, 1)
    assert not disk.flushes
    level = {"NORMAL": 1, "OFF": 0}[synchronous]
    assert ours.read.execute("PRAGMA synchronous").fetchone() == (level,)
    ours.close()
