"""The service in process: assessments, batches, labels, receipts, reviews, and its own health."""

from __future__ import annotations

import base64
import dataclasses
import json
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from flask.testing import FlaskClient

from sectionfour.domain import CLEARED, FRAUD, Event
from sectionfour.errors import FailClosed, SettingsError
from sectionfour.privacy import merkle
from sectionfour.settings import Settings
from sectionfour.web import create_app
from sectionfour.web.body import LIMIT
from sectionfour.web.keys import create_key

VERIFIER = Path(__file__).with_name("independent_verifier.py")


def lines(answer: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.get_data().splitlines()]


def windows(parts: Any, event_type: str = "purchase") -> list[Event]:
    """Return the steps that the windows have seen and nobody has settled yet."""
    steps = [
        msgspec.msgpack.decode(payload, type=Event)
        for _, _, payload in parts.velocity.unsettled(1 << 62)
    ]
    return [event for event in steps if event.type == event_type]


# --- one assessment


def test_a_purchase_without_any_consent_rests_on_the_contract(client, a_request):
    answer = client("checkout").post("/v1/assessments", json=a_request())
    assert answer.status_code == 200
    assert answer.json["status"] == "scored_masked"
    assert {b["kind"] for b in answer.json["basis"]} == {"contract"}
    assert 0 <= answer.json["risk_score"] <= 100


def test_a_consent_lets_every_category_that_it_names_be_used(client, a_request, a_consent, notice):
    assert client("consent").post("/v1/consents", json=a_consent()).status_code == 201
    answer = client("checkout").post("/v1/assessments", json=a_request())
    assert {b["category"] for b in answer.json["basis"]} == set(a_consent()["categories"])
    assert {m["category"] for m in answer.json["masked"]} == {"member.optional", "location.gps"}


def test_a_retry_gets_the_same_bytes_and_counts_once(client, a_request, parts):
    checkout, body = client("checkout"), a_request()
    body["device"]["colour"] = "black"
    first = checkout.post("/v1/assessments", json=body)
    again = checkout.post("/v1/assessments", json=dict(reversed(body.items())))
    assert first.json["warnings"][0]["input_pointer"] == "/device/colour"
    assert again.get_data() == first.get_data()
    assert len(windows(parts)) == 1
    assert parts.ledger.rows("SELECT COUNT(*) FROM log WHERE kind = 'assessment'") == [(1,)]


def test_the_same_event_with_another_body_is_a_conflict(client, a_request):
    checkout = client("checkout")
    checkout.post("/v1/assessments", json=a_request())
    answer = checkout.post("/v1/assessments", json=a_request(mode="evaluate"))
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (409, "/event_id")


def test_an_answer_can_be_read_again_by_its_checkout_and_by_analysts(client, a_request):
    checkout = client("checkout")
    answer = checkout.post("/v1/assessments", json=a_request())
    path = f"/v1/assessments/{answer.json['assessment_id']}"
    assert checkout.get(path).get_data() == answer.get_data()
    assert client("analyst").get(path).get_data() == answer.get_data()
    assert client("checkout").get(path).status_code == 404  # another checkout's


def test_a_refusal_is_recorded_and_says_what_it_may_cost(client, a_request, parts):
    checkout = client("checkout")
    body = a_request(purpose="security.account_risk", transaction=None)
    body["event"]["type"] = "login"
    answer = checkout.post("/v1/assessments", json=body)
    assert (answer.status_code, answer.content_type) == (403, "application/problem+json")
    assert answer.json["type"].endswith("/no-lawful-basis")
    assert answer.json["missing"] == ["member.required"]
    assert "browsing" in answer.json["never_withheld"]
    assert checkout.post("/v1/assessments", json=body).get_data() == answer.get_data()
    path = f"/v1/assessments/{answer.json['assessment_id']}"
    assert checkout.get(path).get_data() == answer.get_data()
    assert windows(parts, "login") == []


def test_a_purpose_that_is_not_for_scores_is_refused_and_recorded(client, a_request):
    answer = client("checkout").post("/v1/assessments", json=a_request(purpose="marketing.push"))
    assert answer.status_code == 403
    assert answer.json["type"].endswith("/no-lawful-basis")


def test_a_guest_is_judged_for_incidents_on_device_and_log_alone(client, a_request):
    body = a_request(purpose="security.incident_detection", member=None, transaction=None)
    body["event"]["type"] = "login"
    answer = client("checkout").post("/v1/assessments", json=body)
    assert answer.status_code == 200
    assert {b["kind"] for b in answer.json["basis"]} == {"non_personal"}
    assert "regist" not in answer.get_data(as_text=True)  # nobody is told to become a member


@pytest.mark.parametrize("place", ["log", "communication", "dispute", "transaction"])
def test_what_was_searched_looked_at_or_said_is_kept_nowhere(client, a_request, raw, place):
    """R-16, R-19, R-20: the watchdog looks for it in all that is written, and we in the answer."""
    body, said = a_request(), raw("how do i leave him quietly")
    what = {"queries": [said], "pages": [f"/help/{said}"], "content": said}
    body[place] = body.get(place, {}) | what
    answer = client("checkout").post("/v1/assessments", json=body)
    assert answer.status_code == 200
    assert said not in answer.get_data(as_text=True)
    if place != "communication":  # it is known, to be refused
        assert f"/{place}" in {
            w["input_pointer"][: len(place) + 1] for w in answer.json["warnings"]
        }
    else:
        assert {"category": place, "why": "purpose_change"} in answer.json["masked"]


def test_what_is_near_the_device_is_left_out_and_kept_nowhere(client, a_request, raw):
    """R-15: the watchdog looks for it in all that is written."""
    body, near = a_request(), raw("home of the Smiths")
    body["location"] = {"wifi": [{"ssid": near}], "bluetooth": near, "base_station": {"x": near}}
    body["device"] = body.get("device", {}) | {"permissions": ["location.wifi"]}
    answer = client("checkout").post("/v1/assessments", json=body)
    assert answer.status_code == 200
    masked = {one["category"]: one["why"] for one in answer.json["masked"]}
    assert masked["location.wifi"] == "default"
    assert masked["location.bluetooth"] == masked["location.base_station"] == "no_permission"
    assert near not in answer.get_data(as_text=True)


@pytest.mark.parametrize(
    ("part", "value", "pointer"),
    [
        ("threat_type", "13800138000", "/threat_type"),
        ("threat_type", "", "/threat_type"),
        ("threat_type", 5, "/threat_type"),
        ("device", {"id": "d", "id_kind": "13800138000"}, "/device/id_kind"),
    ],
)
def test_a_threat_or_a_kind_of_identifier_is_one_of_its_list(
    client, a_request, parts, part, value, pointer
):
    answer = client("checkout").post("/v1/assessments", json=a_request(**{part: value}))
    assert answer.status_code == 400
    assert [fault["pointer"] for fault in answer.json["errors"]] == [pointer]
    assert "13800138000" not in answer.get_data(as_text=True)
    assert parts.ledger.event("evt_0001") is None


def test_an_amount_in_another_currency_than_the_one_set_is_refused(
    settings: Settings, a_request
) -> None:
    app = create_app(dataclasses.replace(settings, currency="CNY"))
    parts = app.extensions["sectionfour"]
    try:
        key = create_key(parts.ledger, "checkout", parts.clock())
        headers = {"Authorization": f"Bearer {key}"}

        def ask(body) -> Any:
            return app.test_client().post("/v1/assessments", json=body, headers=headers)

        other = a_request()
        other["transaction"]["currency"] = "EUR"
        for mode in ("protect", "evaluate"):
            answer = ask(other | {"mode": mode})
            assert answer.status_code == 400
            assert [fault["pointer"] for fault in answer.json["errors"]] == [
                "/transaction/currency"
            ]
        assert parts.ledger.rows("SELECT 1 FROM assessments") == []
        assert parts.velocity.unsettled(1 << 62) == []
        assert ask(a_request()).status_code == 200
        assert ask(a_request(2, purpose="security.account_risk", transaction=None)).status_code in (
            200,
            403,
        )
    finally:
        parts.close()
    with pytest.raises(SettingsError, match="CNY"):
        Settings(currency="yuan")


def test_evaluate_answers_and_records_but_changes_no_window(client, a_request, parts):
    answer = client("checkout").post("/v1/assessments", json=a_request(mode="evaluate"))
    assert answer.status_code == 200
    assert windows(parts) == []
    assert parts.ledger.event("evt_0001") is None


def test_an_event_may_not_bear_a_name_of_the_services_own(client, a_request):
    answer = client("checkout").post("/v1/assessments", json=a_request(event_id="label:lb_1"))
    assert answer.json["errors"][0]["pointer"] == "/event_id"


def test_nothing_is_scored_where_the_ledger_cannot_be_read(
    client, a_request, parts, down, monkeypatch
):
    checkout = client("checkout")
    monkeypatch.setattr(type(parts.keys), "subject", lambda *_, **__: b"0" * 16)
    with down("consents"):
        answer = checkout.post("/v1/assessments", json=a_request())
    assert (answer.status_code, answer.json["type"]) == (503, "/problems/fail-closed")
    assert parts.ledger.rows("SELECT COUNT(*) FROM assessments") == [(0,)]


def test_a_fault_is_answered_without_detail_and_logged_without_values(
    app, client, a_request, monkeypatch, caplog, raw
):
    checkout = client("checkout")
    secret = raw("raw-value-in-a-message")

    def broken(*_: Any, **__: Any) -> Any:
        raise KeyError(secret)

    monkeypatch.setattr("sectionfour.web.assess.decide", broken)
    answer = checkout.post("/v1/assessments", json=a_request())
    assert (answer.status_code, answer.content_type) == (500, "application/problem+json")
    told = [r.getMessage() for r in caplog.records if r.name == "sectionfour"]
    assert any("KeyError at" in line and "assess.py" in line for line in told)


def test_what_is_wrong_in_one_line_of_a_batch_is_a_fault_of_that_line(
    client, a_request, monkeypatch
):
    from sectionfour.web import assess

    real = assess.decide

    def broken_once(given: Any, *args: Any, **kwargs: Any) -> Any:
        if given.event_id == "evt_0002":
            raise KeyError(given.member.id)
        return real(given, *args, **kwargs)

    monkeypatch.setattr(assess, "decide", broken_once)
    sent = "\n".join(json.dumps(a_request(n)) for n in (1, 2, 3))
    answer = client("checkout").post("/v1/assessments/batch", data=sent)
    found = lines(answer)
    assert [line.get("status") for line in found] == ["scored_masked", 500, "scored_masked"]
    assert found[1]["line"] == 2
    assert b"raw-member" not in answer.get_data()


# --- batches


def test_a_batch_is_answered_line_by_line_in_order(client, a_request):
    checkout = client("checkout")
    bad = a_request(3, purpose="no.such")
    sent = [json.dumps(a_request(1)), "{", "", json.dumps(bad), json.dumps(a_request(2))]
    answer = checkout.post(
        "/v1/assessments/batch", data="\r\n".join(sent), content_type="application/x-ndjson"
    )
    assert (answer.status_code, answer.content_type) == (200, "application/x-ndjson")
    found = lines(answer)
    assert [line.get("event_id") for line in found] == ["evt_0001", None, None, "evt_0002"]
    assert [line["line"] for line in found[1:3]] == [2, 4]
    assert found[2]["errors"][0]["pointer"] == "/purpose"
    single = checkout.post("/v1/assessments", json=a_request(1))
    assert single.get_data() == answer.get_data().splitlines()[0]


def test_a_line_over_the_limit_is_passed_over_and_the_others_go_on(client, a_request):
    long = json.dumps(a_request(1, communication="x" * LIMIT))
    sent = "\n".join([long, json.dumps(a_request(2)), "x" * 3 * LIMIT, json.dumps(a_request(3))])
    found = lines(client("checkout").post("/v1/assessments/batch", data=sent))
    assert [line["status"] for line in found] == [413, "scored_masked", 413, "scored_masked"]


def test_a_batch_goes_no_further_once_its_caller_is_gone(app, client, parts, a_request):
    """Whatever of it has come by then."""

    def kept() -> int:
        return int(parts.ledger.rows("SELECT COUNT(*) FROM assessments")[0][0])

    sent = "\n".join(json.dumps(a_request(number)) for number in range(1, 1_001))
    headers = {"Authorization": f"Bearer {client('checkout').key}"}
    caller = FlaskClient(app, app.response_class)
    answer = caller.post("/v1/assessments/batch", data=sent, headers=headers)
    assert json.loads(next(answer.response))["event_id"] == "evt_0001"
    answer.close()
    before = kept()
    time.sleep(0.5)
    assert 1 <= kept() <= before + 1 < 1_000


def test_a_batch_ends_after_ten_thousand_lines(client, monkeypatch):
    monkeypatch.setattr("sectionfour.web.assess.MOST_LINES", 3)
    found = lines(client("checkout").post("/v1/assessments/batch", data="{\n" * 9))
    assert [line["status"] for line in found] == [400, 400, 400, 413]


# --- reviews


def test_a_review_is_asked_for_once(client, a_request):
    checkout = client("checkout")
    link = checkout.post("/v1/assessments", json=a_request()).json["human_review"]
    first = checkout.post(link)
    assert (first.status_code, first.json["state"]) == (201, "open")
    again = checkout.post(link)
    assert (again.status_code, again.json) == (200, first.json)
    assert client("checkout").post(link).status_code == 404


# --- labels


def test_a_label_is_idempotent_by_its_id_and_by_what_it_says(client, a_request, parts):
    checkout = client("checkout")
    checkout.post("/v1/assessments", json=a_request())
    body = {"event_id": "evt_0001", "label": "chargeback", "source": "bank"}
    first = checkout.post("/v1/labels", json=body)
    assert first.status_code == 201
    again = checkout.post("/v1/labels", json=body)
    assert (again.status_code, again.json) == (200, first.json)
    named = checkout.post("/v1/labels", json=body | {"label_id": first.json["label_id"]})
    assert (named.status_code, named.json) == (200, first.json)
    other = checkout.post(
        "/v1/labels", json=body | {"label_id": first.json["label_id"], "label": "legitimate"}
    )
    assert (other.status_code, other.json["errors"][0]["pointer"]) == (409, "/label_id")
    assert len(windows(parts, FRAUD)) == 1


def test_a_known_fraud_enters_the_windows_under_the_tokens_of_its_event(client, a_request, parts):
    checkout = client("checkout")
    checkout.post("/v1/assessments", json=a_request())
    said = checkout.post(
        "/v1/labels", json={"event_id": "evt_0001", "label": "chargeback", "source": "bank"}
    ).json
    (purchase,), (fraud,) = windows(parts), windows(parts, FRAUD)
    assert (fraud.member, fraud.payee) == (purchase.member, purchase.payee)
    assert fraud.device is None  # masked then, missing now
    label = parts.ledger.label(said["label_id"])
    assert label is not None
    assert label.at > purchase.at
    assert parts.velocity.unsettled(1 << 62)[-1][0] == label.at
    assert parts.ledger.event(f"label:{label.label_id}") is None


def test_a_suspicion_stays_out_of_the_windows_and_an_all_clear_enters_them(
    client, a_request, parts
):
    checkout = client("checkout")
    checkout.post("/v1/assessments", json=a_request())
    for label in ("suspected_fraud", "legitimate"):
        body = {"event_id": "evt_0001", "label": label, "source": "bank"}
        assert checkout.post("/v1/labels", json=body).status_code == 201
    assert windows(parts, FRAUD) == []
    assert len(windows(parts, CLEARED)) == 1


def test_a_label_of_a_member_carries_the_member_alone(client, a_request, parts, raw):
    client("checkout").post("/v1/assessments", json=a_request())
    body = {"member_id": "raw-member-1", "label": "account_takeover", "source": "support"}
    answer = client("analyst").post("/v1/labels", json=body)
    assert answer.status_code == 201
    assert "raw-member" not in answer.get_data(as_text=True)
    (fraud,) = windows(parts, FRAUD)
    assert fraud.member == parts.keys.subject("raw-member-1")
    assert fraud.payee is None


def test_a_label_that_was_interrupted_is_made_whole_by_sending_it_again(
    client, a_request, parts, down
):
    checkout = client("checkout")
    checkout.post("/v1/assessments", json=a_request())
    body = {"event_id": "evt_0001", "label": "chargeback", "source": "bank"}
    with down("add_label"):
        assert checkout.post("/v1/labels", json=body).status_code == 503
    assert checkout.post("/v1/labels", json=body).status_code == 201
    assert len(windows(parts, FRAUD)) == 1


@pytest.mark.parametrize(
    ("change", "status", "pointer"),
    [
        ({"event_id": "evt_9999"}, 404, "/event_id"),
        ({"event_id": None, "member_id": "raw-member-9"}, 404, "/member_id"),
        ({"member_id": "raw-member-1"}, 400, "/event_id"),
        ({"event_id": None}, 400, "/event_id"),
        ({"known_at": "2020-01-01T00:00:00Z"}, 400, "/known_at"),
        ({"known_at": "2999-01-01T00:00:00Z"}, 400, "/known_at"),
        ({"known_at": "2026-11-24"}, 400, "/known_at"),
        ({"label": "fraud"}, 400, "/label"),
        ({"source": "a b"}, 400, "/source"),
    ],
)
def test_a_label_that_cannot_be_is_refused(client, a_request, parts, raw, change, status, pointer):
    raw("raw-member-9")
    client("checkout").post("/v1/assessments", json=a_request())
    body = {"event_id": "evt_0001", "label": "chargeback", "source": "bank"} | change
    body = {key: value for key, value in body.items() if value is not None}
    answer = client("analyst").post("/v1/labels", json=body)
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (status, pointer)
    assert parts.ledger.rows("SELECT COUNT(*) FROM labels") == [(0,)]
    assert windows(parts, FRAUD) == []


# --- receipts


def test_a_receipt_is_proven_by_a_verifier_of_its_own(client, a_request, tmp_path):
    checkout, privacy = client("checkout"), client("privacy")
    for number in range(1, 8):
        answer = checkout.post("/v1/assessments", json=a_request(number)).json
    found = privacy.get(answer["receipt"]["proof"])
    leaf = base64.b64decode(found.json["leaf"])
    assert merkle.leaf_hash(leaf).hex() == answer["receipt"]["leaf_hash"]
    assert json.loads(leaf) == found.json["receipt"]
    assert leaf in found.get_data()  # unchanged even inside the JSON
    assert found.json["proof"].endswith(found.json["checkpoint"])
    plain = privacy.get(answer["receipt"]["proof"], headers={"Accept": "text/plain"})
    assert plain.content_type == "text/plain; charset=utf-8"
    assert plain.get_data(as_text=True) == found.json["proof"]
    receipt, proof = tmp_path / "receipt.json", tmp_path / "proof.txt"
    receipt.write_bytes(leaf)
    proof.write_text(found.json["proof"])
    command = [sys.executable, str(VERIFIER), found.json["vkey"], str(receipt), str(proof)]
    assert subprocess.run(command, check=False).returncode == 0
    receipt.write_bytes(leaf.replace(b"score", b"share", 1))
    assert subprocess.run(command, check=False, capture_output=True).returncode == 1


def test_only_assessments_have_receipts_here(client, a_consent, notice):
    record = client("consent").post("/v1/consents", json=a_consent()).json["record_id"]
    for name in (record, "as_none", "pn_security@1"):
        assert client("privacy").get(f"/v1/receipts/{name}").status_code == 404


def test_the_newest_checkpoint_is_published_and_an_empty_log_has_none(app, client):
    privacy = client("privacy")
    first = privacy.get("/v1/log/checkpoint")  # the entry about the key itself
    assert first.status_code == 200
    assert first.content_type == "text/plain; charset=utf-8"
    assert first.get_data(as_text=True).splitlines()[1] == "1"
    client("checkout")
    assert privacy.get("/v1/log/checkpoint").get_data() == first.get_data()
    notary, parts = app.extensions["sectionfour.notary"], app.extensions["sectionfour"]
    notary.extend(parts.clock())
    newest = privacy.get("/v1/log/checkpoint").get_data(as_text=True)
    assert newest.splitlines()[1] == "2"
    assert list(notary.verify()) == []


# --- health and figures


def test_ready_says_that_the_windows_are_stale(app, client):
    parts = app.extensions["sectionfour"]
    assert client().get("/healthz").json == {"status": "up"}
    assert client().get("/readyz").json == {"status": "ready"}
    parts.velocity.clear()
    stale = client().get("/readyz")
    assert (stale.status_code, stale.json["type"]) == (503, "/problems/not-ready")
    assert "windows" in stale.json["detail"]


def test_ready_names_a_model_that_is_missing(settings):
    app = create_app(dataclasses.replace(settings, models=settings.home / "none"))
    try:
        answer = app.test_client().get("/readyz")
        assert (answer.status_code, answer.json["type"]) == (503, "/problems/registry")
        assert "transaction" in answer.json["detail"]
    finally:
        app.extensions["sectionfour"].close()


def test_ready_fails_where_the_ledger_cannot_be_read(client, down):
    with down("size"):
        answer = client().get("/readyz")
    assert (answer.status_code, answer.json["type"]) == (503, "/problems/fail-closed")


@pytest.mark.sqlite
@pytest.mark.parametrize("name", ["ledger.db", "keys/ring.json"])
def test_ready_fails_where_a_file_was_moved_from_under_the_service(client, settings, name):
    service, file = client(), settings.home / name
    assert service.get("/readyz").status_code == 200
    file.rename(file.with_suffix(".moved"))
    assert service.get("/readyz").status_code == 503
    file.with_suffix(".moved").rename(file)
    assert service.get("/readyz").status_code == 200


def test_metrics_count_answers_refusals_and_errors_without_identifiers(client, a_request):
    checkout = client("checkout")
    checkout.post("/v1/assessments", json=a_request(1))
    checkout.post("/v1/assessments", json=a_request(2, purpose="security.account_risk"))
    checkout.post("/v1/assessments", json=a_request(3, mode="other"))
    text = client().get("/metrics").get_data(as_text=True)
    said = 'purpose="security.transaction_risk",status="scored_masked"} 1.0'
    assert any(
        line.startswith("sectionfour_assessments_total") and line.endswith(said)
        for line in text.splitlines()
    )
    assert 'outcome="none",purpose="security.account_risk",status="refused"} 1.0' in text
    assert 'missing="member.required",purpose="security.account_risk"} 1.0' in text
    assert 'sectionfour_errors_total{code="bad-request"} 1.0' in text
    assert "sectionfour_assessment_seconds_count 2.0" in text
    assert "sectionfour_log_entries 3.0" in text  # the key, and two receipts
    for private in ("evt_0001", "raw-", "k_", "as_"):
        assert private not in text


def test_metrics_can_be_switched_off(settings: Settings):
    app = create_app(dataclasses.replace(settings, metrics=False))
    try:
        assert app.test_client().get("/metrics").status_code == 404
    finally:
        app.extensions["sectionfour"].close()


# --- what the ledger has to do with it


@pytest.mark.sqlite
def test_a_ledger_of_another_version_is_not_opened(settings: Settings):
    create_app(settings).extensions["sectionfour"].close()
    with sqlite3.connect(settings.home / "ledger.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(FailClosed):
        create_app(settings)


def test_a_clock_of_its_own_lets_a_service_live_through_the_past(settings: Settings, tmp_path):
    clock = tmp_path / "clock"
    clock.write_text("2018-08-08T02:00:00+02:00\n")
    app = create_app(dataclasses.replace(settings, clock=clock))
    parts = app.extensions["sectionfour"]
    assert parts.clock() == 1_533_686_400_000_000
    clock.write_text("2018-08-08T00:00:00.000001Z")
    assert parts.clock() == 1_533_686_400_000_001
    for text in ("yesterday", "2018-08-08T00:00:00", ""):
        clock.write_text(text)
        with pytest.raises(SettingsError, match="does not tell a time"):
            parts.clock()
    parts.close()
