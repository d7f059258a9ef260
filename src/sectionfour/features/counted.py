"""Counts and sums over the past, for data in memory: the commonest windows, without SQL.

A window is a stretch of the rows of one entity in order of time, so its ends are found by two
binary searches, and a sum is the difference of two running totals. Whole numbers throughout, as
online; `history` has the same windows as expressions, for data that is elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sectionfour.domain import KNOWN
from sectionfour.features.catalog import SQUARED_CAP, STREAMS, Window

#: What is computed here.
AGGREGATES = frozenset({"count", "sum"})

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]


def windows_of(table: pa.Table, windows: Iterable[Window]) -> dict[str, Floats]:
    """Return each window's values, in order of `at` of the events; missing is NaN.

    `table` has `at`, all there, and `type`, with what became known among the events; tokens and
    `amount` where there are any.
    """
    at = table["at"].to_numpy().astype(np.int64)
    order = np.argsort(at, kind="stable")
    at = at[order]
    kinds = table["type"].combine_chunks().dictionary_encode()
    kind = kinds.indices.to_numpy()[order]
    names = kinds.dictionary.to_pylist()
    is_event = ~np.isin(kind, [i for i, name in enumerate(names) if name in KNOWN])
    # Those of one instant have one rank, that of the first: none of them is before another.
    place = np.arange(len(at))
    rank = np.maximum.accumulate(np.where(np.diff(at, prepend=-1) != 0, place, 0))
    found: dict[str, Floats] = {}
    of_entity: dict[str, list[Window]] = {}
    begins: dict[int, Whole] = {}  # by `over`, the first of all rows that is inside; in order of at
    for window in windows:
        found[window.name] = np.full(int(is_event.sum()), np.nan)
        of_entity.setdefault(window.by, []).append(window)
        if window.over not in begins:
            begins[window.over] = np.searchsorted(at, at - window.over, side="right")
    amount = _whole(table, "amount", 0)[order]
    places = np.cumsum(is_event) - 1
    for by, group in of_entity.items():
        who = _numbers(table, by)[order]
        streams = {window.of for window in group}
        codes = {of: [i for i, name in enumerate(names) if name in STREAMS[of]] for of in streams}
        wanted = [code for of in streams for code in codes[of]]
        rows = np.flatnonzero((who >= 0) & (is_event | np.isin(kind, wanted)))
        few = who[rows].astype(np.min_scalar_type(who.max(initial=0)))  # 16 bits sort much faster
        rows = rows[np.argsort(few, kind="stable")]
        first = who[rows] * (len(at) + 1)
        keys, kinds_of = first + rank[rows], kind[rows]
        asking = is_event[rows]
        asks, ask_keys, ask_first = rows[asking], keys[asking], first[asking]
        ends = {over: ask_first + begins[over][asks] for over in {w.over for w in group}}
        for of in streams:
            inside = np.isin(kinds_of, codes[of])
            line, amounts = keys[inside], amount[rows[inside]]
            upto = np.searchsorted(line, ask_keys)
            mine = [window for window in group if window.of == of]
            after = {over: np.searchsorted(line, ends[over]) for over in {w.over for w in mine}}
            for window in mine:
                total = _running(window, amounts)
                found[window.name][places[asks]] = total[upto] - total[after[window.over]]
    return found


def _running(window: Window, amount: Whole) -> Whole:
    """Return what there was before each row, and in the end; beyond 64 bits it wraps, and
    differences are right all the same."""
    if window.agg == "count":
        return np.arange(len(amount) + 1)
    if window.what == "amount_sq":
        amount = np.minimum(amount, SQUARED_CAP) ** 2
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(amount)])


def _numbers(table: pa.Table, name: str) -> Whole:
    """Return a number for each token, -1 where there is none."""
    if name not in table.column_names or pa.types.is_null(table[name].type):
        return np.full(len(table), -1)
    indices = table[name].combine_chunks().dictionary_encode().indices
    return np.asarray(indices.fill_null(-1)).astype(np.int64)


def _whole(table: pa.Table, name: str, missing: int) -> Whole:
    if name not in table.column_names or pa.types.is_null(table[name].type):
        return np.full(len(table), missing)
    column = table[name].combine_chunks().cast(pa.int64())
    return np.asarray(column.fill_null(missing))
