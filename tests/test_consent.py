"""What consent records fold to. Through their whole life: `test_audit_consent.py`."""

from __future__ import annotations

from typing import Any

import pytest

from sectionfour.privacy import consent
from sectionfour.privacy.consent import ConsentEvent

from .conftest import consent_event

CATEGORIES = ["member.required", "device", "location", "log"]
ENDS = ("consent_withdrawn", "consent_refused", "consent_revoked", "consent_expired")


def an_event(**changes: Any) -> ConsentEvent:
    return consent_event(**({"categories": frozenset(CATEGORIES), "expires_at": 20} | changes))


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


def test_of_records_that_stand_together_the_newest_is_named_first() -> None:
    """It is the one that an answer names as its basis."""
    records = [an_event(seq=n, record_id=f"cr_{n}", event_time=10) for n in (1, 2, 3)]
    assert consent.live(records, 15) == records[::-1]
    ended = an_event(seq=4, record_id="cr_2", event_state="consent_withdrawn")
    assert consent.live([*records, ended], 15) == [records[2], records[0]]


@pytest.mark.parametrize(
    ("states", "word"),
    [
        ([], "absent"),
        ([consent.GIVEN], "not_covered"),
        ([consent.GIVEN, "consent_expired"], "expired"),
        ([consent.GIVEN, "consent_invalidated"], "invalidated"),
        (["consent_invalidated", "consent_expired", consent.GIVEN], "expired"),
        (["consent_invalidated", "consent_expired", "consent_withdrawn"], "withdrawn"),
        (["consent_refused"], "absent"),
    ],
)
def test_why_consents_are_no_basis_is_said_in_one_word(states: list[str], word: str) -> None:
    events = [
        an_event(seq=n, record_id=f"cr_{n}", event_state=state) for n, state in enumerate(states)
    ]
    assert consent.end_of(events, 15) == word
