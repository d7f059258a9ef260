"""T1: consent through its life. Two workers on one ledger, beside a model of what members said.

The model is read off the requirements (R-24, R-31, R-51, R-52 and the statuses of their section 9),
not off the code: it keeps what was said in a list, and reads all of it again at every question.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import msgspec
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
    run_state_machine_as_test,
)

from sectionfour.decide import decide
from sectionfour.domain import Leaf, Notice, Permit, Request, Use
from sectionfour.given import Given
from sectionfour.parts import Parts, never_back
from sectionfour.privacy import consent, gate
from sectionfour.privacy.consent import ConsentEvent
from sectionfour.settings import Settings
from sectionfour.stores import open_ledger

STEPS = 1_000_000 if os.environ.get("AUDIT") == "long" else 20_000
START, HOUR = 1_700_000_000_000_000, 3_600_000_000

# --- the model -------------------------------------------------------------------------------

VALID = ("consent_given", "renewed_consent_given")
PENDING = ("consent_unknown", "consent_requested", "consent_request_deferred")
OVER = tuple(f"consent_{e}" for e in ("refused", "withdrawn", "expired", "revoked", "invalidated"))


@dataclass(frozen=True)
class Said:
    record: str
    member: int
    purpose: str
    source: str
    categories: frozenset[str]
    explicit: bool
    status: str
    time: int
    until: int | None
    version: str


class Model:
    def __init__(self) -> None:
        self.notices: list[tuple[str, int, bool]] = []  # version, in force from, material
        self.said: list[Said] = []  # in the order in which it came to the ledger

    def replaced(self, version: str, now: int) -> bool:
        """Whether a later version with a material change is in force, or this one unknown."""
        in_order = sorted(self.notices, key=lambda notice: notice[1])  # stable
        names = [notice[0] for notice in in_order]
        if version not in names:
            return True
        return any(new and at <= now for _, at, new in in_order[names.index(version) + 1 :])

    def standing(self, record: str, now: int) -> tuple[str, Said | None]:
        """Return the status of a record now, and what was said that it rests on."""
        rests_on = None
        for said in (said for said in self.said if said.record == record):
            if said.status in OVER:  # a no is a no, whatever any clock says of it
                return said.status, None
            prior = said.status in VALID and said.time < now  # before the call, not with it
            if prior and (rests_on is None or said.time >= rests_on.time):
                rests_on = said
        if rests_on is None:
            return "consent_unknown", None
        if self.replaced(rests_on.version, now):
            return "consent_invalidated", None
        if rests_on.until is not None and rests_on.until <= now:
            return "consent_expired", None
        return "consent_given", rests_on

    def permitted(self, member: int, purpose: str, source: str, now: int) -> set[str]:
        """Return the categories that may be used; of yes and no to the same the later counts."""
        here = [said for said in self.said if (said.member, said.source) == (member, source)]
        theirs = [(said.time, place, said) for place, said in enumerate(here)]
        noes = [no for no in theirs if no[2].status == OVER[0]]
        noes = [no for no in noes if no[2].purpose in (purpose, "security")]
        found = set()
        for yes in (self.standing(record, now)[1] for record in {said.record for said in here}):
            word = max(((time, place) for time, place, said in theirs if said == yes), default=())
            refused = {c for *when, no in noes if (*when,) > word for c in no.categories}
            for category in yes.categories if yes else ():
                four = category != "communication"  # else for this very purpose alone
                holds = yes.purpose == purpose or (four and yes.purpose == "security")
                if not four or category in SENSITIVE:  # of these a consent of its own
                    holds = holds and yes.explicit and not (four and len(yes.categories) > 1)
                if holds and refused.isdisjoint((category, category.partition(":")[0])):
                    found |= {category}.difference(NOBODY_S)
        return found


# --- the machine -----------------------------------------------------------------------------

SENSITIVE = frozenset({"identity.document:passport", "biometric.face"})
NOBODY_S = ["identity.document", "identity.document:driving_licence"]
CATEGORIES = ["member.required", "device", "log", "member.optional", "communication", *SENSITIVE]
CATEGORIES += NOBODY_S  # consents to these are no basis for a passport
PURPOSES = ["security.account_risk", "security.incident_detection"]
SOURCES = ["first_party", "public"]

some = st.sampled_from
offsets = st.integers(-3 * HOUR, HOUR) | some([-1, 0, 1])
lasting = st.none() | st.integers(1, 3 * HOUR)
sets = some(
    [frozenset(CATEGORIES) - SENSITIVE, frozenset({"member.required", "device"}), SENSITIVE]
)
sets |= st.frozensets(some(CATEGORIES), min_size=1) | some(CATEGORIES).map(
    lambda one: frozenset({one})
)


class Consents(RuleBasedStateMachine):
    """Gives, renews, refuses, withdraws, lets expire; changes notices; moves clocks; replays."""

    records: Bundle[str] = Bundle("records")
    over: Bundle[str] = Bundle("over")

    workers: ClassVar[list[Parts]]
    runs: ClassVar[int] = 0
    latest: ClassVar[int] = START
    counts: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        type(self).runs += 1  # members and notice of this run's own: the ledger is that of all
        self.notice = f"pn_{self.runs}"
        self.names = [f"m_{self.runs}_{member}" for member in range(2)]
        self.model = Model()
        self.now = self.at = self.latest
        self.turn = 0
        self.clock = never_back(lambda: self.now, self.at)
        keys = self.workers[0].keys
        self.subjects = [keys.subject(name, enrol=True) for name in self.names]

    @initialize(material=st.booleans())
    def first_notice(self, material: bool) -> None:
        self.publish(material, -10 * HOUR)

    @rule(material=st.booleans(), offset=offsets)
    def publish(self, material: bool, offset: int) -> None:
        version = f"v{len(self.model.notices)}"
        notice = Notice(
            notice_id=self.notice,
            version=version,
            language="en",
            text_sha256="5f" * 32,
            purposes=("security",),
            categories=tuple(CATEGORIES),
            valid_from=self.now + offset,
            material=material,
        )
        self._worker().ledger.add_notice(notice, Leaf("notice", self.notice, b"{}"))
        self.model.notices.append((version, self.now + offset, material))

    def _worker(self) -> Parts:
        self.turn += 1
        return self.workers[self.turn % 2]

    def _say(self, said: Said) -> None:
        event = ConsentEvent(
            seq=0,
            record_id=said.record,
            purpose=said.purpose,
            categories=said.categories,
            source=said.source,
            notice_id=self.notice,
            notice_version=said.version,
            event_type=consent.EXPLICIT if said.explicit else consent.IMPLICIT,
            event_state=said.status,
            event_time=said.time,
            expires_at=said.until,
            superseded=False,
        )
        subject = self.subjects[said.member]
        self._worker().ledger.add_consent_event(subject, event, self.at, None)
        self.model.said.append(said)

    @rule(
        target=records,
        member=some([0, 0, 1]),
        purpose=some(["security", "security", *PURPOSES, "marketing.push"]),
        source=some(["first_party", *SOURCES]),
        categories=sets,
        explicit=some([True, True, False]),
        status=some([*VALID, *VALID, *PENDING]),
        offset=offsets,
        lasts=lasting,
        version=st.integers(-1, 4),
    )
    def begin(
        self,
        member: int,
        purpose: str,
        source: str,
        categories: frozenset[str],
        explicit: bool,
        status: str,
        offset: int,
        lasts: int | None,
        version: int,
    ) -> str:
        record = f"cr_{self.runs}_{len(self.model.said)}"
        time = self.now + offset
        until = None if lasts is None else time + lasts
        newest = len(self.model.notices) - 1
        named = "not on record" if version < 0 else f"v{min(version, newest)}"
        self._say(
            Said(record, member, purpose, source, categories, explicit, status, time, until, named)
        )
        return record

    @rule(
        record=records, status=some([*VALID, *VALID, *PENDING]), offset=offsets, lasts=lasting,
        categories=st.none() | sets,
    )  # fmt: skip
    def say_more(
        self,
        record: str,
        status: str,
        offset: int,
        lasts: int | None,
        categories: frozenset[str] | None,
    ) -> None:
        """Renew, ask again, or say it again in other words; it may come out of order."""
        time = self.now + offset
        until = None if lasts is None else time + lasts
        first = self._first(record)
        more = replace(first, status=status, time=time, until=until)
        self._say(more if categories is None else replace(more, categories=categories))

    def _first(self, record: str) -> Said:
        return next(said for said in self.model.said if said.record == record)

    @rule(target=over, record=consumes(records), status=some(OVER), offset=offsets)
    def end(self, record: str, status: str, offset: int) -> str:
        self._say(replace(self._first(record), status=status, time=self.now + offset, until=None))
        return record

    @rule(record=records | over, which=st.integers(0, 9))
    def replay(self, record: str, which: int) -> None:
        """Send again what was sent before."""
        said = [said for said in self.model.said if said.record == record]
        self._say(said[which % len(said)])

    @rule(by=st.integers(1, 2 * HOUR) | some([1, 30 * 24 * HOUR]))
    def wait(self, by: int) -> None:
        """`now` is what the machine's clock says; `at` what the service takes it for."""
        self.now += by
        self.at = self.clock()
        type(self).latest = max(self.latest, self.at + HOUR)

    @rule(by=some([1, HOUR, 24 * HOUR]))
    def clock_jumps_back(self, by: int) -> None:
        self.now -= by
        self.at = self.clock()

    @rule(member=some([0, 1]), purpose=some(PURPOSES))
    def call(self, member: int, purpose: str) -> None:
        """The whole walk, to a score or to none."""
        worker = replace(self._worker(), clock=self.clock)
        body = {
            "event_id": f"e_{self.runs}_{self.turn}",
            "purpose": purpose,
            "event": {"type": "login", "occurred_at": "2026-01-01T00:00:00Z"},
            "member": {"id": self.names[member], "optional": {"gender": "f"}},
            "device": {"id": "d_1"},
            "log": {"page_views": 3},
            "identity": {
                "document_type": "passport",
                "document_verified": True,
                "face_match_level": 2,
            },
            "communication": {"said": "hello"},
        }
        status, answer = decide(msgspec.convert(body, Given), b"asked", worker)
        may = self.model.permitted(member, purpose, "first_party", self.at)
        said = msgspec.json.decode(answer)
        if "member.required" in may:
            whole = {category.partition(":")[0] for category in may}
            assert (status, {basis["category"] for basis in said["basis"]}) == (200, whole)
            self.counts["scored"] += 1
        else:
            assert status == 403
            assert "risk_score" not in said
            self.counts["refused"] += 1
        self.wait(1_000)  # two events are never of one instant

    @invariant()
    def what_may_be_used_is_what_was_said(self) -> None:
        self.counts["steps"] += 1
        purpose, source = PURPOSES[self.turn % 2], SOURCES[self.turn // 2 % 4 == 3]
        asked = [named.partition(":") for named in CATEGORIES if named not in NOBODY_S]
        uses = tuple(Use(key, source, attribute=kind or None) for key, _, kind in asked)
        for member, subject in enumerate(self.subjects):
            request = Request(
                purpose=purpose, event_type="login", kind="member", subject=subject, uses=uses
            )
            may = self.model.permitted(member, purpose, source, self.at)
            for worker in self.workers:
                verdict = gate.check(purpose, request, worker.ledger, self.at)
                assert isinstance(verdict, Permit) == ("member.required" in may)
                if isinstance(verdict, Permit):
                    whole = {category.partition(":")[0] for category in may}
                    assert {basis.category for basis in verdict.basis} == whole

    @invariant()
    def every_record_has_the_status_of_the_model(self) -> None:
        subject = self.turn % 2
        found = self.workers[self.turn % 2].ledger.consents(self.subjects[subject], self.at)
        for record, events in consent.by_record(found).items():
            status = self.model.standing(record, self.at)[0]
            assert consent.state(events, self.at) == status
            self.counts[status] += 1


def test_nobody_is_scored_but_on_a_standing_yes(
    parts: Parts, settings: Settings, record_property: Callable[[str, object], None]
) -> None:
    url = settings.ledger or f"sqlite:{settings.home / 'ledger.db'}"
    other = open_ledger(url, synchronous="OFF")
    Consents.workers = [parts, replace(parts, ledger=other)]
    Consents.counts = Counter()
    try:
        while Consents.counts["steps"] < STEPS:
            run_state_machine_as_test(Consents, settings=RUN)
    finally:
        other.close()
    counts = Consents.counts
    assert all(counts[status] for status in ("scored", "refused", "consent_given", *OVER))
    assert counts["consent_unknown"]
    record_property("steps", counts["steps"])
    record_property("calls scored on a standing yes", counts["scored"])
    record_property("calls refused", counts["refused"])
    record_property("divergences", 0)
    record_property("scored without a standing yes", 0)


RUN = settings(max_examples=100, stateful_step_count=100, deadline=None)


def test_the_model_is_small() -> None:
    text = Path(__file__).read_text("utf-8")
    model = text[text.index("\nVALID = ") : text.index("# --- the machine")]
    assert len([line for line in model.splitlines() if line.strip()]) <= 60


@pytest.mark.parametrize("status", [*VALID, *OVER, *PENDING])
def test_the_statuses_are_those_of_the_vocabulary(status: str) -> None:
    """Data Privacy Vocabulary: two are valid, the others are not."""
    model = Model()
    model.notices.append(("v0", 0, False))
    words = ("cr", 0, "security", "first_party", frozenset({"member.required"}), True)
    model.said.append(Said(*words, status, 5, None, "v0"))
    may = model.permitted(0, "security.account_risk", "first_party", 6)
    assert bool(may) == (status in VALID)
