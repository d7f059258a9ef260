"""A disk that is full: room is taken before a file is written through memory, what finds none is
refused in words, nothing of it stays, and all goes on once there is room again."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sectionfour import room
from sectionfour.bootstrap import open_parts
from sectionfour.domain import EVENT_TYPES, SECOND, Event
from sectionfour.errors import FailClosed, NotReady
from sectionfour.features.catalog import DISTINCT_CAP, ENTITIES
from sectionfour.features.online import read_and_observe
from sectionfour.jobs.upkeep import anew
from sectionfour.privacy import receipts
from sectionfour.privacy.receipts import Notary
from sectionfour.stores import lmdb as lmdb_store
from sectionfour.stores.lmdb import LmdbVelocity
from sectionfour.web.keys import create_key
from sectionfour.web.metrics import COUNTED

START = 1_700_000_000 * SECOND
pytestmark = pytest.mark.sqlite


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Return how to let the disk be full for a block."""

    @contextmanager
    def block() -> Iterator[None]:
        def refuse(*_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(room, "_take", refuse)
            yield

    return block


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LmdbVelocity]:
    store = LmdbVelocity(tmp_path / "windows")
    yield store
    store.close()


def an_event(number: int, **fields: Any) -> Event:
    given = {"type": "purchase", "purpose": "security.transaction_risk", "member": b"m" * 16}
    at = START + number
    return Event(**({"event_id": f"e{number}", "at": at, "occurred_at": at} | given | fields))


def on_disk(path: Path) -> int:
    return os.stat(path).st_blocks * 512


# --- the windows


def test_every_page_that_a_step_may_write_has_its_place_on_the_disk(store, tmp_path):
    """The largest there are: all entities, each met by as many members as are told apart."""
    most = 0
    for number in range(DISTINCT_CAP + 100):
        others = {name: f"{name:_<16}".encode()[:16] for name in ENTITIES}
        others["member"] = number.to_bytes(16)
        before = store._used()
        event = an_event(number, amount=7, type=EVENT_TYPES[number % len(EVENT_TYPES)], **others)
        assert on_disk(tmp_path / "windows" / "data.mdb") >= min(before, store._taken)
        read_and_observe(event, store)
        most = max(most, store._used() - before)
        assert on_disk(tmp_path / "windows" / "data.mdb") >= store._taken >= store._used()
    assert 0 < most < lmdb_store.ROOM / 4
    assert on_disk(tmp_path / "windows" / "lock.mdb") >= lmdb_store.LOCKS
    assert os.stat(tmp_path / "windows" / "data.mdb").st_size == 1 << 36


def writing(store: LmdbVelocity) -> dict[str, Callable[[], Any]]:
    entries = [(at, key) for at, key, _ in store.unsettled(1 << 62)]
    return {
        "step": lambda: read_and_observe(an_event(9), store),
        "load": lambda: store.load([an_event(900)]),
        "clear": store.clear,
        "empty": store.empty,
        "settle": lambda: store.settle(entries, forget=True),
        "forget": lambda: store.forget(b"m" * 16, [an_event(0)], lambda *_: []),
        "expire": lambda: store.expire(START + 10 * SECOND),
    }


@pytest.mark.parametrize("what", ["step", "load", "clear", "empty", "settle", "forget", "expire"])
def test_where_the_disk_is_full_nothing_is_written_and_later_all_is(store, full, what):
    read_and_observe(an_event(0), store)
    store._taken = 0  # as after a start, or where what was taken is used up
    held = dict(store._env.begin().cursor())
    with full(), pytest.raises(FailClosed, match="the disk is full"):
        writing(store)[what]()
    assert dict(store._env.begin().cursor()) == held
    writing(store)[what]()
    assert dict(store._env.begin().cursor()) != held


@pytest.mark.parametrize("what", ["load", "clear", "empty", "forget"])
def test_what_may_need_much_looks_whether_there_is_as_much(store, monkeypatch, what):
    for number in range(300):
        read_and_observe(an_event(number), store)
    looked: list[int] = []
    with monkeypatch.context() as patch:

        def none_left(folder: Path, wanted: int) -> None:
            looked.append(wanted)
            raise FailClosed("the disk is full")

        patch.setattr(room, "look", none_left)
        read_and_observe(an_event(300), store)  # no checkout waits for that look
        held = dict(store._env.begin().cursor())
        with pytest.raises(FailClosed, match="the disk is full"):
            writing(store)[what]()
    least = store._used() if what == "forget" else 1
    assert all(wanted >= least for wanted in looked)
    assert looked
    if what == "load":  # it knows itself not to be whole
        assert not store.fresh
    else:
        assert dict(store._env.begin().cursor()) == held


def test_a_store_opens_and_is_read_on_a_full_disk(store, full, tmp_path):
    read_and_observe(an_event(0), store)
    store.close()
    with full():
        again = LmdbVelocity(tmp_path / "windows")
        assert again.fresh
        assert read_and_observe(an_event(1), again, observe=False)[1].any()
        again.close()
        for there in (False, True):  # the file of locks, by an earlier try
            with pytest.raises(FailClosed, match="the disk is full"):
                LmdbVelocity(tmp_path / "others")
            assert (tmp_path / "others" / "data.mdb").exists() == there


# --- the service


def test_a_call_on_a_full_disk_is_refused_in_words_and_answered_when_there_is_room(
    client, a_request, parts, full
):
    checkout = client("checkout")
    parts.velocity._taken = 0
    with full():
        said = checkout.post("/v1/assessments", json=a_request())
        assert (said.status_code, said.json["type"]) == (503, "/problems/fail-closed")
        assert parts.ledger.assessed("evt_0001") is None
        assert list(parts.velocity.unsettled(1 << 62)) == []
    assert checkout.post("/v1/assessments", json=a_request()).status_code == 200
    assert parts.ledger.assessed("evt_0001") is not None


def test_a_service_on_a_full_disk_is_not_ready(client, monkeypatch):
    found = os.statvfs("/")
    left = (room.SPARE - 1) // found.f_frsize
    with monkeypatch.context() as patch:
        values = list(found)
        values[4] = left  # f_bavail
        patch.setattr(room.os, "statvfs", lambda _: os.statvfs_result(values))
        said = client().get("/readyz")
    assert (said.status_code, said.json["detail"]) == (503, "the disk is full")
    assert client().get("/readyz").status_code == 200


def test_whatever_the_machine_refuses_is_answered_503_without_its_words(
    client, a_request, parts, monkeypatch, caplog
):
    checkout = client("checkout")
    with monkeypatch.context() as patch:

        def no_handle(*_: Any) -> Any:
            raise OSError(errno.EMFILE, "too many open files", "/raw/13912345678")

        patch.setattr(parts.keys.ring.turns, "share", no_handle)
        one = checkout.post("/v1/assessments", json=a_request())
        patch.undo()
        patch.setattr(type(parts.ledger), "record", no_handle)
        line = checkout.post("/v1/assessments/batch", json=a_request())
    assert (one.status_code, one.json["type"]) == (503, "/problems/fail-closed")
    assert b'"status":503' in line.data
    for said in (one.text, line.text, caplog.text):
        assert "139123" not in said
        assert "raw" not in said
    assert checkout.post("/v1/assessments", json=a_request()).status_code == 200


def test_what_workers_count_in_has_its_room_too(service):
    files = list((service.home / "metrics").rglob("*.db"))
    assert len(files) == 4
    for file in files:
        assert on_disk(file) >= file.stat().st_size == COUNTED


# --- the witness file


def add(path, data):
    with receipts._turn(path) as file:
        receipts._append(file, data)


def test_of_a_checkpoint_that_finds_no_room_no_part_stays(tmp_path):
    file = tmp_path / "checkpoints" / "witness.txt"
    add(file, b"a" * 1_000)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_010, limit[1]))
    try:
        with pytest.raises(OSError, match=r"space|large"):
            add(file, b"b" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    add(file, b"c" * 100)
    assert file.read_bytes() == b"a" * 1_000 + b"c" * 100


def test_whoever_is_killed_leaves_the_witness_one_checkpoint_behind_at_most(
    app, parts, monkeypatch, settings
):
    """However many sign at once: `verify` takes more than one for a file that was cut."""
    notary: Notary = app.extensions["sectionfour.notary"]
    behind, append = [], receipts._append

    def slow(file, data):
        time.sleep(0.05)
        signed = parts.ledger.rows("SELECT COUNT(*) FROM checkpoints")[0][0]
        behind.append(signed - len(receipts.read_witness(settings.witness_file)))
        append(file, data)

    def sign():
        create_key(parts.ledger, "checkout", parts.clock())
        notary.extend(parts.clock())

    monkeypatch.setattr(receipts, "_append", slow)
    threads = [threading.Thread(target=sign) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(behind) > 1
    assert set(behind) == {1}


def test_a_checkpoint_that_was_not_witnessed_is_by_the_next_one(
    app, parts, client, monkeypatch, settings
):
    notary: Notary = app.extensions["sectionfour.notary"]
    client("checkout")
    with monkeypatch.context() as patch:

        def failing(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        patch.setattr(receipts.os, "fsync", failing)
        with pytest.raises(OSError, match="space"):
            notary.extend(parts.clock())
        assert settings.witness_file.read_bytes() == b""
    client("consent")
    notary.extend(parts.clock())
    assert list(notary.verify()) == []


# --- windows that are gone


def test_windows_that_were_lost_beside_a_ledger_are_no_beginning(
    app, client, a_request, parts, settings
):
    """A worker that starts anew finds an empty folder: what it serves would lack all that was."""
    checkout = client("checkout")
    assert checkout.post("/v1/assessments", json=a_request()).status_code == 200
    parts.close()
    shutil.rmtree(settings.home / "velocity")
    again = open_parts(settings)
    assert not again.velocity.fresh
    with pytest.raises(NotReady):
        read_and_observe(an_event(1), again.velocity)
    assert anew(again) == 1
    assert again.velocity.fresh
    again.close()
