"""The gate against a slow reference, written from section 5 of the requirements, table by table.

The tables below are the requirements once more, by hand: nothing here is read from regime.toml.
"""

from __future__ import annotations

import ast
import itertools
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import sectionfour
from sectionfour.decide import decide
from sectionfour.domain import Leaf, Notice, Permit, Refusal, Request, Use
from sectionfour.errors import BadRequest, FailClosed
from sectionfour.given import Given
from sectionfour.parts import Parts
from sectionfour.privacy import gate, regime, retention
from sectionfour.privacy.consent import ConsentEvent
from sectionfour.privacy.exceptions import Document, Grant, Scope
from sectionfour.stores.ledger.rooms import Ledger
from sectionfour.stores.sqlite import SqliteLedger

from .conftest import consent_event

NOW = 1_000_000
ANN, BOB, ORDER = b"a" * 16, b"b" * 16, b"o" * 16

SCORED = {
    "security.account_risk": ["member.required"],
    "security.transaction_risk": ["member.required", "order"],
    "security.identity_verification": ["member.required"],
    "security.incident_detection": ["member.required"],
    "security.rule_violation": ["member.required"],
}
TRAINED = "security.record_audit_analyse"
SECURITY = [*SCORED, TRAINED, "security.disposal"]
OTHERS = [
    "membership.provide",
    "membership.personalise",
    "personalise.recommend",
    "marketing.push",
    "order.deliver",
    "order.pay",
    "order.display",
    "support.communicate",
    "dispute.resolve",
    "affiliate.one_stop",
]
SENSITIVE = ["identity.document", "biometric.face", "credit.realname"]
ONLY_IF_NAMED = ["member.optional", "location.gps"]
NOT_OF_FOUR = ["communication", "profile.tag"]
PLAIN = [
    "member.required",
    "order",
    "consignee",
    "payment",
    "device",
    "location",
    "log",
    "indirect.counterparty",
    "derived.risk",
]
CATEGORIES = [*PLAIN, *ONLY_IF_NAMED, *SENSITIVE, *NOT_OF_FOUR]
MINIMAL_LIST = ["member.required", "order", "payment"]
OF_COUNTERPARTIES = ["order", "consignee", "payment", "indirect.counterparty"]
OF_GUESTS = ["device", "location", "log"]
SOURCES = ["first_party", "counterparty", "public", "affiliate:a", "partner:p"]


# --- the reference ---------------------------------------------------------------------------


@dataclass
class World:
    """What is on record about one question."""

    purpose: str
    event_type: str
    kind: str
    has_order: bool
    uses: list[Use]
    records: list[list[ConsentEvent]] = field(default_factory=list)
    grants: list[tuple[Grant, int]] = field(default_factory=list)


def standing(record: list[ConsentEvent]) -> ConsentEvent | None:
    """Return the giving event that a record rests on, where the record is valid now."""
    for event in record:
        if event.event_state in ("consent_withdrawn", "consent_refused", "consent_revoked"):
            return None
    before = [e for e in record if e.event_state in GIVING and e.event_time < NOW]
    if not before:
        return None
    latest = max(e.event_time for e in before)
    newest = [e for e in before if e.event_time == latest][-1]
    if newest.superseded or (newest.expires_at is not None and newest.expires_at <= NOW):
        return None
    return newest


GIVING = ("consent_given", "renewed_consent_given")


def consented(world: World, use: Use) -> str | None:
    """Return the newest record whose consent covers `use`."""
    found = None
    for record in world.records:
        event = standing(record)
        if event is None or named(use) not in event.categories or use.source != event.source:
            continue
        explicit = event.event_type == "explicitly_expressed"
        if outside_of_four(use):
            holds = explicit and event.purpose == world.purpose
        else:
            holds = event.purpose == world.purpose or event.purpose == "security"
            if use.category in SENSITIVE:
                alone = len(event.categories) == 1
                holds = holds and explicit and alone
        later = [
            no
            for events in world.records
            for no in events
            if no.event_state == "consent_refused"
            and (no.event_time > event.event_time
                 or (no.event_time == event.event_time and no.seq > event.seq))
        ]  # fmt: skip
        for no in later:
            about = use.category in no.categories or named(use) in no.categories
            if no.source == use.source and about and no.purpose in (world.purpose, "security"):
                holds = False
        if holds:
            found = event.record_id
    return found


def named(use: Use) -> str | None:
    """Return what a consent must name: of documents a type, and nothing will do without one."""
    if use.category == "identity.document":
        return use.attribute and f"{use.category}:{use.attribute}"
    return use.category


def outside_of_four(use: Use) -> bool:
    if use.category in NOT_OF_FOUR:
        return True
    return use.source == "counterparty" and use.category not in OF_COUNTERPARTIES


def contracted(world: World, use: Use) -> bool:
    return (
        world.purpose == "security.transaction_risk"
        and world.event_type == "purchase"
        and world.has_order
        and use.category in MINIMAL_LIST
        and use.source in ("first_party", "counterparty")
    )


def granted(world: World, use: Use) -> str | None:
    for grant, uses in world.grants:
        scope = grant.scope
        if not (grant.state == "live" and grant.not_before <= NOW < grant.expires_at):
            continue
        if uses >= grant.max_uses:
            continue
        if scope.members and ANN not in scope.members:
            continue
        if scope.order is not None and not (world.has_order and scope.order == ORDER):
            continue
        if use.category not in scope.categories or world.purpose not in scope.purposes:
            continue
        if use.source not in scope.sources or "score" not in scope.operations:
            continue
        number = grant.exception
        may = {
            4: bool(scope.members) and world.purpose in SECURITY,
            5: use.source == "public",
            6: use.source == "public",
            7: (
                scope.order is not None
                and use.category in MINIMAL_LIST
                and world.purpose == "security.transaction_risk"
                and use.source in ("first_party", "counterparty")
            ),
            11: any("score" in document.permits for document in grant.documents),
        }
        if may.get(number, False):
            return grant.grant_id
    return None


def reference(world: World) -> tuple[dict[str, tuple[str, str | None]], dict[str, str], list[str]]:
    """Return (basis a category, why masked a category, missing)."""
    basis: dict[str, tuple[str, str | None]] = {}
    masked: dict[str, str] = {}
    for use in world.uses:
        hindered = use.hindrance
        if use.source.startswith(("affiliate", "partner")) or use.category == "credit.realname":
            hindered = hindered or "no_attestation"
        found: tuple[str, str | None] | None = None
        if hindered is None and world.kind == "guest":
            if world.purpose == "security.incident_detection" and use.category in OF_GUESTS:
                found = None if outside_of_four(use) else ("non_personal", None)
        elif hindered is None:
            if (record := consented(world, use)) is not None:
                found = ("consent", record)
            elif outside_of_four(use):
                found = None
            elif contracted(world, use):
                found = ("contract", "order")
            elif (grant := granted(world, use)) is not None:
                found = ("exception", grant)
        if found is not None:
            basis[use.category] = found
        elif outside_of_four(use):
            masked[use.category] = "purpose_change"
        elif hindered is not None:
            masked[use.category] = hindered
        else:
            masked[use.category] = "default" if use.category in ONLY_IF_NAMED else "no_basis"
    if world.kind == "guest" and world.purpose == "security.incident_detection":
        missing = [] if basis else OF_GUESTS
    else:
        missing = [category for category in SCORED[world.purpose] if category not in basis]
    if missing:  # a grant is not used up by what is refused all the same
        for category in [c for c, (kind, _) in basis.items() if kind == "exception"]:
            del basis[category]
            masked[category] = "no_basis"
            if category in SCORED[world.purpose] and category not in missing:
                missing.append(category)
    return basis, masked, sorted(missing)


class Memory:
    """A ledger that holds one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.taken: dict[str, int] = {grant.grant_id: uses for grant, uses in world.grants}
        self.limits = {grant.grant_id: grant.max_uses for grant, _ in world.grants}

    def consents(self, subject: bytes, at: int) -> Sequence[ConsentEvent]:
        return sorted((e for record in self.world.records for e in record), key=lambda e: e.seq)

    def grants(self, at: int) -> Sequence[tuple[Grant, int]]:
        return self.world.grants

    def attestations(self, source: str, at: int) -> Sequence[Any]:
        return ()

    def take(
        self, grant_id: str, at: int, purpose: str, categories: Sequence[str], **about: Any
    ) -> bool:
        if self.taken[grant_id] >= self.limits[grant_id]:
            return False
        self.taken[grant_id] += 1
        return True


# --- worlds ----------------------------------------------------------------------------------

some = st.sampled_from
TYPES = ["passport", "driving_licence"]
TYPED = [f"identity.document:{kind}" for kind in TYPES]
names = st.lists(some([*CATEGORIES, *TYPED]), min_size=1, max_size=6).map(frozenset)
sources = some(["first_party"] * 6 + SOURCES)


@st.composite
def records(draw: st.DrawFn) -> list[list[ConsentEvent]]:
    found: list[list[ConsentEvent]] = []
    for number in range(draw(st.integers(0, 4))):
        purpose = draw(some(["security", *SCORED, *SECURITY, *OTHERS]))
        source = draw(sources)
        kind = draw(some(["explicitly_expressed"] * 3 + ["implicitly_expressed"]))
        sensitive = draw(st.booleans())
        what = st.lists(some([*SENSITIVE, *TYPED]), min_size=1, max_size=3).map(frozenset)
        record = []
        for _ in range(draw(some([1, 1, 1, 2, 3]))):
            event = ConsentEvent(
                seq=draw(st.integers(0, 50)),
                record_id=f"cr_{number}",
                purpose=purpose,
                categories=draw(what if sensitive else names | st.just(frozenset(PLAIN))),
                source=source,
                notice_id="pn",
                notice_version="1",
                event_type=kind,
                event_state=draw(some([*GIVING * 4, *STATES])),
                event_time=NOW + draw(some([-2, -1, -1, -1, 0, 1])),
                expires_at=draw(some([None, None, None, NOW - 1, NOW, NOW + 1])),
                superseded=draw(some([False] * 5 + [True])),
            )
            record.append(event)
        found.append(sorted(record, key=lambda event: event.seq))
    # The gate sees all events in the order of the ledger: number them so, record by record.
    return [
        [event._replace(seq=100 * place + turn) for turn, event in enumerate(record)]
        for place, record in enumerate(found)
    ]


STATES = [
    "consent_withdrawn",
    "consent_refused",
    "consent_revoked",
    "consent_requested",
    "consent_unknown",
]


@st.composite
def grants(draw: st.DrawFn) -> list[tuple[Grant, int]]:
    found = []
    for number in range(draw(st.integers(0, 3))):
        order = draw(some([None, None, ORDER, b"other"]))
        member = draw(some([frozenset({ANN}), frozenset({BOB}), frozenset()]))
        scope = Scope(
            categories=draw(names | st.just(frozenset(CATEGORIES))),
            purposes=frozenset(draw(st.lists(some(SECURITY), min_size=3, max_size=7))),
            operations=draw(some([frozenset({"collect", "score"}), frozenset({"collect"})])),
            sources=draw(some([frozenset({"first_party"}), frozenset(SOURCES)])),
            members=member if order is not None else member or frozenset({ANN}),
            order=order,
        )
        state = draw(some(["live", "live", "live", "revoked", "requested"]))
        rule = draw(st.integers(1, 11))
        max_uses = draw(st.integers(1, 3))
        grant = Grant(
            grant_id=f"xg_{number}",
            exception=rule,
            documents=(
                Document(kind="legal_memo", ref="12", permits=draw(some([(), ("score",)]))),
            ),
            necessity="so that the test has one",
            scope=scope,
            not_before=NOW + draw(some([-5, -5, 1])),
            expires_at=NOW + draw(some([0, 5, 5])),
            max_uses=max_uses,
            requested_by="asker",
            requested_at=NOW - 9,
            state=state,
            approved_by=("one", "two"),
            live_at=None if state == "requested" else NOW - 8,
        )
        found.append((grant, draw(st.integers(0, max_uses))))
    return found


@st.composite
def worlds(draw: st.DrawFn) -> World:
    kind = draw(some(["member"] * 4 + ["guest"]))
    categories = draw(st.lists(some(CATEGORIES), max_size=10, unique=True))
    needed = draw(st.booleans())
    categories += [c for c in ("member.required", "order") if needed and c not in categories]
    return World(
        purpose=draw(some([*SCORED, "security.transaction_risk", "security.incident_detection"])),
        event_type=draw(some(["purchase", "purchase", "payout", "login"])),
        kind=kind,
        has_order=draw(st.booleans()),
        uses=[
            Use(
                category,
                draw(sources),
                draw(some([None] * 6 + ["no_permission", "third_person"])),
                attribute=draw(some([None, *TYPES])) if category == "identity.document" else None,
            )
            for category in categories
        ],
        records=[] if kind == "guest" else draw(records()),
        grants=draw(grants()),
    )


def asked(world: World) -> Request:
    return Request(
        purpose=world.purpose,
        event_type=world.event_type,
        kind=world.kind,  # type: ignore[arg-type]
        subject=ANN if world.kind == "member" else None,
        order=ORDER if world.has_order else None,
        uses=tuple(world.uses),
    )


@settings(max_examples=700, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds())
def test_the_gate_finds_what_the_reference_finds(world: World) -> None:
    ledger = Memory(world)
    verdict = gate.check(world.purpose, asked(world), ledger, NOW)
    basis, masked, missing = reference(world)
    assert {m.category: m.why for m in verdict.masked} == masked
    assert not set(masked) & set(basis)
    if isinstance(verdict, Refusal):
        assert (verdict.why, sorted(verdict.missing)) == ("no_basis", missing)
        assert missing
        assert ledger.taken == {grant.grant_id: uses for grant, uses in world.grants}
        assert verdict.never_withheld == ("browsing", "search", "purchase", "trading")
        assert not set(verdict.withholdable_services) & set(verdict.never_withheld)
        return
    assert not missing
    assert {b.category: (b.kind, b.ref) for b in verdict.basis} == basis
    assert verdict.permitted == regime.load().mask(basis)
    assert verdict.personal == (world.kind == "member")
    assert set(verdict.joined) == (set(basis) if world.kind == "member" else set())
    for grant, uses in world.grants:
        rests = any(ref == grant.grant_id for _, ref in basis.values())
        assert ledger.taken[grant.grant_id] == uses + rests
    numbers = {grant.grant_id: grant.exception for grant, _ in world.grants}
    for found in verdict.basis:
        expected = 7 if found.kind == "contract" else numbers.get(found.ref or "")
        assert found.exception == expected
        assert found.exception not in (8, 9, 10)
        assert found.notice == ("pn@1" if found.kind == "consent" else None)


def a_world(*categories: str, **changes: Any) -> World:
    wanted: dict[str, Any] = {
        "purpose": "security.transaction_risk",
        "event_type": "purchase",
        "kind": "member",
        "has_order": True,
        "uses": [Use(category) for category in categories],
    }
    return World(**(wanted | changes))


def a_consent(*categories: str, **changes: Any) -> ConsentEvent:
    wanted: dict[str, Any] = {"categories": frozenset(categories), "event_time": NOW - 1}
    return consent_event(**(wanted | changes))


def check(world: World, **changes: Any) -> Permit | Refusal:
    return gate.check(world.purpose, asked(world), Memory(world), NOW, **changes)


def bases(verdict: Permit | Refusal) -> dict[str, str]:
    assert isinstance(verdict, Permit), verdict
    return {b.category: b.kind for b in verdict.basis}


# --- sentences of the requirements -----------------------------------------------------------


def test_a_purchase_without_consent_rests_on_the_contract_for_its_minimal_list_alone() -> None:
    verdict = check(a_world(*CATEGORIES))
    assert bases(verdict) == dict.fromkeys(MINIMAL_LIST, "contract")


@pytest.mark.parametrize("event_type", ["payout", "listing", "login"])
def test_the_contract_is_for_purchases(event_type: str) -> None:
    verdict = check(a_world("member.required", "order", "payment", event_type=event_type))
    assert isinstance(verdict, Refusal)
    assert verdict.missing == ("member.required", "order")


@pytest.mark.parametrize("purpose", sorted(set(SCORED) - {"security.transaction_risk"}))
def test_the_contract_is_for_transaction_risk(purpose: str) -> None:
    verdict = check(a_world("member.required", "order", purpose=purpose))
    assert isinstance(verdict, Refusal)


@pytest.mark.parametrize("category", ["identity.document", "biometric.face"])
@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, True),
        ({"event_type": "implicitly_expressed"}, False),
        ({"categories": frozenset(CATEGORIES)}, False),
        ({"purpose": "security.account_risk"}, False),
    ],
)
def test_sensitive_data_need_explicit_consent_of_their_own(
    category: str, changes: dict[str, Any], holds: bool
) -> None:
    kind = "passport" if category == "identity.document" else None
    world = a_world("member.required", "order")
    world.uses.append(Use(category, attribute=kind))
    world.records = [[a_consent(f"{category}:{kind}" if kind else category)._replace(**changes)]]
    assert (category in bases(check(world))) == holds


@pytest.mark.parametrize("used", [None, "passport", "driving_licence"])
@pytest.mark.parametrize("said", [None, "passport", "driving_licence"])
def test_consent_is_to_a_type_of_document_and_to_none_that_nobody_names(
    used: str | None, said: str | None
) -> None:
    world = a_world("member.required", "order")
    world.uses.append(Use("identity.document", attribute=used))
    world.records = [[a_consent("identity.document" + (f":{said}" if said else ""))]]
    assert ("identity.document" in bases(check(world))) == (used == said is not None)


@pytest.mark.parametrize("category", ["device", "member.optional"])
def test_consent_is_to_what_it_names_from_the_source_that_it_names(category: str) -> None:
    world = a_world("member.required", "order")
    for named, said, used in itertools.product(
        (category, "log"), ("first_party", "public"), ("first_party", "public")
    ):
        world.uses[2:] = [Use(category, used)]
        world.records = [[a_consent(named, source=said)]]
        assert (category in bases(check(world))) == ((named, said) == (category, used))


@pytest.mark.parametrize("category", NOT_OF_FOUR)
def test_communications_and_tags_need_consent_for_this_very_purpose(category: str) -> None:
    world = a_world("member.required", "order", category)
    for purpose, kind, holds in (
        ("security", "explicitly_expressed", False),
        ("security.transaction_risk", "implicitly_expressed", False),
        ("support.communicate", "explicitly_expressed", False),
        ("security.transaction_risk", "explicitly_expressed", True),
    ):
        world.records = [[a_consent(category, purpose=purpose, event_type=kind)]]
        assert (category in bases(check(world))) == holds


@pytest.mark.parametrize("hindrance", ["no_permission", "third_person"])
@pytest.mark.parametrize("source", ["first_party", "counterparty"])
def test_no_consent_stands_in_for_a_permission_that_was_not_granted(
    hindrance: str, source: str
) -> None:
    purpose = "security.transaction_risk"
    world = a_world("member.required", "order")
    world.uses.append(Use("location", source, hindrance))
    world.records = [[a_consent("location", purpose=purpose, source=source)]]
    assert "location" not in bases(check(world))


@pytest.mark.parametrize("category", CATEGORIES)
def test_nothing_of_an_affiliate_or_partner_is_used_without_an_attestation(category: str) -> None:
    world = a_world()
    world.uses = [Use(c) for c in ("member.required", "order") if c != category]
    world.uses.append(Use(category, "partner:p"))
    purpose = "security.transaction_risk"
    world.records = [[a_consent(category, purpose=purpose, source="partner:p")]]
    verdict = check(world)
    assert category in {masked.category for masked in verdict.masked}


@pytest.mark.parametrize("category", [*NOT_OF_FOUR, "device"])
def test_no_grant_lifts_what_section_four_does_not_list(category: str) -> None:
    world = a_world("member.required", "order")
    source = "counterparty" if category == "device" else "first_party"
    world.uses.append(Use(category, source))
    scope = Scope(
        categories=frozenset(CATEGORIES),
        purposes=frozenset(SECURITY),
        operations=frozenset({"score"}),
        sources=frozenset(SOURCES),
        members=frozenset({ANN}),
    )
    world.grants = [(a_grant(scope=scope), 0)]
    verdict = check(world)
    assert {m.category: m.why for m in verdict.masked} == {category: "purpose_change"}


def test_guests_bring_device_place_and_log_and_nothing_else() -> None:
    purpose = "security.incident_detection"
    world = a_world(*CATEGORIES, kind="guest", purpose=purpose)
    world.grants = [(a_grant(scope=replace(a_grant().scope, order=ORDER, members=frozenset())), 0)]
    verdict = check(world)
    assert bases(verdict) == dict.fromkeys(OF_GUESTS, "non_personal")
    assert isinstance(verdict, Permit)
    assert (verdict.personal, verdict.joined) == (False, ())
    for source in ("counterparty", "affiliate:a", "partner:p"):
        world.uses = [Use(category, source) for category in OF_GUESTS]
        assert isinstance(check(world), Refusal)


@pytest.mark.parametrize("purpose", [*OTHERS, TRAINED, "security.disposal"])
def test_no_other_purpose_scores_whatever_was_consented_to(purpose: str) -> None:
    world = a_world(*CATEGORIES, purpose=purpose)
    world.records = [[a_consent(c, purpose=purpose, record_id=f"cr_{c}")] for c in CATEGORIES]
    verdict = check(world)
    assert isinstance(verdict, Refusal)
    assert verdict.why == "purpose_change"
    assert verdict.withholdable_services == ()  # nobody refused anything


def test_only_training_trains() -> None:
    for purpose in [*SCORED, *OTHERS, "security.disposal"]:
        verdict = check(a_world(*CATEGORIES, purpose=purpose), operation="train")
        assert isinstance(verdict, Refusal)
    world = a_world("member.required", "device", purpose=TRAINED)
    world.records = [[a_consent("member.required", "device")]]
    assert set(bases(check(world, operation="train"))) == {"member.required", "device"}
    assert isinstance(check(world, operation="dispose"), Refusal)


@pytest.mark.parametrize("change", ["purpose", "category", "source"])
@settings(max_examples=60, deadline=None)
@given(st.text(max_size=24))
@example("")
@example("Security")
@example("security.")
@example("first_party ")
@example("partner")
@example("partner:")
@example("order.DISPLAY")
def test_what_is_not_in_the_closed_lists_is_refused_and_not_repeated(
    change: str, text: str
) -> None:
    known = {"purpose": {*SECURITY, *OTHERS}, "category": {*CATEGORIES}, "source": {*SOURCES}}
    if text in known[change] or (change == "source" and text.partition(":")[2]):
        return
    said = set()
    for value in (text, "nothing of the sort"):
        world = a_world("member.required", "order")
        if change == "category":
            world.uses.append(Use(value))
        elif change == "source":
            world.uses.append(Use("device", value))
        else:
            world.purpose = value
        with pytest.raises(BadRequest) as caught:
            check(world)
        said.add(caught.value.detail)
    assert len(said) == 1


# --- on a real ledger ------------------------------------------------------------------------

AN_ENTRY = Leaf("consent", "cr", b"{}")


@pytest.fixture
def ledger(tmp_path: Path, open_at: Callable[..., Ledger]) -> Ledger:
    found = open_at(tmp_path / "ledger.db")
    found.add_notice(a_notice(), AN_ENTRY)
    return found


def a_notice(**changes: Any) -> Notice:
    wanted: dict[str, Any] = {
        "notice_id": "pn",
        "version": "1",
        "language": "en",
        "text_sha256": "5f" * 32,
        "purposes": ("security",),
        "categories": tuple(CATEGORIES),
        "valid_from": 0,
        "material": False,
    }
    return Notice(**(wanted | changes))


def put(ledger: Ledger, event: ConsentEvent, subject: bytes = ANN) -> None:
    ledger.add_consent_event(subject, event, event.event_time, None)


def a_grant(**changes: Any) -> Grant:
    scope = Scope(
        categories=frozenset({"member.required", "device"}),
        purposes=frozenset(SECURITY),
        operations=frozenset({"collect", "score"}),
        sources=frozenset({"first_party"}),
        members=frozenset({ANN}),
    )
    wanted: dict[str, Any] = {
        "grant_id": "xg_1",
        "exception": 4,
        "documents": (Document(kind="incident", ref="12"),),
        "necessity": "so that the test has one",
        "scope": scope,
        "not_before": 0,
        "expires_at": NOW + 10,
        "max_uses": 7,
        "requested_by": "asker",
        "requested_at": 0,
        "state": "live",
        "approved_by": ("one", "two"),
        "live_at": 1,
    }
    return Grant(**(wanted | changes))


ACCOUNT = a_world("member.required", "device", purpose="security.account_risk", has_order=False)


def ask(ledger: Ledger, at: int = NOW) -> Permit | Refusal:
    return gate.check(ACCOUNT.purpose, asked(ACCOUNT), ledger, at)


def test_a_withdrawal_holds_for_the_next_call_of_every_worker(
    ledger: Ledger, tmp_path: Path, open_at: Callable[..., Ledger]
) -> None:
    workers = [ledger, *(open_at(tmp_path / "ledger.db") for _ in range(2))]
    for turn in range(20):
        event = a_consent("member.required", record_id=f"cr_{turn}", event_time=NOW + turn)
        put(workers[turn % 3], event)
        for worker in workers:
            assert isinstance(ask(worker, NOW + turn + 1), Permit)
        put(workers[(turn + 1) % 3], event._replace(event_state="consent_withdrawn"))
        for worker in workers:
            assert isinstance(ask(worker, NOW + turn + 1), Refusal)


def test_consent_to_a_notice_that_is_not_on_record_is_no_consent(ledger: Ledger) -> None:
    put(ledger, a_consent("member.required"))
    assert isinstance(ask(ledger), Permit)
    with ledger.transaction() as connection:
        connection.execute("DELETE FROM notices")
    assert isinstance(ask(ledger), Refusal)


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({"valid_from": 5, "material": True}, False),
        ({"valid_from": 5, "material": False}, True),
        ({"valid_from": NOW, "material": True}, False),
        ({"valid_from": NOW + 1, "material": True}, True),
        ({"valid_from": 0, "material": True}, False),  # at the same instant the later one counts
        ({"valid_from": 5, "material": True, "notice_id": "pn_other"}, True),
    ],
)
def test_a_material_change_of_the_notice_ends_consent_to_the_one_before(
    ledger: Ledger, changes: dict[str, Any], holds: bool
) -> None:
    put(ledger, a_consent("member.required"))
    ledger.add_notice(a_notice(version="2", **changes), AN_ENTRY)
    assert isinstance(ask(ledger), Permit) == holds
    put(ledger, a_consent("member.required", record_id="cr_2", notice_version="2"))
    assert isinstance(ask(ledger), Permit) or changes.get("notice_id") is not None


def test_a_grant_revoked_after_it_was_read_is_not_taken(ledger: Ledger) -> None:
    ledger.put_grant(a_grant(), AN_ENTRY)
    read = ledger.grants(NOW)
    ledger.put_grant(a_grant(state="revoked", revoked_by="x", revoked_at=NOW), AN_ENTRY)
    assert read
    asks = {"subject": ANN, "operation": "score"}
    assert not ledger.take("xg_1", NOW, "security.account_risk", ["device"], **asks)
    assert isinstance(ask(ledger), Refusal)


def test_a_quota_used_up_after_it_was_read_is_not_taken(ledger: Ledger) -> None:
    ledger.put_grant(a_grant(max_uses=2), AN_ENTRY)
    asks = {"subject": ANN, "operation": "score"}
    taken = [ledger.take("xg_1", NOW, "security.account_risk", ["device"], **asks) for _ in "1234"]
    assert taken == [True, True, False, False]
    assert ledger.grants(NOW)[0][1] == 2


def test_a_quota_holds_between_threads(ledger: Ledger) -> None:
    ledger.put_grant(a_grant(max_uses=25), AN_ENTRY)
    verdicts: list[Permit | Refusal] = []
    threads = [
        threading.Thread(target=lambda: verdicts.extend(ask(ledger) for _ in range(10)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    permits = [v for v in verdicts if isinstance(v, Permit)]
    assert len(verdicts) == 60
    assert len(permits) == 25
    assert all(bases(v) == {"member.required": "exception", "device": "exception"} for v in permits)


ASKS = """
import sys
from sectionfour.domain import Permit, Request, Use
from sectionfour.privacy import gate
from sectionfour.stores import open_ledger
ledger = open_ledger(sys.argv[1], synchronous="NORMAL")
request = Request(purpose="security.account_risk", event_type="login", kind="member",
                  subject=b"a" * 16, uses=(Use("member.required"), Use("device")))
print("ready", flush=True)
sys.stdin.readline()
got = [gate.check(request.purpose, request, ledger, 1_000_000) for _ in range(40)]
print(sum(isinstance(verdict, Permit) for verdict in got))
"""


def test_a_quota_holds_between_processes(
    ledger: Ledger, tmp_path: Path, url_of: Callable[[Path], str]
) -> None:
    ledger.put_grant(a_grant(max_uses=33), AN_ENTRY)
    command = [sys.executable, "-c", ASKS, url_of(tmp_path / "ledger.db")]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen(command, **pipes) for _ in range(3)]
    assert [worker.stdout.readline() for worker in workers] == ["ready\n"] * 3
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    found = [int(worker.communicate()[0]) for worker in workers]
    assert sum(found) == 33
    assert ledger.grants(NOW)[0][1] == 33


# --- fail closed -----------------------------------------------------------------------------


def test_a_grant_that_cannot_be_read_fails_closed(ledger: Ledger) -> None:
    ledger.put_grant(a_grant(), AN_ENTRY)
    with ledger.transaction() as connection:
        connection.execute("UPDATE grants SET body = x'7b22'")
    for asked in (
        lambda: ask(ledger),
        lambda: ledger.is_held(b"somebody", retention.load(), NOW),
        lambda: ledger.grants_of(b"somebody"),
    ):
        with pytest.raises(FailClosed):
            asked()


@pytest.mark.parametrize("table", ["consent_events", "notices", "grants", "grant_uses"])
def test_without_a_table_there_is_no_verdict(ledger: Ledger, table: str) -> None:
    with ledger.transaction() as connection:
        connection.execute(f"ALTER TABLE {table} RENAME TO gone")
    with pytest.raises(FailClosed):
        ask(ledger)


def fill(ledger: Ledger, count: int = 2000) -> None:
    rows = [
        (os.urandom(16), a_consent("member.required", record_id=f"cr_{n}"), NOW)
        for n in range(count)
    ]
    rows[0] = (ANN, *rows[0][1:])
    with ledger.transaction() as connection:
        ledger.insert_consents(connection, rows)
    ledger.cut()


@pytest.mark.parametrize("how", ["garbage", "cut", "removed", "replaced"])
def test_a_ruined_file_fails_closed(tmp_path: Path, how: str) -> None:
    path = tmp_path / "ledger.db"
    ledger = SqliteLedger(path)
    ledger.add_notice(a_notice(), AN_ENTRY)
    fill(ledger)
    ruin(path, how)
    # Who has it open knows the file, and may still read what is true; nothing can be recorded.
    for subject in (ANN, BOB):
        try:
            verdict = gate.check(
                ACCOUNT.purpose,
                msgspec.structs.replace(asked(ACCOUNT), subject=subject),
                ledger,
                NOW,
            )
        except FailClosed:
            continue
        assert isinstance(verdict, Permit) == (subject == ANN)
    if how in ("removed", "replaced"):
        with pytest.raises(FailClosed):
            put(ledger, a_consent("device"))
    if how in ("garbage", "cut"):
        with pytest.raises(FailClosed):
            ask(SqliteLedger(path))
    ledger.close()


def ruin(path: Path, how: str) -> None:
    size = path.stat().st_size
    if how == "garbage":
        with path.open("r+b") as file:
            file.write(os.urandom(size))
    elif how == "cut":
        os.truncate(path, size // 3)
    else:
        path.rename(path.with_name("elsewhere"))
        if how == "replaced":
            other = SqliteLedger(path)
            other.close()


@pytest.mark.sqlite
def test_a_locked_ledger_gives_no_answer(
    parts: Parts, a_request: Callable[..., dict[str, Any]]
) -> None:
    asks = msgspec.convert(a_request(), Given)
    parts.ledger._database._writer.execute("PRAGMA busy_timeout = 100")
    other = sqlite3.connect(parts.ledger._database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(FailClosed):
        decide(asks, b"digest", parts)
    other.execute("ROLLBACK")
    other.close()
    assert decide(asks, b"digest", parts)[0] == 200


@pytest.mark.parametrize("table", ["consent_events", "assessments", "log", "events"])
def test_without_a_table_there_is_no_answer(
    parts: Parts, a_request: Callable[..., dict[str, Any]], table: str
) -> None:
    with parts.ledger.transaction() as connection:
        connection.execute(f"ALTER TABLE {table} RENAME TO gone")
    parts.keys.subject("raw-member-1", enrol=True)
    with pytest.raises(FailClosed):
        decide(msgspec.convert(a_request(), Given), b"digest", parts)


def test_without_the_vault_there_is_no_answer(
    parts: Parts, a_request: Callable[..., dict[str, Any]]
) -> None:
    with parts.keys.vault._database.write() as connection:
        connection.execute("DROP TABLE subjects")
    with pytest.raises(FailClosed):
        decide(msgspec.convert(a_request(), Given), b"digest", parts)


# --- the shape of the code -------------------------------------------------------------------


def test_a_permit_is_made_by_the_gate_and_nowhere_else() -> None:
    source = Path(sectionfour.__file__).parent
    makers, givers = [], []
    for file in sorted(source.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            if _called(node.func) == "Permit":
                makers.append(file.name)
            # isinstance(x, Permit) asks; convert(x, Permit), decode(x, type=Permit) would make one
            handed = [*node.args, *(keyword.value for keyword in node.keywords)]
            if _called(node.func) != "isinstance" and any(_called(a) == "Permit" for a in handed):
                givers.append(file.name)
    assert makers == ["gate.py"]
    assert givers == []


def _called(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else None
