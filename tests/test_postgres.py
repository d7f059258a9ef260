"""The ledger on PostgreSQL: what a file does not have, and what both backends have in common."""

from __future__ import annotations

import base64
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from sectionfour import bootstrap
from sectionfour.database import Clash, Fault
from sectionfour.domain import Label, Leaf
from sectionfour.errors import FailClosed, SettingsError
from sectionfour.parts import Parts
from sectionfour.privacy.exceptions import Document, Grant, Scope
from sectionfour.settings import Settings
from sectionfour.stores import open_ledger
from sectionfour.stores.ledger.rooms import Ledger
from sectionfour.verify import verify
from sectionfour.web import create_app

independent = runpy.run_path(str(Path(__file__).with_name("independent_verifier.py")))["verify"]
LEAF = Leaf("label", "lb_1", b"{}")

Url = Callable[[Path], str]


def a_label(name: str = "lb_1", **changes: Any) -> Label:
    return Label(
        **({"label_id": name, "label": "chargeback", "source": "x", "at": 1, "known_at": 1}
           | changes))  # fmt: skip


def a_grant(name: str, *, max_uses: int) -> Grant:
    everything = {"categories": {"device"}, "purposes": {"p"}, "operations": {"score"}}
    scope = Scope(**{of: frozenset(what) for of, what in everything.items()},
                  sources=frozenset({"first_party"}), members=frozenset())  # fmt: skip
    return Grant(
        grant_id=name, exception=4, documents=(Document(kind="incident", ref="1"),),
        necessity="so that the test has one", scope=scope, not_before=0, expires_at=10,
        max_uses=max_uses, requested_by="k1", requested_at=0, state="live",
        approved_by=("k2", "k3"), live_at=1,
    )  # fmt: skip


def run(url: str, *statements: str) -> list[Any]:
    """Run statements as somebody would who comes by another way; return what the last has found."""
    with psycopg.connect(url, autocommit=True) as connection:
        for sql in statements:
            cursor = connection.execute(sql.encode())
        return cursor.fetchall() if cursor.description else []


# --- one walk, and what `verify` sees --------------------------------------------------------


def test_from_a_consent_to_an_erasure_over_http(
    a_server: Any,
    postgres: Url,
    tmp_path: Path,
    a_request: Callable[..., dict[str, Any]],
    a_consent: Callable[..., dict[str, Any]],
    a_notice: Callable[..., dict[str, Any]],
) -> None:
    url = postgres(tmp_path)
    with a_server(ledger=url) as server:

        def call(role: str, method: str, path: str, body: Any = None) -> Any:
            status, said = server.call(method, path, body, role=role)
            assert status in (200, 201, 202), said
            return json.loads(said)

        def asked(name: str) -> Any:
            body = a_request(event_id=name, location=None)
            return call("checkout", "POST", "/v1/assessments", body)

        call("consent", "PUT", "/v1/notices/pn_security", a_notice())
        usual = ["member.required", "member.optional", "order", "payment", "consignee", "device"]
        said = a_consent(categories=[*usual, "log"])
        record = call("consent", "POST", "/v1/consents", said)["record_id"]
        scored = asked("evt_1")
        assert scored["status"] == "scored"
        receipt = call("privacy", "GET", f"/v1/receipts/{scored['assessment_id']}")
        body = base64.b64decode(receipt["leaf"])
        assert independent(receipt["vkey"], body, receipt["proof"])
        call("consent", "POST", f"/v1/consents/{record}/withdraw")
        masked = asked("evt_2")
        assert masked["status"] == "scored_masked"
        assert "member.optional" in {category["category"] for category in masked["masked"]}
        assert len(run(url, "SELECT * FROM events WHERE member IS NOT NULL")) == 2
        case = call(
            "privacy", "POST", "/v1/members/raw-member-1/erasure", {"trigger": "cancellation"}
        )
        assert case["erasure_id"]
        assert run(url, "SELECT 1 FROM events WHERE member IS NOT NULL") == []
        assert run(url, "SELECT 1 FROM assessments WHERE subject IS NOT NULL") == []
        verified = subprocess.run(
            [sys.executable, "-m", "sectionfour.cli", "verify"],
            env=server.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert verified.returncode == 0, verified.stdout + verified.stderr
        assert not list(server.home.glob("ledger.db*"))


@pytest.fixture
def lived(
    app: Any,
    client: Callable[..., Any],
    parts: Parts,
    notice: Any,
    a_request: Callable[..., dict[str, Any]],
    a_consent: Callable[..., dict[str, Any]],
) -> Parts:
    consent, checkout = client("consent"), client("checkout")
    for number in (1, 2):
        assert consent.post("/v1/consents", json=a_consent(number)).status_code == 201
        answer = checkout.post("/v1/assessments", json=a_request(number))
        assert answer.status_code == 200
        label = {"event_id": f"evt_000{number}", "label": "chargeback", "source": "bank"}
        assert checkout.post("/v1/labels", json=label).status_code == 201
    app.extensions["sectionfour.notary"].extend(parts.clock())
    return parts


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    return str(getattr(request, "param", "postgres"))


@pytest.mark.sqlite
def test_what_is_changed_by_sql_is_found(lived: Parts, settings: Settings) -> None:
    assert settings.ledger is not None
    notary = bootstrap.open_notary(settings, lived)
    assert list(verify(lived, notary)) == []
    for there, back in (
        ("UPDATE events SET amount = amount + 1", "UPDATE events SET amount = amount - 1"),
        ("UPDATE assessments SET at = at + 1", "UPDATE assessments SET at = at - 1"),
        ("UPDATE log SET leaf = leaf || ' '", "UPDATE log SET leaf = rtrim(leaf, ' ')"),
        ("UPDATE labels SET label = 'legitimate'", "UPDATE labels SET label = 'chargeback'"),
        ("ALTER TABLE log RENAME TO gone", "ALTER TABLE gone RENAME TO log"),
        ("ALTER TABLE events DROP CONSTRAINT events_event_id_key",
         "ALTER TABLE events ADD CONSTRAINT events_event_id_key UNIQUE (event_id)"),
        ("DROP INDEX log_of_ref", "CREATE INDEX log_of_ref ON log (ref)"),
        ("CREATE TABLE another (x int)", "DROP TABLE another"),
        ("CREATE RULE r AS ON DELETE TO log DO INSTEAD NOTHING", "DROP RULE r ON log"),
        ("CREATE TRIGGER t BEFORE UPDATE ON log FOR EACH ROW"
         " EXECUTE FUNCTION suppress_redundant_updates_trigger()", "DROP TRIGGER t ON log"),
        ("ALTER TABLE events ENABLE ROW LEVEL SECURITY",
         "ALTER TABLE events DISABLE ROW LEVEL SECURITY"),
        ("ALTER TABLE labels ALTER settled SET DEFAULT 1",
         "ALTER TABLE labels ALTER settled SET DEFAULT 0"),
    ):  # fmt: skip
        run(settings.ledger, there)
        assert list(verify(lived, notary)), there
        run(settings.ledger, back)
    assert list(verify(lived, notary)) == []
    for sql in ("DELETE FROM labels", "DELETE FROM events", "DELETE FROM consent_events"):
        run(settings.ledger, sql)
        before = len(found := list(verify(lived, notary)))
        assert before, sql
    run(settings.ledger, "DELETE FROM log WHERE idx = (SELECT MAX(idx) FROM log)")
    assert len(list(verify(lived, notary))) > len(found)


# --- writers take turns ----------------------------------------------------------------------

APPENDS = """
import sys
from sectionfour.domain import Leaf
from sectionfour.stores import open_ledger
ledger = open_ledger(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for number in range(60):
    with ledger.transaction() as connection:
        name = f"x{sys.argv[2]}_{number}"
        ledger.log(connection, Leaf("x", name, b'{"kind":"x","x_id":"%s"}' % name.encode()))
        connection.execute("INSERT INTO notices (notice_id, version, language, text_sha256,"
            " purposes, categories, valid_from, material) VALUES (?, '1', '', '', '', '', 0, 0)",
            (name,))
    if number % 7 == 0:
        ledger.grow(50)
print("done", flush=True)
"""


@pytest.mark.parametrize("backend", ["sqlite", "postgres"], indirect=True)
@pytest.mark.sqlite
def test_of_several_processes_the_log_has_no_gap_and_one_order(
    open_at: Callable[..., Ledger], url_of: Url, tmp_path: Path
) -> None:
    path = tmp_path / "ledger.db"
    ledger = open_at(path)
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = [
        subprocess.Popen([sys.executable, "-c", APPENDS, url_of(path), str(n)], **pipes)
        for n in range(4)
    ]
    assert [worker.stdout.readline() for worker in workers] == ["ready\n"] * 4
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    assert [worker.communicate()[0] for worker in workers] == ["done\n"] * 4
    found = ledger.rows("SELECT idx, ref FROM log ORDER BY idx")
    assert [index for index, _ in found] == list(range(240))
    order = [name for (name,) in ledger.rows("SELECT notice_id FROM notices ORDER BY seq")]
    assert order == [name for _, name in found]
    while ledger.grow(1000):
        pass
    assert len(ledger.nodes(0, 0, 1000)) == 240


TAKES = """
import sys
from sectionfour.stores import open_ledger
ledger = open_ledger(sys.argv[1], synchronous="NORMAL")
print("ready", flush=True)
for line in sys.stdin:
    taken = sum(ledger.take(line.strip(), 5, "p", ["device"], subject=None, operation="score")
                for _ in range(2))
    print(taken, flush=True)
"""


@pytest.mark.parametrize("backend", ["sqlite", "postgres"], indirect=True)
@pytest.mark.sqlite
def test_of_processes_that_ask_at_once_none_overdraws_a_quota(
    open_at: Callable[..., Ledger], url_of: Url, tmp_path: Path
) -> None:
    path = tmp_path / "ledger.db"
    ledger = open_at(path)
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", TAKES, url_of(path)]
    workers = [subprocess.Popen(command, **pipes) for _ in range(4)]
    assert [worker.stdout.readline() for worker in workers] == ["ready\n"] * 4
    for number in range(60):
        name = f"xg_{number}"
        ledger.put_grant(a_grant(name, max_uses=3), LEAF)
        for worker in workers:
            worker.stdin.write(f"{name}\n")
            worker.stdin.flush()
        assert sum(int(worker.stdout.readline()) for worker in workers) == 3
        uses = ledger.rows("SELECT COUNT(*) FROM grant_uses WHERE grant_id = ?", name)
        assert uses == [(3,)]
    for worker in workers:
        worker.communicate()


HOLDS = """
import sys, time
from sectionfour.domain import Leaf
from sectionfour.stores import open_ledger
ledger = open_ledger(sys.argv[1])
with ledger.transaction() as connection:
    ledger.log(connection, Leaf("x", "never", b"{}"))
    print("holds", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("backend", ["sqlite", "postgres"], indirect=True)
@pytest.mark.sqlite
def test_who_is_killed_in_a_transaction_holds_up_nobody_and_leaves_nothing(
    open_at: Callable[..., Ledger], url_of: Url, tmp_path: Path
) -> None:
    path = tmp_path / "ledger.db"
    ledger = open_at(path)
    worker = subprocess.Popen(
        [sys.executable, "-c", HOLDS, url_of(path)], stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == "holds\n"
    threading.Timer(0.3, lambda: worker.send_signal(signal.SIGKILL)).start()
    ledger.add_label(a_label(), LEAF)  # waits its turn
    assert worker.wait() == -signal.SIGKILL
    worker.stdout.close()
    assert ledger.rows("SELECT ref FROM log") == [("lb_1",)]


# --- fail closed -----------------------------------------------------------------------------


@pytest.fixture
def database(postgres: Url, tmp_path: Path) -> Iterator[tuple[str, Callable[[bool], None]]]:
    """A database of its own: its URL, and what shuts it (all connections end) and opens it."""
    url = postgres(tmp_path)
    name = f"d_{abs(hash(tmp_path))}"
    run(url, f"CREATE DATABASE {name}")

    def reachable(wanted: bool) -> None:
        run(
            url,
            f"ALTER DATABASE {name} ALLOW_CONNECTIONS {wanted}",
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
        )

    yield url.replace("/postgres?", f"/{name}?").partition("&options")[0], reachable
    run(url, f"DROP DATABASE {name} WITH (FORCE)")


def test_out_of_reach_there_is_no_score_and_back_in_reach_there_is(
    settings: Settings,
    database: tuple[str, Callable[[bool], None]],
    a_request: Callable[..., dict[str, Any]],
) -> None:
    url, reachable = database
    app = create_app(replace(settings, ledger=url))
    parts: Parts = app.extensions["sectionfour"]
    try:
        from sectionfour.web.keys import create_key

        headers = {"Authorization": f"Bearer {create_key(parts.ledger, 'checkout', parts.clock())}"}

        def ask(number: int) -> tuple[int, Any]:
            answer = app.test_client().post(
                "/v1/assessments", json=a_request(number), headers=headers
            )
            return answer.status_code, answer.json

        assert ask(1)[0] == 200
        reachable(False)
        for _ in range(2):
            status, said = ask(2)
            assert (status, said["type"]) == (503, "/problems/fail-closed")
            assert "outcome" not in said
        assert app.test_client().get("/readyz").status_code == 503
        reachable(True)
        assert ask(2)[0] == 200
        assert ask(1)[0] == 200
        assert len(parts.ledger.rows("SELECT 1 FROM assessments")) == 2
    finally:
        parts.close()


@pytest.mark.parametrize(
    "hold",
    [
        "SELECT pg_advisory_xact_lock(4, hashtext(current_schema()))",
        "LOCK TABLE log",
        "LOCK TABLE consent_events",
    ],
)
def test_a_lock_of_somebody_else_s_is_not_waited_for_without_end(
    settings: Settings,
    postgres: Url,
    tmp_path: Path,
    a_request: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    hold: str,
) -> None:
    url = postgres(tmp_path / "held")
    monkeypatch.setattr("sectionfour.postgres.LOCKED", 1.0)
    app = create_app(replace(settings, ledger=url))
    parts: Parts = app.extensions["sectionfour"]
    try:
        from sectionfour.web.keys import create_key

        headers = {"Authorization": f"Bearer {create_key(parts.ledger, 'checkout', parts.clock())}"}

        def ask(number: int) -> tuple[int, float]:
            begun = time.monotonic()
            body = a_request(1, event_id=f"evt_{number}")
            answer = app.test_client().post("/v1/assessments", json=body, headers=headers)
            if answer.status_code == 503:
                assert answer.json["type"] == "/problems/fail-closed"
                assert "outcome" not in answer.json
            return answer.status_code, time.monotonic() - begun

        assert ask(1)[0] == 200
        with psycopg.connect(url) as other:
            other.execute(hold.encode())
            for _ in range(2):
                status, took = ask(2)
                assert status == 503
                assert took < 30  # a second, and whatever else keeps the machine busy
            other.rollback()
        assert ask(2)[0] == 200
        assert len(parts.ledger.rows("SELECT 1 FROM assessments")) == 2
    finally:
        parts.close()


def hurried(url: str) -> Ledger:
    """Return a ledger where a statement may take two seconds, but for making its tables."""
    open_ledger(url).close()
    return open_ledger(url, seconds=2)


def test_a_statement_that_takes_too_long_is_ended_and_the_room_is_freed_at_leisure(
    postgres: Url, tmp_path: Path
) -> None:
    ledger = hurried(postgres(tmp_path))
    try:
        for _ in range(2):
            with pytest.raises(FailClosed):
                ledger.rows("SELECT pg_sleep(20)")
            assert ledger.rows("SELECT 1") == [(1,)]
            assert ledger.cut()
        with ledger._database.read.unhurried():
            ledger.rows("SELECT pg_sleep(3)")
        assert ledger.rows("SHOW statement_timeout") == [("2s",)]
        assert ledger.rows("SHOW lock_timeout") == [("2s",)]
        assert ledger.rows("SHOW idle_in_transaction_session_timeout") == [("2s",)]

        def idle() -> None:
            with ledger.transaction() as connection:
                ledger.log(connection, LEAF)
                time.sleep(4)  # whoever stops here holds up every writer

        with pytest.raises(FailClosed):
            idle()
        assert ledger.add_label(a_label(), LEAF)
        assert ledger.size() == 1
    finally:
        ledger.close()


def test_limits_that_the_url_names_stay(postgres: Url, tmp_path: Path) -> None:
    ledger = open_ledger(postgres(tmp_path) + "%20-cstatement_timeout%3D7s", seconds=30)
    assert ledger.rows("SHOW statement_timeout") == [("7s",)]
    assert ledger.rows("SHOW lock_timeout") == [("10s",)]
    ledger.close()


def test_a_server_that_says_nothing_is_left(
    postgres: Url, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sectionfour.postgres.GRACE", 0.5)
    ledger = hurried(postgres(tmp_path))
    (reader,) = ledger.rows("SELECT pg_backend_pid()")[0]
    with ledger.transaction() as connection:
        (writer,) = connection.execute("SELECT pg_backend_pid()").fetchone()
    for stopped, call in (
        (reader, lambda: ledger.rows("SELECT 1")),
        (writer, lambda: ledger.add_label(a_label(), LEAF)),
    ):
        os.kill(stopped, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            with pytest.raises(FailClosed):
                call()
            assert time.monotonic() - begun < 30
        finally:
            os.kill(stopped, signal.SIGCONT)
        call()  # over another connection
    assert ledger.size() == 1
    ledger.close()


def test_of_two_threads_one_does_not_wait_for_the_other_without_end(
    postgres: Url, tmp_path: Path
) -> None:
    ledger = hurried(postgres(tmp_path))
    begun, end = threading.Event(), threading.Event()

    def hold() -> None:
        with ledger.transaction():
            begun.set()
            end.wait()

    def held() -> None:
        with pytest.raises(FailClosed):  # its session was idle for too long
            hold()

    thread = threading.Thread(target=held)
    thread.start()
    try:
        assert begun.wait(10)
        with pytest.raises(FailClosed):
            ledger.add_label(a_label(), LEAF)
    finally:
        time.sleep(3)
        end.set()
        thread.join()
    assert ledger.add_label(a_label(), LEAF)
    ledger.close()


def test_connections_that_ended_are_made_anew_and_what_was_under_way_is_undone(
    database: tuple[str, Callable[[bool], None]],
) -> None:
    url, reachable = database
    ledger = open_ledger(url)
    ledger.add_label(a_label(), LEAF)
    reachable(True)  # the server was started anew, say
    assert ledger.label("lb_1") is not None
    reachable(True)
    assert ledger.add_label(a_label("lb_2"), LEAF)

    def interrupted() -> None:
        with ledger.transaction() as connection:
            ledger.insert_labels(connection, [a_label("lb_3")])
            reachable(True)
            ledger.log(connection, LEAF)

    with pytest.raises(FailClosed):
        interrupted()
    assert ledger.label("lb_3") is None
    assert ledger.add_label(a_label("lb_3"), LEAF)
    assert ledger.size() == 3
    ledger.close()
    ledger.close()


def test_what_the_server_undoes_is_not_acknowledged(
    open_at: Callable[..., Ledger], tmp_path: Path
) -> None:
    ledger = open_at(tmp_path / "ledger.db")

    def an_error_is_passed_over() -> None:
        with ledger.transaction() as connection:
            ledger.insert_labels(connection, [a_label()])
            with pytest.raises(Clash):
                ledger.insert_labels(connection, [a_label()])

    with pytest.raises(FailClosed):
        an_error_is_passed_over()
    assert ledger.label("lb_1") is None
    with ledger.transaction() as connection:
        connection.execute("ALTER TABLE labels ADD CHECK (at < 5) NOT VALID")
        connection.execute(
            "CREATE FUNCTION no() RETURNS trigger AS 'BEGIN RAISE EXCEPTION ''no''; END'"
            " LANGUAGE plpgsql"
        )
        connection.execute(
            "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON labels INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION no()"
        )
    with pytest.raises(FailClosed):  # at the commit
        ledger.add_label(a_label(), LEAF)
    assert ledger.label("lb_1") is None
    assert ledger.size() == 0


def test_an_error_repeats_no_value(open_at: Callable[..., Ledger], tmp_path: Path) -> None:
    ledger = open_at(tmp_path / "ledger.db")
    member = b"a token of 16 by"
    ledger.add_label(a_label("lb_told", member=member), LEAF)
    with pytest.raises(FailClosed) as said, ledger.transaction() as connection:
        ledger.insert_labels(connection, [a_label("lb_told", member=member)])
    assert isinstance(said.value.__cause__, Clash)
    text = "".join(map(str, (said.value, said.value.__cause__, said.value.__cause__.args)))
    assert "lb_told" not in text
    assert member.hex() not in text
    assert said.value.__cause__.__suppress_context__


# --- how it is opened ------------------------------------------------------------------------


def test_what_is_not_a_ledger_of_ours_is_not_opened(
    postgres: Url, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres(tmp_path)
    open_ledger(url).close()
    open_ledger(url).close()
    run(url, "COMMENT ON TABLE log IS 'version 99'")
    with pytest.raises(FailClosed):
        open_ledger(url)
    run(url, "CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C'"
        " LC_CTYPE 'C'")  # fmt: skip
    with pytest.raises(SettingsError, match="UTF8"):
        open_ledger(url.replace("/postgres?", "/ascii?").partition("&options")[0])
    with pytest.raises(SettingsError) as said:
        open_ledger("postgresql://me:sesame@host/db?nonsense=1")
    assert "sesame" not in str(said.value)
    with pytest.raises(FailClosed) as closed:
        open_ledger("postgresql://me:sesame@127.0.0.1:1/db")
    assert isinstance(closed.value.__cause__, Fault)
    assert "sesame" not in str(closed.value.__cause__)
    with pytest.raises(SettingsError):
        open_ledger("mysql://host/db")
    for name in ("sectionfour.postgres", "sectionfour.stores.postgres"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(SettingsError, match=r"sectionfour\[postgres\]"):
        open_ledger(url)


def test_the_driver_is_imported_only_when_asked_for() -> None:
    command = "import sys, sectionfour.stores, sectionfour.web; print('psycopg' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", command], capture_output=True, check=True)
    assert said.stdout == b"False\n"


@pytest.mark.parametrize(("durability", "commit"), [("FULL", "on"), ("NORMAL", "off")])
def test_durability_is_the_servers(
    postgres: Url, tmp_path: Path, durability: str, commit: str
) -> None:
    ledger = open_ledger(postgres(tmp_path), synchronous=durability)
    with ledger.transaction() as connection:
        assert connection.execute("SHOW synchronous_commit").fetchone() == (commit,)
    ledger.close()


@pytest.mark.parametrize("backend", ["sqlite", "postgres"], indirect=True)
@pytest.mark.sqlite
def test_text_and_numbers_come_back_as_they_went_in(
    open_at: Callable[..., Ledger], tmp_path: Path
) -> None:
    ledger = open_at(tmp_path / "ledger.db")
    names = [
        "lb_Z",
        "lb_a",
        "lb_%s",
        "lb_?",
        "lb_:x",
        "lb_'",
        "lb_\\",
        "lb_\u00e9",
        "lb_\U0001f600",
    ]
    for at, name in enumerate(names):
        label = a_label(name, at=at - 4 + (1 << 62) * (at % 2), member=bytes(range(at, at + 16)))
        assert ledger.add_label(label, Leaf("label", name, name.encode()))
        assert ledger.label(name) == label
        assert ledger.find(name) == (at, name.encode())
    found = [name for (name,) in ledger.rows("SELECT label_id FROM labels ORDER BY label_id")]
    assert found == sorted(names)  # by code point, whatever the server's language
    assert ledger.recorded([f"label:{name}" for name in names] + ["label:lb_0", "lb_Z"]) == {
        f"label:{name}" for name in names
    }
