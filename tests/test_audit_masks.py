"""T4, T5, T24: what is masked leaves no trace, refusing costs nothing, and all of it is quick."""

from __future__ import annotations

import copy
import os
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from sectionfour.decide import decide
from sectionfour.decisions import answers
from sectionfour.domain import EVENT_TYPES, Leaf, Notice, Outcome, Permit, Request, Use
from sectionfour.given import Given
from sectionfour.parts import Parts
from sectionfour.privacy import consent, gate, merkle, pseudonym, receipts, regime
from sectionfour.privacy.consent import ConsentEvent

LONG = os.environ.get("AUDIT") == "long"
AUDIT = "AUDIT" in os.environ

CATEGORIES = list(regime.load().categories)
SENSITIVE = {"identity.document", "biometric.face", "credit.realname"}
TYPED = {"identity.document": "identity.document:passport"}
NOT_OF_FOUR = {"communication", "profile.tag"}

Draw = random.Random
Body = dict[str, Any]


class Marketplace:
    """A service in process, some members with a past, and consents as a test has them."""

    def __init__(self, parts: Parts) -> None:
        self.number = 0
        self.at = parts.clock()  # it stands still, so that two events can be of one instant
        self.parts = replace(parts, clock=lambda: self.at)
        notice = Notice(
            notice_id="pn", version="1", language="en", text_sha256="0" * 64,
            purposes=("security",), categories=tuple(CATEGORIES), valid_from=0, material=False,
        )  # fmt: skip
        parts.ledger.add_notice(notice, Leaf("notice", "pn", b"{}"))

    def say(
        self, member: str, categories: set[str], state: str = consent.GIVEN, source: str = ""
    ) -> None:
        """Put a consent, or a refusal, on record: a record for each sensitive category and for each
        purpose of what is not of section Four, beside one for all the rest."""
        plain = categories - SENSITIVE - NOT_OF_FOUR
        said = [("security", plain)]
        said += [("security", {TYPED.get(one, one)}) for one in categories & SENSITIVE]
        said += [(purpose, categories & NOT_OF_FOUR) for purpose in PURPOSES]
        subject = self.parts.keys.subject(member, enrol=True)
        for purpose, of in said:
            self.number += 1
            event = ConsentEvent(
                0, f"cr_{self.number}", purpose, frozenset(of), source or "first_party", "pn",
                "1", consent.EXPLICIT, state, self.at - 10, None, False,
            )  # fmt: skip
            if of and subject is not None:
                self.parts.ledger.add_consent_event(subject, event, self.at, None)

    def rate(self, body: Body, mode: str = "evaluate") -> tuple[int, bytes | None, Body]:
        """Return (HTTP status, the vector to the bit, what it led to) of one event."""
        self.number += 1
        name = f"e_{self.number}"
        given = msgspec.convert(body | {"event_id": name, "mode": mode}, Given)
        status, answer = decide(given, b"asked", self.parts)
        rows = self.parts.ledger.rows("SELECT vector FROM assessments WHERE event_id = ?", name)
        said = msgspec.json.decode(answer)
        told = ("risk_score", "risk_level", "outcome", "reasons", "missing", "challenge")
        return status, rows[0][0], {key: said[key] for key in told if key in said}


PURPOSES = ("security.transaction_risk", "security.account_risk")


def a_body(draw: Draw, member: str) -> Body:
    """Return an event with every part that there is, of values that few people share."""
    purpose = draw.choice(PURPOSES)
    kinds = ["purchase"] if purpose == PURPOSES[0] else [k for k in EVENT_TYPES if k != "purchase"]
    body = {
        "purpose": purpose,
        "event": {"type": draw.choice(kinds), "occurred_at": "2026-11-23T09:00:00+08:00"},
        "member": {"id": member},
        "transaction": {"order_id": f"o_{draw.random()}", "amount": 0, "currency": "CNY"},
        "device": {
            "permissions": ["location.ip", *(c for c in CATEGORIES if c.startswith("location."))]
        },
        "location": {},
        "identity": {"document_type": "passport"},
    }
    for category in CATEGORIES:
        randomise(draw, body, category)
    return body


def randomise(draw: Draw, body: Body, category: str) -> None:
    """Draw every raw input of a category anew; some are those of other people.

    Neither a permission of the operating system nor whether a consignee is the member is an input:
    they say whether there is a basis.
    """
    few, many = draw.randrange(6), draw.randrange(1000)
    member, transaction = body["member"], body["transaction"]
    match category:
        case "member.required":
            member["email"] = f"m{few}@example.com"
            member["phone"] = f"+861391234567{few}"
            member["registered_at"] = f"20{10 + few}-01-01T00:00:00Z"
        case "member.optional":
            member["optional"] = {"birth_date": str(many), "gender": str(few), "real_name": "n"}
        case "identity.document":
            body["identity"]["document_verified"] = draw.random() < 0.5
        case "biometric.face":
            body["identity"]["face_match_level"] = few
        case "credit.realname":
            body["identity"]["credit_band"] = few
        case "order":
            transaction |= {"amount": 10**few, "payee_id": f"p_{few}", "item_count": many}
        case "consignee":
            where = {"name": f"n {few}", "address": f"{few} Long Road", "phone": f"1391234567{few}"}
            transaction["consignee"] = where | {"is_member": True}
        case "payment":
            transaction["instrument"] = {"kind": "alipay", "id": f"2088{few}"}
        case "device":
            body["device"] |= {"id": f"d_{few}", "model": f"X{few}", "os": f"ios {few}"}
        case "location":
            body["location"]["ip"] = f"203.0.113.{few}"
        case "location.gps":
            body["location"]["gps"] = {"lat": 31.0 + few, "lon": 121.0 + few}
        case "location.wifi" | "location.bluetooth" | "location.base_station":
            body["location"][category.partition(".")[2]] = [f"station {few}"]
        case "log":
            body["log"] = {
                "user_agent": f"agent {few}", "language": "zh", "session_id": f"s_{many}",
                "page_views": many, "search_count": few, "seconds_on_page": draw.random() * many,
            }  # fmt: skip
        case "communication":
            body["communication"] = {"said": str(many)}
        case "profile.tag":
            body["profile"] = {"likes": str(many)}
        case _:  # no field brings it: what is sent under its name is read by nobody
            body[category.replace(".", "_")] = {"value": many}


@pytest.fixture
def market(parts: Parts) -> Marketplace:
    """Six members with a past of eight events each, under consent to everything."""
    found = Marketplace(parts)
    draw = random.Random(4)
    for turn in range(48):
        member = f"warm_{turn % 6}"
        if turn < 6:
            found.say(member, {*CATEGORIES})
        found.at += 3_600_000_000
        assert found.rate(a_body(draw, member), "protect")[0] == 200
    return found


@pytest.mark.parametrize("category", CATEGORIES)
def test_what_is_not_permitted_does_not_change_a_bit(
    market: Marketplace, category: str, record_property: Callable[[str, object], None]
) -> None:
    """T4. The control arm permits the category, and sees it wherever a feature reads it."""
    trials = 10_000 if LONG else 25
    draw = random.Random(category)
    # An order is the contract for itself (exception 7): where nothing was asked for, it is none.
    least = {"member.required", "order", "payment"} & {category}
    market.say("m_without", {*CATEGORIES} - {category})
    market.say("m_with", {*CATEGORIES})
    differ = seen = refused = 0
    for _ in range(trials):
        body = a_body(draw, "m_without")
        if least:
            body |= {"purpose": "security.account_risk"}
            body["event"] |= {"type": "login"}
        other = copy.deepcopy(body)
        randomise(draw, other, category)
        one, two = market.rate(body), market.rate(other)
        differ += one != two
        refused += one[0] == 403
        for arm in (body, other):
            arm["member"] = arm["member"] | {"id": "m_with"}
        seen += market.rate(body)[1] != market.rate(other)[1]
    assert differ == 0
    assert refused == (trials if category == "member.required" else 0)
    assert bool(seen) == (category in READ)
    record_property(f"trials of each of {len(CATEGORIES)} categories", trials)
    record_property("differences", differ)


#: Whatever else a request brings, no feature reads it.
READ = {"member.required", "order", "consignee", "payment", "device", "location", "log"}
READ |= {"identity.document", "biometric.face"}

REFUSABLE = sorted({*CATEGORIES} - {"member.required", "order", "derived.risk"})
PLACES = {
    "member.optional": ("member", "optional"),
    "consignee": ("transaction", "consignee"),
    "payment": ("transaction", "instrument"),
    "device": ("device",),
    "location": ("location", "ip"),
    "location.gps": ("location", "gps"),
    "location.wifi": ("location", "wifi"),
    "location.bluetooth": ("location", "bluetooth"),
    "location.base_station": ("location", "base_station"),
    "log": ("log",),
    "identity.document": ("identity", "document_verified"),
    "biometric.face": ("identity", "face_match_level"),
    "credit.realname": ("identity", "credit_band"),
    "communication": ("communication",),
    "profile.tag": ("profile",),
    "indirect.counterparty": ("indirect_counterparty",),
}


def without(body: Body, category: str) -> Body:
    """Return the event of somebody who never provided the category."""
    body = copy.deepcopy(body)
    *path, last = PLACES[category]
    part = body
    for name in path:
        part = part[name]
    del part[last]
    return body


def test_refusing_is_never_held_against_anyone(
    market: Marketplace, record_property: Callable[[str, object], None]
) -> None:
    """T5 (R-04, R-22, R-26). Refused, withdrawn, unknown, not attested: as if never provided."""
    trials = 770 if LONG else 6
    draw = random.Random(5)
    flips = differences = events = 0
    states = ["consent_refused", consent.WITHDRAWN, "consent_unknown"]
    for category in REFUSABLE:
        rest = {*CATEGORIES} - {category}
        for state in states:
            market.say(f"m_{category}_{state}", rest)
            market.say(f"m_{category}_{state}", {category}, state)
        market.say(f"m_{category}_affiliate", rest)
        for _ in range(trials):
            body = a_body(draw, "anybody")
            if category == "payment":  # no contract, so that consent alone counts
                body |= {"purpose": "security.account_risk"}
                body["event"] |= {"type": "payout"}
            never = without(body, category)
            if category == "device":  # a device that tells nothing still says what it was granted
                never["device"] = {"permissions": body["device"]["permissions"]}
            arms = []
            for state in states:
                who = {"member": body["member"] | {"id": f"m_{category}_{state}"}}
                whose = {"member": never["member"] | {"id": f"m_{category}_{state}"}}
                arms += [market.rate(body | who), market.rate(never | whose)]
            who = {"member": body["member"] | {"id": f"m_{category}_affiliate"}}
            arms.append(market.rate(body | who | {"sources": {category: "affiliate:a"}}))
            assert {status for status, _, _ in arms} == {200}
            differences += sum(arm[1:] != arms[0][1:] for arm in arms)
            flips += len({arm[2]["outcome"] for arm in arms}) - 1
            events += 1
    assert differences == 0
    assert flips == 0
    record_property("events", events)
    record_property("ways to refuse, of each of 13 categories", 7)
    record_property("differences in score", differences)
    record_property("decisions flipped", flips)


# --- T24 -------------------------------------------------------------------------------------


def spent(work: Callable[[], object], times: int) -> tuple[float, float]:
    """Return p50 and p99 of the CPU time of `work`, in microseconds."""
    for _ in range(50):
        work()
    found = []
    for _ in range(times):
        began = time.thread_time_ns()
        work()
        found.append(time.thread_time_ns() - began)
    found.sort()
    return found[times // 2] / 1000, found[times * 99 // 100] / 1000


def test_the_gate_and_the_privacy_of_an_assessment_are_quick(
    market: Marketplace, record_property: Callable[[str, object], None]
) -> None:
    """T24. Without AUDIT the figures are taken and not judged: the machine may be busy."""
    parts = market.parts
    market.say("m_quick", {*CATEGORIES})
    body = a_body(random.Random(1), "m_quick") | {"event_id": "e_quick", "purpose": PURPOSES[1]}
    given = msgspec.convert(body, Given)
    subject = parts.keys.subject("m_quick")
    fourteen = [key for key in CATEGORIES[:16] if key not in ("credit.realname", "derived.risk")]
    request = Request(
        purpose=PURPOSES[1], event_type="login", kind="member", subject=subject,
        uses=tuple(Use(key, attribute=TYPED.get(key, ":").partition(":")[2] or None)
                   for key in fourteen),
    )  # fmt: skip
    at = parts.clock()

    def at_the_gate() -> Permit:
        verdict = gate.check(PURPOSES[1], request, parts.ledger, at, regime=parts.regime)
        assert isinstance(verdict, Permit)
        return verdict

    assert len(at_the_gate().basis) == 14

    def privacy() -> bytes:
        claimed = pseudonym.claim(given, parts.keys, parts.regime)
        verdict = gate.check(PURPOSES[1], claimed, parts.ledger, at, regime=parts.regime)
        assert isinstance(verdict, Permit)
        event = pseudonym.seal(claimed, verdict, parts.keys, at=at, regime=parts.regime)
        answer = answers.scored("as_1", event, verdict, rating, OUTCOME)
        assert event.member is not None
        leaf = answers.receipt(
            answer,
            verdict,
            claimed,
            alias=parts.keys.alias(event.member, "audit"),
            digests={"policy": parts.policy.digest, "regime": parts.regime.digest},
            commitment=receipts.commitment(
                b"n" * 32, asked=b"asked", subject=event.member, key_id=None, vector=vector,
                event=event, answer=msgspec.json.encode(answer),
            ),
        )  # fmt: skip
        return merkle.leaf_hash(receipts.canonical(leaf))

    vector = market.rate(body)[1]
    assert vector is not None
    import numpy as np

    rating = parts.models.get("account").rate(np.frombuffer(vector))
    times = 20_000 if LONG else 3_000 if AUDIT else 300
    p50, p99 = spent(at_the_gate, times)
    _, share = spent(privacy, times)
    record_property("gate p50", f"{p50:.0f} us")
    record_property("gate p99", f"{p99:.0f} us")
    record_property("privacy share p99", f"{share:.0f} us of CPU")
    if AUDIT:
        assert p50 <= 50
        assert p99 <= 250
        assert share <= 1_000


OUTCOME = Outcome("low", "allow")
