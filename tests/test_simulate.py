"""The simulated marketplace: whole, repeatable, and not to be seen through by one glance."""

from __future__ import annotations

import ipaddress
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import phonenumbers
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from sectionfour.errors import HistoryError
from sectionfour.marketplace import papers
from sectionfour.marketplace.frauds import KINDS, RINGS
from sectionfour.marketplace.papers import EVERYTHING
from sectionfour.privacy import regime
from sectionfour.simulate import SCHEMAS, START, Market, read, simulate, write

SAMPLE = Path(__file__).parents[1] / "data_samples"
SAMPLE_EVENTS = 55_000
TRANSACTIONS = ("purchase", "payout", "listing")
HOUR, DAY = pd.Timedelta(hours=1), pd.Timedelta(days=1)


@pytest.fixture(scope="module")
def market() -> Market:
    return simulate(seed=4, events=SAMPLE_EVENTS)


@pytest.fixture(scope="module")
def events(market: Market) -> pd.DataFrame:
    """Every event with its fraud kind, nan where honest."""
    return market.events.merge(market.truth, how="left", on="event_id")


def assert_same(one: Market, other: Market) -> None:
    for name in SCHEMAS:
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name))


# -- form


def test_the_same_seed_gives_the_same_tables_to_the_byte(tmp_path):
    for folder in ("one", "two"):
        write(simulate(seed=7, events=4000), tmp_path / folder)
    for name in SCHEMAS:
        one, two = (tmp_path / folder / f"{name}.parquet" for folder in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_another_seed_gives_another_market():
    one, two = simulate(seed=1, events=4000), simulate(seed=2, events=4000)
    assert not one.events.amount.equals(two.events.amount)


@pytest.mark.parametrize("asked", [3000, 4321, 10_000])
def test_there_are_as_many_events_as_asked_for(asked):
    assert len(simulate(seed=0, events=asked).events) == asked


def test_a_market_read_is_the_market_that_was_written(market, tmp_path):
    write(market, tmp_path)
    assert_same(read(tmp_path), market)


def test_files_have_the_columns_and_types_that_the_import_takes(market, tmp_path):
    write(market, tmp_path)
    for name, columns in SCHEMAS.items():
        schema = pq.read_schema(tmp_path / f"{name}.parquet")
        assert dict(zip(schema.names, schema.types, strict=True)) == columns


def test_a_folder_without_a_market_is_refused_by_the_name_of_what_it_lacks(tmp_path):
    with pytest.raises(HistoryError, match=r"members\.parquet"):
        read(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"start": datetime(2026, 3, 1)},  # noqa: DTZ001 - the want of an offset is the point
        {"events": 100},
        {"days": 3},
        {"fraud_share": 0.9},
    ],
)
def test_what_no_market_can_be_made_of_is_refused(wrong):
    with pytest.raises(ValueError, match=r"offset|a market needs"):
        simulate(**({"seed": 0, "events": 4000} | wrong))


def test_events_are_in_order_at_instants_of_their_own_within_the_period(market):
    at = market.events.occurred_at
    assert at.is_monotonic_increasing
    assert at.is_unique
    assert at.iloc[0] >= START
    assert at.iloc[-1] < START + timedelta(days=120)
    assert market.events.event_id.is_unique


def test_a_market_starts_when_it_is_told_to_and_lasts_as_long():
    start = datetime(2024, 7, 1, 15, 30, tzinfo=UTC)
    at = simulate(seed=3, events=6000, days=30, start=start).events.occurred_at
    assert start <= at.iloc[0] < start + timedelta(days=1)
    assert start + timedelta(days=29) < at.iloc[-1] < start + timedelta(days=30)


def test_tables_refer_to_each_other_and_nowhere_else(market):
    members, ids = set(market.members.member_id), set(market.events.event_id)
    bought = market.events.type == "purchase"
    assert set(market.events.member_id.dropna()) <= members
    assert set(market.events.payee_id[bought]) <= members
    assert set(market.consents.member_id) <= members
    assert set(market.labels.event_id) <= ids
    assert set(market.truth.event_id) <= ids
    assert market.members.member_id.is_unique
    assert market.labels.label_id.is_unique
    assert market.truth.event_id.is_unique


def test_nobody_acts_before_joining(market):
    joined = market.events.member_id.map(market.members.set_index("member_id").registered_at)
    assert not (market.events.occurred_at < joined).any()
    registrations = market.events.type == "registration"
    assert (market.events.occurred_at == joined)[registrations].all()


def test_each_type_of_event_has_what_belongs_to_it_and_no_more(market):
    by_type = market.events.groupby("type")
    filled = by_type.agg(lambda column: column.notna().mean())
    assert set(filled.index[filled.amount == 1]) == set(TRANSACTIONS)
    assert set(filled.index[filled.amount == 0]) == set(filled.index) - set(TRANSACTIONS)
    assert (filled.order_id == filled.amount).all()
    assert set(filled.index[filled.payee_id == 1]) == {"purchase", "payout"}
    assert set(filled.index[filled.instrument_id == 1]) == {
        "purchase",
        "payout",
        "instrument_added",
    }
    assert (filled[["device_id", "ip", "session_id", "user_agent", "page_views"]] == 1).all().all()
    assert (market.events.amount.dropna() > 0).all()
    guests = market.events[market.events.member_id.isna()]
    assert set(guests.type) == {"login_failed"}
    assert 0.005 < len(guests) / len(market.events) < 0.03


def test_identifiers_are_well_formed_and_some_are_spelt_in_other_ways(market):
    spelt = pd.concat([market.members.phone, market.events.consignee_phone.dropna()]).unique()
    numbers = [phonenumbers.parse(phone, "CN") for phone in spelt]
    assert all(phonenumbers.is_valid_number(number) for number in numbers)
    assert len({n.national_number for n in numbers}) < len(spelt)
    own = [phonenumbers.parse(phone, "CN").national_number for phone in market.members.phone]
    assert len(set(own)) == len(own)
    assert market.members.email.str.fullmatch(r"[Uu]\d+@example\.(com|net|org)").all()
    assert 0 < market.members.email.str.startswith("U").mean() < 0.1
    ips = [ipaddress.ip_address(ip) for ip in market.events.ip.unique()]
    assert {ip.version for ip in ips} == {4, 6}
    shared = ipaddress.ip_network("100.64.0.0/10")  # neither private nor global, by RFC 6598
    assert all(ip.is_private or (ip.version == 4 and ip in shared) for ip in ips)


# -- life


def test_days_and_weeks_have_their_seasons(market):
    local = market.events.occurred_at.dt.tz_convert("+08:00")
    by_hour = local.dt.hour.value_counts()
    assert by_hour[20] > 4 * by_hour[4]
    by_day = local.dt.day_of_week.value_counts()
    assert by_day[5] > 1.1 * by_day[1]


def test_people_join_over_the_whole_period(market, events):
    joined = events[events.type == "registration"].occurred_at
    weeks = (joined - pd.Timestamp(START)) // (7 * DAY)
    assert set(weeks) == set(range(18))
    assert 0.3 < len(joined) / len(market.members) < 0.5


def test_honest_people_share_devices_and_addresses_too(events):
    honest = events[events.kind.isna() & events.member_id.notna()]
    per_device = honest.groupby("device_id").member_id.nunique()
    assert (per_device > 1).sum() > 100
    assert per_device.max() > 10
    assert honest.groupby("ip").member_id.nunique().max() > 50
    assert (honest.groupby("instrument_id").member_id.nunique() > 1).sum() > 50
    assert (honest.groupby("consignee_address").member_id.nunique() > 1).sum() > 100


def test_frauds_wear_honest_clothes(events):
    taken = events[events.kind == "account_takeover"].groupby("session_id").type.agg(set)
    assert taken.map(lambda types: "login_failed" not in types).mean() > 0.3
    rings = events[events.kind == "false_accounts"]
    crowd = events.groupby("device_id").member_id.nunique()
    assert (rings.device_id.map(crowd) == 1).mean() > 0.1
    stolen = events[(events.kind == "stolen_instrument") & (events.type == "purchase")]
    usual = events[events.kind.isna() & (events.type == "purchase")].amount.astype(float)
    assert usual.quantile(0.25) < stolen.amount.astype(float).median() < usual.quantile(0.9)


# -- frauds and labels


def test_every_kind_of_fraud_occurs_early_and_late(events):
    assert set(events.kind.dropna()) == set(KINDS)
    assert len(KINDS) >= 7
    third = (events.occurred_at - pd.Timestamp(START)) // (40 * DAY)
    seen = events[events.kind.notna()].groupby("kind").apply(lambda rows: set(third[rows.index]))
    assert seen.map({0, 1, 2}.issubset).all()


def test_one_to_two_events_in_a_hundred_are_fraud(events):
    deals = events.type.isin(TRANSACTIONS)
    assert 0.01 < events[deals].kind.notna().mean() < 0.022
    assert 0.01 < events[~deals].kind.notna().mean() < 0.03


def test_rings_are_named_and_lone_frauds_are_not(market):
    assert market.truth.ring.notna().eq(market.truth.kind.isin(RINGS)).all()


def test_labels_are_known_later_than_what_they_say(market):
    labelled = market.labels.merge(market.events, on="event_id")
    assert (labelled.known_at > labelled.occurred_at).all()


def test_labels_arrive_as_late_as_in_life(market, events):
    late = market.labels.merge(events, on="event_id")
    late = late[late.kind.notna()].assign(delay=lambda t: t.known_at - t.occurred_at)
    charged = late[late.label == "chargeback"].delay
    assert 6 * DAY < charged.median() < 13 * DAY
    assert charged.quantile(0.9) > 16 * DAY
    taken = late[late.label == "account_takeover"].delay
    assert 6 * HOUR < taken.median() < 4 * DAY
    assert late[late.label == "confirmed_fraud"].source.eq("analyst").all()
    assert (late.known_at > pd.Timestamp(START + timedelta(days=120))).any()


def test_some_frauds_are_never_found_and_most_are(market):
    found = market.truth.event_id.isin(market.labels.event_id)
    assert 0.8 < found.mean() < 0.97


def test_an_honest_event_wrongly_labelled_is_cleared_later(market):
    wrong = market.labels[~market.labels.event_id.isin(market.truth.event_id)]
    assert 0 < wrong.event_id.nunique() < 0.002 * len(market.events)
    known = wrong.pivot(index="event_id", columns="label", values="known_at")
    assert set(known.columns) == {"chargeback", "legitimate"}
    assert (known.legitimate > known.chargeback).all()


# -- consents


def test_consents_come_before_what_they_are_for(market):
    general = market.consents[market.consents.categories.str.startswith("member.required")]
    given = general[general.action == "given"].groupby("member_id")["at"].min()
    first = market.events.groupby("member_id").occurred_at.min()
    ahead = (first - given).dropna()
    assert (ahead > pd.Timedelta(0)).all()
    assert ahead.max() < pd.Timedelta(minutes=2)


def test_withdrawals_follow_what_they_withdraw(market):
    pairs = market.consents.pivot(index="consent_ref", columns="action", values="at")
    assert pairs.given.notna().all()
    withdrawn = pairs.dropna()
    assert (withdrawn.withdrawn > withdrawn.given).all()
    assert 0.02 < len(withdrawn) / len(market.members) < 0.08


def test_some_consent_to_all_some_to_part_some_to_nothing(market):
    given = market.consents[market.consents.action == "given"]
    general = given[given.categories.str.startswith("member.required")]
    named = general.drop_duplicates("member_id").categories.str.split(",").map(set)
    everything = named.map(set(EVERYTHING).issubset).sum() / len(market.members)
    nothing = 1 - len(named) / len(market.members)
    assert 0.65 < everything < 0.8
    assert 0.02 < nothing < 0.07
    for category in ("device", "location", "log", "consignee"):
        assert 0 < (~named.map(lambda names, c=category: c in names)).mean() < 0.2
    for category in ("member.optional", "location.gps"):
        assert 0.1 < named.map(lambda names, c=category: c in names).mean() < 0.25


def test_documents_and_faces_rest_on_explicit_consents_of_their_own(market):
    sensitive = market.consents.categories.str.contains("identity|biometric")
    alone = market.consents[sensitive]
    types = {named.partition(":")[2] for named in alone.categories if named != "biometric.face"}
    assert types == set(papers.DOCUMENTS) <= set(regime.load().category("identity.document").types)
    assert set(alone.event_type) == {"explicitly_expressed"}
    assert set(market.consents.purpose) == {"security"}
    for column, category in (
        ("document_verified", "identity.document"),
        ("face_match_level", "biometric.face"),
    ):
        of = alone[alone.categories.str.startswith(category)].set_index("member_id")
        seen = market.events[market.events[column].notna()]
        assert len(seen) > 0
        assert (seen.occurred_at >= seen.member_id.map(of["at"])).all()
        if column == "document_verified":
            named = category + ":" + seen.document_type
            assert (named == seen.member_id.map(of["categories"])).all()
            assert market.events[market.events[column].isna()].document_type.isna().all()


def test_whoever_deceives_refuses_as_often_as_anybody_else():
    market = simulate(seed=11, events=200_000)
    acts = market.events.merge(market.truth, on="event_id")
    bad = market.members.member_id.isin(acts.member_id)
    given = market.consents[market.consents.action == "given"]
    general = given[given.categories.str.startswith("member.required")].drop_duplicates("member_id")
    named = market.members.member_id.map(general.set_index("member_id").categories).fillna("")
    for category in (*EVERYTHING, "member.optional", "location.gps"):
        has = named.str.split(",").map(lambda names, c=category: c in names)
        expected, share = has.mean(), has[bad].mean()
        error = np.sqrt(expected * (1 - expected) / bad.sum())
        assert abs(share - expected) < 3.5 * error, category


# -- no giveaway


def earlier(events: pd.DataFrame, key: str, within: pd.Timedelta, only: str | None = None):
    """Return how many earlier events (of type `only`) share `key` and are at most `within` old."""
    code = pd.factorize(events[key])[0].astype(np.int64) << 44
    at = (events.occurred_at - events.occurred_at.iloc[0]) // pd.Timedelta(microseconds=1)
    place = code + at.to_numpy()
    counted = (code >= 0) & (True if only is None else (events.type == only).to_numpy())
    line = np.sort(place[counted])
    oldest = np.maximum(place - within // pd.Timedelta(microseconds=1), code)
    counts = np.searchsorted(line, place) - np.searchsorted(line, oldest)
    return np.where(code >= 0, counts, 0)


def naive_statistics(market: Market) -> pd.DataFrame:
    """Return what anybody would try first: the columns as they are, and one window at a time."""
    e = market.events.reset_index(drop=True)
    e["network"] = e.ip.str.rpartition(".")[0].where(~e.ip.str.contains(":"), e.ip)
    hour = e.occurred_at.dt.tz_convert("+08:00").dt.hour
    joined = e.member_id.map(market.members.set_index("member_id").registered_at)
    found = {
        "hour": hour,
        "night": hour < 6,
        "weekday": e.occurred_at.dt.day_of_week,
        "account age": (e.occurred_at - joined).dt.total_seconds(),
        "own address": e.consignee_is_member.astype(float),
        "documents": e.document_verified.astype(float),
        "face": e.face_match_level.astype(float),
        "no permission": e.permissions.fillna("") == "",
    }
    for column in ("amount", "item_count", "page_views", "search_count", "seconds_on_page"):
        found[column] = e[column].astype(float)
    for column in ("type", "instrument_kind", "currency", "language", "carrier", "device_os"):
        for value in e[column].dropna().unique():
            found[f"{column} is {value}"] = e[column] == value
    keys = ["member_id", "device_id", "ip", "network", "payee_id", "instrument_id",
            "consignee_address"]  # fmt: skip
    for key in [*keys, "session_id"]:
        for within in (DAY / 288, HOUR, DAY, 7 * DAY, 30 * DAY):
            found[f"{key} count {within}"] = earlier(e, key, within)
    for kind in ("login_failed", "password_reset", "profile_change", "instrument_added",
                 "registration", "purchase"):  # fmt: skip
        for key in ("member_id", "device_id", "ip"):
            for within in (HOUR, DAY, 7 * DAY):
                found[f"{key} {kind} {within}"] = earlier(e, key, within, kind)
    for one in keys:
        found[f"{one} age"] = e.occurred_at - e.groupby(one).occurred_at.transform("min")
        found[f"{one} age"] = found[f"{one} age"].dt.total_seconds()
        for other in keys:
            new = ~e.duplicated([one, other]) & e[one].notna() & e[other].notna()
            found[f"new {other} of {one}"] = new
            found[f"{other} of {one}"] = new.groupby(e[one].fillna("")).cumsum()
    amount = np.log(e.amount.astype(float))
    for key in ("member_id", "payee_id"):
        past = amount.groupby(e[key]).transform(lambda values: values.shift().expanding().mean())
        found[f"amount against {key}"] = amount - past
    before = e.groupby("member_id").occurred_at.shift()
    found["since last"] = (e.occurred_at - before).dt.total_seconds()
    known = market.labels[market.labels.label != "legitimate"].merge(e, on="event_id")
    for key in ("member_id", "device_id", "ip", "payee_id", "consignee_address"):
        first = e[key].map(known.groupby(key).known_at.min())
        found[f"known fraud at {key}"] = first < e.occurred_at
    return pd.DataFrame(found).astype(float)


@pytest.fixture(scope="module")
def statistics(market: Market) -> pd.DataFrame:
    return naive_statistics(market)


@pytest.mark.parametrize("model", ["transaction", "account"])
def test_no_single_column_or_window_tells_fraud_from_honesty(market, statistics, model):
    deals = market.events.type.isin(TRANSACTIONS).to_numpy()
    rows = deals if model == "transaction" else ~deals
    fraud = market.events.event_id.isin(market.truth.event_id).to_numpy()[rows]
    told = {}
    for name, values in statistics[rows].dropna(axis="columns", how="all").items():
        for unknown in {values.min() - 1, values.max() + 1} if values.hasnans else {0.0}:
            auc = roc_auc_score(fraud, values.fillna(unknown))
            told[name] = max(auc, 1 - auc, told.get(name, 0.0))
    best = max(told, key=lambda name: told[name])
    assert told[best] < 0.85, f"{best} alone tells fraud with an AUC of {told[best]:.3f}"
    assert told[best] > 0.6, "nothing tells anything: there is nothing to learn from"


# -- speed, and the sample in the repository


def test_a_hundred_thousand_events_take_less_than_twenty_seconds():
    begun = time.perf_counter()
    simulate(seed=5, events=100_000)
    assert time.perf_counter() - begun < 20


def test_the_sample_is_what_its_data_sheet_says_it_is_made_of(market):
    assert_same(read(SAMPLE / "market"), market)


def test_the_sample_is_small():
    assert sum(path.stat().st_size for path in (SAMPLE / "market").iterdir()) < 4_000_000


def test_the_data_sheet_counts_what_is_there(market, events):
    sheet = (SAMPLE / "README.md").read_text()
    counts = {
        **events.type.value_counts(),
        **events.kind.value_counts(),
        **market.labels.label.value_counts(),
        **{name: len(getattr(market, name)) for name in SCHEMAS},
    }
    for name, count in counts.items():
        assert any(f"`{name}`" in line and f" {count:,} " in line for line in sheet.splitlines()), (
            f"the data sheet does not say that there are {count:,} of {name}"
        )
    for columns in SCHEMAS.values():
        for column in columns:
            assert f"`{column}`" in sheet
