"""T6, and the services that refusing may cost: against hand-written lists and a golden file."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest

from sectionfour.domain import Permit, Refusal, Request, Use
from sectionfour.errors import BadRequest
from sectionfour.privacy import gate
from sectionfour.privacy.consent import ConsentEvent
from sectionfour.privacy.regime import load
from sectionfour.web.services import states

from .conftest import consent_event

REGIME = load()
NOW = 1_000_000
ANN = b"a" * 16
GOLDEN = Path(__file__).parent / "data" / "matrix.json"
FOUR = ["account_management", "create_store", "sell_goods", "continue_risky_transaction"]
NEVER = ["browsing", "search", "purchase", "trading"]


class Nothing:
    """A ledger of one member's consents."""

    def __init__(self, *events: ConsentEvent) -> None:
        self.events = events

    def consents(self, subject: bytes, at: int) -> Any:
        return self.events

    def grants(self, at: int) -> Any:
        return ()

    def attestations(self, source: str, at: int) -> Any:
        return ()


def typed(category: str) -> tuple[str, str | None]:
    """Return what a consent to a category names, and the type that it names where it has any."""
    kind = next(iter(REGIME.categories[category].types), None)
    return (category, None) if kind is None else (f"{category}:{kind}", kind)


def said(category: str, purpose: str, **changes: Any) -> ConsentEvent:
    wanted: dict[str, Any] = {
        "record_id": f"cr_{category}_{purpose}",
        "purpose": purpose,
        "categories": frozenset({category}),
        "event_time": NOW - 1,
    }
    return consent_event(**(wanted | changes))


def asks(category: str, purpose: str, source: str = "first_party", **changes: Any) -> Any:
    request = Request(
        purpose=purpose,
        event_type="login",
        kind="member",
        subject=ANN,
        uses=(Use(category, source, attribute=typed(category)[1]),),
    )
    ledger = changes.pop("ledger", Nothing())
    return gate.check(purpose, request, ledger, NOW, **({"operation": "export"} | changes))


def test_the_matrix_is_the_one_that_was_agreed_to():
    assert REGIME.matrix() == json.loads(GOLDEN.read_text())


def test_off_the_diagonal_only_prior_consent_for_that_very_purpose_lifts_it():
    cells = 0
    for category, by_source in json.loads(GOLDEN.read_text()).items():
        for collected, uses in by_source["first_party"].items():
            for purpose in uses.get("prior_consent", []):
                cells += 1
                named = typed(category)[0]
                ours = (
                    said(named, collected),
                    said(named, "security"),
                    said(named, purpose, event_time=NOW),
                    said(named, purpose, event_type="implicitly_expressed"),
                )
                others = [one._replace(record_id=f"cr_{n}") for n, one in enumerate(ours)]
                verdict = asks(category, purpose, ledger=Nothing(*others))
                assert isinstance(verdict, Refusal), (category, collected, purpose)
                assert verdict.why == "purpose_change"
                prior = said(named, purpose)
                assert isinstance(asks(category, purpose, ledger=Nothing(prior)), Permit) == (
                    category != "credit.realname"
                )
    assert cells > 150


def test_every_cell_of_other_purposes_and_sources_is_denied_without_a_basis():
    sources = ["first_party", "affiliate:a", "partner:p", "counterparty", "public"]
    for purpose, category, source, operation in itertools.product(
        REGIME.purposes, REGIME.categories, sources, ("score", "train", "export")
    ):
        verdict = asks(category, purpose, source, operation=operation)
        own = category == "derived.risk" and purpose.startswith("security.")
        if operation == "export" and source == "first_party" and own:
            assert isinstance(verdict, Permit)
        else:
            assert isinstance(verdict, Refusal), (purpose, category, source, operation)


def test_a_hundred_thousand_strings_are_no_purpose():
    draw = random.Random(6)
    known = list(REGIME.purposes)
    letters = "abcdefgh.s_ecurity \u00e9\u4e2d0A-*"
    request = Request(purpose="", event_type="login", kind="member", uses=())
    for _ in range(100_000):
        if draw.random() < 0.5:
            word = list(draw.choice(known))
            word[draw.randrange(len(word))] = draw.choice(letters)
            text = "".join(word)
        else:
            text = "".join(draw.choices(letters, k=draw.randrange(20)))
        if text in REGIME.purposes:
            continue
        with pytest.raises(BadRequest):
            gate.check(text, request, Nothing(), NOW, operation="export", regime=REGIME)


def test_scores_leave_for_security_and_for_nothing_else_without_consent():
    for purpose in REGIME.purposes:
        security = purpose.startswith("security.")
        assert isinstance(asks("derived.risk", purpose), Permit) == security


# --- what refusing may cost


def told(*records: ConsentEvent) -> dict[str, str]:
    by_record = {one.record_id: [one] for one in records}
    return {one.service: one.state for one in states(REGIME, by_record, NOW)}


def test_nobody_loses_anything_who_has_refused_nothing():
    assert set(told().values()) == {"open"}


@pytest.mark.parametrize("state", ["consent_refused", "consent_withdrawn"])
def test_every_refusal_costs_what_the_regime_says_and_nothing_else(state):
    for category, rule in REGIME.categories.items():
        for purpose in ("security", *REGIME.purposes):
            found = told(said(category, purpose, event_state=state))
            lost = {service for service, how in found.items() if how == "withheld"}
            serves = any(REGIME.covers(purpose, one) for one in rule.collected_for)
            assert lost == (set(rule.withholds) if serves else set())
            assert not lost & set(NEVER)
            if lost & set(FOUR):
                assert category in ("identity.document", "biometric.face", "credit.realname")
                assert lost == set(FOUR)


def test_refusing_everything_at_once_leaves_browsing_search_and_buying_open():
    no = [
        said(category, purpose, event_state="consent_refused", source=source)
        for category in REGIME.categories
        for purpose in ("security", *REGIME.purposes)
        for source in ("first_party", "affiliate:a", "partner:p")
    ]
    found = told(*(one._replace(record_id=str(n)) for n, one in enumerate(no)))
    assert {service for service, how in found.items() if how == "open"} == set(NEVER)


def test_one_proof_of_identity_is_enough():
    no = said("biometric.face", "security", event_state="consent_refused")
    yes = said("identity.document:passport", "security")
    assert told(no)["sell_goods"] == "withheld"
    assert told(no, yes)["sell_goods"] == "open"
    implied = yes._replace(event_type="implicitly_expressed")
    assert told(no, implied)["sell_goods"] == "withheld"


def test_of_yes_and_no_to_one_proof_the_later_counts():
    yes = said("identity.document:passport", "security", event_time=NOW - 5)
    for category, lost in (
        ("identity.document:passport", True),
        ("identity.document", True),
        ("identity.document:driving_licence", False),
    ):
        no = said(category, "security", event_state="consent_refused", event_time=NOW - 4)
        no = no._replace(record_id="cr_no")
        assert told(yes, no)["sell_goods"] == ("withheld" if lost else "open")
        again = yes._replace(record_id="cr_again", event_time=NOW - 3)
        assert told(yes, no, again)["sell_goods"] == "open"


def test_the_checkout_asks_and_is_told_why(client, a_consent, notice):
    consents, checkout = client("consent"), client("checkout")

    def ask() -> dict[str, Any]:
        answer = checkout.get("/v1/members/raw-member-1/services")
        return {one["service"]: one for one in answer.json["services"]}

    assert {one["state"] for one in ask().values()} == {"open"}
    no = a_consent(categories=["identity.document"], event_state="consent_refused")
    assert consents.post("/v1/consents", json=no).json["event_state"] == "consent_refused"
    found = ask()
    assert sorted(s for s, one in found.items() if one["state"] == "withheld") == sorted(FOUR)
    assert found["sell_goods"]["said"]["identity.document"] == "refused"
