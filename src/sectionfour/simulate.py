"""A marketplace that never was: members, stores, devices, logs, frauds, consents, late labels.

`simulate` passes through the rooms of `marketplace` in order; `write` and `read` keep its five
tables as parquet, in the form that `import events` takes. Nothing here is used to serve or to
train, and `truth` is for analysis alone: no feature may see it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sectionfour import parquet
from sectionfour.errors import HistoryError
from sectionfour.marketplace import papers, tables
from sectionfour.marketplace.frauds import fraud_visits
from sectionfour.marketplace.people import Floats, Ints, Mint, World, people
from sectionfour.marketplace.visits import (
    TYPES,
    Table,
    guest_visits,
    honest_visits,
    joined,
    length,
    rows,
    unfold,
)

START = datetime(2026, 3, 1, tzinfo=UTC)
EVENTS_A_MEMBER = 18  # over the whole period; there is one member for so many events
TRANSACTION_SHARE = 0.53  # of all events, nearly
GUESTS = 0.015


@dataclass(frozen=True, slots=True)
class Market:
    """Five tables; columns and types are those of `SCHEMAS`."""

    members: pd.DataFrame
    events: pd.DataFrame
    consents: pd.DataFrame
    labels: pd.DataFrame
    truth: pd.DataFrame


STAMP = pa.timestamp("us", tz="UTC")
SCHEMAS = {
    "members": {
        "member_id": pa.string(), "registered_at": STAMP, "email": pa.string(),
        "phone": pa.string(), "birth_date": pa.string(), "gender": pa.string(),
    },
    "events": {
        "event_id": pa.string(), "occurred_at": STAMP, "type": pa.string(),
        "member_id": pa.string(), "order_id": pa.string(), "amount": pa.int64(),
        "currency": pa.string(), "payee_id": pa.string(), "item_count": pa.int32(),
        "instrument_kind": pa.string(), "instrument_id": pa.string(),
        "consignee_address": pa.string(), "consignee_phone": pa.string(),
        "consignee_is_member": pa.bool_(), "device_id": pa.string(), "device_model": pa.string(),
        "device_os": pa.string(), "permissions": pa.string(), "ip": pa.string(),
        "gps_lat": pa.float64(), "gps_lon": pa.float64(), "user_agent": pa.string(),
        "language": pa.string(), "carrier": pa.string(), "session_id": pa.string(),
        "page_views": pa.int32(), "search_count": pa.int32(), "seconds_on_page": pa.float64(),
        "document_type": pa.string(), "document_verified": pa.bool_(),
        "face_match_level": pa.int8(),
    },
    "consents": {
        "member_id": pa.string(), "at": STAMP, "action": pa.string(), "consent_ref": pa.string(),
        "purpose": pa.string(), "categories": pa.string(), "event_type": pa.string(),
    },
    "labels": {
        "label_id": pa.string(), "event_id": pa.string(), "label": pa.string(),
        "known_at": STAMP, "source": pa.string(),
    },
    "truth": {"event_id": pa.string(), "kind": pa.string(), "ring": pa.string()},
}  # fmt: skip


def simulate(
    *,
    seed: int,
    events: int,
    days: int = 120,
    start: datetime = START,
    fraud_share: float = 0.017,
) -> Market:
    """Return a market of exactly `events` events over `days` days from `start`.

    `fraud_share` is the share of transactions that are fraudulent, nearly; account events
    (registrations, logins, changes) are part of the same frauds, by a similar share.
    The same arguments give the same tables. Raises ValueError where `start` has no offset or
    there are too few events (under about 3,000) or days (under 10) to hold every kind of fraud.
    """
    if start.tzinfo is None:
        raise ValueError(f"'start' needs a UTC offset, got {start.isoformat()}")
    if events < 3000 or days < 10 or not 0 < fraud_share < 0.2:
        raise ValueError(
            "a market needs 3,000 events, 10 days and a fraud share between 0 and 0.2,"
            f" got {events}, {days} and {fraud_share}"
        )
    start = start.astimezone(UTC)
    lives, acts, words, later, names = np.random.default_rng(seed).spawn(5)
    mint = Mint()
    world = _world(lives, mint, events, days, start, fraud_share)
    visit = _visits(world, acts, mint, events, fraud_share)
    happened = _in_order(unfold(world, acts, mint, rows(visit, visit["at"] >= 0)))
    world = replace(world, registered=_registrations(world, visit, happened))
    who = _members(world, happened)
    agreed, verified = _agreements(world, words, happened, who)
    known = papers.labels(later, happened)
    _disguise_order(names, happened)
    return Market(
        members=tables.members_table(world, names, start, who),
        events=tables.events_table(world, names, start, happened, verified),
        consents=tables.consents_table(world, start, agreed),
        labels=tables.labels_table(start, known),
        truth=tables.truth_table(happened),
    )


def write(market: Market, folder: Path) -> None:
    """Write the tables of `market` as parquet files into `folder`, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, columns in SCHEMAS.items():
        table = pa.Table.from_pandas(
            getattr(market, name), schema=pa.schema(list(columns.items())), preserve_index=False
        )
        pq.write_table(table, folder / f"{name}.parquet", compression="zstd", compression_level=12)


def read(folder: Path) -> Market:
    """Return the market that `write` left in `folder`; raises HistoryError for what is not one."""
    found = {}
    for field in fields(Market):
        path = folder / f"{field.name}.parquet"
        if not path.is_file():
            raise HistoryError(f"a market needs {field.name}.parquet, and {folder} has none")
        found[field.name] = parquet.table(path, SCHEMAS[field.name])
    return Market(**found)


def _world(
    rng: np.random.Generator,
    mint: Mint,
    events: int,
    days: int,
    start: datetime,
    fraud_share: float,
) -> World:
    deceits = round(events * TRANSACTION_SHARE * fraud_share)
    midnight = start.replace(hour=0, minute=0, second=0, microsecond=0)
    return people(
        rng, mint, days=days, weekday=start.weekday(),
        day_starts=(start - midnight) / timedelta(seconds=1),
        honest=events // EVENTS_A_MEMBER, false=deceits + 150, ghosts=max(15, deceits // 5),
    )  # fmt: skip


def _visits(
    world: World, rng: np.random.Generator, mint: Mint, events: int, fraud_share: float
) -> Table:
    """Return all visits, those before the start too; the others unfold into `events` events."""
    deceits = round(events * TRANSACTION_SHARE * fraud_share)
    bad = fraud_visits(world, rng, mint, transactions=deceits)
    left = events - int(length(rows(bad, bad["at"] >= 0)).sum())
    good = honest_visits(world, rng, mint, events=left - round(GUESTS * events))
    guests = guest_visits(world, rng, left - int(length(good).sum()))
    return joined([bad, good, guests])


def _in_order(events: Table) -> Table:
    """Return the events by time, no two in one microsecond, visits numbered as they begin."""
    events = rows(events, np.argsort(events["at"], kind="stable"))
    place = np.arange(len(events["at"]))
    micros = np.round(events["at"] * 1e6).astype(np.int64)
    events["at"] = (np.maximum.accumulate(micros - place) + place) / 1e6
    _, first, number = np.unique(events["visit"], return_index=True, return_inverse=True)
    events["visit"] = np.argsort(np.argsort(first))[number]
    return events


def _registrations(world: World, visit: Table, events: Table) -> Floats:
    """Return when each person registered: by the event, or by the visit from before the start."""
    registered = world.registered.copy()
    early = (visit["register"] > 0) & (visit["at"] < 0)
    registered[visit["member"][early]] = visit["at"][early]
    now = events["type"] == TYPES.index("registration")
    registered[events["member"][now]] = events["at"][now]
    return registered


def _members(world: World, events: Table) -> Ints:
    """Return the members by age: all of good faith, and the false accounts that were used."""
    seen = np.zeros(len(world.registered), dtype=np.bool_)
    seen[: world.honest] = True
    seen[events["member"][events["member"] >= 0]] = True
    seen[events["payee"][events["payee"] >= 0]] = True
    who = np.flatnonzero(seen)
    return who[np.argsort(world.registered[who], kind="stable")]


def _agreements(
    world: World, rng: np.random.Generator, events: Table, who: Ints
) -> tuple[Table, Table]:
    """Return the consents of `who`, and what was verified of everybody, since when."""
    n = len(world.registered)
    begins = np.maximum(world.registered, 0.0)
    mine = events["member"] >= 0
    first = np.full(n, np.inf)
    np.minimum.at(first, events["member"][mine], events["at"][mine])
    begins = np.where(np.isinf(first), begins, first)
    sells = np.isin(np.arange(n), world.stores)
    sells[events["member"][events["type"] == TYPES.index("store_opened")]] = True
    agreed = papers.consents(world, rng, begins[who], sells[who])
    agreed["member"] = who[agreed["member"]]
    honest = np.arange(n) < world.honest
    verified: Table = {
        "passes": rng.random(n) < np.where(honest, 0.97, 0.9),
        "level": rng.choice([1, 2, 3], n, p=[0.08, 0.3, 0.62]),
    }
    for key, category in (("document", "identity.document"), ("face", "biometric.face")):
        row = np.array([named.startswith(category) for named in agreed["categories"]])
        verified[key] = np.full(n, np.inf)
        verified[key][agreed["member"][row]] = agreed["at"][row]
        verified[f"{key}_type"] = np.full(n, "", object)
        types = [named.partition(":")[2] for named in agreed["categories"][row]]
        verified[f"{key}_type"][agreed["member"][row]] = types
    return agreed, verified


def _disguise_order(rng: np.random.Generator, events: Table) -> None:
    """Renumber things in place, so that no identifier tells in which order they were thought up."""
    for key, step in (("device", 1), ("instrument", 3), ("address", 12)):
        code = events[key]
        serial, rest = code // step, code % step
        new = rng.permutation(int(serial.max()) + 1)[serial] * step + rest
        events[key] = np.where(code >= 0, new, -1)
