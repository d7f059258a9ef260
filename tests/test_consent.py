"""Consent records through their life, on a real ledger, against a small model of them (T1)."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)

from sectionfour.domain import Leaf, Notice, Permit, Request, Use
from sectionfour.privacy import consent, gate
from sectionfour.privacy.consent import ConsentEvent
from sectionfour.stores.sqlite import SqliteLedger

START, HOUR = 1_000_000, 3_600
ANN, BOB = b"a" * 16, b"b" * 16
CATEGORIES = ["member.required", "device", "location", "log"]
AN_ENTRY = Leaf("consent", "cr", b"{}")

YES = ("consent_given", "renewed_consent_given")
ENDS = ("consent_withdrawn", "consent_refused", "consent_revoked", "consent_expired")
NEITHER = ("consent_unknown", "consent_requested", "consent_request_deferred")


# --- the model: lists, and nothing remembered -------------------------------------------------


@dataclass(frozen=True)
class Said:
    """One event of a record, as it was said."""

    state: str
    time: int
    until: int | None
    version: str
    categories: frozenset[str]


class Model:
    def __init__(self) -> None:
        self.notices: list[tuple[str, int, bool]] = []  # version, in force from, material
        self.records: dict[bytes, dict[str, list[Said]]] = defaultdict(dict)

    def superseded(self, version: str, now: int) -> bool:
        versions = [name for name, _, _ in self.notices]
        if version not in versions:
            return True
        here = versions.index(version)
        for place, (_, since, material) in enumerate(self.notices):
            later = (since, place) > (self.notices[here][1], here)
            if material and later and since <= now:
                return True
        return False

    def status(self, record: list[Said], now: int) -> tuple[str, Said | None]:
        for said in record:
            if said.state in ENDS:
                return said.state, None
        past = [said for said in record if said.state in YES and said.time < now]
        if not past:
            return "consent_unknown", None
        latest = max(said.time for said in past)
        last = [said for said in past if said.time == latest].pop()
        if self.superseded(last.version, now):
            return "consent_invalidated", None
        if last.until is not None and last.until <= now:
            return "consent_expired", None
        return "consent_given", last

    def usable(self, subject: bytes, now: int) -> set[str]:
        found: set[str] = set()
        for record in self.records[subject].values():
            said = self.status(record, now)[1]
            found |= said.categories if said is not None else set()
        return found


# --- the machine -----------------------------------------------------------------------------

some = st.sampled_from
wanted = st.lists(some(CATEGORIES), min_size=1).map(frozenset) | st.just(frozenset(CATEGORIES))
offsets = st.integers(-3 * HOUR, HOUR) | some([-1, 0, 1])
lasting = st.none() | st.integers(1, 3 * HOUR)


class Consents(RuleBasedStateMachine):
    """Gives, withdraws, renews, expires; changes notices; sets clocks; replays what was said."""

    records: Bundle[tuple[bytes, str]] = Bundle("records")
    withdrawn: Bundle[tuple[bytes, str]] = Bundle("withdrawn")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "ledger.db"
        self.ledgers = [SqliteLedger(path, synchronous="OFF") for _ in range(2)]
        self.model = Model()
        self.now = START
        self.count = 0

    def teardown(self) -> None:
        for ledger in self.ledgers:
            ledger.close()
        self.folder.cleanup()

    @initialize()
    def first_notice(self) -> None:
        self._publish(0, material=False)

    def _publish(self, since: int, *, material: bool) -> None:
        version = str(len(self.model.notices) + 1)
        notice = Notice(
            notice_id="pn",
            version=version,
            language="en",
            text_sha256="5f" * 32,
            purposes=("security",),
            categories=tuple(CATEGORIES),
            valid_from=since,
            material=material,
        )
        self.ledgers[0].add_notice(notice, AN_ENTRY)
        self.model.notices.append((version, since, material))

    def _say(self, subject: bytes, record: str, said: Said) -> None:
        event = ConsentEvent(
            seq=0,
            record_id=record,
            purpose="security",
            categories=said.categories,
            source="first_party",
            notice_id="pn",
            notice_version=said.version,
            event_type=consent.IMPLICIT,
            event_state=said.state,
            event_time=said.time,
            expires_at=said.until,
            superseded=False,
        )
        self.count += 1
        self.ledgers[self.count % 2].add_consent_event(subject, event, self.now, None)
        self.model.records[subject].setdefault(record, []).append(said)

    @rule(material=st.booleans(), offset=offsets)
    def publish(self, material: bool, offset: int) -> None:
        self._publish(self.now + offset, material=material)

    @rule(
        target=records,
        subject=some([ANN, ANN, BOB]),
        categories=wanted,
        offset=offsets,
        lasts=lasting,
        state=some([*YES, *NEITHER]),
        data=st.data(),
    )
    def begin(
        self,
        subject: bytes,
        categories: frozenset[str],
        offset: int,
        lasts: int | None,
        state: str,
        data: Any,
    ) -> tuple[bytes, str]:
        version = data.draw(some([*(name for name, _, _ in self.model.notices), "not on record"]))
        time = self.now + offset
        until = None if lasts is None else time + lasts
        record = f"cr_{self.count}"
        self._say(subject, record, Said(state, time, until, version, categories))
        return subject, record

    @rule(
        of=records,
        categories=wanted,
        offset=offsets,
        lasts=lasting,
        state=some([*YES, *YES, *NEITHER]),
    )
    def say_again(
        self,
        of: tuple[bytes, str],
        categories: frozenset[str],
        offset: int,
        lasts: int | None,
        state: str,
    ) -> None:
        subject, record = of
        first = self.model.records[subject][record][0]
        time = self.now + offset
        until = None if lasts is None else time + lasts
        self._say(subject, record, Said(state, time, until, first.version, categories))

    @rule(target=withdrawn, of=consumes(records), offset=offsets, state=some(ENDS))
    def end(self, of: tuple[bytes, str], offset: int, state: str) -> tuple[bytes, str]:
        subject, record = of
        first = self.model.records[subject][record][0]
        said = Said(state, self.now + offset, None, first.version, first.categories)
        self._say(subject, record, said)
        assert self._state(subject, record) == state
        return of

    @rule(of=records | withdrawn, data=st.data())
    def replay(self, of: tuple[bytes, str], data: Any) -> None:
        subject, record = of
        self._say(subject, record, data.draw(some(self.model.records[subject][record])))

    @rule(by=st.integers(1, 2 * HOUR) | some([1, 30 * 24 * HOUR]))
    def wait(self, by: int) -> None:
        self.now += by

    @rule(by=some([1, HOUR, 24 * HOUR]))
    def clock_jumps_back(self, by: int) -> None:
        self.now -= by

    def _state(self, subject: bytes, record: str) -> str:
        events = consent.by_record(self.ledgers[0].consents(subject, self.now))
        return consent.state(events[record], self.now)

    @invariant()
    def every_record_stands_as_in_the_model(self) -> None:
        for subject in (ANN, BOB):
            for record, said in self.model.records[subject].items():
                assert self._state(subject, record) == self.model.status(said, self.now)[0]

    @invariant()
    def the_gate_uses_what_stands_and_nothing_else(self) -> None:
        uses = tuple(Use(category) for category in CATEGORIES)
        purpose = "security.account_risk"
        for subject in (ANN, BOB):
            request = Request(
                purpose=purpose, event_type="login", kind="member", subject=subject, uses=uses
            )
            usable = self.model.usable(subject, self.now)
            for ledger in self.ledgers:
                verdict = gate.check(purpose, request, ledger, self.now)
                if "member.required" in usable:
                    assert isinstance(verdict, Permit)
                    assert {basis.category for basis in verdict.basis} == usable
                else:
                    assert not isinstance(verdict, Permit)


def an_event(**changes: Any) -> ConsentEvent:
    wanted: dict[str, Any] = {
        "seq": 1,
        "record_id": "cr_1",
        "purpose": "security",
        "categories": frozenset(CATEGORIES),
        "source": "first_party",
        "notice_id": "pn",
        "notice_version": "1",
        "event_type": consent.EXPLICIT,
        "event_state": consent.GIVEN,
        "event_time": 10,
        "expires_at": 20,
        "superseded": False,
    }
    return ConsentEvent(**(wanted | changes))


def test_consent_holds_after_it_was_given_and_until_it_ends() -> None:
    states = {at: consent.state([an_event()], at) for at in (9, 10, 11, 19, 20, 21)}
    assert states == {
        9: "consent_unknown",
        10: "consent_unknown",
        11: "consent_given",
        19: "consent_given",
        20: "consent_expired",
        21: "consent_expired",
    }


def test_of_two_givings_at_one_instant_the_one_said_later_counts() -> None:
    narrow = an_event(seq=2, categories=frozenset({"device"}))
    assert consent.live([an_event(), narrow], 15) == [narrow]
    assert consent.live([narrow, an_event(seq=3)], 15) == [an_event(seq=3)]


def test_a_renewal_in_fewer_words_is_not_undone_by_a_replay_of_the_first() -> None:
    first = an_event()
    renewed = an_event(event_state=consent.RENEWED, event_time=12, categories=frozenset({"log"}))
    assert consent.live([first, renewed, first], 15) == [renewed]


@pytest.mark.parametrize("state", [*ENDS, "consent_invalidated", "something new"])
def test_an_end_is_for_good_whatever_is_said_after_it_and_whatever_its_clock(state: str) -> None:
    for time in (0, 10, 10**15):
        events = [an_event(), an_event(event_state=state, event_time=time), an_event()]
        assert consent.state(events, 15) == state
        assert consent.live(events, 15) == []


Consents.TestCase.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
TestConsentsThroughTheirLife = Consents.TestCase
