"""Past events from files, as the steps that `replay` takes. Needs the `training` extra.

`market` reads the tables that `simulate` writes, which are also the form for a marketplace's own
past; `handbook` reads the published card transactions: a customer is a member, a terminal a payee,
and a fraud becomes known seven days after its transaction.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sectionfour import parquet
from sectionfour.domain import SECOND, WEEK, LabelName, Notice
from sectionfour.errors import HistoryError
from sectionfour.given import (
    MOST_AMOUNT,
    Consignee,
    Device,
    Given,
    Gps,
    Identity,
    Instrument,
    Location,
    Log,
    Member,
    MemberOptional,
    Transaction,
    What,
)
from sectionfour.loading.replay import Consent, Known, Step
from sectionfour.simulate import Market, read

BASIC = ("member.required", "order", "payment", "consignee", "device", "location", "log")
EVERYTHING = (
    *BASIC, "member.optional", "location.gps", "identity.document", "biometric.face",
)  # fmt: skip
Times = NDArray[np.int64]
HANDBOOK_DELAY = WEEK
HANDBOOK_COLUMNS = ("TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT", "TX_FRAUD")


def notice(name: str, text: str) -> Notice:
    """Return the notice under which consents of another system are taken over."""
    return Notice(
        notice_id=name,
        version="1",
        language="en",
        text_sha256=hashlib.sha256(text.encode()).hexdigest(),
        purposes=("security",),
        categories=EVERYTHING,
        valid_from=0,
        material=False,
    )


MARKET_NOTICE = notice(
    "pn_imported", "Consents as recorded by the marketplace whose past is imported."
)
HANDBOOK_NOTICE = notice(
    "pn_handbook",
    "The handbook's customers are simulated: nobody stands behind them, and the import declares"
    " a consent to security for each, so that the gate has what it would have of a person.",
)


def market(folder: Path) -> tuple[Iterator[Step], int]:
    """Return the steps of a marketplace's past, in order of time, and the number of events.

    Raises HistoryError, before anything is taken, for what no past can have: an id twice, no time,
    a label that there is none of, or an amount that is missing, infinite, a fraction, below 0 or
    above what the service takes.
    """
    tables = read(folder)
    _check(tables.events, tables.labels)
    merged = heapq.merge(
        _consents(tables.consents), _events(tables), _labels(tables.labels), key=at_of
    )
    return merged, len(tables.events)


def _check(events: pd.DataFrame, labels: pd.DataFrame) -> None:
    if not len(events):
        raise HistoryError("events.parquet has no rows")
    amounts = events.loc[events["order_id"].notna(), "amount"]
    amounts = amounts.astype("float64").fillna(np.nan)
    whole = amounts.between(0, MOST_AMOUNT) & (amounts == np.floor(amounts))
    names = get_args(LabelName)
    for wrong, what in (
        (_no_name(events["event_id"]), "events have no event_id, or one that came before"),
        (events["occurred_at"].isna(), "events have no occurred_at"),
        (
            ~whole,
            "orders have an amount that is no whole number of minor units from 0 to"
            f" {MOST_AMOUNT:,}",
        ),
        (_no_name(labels["label_id"]), "labels have no label_id, or one that came before"),
        (labels["known_at"].isna(), "labels have no known_at"),
        (~labels["label"].isin(names), f"labels say something else than {', '.join(names)}"),
    ):
        if wrong.any():
            raise HistoryError(f"{int(wrong.sum())} {what}; nothing was taken")


def _no_name(ids: pd.Series[Any]) -> pd.Series[bool]:
    return ids.isna() | ids.duplicated()


def at_of(step: Step) -> int:
    """Return when a step happened."""
    return step[0] if isinstance(step, tuple) else step.at


def micros(times: pd.Series[Any]) -> list[int]:
    """Return instants as microseconds since the epoch."""
    found: list[int] = times.astype("datetime64[us, UTC]").astype("int64").tolist()
    return found


def _rows(table: pd.DataFrame, *columns: str) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of some columns with None for whatever is missing."""
    return zip(
        *(table[name].astype(object).where(table[name].notna(), None).tolist() for name in columns),
        strict=True,
    )


def _consents(table: pd.DataFrame) -> Iterator[Step]:
    table = table.sort_values("at", kind="stable")
    rows = _rows(table, "member_id", "consent_ref", "action", "purpose", "categories", "event_type")
    for at, (member, ref, action, purpose, categories, kind) in zip(
        micros(table["at"]), rows, strict=True
    ):
        yield Consent(
            at, member, ref, action == "given", purpose, tuple(categories.split(",")), kind
        )


def _labels(table: pd.DataFrame) -> Iterator[Step]:
    table = table.sort_values("known_at", kind="stable")
    rows = _rows(table, "label_id", "event_id", "label", "source")
    for at, row in zip(micros(table["known_at"]), rows, strict=True):
        yield Known(at, *row)


def _events(tables: Market) -> Iterator[Step]:
    yield from requests(tables, tables.events.sort_values("occurred_at", kind="stable"))


def requests(tables: Market, events: pd.DataFrame) -> Iterator[tuple[int, Given]]:
    """Yield (at, the request that a checkout would have made) for some events of a market."""
    names = list(tables.members.columns)
    members = {row[0]: dict(zip(names, row, strict=True)) for row in _rows(tables.members, *names)}
    names = [name for name in events.columns if name != "occurred_at"]
    times = events["occurred_at"]
    for at, when, row in zip(
        micros(times), times.dt.to_pydatetime(), _rows(events, *names), strict=True
    ):
        yield at, given(dict(zip(names, row, strict=True)), when, members)


def given(row: dict[str, Any], when: Any, members: dict[str, dict[str, Any]]) -> Given:
    """Return the request that a checkout would have made of one row of the events table."""
    member, order = row["member_id"], row["order_id"]
    permissions = tuple(p for p in (row["permissions"] or "").split(",") if p)
    return Given(
        event_id=row["event_id"],
        purpose=(
            "security.transaction_risk"
            if order is not None
            else "security.account_risk"
            if member is not None
            else "security.incident_detection"
        ),
        event=What(type=row["type"], occurred_at=when),
        member=None if member is None else _member(members[member]),
        transaction=None
        if order is None
        else Transaction(
            order_id=order,
            amount=int(row["amount"]),
            currency=row["currency"],
            payee_id=row["payee_id"],
            item_count=row["item_count"],
            instrument=None
            if row["instrument_kind"] is None
            else Instrument(kind=row["instrument_kind"], id=row["instrument_id"]),
            consignee=None
            if row["consignee_address"] is None
            else Consignee(
                phone=row["consignee_phone"],
                address=row["consignee_address"],
                is_member=row["consignee_is_member"],
            ),
        ),
        device=None
        if row["device_id"] is None
        else Device(
            id=row["device_id"],
            model=row["device_model"],
            os=row["device_os"],
            permissions=permissions,
        ),
        location=None
        if row["ip"] is None
        else Location(
            ip=row["ip"],
            gps=None if row["gps_lat"] is None else Gps(lat=row["gps_lat"], lon=row["gps_lon"]),
        ),
        log=None
        if row["page_views"] is None
        else Log(
            user_agent=row["user_agent"],
            language=row["language"],
            carrier=row["carrier"],
            session_id=row["session_id"],
            page_views=row["page_views"],
            search_count=row["search_count"],
            seconds_on_page=row["seconds_on_page"],
        ),
        identity=None
        if row["document_verified"] is None and row["face_match_level"] is None
        else Identity(
            document_type=row["document_type"],
            document_verified=row["document_verified"],
            face_match_level=row["face_match_level"],
        ),
    )


def _member(row: dict[str, Any]) -> Member:
    birth, gender = row["birth_date"], row["gender"]
    optional = (
        MemberOptional(
            birth_date=birth if isinstance(birth, str) else None,
            gender=gender if isinstance(gender, str) else None,
        )
        if isinstance(birth, str) or isinstance(gender, str)
        else None
    )
    return Member(
        id=row["member_id"],
        registered_at=row["registered_at"].to_pydatetime(),
        email=row["email"],
        phone=row["phone"],
        optional=optional,
    )


def read_handbook(path: Path) -> pd.DataFrame:
    """Return the transactions in order of time, each with `at` (microseconds, unique).

    The index is the place in the file; times without a zone are UTC. Raises HistoryError, naming
    the first row, where a column is missing or holds what cannot be.
    """
    table = parquet.table(path, HANDBOOK_COLUMNS).reset_index(drop=True)
    if not len(table):
        raise HistoryError(f"{path.name} has no rows")
    try:
        times = pd.to_datetime(table["TX_DATETIME"], utc=True).astype("datetime64[us, UTC]")
        amounts, fraud = (table[name].astype("float64") for name in ("TX_AMOUNT", "TX_FRAUD"))
    except (TypeError, ValueError) as error:
        raise HistoryError(f"{path.name} holds what is no time, or no number: {error}") from error
    for wrong, what in (
        (table["CUSTOMER_ID"].isna() | table["TERMINAL_ID"].isna(), "no customer, or no terminal"),
        (times.isna(), "no time"),
        (~amounts.between(0, MOST_AMOUNT / 100), "an amount that is none"),
        (~fraud.isin([0, 1]), "a TX_FRAUD that is neither 0 nor 1"),
    ):
        if wrong.any():
            raise HistoryError(f"{path.name}: row {int(wrong.to_numpy().argmax())} has {what}")
    table = table.assign(
        TX_DATETIME=times.dt.tz_localize(None), TX_AMOUNT=amounts, TX_FRAUD=fraud.astype("int8")
    ).sort_values("TX_DATETIME", kind="stable")
    at = table["TX_DATETIME"].astype("int64").to_numpy()
    # Ties are broken by adding microseconds in file order.
    first = np.concatenate([[True], np.diff(at) > 0])
    places = np.arange(len(at))
    at = at + places - np.maximum.accumulate(np.where(first, places, 0))
    return table.assign(at=at)


def handbook(path: Path, until: int | None = None) -> tuple[Iterator[Step], int]:
    """Return the steps of the handbook's transactions, in order of time, and their number.

    With `until` (microseconds) there is nothing from that instant on: no transaction, and of those
    before no label that became known later.
    """
    table = read_handbook(path)
    at = table["at"].to_numpy()
    consents = [
        Consent(int(at[0]) - SECOND, f"customer_{c}", "handbook", True, "security", BASIC)
        for c in np.unique(table["CUSTOMER_ID"])
    ]
    told = np.full(len(consents), at[0] - SECOND)
    parts = ((told, iter(consents)), (at, _purchases(table)), (at + HANDBOOK_DELAY, _known(table)))
    end = np.inf if until is None else until
    return _in_order(parts, end), int((at < end).sum())


def _in_order(parts: Sequence[tuple[Times, Iterator[Step]]], until: float) -> Iterator[Step]:
    """Merge steps whose times are known, each part in order, up to `until`; the first part first
    where times are the same."""
    times = np.concatenate([at for at, _ in parts])
    source = np.repeat(np.arange(len(parts)), [len(at) for at, _ in parts])
    order = np.argsort(times, kind="stable")
    steps = [steps for _, steps in parts]
    for part in source[order[times[order] < until]].tolist():
        yield next(steps[part])


def _purchases(table: pd.DataFrame) -> Iterator[Step]:
    members = {c: Member(id=f"customer_{c}") for c in table["CUSTOMER_ID"].unique()}
    amounts = (table["TX_AMOUNT"] * 100).round().astype("int64")
    for at, when, customer, terminal, amount, number in zip(
        table["at"].tolist(),
        table["TX_DATETIME"].dt.tz_localize("UTC").dt.to_pydatetime(),
        table["CUSTOMER_ID"].tolist(),
        table["TERMINAL_ID"].tolist(),
        amounts.tolist(),
        table.index.tolist(),
        strict=True,
    ):
        yield (
            at,
            Given(
                event_id=f"handbook_{number}",
                purpose="security.transaction_risk",
                event=What(type="purchase", occurred_at=when),
                member=members[customer],
                transaction=Transaction(
                    order_id=f"handbook_{number}",
                    amount=amount,
                    currency="EUR",
                    payee_id=f"terminal_{terminal}",
                ),
            ),
        )


def _known(table: pd.DataFrame) -> Iterator[Step]:
    """A week after each transaction it is known what it was."""
    for number, at, fraud in zip(
        table.index.tolist(), table["at"].tolist(), table["TX_FRAUD"].tolist(), strict=True
    ):
        name = f"handbook_{number}"
        label = "chargeback" if fraud else "legitimate"
        yield Known(at + HANDBOOK_DELAY, name, name, label, "handbook")
