"""Clusters of members: found as the obvious definition has it, and for nobody who may not be."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from sectionfour import simulate
from sectionfour.bootstrap import open_parts
from sectionfour.cli import main
from sectionfour.domain import DAY, FRAUD, Event, known_as
from sectionfour.errors import Ceased, Conflict, NotReady
from sectionfour.features import history, online
from sectionfour.features.catalog import CLUSTER_OVER, HUB_MEMBERS, NAMES
from sectionfour.jobs import clustering, sweep
from sectionfour.learning import clusters, past
from sectionfour.learning.permitted import permit
from sectionfour.loading import imports
from sectionfour.loading.replay import replay
from sectionfour.parts import Parts
from sectionfour.privacy import entries, retention
from sectionfour.settings import Settings

Uses = list[tuple[int, int | None, int | None, int | None]]
KINDS = ("device", "instrument", "address")
PLACES = [NAMES.index(name) for name in ("cluster_size", "cluster_frauds", "cluster_fraud_share")]


def frame(uses: Uses) -> pd.DataFrame:
    return pd.DataFrame(uses, columns=["member", *KINDS], dtype="Int64")


def by_merging(uses: Uses, frauds: set[int]) -> dict[int, tuple[int, int]]:
    """The definition: everybody is alone; whoever shares a thing that is no hub is merged, until
    nothing is left to merge."""
    sharing = []
    for place in (1, 2, 3):
        for thing in {use[place] for use in uses} - {None}:
            users = {use[0] for use in uses if use[place] == thing}
            if len(users) <= HUB_MEMBERS:
                sharing.append(users)
    found = {use[0]: {use[0]} for use in uses}
    merged = True
    while merged:
        merged = False
        for users in sharing:
            together = set().union(*(found[user] for user in users))
            for user in together:
                merged = merged or found[user] != together
                found[user] = together
    return {member: (len(of), len(of & frauds)) for member, of in found.items()}


_things = st.none() | st.integers(0, 8)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 60), _things, _things, _things), max_size=90),
    st.sets(st.integers(0, 70)),
    st.integers(0, HUB_MEMBERS + 2),
)
def test_clusters_are_what_merging_comes_to(uses: Uses, frauds: set[int], busy: int) -> None:
    uses = [*uses, *((100 + n, 99, None, None) for n in range(busy))]  # perhaps a hub
    assert clusters.find(frame(uses), frauds) == by_merging(uses, frauds)


def test_a_device_and_an_instrument_of_the_same_number_join_nobody() -> None:
    uses: Uses = [(1, 7, None, None), (2, None, 7, None), (3, None, None, 7)]
    assert set(clusters.find(frame(uses), set()).values()) == {(1, 0)}


@pytest.mark.parametrize(("members", "size"), [(HUB_MEMBERS, HUB_MEMBERS), (HUB_MEMBERS + 1, 1)])
def test_what_too_many_share_joins_nobody(members: int, size: int) -> None:
    found = clusters.find(frame([(n, 1, None, None) for n in range(members)] * 2), set())
    assert set(found.values()) == {(size, 0)}


def test_of_each_thing_the_last_word_by_then_counts() -> None:
    rows = [
        (10, "chargeback", "a", 1),
        (20, "suspected_fraud", "b", 2),
        (30, "chargeback", "c", 3),
        (40, "legitimate", "a", 1),
        (50, "suspected_fraud", "c", 3),
    ]
    labels = pd.DataFrame(rows, columns=["at", "label", "what", "member"])
    known = [clusters.frauds_known(labels, at) for at in (10, 11, 40, 41, 99)]
    assert known == [set(), {1}, {1, 3}, {3}, {3}]


# --- in the service ----------------------------------------------------------------------------


@pytest.fixture
def buy(client: Any, notice: Any, a_request: Any, a_consent: Any) -> Callable[..., Any]:
    """Let a member, who has consented, buy from a device."""
    consenting, checkout = client("consent"), client("checkout")
    known: set[int] = set()
    turns = iter(range(99))

    def call(number: int, use: int, **changes: Any) -> Any:
        if number not in known:
            known.add(number)
            assert consenting.post("/v1/consents", json=a_consent(number)).status_code == 201
        body = a_request(number, event_id=f"evt_{number}_{next(turns)}", **changes)
        if "device" in body:
            body["device"]["id"] = f"raw-device-{use}"
        return checkout.post("/v1/assessments", json=body)

    return call


def in_force(parts: Parts) -> dict[int, tuple[int, int]]:
    """Return the clusters of the members 1 to 4, by the newest row; nobody else has any."""
    names = {parts.keys.subject(f"raw-member-{n}"): n for n in range(1, 5)}
    return {names[member]: values for member, values in parts.ledger.newest_clusters().items()}


def test_found_once_and_counted_from_a_minute_later(buy: Any, parts: Parts, client: Any) -> None:
    for member, device in ((1, 1), (2, 1), (2, 2), (3, 2), (4, 4)):
        assert buy(member, device).status_code == 200
    label = {"event_id": "evt_1_0", "label": "chargeback", "source": "bank"}
    assert client("checkout").post("/v1/labels", json=label).status_code == 201
    before = parts.clock()
    done = clustering.refresh(parts)
    assert (done.members, done.largest, done.rows) == (3, 3, 3)
    assert before + clustering.AHEAD < done.at < parts.clock() + clustering.AHEAD
    assert in_force(parts) == dict.fromkeys((1, 2, 3), (3, 1))
    member = parts.keys.subject("raw-member-3")
    assert parts.ledger.cluster(member, done.at) is None
    assert parts.ledger.cluster(member, done.at + 1) == (3, 1)
    assert clustering.refresh(parts).rows == 0
    assert buy(4, 2).status_code == 200  # and the cluster grows
    assert clustering.refresh(parts).rows == 4
    assert in_force(parts) == dict.fromkeys((1, 2, 3, 4), (4, 1))


def test_what_is_masked_joins_nobody_and_has_no_cluster(buy: Any, parts: Parts) -> None:
    assert buy(1, 1).status_code == 200
    assert buy(2, 1, device=None).status_code == 200
    clustering.refresh(parts)
    assert in_force(parts) == {}
    found = past.read(parts.ledger)
    matrix, _ = history.compute(found.events, clusters=found.clusters, duckdb={"threads": 1})
    assert matrix[:, PLACES[0]].tolist()[0] == 1
    assert pd.isna(matrix[1, PLACES]).all()


def test_who_withdraws_is_in_nobody_s_cluster_from_the_next_run_on(
    buy: Any, parts: Parts, client: Any
) -> None:
    for member in (1, 2, 3):
        assert buy(member, 1).status_code == 200
    clustering.refresh(parts)
    assert in_force(parts) == dict.fromkeys((1, 2, 3), (3, 0))
    subject = parts.keys.subject("raw-member-1")
    [record] = parts.ledger.consents(subject, parts.clock())
    body = {"event_time": "2026-11-20T00:00:00Z"}
    path = f"/v1/consents/{record.record_id}/withdraw"
    answer = client("consent").post(path, json=body)
    assert answer.status_code in (200, 201), answer.json
    clustering.refresh(parts)
    assert in_force(parts) == {1: (1, 0), 2: (2, 0), 3: (2, 0)}


def test_who_is_erased_has_no_row_and_counts_no_more(buy: Any, parts: Parts, client: Any) -> None:
    for member in (1, 2, 3):
        assert buy(member, 1).status_code == 200
    clustering.refresh(parts)
    gone = parts.keys.subject("raw-member-1")
    size = parts.ledger.size()
    path = "/v1/members/raw-member-1/erasure"
    answer = client("privacy").post(path, json={"trigger": "cancellation"})
    assert answer.status_code == 202
    assert gone not in parts.ledger.newest_clusters()
    with pytest.raises(NotReady, match="run it again"):  # found before, written after
        parts.ledger.add_clusters([(gone, 3, 0)], parts.clock, size)
    with pytest.raises(NotReady):
        parts.ledger.replace_clusters([(gone, 1, 3, 0)], 1 << 61, size)
    assert gone not in parts.ledger.newest_clusters()
    clustering.refresh(parts)
    assert set(parts.ledger.newest_clusters().values()) == {(2, 0)}


def test_nothing_is_found_once_operation_has_ceased(parts: Parts, monkeypatch: Any) -> None:
    monkeypatch.setattr(type(parts.ledger), "cessation", lambda self: object())
    with pytest.raises(Ceased):
        clustering.refresh(parts)


def test_rows_that_count_for_no_kept_event_are_swept(parts: Parts) -> None:
    now = 1_900_000_000_000_000
    cut = retention.load().cutoff("security_3y", now)
    one, two, three = (bytes([n]) * 16 for n in (1, 2, 3))
    rows = [(one, cut - 9, 2, 0), (one, cut - 5, 3, 0), (one, cut, 4, 0), (two, cut - 5, 2, 0),
            (two, cut - 4, 1, 0), (three, cut - 5, 2, 1)]  # fmt: skip
    parts.ledger.replace_clusters(rows, 1 << 61, parts.ledger.size())
    gone = sweep.sweep(parts, now)
    assert gone["clusters"] == 3
    assert sorted(parts.ledger.clusters()) == [rows[1], rows[2], rows[5]]
    assert not sweep.sweep(parts, now)


# --- as of past days ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("market")
    simulate.write(simulate.simulate(seed=3, events=4_000, days=60), folder)
    return folder


def test_each_past_day_has_what_was_known_by_then(market: Path, tmp_path: Path) -> None:
    parts = open_parts(Settings(home=tmp_path / "h", models=tmp_path / "m", velocity_gib=0.1))
    replay(imports.market(market)[0], parts, notice=imports.MARKET_NOTICE)
    done = clustering.refresh_past(parts, 0)
    rows = parts.ledger.clusters()
    assert done.rows == len(rows) > 20
    assert {at % DAY for _, at, _, _ in rows} == {clustering.AHEAD}
    begin = min(at for _, at, _, _ in rows) - clustering.AHEAD
    found = past.read(parts.ledger)
    events, known = found.events, found.known
    permitted, _, masked = permit(found, parts.ledger, at=parts.clock(), regime=parts.regime)
    assert not masked
    member_of = dict(zip(events["event_id"], events["member"], strict=True))
    for day in (begin, begin + 17 * DAY, begin + 40 * DAY):
        inside = events[permitted & (events["at"] > day - CLUSTER_OVER) & (events["at"] < day)]
        uses = [
            tuple(None if pd.isna(x) else x for x in row)
            for row in inside[["member", *KINDS]].itertuples(index=False)
            if not pd.isna(row.member)
        ]
        words: dict[str, str] = {}
        for label in found.labels[found.labels["at"] < day].itertuples():
            if known_as(label.label) is not None:
                words[label.event_id] = label.label
        frauds = {member_of[e] for e, word in words.items() if known_as(word) == FRAUD}
        wanted = {found.subjects[m]: v for m, v in by_merging(uses, frauds).items()}
        of_then = parts.ledger.newest_clusters(day + clustering.AHEAD + 1)
        for member in found.subjects:
            assert of_then.get(member, (1, 0)) == wanted.get(member, (1, 0))
    matrix, _ = history.compute(events, known, clusters=found.clusters)
    sizes = matrix[:, PLACES[0]]
    assert (sizes > 1).sum() > 20
    assert clustering.refresh_past(parts, 0).rows == done.rows  # again: the same
    assert parts.ledger.clusters() == rows
    half = begin + 30 * DAY
    clustering.refresh_past(parts, half)
    assert parts.ledger.clusters() == rows
    assert clustering.refresh(parts).members == 0  # nothing has happened for a month and more
    parts.close()


def test_past_days_are_refused_where_something_was_scored(buy: Any, parts: Parts) -> None:
    assert buy(1, 1).status_code == 200
    today = clustering.midnight(parts.clock())
    event = Event(
        event_id="old", at=today - 9 * DAY, purpose="security.transaction_risk", type="purchase",
        occurred_at=0, member=parts.keys.subject("raw-member-1"), permitted=0,
    )  # fmt: skip
    with parts.ledger.transaction() as connection:
        tally, rows = parts.ledger.bring(connection, parts.keys.ring, events=[event])
        parts.ledger.log(connection, entries.brought("im_1", rows, tally, event.at))
    with pytest.raises(Conflict, match="was scored"):
        clustering.refresh_past(parts, today - 5 * DAY)


def test_the_command(market: Path, tmp_path: Path) -> None:
    environment = {
        "SECTIONFOUR_HOME": str(tmp_path / "home"),
        "SECTIONFOUR_MODELS": str(tmp_path / "models"),
        "SECTIONFOUR_VELOCITY_GIB": "0.1",
    }

    def command(*words: str) -> Any:
        return CliRunner(env=environment).invoke(main, words)

    assert "0 members in clusters" in command("clusters").output  # nothing there, nothing found
    assert command("import", "events", str(market)).exit_code == 0
    done = command("clusters", "--from", "2000-01-01")
    assert done.exit_code == 0, done.output
    assert " 0 rows written" not in done.output
    assert command("clusters").exit_code == 0
    assert " 0 rows written" in command("clusters").output
    assert command("clusters", "--from", "yesterday").exit_code == 2
    with open(tmp_path / "home" / "clusters.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert command("clusters").exit_code == 75
    with open(tmp_path / "home" / "upkeep.lock", "w") as lock:  # as a service holds it
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert command("clusters").exit_code == 0
        refused = command("clusters", "--from", "2000-01-01")
    assert refused.exit_code == 1
    assert "a service runs" in refused.output


def test_serving_looks_up_what_history_joins(buy: Any, parts: Parts) -> None:
    for member in (1, 2):
        assert buy(member, 1).status_code == 200
    done = clustering.refresh(parts)
    probe = parts.ledger.event("evt_2_1")
    later = msgspec.structs.replace(probe, event_id="later", at=done.at + 1)
    _, vector = online.read_and_observe(
        later, parts.velocity, observe=False, cluster=parts.ledger.cluster
    )
    assert vector[PLACES].tolist() == [2.0, 0.0, 0.0]
