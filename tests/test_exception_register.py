"""T7: each of the eleven exceptions against each way in which it must not hold; over the service's
own rules, with the gate on a real ledger. What is valid is accepted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sectionfour.domain import DAY, HOUR, Leaf, Permit, Request, Use
from sectionfour.errors import BadRequest, Conflict, Forbidden
from sectionfour.privacy import exceptions, gate, granting
from sectionfour.privacy.exceptions import Attempt, Document, Grant, Scope
from sectionfour.privacy.regime import load
from sectionfour.stores.ledger.rooms import Ledger

REGIME = load()
NOON = 1_800_000_000_000_000
ANN, BOB, ORDER = b"a" * 16, b"b" * 16, b"o" * 16
NEVER = 9
NUMBERS = [n for n in range(1, 12) if n != NEVER]
LEAF = Leaf("exception", "x", b"{}")
CONTROLLERS = {10: "research_institution"}


def a_use(number: int) -> dict[str, Any]:
    scores = number in (4, 5, 6, 7, 11)
    return {
        "subject": ANN,
        "order": ORDER,
        "category": "order" if number == 7 else "device",
        "purpose": "security.transaction_risk",
        "operation": "score"
        if scores
        else "collect"
        if number == 8
        else "export"
        if number != 4
        else "collect",
        "source": "public" if number in (5, 6) else "first_party",
    }


def asked(number: int, **changes: Any) -> Grant:
    rule, use = REGIME.exceptions[number], a_use(number if number != NEVER else 1)
    wanted: dict[str, Any] = {
        "grant_id": f"xg_{number}",
        "exception": number,
        "documents": [
            Document(kind=kind, ref="12", sha256="0" * 64, permits=("score",))
            for kind in rule.documents or ("memo",)
        ],
        "necessity": "so that the test has one",
        "scope": Scope(
            categories=frozenset({use["category"]}),
            purposes=frozenset({use["purpose"]}),
            operations=frozenset({use["operation"]}),
            sources=frozenset({use["source"]}),
            members=frozenset({ANN}),
            order=ORDER if number == 7 else None,
        ),
        "not_before": NOON,
        "expires_at": NOON + 2 * DAY,
        "max_uses": 2,
        "by": "asker",
        "at": NOON,
        "controller_type": CONTROLLERS.get(number, "marketplace"),
        "consent_attempts": [Attempt(at=NOON, channel="call", result="no_answer")],
    }
    return granting.requested(REGIME, **(wanted | changes))


def live(number: int, **changes: Any) -> Grant:
    grant, rule = asked(number, **changes), REGIME.exceptions[number]
    for place, office in enumerate(rule.approvers or (None,)):
        grant = granting.approve(grant, rule, by=f"k{place}", at=NOON, office=office)
    return grant


def covered(grant: Grant, number: int, **changes: Any) -> bool:
    use = a_use(number) | {"at": NOON + HOUR, "uses": 0} | changes
    return exceptions.covers(grant, REGIME.exceptions[number], **use)


def refused(what: Any) -> bool:
    try:
        return not what()
    except (BadRequest, Conflict, Forbidden):
        return True


def self_approval(number: int) -> bool:
    office = (REGIME.exceptions[number].approvers or (None,))[0]
    rule = REGIME.exceptions[number]
    grant = granting.approve(asked(number), rule, by="asker", at=NOON, office=office)
    return covered(grant, number)


def single_approver(number: int) -> bool:
    """One approval too few, or the only one by a key of the wrong office."""
    rule, grant = REGIME.exceptions[number], asked(number)
    offices = rule.approvers or (None,)
    if len(offices) > 1:
        return covered(granting.approve(grant, rule, by="k", at=NOON, office=offices[0]), number)
    if rule.approvers:
        return covered(granting.approve(grant, rule, by="k", at=NOON, office="cook"), number)
    return covered(grant, number)


def same_key_for_two_offices(number: int) -> bool:
    rule, grant = REGIME.exceptions[number], asked(number)
    for office in (*rule.approvers, *rule.ratifiers, None, None)[:2]:
        grant = granting.approve(grant, rule, by="k", at=NOON, office=office)
    return covered(grant, number, at=NOON + DAY + HOUR)


#: Each returns whether the grant would hold; all must not.
CASES: dict[str, Any] = {
    "missing document": lambda n: covered(
        live(n, documents=[Document(kind="other", ref="1", sha256="0" * 64)]), n
    ),
    "expired": lambda n: covered(live(n), n, at=NOON + 2 * DAY),
    "another subject": lambda n: covered(live(n), n, subject=BOB),
    "another category": lambda n: covered(live(n), n, category="log"),
    "another purpose": lambda n: covered(live(n), n, purpose="security.account_risk"),
    "another operation": lambda n: covered(live(n), n, operation="train"),
    "self-approval": self_approval,
    "single approver": single_approver,
    "the same key twice": same_key_for_two_offices,
    "over quota": lambda n: covered(live(n), n, uses=2),
    "revoked": lambda n: covered(granting.revoke(live(n), by="x", at=NOON), n),
    "wrong controller": lambda n: covered(
        live(n, controller_type="marketplace" if n == 10 else "news_agency"), n
    ),
}


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("case", CASES)
def test_it_does_not_hold(number: int, case: str) -> None:
    assert covered(live(number), number)  # but for the case it would
    assert refused(lambda: CASES[case](number))


@pytest.mark.parametrize("controller", ["marketplace", "news_agency", "research_institution"])
@pytest.mark.parametrize("documents", [[], [Document(kind="memo", ref="1")]])
@pytest.mark.parametrize("operation", ["collect", "score"])
def test_the_ninth_never_holds(controller: str, documents: Any, operation: str) -> None:
    scope = replace(asked(1).scope, operations=frozenset({operation}))
    with pytest.raises(Conflict, match="not_applicable"):
        asked(NEVER, controller_type=controller, documents=documents, scope=scope)
    forged = replace(live(1), exception=NEVER)
    assert not exceptions.covers(forged, REGIME.exceptions[9], **a_use(1), at=NOON + HOUR, uses=0)


def test_the_negatives_are_at_least_ninety_nine() -> None:
    assert len(NUMBERS) * len(CASES) + 12 >= 99


@pytest.mark.parametrize("number", NUMBERS)
def test_each_document_that_is_asked_for_is_missed(number: int) -> None:
    given = [
        Document(kind=kind, ref="12", sha256="0" * 64)
        for kind in REGIME.exceptions[number].documents
    ]
    for place, missing in enumerate(given):
        with pytest.raises(BadRequest, match=missing.kind) as caught:
            asked(number, documents=given[:place] + given[place + 1 :])
        assert caught.value.pointer == "/documents"


@pytest.mark.parametrize("number", [3, 5, 10, 11])
def test_what_is_given_with_its_digest_is_not_taken_without(number: int) -> None:
    given = [Document(kind=kind, ref="12") for kind in REGIME.exceptions[number].documents]
    with pytest.raises(BadRequest, match="digest"):
        asked(number, documents=given)


def test_an_emergency_says_who_was_asked_or_why_nobody_could_be() -> None:
    with pytest.raises(BadRequest) as caught:
        asked(4, consent_attempts=[])
    assert caught.value.pointer == "/consent_attempts"
    assert asked(4, consent_attempts=[], consent_impossible="unconscious").state == "requested"
    with pytest.raises(BadRequest):
        asked(4, consent_attempts=[Attempt(at=NOON + 1, channel="call", result="unable")])


@pytest.mark.parametrize("number", [3, 5, 6, 11])
def test_without_a_review_it_covers_nothing_from_then_on(number: int) -> None:
    rule = REGIME.exceptions[number]
    end = NOON + rule.review_days * DAY
    documents = [
        replace(d, valid_until=end + 50 * DAY) if d.kind == rule.ends_with else d
        for d in asked(number).documents
    ]
    last = (
        min(end + 40 * DAY, NOON + rule.max_life_days * DAY)
        if not rule.ends_with
        else (end + 40 * DAY)
    )
    grant = live(number, documents=documents, expires_at=last)
    assert covered(grant, number, at=end - 1)
    assert not covered(grant, number, at=end)
    if last <= end:
        return
    office = rule.approvers[0]
    for by, of in (("asker", office), ("k9", "cook")):
        with pytest.raises((Conflict, Forbidden)):
            granting.review(grant, rule, by=by, at=end, office=of)
    assert covered(granting.review(grant, rule, by="k9", at=end, office=office), number, at=end)


def test_other_law_scores_only_where_the_memo_says_so() -> None:
    silent = [replace(d, permits=()) for d in asked(11).documents]
    assert not covered(live(11, documents=silent), 11)
    elsewhere = [replace(d, permits=("score",) if d.kind == "law" else ()) for d in silent]
    assert not covered(live(11, documents=elsewhere), 11)


def test_every_use_is_shown_to_the_person_unless_it_is_under_seal(
    tmp_path: Path, open_at: Callable[..., Ledger]
) -> None:
    ledger = open_at(tmp_path / "ledger.db")
    for number in (3, 11):
        ledger.put_grant(live(number, sealed=number == 3), LEAF)
    request = Request(
        purpose="security.transaction_risk",
        event_type="payout",
        kind="member",
        subject=ANN,
        order=ORDER,
        uses=(Use("device"),),
    )
    for _ in range(3):  # two uses of each
        for operation in ("export", "score"):
            gate.check(request.purpose, request, ledger, NOON + HOUR, operation=operation)
    for grant_id in ("xg_3", "xg_11"):
        rows = ledger.rows("SELECT COUNT(*) FROM grant_uses WHERE grant_id = ?", grant_id)
        assert rows[0][0] <= 2
    assert {use["grant_id"] for use in ledger.uses_of(ANN)} <= {"xg_11"}
    assert ledger.uses_of(BOB) == []
    sealed = ledger.grant("xg_3")
    assert sealed is not None
    rule = REGIME.exceptions[3]
    with pytest.raises(Forbidden):
        granting.unseal(sealed, rule, by="k7", at=NOON, office="cook")
    lifted = granting.unseal(sealed, rule, by="k7", at=NOON, office="general_counsel")
    ledger.put_grant(lifted, LEAF)
    used = ledger.rows("SELECT COUNT(*) FROM grant_uses")[0][0]
    assert used
    assert len(ledger.uses_of(ANN)) == used
    with pytest.raises(Conflict):
        granting.unseal(lifted, rule, by="k7", at=NOON, office="general_counsel")
    ledger.close()


def test_research_and_faults_never_score(tmp_path: Path, open_at: Callable[..., Ledger]) -> None:
    for number in (1, 2, 3, 8, 10):
        ledger = open_at(tmp_path / f"{number}.db")
        scope = replace(
            asked(number).scope,
            categories=frozenset({"member.required", "order", "device"}),
            operations=frozenset({"collect", "score"}),
        )
        ledger.put_grant(live(number, scope=scope), LEAF)
        request = Request(
            purpose="security.transaction_risk",
            event_type="payout",
            kind="member",
            subject=ANN,
            order=ORDER,
            uses=(Use("member.required"), Use("order"), Use("device")),
        )
        assert not isinstance(gate.check(request.purpose, request, ledger, NOON + HOUR), Permit)
        ledger.close()
