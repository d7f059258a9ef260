"""T23: operation ends by one command: nothing is collected or scored any more, people are told,
nothing of anybody is left, and the log still proves what was done."""

from __future__ import annotations

import base64
import io
import itertools
import runpy
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sectionfour import bootstrap
from sectionfour.domain import DAY
from sectionfour.errors import Ceased
from sectionfour.jobs import cessation, rotation, sweep
from sectionfour.jobs.upkeep import upkeep
from sectionfour.loading import imports
from sectionfour.loading.replay import replay
from sectionfour.parts import Parts
from sectionfour.privacy import entries, erasure, notes
from sectionfour.settings import Settings
from sectionfour.stores import open_ledger
from sectionfour.stores.ledger.cessation import STAYS, Ending
from sectionfour.verify import verify
from sectionfour.web import assess
from sectionfour.web.keys import ANYBODY
from sectionfour.web.metrics import Metrics
from sectionfour.web.routes import Service

END = {"announcement": "https://market.example/notices/end", "confirm": True}
LOGIN = {"type": "login", "occurred_at": "2026-11-23T09:00:00+08:00"}
ACCOUNT = {"purpose": "security.account_risk", "transaction": None, "event": LOGIN}
independent = runpy.run_path(str(Path(__file__).with_name("independent_verifier.py")))["verify"]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cessation.cease, "__kwdefaults__",
                        cessation.cease.__kwdefaults__ | {"wait": 0.0})  # fmt: skip


@pytest.fixture
def lived(
    client: Callable[..., Any],
    parts: Parts,
    notice: Any,
    a_request: Any,
    a_consent: Any,
    an_exception: Any,
    imported: Callable[[], str],
) -> dict[str, str]:
    """A service that has seen some of everything; names of some of it."""
    imported()
    consents, checkout, privacy = client("consent"), client("checkout"), client("privacy")
    for number in (1, 2, 3):
        record = consents.post("/v1/consents", json=a_consent(number)).json["record_id"]
    consents.post(f"/v1/consents/{record}/withdraw")
    first = checkout.post("/v1/assessments", json=a_request(1)).json["assessment_id"]
    checkout.post("/v1/assessments", json=a_request(2, mode="evaluate"))
    checkout.post("/v1/assessments", json=a_request(4, **ACCOUNT))
    label = {"event_id": "evt_0001", "label": "chargeback", "source": "bank"}
    assert checkout.post("/v1/labels", json=label).status_code == 201
    checkout.post(f"/v1/assessments/{first}/review")
    grant = privacy.post("/v1/exceptions", json=an_exception()).json["grant_id"]
    client("privacy").post(f"/v1/exceptions/{grant}/approve")
    checkout.post("/v1/assessments", json=a_request(1, **ACCOUNT | {"event_id": "evt_g"}))
    return {"assessment": first, "record": record, "grant": grant}


def test_t23_one_call_ends_it_all_and_proves_it(
    client: Callable[..., Any],
    parts: Parts,
    settings: Settings,
    lived: dict[str, str],
    a_request: Any,
    a_consent: Any,
    a_notice: Any,
    an_exception: Any,
) -> None:
    privacy, checkout, consents = client("privacy"), client("checkout"), client("consent")
    proven = privacy.get(f"/v1/receipts/{lived['assessment']}").json
    assert client("admin").get("/v1/cessation").status_code == 404
    answer = client("admin").post("/v1/cessation", json=END)
    assert answer.status_code == 200, answer.json
    assert answer.json["notified"] == 4  # three who consented or were rated, one imported
    # nothing is collected or scored
    line = msgspec.json.encode(a_request(9))
    for status in (
        checkout.post("/v1/assessments", json=a_request(9)),
        checkout.post("/v1/assessments", json=a_request(1)),  # not even again
        checkout.post("/v1/assessments/batch", data=line, content_type="application/x-ndjson"),
        checkout.post("/v1/labels", json={"event_id": "evt_0001", "label": "legitimate"}),
        consents.post("/v1/consents", json=a_consent(9)),
        consents.put("/v1/notices/pn_other", json=a_notice()),
        privacy.post("/v1/exceptions", json=an_exception()),
        privacy.post(f"/v1/exceptions/{lived['grant']}/approve"),
    ):
        assert (status.status_code, status.json["type"]) == (410, "/problems/ceased")
    assert consents.post(f"/v1/consents/{lived['record']}/withdraw").status_code == 404
    with pytest.raises(Ceased):
        replay(iter([]), parts, notice=imports.MARKET_NOTICE)
    # nothing is left of anybody
    for table in parts.ledger.tables:
        if table not in STAYS:
            assert parts.ledger.rows(f"SELECT COUNT(*) FROM {table}") == [(0,)], table
    with sqlite3.connect(settings.home / "vault.db") as vault:
        assert vault.execute("SELECT COUNT(*) FROM subjects").fetchone() == (0,)
    vault.close()
    assert parts.velocity.empty() == 0
    assert parts.keys.subject("raw-member-1") is None
    # what was proven is proven, and the attestation is signed
    again = privacy.get(f"/v1/receipts/{lived['assessment']}").json
    vkey = answer.json["vkey"]
    for said in (proven, again):
        assert independent(vkey, base64.b64decode(proven["leaf"]), said["proof"])
    name, key = notes.parse_vkey(vkey)
    text = notes.verified_text(answer.json["attestation"], name, key)
    assert "announcement https://market.example/notices/end\n" in text
    assert "deleted ledger.assessments 4\n" in text
    assert "deleted vault " in text
    assert "left 0\n" in text
    assert list(verify(parts, bootstrap.open_notary(settings, parts))) == []
    # again it is the same
    repeated = client("admin").post("/v1/cessation", json=END | {"announcement": "elsewhere"})
    assert repeated.json == answer.json
    assert client("privacy").get("/v1/cessation").json == answer.json


def test_who_is_known_by_an_exception_alone_is_told_too(
    client: Any, parts: Parts, lived: dict[str, str], an_exception: Any, raw: Any
) -> None:
    asked = an_exception()
    asked["scope"]["members"] = [raw("raw-member-of-a-grant")]
    assert client("privacy").post("/v1/exceptions", json=asked).status_code == 201
    assert client("admin").post("/v1/cessation", json=END).json["notified"] == 5


def test_a_batch_that_began_before_the_end_goes_no_further(
    parts: Parts, settings: Settings, lived: dict[str, str], a_request: Any
) -> None:
    lines = [msgspec.json.encode(a_request(number)) + b"\n" for number in (11, 12, 13)]
    sent, second = io.BytesIO(b"".join(lines)), len(lines[0]) + len(lines[1])

    def read(most: int) -> bytes:
        if sent.tell() == second - 1:
            ending = Ending(parts.clock(), "the end", "shell", None)
            parts.ledger.cease(ending, entries.ceased("the end", "shell", ending.at))
        return sent.read(most)

    notary, metrics = (
        bootstrap.open_notary(settings, parts),
        Metrics(parts.ledger.size, settings.home),
    )
    service = Service(parts, notary, settings, metrics)
    said = [msgspec.json.decode(line) for line in assess._each(service, ANYBODY, read)]
    assert [one.get("type") for one in said] == [None, "/problems/ceased", "/problems/ceased"]


def test_what_had_come_of_it_before_is_accounted_for_too(
    client: Any, parts: Parts, settings: Settings, lived: dict[str, str]
) -> None:
    """Verdicts, names told, a release, a promotion, an erasure: the log still matches."""
    analyst, at = client("analyst"), parts.clock()
    case = f"/v1/cases/{lived['assessment'].replace('as_', 'cs_')}"
    why = {"purpose": "security.account_risk", "reason": "the bank waits"}
    name = analyst.post(f"{case}/reidentify", json=why).json["reidentification_id"]
    assert client("privacy").post(f"/v1/reidentifications/{name}/approve").status_code == 200
    said = {"verdict": "confirmed_fraud", "note": "rang"}
    assert analyst.post(f"{case}/verdict", json=said).status_code == 201
    released = entries.training_release("tr_1", "p", b"{}", at)
    parts.ledger.add_release("tr_1", at, "p", b"{}", [], released)
    parts.ledger.add_promotion("pm_1", at, "{}", entries.promotion("pm_1", at, {}))
    for member in ("raw-member-1", "raw-member-2"):  # with a case, and with labels; with consents
        path = f"/v1/members/{member}/erasure"
        assert client("privacy").post(path, json={"trigger": "cancellation"}).status_code == 202
    notary = bootstrap.open_notary(settings, parts)
    notary.extend(at)
    assert list(verify(parts, notary)) == []
    assert client("admin").post("/v1/cessation", json=END).status_code == 200
    assert list(verify(parts, notary)) == []


ORDERS = list(itertools.permutations(["erase", "erase it", "rotate", "sweep"]))


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_in_whatever_order_things_go_the_log_matches_and_at_the_end_too(
    client: Any, parts: Parts, settings: Settings, notice: Any, a_request: Any, a_consent: Any,
    imported: Callable[[], str], order: tuple[str, ...],
) -> None:  # fmt: skip
    """Members erased (one of them imported), tokens replaced, all that is due swept."""
    of_the_past = imported()
    checkout, analyst, privacy = client("checkout"), client("analyst"), client("privacy")
    for number in (1, 2):
        client("consent").post("/v1/consents", json=a_consent(number))
        name = checkout.post("/v1/assessments", json=a_request(number)).json["assessment_id"]
        for of in ({"event_id": f"evt_000{number}"}, {"member_id": f"raw-member-{number}"}):
            label = {"label": "chargeback", "source": "bank"} | of
            assert checkout.post("/v1/labels", json=label).status_code == 201
        checkout.post(f"/v1/assessments/{name}/review")
        case = f"/v1/cases/{name.replace('as_', 'cs_')}"
        why = {"purpose": "security.account_risk", "reason": "the bank waits"}
        assert analyst.post(f"{case}/reidentify", json=why).status_code == 201
        said = {"verdict": "legitimate", "note": "rang"}
        assert analyst.post(f"{case}/verdict", json=said).status_code == 201
    notary = bootstrap.open_notary(settings, parts)

    def erase(member: str) -> None:
        path = f"/v1/members/{member}/erasure"
        assert privacy.post(path, json={"trigger": "cancellation"}).status_code == 202

    def rotate() -> None:  # not while an erasure is under way
        upkeep(parts, notary, parts.clock() + erasure.ARRIVED + 1_000_000)
        rotation.rotate(parts)
        rotation.finish(parts, notary)

    steps: dict[str, Callable[[], object]] = {
        "erase": lambda: erase("raw-member-1"),
        "erase it": lambda: erase(of_the_past),
        "rotate": rotate,
        "sweep": lambda: sweep.sweep(parts, parts.clock() + 4 * 365 * DAY),
        "cease": lambda: cessation.cease(parts, notary, settings, announcement="x", by="shell"),
    }
    for step in (*order, "cease"):
        steps[step]()
        notary.extend(parts.clock())
        assert list(verify(parts, notary)) == [], step


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM cessation",
        "UPDATE cessation SET attestation = attestation || ' '",
        "UPDATE cessation SET announcement = 'elsewhere'",
        "DELETE FROM notifications WHERE pseudonym = (SELECT MAX(pseudonym) FROM notifications)",
        "UPDATE notifications SET status = 'delivered'",
        "INSERT INTO labels VALUES ('lb', 1, 'chargeback', 'x', 1, NULL, x'00', 0)",
        "DELETE FROM log WHERE idx = (SELECT MAX(idx) FROM log)",
    ],
)
def test_whatever_is_changed_afterwards_is_found(
    client: Any, parts: Parts, settings: Settings, lived: Any, sql: str
) -> None:
    assert client("admin").post("/v1/cessation", json=END).status_code == 200
    notary = bootstrap.open_notary(settings, parts)
    assert list(verify(parts, notary)) == []
    with parts.ledger.transaction() as connection:
        connection.execute(sql)
    assert list(verify(parts, notary))


def test_a_legal_hold_makes_the_deletion_wait_and_nothing_else(
    client: Any, parts: Parts, settings: Settings, lived: Any, a_request: Any
) -> None:
    hold = client("privacy").post("/v1/holds", json={"member_id": "raw-member-1", "law": "art. 54"})
    path = "/v1/members/raw-member-1/erasure"
    asked = client("privacy").post(path, json={"trigger": "cancellation"})
    assert asked.json["state"] == "held"  # goes with all the rest
    admin = client("admin")
    answer = admin.post("/v1/cessation", json=END)
    assert (answer.status_code, answer.json["type"]) == (409, "/problems/conflict")
    assert client("checkout").post("/v1/assessments", json=a_request(9)).status_code == 410
    assert parts.ledger.rows("SELECT COUNT(*) FROM assessments") == [(4,)]
    assert admin.get("/v1/cessation").json["attestation"] is None
    for _ in range(2):
        client("privacy").post(f"/v1/holds/{hold.json['hold_id']}/lift")
    assert admin.post("/v1/cessation", json=END).json["attestation"] is not None
    assert parts.ledger.rows("SELECT COUNT(*) FROM holds") == [(0,)]
    notary = bootstrap.open_notary(settings, parts)
    upkeep(parts, notary, parts.clock() + erasure.ARRIVED + 1)
    assert list(verify(parts, notary)) == []


def test_broken_off_anywhere_it_goes_on(
    parts: Parts, settings: Settings, lived: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    notary = bootstrap.open_notary(settings, parts)
    notary.extend(parts.clock())

    def end() -> cessation.Ceased:
        return cessation.cease(
            parts, notary, settings, announcement="https://market.example/end", by="shell"
        )

    class Broken(Exception):
        pass

    def broken(*args: Any, **values: Any) -> Any:
        raise Broken

    ledger = type(parts.ledger)
    for owner, name in (
        (ledger, "notify"),
        (ledger, "take_everything"),
        (type(parts.velocity), "empty"),
        (cessation, "_attested"),
        (ledger, "attest"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, broken)
            with pytest.raises(Broken):
                end()
        assert list(verify(parts, notary)) == [], name
    assert "left 0" in end().attestation
    assert list(verify(parts, notary)) == []


def test_what_a_late_call_leaves_is_taken_too(
    parts: Parts, settings: Settings, lived: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    notary = bootstrap.open_notary(settings, parts)
    late = iter([None, None])
    take = cessation._everything

    def everything(of: Parts) -> Any:
        gone = take(of)
        for _ in late:
            of.keys.subject("raw-member-late", enrol=True)
            break
        return gone

    monkeypatch.setattr(cessation, "_everything", everything)
    note = cessation.cease(parts, notary, settings, announcement="x", by="shell").attestation
    assert parts.keys.subject("raw-member-late") is None
    assert "left 0" in note


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"announcement": "x" * 9, "confirm": False}, "/confirm"),
        ({"announcement": "x" * 9}, "/confirm"),
        ({"announcement": "x" * 9, "confirm": "yes"}, "/confirm"),
        ({"announcement": "", "confirm": True}, "/announcement"),
        ({"announcement": "a\nb\nc", "confirm": True}, "/announcement"),
        ({"announcement": "x" * 513, "confirm": True}, "/announcement"),
        ({"confirm": True}, "/announcement"),
    ],
)
def test_it_does_not_happen_by_mistake(client: Any, parts: Parts, body: Any, pointer: str) -> None:
    answer = client("admin").post("/v1/cessation", json=body)
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (400, pointer)
    for role in ("checkout", "consent", "analyst", "privacy", "trainer"):
        assert client(role).post("/v1/cessation", json=END).status_code == 403
    assert parts.ledger.cessation() is None


@pytest.mark.sqlite
def test_the_flag_costs_no_read_of_its_own(
    client: Any, parts: Parts, notice: Any, a_request: Any
) -> None:
    """It is part of the statement that looks the key up."""
    checkout = client("checkout")
    checkout.post("/v1/assessments", json=a_request(1))
    said: list[str] = []
    parts.ledger._database.read.set_trace_callback(said.append)
    checkout.post("/v1/assessments", json=a_request(2))
    parts.ledger._database.read.set_trace_callback(None)
    assert sum("cessation" in sql for sql in said) == 1
    assert next(sql for sql in said if "cessation" in sql).count("api_keys") == 1


def test_t23_the_sample_is_gone_within_ten_minutes(
    tmp_path: Path, models: Path, record_property: Callable[[str, object], None]
) -> None:
    """55,000 events of 3,170 members: of a size with the demonstration's."""
    settings = Settings(home=tmp_path, models=models, velocity_gib=1, durability="normal")
    parts = bootstrap.open_parts(settings)
    market = Path(__file__).parents[1] / "data_samples" / "market"
    replay(imports.market(market)[0], parts, notice=imports.MARKET_NOTICE)
    notary = bootstrap.open_notary(settings, parts)
    begin = time.monotonic()
    ended = cessation.cease(parts, notary, settings, announcement="the end", by="shell")
    took = time.monotonic() - begin
    record_property("seconds", round(took, 1))
    assert took < 600
    assert ended.notified > 2_000
    assert "left 0\n" in ended.attestation
    assert parts.ledger.rows("SELECT COUNT(*) FROM events") == [(0,)]
    assert parts.velocity.empty() == 0
    assert list(verify(parts, notary)) == []
    parts.close()


def test_from_the_shell_beside_a_service_of_two_workers(
    a_server: Callable[..., Any], a_request: Any, a_notice: Any, a_consent: Any
) -> None:
    """Traffic goes on while it ends: after the command not a row of anybody is there."""
    with a_server(checkpoint_seconds="0.5") as server:
        server.call("PUT", "/v1/notices/pn_security", a_notice(), role="consent")
        server.call("POST", "/v1/consents", a_consent(1), role="consent")
        statuses: list[tuple[float, int]] = []
        over = threading.Event()

        def traffic(worker: int) -> None:
            number = 0
            while not over.is_set():
                body = a_request(1, event_id=f"evt_{worker}_{number}")
                status, _ = server.call("POST", "/v1/assessments", body, role="checkout")
                statuses.append((time.monotonic(), status))
                number += 1

        threads = [threading.Thread(target=traffic, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        command = [sys.executable, "-m", "sectionfour.cli", "cease", "--confirm", "--announcement"]
        run = subprocess.run(
            [*command, "https://market.example/end"],
            env=server.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        done = time.monotonic()
        time.sleep(0.5)
        over.set()
        for thread in threads:
            thread.join()
        assert run.returncode == 0, run.stderr
        assert "left 0\n" in run.stdout
        scored = [at for at, status in statuses if status == 200]
        ended = [at for at, status in statuses if status == 410]
        assert scored
        assert ended
        assert {status for _, status in statuses} == {200, 410}
        assert max(scored) - min(ended) < cessation.PROPAGATION  # within one interval
        assert max(scored) < done
        ledger = open_ledger(f"sqlite:{server.home / 'ledger.db'}")
        for table in ("assessments", "events", "consent_events"):
            assert ledger.rows(f"SELECT COUNT(*) FROM {table}") == [(0,)]
        ledger.close()
        time.sleep(1)
        checked = subprocess.run(
            [sys.executable, "-m", "sectionfour.cli", "verify"],
            env=server.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert checked.returncode == 0, checked.stdout
