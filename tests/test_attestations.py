"""Sources, consignees and documents: what others share or are needs more than a member's yes."""

from __future__ import annotations

from typing import Any

import pytest

from sectionfour.bootstrap import open_notary
from sectionfour.features.catalog import FEATURES
from sectionfour.privacy import attestations
from sectionfour.privacy.regime import load
from sectionfour.verify import verify

PROVIDER = "partner:p1"


def an_attestation(**changes: Any) -> dict[str, Any]:
    return {
        "provider": "p1",
        "provider_role": "partner",
        "legal_ground": "subject_authorised",
        "evidence_sha256": "ab" * 32,
        "categories": ["device", "credit.realname", "member.optional"],
        "purposes": ["security"],
        "expires_at": "2099-01-01T00:00:00Z",
    } | changes


@pytest.fixture
def wide_notice(client, a_notice):
    categories = [*load().categories]
    return client("consent").put("/v1/notices/pn_security", json=a_notice(categories=categories))


def basis(answer: Any, category: str) -> dict[str, Any] | None:
    assert answer.status_code == 200, answer.json
    return next((b for b in answer.json["basis"] if b["category"] == category), None)


def why(answer: Any, category: str) -> str | None:
    return next((m["why"] for m in answer.json["masked"] if m["category"] == category), None)


def test_a_partners_data_need_an_attestation_and_the_members_consent_to_that_source(
    client, a_request, a_consent, wide_notice
):
    consents, checkout = client("consent"), client("checkout")

    def ask(number: int) -> Any:
        body = a_request(event_id=f"e{number}", sources={"device": PROVIDER})
        return checkout.post("/v1/assessments", json=body)

    consents.post("/v1/consents", json=a_consent())
    consents.post("/v1/consents", json=a_consent(source=PROVIDER))
    assert why(ask(1), "device") == "no_attestation"
    for changes in (
        {"provider": "p2"},
        {"provider_role": "affiliate"},
        {"categories": ["log"]},
        {"purposes": ["security.account_risk"]},
    ):
        assert consents.post("/v1/attestations", json=an_attestation(**changes)).status_code == 201
    assert why(ask(2), "device") == "no_attestation"
    made = consents.post("/v1/attestations", json=an_attestation())
    assert (made.status_code, made.json["state"]) == (201, "live")
    name = made.json["attestation_id"]
    found = basis(ask(3), "device")
    assert found is not None
    assert (found["kind"], found["attestation"]) == ("subject_authorised", name)
    for _ in range(2):
        assert consents.get(f"/v1/attestations/{name}").json["source"] == PROVIDER
    assert consents.post(f"/v1/attestations/{name}/revoke").json["state"] == "revoked"
    assert consents.post(f"/v1/attestations/{name}/revoke").status_code == 409
    assert why(ask(4), "device") == "no_attestation"
    assert consents.get(f"/v1/attestations/{name}").json["state"] == "revoked"


def test_what_the_law_shares_needs_a_citation_and_no_consent(client, a_request, wide_notice):
    consents, checkout = client("consent"), client("checkout")
    law = an_attestation(legal_ground="statutory")
    refused = consents.post("/v1/attestations", json=law)
    assert (refused.status_code, refused.json["errors"][0]["pointer"]) == (400, "/citation")
    kept = consents.post("/v1/attestations", json=law | {"citation": "E-Commerce Law, art. 31"})
    body = a_request(sources={"device": PROVIDER, "member.optional": PROVIDER})
    answer = checkout.post("/v1/assessments", json=body)
    name = kept.json["attestation_id"]
    found = {"category": "device", "kind": "statutory", "ref": name, "attestation": name}
    assert basis(answer, "device") == found
    assert why(answer, "member.optional") == "default"  # only if named, and the law names nobody


def test_data_without_an_attestation_add_exactly_nothing_to_the_score(
    client, a_request, a_consent, wide_notice
):
    consents, checkout = client("consent"), client("checkout")
    consents.post("/v1/consents", json=a_consent())
    consents.post("/v1/consents", json=a_consent(source=PROVIDER))
    with_it = a_request(event_id="e1", mode="evaluate", sources={"device": PROVIDER})
    with_it["device"]["permissions"] = []
    without = a_request(event_id="e2", mode="evaluate", device=None)
    scores = [checkout.post("/v1/assessments", json=b).json for b in (with_it, without)]
    assert scores[0]["risk_score"] == scores[1]["risk_score"]
    assert scores[0]["reasons"] == scores[1]["reasons"]


def test_a_credit_check_comes_from_a_partner_explicitly_consented_to(
    client, a_request, a_consent, wide_notice
):
    consents, checkout = client("consent"), client("checkout")
    alone = {"categories": ["credit.realname"]}
    consents.post("/v1/consents", json=a_consent(**alone))
    consents.post("/v1/attestations", json=an_attestation())

    def ask(number: int, **sources: Any) -> Any:
        body = a_request(event_id=f"e{number}", identity={"credit_band": 3}, sources=sources)
        return checkout.post("/v1/assessments", json=body)

    partner = {"credit.realname": PROVIDER}
    assert why(ask(1), "credit.realname") == "no_attestation"
    assert why(ask(2, **partner), "credit.realname") == "no_basis"
    implied = a_consent(**alone, source=PROVIDER, event_type="implicitly_expressed")
    consents.post("/v1/consents", json=implied)
    assert why(ask(3, **partner), "credit.realname") == "no_basis"
    consents.post("/v1/consents", json=a_consent(**alone, source=PROVIDER))
    found = basis(ask(4, **partner), "credit.realname")
    assert found is not None
    assert found["kind"] == "subject_authorised"


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"provider_role": "counterparty"}, "/provider_role"),
        ({"provider_role": "friend"}, "/provider_role"),
        ({"legal_ground": "whim"}, "/legal_ground"),
        ({"categories": []}, "/categories"),
        ({"categories": ["device", "shoe_size"]}, "/categories/1"),
        ({"purposes": ["marketing.push"]}, "/purposes/0"),
        ({"purposes": ["anything"]}, "/purposes/0"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
        ({"evidence_sha256": "zz"}, "/evidence_sha256"),
        ({"provider": "a b"}, "/provider"),
    ],
)
def test_an_attestation_that_is_not_of_its_form_is_refused(client, parts, change, pointer):
    answer = client("consent").post("/v1/attestations", json=an_attestation(**change))
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (400, pointer)
    assert parts.ledger.rows("SELECT COUNT(*) FROM attestations") == [(0,)]


def test_an_attestation_ends_by_itself(client, parts):
    client("consent").post("/v1/attestations", json=an_attestation())
    (made,) = parts.ledger.attestations(PROVIDER, 0)
    use = (PROVIDER, "device", "security.account_risk")
    assert attestations.covers(made, *use, made.expires_at - 1)
    assert not attestations.covers(made, *use, made.expires_at)
    assert parts.ledger.attestations(PROVIDER, made.expires_at) == []


# --- consignees who are not the member


def test_a_third_person_is_used_only_on_the_members_word_and_only_as_not_the_member(
    client, a_request, a_consent, notice, parts, raw
):
    consents, checkout = client("consent"), client("checkout")
    consents.post("/v1/consents", json=a_consent())
    word = {
        "member_id": raw("raw-member-1"),
        "order_id": raw("raw-order-1"),
        "wording_version": "3",
        "attested_at": "2026-11-22T00:00:00Z",
    }
    made = consents.post("/v1/third-person-attestations", json=word).json["attestation_id"]
    other = word | {"order_id": raw("raw-order-2")}
    others = consents.post("/v1/third-person-attestations", json=other).json["attestation_id"]

    def ask(number: int, named: str | None) -> Any:
        body = a_request(event_id=f"e{number}")
        body["transaction"]["consignee"] |= {"is_member": False}
        if named is not None:
            body["transaction"]["consignee"]["attestation_id"] = named
        return checkout.post("/v1/assessments", json=body)

    for number, named in enumerate([None, "ta_none", others]):
        assert why(ask(number, named), "consignee") == "third_person"
    found = basis(ask(7, made), "consignee")
    assert found is not None
    assert found["third_person"] == made
    sql = "SELECT consignee_self, address FROM events WHERE event_id = ?"
    assert parts.ledger.rows(sql, "e7") == [(0, None)]
    assert parts.ledger.rows(sql, "e0") == [(None, None)]
    consents.post(f"/v1/third-person-attestations/{made}/revoke")
    assert why(ask(8, made), "consignee") == "third_person"


def test_an_attestation_whose_row_is_gone_is_found(client, parts, settings, raw, notice):
    word = {
        "member_id": raw("raw-member-1"),
        "order_id": raw("raw-order-1"),
        "wording_version": "3",
        "attested_at": "2026-11-22T00:00:00Z",
    }
    parts.keys.subject(word["member_id"], enrol=True)
    made = client("consent").post("/v1/third-person-attestations", json=word)
    name = made.json["attestation_id"]
    notary = open_notary(settings, parts)
    notary.extend(parts.clock())
    assert list(verify(parts, notary)) == []
    with parts.ledger.transaction() as connection:
        connection.execute("DELETE FROM third_persons")
    assert f"third_person {name}: its row is missing" in list(verify(parts, notary))


# --- documents, and permissions


def test_consent_to_one_type_of_document_is_none_to_another(
    client, a_request, a_consent, wide_notice
):
    consents, checkout = client("consent"), client("checkout")
    consents.post("/v1/consents", json=a_consent(categories=["identity.document:passport"]))
    both = ["identity.document:driving_licence", "identity.document:identity_card"]
    warned = consents.post("/v1/consents", json=a_consent(categories=both)).json["warnings"]
    assert [w["input_pointer"] for w in warned] == ["/categories/0", "/categories/1"]
    types = [None, *load().categories["identity.document"].types]
    for number, kind in enumerate(types):
        identity = {"document_verified": True} | ({"document_type": kind} if kind else {})
        answer = checkout.post(
            "/v1/assessments", json=a_request(event_id=f"e{number}", identity=identity)
        )
        found = basis(answer, "identity.document")
        assert (found is not None) == (kind == "passport")
    body = a_request(event_id="x", identity={"document_verified": True, "document_type": "diary"})
    refused = checkout.post("/v1/assessments", json=body)
    assert refused.json["errors"][0]["pointer"] == "/identity/document_type"


def test_each_feature_of_a_place_names_the_permission_that_the_system_must_have_granted():
    categories = load().categories
    for feature in FEATURES:
        for category in feature.needs:
            if category.startswith("location"):
                assert categories[category].permission == {
                    "location": "location.ip", "location.gps": "location.gps"
                }[category]  # fmt: skip


def test_no_feature_descends_from_personalisation_and_none_reads_what_was_said_of_advertising():
    categories = load().categories
    for feature in FEATURES:
        for category in feature.needs:
            collected = categories[category].collected_for
            assert not [p for p in collected if "personalise" in p or p.startswith("marketing")]


def test_a_malformed_phone_number_takes_no_use_of_a_grant(client, a_request, an_exception, parts):
    grant = client("privacy").post("/v1/exceptions", json=an_exception()).json["grant_id"]
    approved = client("privacy", "duty_manager").post(f"/v1/exceptions/{grant}/approve")
    assert approved.json["state"] == "live"
    body = a_request(purpose="security.account_risk", transaction=None)
    body["member"]["phone"] = "not a number"
    assert client("checkout").post("/v1/assessments", json=body).status_code == 400
    assert parts.ledger.rows("SELECT COUNT(*) FROM grant_uses") == [(0,)]
    subject = parts.keys.subject("raw-member-1")
    assert parts.ledger.uses_of(subject) == []
    body["member"]["phone"] = "+8613900015678"
    answer = client("checkout").post("/v1/assessments", json=body)
    (use,) = parts.ledger.uses_of(subject)
    assert (use["grant_id"], use["receipt_id"]) == (grant, answer.json["assessment_id"])


def test_a_consent_that_was_over_is_not_revived_by_a_clock_set_back(
    client, a_request, a_consent, notice, parts
):
    from datetime import UTC, datetime, timedelta

    start = datetime.now(UTC)
    body = a_consent(event_time=start.isoformat(), validity_duration="PT1H")
    client("consent").post("/v1/consents", json=body)
    checkout, real = client("checkout"), parts.clock
    try:
        object.__setattr__(parts, "clock", lambda: real() + 7_200_000_000)
        late = checkout.post("/v1/assessments", json=a_request(event_id="e1"))
    finally:
        object.__setattr__(parts, "clock", real)
    back = checkout.post("/v1/assessments", json=a_request(event_id="e2"))
    assert (basis(late, "device"), basis(back, "device")) == (None, None)
    assert start + timedelta(hours=1) > datetime.now(UTC)
