"""T21: on a virtual clock what is due goes, what is held stays, and the log can be checked."""

from __future__ import annotations

import itertools
import runpy
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from sectionfour import bootstrap
from sectionfour.cli import main
from sectionfour.domain import DAY, Event, Label
from sectionfour.errors import SettingsError
from sectionfour.jobs import sweep, upkeep
from sectionfour.parts import Parts
from sectionfour.privacy import entries, inventory, retention
from sectionfour.privacy.consent import ConsentEvent
from sectionfour.privacy.exceptions import Grant, Scope
from sectionfour.privacy.holds import Hold
from sectionfour.privacy.tally import Tally
from sectionfour.settings import Settings
from sectionfour.stores import open_velocity
from sectionfour.stores.ledger.tallied import COLUMNS
from sectionfour.verify import verify

NOW = 1_900_000_000_000_000
KEPT = 1096 * DAY
independent = runpy.run_path(str(Path(__file__).with_name("independent_verifier.py")))["verify"]

# --- the rules -------------------------------------------------------------------------------


def test_every_class_of_the_inventory_has_a_rule_and_a_necessity() -> None:
    rules = retention.load()
    assert set(rules.classes) == set(inventory.load().classes)
    assert all(len(rule.necessity) > 20 for rule in rules.classes.values())
    assert rules.cutoff("security_3y", NOW) < NOW - sweep.longest_window() - sweep.MARGIN * DAY
    for floor in rules.floors.values():
        assert rules.cutoff("security_3y", NOW) <= NOW - floor.days * DAY


@pytest.mark.parametrize(
    "change",
    [
        {"days": 1095},
        {"days": None},
        {"days": 0},
        {"law": None},
        {"since": "later"},
        {"necessity": ""},
        {"day": 7},
    ],
)
def test_a_rule_that_does_not_hold_is_refused(change: dict[str, Any]) -> None:
    file = msgspec.to_builtins(retention.load())
    file["classes"]["security_3y"] |= change
    with pytest.raises(SettingsError, match=r"retention\.toml"):
        retention.assemble(file)


def test_what_a_window_still_needs_is_never_due(parts: Parts) -> None:
    rules = retention.load()
    short = msgspec.structs.replace(rules.classes["security_3y"], days=371)
    rules = msgspec.structs.replace(rules, classes={**rules.classes, "security_3y": short})
    with pytest.raises(SettingsError, match="longest window"):
        sweep.sweep(parts, NOW, rules=rules)


# --- the matrix ------------------------------------------------------------------------------

AGES = (0, 184 * DAY, KEPT - 1, KEPT, KEPT + 1, KEPT + 400 * DAY)
HOLDS = ("none", "person", "order", "asked", "lifted")
GRANTS = ("none", "live 3", "live 4", "over 3", "order 1")
LABELS = ("none", "old", "young")


class Case:
    """One person with one order: an event, perhaps a label, a consent; and what speaks for them."""

    def __init__(self, number: int, age: int, hold: str, grant: str, label: str) -> None:
        self.number, self.age, self.hold, self.grant, self.label = number, age, hold, grant, label
        self.member = number.to_bytes(16)
        self.order = (number + (1 << 64)).to_bytes(16)
        self.at = NOW - age - 10_000 * number - 10_000 if age else NOW - 10_000 * number - 10_000
        if age == KEPT - 1:
            self.at = NOW - KEPT + 1 + number
        elif age == KEPT:
            self.at = NOW - KEPT + 100_000 + number

    @property
    def spoken_for(self) -> bool:
        return self.hold in ("person", "order", "asked") or self.grant in ("live 3", "order 1")

    @property
    def event_due(self) -> bool:
        """The definition, in its own words."""
        return self.at < NOW - KEPT and not self.spoken_for and self.label != "young"

    @property
    def consent_due(self) -> bool:
        person = self.hold in ("person", "asked") or self.grant == "live 3"
        return self.at < NOW - KEPT and not person


def make(parts: Parts, cases: list[Case]) -> None:
    events = [
        Event(
            event_id=f"evt_{c.number}",
            at=c.at,
            purpose="security.transaction_risk",
            type="purchase",
            occurred_at=c.at,
            permitted=1,
            member=c.member,
            order_ref=c.order,
            amount=c.number,
        )
        for c in cases
    ]
    labels = [
        Label(
            label_id=f"lb_{c.number}",
            label="chargeback",
            source="bank",
            at=c.at + 1 if c.label == "old" else NOW - DAY - c.number,
            known_at=c.at + 1,
            event_id=f"evt_{c.number}",
        )
        for c in cases
        if c.label != "none"
    ]
    consents = [
        (c.member, ConsentEvent(0, f"cr_{c.number}", "security", frozenset({"order"}),
                                "first_party", "pn", "1", "explicitly_expressed", state, c.at,
                                None, False), c.at)
        for c in cases
        for state in ("consent_given", "consent_withdrawn")
    ]  # fmt: skip
    with parts.ledger.transaction() as connection:
        tally, rows = parts.ledger.bring(
            connection, parts.keys.ring, events=events, labels=labels, consents=consents
        )
        parts.ledger.log(connection, entries.brought("im_1", rows, tally, NOW - KEPT))
    for c in cases:
        if c.hold != "none":
            of_order = c.hold == "order"
            hold = Hold(
                hold_id=f"lh_{c.number}",
                subject=None if of_order else c.member,
                order_ref=c.order if of_order else None,
                law="art. 54",
                placed_at=NOW - DAY,
                placed_by="k_1",
            )
            parts.ledger.add_hold(hold, entries.hold(parts.keys, hold, "placed", NOW - DAY))
            asked = msgspec.structs.replace(hold, lift_asked_by="k_1")
            done = msgspec.structs.replace(asked, lifted_at=NOW - 5, lifted_by="k_2")
            if c.hold in ("asked", "lifted"):
                leaf = entries.hold(parts.keys, asked, "lift_asked", NOW - 6)
                parts.ledger.change_hold(hold.hold_id, lambda _, to=asked, leaf=leaf: (to, leaf))
            if c.hold == "lifted":
                leaf = entries.hold(parts.keys, done, "lifted", NOW - 5)
                parts.ledger.change_hold(hold.hold_id, lambda _, to=done, leaf=leaf: (to, leaf))
        if c.grant != "none":
            words, number = c.grant.split()
            grant = a_grant(c, int(number), NOW - 1 if words == "over" else NOW + DAY)
            if words == "order":
                scope = replace(grant.scope, members=frozenset(), order=c.order)
                grant = replace(grant, scope=scope)
            for action, state in (("requested", "requested"), ("approved", "live")):
                live_at = NOW - 3 * DAY if state == "live" else None
                now: Grant = replace(grant, state=state, live_at=live_at)
                parts.ledger.put_grant(now, entries.grant(parts.keys, now, action, NOW - 3 * DAY))


def a_grant(case: Case, exception: int, until: int) -> Grant:
    return Grant(
        grant_id=f"xg_{case.number}",
        exception=exception,
        documents=(),
        necessity="",
        scope=Scope(
            categories=frozenset({"order"}),
            purposes=frozenset({"security.transaction_risk"}),
            operations=frozenset({"score"}),
            sources=frozenset({"first_party"}),
            members=frozenset({case.member}),
            order=None,
        ),
        not_before=NOW - 3 * DAY,
        expires_at=until,
        max_uses=1,
        requested_by="k_1",
        requested_at=NOW - 3 * DAY,
    )


def test_t21_nothing_past_due_is_left_and_nothing_held_is_lost(
    parts: Parts, settings: Settings
) -> None:
    matrix = itertools.product(AGES, HOLDS, GRANTS, LABELS)
    cases = [Case(number, *row) for number, row in enumerate(matrix, 1)]
    make(parts, cases)
    notary = bootstrap.open_notary(settings, parts)
    notary.extend(NOW)
    assert list(verify(parts, notary)) == []
    gone = sweep.sweep(parts, NOW)
    kept = {row[0] for row in parts.ledger.rows("SELECT event_id FROM events")}
    labels = {row[0] for row in parts.ledger.rows("SELECT label_id FROM labels")}
    consents = {row[0] for row in parts.ledger.rows("SELECT record_id FROM consent_events")}
    for c in cases:
        case = vars(c)
        assert (f"evt_{c.number}" not in kept) == c.event_due, case
        has_label = c.label != "none"
        assert (f"lb_{c.number}" in labels) == (has_label and not c.event_due), case
        assert (f"cr_{c.number}" not in consents) == c.consent_due, case
    assert gone["events"] == sum(c.event_due for c in cases) > 20
    notary.extend(NOW)
    assert list(verify(parts, notary)) == []
    assert not sweep.sweep(parts, NOW)  # again there is nothing
    # A day after the last hold is gone and every grant is over, the rest goes when its time comes.
    for c in cases:
        if c.hold in ("person", "order", "asked"):
            done = NOW + DAY
            hold = next(h for h in parts.ledger.holds() if h.hold_id == f"lh_{c.number}")
            hold = msgspec.structs.replace(
                hold, lift_asked_by="k_1", lifted_at=done, lifted_by="k_2"
            )
            leaf = entries.hold(parts.keys, hold, "lifted", done)
            parts.ledger.change_hold(hold.hold_id, lambda _, to=hold, leaf=leaf: (to, leaf))
    sweep.sweep(parts, NOW + KEPT + 9 * DAY)
    for table in ("events", "labels", "consent_events", "grants", "holds"):
        assert parts.ledger.rows(f"SELECT COUNT(*) FROM {table}") == [(0,)], table
    notary.extend(NOW)
    assert list(verify(parts, notary)) == []


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM events WHERE event_id = (SELECT MAX(event_id) FROM events)",
        "DELETE FROM labels WHERE label_id = (SELECT MAX(label_id) FROM labels)",
        "DELETE FROM holds WHERE hold_id = (SELECT MAX(hold_id) FROM holds)",
        "UPDATE holds SET lifted_at = 5, lifted_by = 'k_2'",
        "UPDATE holds SET subject = x'00'",
        "DELETE FROM log WHERE idx = (SELECT MAX(idx) FROM log WHERE kind = 'sweep')",
        "INSERT INTO holds SELECT 'lh_x', subject, order_ref, law, placed_at, placed_by, NULL,"
        " NULL, NULL FROM holds LIMIT 1",
    ],
)
def test_a_row_taken_beside_a_sweep_is_still_found(
    parts: Parts, settings: Settings, sql: str
) -> None:
    matrix = itertools.product((KEPT, KEPT + 1), ("none", "person"), ("none",), LABELS)
    make(parts, [Case(number, *row) for number, row in enumerate(matrix, 1)])
    sweep.sweep(parts, NOW)
    notary = bootstrap.open_notary(settings, parts)
    (found,) = verify(parts, notary)
    assert found.startswith("the ledger has entries and no checkpoint")
    with parts.ledger.transaction() as connection:
        connection.execute(sql)
    assert len(list(verify(parts, notary))) > 1


# --- of a service that has lived -------------------------------------------------------------


def test_assessments_go_with_all_that_is_theirs_and_their_receipts_can_still_be_proven(
    client: Callable[..., Any],
    parts: Parts,
    settings: Settings,
    notice: Any,
    a_request: Any,
    a_consent: Any,
    an_exception: Any,
) -> None:
    consents, checkout, privacy = client("consent"), client("checkout"), client("privacy")
    for number in (1, 2, 3):
        record = consents.post("/v1/consents", json=a_consent(number)).json["record_id"]
    consents.post(f"/v1/consents/{record}/withdraw")
    first = checkout.post("/v1/assessments", json=a_request(1)).json
    checkout.post("/v1/assessments", json=a_request(2))
    checkout.post("/v1/assessments", json=a_request(3, mode="evaluate"))
    login = {"type": "login", "occurred_at": "2026-11-23T09:00:00+08:00"}
    account = {"purpose": "security.account_risk", "transaction": None, "event": login}
    assert checkout.post("/v1/assessments", json=a_request(4, **account)).status_code == 403
    for body in (
        {"event_id": "evt_0001", "label": "chargeback", "source": "bank"},
        {"member_id": "raw-member-1", "label": "legitimate", "source": "bank"},
    ):
        assert checkout.post("/v1/labels", json=body).status_code == 201
    checkout.post(f"/v1/assessments/{first['assessment_id']}/review")
    grant = privacy.post("/v1/exceptions", json=an_exception()).json["grant_id"]
    client("privacy").post(f"/v1/exceptions/{grant}/approve")
    held = privacy.post("/v1/holds", json={"member_id": "raw-member-2", "law": "art. 54"})
    assert held.status_code == 201
    notary = bootstrap.open_notary(settings, parts)
    proven = notary.prove(first["assessment_id"], parts.clock())
    assert proven is not None
    at = parts.clock() + KEPT + 9 * DAY
    gone = sweep.sweep(parts, at)
    assert gone.pop("windows") > 0
    assert gone == {
        "events": 1, "labels": 2, "assessments": 3, "reviews": 1, "consent_events": 2, "grants": 1,
        "cases": 1,
    }  # fmt: skip
    assert parts.ledger.rows("SELECT event_id FROM events") == [("evt_0002",)]
    notary.extend(parts.clock())
    assert list(verify(parts, notary)) == []
    again = notary.prove(first["assessment_id"], parts.clock())
    assert again is not None
    assert again[0] == proven[0]  # the log survives: what it proved, it proves
    assert independent(notary.vkey, *again)
    assert independent(notary.vkey, *proven)
    answer = checkout.get(f"/v1/assessments/{first['assessment_id']}")
    assert answer.status_code == 404
    # Two consents stand: they are in force, however old.
    assert parts.ledger.rows("SELECT COUNT(*) FROM consent_events") == [(2,)]


def test_a_hold_is_placed_by_one_key_and_lifted_by_two(
    client: Callable[..., Any], parts: Parts, notice: Any, a_consent: Any, raw: Any
) -> None:
    client("consent").post("/v1/consents", json=a_consent(1))
    one, other = client("privacy"), client("privacy")
    hold = one.post("/v1/holds", json={"member_id": "raw-member-1", "law": "art. 54"}).json
    path = f"/v1/holds/{hold['hold_id']}/lift"
    assert one.post(path).json["lifted_at"] is None
    assert one.post(path).status_code == 409
    assert len(parts.ledger.rows("SELECT 1 FROM holds WHERE lifted_at IS NULL")) == 1
    assert other.post(path).json["lifted_at"] is not None
    assert other.post(path).status_code == 409
    assert one.post("/v1/holds/lh_none/lift").status_code == 404
    order = raw("raw-order-held")
    assert one.post("/v1/holds", json={"order_id": order, "law": "art. 54"}).status_code == 201
    listed = one.get("/v1/holds").json["holds"]
    assert [h["of"] for h in listed] == ["member", "order"]
    for body, status, pointer in (
        ({"law": "art. 54"}, 400, "/member_id"),
        ({"member_id": "raw-member-1", "order_id": order, "law": "x" * 9}, 400, "/member_id"),
        ({"member_id": raw("raw-member-99"), "law": "art. 54"}, 404, "/member_id"),
        ({"member_id": "raw-member-1", "law": ""}, 400, "/law"),
        ({"member_id": "raw-member-1"}, 400, "/law"),
    ):
        answer = one.post("/v1/holds", json=body)
        assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (status, pointer)
    for role in ("checkout", "consent", "analyst", "trainer", "admin"):
        assert client(role).post("/v1/holds", json={}).status_code == 403


def test_what_analysts_said_goes_with_the_assessment_and_no_place_is_forgotten(
    client: Callable[..., Any], parts: Parts, settings: Settings, a_request: Any, raw: Any
) -> None:
    """Of every place of the inventory that keeps rows of persons by age, none outlives its rule."""
    checkout, analyst, keys = client("checkout"), client("analyst"), parts.keys
    for number, more in ((1, {}), (2, {"mode": "evaluate"})):
        made = checkout.post("/v1/assessments", json=a_request(number, **more)).json
        checkout.post(f"/v1/assessments/{made['assessment_id']}/review")
        case = f"/v1/cases/{made['assessment_id'].replace('as_', 'cs_')}"
        why = {"purpose": "security.account_risk", "reason": "the bank waits"}
        name = analyst.post(f"{case}/reidentify", json=why).json["reidentification_id"]
        assert client("privacy").post(f"/v1/reidentifications/{name}/approve").status_code == 200
        said = {"verdict": "confirmed_fraud", "note": "rang"}
        assert analyst.post(f"{case}/verdict", json=said).status_code == 201
    word = {"member_id": "raw-member-1", "order_id": raw("raw-order-1"), "wording_version": "1"}
    word["attested_at"] = "2026-01-01T00:00:00Z"
    path = "/v1/third-person-attestations"
    assert client("consent").post(path, json=word).status_code == 201
    subject, at = keys.subject("raw-member-1"), parts.clock()
    leaf = entries.training_release("tr_1", "p", b"{}", at)
    parts.ledger.add_release("tr_1", at, "p", b"{}", [(b"r" * 16, subject)], leaf)
    with parts.ledger.transaction() as connection:
        connection.execute("INSERT INTO shadow_scores SELECT seq, 'v9', 0.5 FROM assessments")
    notary = bootstrap.open_notary(settings, parts)
    notary.extend(at)
    rules = retention.load()
    of_persons = [kept for kept in inventory.load().of("ledger") if kept.person]
    aged = [kept.name for kept in of_persons if rules.classes[kept.retention].days]
    aged.remove("carried")  # the log is proven by it, and it says nothing without the nonce

    def rows() -> dict[str, int]:
        return {n: k for n in aged if (k := parts.ledger.rows(f"SELECT COUNT(*) FROM {n}")[0][0])}

    before = rows()
    assert {"cases", "verdicts", "reidentifications", "third_persons", "shadow_scores",
            "release_rows", "reviews"} <= set(before)  # fmt: skip
    sweep.sweep(parts, at + KEPT - DAY)
    assert rows() == before
    with parts.ledger.transaction() as connection:
        connection.execute("UPDATE assessments SET at = at - ? WHERE event_id = 'evt_0002'",
                           (9 * DAY,))  # fmt: skip
    sweep.sweep(parts, at + KEPT - DAY)
    assert rows() == before  # decided on later than it was asked: that can still be disputed
    with parts.ledger.transaction() as connection:
        connection.execute("UPDATE assessments SET at = at + ? WHERE event_id = 'evt_0002'",
                           (9 * DAY,))  # fmt: skip
    sweep.sweep(parts, at + KEPT + 9 * DAY)
    assert rows() == {}
    notary.extend(parts.clock())
    assert list(verify(parts, notary)) == []


# --- by itself, and from the shell -----------------------------------------------------------


def test_a_service_sweeps_by_itself(
    parts: Parts, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(parts, [Case(1, KEPT + DAY, "none", "none", "old"), Case(2, 0, "none", "none", "none")])
    monkeypatch.setattr(upkeep, "FIRST_SWEEP", 0.0)
    notary = bootstrap.open_notary(settings, parts)
    frozen = replace(parts, clock=lambda: NOW)
    thread = upkeep.Upkeep(frozen, notary, replace(settings, checkpoint_seconds=0.05))
    for _ in range(200):
        if parts.ledger.rows("SELECT event_id FROM events") == [("evt_2",)]:
            break
        time.sleep(0.05)
    thread.stop()
    assert parts.ledger.rows("SELECT event_id FROM events") == [("evt_2",)]
    assert list(verify(parts, notary)) == []


def test_from_the_shell_the_windows_go_too(
    parts: Parts, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECTIONFOUR_HOME", str(settings.home))
    monkeypatch.setenv("SECTIONFOUR_MODELS", str(settings.models))
    monkeypatch.setenv("SECTIONFOUR_VELOCITY", f"lmdb:{settings.home / 'other'}")  # one is open
    monkeypatch.setenv("SECTIONFOUR_VELOCITY_GIB", "0.05")
    cases = [Case(1, KEPT + DAY, "none", "none", "old"), Case(2, 0, "none", "none", "none")]
    for case in cases:  # by the machine's clock: a decade ago, and now
        case.at = 1_400_000_000_000_000 if case.number == 1 else parts.clock()
    make(parts, cases)
    other = open_velocity(f"lmdb:{settings.home / 'other'}", gib=0.05, new=True)
    other.load([event for case in cases if (event := parts.ledger.event(f"evt_{case.number}"))])
    other.close()
    run = CliRunner().invoke(main, ["sweep"])
    assert run.exit_code == 0, run.output
    assert "events: 1 deleted" in run.stdout
    assert "windows: " in run.stdout
    assert parts.ledger.rows("SELECT event_id FROM events") == [("evt_2",)]
    other = open_velocity(f"lmdb:{settings.home / 'other'}", gib=0.05)
    assert other.fresh
    assert other.expire(cases[1].at) == 0
    assert other.empty() > 1  # of the event that is kept
    other.close()
    run = CliRunner().invoke(main, ["sweep"])
    assert "nothing is due" in run.stdout


def test_a_batch_is_tallied_without_what_was_there_before(parts: Parts) -> None:
    """Rows that lie between its own, and an event whose id is known, are not brought by it."""
    plain = partial(Event, purpose="security.transaction_risk", type="purchase", occurred_at=1)
    parts.ledger.add_events([plain(event_id="live", at=15), plain(event_id="known", at=30)])
    batch = [plain(event_id=name, at=at) for name, at in (("b", 20), ("known", 12), ("a", 10))]
    with parts.ledger.transaction() as connection:
        text, rows = parts.ledger.bring(connection, parts.keys.ring, events=batch)
    expected, place = Tally(parts.keys.ring), COLUMNS["events"]
    for event in (batch[0], batch[2]):
        expected.row("events", [getattr(event, name) for name in place])
    assert (text, rows["events"]) == (expected.text(), 2)
