"""What training reads of the ledger: events and labels as columns, tokens as plain numbers.

A token becomes the number of its first appearance as soon as it is read: windows need to know only
which tokens are the same, and no token of the serve domain gets into a training frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sectionfour.domain import EVER, Event, known_as
from sectionfour.errors import HistoryError

if TYPE_CHECKING:
    from sectionfour.stores.ledger.rooms import Ledger

ENTITIES = ("member", "phone", "email", "device", "ip", "network", "payee", "instrument", "address")
_TEXT = ("event_id", "type", "purpose", "brought")
_LEFT_OUT = ("order_ref", "occurred_at")


@dataclass(frozen=True, slots=True)
class Past:
    """Events in order of `at`, labels in order of `at`, the subject of each member number, and what
    was found of members' clusters (`member`, `at`, `size`, `frauds`)."""

    events: pd.DataFrame
    labels: pd.DataFrame
    subjects: list[bytes]
    clusters: pd.DataFrame

    @property
    def known(self) -> pd.DataFrame:
        """What became known of events, as events of their own, at the instant at which it did."""
        kinds = self.labels["label"].map(known_as)
        known = self.labels.assign(type=kinds)[kinds.notna()]
        tokens = self.events.set_index("event_id")[[*ENTITIES, "amount"]]
        found = known[known["event_id"].notna()].join(tokens, on="event_id", how="inner")
        alone = known[known["event_id"].isna()].rename(columns={"member_number": "member"})
        columns = ["at", "type", *ENTITIES, "amount"]
        both = [part.reindex(columns=columns) for part in (found, alone) if len(part)]
        whole = pd.concat(both) if both else found.reindex(columns=columns)
        return whole.sort_values("at", ignore_index=True)


def read(ledger: Ledger, *, until: int | None = None) -> Past:
    """Return everything up to `until` (exclusive, microseconds); all there is without it."""
    limit = EVER if until is None else until
    columns = [name for name in Event.__struct_fields__ if name not in _LEFT_OUT]
    rows = ledger.rows(f"SELECT {', '.join(columns)} FROM events WHERE at < ? ORDER BY at", limit)
    data: dict[str, object] = {}
    subjects: list[bytes] = []
    by_column = zip(*rows, strict=True) if rows else [()] * len(columns)
    for name, values in zip(columns, by_column, strict=True):
        if name in ENTITIES:
            numbers, tokens = numbered(values)
            data[name] = numbers
            if name == "member":
                subjects = tokens
        elif name in _TEXT:
            data[name] = pd.Series(values, dtype="object")
        elif name in ("at", "permitted"):
            data[name] = np.array(values, dtype=np.int64)
        else:
            data[name] = quantity(name, values)
    events = pd.DataFrame(data)
    labels = pd.DataFrame(
        ledger.rows(
            "SELECT label_id, at, label, source, known_at, event_id, member FROM labels"
            " WHERE at < ? ORDER BY at",
            limit,
        ),
        columns=["label_id", "at", "label", "source", "known_at", "event_id", "member"],
    )
    places = {token: place for place, token in enumerate(subjects)}
    labels["member_number"] = pd.array([places.get(m) for m in labels["member"]], dtype="Int64")
    found = [
        (places[member], *rest) for member, *rest in ledger.clusters(limit) if member in places
    ]
    clusters = pd.DataFrame(found, columns=["member", "at", "size", "frauds"], dtype="int64")
    return Past(events, labels.drop(columns="member"), subjects, clusters)


def quantity(name: str, values: Sequence[int | float | None]) -> pd.Series[Any]:
    """Return a column of numbers; HistoryError for what is none, which only damage can have put
    there: the service and the imports refuse it."""
    whole = name != "seconds_on_page"
    odd = [value for value in values if not (value is None or _is_number(value, whole))]
    if odd:
        raise HistoryError(
            f"{len(odd)} of {len(values)} events have no usable {name}: it is not a"
            f" {'whole' if whole else 'finite'} number; run `sectionfour verify`"
        )
    return pd.Series(list(values), dtype="Int64" if whole else "Float64")


def _is_number(value: object, whole: bool) -> bool:
    return isinstance(value, int) or (
        not whole and isinstance(value, float) and math.isfinite(value)
    )


def numbered(values: Iterable[bytes | None]) -> tuple[pd.Series[int], list[bytes]]:
    """Return the number of each token, by its first appearance, and the tokens in that order."""
    codes, tokens = pd.factorize(np.array(list(values), dtype=object), use_na_sentinel=True)
    numbers = pd.Series(codes, dtype="Int64")
    return numbers.mask(numbers < 0), list(tokens)


def members_of(found: Past) -> NDArray[np.int64]:
    """Return the number of each event's member, -1 for a guest."""
    numbers = found.events["member"].to_numpy(dtype=np.float64, na_value=-1)
    return numbers.astype(np.int64)
