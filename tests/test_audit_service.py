"""T2 and T3 on real servers: what cannot be looked up is not scored, and a no holds at once."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sectionfour.bootstrap import open_parts
from sectionfour.database import Database
from sectionfour.web import create_app

LONG = os.environ.get("AUDIT") == "long"

ACCOUNT = {
    "purpose": "security.account_risk",
    "event": {"type": "login", "occurred_at": "2026-11-23T09:00:00+08:00"},
    "transaction": None,
}
BODY = Callable[..., dict[str, Any]]
Record = Callable[[str, object], None]


def is_score(said: bytes) -> bool:
    return b"risk_score" in said


def consented(server: Any, a_notice: BODY, a_consent: BODY, members: range) -> list[str]:
    assert server.call("PUT", "/v1/notices/pn_security", a_notice(), role="consent")[0] == 200
    records = []
    for number in members:
        status, said = server.call("POST", "/v1/consents", a_consent(number), role="consent")
        assert status == 201, said
        records.append(json.loads(said)["record_id"])
    return records


# --- T2 --------------------------------------------------------------------------------------


@contextlib.contextmanager
def elsewhere(file: Path, *, other: bytes | None) -> Iterator[None]:
    """The ledger is gone, or another file lies in its place."""
    aside = file.with_name("aside")
    file.rename(aside)
    if other is not None:
        file.write_bytes(other)
    try:
        yield
    finally:
        aside.rename(file)


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Somebody else writes, and does not end."""
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@contextlib.contextmanager
def without_table(file: Path, table: str) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(file, isolation_level=None, timeout=10)) as other:
        other.execute("PRAGMA legacy_alter_table = ON")
        other.execute(f"ALTER TABLE {table} RENAME TO aside")
        try:
            yield
        finally:
            other.execute(f"ALTER TABLE aside RENAME TO {table}")


@contextlib.contextmanager
def emptied(file: Path, table: str) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(file, isolation_level=None, timeout=10)) as other:
        other.execute(f"CREATE TABLE aside AS SELECT * FROM {table}")
        other.execute(f"DELETE FROM {table}")
        try:
            yield
        finally:
            other.execute(f"INSERT INTO {table} SELECT * FROM aside")
            other.execute("DROP TABLE aside")


RUINS: dict[str, tuple[Callable[[Path], Any], int]] = {
    "removed": (lambda file: elsewhere(file, other=None), 503),
    "replaced": (lambda file: elsewhere(file, other=b""), 503),
    "garbage in its place": (lambda file: elsewhere(file, other=b"\x17" * 9000), 503),
    "locked": (locked, 503),
    "no consents table": (lambda file: without_table(file, "consent_events"), 503),
    "no notices table": (lambda file: without_table(file, "notices"), 503),
    "no assessments table": (lambda file: without_table(file, "assessments"), 503),
    "no log": (lambda file: without_table(file, "log"), 503),
    "notices cut": (lambda file: emptied(file, "notices"), 403),  # no notice, no consent to it
    "consents cut": (lambda file: emptied(file, "consent_events"), 403),
}


def test_a_server_whose_ledger_is_lost_scores_nobody(
    a_server: Any, a_request: BODY, a_notice: BODY, a_consent: BODY, record_property: Record
) -> None:
    """Gone, replaced, locked, without a table, or emptied: under two running workers."""
    calls, scored = 0, 0
    with a_server() as server:
        consented(server, a_notice, a_consent, range(1, 4))
        ledger = server.home / "ledger.db"

        def ask(name: str, number: int) -> tuple[int, bytes]:
            body = a_request(number, event_id=f"{name}_{number}", **ACCOUNT)
            found: tuple[int, bytes] = server.call("POST", "/v1/assessments", body, role="checkout")
            return found

        for name, (ruin, status) in RUINS.items():
            assert ask(f"before {name}", 1)[0] == 200
            with ruin(ledger):
                for number in [1, 2, 3] * (1 if name == "locked" else 3):
                    found, said = ask(f"{name} {calls}", number)
                    calls += 1
                    scored += is_score(said)
                    assert found == status, (name, found, said)
            assert ask(f"after {name}", 1)[0] == 200, name
    assert scored == 0
    record_property("calls on a lost ledger", calls)
    record_property("scored", scored)


@pytest.mark.parametrize("how", ["garbage", "cut", "cut to nothing"])
def test_a_service_does_not_start_on_a_ruined_ledger(
    app: Any, client: Any, settings: Any, a_request: BODY, a_consent: BODY, notice: Any, how: str
) -> None:
    for number in range(40):
        assert client("consent").post("/v1/consents", json=a_consent(number)).status_code == 201
    assert client("checkout").post("/v1/assessments", json=a_request(1, **ACCOUNT)).status_code
    app.extensions["sectionfour"].close()
    file = settings.home / "ledger.db"
    size = file.stat().st_size
    if how == "garbage":
        file.write_bytes(random.Random(2).randbytes(size))
    else:
        os.truncate(file, 0 if how == "cut to nothing" else size // 3)
    other = None
    try:
        other = create_app(settings)
    except Exception as error:
        assert type(error).__name__ == "FailClosed", error  # noqa: PT017
        return
    # A ledger that was cut to nothing is a new one: it knows no key, so that nobody is answered.
    made = other.test_client()
    answer = made.post("/v1/assessments", json=a_request(2, **ACCOUNT))
    assert answer.status_code in (401, 503)
    assert not is_score(answer.get_data())
    other.extensions["sectionfour"].close()


def test_another_key_opens_nothing(
    a_server: Any, a_request: BODY, a_notice: BODY, a_consent: BODY
) -> None:
    with a_server() as server:
        consented(server, a_notice, a_consent, range(1, 2))
        server.stop()
        kek = base64.b64encode(b"w" * 32).decode()
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "sectionfour.cli",
                "serve",
                "--bind",
                f"127.0.0.1:{server.port}",
            ],
            env=server.environment | {"SECTIONFOUR_KEK": kek},
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode != 0
        assert b"another key-encryption key" in done.stderr
        server.start()
        body = a_request(1, **ACCOUNT)
        assert server.call("POST", "/v1/assessments", body, role="checkout")[0] == 200


def test_a_clock_off_by_a_day_brings_no_consent_to_life(
    a_server: Any, a_request: BODY, a_notice: BODY, a_consent: BODY, tmp_path: Path
) -> None:
    """Ahead, what is about to end has ended; set back again, it has ended all the same."""
    clock = tmp_path / "clock"
    now = datetime.now(UTC)
    calls = 0

    def set_to(**off: float) -> None:
        fresh = tmp_path / "fresh"
        fresh.write_text((now + timedelta(**off)).isoformat())
        fresh.replace(clock)

    set_to()
    with a_server(clock=str(clock)) as server:

        def ask(number: int) -> tuple[int, bytes]:
            nonlocal calls
            calls += 1
            body = a_request(number, event_id=f"clock_{calls}", **ACCOUNT)
            found: tuple[int, bytes] = server.call("POST", "/v1/assessments", body, role="checkout")
            return found

        consented(server, a_notice, a_consent, range(1, 2))
        event_time = (now - timedelta(hours=1)).isoformat()
        short = {"event_time": event_time, "validity_duration": "PT13H"}
        assert server.call("POST", "/v1/consents", a_consent(2, **short), role="consent")[0] == 201
        record = server.call("POST", "/v1/consents", a_consent(3), role="consent")[1]
        path = f"/v1/consents/{json.loads(record)['record_id']}/withdraw"
        assert server.call("POST", path, role="consent")[0] == 200
        set_to(minutes=1)
        assert [ask(number)[0] for number in (1, 2, 3)] == [200, 200, 403]
        set_to(days=1)
        assert [ask(number)[0] for number in (1, 2, 3) * 8] == [200, 403, 403] * 8
        for back in (0, -1):  # the workers that are up, and then others
            set_to(days=back)
            assert [ask(number)[0] for number in (1, 2, 3) * 4] == [200, 403, 403] * 4
        server.stop()
        server.start()
        assert [ask(number)[0] for number in (1, 2, 3) * 4] == [200, 403, 403] * 4


def test_the_time_of_a_home_goes_on_from_what_is_on_record(settings: Any, parts: Any) -> None:
    later = parts.clock() + 86_400_000_000
    with parts.ledger.transaction() as connection:
        connection.execute(
            "INSERT INTO events (event_id, at, purpose, type, occurred_at, permitted)"
            " VALUES ('e', ?, 'security.account_risk', 'login', 0, 0)",
            (later,),
        )
    parts.close()
    again = open_parts(settings)
    assert again.clock() == later
    again.close()


# --- T3 --------------------------------------------------------------------------------------


def test_a_withdrawal_holds_for_the_next_call_on_each_of_four_processes(
    a_server: Any, a_request: BODY, a_notice: BODY, a_consent: BODY, record_property: Record
) -> None:
    trials = 10_000 if LONG else 150
    draw = random.Random(3)
    late: Counter[str] = Counter()
    with a_server(workers=4) as server:
        consented(server, a_notice, a_consent, range(0))
        connections = [server.connect() for _ in range(24)]

        def ask(turn: int, which: str, connection: Any) -> bool:
            body = a_request(turn % 50, event_id=f"{turn}_{which}", **ACCOUNT)
            status, said = server.call(
                "POST", "/v1/assessments", body, role="checkout", connection=connection
            )
            assert status in (200, 403), said
            return is_score(said)

        for turn in range(trials):
            one, other = draw.sample(connections, 2)
            given = a_consent(turn % 50)
            said = server.call("POST", "/v1/consents", given, role="consent", connection=one)[1]
            assert ask(turn, "given", other)
            path = f"/v1/consents/{json.loads(said)['record_id']}/withdraw"
            assert server.call("POST", path, role="consent", connection=one)[0] == 200
            late["same"] += ask(turn, "same", one)
            for place, connection in enumerate(draw.sample(connections, 2)):
                late["other"] += ask(turn, f"other {place}", connection)
        for connection in connections:
            connection.close()
        assert len(server.workers()) == 4
    assert late == {"same": 0, "other": 0}
    record_property("withdrawals", trials)
    record_property("processes", 4)
    record_property("scored after the acknowledgement", sum(late.values()))


def test_a_ledger_replaced_while_a_thread_connects_keeps_what_is_not_in_its_file_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite deletes the write-ahead log beside an empty file, and the log there was ours."""
    file = tmp_path / "ledger.db"
    database = Database(file, "CREATE TABLE t (x)", version=1)
    with database.write() as connection:
        connection.execute("INSERT INTO t VALUES (7)")
    log = file.with_name("ledger.db-wal")
    before = log.stat().st_ino, log.read_bytes()
    connect, seen = sqlite3.connect, []

    def read() -> None:
        try:
            seen.append(database.read.execute("SELECT x FROM t").fetchall())
        except sqlite3.Error as error:
            seen.append(type(error))

    aside = file.with_name("kept")

    def replaced_first(*given: Any, **named: Any) -> sqlite3.Connection:
        file.rename(aside)  # after the look at the file, before its opening
        file.write_bytes(b"")
        return connect(*given, **named)

    monkeypatch.setattr(sqlite3, "connect", replaced_first)
    try:
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    finally:
        monkeypatch.setattr(sqlite3, "connect", connect)
        aside.rename(file)
    assert seen == [sqlite3.OperationalError]
    assert (log.stat().st_ino, log.read_bytes()) == before
    assert database.read.execute("SELECT x FROM t").fetchall() == [(7,)]
    database.close()
