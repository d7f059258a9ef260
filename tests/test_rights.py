"""Export: everything held about one person, and nothing of anybody else (R-53, T22)."""

from __future__ import annotations

import json

import msgspec
import pytest
from click.testing import CliRunner

from sectionfour.cli import main
from sectionfour.features.catalog import NAMES
from sectionfour.privacy import entries, inventory
from sectionfour.verify import verify


@pytest.fixture
def lived(app, client, notice, a_request, a_consent, an_exception, parts):
    """Two members with a mark of their own in every place that keeps rows of persons."""
    consent, checkout, privacy = client("consent"), client("checkout"), client("privacy")
    analyst = client("analyst")
    for number in (1, 2):
        assert consent.post("/v1/consents", json=a_consent(number)).status_code == 201
        body = a_request(number)
        body["transaction"]["amount"] = 7_000_000 + number
        made = checkout.post("/v1/assessments", json=body).json
        checkout.post(f"/v1/assessments/{made['assessment_id']}/review")
        case = f"/v1/cases/{made['assessment_id'].replace('as_', 'cs_')}"
        why = {"purpose": "security.account_risk", "reason": f"reason-mark-{number}"}
        assert analyst.post(f"{case}/reidentify", json=why).status_code == 201
        said = {"verdict": "confirmed_fraud", "note": f"note-mark-{number}"}
        assert analyst.post(f"{case}/verdict", json=said).status_code == 201
        for of in ({"event_id": f"evt_000{number}"}, {"member_id": f"raw-member-{number}"}):
            label = {"label": "chargeback", "source": f"bank-mark-{number}"} | of
            assert checkout.post("/v1/labels", json=label).status_code == 201
        for sealed in (False, True):
            asked = an_exception(
                exception=3 if sealed else 4,
                sealed=sealed,
                necessity=f"mark-{'sealed' if sealed else 'open'}-{number}",
            )
            asked["scope"]["members"] = [f"raw-member-{number}"]
            answer = privacy.post("/v1/exceptions", json=asked)
            assert answer.status_code == 201, answer.json
            offices = (
                ("general_counsel", "law_enforcement_liaison") if sealed else ("duty_manager",)
            )
            for office in offices:
                path = f"/v1/exceptions/{answer.json['grant_id']}/approve"
                assert client("privacy", office).post(path).status_code == 200
        member, order = f"raw-member-{number}", body["transaction"]["order_id"]
        word = {"member_id": member, "order_id": order, "wording_version": "1"}
        word["attested_at"] = "2026-01-01T00:00:00Z"
        assert consent.post("/v1/third-person-attestations", json=word).status_code == 201
        hold = {"member_id": member, "law": f"hold-mark-{number}"}
        held = privacy.post("/v1/holds", json=hold).json["hold_id"]
        for key in (privacy, client("privacy")):
            assert key.post(f"/v1/holds/{held}/lift").status_code == 200
        _by_others(parts, member, number)
    return parts


def _by_others(parts, member: str, number: int) -> None:
    """Put in what comes about by uses of grants, releases, audits and challengers."""
    subject = parts.keys.subject(member)
    grant = parts.ledger.grants_of(subject)[0][0].grant_id
    with parts.ledger.transaction() as connection:
        for sql, values in (
            ("INSERT INTO grant_uses VALUES (?, 1, 'p', 'device', 'score', ?)", (grant, subject)),
            ("INSERT INTO release_rows VALUES (?, 'r', ?)", (bytes([number]) * 16, subject)),
            ("INSERT INTO clusters VALUES (?, 1, 3, 1)", (subject,)),
            ("INSERT INTO audit_set VALUES (?, 1, '30-39', 'f')", (subject,)),
            (
                "INSERT INTO shadow_scores SELECT seq, 'v9', 0.5 FROM assessments"
                " WHERE subject = ?",
                (subject,),
            ),
        ):
            connection.execute(sql, values)


def end_of_proceedings(client, parts) -> None:
    """Revoke the grants that keep what they speak of: until then nobody is erased."""
    for grant in parts.ledger.all_grants():
        if grant.exception == 3:
            path = f"/v1/exceptions/{grant.grant_id}/revoke"
            assert client("privacy").post(path).status_code == 200


def exported(client, number=1):
    answer = client("privacy").get(f"/v1/members/raw-member-{number}/export")
    assert answer.status_code == 200
    return answer.get_data(as_text=True)


def marks(parts, number: int) -> list[str]:
    """Return what is this member's alone, one or more of each place."""
    keys, ledger = parts.keys, parts.ledger
    subject = keys.subject(f"raw-member-{number}")
    rows = {
        kept.name: found
        for kept, found in ledger.held(subject)
        if kept.name != "carried"  # a commitment, where an epoch has ended
    }  # every place that keeps rows of persons has some
    assert all(rows.values()), [name for name, found in rows.items() if not found]
    event = ledger.event(f"evt_000{number}")
    return [
        f"raw-member-{number}",
        keys.alias(subject, "audit").hex(),
        f"evt_000{number}",
        str(7_000_000 + number),
        f"bank-mark-{number}",
        f"mark-open-{number}",
        f"note-mark-{number}",
        f"reason-mark-{number}",
        rows["consent_events"][0]["record_id"],
        rows["assessments"][0]["assessment_id"],
        rows["assessments"][0]["nonce"].hex(),
        rows["assessments"][0]["asked"].hex(),
        rows["reviews"][0]["review_id"],
        *(row["label_id"] for row in rows["labels"]),
        *(
            keys.alias(getattr(event, name), "audit").hex()
            for name in ("device", "ip", "phone", "email", "payee", "instrument", "address")
        ),
    ]


def test_all_of_ones_own_and_nothing_of_others(client, lived):
    mine, others = marks(lived, 1), marks(lived, 2)
    text = exported(client)
    assert [mark for mark in mine if mark not in text] == []
    assert [mark for mark in others if mark in text] == []
    said = json.loads(text)
    assert {kept.name for kept in inventory.load().of("ledger") if kept.person} <= set(said)
    assert said["assessments"][0]["answer"]["risk_score"] is not None
    assert set(said["assessments"][0]["vector"]) == set(NAMES)
    assert said["receipts"][0]["proof"].startswith("c2sp.org/tlog-proof@v1")
    assert said["notices"][0]["notice_id"] == "pn_security"


def test_a_sealed_exception_is_not_told(client, lived):
    text = exported(client)
    assert "mark-open-1" in text
    assert "mark-sealed" not in text


def test_what_is_under_seal_is_told_nowhere_until_the_seal_is_lifted(client, lived, an_exception):
    """Neither the grant nor any use of it; then both, and by whom (R-36, R-53)."""
    subject, ledger = lived.keys.subject("raw-member-1"), lived.ledger
    sealed = next(g.grant_id for g, _ in ledger.grants_of(subject) if g.sealed)
    asked = an_exception(exception=7, necessity="mark-of-an-order")
    asked["scope"] |= {"members": [], "order_id": "raw-order-1"}
    by_order = client("privacy").post("/v1/exceptions", json=asked).json["grant_id"]
    for grant_id in (sealed, by_order):  # the second names an order, and nobody
        with ledger.transaction() as connection:
            connection.execute(
                "INSERT INTO grant_uses VALUES (?, 2, 'p', 'log', 'export', ?)", (grant_id, subject)
            )
    text = exported(client)
    assert sealed not in text
    told = {one["grant_id"]: one for one in json.loads(text)["exceptions"]}
    assert [use["operation"] for use in told[by_order]["uses"]] == ["export"]
    lifting = client("privacy", "general_counsel").post(f"/v1/exceptions/{sealed}/unseal")
    assert lifting.status_code == 200
    said = json.loads(exported(client))
    told = {one["grant_id"]: one for one in said["exceptions"]}
    assert told[sealed]["necessity"] == "mark-sealed-1"
    assert {"at", "purpose", "categories", "receipt_id", "actor"} <= set(told[sealed]["uses"][0])
    assert sealed in {use["grant_id"] for use in said["grant_uses"]}
    assert sealed not in exported(client, 2)


def test_no_token_of_the_serve_domain_leaves(client, lived):
    subject = lived.keys.subject("raw-member-1")
    event = lived.ledger.event("evt_0001")
    text = exported(client)
    for token in (subject, event.device, event.ip, event.phone, event.payee, event.order_ref):
        assert token.hex() not in text


def test_it_is_on_record_that_it_was_handed_out(app, client, lived):
    first = json.loads(exported(client))
    again = json.loads(exported(client))
    told = [export["export_id"] for export in again["exports"]]
    assert told == [first["export"]["export_id"], again["export"]["export_id"]]
    assert json.loads(exported(client, 2))["exports"][0]["export_id"] not in told
    app.extensions["sectionfour.notary"].extend(lived.clock())
    assert list(verify(lived, app.extensions["sectionfour.notary"])) == []


def test_nobody_is_not_found(client, lived, raw):
    answer = client("privacy").get(f"/v1/members/{raw('raw-nobody-at-all')}/export")
    assert answer.status_code == 404
    assert lived.ledger.rows("SELECT * FROM log WHERE kind = 'export'") == []


@pytest.mark.parametrize("role", ["checkout", "consent", "analyst", "trainer", "admin"])
def test_only_privacy_may(client, lived, role):
    assert client(role).get("/v1/members/raw-member-1/export").status_code == 403


def test_an_erased_member_leaves_no_grant_to_anybody(app, client, lived):
    subject = lived.keys.subject("raw-member-1")
    end_of_proceedings(client, lived)
    answer = client("privacy").post(
        "/v1/members/raw-member-1/erasure", json={"trigger": "subject_request"}
    )
    assert answer.status_code == 202
    assert lived.ledger.grants_of(subject) == []
    for (body,) in lived.ledger.rows("SELECT body FROM grants"):
        assert json.loads(body)["scope"]["members"]  # none has become one for everybody
    kept = repr(lived.ledger.rows("SELECT body FROM grants"))
    assert "mark-open-1" not in kept
    assert "mark-sealed-1" not in kept
    assert "mark-open-2" in kept
    app.extensions["sectionfour.notary"].extend(lived.clock())
    assert list(verify(lived, app.extensions["sectionfour.notary"])) == []
    other = lived.ledger.grants_of(lived.keys.subject("raw-member-2"))[0][0]
    told = entries.told(lived.keys, other)
    with lived.ledger.transaction() as connection:  # the other is still there to be asked about
        connection.execute(
            "UPDATE grants SET body = ? WHERE grant_id = ?",
            (msgspec.json.encode(other.wordless(told)), other.grant_id),
        )
    assert len(list(verify(lived, app.extensions["sectionfour.notary"]))) == 1


def test_of_an_erased_member_no_analyst_s_words_are_left(app, client, lived):
    """What was decided stays, of nobody; what was said of the person goes, and the case is over."""
    analyst, notary = client("analyst"), app.extensions["sectionfour.notary"]
    path = "/v1/members/raw-member-1/erasure"
    end_of_proceedings(client, lived)
    (case,) = lived.ledger.rows("SELECT case_id FROM assessments JOIN cases USING (assessment_id)"
                                " WHERE event_id = 'evt_0001'")[0]  # fmt: skip
    assert analyst.get(f"/v1/cases/{case}").json["verdicts"][0]["note"] == "note-mark-1"
    assert client("privacy").post(path, json={"trigger": "cancellation"}).status_code == 202
    (said,) = analyst.get(f"/v1/cases/{case}").json["verdicts"]
    assert (said["verdict"], said["note"]) == ("confirmed_fraud", "")
    for table, words in (("verdicts", "note"), ("reidentifications", "reason")):
        rows = lived.ledger.rows(f"SELECT {words} FROM {table} WHERE case_id = ?", case)
        assert [bytes(word or b"") for (word,) in rows] == [b""]
        assert lived.ledger.rows(f"SELECT COUNT(*) FROM {table} WHERE length({words}) > 0") == [
            (1,)
        ]
    more = {"verdict": "legitimate", "note": "and he lives at"}
    assert analyst.post(f"/v1/cases/{case}/verdict", json=more).status_code == 409
    notary.extend(lived.clock())
    assert list(verify(lived, notary)) == []
    for sql in ("UPDATE verdicts SET note = NULL", "UPDATE reidentifications SET reason = x''"):
        with lived.ledger.transaction() as connection:  # of the other: that is no erasure
            connection.execute(sql)
    assert len(list(verify(lived, notary))) == 2


def test_from_the_shell(settings, models, monkeypatch, app, client, lived):
    end_of_proceedings(client, lived)
    monkeypatch.setenv("SECTIONFOUR_HOME", str(settings.home))
    monkeypatch.setenv("SECTIONFOUR_MODELS", str(models))
    monkeypatch.setenv("SECTIONFOUR_VELOCITY_GIB", str(settings.velocity_gib))
    app.extensions["sectionfour"].close()  # LMDB is opened once a process
    run = CliRunner()
    said = run.invoke(main, ["export", "raw-member-1"])
    assert json.loads(said.output)["vault"]["member_id"] == "raw-member-1"
    said = run.invoke(main, ["erase", "raw-member-1", "--trigger", "whim"])
    assert said.exit_code == 2
    said = run.invoke(main, ["erase", "raw-member-1", "--trigger", "cancellation"])
    assert "ledger.events: deleted 1" in said.output
    said = run.invoke(main, ["export", "raw-member-1"])
    assert said.exit_code == 1
    assert "raw-member" not in said.output
