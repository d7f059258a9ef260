"""Cases: opened by outcomes and appeals, closed by verdicts that become labels; names told once."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sectionfour.verify import verify


def listed(client: Any, state: str = "open") -> list[dict[str, Any]]:
    answer = client("analyst").get(f"/v1/cases?state={state}")
    assert answer.status_code == 200, answer.json
    return list(answer.json["cases"])


# --- which open, and how they are read -------------------------------------------------------


@pytest.mark.parametrize("action", ["allow", "block", "challenge", "review"])
@pytest.mark.parametrize("mode", ["protect", "evaluate"])
def test_review_and_block_open_a_case_and_nothing_else_does(client, assessed, action, mode, sound):
    told = assessed(action, "e1", mode=mode)
    found = listed(client)
    opens = mode == "protect" and action in ("review", "block")
    assert len(found) == opens
    if opens:
        assert found[0]["assessment"] == told
        assert (found[0]["why"], found[0]["state"]) == (action, "open")


@pytest.mark.sqlite
def test_a_case_costs_one_statement_where_it_is_asked_for_and_none_elsewhere(assessed, parts):
    for action, most in (("allow", 0), ("block", 1)):
        said: list[str] = []
        parts.ledger._database._writer.set_trace_callback(said.append)
        assessed(action, f"e-{action}")
        parts.ledger._database._writer.set_trace_callback(None)
        assert sum("INTO cases" in statement for statement in said) == most
        assert sum(statement == "COMMIT" for statement in said) == 1


def test_a_retry_opens_no_second_case(client, assessed):
    assert assessed("block", "e1") == assessed("block", "e1")
    assert len(listed(client)) == 1


def test_an_appeal_opens_a_case_of_any_answer(client, assessed, a_request, sound):
    told = assessed("allow", "e1")
    checkout = client("checkout")
    refused = client("checkout")
    body = a_request(2, event_id="e2", purpose="security.account_risk")
    said = refused.post("/v1/assessments", json=body).json
    assert said["status"] == 403
    assert refused.post(said["human_review"]).status_code == 201
    assert client("analyst").post(told["human_review"]).status_code == 201
    found = listed(client)
    assert [case["why"] for case in found] == ["appeal", "appeal"]
    assert checkout.get("/v1/cases").status_code == 403
    verdict = {"verdict": "legitimate", "note": ""}
    path = f"/v1/cases/{found[0]['case_id']}/verdict"
    closed = client("analyst").post(path, json=verdict)
    assert (closed.status_code, closed.json["label_id"]) == (201, None)  # there was no event


def test_the_list_goes_on_where_it_ended(client, assessed):
    names = [assessed("block", f"e{n}")["assessment_id"] for n in range(5)]
    analyst, seen, after = client("analyst"), [], ""
    while True:
        page = analyst.get(f"/v1/cases?limit=2{after}").json
        seen += [case["assessment_id"] for case in page["cases"]]
        if "next" not in page:
            break
        after = f"&after={page['next']}"
    assert seen == names


@pytest.mark.parametrize(
    ("query", "pointer"),
    [("state=shut", "/state"), ("limit=0", "/limit"), ("limit=501", "/limit"),
     ("limit=x", "/limit"), ("limit=9999999999", "/limit"), ("after=cs_none", "/after")],
)  # fmt: skip
def test_a_list_that_cannot_be_is_refused_by_name(client, query, pointer):
    answer = client("analyst").get(f"/v1/cases?{query}")
    assert answer.status_code == 400
    assert answer.json["errors"][0]["pointer"] == pointer


def test_what_an_analyst_sees_is_under_tokens_of_that_case_alone(client, assessed, parts):
    for n in (1, 2):
        assessed("block", f"e{n}")
    analyst = client("analyst")
    pages = [analyst.get(f"/v1/cases/{case['case_id']}") for case in listed(client)]
    kept = msgspec.structs.asdict(parts.ledger.event("e1"))
    tokens = {value.hex() for value in kept.values() if isinstance(value, bytes)}
    seen = [
        {v for k, v in page.json["seen"].items() if isinstance(kept.get(k), bytes)}
        for page in pages
    ]
    assert len(seen[0]) == len(tokens) == 10
    assert not seen[0] & seen[1]  # one member, one device: and no join between two cases
    assert not (seen[0] | seen[1]) & tokens
    assert pages[0].json["seen"]["occurred_at"].endswith(":00.000000Z")
    assert pages[0].json["seen"]["amount"] == 129_900


# --- verdicts --------------------------------------------------------------------------------


def test_a_verdict_is_a_label_in_the_windows_and_carries_what_a_measure_must(
    client, assessed, parts, raw, sound
):
    told = assessed("block", "e1")
    case = listed(client)[0]["case_id"]
    note = f"rang {raw('+8613911112222')}, the neighbour says so"
    analyst = client("analyst")
    body = {"verdict": "confirmed_fraud", "note": note, "measure": "freeze_account"}
    answer = analyst.post(f"/v1/cases/{case}/verdict", json=body)
    assert answer.status_code == 201
    assert answer.json["measure"] == {
        "action": "freeze_account",
        "reasons": [reason["code"] for reason in told["reasons"]],
        "receipt": told["receipt"]["proof"],
        "appeal": told["human_review"],
    }
    label = parts.ledger.label(answer.json["label_id"])
    assert (label.label, label.event_id, label.source) == ("confirmed_fraud", "e1", "analyst")
    assert analyst.get(f"/v1/cases/{case}").json["verdicts"][0]["note"] == note
    again = analyst.post(f"/v1/cases/{case}/verdict", json=body)
    assert (again.status_code, again.json) == (200, answer.json)
    assert listed(client) == []
    assert [c["case_id"] for c in listed(client, "closed")] == [case]
    other = client("analyst").post(f"/v1/cases/{case}/verdict", json=body)
    assert other.status_code == 409


def test_an_appeal_opens_a_closed_case_again_and_keeps_both_verdicts(
    client, assessed, parts, sound
):
    told = assessed("block", "e1")
    case, analyst = listed(client)[0]["case_id"], client("analyst")
    first = {"verdict": "confirmed_fraud", "measure": "block_transaction"}
    assert analyst.post(f"/v1/cases/{case}/verdict", json=first).status_code == 201
    assert analyst.post(told["human_review"]).status_code == 201
    assert listed(client)[0]["why"] == "appeal"
    second = {"verdict": "legitimate", "measure": "release"}
    assert analyst.post(f"/v1/cases/{case}/verdict", json=second).status_code == 201
    said = analyst.get(f"/v1/cases/{case}").json["verdicts"]
    assert [v["verdict"] for v in said] == ["confirmed_fraud", "legitimate"]
    assert parts.ledger.rows("SELECT state FROM reviews") == [("decided",)]
    assert parts.ledger.rows("SELECT COUNT(*) FROM labels") == [(2,)]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/verdict"),
        ({"verdict": "chargeback"}, "/verdict"),
        ({"verdict": "legitimate", "measure": "freeze_account"}, "/measure"),
        ({"verdict": "suspected_fraud", "measure": "block_transaction"}, "/measure"),
        ({"verdict": "legitimate", "measure": "shout"}, "/measure"),
        ({"verdict": "legitimate", "note": "x" * 5000}, "/note"),
    ],
)
def test_a_verdict_that_cannot_be_leaves_the_case_open(client, assessed, body, pointer):
    assessed("block", "e1")
    case = listed(client)[0]["case_id"]
    answer = client("analyst").post(f"/v1/cases/{case}/verdict", json=body)
    assert answer.status_code == 400
    assert answer.json["errors"][0]["pointer"] == pointer
    assert len(listed(client)) == 1


def test_a_case_that_is_not_there_is_not_found(client):
    analyst = client("analyst")
    for path, body in (
        ("/v1/cases/cs_x/verdict", {"verdict": "legitimate"}),
        ("/v1/cases/cs_x/reidentify", {"purpose": "security.account_risk", "reason": "why"}),
        ("/v1/reidentifications/ri_x/tell", None),
    ):
        assert analyst.post(path, json=body).status_code == 404
    assert analyst.get("/v1/cases/cs_x").status_code == 404


def test_a_changed_verdict_is_found(client, assessed, app, parts):
    assessed("block", "e1")
    case = listed(client)[0]["case_id"]
    client("analyst").post(f"/v1/cases/{case}/verdict", json={"verdict": "confirmed_fraud"})
    with parts.ledger.transaction() as connection:
        connection.execute("UPDATE verdicts SET verdict = 'legitimate'")
    assert any("verdict" in f for f in verify(parts, app.extensions["sectionfour.notary"]))


# --- who it is -------------------------------------------------------------------------------

ASK = {"purpose": "security.rule_violation", "reason": "the bank waits for a call back"}


def test_a_name_is_told_once_to_who_asked_once_another_has_approved(client, assessed, parts, sound):
    assessed("block", "e1")
    case = listed(client)[0]["case_id"]
    analyst, other, privacy = client("analyst"), client("analyst"), client("privacy")
    asked = analyst.post(f"/v1/cases/{case}/reidentify", json=ASK)
    assert asked.status_code == 201
    path = f"/v1/reidentifications/{asked.json['reidentification_id']}"
    assert analyst.post(f"{path}/tell").status_code == 409
    assert analyst.post(f"{path}/approve").status_code == 403
    assert privacy.post(f"{path}/approve").status_code == 200
    assert privacy.post(f"{path}/approve").status_code == 409
    assert other.post(f"{path}/tell").status_code == 403
    assert privacy.post(f"{path}/tell").status_code == 403
    told = analyst.post(f"{path}/tell")
    assert (told.status_code, told.json["member_id"]) == (200, "raw-member-1")
    assert analyst.post(f"{path}/tell").status_code == 409
    steps = parts.ledger.entries_of("reidentification", asked.json["reidentification_id"])
    actions = [msgspec.json.decode(leaf)["action"] for leaf in steps]
    assert actions == ["requested", "approved", "answered"]
    assert ASK["reason"].encode() not in b"".join(steps)


def test_what_has_expired_is_neither_approved_nor_told(client, assessed, parts):
    assessed("block", "e1")
    case = listed(client)[0]["case_id"]
    analyst, privacy = client("analyst"), client("privacy")
    for approve in (False, True):
        name = analyst.post(f"/v1/cases/{case}/reidentify", json=ASK).json["reidentification_id"]
        path = f"/v1/reidentifications/{name}"
        if approve:
            assert privacy.post(f"{path}/approve").status_code == 200
        with parts.ledger.transaction() as connection:
            connection.execute("UPDATE reidentifications SET expires_at = 1")
        assert privacy.post(f"{path}/approve").status_code == 409
        assert analyst.post(f"{path}/tell").status_code == 409


@pytest.mark.parametrize(
    ("change", "pointer"),
    [({"purpose": "marketing.push"}, "/purpose"), ({"purpose": None}, "/purpose"),
     ({"reason": "  "}, "/reason"), ({"reason": None}, "/reason")],
)  # fmt: skip
def test_no_purpose_or_no_reason_asks_in_vain(client, assessed, parts, change, pointer):
    assessed("block", "e1")
    case = listed(client)[0]["case_id"]
    answer = client("analyst").post(f"/v1/cases/{case}/reidentify", json=ASK | change)
    assert answer.status_code == 400
    assert answer.json["errors"][0]["pointer"] == pointer
    assert parts.ledger.rows("SELECT COUNT(*) FROM reidentifications") == [(0,)]
