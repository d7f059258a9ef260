"""`verify` finds whatever was changed: an entry, a row, a byte of the file, or all at once."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sectionfour import bootstrap
from sectionfour.database import Fault
from sectionfour.domain import Leaf
from sectionfour.errors import FailClosed
from sectionfour.features import online
from sectionfour.jobs import upkeep
from sectionfour.parts import Parts
from sectionfour.privacy import notes
from sectionfour.privacy.exceptions import Grant
from sectionfour.privacy.receipts import Notary
from sectionfour.serve import _prepare
from sectionfour.settings import Settings
from sectionfour.stores.ledger.rooms import Ledger
from sectionfour.stores.sqlite import SqliteLedger
from sectionfour.verify import verify
from sectionfour.web.keys import create_key, key_id, revoke_key

LOGIN = {"type": "login", "occurred_at": "2026-11-23T09:00:00+08:00"}


@pytest.fixture
def lived(
    client: Callable[..., Any],
    parts: Parts,
    settings: Settings,
    notice: dict[str, Any],
    a_request: Callable[..., dict[str, Any]],
    a_consent: Callable[..., dict[str, Any]],
    a_notice: Callable[..., dict[str, Any]],
    an_exception: Callable[..., dict[str, Any]],
) -> Parts:
    """A small ledger that has seen some of everything, its entries signed for."""
    consents, checkout, privacy = map(client, ("consent", "checkout", "privacy"))
    other = client("privacy", "duty_manager")

    def post(who: Any, path: str, body: Any, *expected: int) -> Any:
        answer = who.post(path, json=body)
        assert answer.status_code in expected, answer.json
        return answer.json

    for number in (2, 3, 4):
        record = post(consents, "/v1/consents", a_consent(number), 201)["record_id"]
    consents.put("/v1/notices/pn_security", json=a_notice(version="2"))
    first = post(checkout, "/v1/assessments", a_request(2), 200)
    notary(settings, parts).extend(parts.clock())
    post(checkout, "/v1/assessments", a_request(3), 200)
    post(checkout, "/v1/assessments", a_request(5, mode="evaluate"), 200)
    account = {"purpose": "security.account_risk", "transaction": None, "event": LOGIN}
    post(checkout, "/v1/assessments", a_request(6, **account), 403)
    guest = {"purpose": "security.incident_detection", "transaction": None, "member": None}
    post(checkout, "/v1/assessments", a_request(7, **guest), 200)
    grant = post(privacy, "/v1/exceptions", an_exception(), 201)["grant_id"]
    post(other, f"/v1/exceptions/{grant}/approve", None, 200)
    post(checkout, "/v1/assessments", a_request(1, **account), 200)  # on the grant
    revoked = post(privacy, "/v1/exceptions", an_exception(), 201)["grant_id"]
    post(other, f"/v1/exceptions/{revoked}/revoke", None, 200)
    post(consents, f"/v1/consents/{record}/withdraw", None, 200)
    label = {"event_id": "evt_0002", "label": "chargeback", "source": "bank", "label_id": "lb_1"}
    post(checkout, "/v1/labels", label, 201)
    post(checkout, f"/v1/assessments/{first['assessment_id']}/review", None, 201)
    ended = create_key(parts.ledger, "trainer", parts.clock())
    assert revoke_key(parts.ledger, key_id(ended), parts.clock())
    notary(settings, parts).extend(parts.clock())
    parts.ledger.cut()
    return parts


def notary(settings: Settings, parts: Parts, ledger: Ledger | None = None) -> Notary:
    key = parts.keys.ring.signing("log")
    return Notary(ledger or parts.ledger, key, settings.origin, settings.witness_file)


@pytest.fixture
def faults(lived: Parts, settings: Settings) -> Callable[[], list[str]]:
    """Return how to ask `verify`; it found nothing before anything was changed."""

    def ask() -> list[str]:
        return list(verify(lived, notary(settings, lived)))

    assert ask() == []
    return ask


def change(parts: Parts, sql: str, *values: Any) -> None:
    with parts.ledger.transaction() as connection:
        at_will(connection)
        connection.execute(sql, values)


def at_will(connection: Any) -> None:
    """What refers to a row is not looked at in this transaction."""
    sqlite = isinstance(connection, sqlite3.Connection)
    word = (
        "PRAGMA defer_foreign_keys = ON"
        if sqlite
        else "SET LOCAL session_replication_role = replica"
    )
    connection.execute(word)


# --- entries of the log ----------------------------------------------------------------------


def renumber(parts: Parts, start: int, by: int) -> None:
    with parts.ledger.transaction() as connection:
        connection.execute("UPDATE log SET idx = -idx - 1 WHERE idx >= ?", (start,))
        connection.execute("UPDATE log SET idx = -idx - 1 + ? WHERE idx < 0", (by,))


def drop(parts: Parts, place: int) -> None:
    change(parts, "DELETE FROM log WHERE idx = ?", place)
    renumber(parts, place, -1)


def add(parts: Parts, place: int) -> None:
    renumber(parts, place, 1)
    change(parts, "INSERT INTO log SELECT ?, kind, ref, leaf FROM log WHERE idx = 1", place)


def swap(parts: Parts, place: int) -> None:
    with parts.ledger.transaction() as connection:
        for old, new in ((place, -1), (place + 1, place), (-1, place + 1)):
            connection.execute("UPDATE log SET idx = ? WHERE idx = ?", (new, old))


def cut(parts: Parts, place: int) -> None:
    change(parts, "DELETE FROM log WHERE idx >= ?", place)


def leave_a_gap(parts: Parts, place: int) -> None:
    change(parts, "DELETE FROM log WHERE idx = ?", place)


#: (part, field, value): what a caller may send, at the borders.
BORDERS = [
    *(("log", "seconds_on_page", value) for value in (-0.0, 0.0, 5e-324, 0.1, 7, 1e7)),
    *(("log", "page_views", value) for value in (0, 1_000_000)),
    *(("transaction", "amount", value) for value in (0, 10**12)),
    *(("location", "gps", {"lat": a, "lon": o}) for a, o in ((-0.0, -0.0), (90, 180), (-90, -180))),
    ("event", "occurred_at", "0001-01-01T00:00:00+14:00"),
    ("event", "occurred_at", "9999-12-31T23:59:59.999999-12:00"),
    ("member", "registered_at", "0001-01-01T00:00:00Z"),
    ("member", "registered_at", "9999-12-31T23:59:59.999999Z"),
]


def test_whatever_a_caller_may_send_is_kept_as_the_receipt_was_made_for_it(
    client, lived, faults, a_request, a_consent
):
    """A database may keep a value as another that is equal to it, like a zero without its sign."""
    consents, checkout = client("consent"), client("checkout")
    named = a_consent(2, categories=[*a_consent()["categories"], "location.gps"])
    named["notice"]["version"] = "2"
    assert consents.post("/v1/consents", json=named).status_code == 201
    for number, (part, field, value) in enumerate(BORDERS):
        body = a_request(2, event_id=f"border_{number}")
        body[part][field] = value
        body["device"]["permissions"] = ["location.ip", "location.gps"]
        answer = checkout.post("/v1/assessments", json=body)
        assert answer.status_code == 200, answer.json
        assert {"log", "location.gps"} <= {basis["category"] for basis in answer.json["basis"]}
    assert faults() == []


@pytest.mark.parametrize("ruin", [drop, add, swap, cut, leave_a_gap])
def test_an_entry_dropped_added_swapped_or_cut_is_found_wherever_it_is(
    lived: Parts, faults: Callable[[], list[str]], ruin: Callable[[Parts, int], None]
) -> None:
    kept = lived.ledger.rows("SELECT * FROM log")
    for place in range(len(kept) - 1):
        ruin(lived, place)
        assert faults(), f"{ruin.__name__} at {place} went unseen"
        change(lived, "DELETE FROM log")
        with lived.ledger.transaction() as connection:
            connection.executemany("INSERT INTO log VALUES (?, ?, ?, ?)", kept)
        assert faults() == []


def test_every_byte_of_every_entry_counts(lived: Parts, faults: Callable[[], list[str]]) -> None:
    draw = random.Random(4)
    for index, leaf in lived.ledger.rows("SELECT idx, leaf FROM log"):
        for place in draw.sample(range(len(leaf)), 6):
            changed = bytearray(leaf)
            changed[place] ^= 1 << draw.randrange(8)
            change(lived, "UPDATE log SET leaf = ? WHERE idx = ?", bytes(changed), index)
            assert any("entries are not those" in fault for fault in faults())
        change(lived, "UPDATE log SET leaf = ? WHERE idx = ?", leaf, index)
    assert faults() == []


def test_an_entry_appended_by_hand_is_found_before_any_checkpoint_covers_it(
    lived: Parts, faults: Callable[[], list[str]]
) -> None:
    leaf = lived.ledger.rows("SELECT leaf FROM log WHERE kind = 'assessment'")[0][0]
    forged = msgspec.json.decode(leaf) | {"receipt_id": "as_forged"}
    for kind, ref, body in (
        ("assessment", "as_forged", forged),
        ("consent", "cr_forged", {"kind": "consent", "record_id": "cr_forged"}),
        ("label", "lb_forged", {"kind": "label", "label_id": "lb_forged"}),
        ("else", "x", {"kind": "else"}),
        ("assessment", "x", {"kind": "else", "else_id": "x"}),
    ):
        with lived.ledger.transaction() as connection:
            lived.ledger.log(connection, Leaf(kind, ref, msgspec.json.encode(body)))
        assert faults(), kind
        change(lived, "DELETE FROM log WHERE ref = ?", ref)
    assert faults() == []


@pytest.mark.sqlite
def test_an_older_copy_of_the_ledger_is_found_by_the_witness(
    app: Any, client: Any, parts: Parts, settings: Settings, a_request: Any, notice: Any
) -> None:
    """The witness is on another medium: it is not rolled back with the ledger."""
    checkout, at = client("checkout"), parts.clock
    assert checkout.post("/v1/assessments", json=a_request(1)).status_code == 200
    notary(settings, parts).extend(at())
    parts.ledger.cut()
    older = settings.home.parent / "older.db"
    shutil.copy(settings.home / "ledger.db", older)
    assert checkout.post("/v1/assessments", json=a_request(2)).status_code == 200
    notary(settings, parts).extend(at())
    assert list(verify(parts, notary(settings, parts))) == []
    parts.close()

    for suffix in ("-wal", "-shm"):
        (settings.home / f"ledger.db{suffix}").unlink(missing_ok=True)
    shutil.copy(older, settings.home / "ledger.db")
    again = bootstrap.open_parts(settings)
    found = list(verify(again, notary(settings, again)))
    assert any("cut or rolled back" in fault for fault in found)
    # And once it has grown over the place, it is another log.
    with again.ledger.transaction() as connection:
        for number in range(9):
            again.ledger.log(connection, Leaf("x", str(number), b"{}"))
    notary(settings, again).extend(at())
    found = list(verify(again, notary(settings, again)))
    assert any("not those that the witness" in fault for fault in found)
    again.close()


@pytest.mark.sqlite
def test_a_service_starts_on_an_older_ledger_only_where_it_is_told_to(
    lived: Parts, settings: Settings, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    signs = notary(settings, lived)
    signs.extend(lived.clock())
    lived.ledger.cut()
    shutil.copy(settings.home / "ledger.db", tmp_path / "ledger.db")
    lived.ledger.add_entry(Leaf("label", "lb_more", b"{}"))
    lived.ledger.add_entry(Leaf("label", "lb_most", b"{}"))
    signs.extend(lived.clock())
    assert signs.lacking() == 0
    lived.close()
    _prepare(settings)
    assert "older" not in capsys.readouterr().err
    for name in ("ledger.db-wal", "ledger.db-shm"):
        (settings.home / name).unlink(missing_ok=True)
    shutil.copy(tmp_path / "ledger.db", settings.home / "ledger.db")
    with pytest.raises(SystemExit) as ended:
        _prepare(settings)
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert "the ledger is an older one: 2 witnessed entries are not in it" in told
    assert "`serve --older-ledger`" in told
    _prepare(settings, older_ledger=True)
    assert "2 witnessed entries are not in it, and do not count" in capsys.readouterr().err


def test_a_checkpoint_signed_again_under_another_key_is_found(
    lived: Parts, settings: Settings, faults: Callable[[], list[str]]
) -> None:
    size, note = lived.ledger.checkpoints()[-1]
    checkpoint = notes.open_note(note, settings.origin, lived.keys.ring.signing("log").public_key())
    text = notes.checkpoint_text(settings.origin, size, checkpoint.root)
    for key, name in (
        (Ed25519PrivateKey.generate(), settings.origin),
        (lived.keys.ring.signing("log"), "another.example/log"),
    ):
        change(lived, "UPDATE checkpoints SET note = ? WHERE size = ?",
               notes.sign(text, name, key), size)  # fmt: skip
        assert any("not genuine" in fault for fault in faults())


def test_a_log_written_and_signed_anew_under_another_key_is_found(
    lived: Parts, settings: Settings, faults: Callable[[], list[str]]
) -> None:
    """Whoever has the ledger, and not the key nor the witness, has it all to no avail."""
    swap(lived, 3)
    change(lived, "DELETE FROM nodes")
    change(lived, "DELETE FROM checkpoints")
    Notary(
        lived.ledger, Ed25519PrivateKey.generate(), settings.origin, settings.home / "forged"
    ).extend(lived.clock())
    found = faults()
    assert any("of the ledger is not genuine" in fault for fault in found)
    assert any("not those that the witness" in fault for fault in found)


def test_a_witness_that_was_cut_or_emptied_or_changed_is_found(
    lived: Parts, settings: Settings, faults: Callable[[], list[str]]
) -> None:
    notary(settings, lived).extend(lived.clock())
    file = settings.witness_file
    whole = file.read_bytes()
    draw = random.Random(4)
    for place in draw.sample(range(len(whole) - 1), 60):
        changed = bytearray(whole)
        changed[place] ^= 1 << draw.randrange(8)
        file.write_bytes(changed)
        assert faults(), f"byte {place} of the witness: {bytes(changed)!r}"
    file.write_bytes(b"")
    assert any("the witness file has no checkpoint" in fault for fault in faults())
    file.unlink()
    assert any("the witness file has no checkpoint" in fault for fault in faults())
    # One behind is what a process killed between the two leaves.
    for number in range(2):
        with lived.ledger.transaction() as connection:
            body = {"kind": "x", "x_id": f"x{number}"}
            lived.ledger.log(connection, Leaf("x", f"x{number}", msgspec.json.encode(body)))
        file.write_bytes(whole)
        lived.ledger.extend(lived.clock(), notary(settings, lived)._note)
        assert bool(faults()) == bool(number)


def test_checkpoints_and_tree_in_the_ledger_are_checked_too(
    lived: Parts, faults: Callable[[], list[str]]
) -> None:
    for sql in (
        "DELETE FROM checkpoints WHERE size = (SELECT MIN(size) FROM checkpoints)",
        "UPDATE checkpoints SET size = size + 1 WHERE size = (SELECT MIN(size) FROM checkpoints)",
        "DELETE FROM nodes WHERE level = 1 AND idx = 0",
        f"UPDATE nodes SET hash = x'{'00' * 32}' WHERE level = 2 AND idx = 1",
        "DELETE FROM checkpoints",
    ):
        kept = [lived.ledger.rows(f"SELECT * FROM {table}") for table in ("checkpoints", "nodes")]
        change(lived, sql)
        assert faults(), sql
        for table, rows in zip(("checkpoints", "nodes"), kept, strict=True):
            change(lived, f"DELETE FROM {table}")
            with lived.ledger.transaction() as connection:
                connection.executemany(f"INSERT INTO {table} VALUES (?, ?, ?)", rows)
    assert faults() == []


# --- rows ------------------------------------------------------------------------------------

#: What nothing in the log vouches for, and why.
UNVOUCHED = {
    ("assessments", "seq"): "a number of the ledger's own; its order is checked",
    ("consent_events", "seq"): "a number of the ledger's own; its order is checked",
    ("notices", "seq"): "a number of the ledger's own",
    ("grant_uses", "at"): "uses are counted against receipts, not timed",
    ("grant_uses", "subject"): "whose a use is, its receipt says; of training there is none",
    ("labels", "settled"): "a mark of upkeep",
    ("reviews", "state"): "the entry is of the asking; cases come later",
    ("checkpoints", "at"): "a checkpoint's text has no time",
}
TABLES = (
    "assessments",
    "events",
    "consent_events",
    "notices",
    "grants",
    "grant_uses",
    "labels",
    "reviews",
    "api_keys",
    "log",
    "nodes",
    "checkpoints",
)


def flipped(value: Any, draw: random.Random) -> Any:
    """Return a value of the same type with one bit or letter changed."""
    if isinstance(value, bytes) and value:
        changed = bytearray(value)
        changed[draw.randrange(len(value))] ^= 1 << draw.randrange(8)
        return bytes(changed)
    if isinstance(value, str) and value:
        place = draw.randrange(len(value))
        other = draw.choice([c for c in "0aZ-" if c != value[place]])
        return value[:place] + other + value[place + 1 :]
    if isinstance(value, float):
        return value + 0.5
    if isinstance(value, int):
        return value ^ (1 << draw.randrange(3))
    return b"x" if value is None else None


def columns_of(ledger: Ledger, table: str) -> list[str]:
    found = ledger._database.read.execute(f"SELECT * FROM {table} LIMIT 0")
    return [column[0] for column in found.description]


def vouched(table: str, columns: list[str], row: tuple[Any, ...]) -> list[Any]:
    """Return of a row what its entry vouches for."""
    found = []
    for column, value in zip(columns, row, strict=True):
        if (table, column) == ("grants", "body"):
            value = msgspec.json.decode(value, type=Grant)
        elif (table, column) == ("notices", "material"):  # 5 is as true as 1
            value = bool(value)
        elif (table, column) == ("api_keys", "hash"):  # with other bytes the key opens nothing
            value = value[:8]
        if (table, column) not in UNVOUCHED:
            found.append(value)
    return found


def rewrite(parts: Parts, table: str, rows: list[tuple[Any, ...]]) -> None:
    with parts.ledger.transaction() as connection:
        at_will(connection)
        connection.execute(f"DELETE FROM {table}")
        places = ", ".join("?" * len(rows[0]))
        connection.executemany(f"INSERT INTO {table} VALUES ({places})", rows)


@pytest.mark.parametrize("table", TABLES)
def test_one_change_in_any_cell_is_found(
    lived: Parts, faults: Callable[[], list[str]], table: str
) -> None:
    draw = random.Random(4)
    columns = columns_of(lived.ledger, table)
    rows = lived.ledger.rows(f"SELECT * FROM {table}")
    assert rows
    tried = 0
    for place, row in enumerate(rows):
        for column, value in enumerate(row):
            for _ in range(4 if isinstance(value, bytes) and len(value) > 40 else 1):
                changed = (*row[:column], flipped(value, draw), *row[column + 1 :])
                try:
                    rewrite(lived, table, [*rows[:place], changed, *rows[place + 1 :]])
                except FailClosed as error:
                    if not isinstance(error.__cause__, sqlite3.IntegrityError | Fault):
                        raise
                    continue  # a constraint of the table does not let it in
                tried += 1
                if not faults():
                    assert vouched(table, columns, changed) == vouched(table, columns, row)
    rewrite(lived, table, rows)
    assert faults() == []
    assert tried >= 3


@pytest.mark.parametrize("table", [name for name in TABLES if name != "grant_uses"])
def test_a_row_that_is_gone_is_found(
    lived: Parts, faults: Callable[[], list[str]], table: str
) -> None:
    rows = lived.ledger.rows(f"SELECT * FROM {table}")
    for place in range(len(rows)):
        left = [*rows[:place], *rows[place + 1 :]]
        if table == "grants":
            change(lived, "DELETE FROM grant_uses")
        if left:
            rewrite(lived, table, left)
        else:
            change(lived, f"DELETE FROM {table}")
        assert faults(), (table, place)
    rewrite(lived, table, rows)


def test_a_use_of_a_grant_that_is_gone_is_found(
    lived: Parts, faults: Callable[[], list[str]]
) -> None:
    change(lived, "DELETE FROM grant_uses")
    assert any("fewer such uses" in fault for fault in faults())


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO assessments SELECT 999, 'as_x', 'evt_x', asked, at, subject, purpose, status,"
        " http, answer, vector, nonce, key_id FROM assessments LIMIT 1",
        "INSERT INTO consent_events SELECT 999, subject, record_id, purpose, categories, source,"
        " notice_id, notice_version, event_type, event_state, event_time, expires_at, recorded_at"
        " FROM consent_events LIMIT 1",
        "INSERT INTO notices SELECT 999, 'pn_x', version, language, text_sha256, purposes,"
        " categories, valid_from, material FROM notices LIMIT 1",
        "INSERT INTO grants SELECT 'xg_x', live_until, body FROM grants LIMIT 1",
        "INSERT INTO reviews SELECT 'rv_x', 'as_x', at, state FROM reviews LIMIT 1",
        "INSERT INTO api_keys SELECT 'k_x', x'00', 'admin', at, NULL, NULL FROM api_keys LIMIT 1",
        "UPDATE api_keys SET revoked_at = NULL",
        "UPDATE grants SET body = (SELECT body FROM grants WHERE live_until > 0)",
        "UPDATE assessments SET nonce = NULL WHERE vector IS NOT NULL",
    ],
)
def test_a_row_put_in_or_back_is_found(
    lived: Parts, faults: Callable[[], list[str]], sql: str
) -> None:
    change(lived, sql)
    assert faults()


def test_two_assessments_do_not_change_places(
    lived: Parts, faults: Callable[[], list[str]]
) -> None:
    """Each row sound in itself, under the other's name, time or nonce."""
    one, other = (
        row[0] for row in lived.ledger.rows("SELECT seq FROM assessments ORDER BY seq LIMIT 2")
    )
    for column in ("asked", "at", "answer", "vector", "nonce", "subject", "key_id"):
        values = dict(lived.ledger.rows(f"SELECT seq, {column} FROM assessments"))
        if values[one] == values[other]:
            continue
        for seq, value in ((one, values[other]), (other, values[one])):
            change(lived, f"UPDATE assessments SET {column} = ? WHERE seq = ?", value, seq)
        assert faults(), column
        for seq in (one, other):
            change(lived, f"UPDATE assessments SET {column} = ? WHERE seq = ?", values[seq], seq)
    assert faults() == []


def test_an_erased_assessment_still_has_its_place(
    lived: Parts, faults: Callable[[], list[str]]
) -> None:
    """The nonce destroyed, with the vector, the subject and the event: the log goes on."""
    name, event = lived.ledger.rows("SELECT assessment_id, event_id FROM assessments LIMIT 1")[0]
    change(
        lived,
        "UPDATE assessments SET nonce = NULL, vector = NULL, subject = NULL, answer = x'7b7d'"
        " WHERE assessment_id = ?",
        name,
    )
    assert any("not all that it vouched for" in fault for fault in faults())
    change(lived, "DELETE FROM events WHERE event_id = ?", event)
    assert faults() == []
    change(lived, "UPDATE assessments SET status = 'refused' WHERE assessment_id = ?", name)
    assert faults()


def test_what_an_import_brought_is_vouched_for_by_one_entry_a_batch(
    parts: Parts, settings: Settings, client: Callable[..., Any], imported: Callable[[], str]
) -> None:
    imported()
    (record,) = parts.ledger.rows("SELECT record_id FROM consent_events")[0]
    answer = client("consent").post(f"/v1/consents/{record}/withdraw")
    assert answer.status_code == 200
    upkeep.upkeep(parts, notary(settings, parts), parts.clock())
    assert parts.ledger.label("lb_past") is not None
    assert list(verify(parts, notary(settings, parts))) == []
    for sql in (
        "DELETE FROM consent_events WHERE event_state = 'consent_withdrawn'",
        "DELETE FROM consent_events WHERE event_state = 'consent_given'",
        "DELETE FROM events",
        "DELETE FROM labels",
        "UPDATE events SET amount = 2",
        "UPDATE labels SET label = 'legitimate'",
        "UPDATE consent_events SET categories = 'device' WHERE event_state = 'consent_given'",
        "INSERT INTO events (event_id, at, purpose, type, occurred_at, permitted)"
        " VALUES ('evt_forged', 11, '', 'login', 11, 0)",
        "INSERT INTO labels VALUES ('lb_forged', 21, 'chargeback', 'x', 21, 'evt_past', NULL, 0)",
    ):
        kept = {name: parts.ledger.rows(f"SELECT * FROM {name}") for name in IMPORTED}
        change(parts, sql)
        assert list(verify(parts, notary(settings, parts))), sql
        for table, rows in kept.items():
            change(parts, f"DELETE FROM {table}")
            with parts.ledger.transaction() as connection:
                marks = ", ".join("?" * len(rows[0]))
                connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
        assert list(verify(parts, notary(settings, parts))) == []


IMPORTED = ("consent_events", "events", "labels")


def test_a_step_that_was_never_answered_has_an_entry(
    lived: Parts, settings: Settings, faults: Callable[[], list[str]]
) -> None:
    event = lived.ledger.event("evt_0002")
    assert event is not None
    at = lived.velocity.exchange(b"", 0, [], 0, None)[0]
    lost = msgspec.structs.replace(event, event_id="evt_lost", at=at)
    online.read_and_observe(lost, lived.velocity)
    upkeep.upkeep(lived, notary(settings, lived), lived.clock() + upkeep.SETTLE_AFTER + 1_000_000)
    assert lived.ledger.event("evt_lost") is not None
    assert faults() == []
    change(lived, "UPDATE events SET amount = 1 WHERE event_id = 'evt_lost'")
    assert faults()
    change(lived, "DELETE FROM events WHERE event_id = 'evt_lost'")
    assert faults()


# --- the file --------------------------------------------------------------------------------


def contents(ledger: Ledger) -> list[Any]:
    """Return all that the ledger says, but for what nothing vouches for."""
    found: list[Any] = []
    for table in TABLES:
        columns = [name for name in columns_of(ledger, table) if (table, name) not in UNVOUCHED]
        rows = ledger.rows(f"SELECT {', '.join(columns)} FROM {table}")
        found.append(sorted((vouched(table, columns, row) for row in rows), key=repr))
    return found


@pytest.mark.sqlite
def test_a_byte_changed_in_the_file_is_found_or_holds_nothing(
    lived: Parts, settings: Settings, faults: Callable[[], list[str]], tmp_path: Path
) -> None:
    """Whatever goes unseen changes nothing of what the ledger says: it lies in unused space."""
    file, draw = settings.home / "ledger.db", random.Random(4)
    lived.ledger.cut()
    whole, said = file.read_bytes(), contents(lived.ledger)
    used = [place for place, byte in enumerate(whole) if byte]
    places = draw.sample(used, 240) + draw.sample(range(len(whole)), 60)
    unseen = {"used": 0, "zero": 0}
    for number, place in enumerate(places):
        copy = tmp_path / f"copy-{number}" / "ledger.db"
        copy.parent.mkdir()
        changed = bytearray(whole)
        changed[place] ^= 1 << draw.randrange(8)
        copy.write_bytes(changed)
        try:
            ledger = SqliteLedger(copy)
        except FailClosed:
            continue
        found = list(verify(replace(lived, ledger=ledger), notary(settings, lived, ledger=ledger)))
        if not found:
            assert contents(ledger) == said, f"byte {place} went unseen"
            unseen["used" if whole[place] else "zero"] += 1
        ledger.close()
        shutil.rmtree(copy.parent)
    assert unseen["used"] <= 240 * 0.15, unseen
    print(unseen)  # noqa: T201


def test_verify_says_how_far_it_is(lived: Parts, settings: Settings) -> None:
    done: list[int] = []
    assert list(verify(lived, notary(settings, lived), progress=done.append)) == []
    assert sum(done) == 2 * lived.ledger.size()


def test_a_ledger_that_cannot_be_read_is_said_and_not_raised(
    lived: Parts, settings: Settings
) -> None:
    for table in ("log", "assessments", "consent_events", "grants", "checkpoints"):
        change(lived, f"ALTER TABLE {table} RENAME TO gone")
        found = list(verify(lived, notary(settings, lived)))
        assert any("could not go on" in fault for fault in found), table
        change(lived, f"ALTER TABLE gone RENAME TO {table}")
