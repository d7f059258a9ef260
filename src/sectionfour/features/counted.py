"""Counts and sums over the past, for data in memory: the commonest windows, without SQL.

In order of entity and time the rows of one entity are a stretch, and each of its windows is a
stretch of that: two binary searches find its ends, and a sum is the difference of two running
totals. A few entities at a time, so that all this stays near the processor. Whole numbers
throughout, as online; `history` has the same windows as expressions, for data that is elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sectionfour.domain import KNOWN
from sectionfour.features.catalog import SQUARED_CAP, STREAMS, Window

#: What is computed here.
AGGREGATES = frozenset({"count", "sum"})
#: So many rows at a time; those of one entity together, however many.
AT_A_TIME = 1 << 15

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
Numbers = NDArray[np.int32]
Places = NDArray[np.intp]
Bools = NDArray[np.bool_]


def fill(columns: Mapping[str, Floats], table: pa.Table, windows: Iterable[Window]) -> None:
    """Put each window's values in its column, one an event, in order of `at`; where an event has no
    such entity the column stays as it was.

    `table` has `at` (microseconds, above 0, all there) and `type` (a dictionary), with what became
    known among the events; where there are any, `amount`, and tokens as numbers from 0 (int32).
    """
    names = {name for batch in table.to_batches() for name in batch["type"].dictionary.to_pylist()}
    events = _of_types(table, names - KNOWN)
    of_entity: dict[str, list[Window]] = {}
    for window in windows:
        of_entity.setdefault(window.by, []).append(window)
    for by, group in of_entity.items():
        wanted = names & frozenset[str]().union(*(STREAMS[window.of] for window in group))
        past = events if wanted == names - KNOWN else _of_types(table, wanted)
        _fill_of(by, group, events, past, columns)


def _fill_of(
    by: str,
    windows: Sequence[Window],
    events: pa.Table,
    past: pa.Table,
    columns: Mapping[str, Floats],
) -> None:
    """Fill the columns of windows of one entity over `past`; both are in order of `at`."""
    at, asked_at = _whole(past, "at"), _whole(events, "at")
    who, rows = _by_entity(past, by)
    asking, places = (who, rows) if past is events else _by_entity(events, by)
    amount = _whole(past, "amount")
    inside = {window.of: _are(past, STREAMS[window.of]) for window in windows}
    back = {window.over: window.over - 1 for window in windows}
    # An instant of one entity, or of a window before it, is a number that no other entity has.
    span = int(max(at.max(initial=0), asked_at.max(initial=0))) + max(back)
    for first, mine, theirs in _few(who, asking, np.iinfo(np.int64).max // span):
        of, here = rows[mine], places[theirs]
        line = (who[mine] - first).astype(np.int64) * span + at.take(of)
        asked = (asking[theirs] - first).astype(np.int64) * span + asked_at.take(here)
        upto = line.searchsorted(asked)
        since = {over: line.searchsorted(asked - less) for over, less in back.items()}
        totals: dict[tuple[str, str | None], tuple[Whole, Whole]] = {}
        for window in windows:
            kind = (window.of, window.what)
            if kind not in totals:
                total = _running(window.what, inside[window.of], amount, of)
                totals[kind] = total, total.take(upto)
            total, before = totals[kind]
            value = before - total.take(since[window.over])
            columns[window.name][here] = value.astype(np.float64)


def _few(who: Numbers, asking: Numbers, most: int) -> Iterator[tuple[int, slice, slice]]:
    """Yield a few entities at a time, at most `most`: the number of the first, the stretch of their
    rows, and that of their events; both are in order of entity."""
    length = max(int(of[-1]) + 1 if len(of) else 0 for of in (who, asking))
    ends = [np.bincount(of, minlength=length).cumsum() for of in (who, asking)]
    rows, events = (np.concatenate([[0], of]) for of in ends)
    full = np.flatnonzero(np.diff((rows + events) // AT_A_TIME)) + 1
    edges = np.union1d(full, np.append(np.arange(0, length, most), length))
    for first, last in pairwise(edges.tolist()):
        yield first, slice(rows[first], rows[last]), slice(events[first], events[last])


def _running(what: str | None, inside: Bools, amount: Whole, rows: Places) -> Whole:
    """Return what there was before each row, and in the end; beyond 64 bits it wraps, and
    differences are right all the same."""
    total = np.zeros(len(rows) + 1, np.int64)
    counts = inside.take(rows)
    if what is None:
        counts.cumsum(out=total[1:])
        return total
    values = amount.take(rows) * counts
    if what == "amount_sq":
        values = np.minimum(values, SQUARED_CAP) ** 2
    values.cumsum(out=total[1:])
    return total


def _by_entity(table: pa.Table, name: str) -> tuple[Numbers, Places]:
    """Return whose the rows are that have such an entity, in its order, and which rows they are,
    those of one entity in the order given."""
    if name not in table.column_names or pa.types.is_null(table[name].type):
        return np.zeros(0, np.int32), np.zeros(0, np.intp)
    who: Numbers = table[name].combine_chunks().fill_null(-1).to_numpy()
    whole = who.view(np.uint32)  # where there is none, the last number of all
    rows = np.argsort(whole.astype(np.uint16), kind="stable")  # 16 bits sort much faster
    if who.max(initial=0) >= 0xFFFF:
        rows = rows[np.argsort((whole >> 16).astype(np.uint16)[rows], kind="stable")]
    rows = rows[: np.count_nonzero(who >= 0)]
    return who[rows], rows


def _of_types(table: pa.Table, types: Collection[str]) -> pa.Table:
    """Return the rows of these types in order of `at`, in one piece."""
    parts = []
    for batch in table.to_batches():
        chosen = _are(batch, types)
        if chosen.all():
            parts.append(batch)  # nothing is copied
        elif chosen.any():
            parts.append(batch.filter(pa.array(chosen)))
    found = pa.Table.from_batches(parts, table.schema).combine_chunks()
    at = _whole(found, "at")
    return found if (at[1:] >= at[:-1]).all() else found.sort_by("at")


def _are(rows: pa.Table | pa.RecordBatch, types: Collection[str]) -> Bools:
    """Return which rows are of these types."""
    kind = rows["type"]
    kind = kind.combine_chunks() if isinstance(kind, pa.ChunkedArray) else kind
    names = kind.dictionary.to_pylist()
    wanted = np.array([name in types for name in [*names, None]])
    found: Bools = wanted.take(kind.indices.fill_null(len(names)).to_numpy())
    return found


def _whole(table: pa.Table, name: str) -> Whole:
    """Return whole numbers, 0 where there is none."""
    if name not in table.column_names or pa.types.is_null(table[name].type):
        return np.zeros(len(table), np.int64)
    numbers: Whole = table[name].combine_chunks().cast(pa.int64()).fill_null(0).to_numpy()
    return numbers
