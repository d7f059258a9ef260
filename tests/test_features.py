"""Features: online, over the past and by definition they are the same numbers, to the bit."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ibis
import lmdb
import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sectionfour.domain import CLEARED, DAY, EVENT_TYPES, FRAUD, HOUR, KNOWN, MINUTE, SECOND, Event
from sectionfour.errors import FailClosed, HistoryError
from sectionfour.features import catalog, counted, definitions, history, telling
from sectionfour.features.catalog import (
    ENTITIES,
    FEATURES,
    INPUTS,
    MONTH,
    NAMES,
    REASONS,
    RUNS,
    SQUARED_CAP,
    WINDOWS,
    YEAR,
    columns,
)
from sectionfour.features.definitions import definition, fingerprint
from sectionfour.features.online import Cluster, Velocity, key_of, read_and_observe
from sectionfour.features.telling import say, tells
from sectionfour.privacy import regime
from sectionfour.privacy.spelling import cell
from sectionfour.stores import cards, form, open_velocity
from sectionfour.stores import lmdb as lmdb_store
from sectionfour.stores import redis as redis_store
from sectionfour.stores.sqlite import SqliteLedger

from .by_definition import Clusters
from .by_definition import features as by_definition
from .redis_server import everything

START = 1_700_000_000 * SECOND
CATEGORIES = sorted({c for c in (*ENTITIES.values(), *INPUTS.values()) if c is not None})
ONE_THREAD = {"threads": 1}  # enough for a small past, and the tests run side by side


# --- histories that collide --------------------------------------------------------------------


def token(kind: str, number: int) -> bytes:
    return f"{kind:_<12}{number:04d}".encode()


def an_event(number: int = 0, at: int = START, **fields: Any) -> Event:
    given = {"type": "purchase", "purpose": "security.transaction_risk", "occurred_at": at}
    return Event(**({"event_id": f"e{number}", "at": at} | given | fields))


def _some(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


_TOKENS = {
    name: _some(st.sampled_from([token(name, number) for number in range(3)])) for name in ENTITIES
}
_AMOUNTS = st.sampled_from([0, 1, 99, 12_345, SQUARED_CAP, SQUARED_CAP + 1, 10**12]) | st.integers(
    0, 10**12
)
#: One's own, next door, across the country, at the other side of the world.
_PLACES = [cell(31.2, 121.5), cell(31.25, 121.5), cell(39.9, 116.4), cell(-33.4, -58.5)]
_FIELDS = _TOKENS | {
    "type": st.sampled_from([*EVENT_TYPES, "purchase", "purchase", FRAUD, CLEARED]),
    "registered_at": _some(st.integers(START - 400 * DAY, START + DAY)),
    "amount": _some(_AMOUNTS),
    "place": _some(st.sampled_from(_PLACES)),
    "item_count": _some(st.integers(0, 9)),
    "consignee_self": _some(st.integers(0, 1)),
    "page_views": _some(st.integers(0, 3)),
    "search_count": _some(st.integers(0, 3)),
    "seconds_on_page": _some(st.floats(0, 1e7)),
    "document_verified": _some(st.integers(0, 1)),
    "face_match_level": _some(st.integers(0, 9)),
}
#: Steps from an earlier event: on the border of a window, just inside and just outside it.
_STEPS = st.builds(
    lambda over, by: max(1, over + by),
    st.sampled_from([0, SECOND, *sorted({window.over for window in WINDOWS})]),
    st.sampled_from([-2, -1, 0, 1]),
)


@st.composite
def histories(draw: st.DrawFn, most: int = 24) -> list[Event]:
    """Few tokens, so that they meet; masked ones; every type; times on the borders of windows."""
    bodies = draw(st.lists(st.fixed_dictionaries(_FIELDS), min_size=2, max_size=most))
    times = [START]
    while len(times) < len(bodies):
        since = draw(st.sampled_from(times[-4:]))
        times.append(since + draw(_STEPS))
    times.sort()
    found: list[Event] = []
    for number, (at, body) in enumerate(zip(times, bodies, strict=True)):
        at = max(at, found[-1].at + 1) if found else at
        found.append(an_event(number, at, **body))
    return found


@st.composite
def lives(draw: st.DrawFn) -> list[Event]:
    """Two years and more of a few who meet again, often at the border of the longest window."""
    few = {name: st.sampled_from([token(name, number) for number in (0, 1)]) for name in ENTITIES}
    fields = few | {
        "type": st.sampled_from(["purchase", "purchase", "login_failed", FRAUD]),
        "amount": st.sampled_from([100, 200]),
        "place": _some(st.sampled_from(_PLACES)),
    }
    steps = st.sampled_from([1, 3600 * SECOND, DAY, 100 * DAY, 200 * DAY, YEAR - DAY, YEAR])
    found, at = [], START
    for number, body in enumerate(
        draw(st.lists(st.fixed_dictionaries(fields), min_size=4, max_size=12))
    ):
        found.append(an_event(number, at, **body))
        at += draw(steps)
    return found


def replayed(
    events: Sequence[Event], store: Velocity, cluster: Cluster | None = None
) -> np.ndarray:
    """Return the vectors as served, but not of what became known; `at` is what was given."""
    vectors = []
    for event in events:
        kept, vector = read_and_observe(event, store, cluster=cluster)
        assert kept == event
        if event.type not in KNOWN:
            vectors.append(vector)
    return np.array(vectors).reshape(len(vectors), len(NAMES))


def defined(events: Sequence[Event], clusters: Clusters = ()) -> np.ndarray:
    vectors = [by_definition(e, events, clusters) for e in events if e.type not in KNOWN]
    return np.array(vectors).reshape(len(vectors), len(NAMES))


def as_table(events: Sequence[Event]) -> pa.Table:
    fields = [name for name in Event.__struct_fields__ if name != "purpose"]
    return pa.table({name: [getattr(event, name) for event in events] for name in fields})


def from_the_past(events: Sequence[Event], **options: Any) -> np.ndarray:
    """Return what history makes of `events`, and check the order of its rows."""
    scored = [event for event in events if event.type not in KNOWN]
    known = [event for event in events if event.type in KNOWN]
    matrix, at = history.compute(
        as_table(scored[::-1]), as_table(known) if known else None, duckdb=ONE_THREAD, **options
    )
    assert at.tolist() == [event.at for event in scored]
    return matrix


def assert_same(one: np.ndarray, other: np.ndarray) -> None:
    """Equal to the bit; missing equals missing."""
    assert one.shape == other.shape
    one, other = (np.where(np.isnan(m), np.nan, m) for m in (one, other))
    bits = np.ascontiguousarray(one).view(np.int64) != np.ascontiguousarray(other).view(np.int64)
    assert not bits.any(), [
        (row, NAMES[column], one[row, column], other[row, column])
        for row, column in np.argwhere(bits)[:5]
    ]


def opened(url: str, gib: float = 0.05) -> Velocity:
    return open_velocity(url, gib=gib, new=True)


@pytest.fixture(scope="module")
def kept(windows_of: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Velocity]:
    store = opened(windows_of(tmp_path_factory.mktemp("velocity")))
    yield store
    store.close()


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> SqliteLedger:
    return SqliteLedger(tmp_path_factory.mktemp("ledger") / "ledger.db")


@pytest.fixture
def store(kept: Velocity) -> Velocity:
    return emptied(kept)


def emptied(store: Velocity) -> Velocity:
    store.clear()
    store.load([])
    return store


# --- parity ------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(histories())
def test_what_is_served_is_the_definition(kept, events):
    assert_same(replayed(events, emptied(kept)), defined(events))


# A run over the past takes a second, most of it to put the SQL together: too long to shrink.
@settings(max_examples=8, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(histories(most=40))
def test_what_is_computed_over_the_past_is_the_definition_and_what_was_served(kept, events):
    past = from_the_past(events)
    assert_same(past, defined(events))
    assert_same(past, replayed(events, emptied(kept)))


@settings(max_examples=6, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(histories(), st.data())
def test_clusters_are_those_found_before_the_event_in_all_three(kept, ledger, events, data):
    """Rows at the very instants of events too; everything that a cluster needs is often there."""
    whole = [
        msgspec.structs.replace(e, device=b"d" * 16, instrument=b"i" * 16, address=b"a" * 16)
        if data.draw(st.booleans())
        else e
        for e in events
    ]
    times = st.sampled_from([e.at for e in events]) | st.integers(START - DAY, events[-1].at)
    members = st.sampled_from([token("member", number) for number in range(3)])
    row = st.tuples(members, times, st.integers(1, 30), st.integers(0, 9))
    rows = data.draw(st.lists(row, max_size=12, unique_by=lambda r: r[:2]))
    with ledger.transaction() as connection:
        connection.execute("DELETE FROM clusters")
        connection.executemany("INSERT INTO clusters VALUES (?, ?, ?, ?)", rows)
    columns = ["member", "at", "size", "frauds"]
    table = pa.table({n: [r[i] for r in rows] for i, n in enumerate(columns)}) if rows else None
    wanted = defined(whole, rows)
    assert_same(replayed(whole, emptied(kept), ledger.cluster), wanted)
    assert_same(from_the_past(whole, clusters=table), wanted)


def oldest_in(store: Velocity) -> int:
    """Return the earliest time that is kept anywhere in the windows."""
    times = [1 << 62]
    for key, value in everything(store).items():
        if key[:1] == b"W":
            space, layout = key[18:19], form.LAYOUTS[key[1]]
            if space == b"T":
                numbers, lists = form.opened(value, layout)
                for s in layout.series:
                    times += [numbers[s.head + 1], numbers[s.head + 2] & ~form.CUT]
                for kept, entry in zip(lists, layout.entries, strict=True):
                    starts = range(0, len(kept), entry)
                    times += [int.from_bytes(kept[i : i + 8]) for i in starts]
            elif space == b"F":
                times += [int.from_bytes(value[:8]), int.from_bytes(value[8:])]
            else:
                times.append(int.from_bytes(key[-8:]))
        elif key[:1] == b"I":
            times.append(int.from_bytes(value[:8]))
    return min(at for at in times if at)


@settings(max_examples=150, deadline=None)
@given(lives() | histories(), st.sets(st.integers(0, 11)))
def test_t21_nothing_past_due_is_left_in_the_windows_and_no_reading_changes(kept, events, places):
    """What goes, goes beside scoring: after each key, every window still reads what it did."""
    emptied(kept)
    gone: list[tuple[int, int]] = []
    longest = max(window.over for window in WINDOWS)
    ages = np.array([getattr(feature, "agg", "") == "age" for feature in FEATURES])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lmdb_store, "EXPIRED", 1)
        patch.setattr(lmdb_store, "LOOKED_AT", 2)
        patch.setattr(redis_store, "LOOKED_AT", 2)
        for number, event in enumerate(events):
            _, vector = read_and_observe(event, kept)
            if event.type not in KNOWN:
                wanted = by_definition(event, events, gone=gone)
                assert_same(vector.reshape(1, -1), np.array([wanted]))
            if number not in places:
                continue
            cutoff = event.at - longest
            probe = msgspec.structs.replace(
                event, event_id="probe", type="purchase", at=event.at + 1
            )
            before = read_and_observe(probe, kept, observe=False)[1]

            def unchanged(_: int, probe: Event = probe, before: np.ndarray = before) -> None:
                now = read_and_observe(probe, kept, observe=False)[1]
                of_windows = slice(0, len(WINDOWS))
                same = np.where(ages, 0, now)[of_windows], np.where(ages, 0, before)[of_windows]
                assert_same(*(values.reshape(1, -1) for values in same))

            kept.expire(cutoff, unchanged)
            gone.append((cutoff, event.at))
            assert oldest_in(kept) >= cutoff
            assert kept.expire(cutoff) == 0


def test_the_count_of_what_went_is_told_and_the_rest_is_as_it_was(kept):
    """A device of a stranger, then another year: of the first nothing is left at all."""
    emptied(kept)
    for number, day in enumerate((0, 1, 800, 801)):
        fields = {"device": token("device", day // 800), "member": token("member", 1)}
        read_and_observe(an_event(number, START + day * DAY, **fields), kept)
    assert kept.expire(START) == 0
    told: list[int] = []
    count = kept.expire(START + 400 * DAY, told.append)
    assert sum(told) == count > 0
    there = [key + value for key, value in everything(kept, b"W").items()]
    assert not any(token("device", 0) in text for text in there)
    assert any(token("device", 1) in text for text in there)


def a_busy_past(count: int, seed: int = 4) -> list[Event]:
    """Return `count` events of a few people over 70 days, in bursts."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice([*EVENT_TYPES, "purchase", "purchase", "login", FRAUD, CLEARED], count)
    at = START + np.cumsum(rng.choice([1, SECOND, MINUTE, HOUR, 3 * HOUR], count)).astype(int)
    numbers = {name: rng.integers(-1, 6, count) for name in ENTITIES}
    amounts = rng.integers(0, 3 * SQUARED_CAP, count)
    seconds = rng.random(count) * 900
    return [
        an_event(
            i,
            int(at[i]),
            type=str(kinds[i]),
            amount=int(amounts[i]) if amounts[i] % 5 else None,
            registered_at=START - int(amounts[i]) * SECOND,
            page_views=int(amounts[i] % 4),
            seconds_on_page=float(seconds[i]),
            **{
                name: token(name, drawn[i]) if drawn[i] >= 0 else None
                for name, drawn in numbers.items()
            },
        )
        for i in range(count)
    ]


def test_a_past_of_thousands_is_the_same_to_the_bit(store):
    events = a_busy_past(3_000)
    served = replayed(events, store)
    assert_same(from_the_past(events), served)
    # The definition takes the square of the time: every fiftieth event will do.
    places = [i for i, event in enumerate(e for e in events if e.type not in KNOWN)][::50]
    scored = [event for event in events if event.type not in KNOWN]
    assert_same(served[places], np.array([by_definition(scored[i], events) for i in places]))


def test_sums_beyond_what_a_float_counts_are_rounded_once(store):
    events = [
        an_event(i, START + i, member=token("member", 0), amount=SQUARED_CAP - 1 - 2 * i)
        for i in range(200)
    ]
    served = replayed(events, store)
    assert served[-1, NAMES.index("member_amount_sq_30d")] > 2**53
    assert_same(served, defined(events))
    assert_same(from_the_past(events), served)


def test_the_first_month_of_all_time_has_windows_too(store):
    events = [an_event(i, 1 + i * DAY, member=b"m" * 16, device=b"d" * 16) for i in range(40)]
    assert_same(replayed(events, store), defined(events))


def test_zero_has_no_sign(store):
    event = an_event(seconds_on_page=-0.0, page_views=2)
    for vectors in (replayed([event], store), from_the_past([event])):
        value = vectors[0, NAMES.index("seconds_on_page")]
        assert (value, np.signbit(value)) == (0.0, False)


# --- the past, as it is handed in --------------------------------------------------------------


@pytest.mark.parametrize(
    "only", [("payee_fraud_share",), ("hour", "member_payees_24h", "amount"), NAMES[::-7]]
)
def test_only_what_is_asked_for_comes_in_the_order_asked(only):
    events = a_busy_past(300)
    whole = from_the_past(events)
    assert_same(from_the_past(events, only=only), whole[:, [NAMES.index(name) for name in only]])


def test_numbers_text_and_bytes_serve_as_tokens_and_absent_columns_are_missing():
    events = a_busy_past(300)
    names = ["at", "type", "amount", "member", "payee"]
    frame = as_table(events).to_pandas()[names]
    frame = frame[frame["type"] != CLEARED]
    rows, frauds = frame[frame["type"] != FRAUD], frame[frame["type"] == FRAUD]
    first, _ = history.compute(rows, frauds, duckdb=ONE_THREAD)
    for as_token in (lambda t: int(t[-4:]), lambda t: t.decode()):
        changed = frame.copy()
        for name in ("member", "payee"):
            kept = [None if t is None else as_token(t) for t in frame[name]]
            changed[name] = pd.Series(kept, index=frame.index, dtype=object)
        rows, frauds = changed[changed["type"] != FRAUD], changed[changed["type"] == FRAUD]
        assert_same(history.compute(rows, frauds.drop(columns="type"), duckdb=ONE_THREAD)[0], first)
    needy = [name for name, f in zip(NAMES, FEATURES, strict=True) if "device" in f.needs]
    assert np.isnan(first[:, [NAMES.index(name) for name in needy]]).all()
    assert not np.isnan(first).all(axis=0)[NAMES.index("payee_amount_30d")]


# Ibis 12 asks DuckDB for the schema of a file by a call that DuckDB 2 deprecates.
@pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning")
def test_a_table_of_a_backend_is_computed_by_that_backend(tmp_path):
    events = a_busy_past(300)
    paths = [tmp_path / "events.parquet", tmp_path / "known.parquet"]
    for known, path in enumerate(paths):
        chosen = [event for event in events if (event.type in KNOWN) == bool(known)]
        pq.write_table(as_table(chosen), path)
    backend = ibis.duckdb.connect(threads=1)
    tables = [backend.read_parquet(path) for path in paths]
    only = ("member_payees_24h", "payee_frauds_30d", "amount_spreads_from_mean", "payee_age")
    found, _ = history.compute(*tables, only=only)
    backend.disconnect()
    assert_same(found, from_the_past(events, only=only))


def counts_of(table: pa.Table) -> np.ndarray:
    """Return the counts and sums of the catalog, a column each."""
    windows = [window for window in WINDOWS if window.agg in counted.AGGREGATES]
    events = sum(kind not in KNOWN for kind in table["type"].to_pylist())
    columns = {window.name: np.full(events, np.nan) for window in windows}
    counted.fill(columns, table, windows)
    return np.array([*columns.values()]).T


@pytest.fixture
def past_of_many() -> pa.Table:
    """A past in memory, its rows not in order of time."""
    rng = np.random.default_rng(5)
    rows = as_table(a_busy_past(600)).take(rng.permutation(600))
    return history.joined(rows, None, [*ENTITIES, "amount"])


@pytest.mark.parametrize("rows", [1, 7, 100])
def test_counts_are_the_same_however_many_are_counted_at_a_time(rows, past_of_many, monkeypatch):
    whole = counts_of(past_of_many)
    assert np.nansum(whole) > 0
    monkeypatch.setattr(counted, "AT_A_TIME", rows)
    assert_same(counts_of(past_of_many), whole)


@pytest.mark.parametrize("apart", [13_107, 65_535, 65_536, 100_003])
def test_counts_are_the_same_whatever_the_numbers_of_entities(apart, past_of_many):
    table = past_of_many
    for place, name in enumerate(table.column_names):
        if name in ENTITIES:
            far = pa.array(table[name].to_pandas() * apart, pa.int32(), from_pandas=True)
            table = table.set_column(place, name, far)
    assert_same(counts_of(table), counts_of(past_of_many))


@pytest.mark.parametrize("later", [-START, 1 << 61, 1 << 62])
def test_counts_are_the_same_at_the_beginning_of_time_and_when_few_instants_are_left(
    later, past_of_many
):
    at = pa.array(past_of_many["at"].to_numpy() + later)
    assert_same(counts_of(past_of_many.set_column(0, "at", at)), counts_of(past_of_many))


def test_who_asks_long_after_the_last_of_the_past_is_not_told_of_another():
    last = max(w.over for w in WINDOWS if w.by == "payee" and w.agg in counted.AGGREGATES)
    bought = [an_event(n, n + 1, payee=token("payee", n), amount=1) for n in range(2)]
    for at in range(last, last + 8):
        asks = an_event(2, at, type="login", payee=token("payee", 0))
        rows = history.joined(as_table([*bought, asks]), None, ["payee", "amount"])
        counts = counts_of(rows)[-1]
        wanted = by_definition(asks, [*bought, asks])
        windows = [n for n, w in enumerate(WINDOWS) if w.agg in counted.AGGREGATES]
        assert_same(counts, np.array(wanted)[windows])


def test_frauds_that_become_known_at_the_very_instant_of_an_event_are_not_yet_known_to_it():
    events = [event for event in a_busy_past(200) if event.type not in KNOWN]
    frauds = [
        msgspec.structs.replace(event, type=FRAUD, at=later.at)
        for event, later in zip(events, events[5:] + events[-5:], strict=True)
    ]
    matrix, _ = history.compute(as_table(events), as_table(frauds), duckdb=ONE_THREAD)
    assert np.nansum(matrix[:, NAMES.index("payee_frauds_30d")]) > 0
    assert_same(matrix, np.array([by_definition(event, events + frauds) for event in events]))


def test_an_empty_past_has_the_shape_of_one():
    matrix, at = history.compute(as_table([an_event()]).slice(0, 0), duckdb=ONE_THREAD)
    assert matrix.shape == (0, len(NAMES))
    assert at.shape == (0,)


def test_progress_goes_to_its_end():
    told: list[tuple[int, int]] = []
    events = as_table(a_busy_past(50))
    history.compute(
        events,
        only=["member_since_last", "member_payees_24h"],
        duckdb=ONE_THREAD,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("times", "said"), [([5, 5], "same `at`"), ([0, 5], "above 0"), ([None, 5], "without `at`")]
)
def test_a_past_that_has_no_order_is_refused(times, said):
    events = pd.DataFrame({"at": pd.array(times, dtype="Int64"), "type": "purchase"})
    with pytest.raises(HistoryError, match=said):
        history.compute(events, only=["hour"], duckdb=ONE_THREAD)


def test_a_feature_that_is_not_in_the_catalog_is_named():
    with pytest.raises(HistoryError, match="shoe_size"):
        history.compute(as_table([an_event()]), only=["shoe_size"])


# --- one step ----------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(histories(most=12), st.data())
def test_a_retry_gets_the_same_and_counts_once(kept, events, data):
    store = emptied(kept)
    first = [read_and_observe(event, store) for event in events]
    place = data.draw(st.integers(0, len(events) - 1))
    again, vector = read_and_observe(events[place], store)
    assert again == first[place][0]
    assert vector.tobytes() == first[place][1].tobytes()
    later = msgspec.structs.replace(events[-1], event_id="later", at=events[-1].at + 1)
    if later.type not in KNOWN:
        _, vector = read_and_observe(later, store)
        assert_same(vector[None], np.array([by_definition(later, events)]))


def test_a_retry_that_may_use_less_gets_what_was_read_of_the_rest(store):
    event = an_event(device=token("device", 1), member=token("member", 1), amount=7)
    for number in range(3):
        read_and_observe(
            msgspec.structs.replace(event, event_id=f"before{number}", at=START - 9 + number), store
        )
    _, whole = read_and_observe(event, store)
    _, less = read_and_observe(msgspec.structs.replace(event, device=None), store)
    needy = np.array(["device" in feature.needs for feature in FEATURES])
    assert np.isnan(less[needy]).all()
    assert_same(less[None, ~needy], whole[None, ~needy])


def test_a_retry_that_may_use_more_gets_no_more_than_was_read(store):
    event = an_event(device=token("device", 1), member=token("member", 1), amount=7)
    _, less = read_and_observe(msgspec.structs.replace(event, device=None), store)
    _, more = read_and_observe(event, store)
    assert_same(more[None], less[None])


@settings(max_examples=20, deadline=None)
@given(histories(most=12))
def test_to_evaluate_changes_nothing(kept, events):
    store = emptied(kept)
    for event in events[:-1]:
        read_and_observe(event, store)
    before = everything(store)
    event = msgspec.structs.replace(events[-1], type="purchase")
    _, asked = read_and_observe(event, store, observe=False)
    assert everything(store) == before
    _, served = read_and_observe(event, store)
    assert asked.tobytes() == served.tobytes()


def test_time_only_goes_forward_whatever_the_clock_says(store):
    given = [START, START, START - DAY, START + 5, START + 1]
    events = [an_event(i, at, member=b"m" * 16) for i, at in enumerate(given)]
    seen = [read_and_observe(event, store) for event in events]
    assert [event.at - START for event, _ in seen] == [0, 1, 2, 5, 6]
    assert [vector[NAMES.index("member_events_1h")] for _, vector in seen] == [0, 1, 2, 3, 4]


@settings(max_examples=30, deadline=None)
@given(histories(most=12))
def test_masking_a_category_makes_missing_what_needs_it_and_leaves_the_rest(kept, events):
    store = emptied(kept)
    for event in events[:-1]:
        read_and_observe(event, store)
    event = msgspec.structs.replace(events[-1], type="purchase")
    _, whole = read_and_observe(event, store, observe=False)
    for category in CATEGORIES:
        fields = [n for n, c in (ENTITIES | INPUTS).items() if c == category]
        masked = msgspec.structs.replace(event, **dict.fromkeys(fields))
        _, vector = read_and_observe(masked, store, observe=False)
        needy = np.array([category in feature.needs for feature in FEATURES])
        assert needy.any()
        assert np.isnan(vector[needy]).all()
        assert_same(vector[None, ~needy], whole[None, ~needy])


def test_only_the_newest_sixteen_amounts_are_compared(store):
    """Twenty of 1 up to 20, then one of 10: of 5 to 20, five are less and ten more."""
    member = token("member", 0)
    past = [an_event(n, START + n, member=member, amount=n) for n in range(1, 21)]
    last = an_event(21, START + 21, member=member, amount=10)
    vectors = replayed([*past, last], store)
    found = dict(zip(NAMES, vectors[-1], strict=True))
    assert (found["member_amounts_below"], found["member_amounts_above"]) == (5, 10)
    assert found["amount_rank"] == 6 / 17
    assert_same(vectors, defined([*past, last]))
    assert_same(vectors, from_the_past([*past, last]))


def test_what_is_compared_is_inside_its_window_alone(store):
    member = token("member", 0)
    places = cell(31.2, 121.5), cell(39.9, 116.4)
    for what, over, values in (("amount", YEAR, (5, 10)), ("place", MONTH, places)):
        for back, counts in ((over - 1, True), (over, False)):
            emptied(store)
            one, other = ({what: value, "member": member} for value in values)
            events = [an_event(0, START, **one), an_event(1, START + back, **other)]
            vectors = replayed(events, store)
            found = dict(zip(NAMES, vectors[-1], strict=True))
            if what == "amount":
                assert found["member_amounts_below"] == counts
            else:
                assert (found["member_distance"] > 0) == counts  # missing is not above zero
            assert_same(vectors, from_the_past(events))


def test_who_is_here_and_an_hour_later_across_the_sea_has_not_travelled(store):
    member, hour = token("member", 0), 3600 * SECOND
    here, there = cell(31.2, 121.5), cell(37.8, -122.4)
    events = [
        an_event(0, START, member=member, place=here),
        an_event(1, START + hour, member=member),
        an_event(2, START + 2 * hour, member=member, place=there),
        an_event(3, START + 26 * hour, member=member, place=here),
    ]
    found = [dict(zip(NAMES, row, strict=True)) for row in replayed(events, store)]
    assert [f["impossible_travel"] for f in found[2:]] == [1, 0]
    assert all(np.isnan(f["travel_speed"]) for f in found[:2])
    assert found[2]["member_distance"] == pytest.approx(8_900, rel=0.05)  # through the Earth
    assert found[2]["member_distance_age"] == 7200


def test_no_more_than_a_thousand_others_are_told_apart(store):
    device = token("device", 0)
    events = [
        an_event(i, START + i * SECOND, type="login", device=device, member=token("member", i))
        for i in range(1_100)
    ]
    # The oldest comes again, so it is among the newest thousand: order of last sight, not first.
    events += [
        an_event(1_100, START + DAY - 1, type="login", device=device, member=token("member", 0)),
        an_event(1_101, START + DAY + 100 * SECOND, device=device, member=token("member", 1)),
        an_event(1_102, START + DAY + 599 * SECOND, device=device, member=token("member", 1)),
    ]
    served = replayed(events, store)
    place = NAMES.index("device_members_24h")
    assert served[[999, 1_000, 1_099, 1_100], place].tolist() == [999, 1_000, 1_000, 1_000]
    assert_same(from_the_past(events), served)
    for i in (1_000, 1_100, 1_101, 1_102):
        assert served[i, place] == by_definition(events[i], events)[place]


@pytest.mark.parametrize(("name", "over"), [("24h", DAY), ("30d", MONTH)])
def test_who_was_last_seen_just_inside_a_window_stays_counted_until_it_is_past(store, name, over):
    device = token("device", 0)
    seen = [(0, 1), (over - 2, 2), (over - 1, 2), (over, 2), (2 * over - 1, 3), (2 * over, 3)]
    events = [
        an_event(i, START + at, type="login", device=device, member=token("member", who))
        for i, (at, who) in enumerate(seen)
    ]
    served = replayed(events, store)
    assert served[:, NAMES.index(f"device_members_{name}")].tolist() == [0, 1, 2, 1, 1, 1]
    assert_same(served, defined(events))
    assert_same(from_the_past(events), served)


def test_a_hundred_thousand_events_inside_a_window_cost_what_ten_cost(store):
    busy, at = token("device", 0), START
    quiet = [token("device", 1 + number) for number in range(50)]
    members = [token("member", number) for number in range(40)]

    def login(device: bytes) -> Event:
        nonlocal at
        at += SECOND
        return an_event(at, at, type="login", device=device, member=members[at // SECOND % 40])

    store.load(login(busy) for _ in range(100_000))
    store.load(login(device) for _ in range(10) for device in quiet)

    def cost(devices: Sequence[bytes]) -> float:
        taken = []
        for device in devices:
            event = login(device)
            began = time.perf_counter()
            read_and_observe(event, store)
            taken.append(time.perf_counter() - began)
        return statistics.median(taken)

    cost(quiet)
    ratio = min(cost([busy] * 50) / cost(quiet) for _ in range(4))
    assert ratio < 2


WORKER = """
import sys, threading
from pathlib import Path
from sectionfour.domain import Event
from sectionfour.features.online import read_and_observe
from sectionfour.stores import open_velocity

store = open_velocity(sys.argv[1], gib=0.05)

def work(name):
    for number in range(100):
        read_and_observe(Event(
            event_id=f"{sys.argv[2]}.{name}.{number}", at=1_700_000_000_000_000, purpose="p",
            type="purchase", occurred_at=0, member=b"m" * 16, device=name * 16, amount=3,
        ), store)

threads = [threading.Thread(target=work, args=(bytes([n]),)) for n in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
store.close()
"""


def test_threads_and_processes_at_once_lose_nothing(windows_of, tmp_path):
    url = windows_of(tmp_path / "velocity")
    opened(url).close()
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, url, name]) for name in "ab"]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    store = open_velocity(url, gib=0.05)
    entries = store.unsettled(1 << 62)
    assert len(entries) == len({at for at, _, _ in entries}) == 800
    event, vector = read_and_observe(an_event(member=b"m" * 16, device=b"\1" * 16), store)
    assert event.at >= START + 800  # a step that is made again is later
    found = dict(zip(NAMES, vector, strict=True))
    assert found["member_purchases_1h"] == 800
    assert found["member_amount_24h"] == 2400
    assert found["member_devices_30d"] == 4
    assert found["device_events_1h"] == 200
    store.close()


# --- the store ---------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(histories())
def test_a_load_leaves_what_the_events_one_by_one_leave(kept, events):
    replayed(events, emptied(kept))
    one_by_one = everything(kept, b"WA")
    assert emptied(kept).load(events) == len(events)
    assert everything(kept, b"WA") == one_by_one


def test_a_load_in_many_lots_leaves_what_one_by_one_leaves(store, monkeypatch):
    events = a_busy_past(2_000)
    replayed(events, store)
    one_by_one = everything(store, b"WA")
    monkeypatch.setattr(lmdb_store, "LOT", 300)
    monkeypatch.setattr(redis_store, "LOT", 300)
    told: list[int] = []
    emptied(store).load(iter(events), told.append)
    assert everything(store, b"WA") == one_by_one
    assert told == [300] * 6 + [200]


def test_who_is_taken_out_while_a_load_gathers_stays_out(store, monkeypatch):
    events = a_busy_past(600)
    member = next(event.member for event in events if event.member is not None)
    held = [event for event in events[:300] if event.member == member]
    gathered, lots = cards.gathered, []

    def forgotten_meanwhile(*given):
        written = gathered(*given)
        lots.append(len(given[1]))
        if len(lots) == 2:
            assert store.forget(member, held, lambda *which: [])
        return written

    store.load(events[:300])
    store.forget(member, held, lambda *which: [])
    store.load(events[300:])
    wanted = everything(store, b"WAIO")
    monkeypatch.setattr(lmdb_store, "LOT", 300)
    monkeypatch.setattr(redis_store, "LOT", 300)
    monkeypatch.setattr(cards, "gathered", forgotten_meanwhile)
    emptied(store).load(events)
    assert everything(store, b"WAIO") == wanted
    assert lots == [300, 300, 300]


def test_windows_go_on_after_a_load(store):
    events = a_busy_past(400)
    store.load(events[:300])
    later = [event for event in events[300:] if event.type not in KNOWN]
    served = [read_and_observe(event, store)[1] for event in events[300:]]
    kept = [v for v, e in zip(served, events[300:], strict=True) if e.type not in KNOWN]
    assert_same(np.array(kept), np.array([by_definition(event, events) for event in later]))


def test_a_load_out_of_order_is_refused_and_leaves_a_store_that_knows_it_is_not_whole(
    windows_of, tmp_path
):
    store = opened(windows_of(tmp_path))
    store.load([an_event(0, START)])
    assert store.fresh
    with pytest.raises(HistoryError, match="in order"):
        store.load([an_event(1, START + 5), an_event(2, START)])
    assert not store.fresh
    store.close()
    store = opened(windows_of(tmp_path))
    assert not store.fresh
    store.clear()
    assert not store.fresh
    store.load([an_event(0, START)])
    assert store.fresh
    store.close()


def test_a_store_of_another_catalog_is_not_fresh(windows_of, tmp_path, monkeypatch):
    store = opened(windows_of(tmp_path))
    assert store.fresh
    store.close()
    monkeypatch.setattr(lmdb_store, "fingerprint", lambda: "another")
    monkeypatch.setattr(redis_store, "fingerprint", lambda: "another")
    store = opened(windows_of(tmp_path))
    assert not store.fresh
    store.load([an_event()])  # what is added does not make up for what was wrong before
    assert not store.fresh
    store.close()


def test_what_was_answered_is_settled_and_only_then_forgotten(store):
    event = an_event(member=b"m" * 16)
    kept, _ = read_and_observe(event, store)
    (entry,) = store.unsettled(START + 1)
    assert msgspec.msgpack.decode(entry[2], type=Event) == event
    assert store.unsettled(START) == []
    store.settle([entry[:2]], forget=False)
    assert store.unsettled(START + 1) == []
    assert read_and_observe(event, store)[0] == kept
    store.settle([(START, key_of(event.event_id))], forget=True)
    assert read_and_observe(event, store)[0].at == START + 1


def test_a_full_store_fails_closed_and_keeps_what_it_has(tmp_path):
    store = opened(f"lmdb:{tmp_path}", gib=0.0005)
    seen = []

    def fill() -> None:
        for number in range(5_000):
            read_and_observe(an_event(number, START + number, member=b"m" * 16), store)
            seen.append(number)

    with pytest.raises(FailClosed):
        fill()
    _, vector = read_and_observe(an_event(member=b"m" * 16), store, observe=False)
    assert vector[NAMES.index("member_events_1h")] == len(seen) > 0
    store.close()


def test_a_store_that_does_not_open_fails_closed(tmp_path):
    Path(tmp_path / "data.mdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(FailClosed) as caught:
        open_velocity(f"lmdb:{tmp_path}", gib=0.05)
    assert isinstance(caught.value.__cause__, lmdb.Error)


# --- the catalog -------------------------------------------------------------------------------


def test_the_catalog_is_as_wide_as_asked_and_names_are_unique():
    assert len(FEATURES) >= 45
    assert len(set(NAMES)) == len(NAMES) == len(FEATURES)


def test_every_feature_has_a_reason_and_every_reason_a_feature():
    assert {feature.code for feature in FEATURES} == set(REASONS)


def test_every_category_that_a_feature_needs_is_one_of_the_regime():
    known = regime.load().categories
    assert set(CATEGORIES) <= set(known)
    assert all(set(feature.needs) <= set(known) for feature in FEATURES)


def test_every_window_is_of_an_aggregate_entity_and_stream_that_exist():
    for window in WINDOWS:
        assert window.by in ENTITIES
        assert window.of in catalog.STREAMS
        assert 0 < window.over <= YEAR
        wants = {"sum": {"amount", "amount_sq"}, "distinct": set(ENTITIES)}
        wants |= {"age": {None, *ENTITIES}, "count": {None}, "since_last": {None}}
        wants |= {agg: {what} for agg, what in catalog.RECENT.items()}
        wants |= dict.fromkeys(RUNS, set(catalog.STREAMS) - {window.of})
        assert window.what in wants[window.agg]
        assert window.what != window.by


def test_every_text_of_a_feature_takes_its_number():
    for feature in FEATURES:
        assert feature.says.format(3.0)
        assert feature.unit


def test_one_of_anything_is_said_as_one():
    for feature in FEATURES:
        said = say(feature, 1.0)
        if feature.unit == "s":
            assert "1 second" in said
            assert "1 seconds" not in said
        elif said.startswith("1 ") and feature.unit in telling._ONE:
            text = feature.says.format(1).removeprefix("1 ")
            assert feature.unit in text, f"{feature.name}: what is counted is not in its text"
            one = telling._ONE[feature.unit]
            assert said == f"1 {text.replace(feature.unit, one, 1)}" or said.startswith("1 of ")


@settings(max_examples=150, deadline=None)
@given(histories())
def test_what_is_told_of_an_event_is_so(events):
    """No reason speaks of frauds, changes, logins or purchases that never were."""
    *past, event = events
    if event.type in KNOWN:
        event = msgspec.structs.replace(event, type="purchase")
    vector = dict(zip(NAMES, by_definition(event, past), strict=True))
    told = {f.name for f in FEATURES if tells(f, vector[f.name])}

    def before(stream: str, by: str) -> bool:
        types, entity = catalog.STREAMS[stream], getattr(event, by)
        return any(x.type in types and getattr(x, by) == entity for x in past)

    for window in WINDOWS:
        new = window.agg == "age" and window.of not in KNOWN and vector[window.name] == 0
        if window.name in told and not new:
            assert before(window.of, window.by), window.name
    for name, needed in {
        "changed_after_failures": ("change", "login_failed"),
        "member_pace": ("event",),
        "member_burst": ("event",),
        "spending_excess_7d": ("purchase",),
        "spending_squares_7d": ("purchase",),
        "cleared_mean": ("cleared",),
        "amount_rank": ("purchase",),
    }.items():
        if name in told:
            assert all(before(stream, "member") for stream in needed), name
    for name in told & {n for n in NAMES if n.startswith("payee_fraud")}:
        assert before("fraud", "payee"), name
    assert ("new_device" in told) == (vector["member_device_age"] == 0)
    assert ("consignee_self" in told) == (event.consignee_self == 1)
    if "account_age" in told:
        assert event.registered_at is not None
        assert event.registered_at < event.at


def test_every_stream_is_of_types_that_exist():
    assert set().union(*catalog.STREAMS.values()) == {*EVENT_TYPES, *KNOWN}


def test_the_account_model_learns_from_nothing_that_an_account_event_lacks():
    assert columns("transaction") == tuple(range(len(FEATURES)))
    for place in columns("account"):
        assert not {"order", "payment", "consignee"}.intersection(FEATURES[place].needs)


def test_definitions_differ_and_the_fingerprint_is_theirs(monkeypatch):
    texts = [definition(feature).split(" = ", 1)[1] for feature in FEATURES]
    assert len(set(texts)) == len(texts)
    before = fingerprint()
    wider = catalog.STREAMS | {"change": catalog.STREAMS["change"] | {"login"}}
    monkeypatch.setattr(definitions, "STREAMS", wider)
    assert fingerprint() != before


def test_what_rests_on_a_typical_amount_is_not_told_as_if_somebody_had_spent_it():
    """A first purchase would else be told of as many times what the member spent before."""
    typical = [f for f in FEATURES if str(catalog.TYPICAL_AMOUNT) in definition(f)]
    assert len(typical) >= 3
    assert not [f.name for f in typical if "spent" in f.says]
