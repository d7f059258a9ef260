"""Notices, consents and exceptions as the service takes them, and what the next assessment does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sectionfour.domain import instant, micros
from sectionfour.privacy import consent


def used(answer: Any) -> dict[str, str]:
    """Return the kind of basis of each category that an answer rests on."""
    return {basis["category"]: basis["kind"] for basis in answer.json["basis"]}


# --- notices


def test_a_notice_is_recorded_once_and_may_be_sent_again(client, a_notice, parts):
    consent_client = client("consent")
    first = consent_client.put("/v1/notices/pn_security", json=a_notice())
    again = consent_client.put("/v1/notices/pn_security", json=a_notice())
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.get_data() == again.get_data()
    assert "security.transaction_risk" in first.json["purposes"]
    assert parts.ledger.rows("SELECT COUNT(*) FROM log WHERE kind = 'notice'") == [(1,)]


def test_a_version_of_a_notice_does_not_change(client, a_notice):
    consent_client = client("consent")
    consent_client.put("/v1/notices/pn_security", json=a_notice())
    answer = consent_client.put("/v1/notices/pn_security", json=a_notice(text_sha256="6f" * 32))
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (409, "/version")
    other = a_notice(text_sha256="6f" * 32, version="2")
    assert consent_client.put("/v1/notices/pn_security", json=other).status_code == 200


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"text_sha256": "5F" * 32}, "/text_sha256"),
        ({"text_sha256": "5f" * 31}, "/text_sha256"),
        ({"purposes": ["security", "anything"]}, "/purposes/1"),
        ({"purposes": []}, "/purposes"),
        ({"categories": ["device", "shoe_size"]}, "/categories/1"),
        ({"valid_from": "2026-01-01"}, "/valid_from"),
        ({"version": "one two"}, "/version"),
        ({"language": "zh_CN"}, "/language"),
        ({"material": "yes"}, "/material"),
    ],
)
def test_a_notice_that_is_not_of_its_form_is_refused(client, a_notice, change, pointer):
    answer = client("consent").put("/v1/notices/pn_security", json=a_notice(**change))
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (400, pointer)


# --- consents


def test_a_withdrawal_holds_for_the_next_call(client, a_request, a_consent, notice):
    consents, checkout = client("consent"), client("checkout")
    record = consents.post("/v1/consents", json=a_consent()).json
    assert record["event_state"] == consent.GIVEN
    before = checkout.post("/v1/assessments", json=a_request(event_id="e1"))
    assert used(before)["device"] == "consent"
    for _ in range(2):
        ended = consents.post(f"/v1/consents/{record['record_id']}/withdraw")
        assert (ended.status_code, ended.json["event_state"]) == (200, consent.WITHDRAWN)
    after = checkout.post("/v1/assessments", json=a_request(event_id="e2"))
    assert "device" not in used(after)
    assert used(after)["order"] == "contract"


def test_the_same_words_sent_again_are_one_record_until_something_else_was_said(
    client, a_consent, notice, parts
):
    consents = client("consent")

    def give(**changes: Any) -> str:
        answer = consents.post("/v1/consents", json=a_consent(**changes))
        assert answer.status_code == 201
        return str(answer.json["record_id"])

    ahead = {"event_time": instant(parts.clock() + 4_000_000)}  # by a clock that goes before ours
    changed = [{}, {"categories": ["device"]}, {"validity_duration": "P1Y"}, ahead, {"number": 2}]
    records = [give(**changes) for changes in changed]
    assert len(set(records)) == len(records)
    assert [give(**changes) for changes in changed] == records
    listed = consents.get("/v1/members/raw-member-1/consents").json["records"]
    assert len(listed) == len(records) - 1
    assert consents.post(f"/v1/consents/{records[0]}/withdraw").status_code == 200
    anew = give()
    assert anew not in records
    assert give() == anew
    no = give(event_state="consent_refused", categories=["device"])
    assert give(event_state="consent_refused", categories=["device"]) == no
    assert give() not in (anew, no)


def test_of_yes_and_no_to_one_thing_the_later_counts(client, a_request, a_consent, notice):
    consents, checkout = client("consent"), client("checkout")
    turn = iter(range(100))

    def say(state, time, **about):
        body = a_consent(event_state=state, event_time=f"2026-11-{time:02}T09:00:00Z", **about)
        assert consents.post("/v1/consents", json=body).status_code == 201

    def now() -> set[str]:
        answer = checkout.post("/v1/assessments", json=a_request(event_id=f"e{next(turn)}"))
        return {category for category, kind in used(answer).items() if kind == "consent"}

    say(consent.GIVEN, 1)
    whole = now()
    assert {"device", "log", "location"} <= whole
    say(consent.REFUSED, 3, categories=["device"], purpose="security.transaction_risk")
    assert now() == whole - {"device"}
    for about in (
        {"purpose": "security.account_risk"},
        {"source": "affiliate:x"},
        {"categories": ["location.gps"]},
    ):
        say(consent.REFUSED, 4, **({"categories": ["log"]} | about))  # to other things
        assert now() == whole - {"device"}
    say(consent.REFUSED, 2, categories=["device"])  # sent late: the newer word is known
    say(consent.GIVEN, 2, categories=["device"])
    assert now() == whole - {"device"}
    say(consent.GIVEN, 5, categories=["device"])
    assert now() == whole
    say(consent.REFUSED, 6, categories=["log", "location"])
    assert now() == whole - {"log", "location"}


def test_a_member_may_see_every_record_and_what_it_folds_to(client, a_consent, notice, parts):
    consents = client("consent")
    first = consents.post("/v1/consents", json=a_consent(validity_duration="P1Y")).json
    consents.post("/v1/consents", json=a_consent(source="affiliate:pay"))
    consents.post(f"/v1/consents/{first['record_id']}/withdraw")
    for role in ("consent", "privacy"):
        found = client(role).get("/v1/members/raw-member-1/consents")
        assert [r["event_state"] for r in found.json["records"]] == [
            consent.WITHDRAWN,
            consent.GIVEN,
        ]
        assert [e["event_state"] for e in found.json["records"][0]["events"]] == [
            consent.GIVEN,
            consent.WITHDRAWN,
        ]
        assert found.json["records"][0]["expires_at"] == "2027-11-01T01:00:00.000000Z"
        assert found.json["records"][1]["source"] == "affiliate:pay"
        assert "raw-member" not in found.get_data(as_text=True)
    assert client("privacy").get("/v1/members/nobody%2Fat%20all/consents").json == {"records": []}


def test_looking_at_somebody_unknown_enrols_nobody(client, parts):
    client("privacy").get("/v1/members/raw-member-7/consents")
    assert parts.keys.subject("raw-member-7") is None


def test_a_member_id_may_hold_a_slash(client, a_consent, notice, raw):
    consents = client("consent")
    consents.post("/v1/consents", json=a_consent(member_id=raw("raw/member/1")))
    assert len(consents.get("/v1/members/raw%2Fmember%2F1/consents").json["records"]) == 1


def test_a_notice_must_be_there_before_a_consent_to_it(client, a_consent, a_notice):
    consents = client("consent")
    answer = consents.post("/v1/consents", json=a_consent())
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (404, "/notice")
    consents.put("/v1/notices/pn_security", json=a_notice(valid_from="2099-01-01T00:00:00Z"))
    assert consents.post("/v1/consents", json=a_consent()).status_code == 409


def test_a_newer_notice_with_a_material_change_ends_older_consents(
    client, a_request, a_consent, a_notice, notice
):
    consents, checkout = client("consent"), client("checkout")
    consents.post("/v1/consents", json=a_consent())
    immaterial = a_notice(version="2", valid_from="2026-02-01T00:00:00Z", material=False)
    consents.put("/v1/notices/pn_security", json=immaterial)
    answer = checkout.post("/v1/assessments", json=a_request(event_id="e1"))
    assert used(answer)["device"] == "consent"
    consents.put(
        "/v1/notices/pn_security", json=a_notice(version="3", valid_from="2026-03-01T00:00:00Z")
    )
    answer = checkout.post("/v1/assessments", json=a_request(event_id="e2"))
    assert "device" not in used(answer)
    (record,) = consents.get("/v1/members/raw-member-1/consents").json["records"]
    assert record["event_state"] == consent.INVALIDATED


def test_the_umbrella_stands_for_the_security_purposes_and_no_others(client, a_consent, notice):
    consents = client("consent")
    answer = consents.post("/v1/consents", json=a_consent()).json
    assert all(purpose.startswith("security.") for purpose in answer["purposes"])
    named = consents.post("/v1/consents", json=a_consent(purpose="security.account_risk")).json
    assert named["purposes"] == ["security.account_risk"]
    other = consents.post("/v1/consents", json=a_consent(purpose="marketing.push"))
    assert (other.status_code, other.json["errors"][0]["pointer"]) == (400, "/purpose")


@pytest.mark.parametrize(
    ("categories", "event_type", "warned"),
    [
        (["device"], "explicitly_expressed", []),
        (["device", "identity.document"], "explicitly_expressed", ["/categories/1"]),
        (["identity.document"], "implicitly_expressed", ["/categories/0"]),
        (["identity.document:passport"], "explicitly_expressed", []),
        (["device"], "implicitly_expressed", []),
    ],
)
def test_a_sensitive_category_needs_an_explicit_consent_of_its_own(
    client, a_request, a_consent, notice, categories, event_type, warned
):
    body = a_consent(categories=categories, event_type=event_type)
    answer = client("consent").post("/v1/consents", json=body)
    assert answer.status_code == 201
    assert [warning["input_pointer"] for warning in answer.json["warnings"]] == warned
    asked = a_request(identity={"document_verified": True, "document_type": "passport"})
    found = used(client("checkout").post("/v1/assessments", json=asked))
    for place, category in enumerate(categories):
        assert (category.partition(":")[0] in found) == (f"/categories/{place}" not in warned)


def test_a_clock_a_little_ahead_of_ours_is_taken_as_now(client, a_request, a_consent, notice):
    from datetime import UTC, datetime, timedelta

    def at(seconds: float) -> str:
        return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()

    consents = client("consent")
    answer = consents.post("/v1/consents", json=a_consent(event_time=at(3)))
    assert answer.json["event_state"] == consent.GIVEN
    assert used(client("checkout").post("/v1/assessments", json=a_request()))["log"] == "consent"
    later = consents.post("/v1/consents", json=a_consent(event_time=at(60)))
    assert (later.status_code, later.json["errors"][0]["pointer"]) == (400, "/event_time")


@pytest.mark.parametrize(
    ("purpose", "kind", "warned"),
    [
        ("security", "explicitly_expressed", True),  # section Four does not list it
        ("security.account_risk", "implicitly_expressed", True),
        ("security.account_risk", "explicitly_expressed", False),
        ("support.communicate", "implicitly_expressed", False),  # what it was collected for
    ],
)
def test_whoever_consents_to_a_change_of_purpose_in_a_way_that_does_not_do_is_told(
    client, a_request, a_consent, purpose, kind, warned
):
    """What no warning speaks of is a basis: what the gate says, the warning has said before."""
    consents = client("consent")
    notice = {
        "version": "1", "language": "en", "text_sha256": "a" * 64,
        "valid_from": "2026-01-01T00:00:00Z", "purposes": ["security", "support.communicate"],
        "categories": ["communication", "member.required"],
    }  # fmt: skip
    assert consents.put("/v1/notices/pn_security", json=notice).status_code == 200
    consents.post("/v1/consents", json=a_consent(categories=["member.required"]))
    answer = consents.post(
        "/v1/consents",
        json=a_consent(purpose=purpose, event_type=kind, categories=["communication"]),
    )
    assert answer.status_code == 201
    told = [(w["code"], w["input_pointer"]) for w in answer.json["warnings"]]
    assert told == ([("no_basis", "/categories/0")] if warned else [])
    if purpose != "support.communicate":
        body = a_request(purpose="security.account_risk", communication={"calls": 3})
        basis = used(client("checkout").post("/v1/assessments", json=body))
        assert ("communication" in basis) == (not warned)


def test_a_consent_that_is_over_is_no_basis(client, a_request, a_consent, notice):
    body = a_consent(event_time="2026-11-01T00:00:00Z", validity_duration="PT12H")
    answer = client("consent").post("/v1/consents", json=body)
    assert answer.json["event_state"] == consent.EXPIRED
    assert "device" not in used(client("checkout").post("/v1/assessments", json=a_request()))


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"member_id": " \t"}, "/member_id"),
        ({"member_id": ""}, "/member_id"),
        ({"member_id": "a\u0000b"}, "/member_id"),
        ({"notice": {"id": "pn_security"}}, "/notice/version"),
        ({"notice": "pn_security"}, "/notice"),
        ({"purpose": "anything"}, "/purpose"),
        ({"categories": []}, "/categories"),
        ({"categories": ["device", "shoe_size"]}, "/categories/1"),
        ({"categories": ["biometric.face"]}, "/categories/0"),
        ({"source": "affiliate"}, "/source"),
        ({"source": "somebody:1"}, "/source"),
        ({"event_type": "silent"}, "/event_type"),
        ({"event_time": "yesterday"}, "/event_time"),
        ({"validity_duration": "1 year"}, "/validity_duration"),
        ({"validity_duration": "P"}, "/validity_duration"),
        ({"validity_duration": "P1YT"}, "/validity_duration"),
        ({"validity_duration": "P0D"}, "/validity_duration"),
        ({"validity_duration": "P9999Y"}, "/validity_duration"),
        ({"validity_duration": "-P1D"}, "/validity_duration"),
    ],
)
def test_a_consent_that_is_not_of_its_form_is_refused_and_enrols_nobody(
    client, a_consent, notice, parts, change, pointer
):
    before = parts.ledger.size()
    answer = client("consent").post("/v1/consents", json=a_consent(**change))
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (400, pointer)
    assert parts.keys.subject("raw-member-1") is None
    assert parts.ledger.rows("SELECT COUNT(*) FROM consent_events") == [(0,)]
    assert parts.ledger.size() == before + 1  # the client's key


def test_withdrawing_what_is_not_there_is_not_found(client):
    assert client("consent").post("/v1/consents/cr_none/withdraw").status_code == 404


@given(days=st.integers(0, 5000), hours=st.integers(0, 5000), seconds=st.integers(0, 1_000_000))
def test_a_duration_without_years_and_months_is_a_sum(days, hours, seconds):
    from datetime import UTC, datetime, timedelta

    from sectionfour.errors import BadRequest
    from sectionfour.web.consents import _after

    start = datetime(2026, 11, 1, 9, tzinfo=UTC)
    text = f"P{days}DT{hours}H{seconds}S"
    expected = start + timedelta(days=days, hours=hours, seconds=seconds)
    if expected == start:
        with pytest.raises(BadRequest):
            _after(start, text)
    else:
        assert micros(_after(start, text)) == micros(expected)


@pytest.mark.parametrize(
    ("start", "duration", "end"),
    [
        ("2027-01-31", "P1M", "2027-02-28"),
        ("2028-01-31", "P1M", "2028-02-29"),
        ("2027-12-31", "P2M", "2028-02-29"),
        ("2027-03-01", "P1Y6M", "2028-09-01"),
        ("2027-03-01", "P2W", "2027-03-15"),
        ("2027-03-01", "P25M", "2029-04-01"),
    ],
)
def test_months_are_those_of_the_calendar(start, duration, end):
    from datetime import UTC, datetime

    from sectionfour.web.consents import _after

    day = datetime.fromisoformat(start).replace(tzinfo=UTC)
    assert _after(day, duration).date().isoformat() == end


# --- exceptions


def test_a_grant_is_approved_by_another_key_and_lets_the_named_member_be_scored(
    client, a_request, a_consent, an_exception, notice
):
    asking, checkout = client("privacy", "duty_manager"), client("checkout")
    approving = client("privacy", "duty_manager")
    body = a_request(purpose="security.account_risk", transaction=None)
    body["event"]["type"] = "login"

    def scored(number: int) -> Any:
        return checkout.post("/v1/assessments", json=body | {"event_id": f"login_{number}"})

    assert scored(1).status_code == 403
    grant = asking.post("/v1/exceptions", json=an_exception())
    assert (grant.status_code, grant.json["state"]) == (201, "requested")
    path = f"/v1/exceptions/{grant.json['grant_id']}"
    assert scored(2).status_code == 403
    own = asking.post(f"{path}/approve")
    assert (own.status_code, own.json["type"]) == (409, "/problems/conflict")
    live = approving.post(f"{path}/approve")
    assert (live.status_code, live.json["state"]) == (200, "live")
    assert used(scored(3)) == {"member.required": "exception", "device": "exception"}
    assert [scored(n).status_code for n in (4, 5, 6)] == [200, 200, 403]  # three uses
    assert asking.post(f"{path}/revoke").json["state"] == "revoked"
    assert asking.post(f"{path}/revoke").status_code == 409


def test_an_exception_for_one_order_holds_for_that_order_alone(
    client, a_request, an_exception, raw
):
    scope = {
        "order_id": raw("raw-order-1"),
        "categories": ["member.required", "order", "payment"],
        "purposes": ["security.transaction_risk"],
        "operations": ["score"],
        "sources": ["first_party"],
    }
    asking, approving, checkout = client("privacy"), client("privacy"), client("checkout")
    grant = asking.post("/v1/exceptions", json=an_exception(exception=7, scope=scope)).json
    approving.post(f"/v1/exceptions/{grant['grant_id']}/approve")
    body = a_request()
    body["event"]["type"] = "payout"  # no purchase: the contract is no basis
    answer = checkout.post("/v1/assessments", json=body)
    assert set(used(answer).values()) == {"exception"}
    other = a_request(2)
    other["event"]["type"] = "payout"
    assert checkout.post("/v1/assessments", json=other).status_code == 403


def test_all_eleven_can_be_asked_for_and_news_reporting_never_applies(client, an_exception):
    privacy = client("privacy")
    for number in range(1, 12):
        asked = an_exception(exception=number)
        if number == 10:
            asked["controller_type"] = "research_institution"
        answer = privacy.post("/v1/exceptions", json=asked)
        if number == 9:
            assert answer.status_code == 409
            assert "not_applicable" in answer.json["detail"]
        else:
            assert answer.status_code == 201, answer.json


def test_what_is_asked_in_vain_is_warned_of(client, an_exception):
    body = an_exception()
    body["scope"]["operations"] = ["score", "train"]
    body["scope"]["colour"] = "red"
    answer = client("privacy").post("/v1/exceptions", json=body)
    assert [w["input_pointer"] for w in answer.json["warnings"]] == [
        "/scope/colour",
        "/scope/operations",
    ]


@pytest.mark.parametrize(
    ("change", "status", "pointer"),
    [
        ({"exception": 12}, 400, "/exception"),
        ({"documents": []}, 400, "/documents"),
        ({"documents": [{"kind": "a"}]}, 400, "/documents/0/ref"),
        ({"documents": [{"kind": "incident", "ref": "b"}]}, 400, "/documents"),
        ({"consent_attempts": []}, 400, "/consent_attempts"),
        ({"documents": [{"kind": "a", "ref": "b", "sha256": "zz"}]}, 400, "/documents/0/sha256"),
        ({"necessity": "  "}, 400, "/necessity"),
        ({"max_uses": 0}, 400, "/max_uses"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, 400, "/expires_at"),
        ({"expires_at": "2099-01-01T00:00:00Z"}, 400, "/expires_at"),
        ({"sealed": True}, 400, "/sealed"),
        ({"scope": {}}, 400, "/scope/categories"),
    ],
)
def test_an_exception_that_cannot_be_asked_for_enrols_nobody(
    client, an_exception, parts, change, status, pointer
):
    answer = client("privacy").post("/v1/exceptions", json=an_exception(**change))
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (status, pointer)
    assert parts.keys.subject("raw-member-1") is None
    assert parts.ledger.rows("SELECT COUNT(*) FROM grants") == [(0,)]


def test_a_grant_that_was_revoked_meanwhile_is_not_brought_back_by_an_approval(
    client, an_exception, parts
):
    grant = client("privacy").post("/v1/exceptions", json=an_exception()).json["grant_id"]
    client("privacy").post(f"/v1/exceptions/{grant}/revoke")
    answer = client("privacy").post(f"/v1/exceptions/{grant}/approve")
    assert answer.status_code == 409
    found = parts.ledger.grant(grant)
    assert found is not None
    assert found.state == "revoked"


def test_the_log_says_of_a_grant_who_did_what_and_names_nobody(client, an_exception, parts):
    asking, approving = client("privacy"), client("privacy", "duty_manager")
    grant = asking.post("/v1/exceptions", json=an_exception()).json["grant_id"]
    approving.post(f"/v1/exceptions/{grant}/approve")
    rows = parts.ledger.rows("SELECT leaf FROM log WHERE ref = ? ORDER BY idx", grant)
    text = b"".join(row[0] for row in rows).decode()
    assert text.count('"action":"requested"') == text.count('"action":"approved"') == 1
    subject = parts.keys.subject("raw-member-1")
    assert subject is not None
    assert subject.hex() not in text
    assert parts.keys.alias(subject, "audit").hex() in text


def test_leaving_advertising_leaves_security_as_it_is_and_the_score_to_the_bit(
    client, a_notice, a_consent, a_request
):
    """R-08: who unsubscribes is scored as before, and as somebody who never subscribed."""
    by = client("consent")
    told = a_notice(purposes=["security", "marketing.push"])
    assert by.put("/v1/notices/pn_security", json=told).status_code == 200
    said = {"mode": "evaluate"}  # the windows stay as they are from one call to the next
    assert by.post("/v1/consents", json=a_consent()).status_code == 201
    scores = [client("checkout").post("/v1/assessments", json=a_request(event_id="a", **said))]
    advertising = by.post("/v1/consents", json=a_consent(purpose="marketing.push"))
    assert advertising.status_code == 201
    scores += [client("checkout").post("/v1/assessments", json=a_request(event_id="b", **said))]
    record = advertising.json["record_id"]
    assert by.post(f"/v1/consents/{record}/withdraw").status_code == 200
    scores += [client("checkout").post("/v1/assessments", json=a_request(event_id="c", **said))]
    assert len({answer.json["risk_score"] for answer in scores}) == 1
    assert used(scores[0]) == used(scores[1]) == used(scores[2])
    assert used(scores[2])["device"] == "consent"
