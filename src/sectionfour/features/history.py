"""The catalog, over the past: every feature as of each event, as Ibis expressions.

On DuckDB here, on Spark where that is outgrown: every window is an expression that both have, a
plain SQL window over integers, turned into a float last and the same way as online, so all agree to
the bit. Row formulas, and the join of clusters, which Spark lacks, are computed in memory, and so
are counts and sums of data that is there already (`counted`). No store, no model, no gate: what may
be learnt from is picked after this, never before, for an event that may not be learnt from still
formed the windows of others.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, TypeAlias

import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from sectionfour.domain import EVENT_TYPES, FRAUD, KNOWN
from sectionfour.errors import HistoryError
from sectionfour.features import counted
from sectionfour.features.catalog import (
    ALONE,
    CLUSTER_BY,
    CLUSTER_INPUTS,
    ENTITIES,
    INPUTS,
    NAMES,
    NEWEST,
    RECENT,
    ROWS,
    WINDOWS,
    Numbers,
    Row,
    Window,
)
from sectionfour.features.windows import Columns, entities, in_steps

Events: TypeAlias = ibis.Table | pa.Table | pd.DataFrame
Floats = NDArray[np.float64]
Times = NDArray[np.int64]


def compute(
    events: Events,
    frauds: Events | None = None,
    *,
    clusters: Events | None = None,
    only: Sequence[str] | None = None,
    duckdb: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> tuple[Floats, Times]:
    """Return the features of each event, shape (events, features), and the `at` of each row.

    `events` has columns named as the fields of `domain.Event`: `at` in microseconds, above 0 and
    unique; `type`; tokens, of any type with equality. A column that is absent is missing
    throughout. `frauds` are the known frauds in the same form, `at` being the instant at which
    each became known, with the tokens of the event that it is about (its `type` need not be
    given). They form windows and have no row.

    `clusters` has columns `member`, `at`, `size` and `frauds`: what was found of a member's cluster
    counts for events after that `at`. Without it, and before it, everybody is alone.

    Rows are in order of `at`; columns are the catalog's, or `only` in its order; missing is NaN.
    Data in memory is computed on a DuckDB of its own, with the settings in `duckdb`
    (`memory_limit`, `temp_directory`, `threads`); Ibis tables by the backend that they are in.
    `progress(done, total)` is called after each step.

    Raises HistoryError for an unknown feature, and for an `at` that is missing or not unique.
    """
    names = NAMES if only is None else tuple(only)
    rows, windows, fields, joined = _needed(names)
    with _connected(duckdb or {}) as local:
        table, backend, memory = _opened(events, frauds, fields)
        backend = local if backend is None else backend
        given = backend.to_pyarrow(_given(table))
        at = _checked(given["at"])
        if joined:
            given = _with_clusters(given, events, clusters, backend, local)
        used = windows
        # Each column is one piece of memory, filled when its turn comes.
        wanted = dict.fromkeys((*names, *(window.name for window in windows)))
        values = np.full((len(wanted), len(at)), np.nan)
        columns = dict(zip(wanted, values, strict=True))
        if memory is not None:
            quick = [window for window in windows if window.agg in counted.AGGREGATES]
            counted.fill(columns, memory, quick)
            windows = [window for window in windows if window.agg not in counted.AGGREGATES]
        steps = in_steps(table, windows, backend)
        for done, step in enumerate(steps):
            _fill(columns, at, backend.to_pyarrow(step))
            progress(done + 1, len(steps) + 1)
        if rows:
            _fill(columns, at, local.to_pyarrow(_row_features(rows, used, given, columns)))
        progress(len(steps) + 1, len(steps) + 1)
    return values[: len(names)].T, at


def _checked(column: pa.ChunkedArray) -> Times:
    if column.null_count:
        raise HistoryError("an event without `at` has no place in time")
    at: Times = column.to_numpy()
    if len(at) and at[0] <= 0:
        raise HistoryError("`at` must be above 0: microseconds since 1970-01-01 UTC")
    if np.any(np.diff(at) == 0):
        raise HistoryError("two events have the same `at`; break ties by adding microseconds")
    return at


def _fill(columns: Mapping[str, Floats], at: Times, found: pa.Table) -> None:
    """Put what was found, in any order, in its place."""
    places = np.searchsorted(at, found["at"].to_numpy())
    for name in found.column_names:
        if name != "at":
            columns[name][places] = found[name].to_numpy() + 0.0  # zero has no sign here


# --- what is needed ---------------------------------------------------------------------------


class _Uses:
    """Handed to a row formula in place of its values, notes which it asks for."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __getattr__(self, name: str) -> float:
        self.names.add(name)
        return 1.0


def _needed(names: Sequence[str]) -> tuple[list[Row], list[Window], list[str], bool]:
    """Return the rows asked for, the windows asked for or used by these, the fields of all, and
    whether clusters are looked at."""
    unknown = sorted(set(names).difference(NAMES))
    if unknown:
        raise HistoryError(f"the catalog has no feature called {', '.join(unknown)}")
    rows = [row for row in ROWS if row.name in names]
    uses = _Uses()
    for row in rows:
        row.formula(uses, Numbers)
    windows = [window for window in WINDOWS if window.name in uses.names.union(names)]
    fields = {name for window in windows for name in entities(window)}
    fields |= uses.names.intersection(INPUTS) - {"at", "type_code"}
    if any(window.agg == "sum" for window in windows):
        fields.add("amount")
    fields |= {str(window.what) for window in windows if window.agg in RECENT}
    return rows, windows, sorted(fields), not uses.names.isdisjoint(CLUSTER_INPUTS)


# --- what is given ----------------------------------------------------------------------------


@contextmanager
def _connected(settings: Mapping[str, Any]) -> Iterator[Any]:
    """Open a DuckDB in memory; what does not fit goes to a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        connection = ibis.duckdb.connect(**{"temp_directory": folder, **settings})
        try:
            yield connection
        finally:
            connection.disconnect()


def _opened(
    events: Events, frauds: Events | None, fields: Sequence[str]
) -> tuple[ibis.Table, Any, pa.Table | None]:
    """Return events and frauds as one table of `fields`, the backend that they are in, and the rows
    themselves where that is none: they are in memory."""
    if not isinstance(events, ibis.Table):
        rows = joined(events, frauds, fields)
        return _shaped(ibis.memtable(rows), fields), None, rows
    table = _shaped(events, fields)
    if frauds is not None:
        known = _as_known(frauds)
        known = known if isinstance(known, ibis.Table) else ibis.memtable(known)
        table = table.union(_shaped(known, fields))
    return table, events.get_backend(), None


def joined(
    events: pa.Table | pd.DataFrame, frauds: Events | None, fields: Sequence[str]
) -> pa.Table:
    """Return events and frauds that are in memory as one table of `at`, `type` and those of
    `fields` that are there, as `counted` asks for them: each token is a number.

    Raises HistoryError where the frauds are elsewhere.
    """
    known = None if frauds is None else _as_known(frauds)
    if isinstance(known, ibis.Table):
        raise HistoryError("give events and frauds both as Ibis tables, or both in memory")
    parts = [_coded(_picked(part, fields)) for part in (events, known) if part is not None]
    return _numbered(pa.concat_tables(parts, promote_options="permissive"))


def _as_known(frauds: Events) -> Events:
    """Return what became known with its type: that of the column, a fraud without one."""
    if "type" in (frauds.column_names if isinstance(frauds, pa.Table) else frauds.columns):
        return frauds
    if isinstance(frauds, ibis.Table):
        return frauds.mutate(type=ibis.literal(FRAUD))
    if isinstance(frauds, pd.DataFrame):
        return frauds.assign(type=FRAUD)
    return frauds.append_column("type", pa.array([FRAUD] * len(frauds), type=pa.string()))


def _picked(data: pa.Table | pd.DataFrame, fields: Sequence[str]) -> pa.Table:
    there = data.columns if isinstance(data, pd.DataFrame) else data.column_names
    names = [name for name in ("at", "type", *fields) if name in there]
    if isinstance(data, pd.DataFrame):
        return pa.Table.from_pandas(data[names], preserve_index=False)
    return data.select(names)


def _coded(table: pa.Table) -> pa.Table:
    """Put a code in the place of each type."""
    if pa.types.is_dictionary(table["type"].type):
        return table
    place = table.column_names.index("type")
    return table.set_column(place, "type", table["type"].dictionary_encode())


def _numbered(table: pa.Table) -> pa.Table:
    """Put a number in the place of each token: windows over numbers take half the time."""
    for place, name in enumerate(table.column_names):
        if name in ENTITIES and not pa.types.is_null(table[name].type):
            numbers = [part.indices for part in table[name].dictionary_encode().chunks]
            table = table.set_column(place, name, pa.chunked_array(numbers, pa.int32()))
    return table


def _shaped(table: ibis.Table, fields: Sequence[str]) -> ibis.Table:
    """Return `at`, `type` and `fields`, each of its own type; what is absent is NULL."""
    columns = {"at": table["at"].cast("int64"), "type": table["type"].cast("string")}
    for name in fields:
        kind = "float64" if name in INPUTS and name not in NEWEST else "int64"
        if name not in table.columns or table[name].type().is_null():
            columns[name] = ibis.null().cast(kind)
        elif name in ENTITIES:
            columns[name] = table[name]
        else:
            columns[name] = table[name].cast(kind)
    return table.select(**columns)


def _given(table: ibis.Table) -> ibis.Table:
    """Return the events themselves, with what row features may ask of them, in order of `at`."""
    inputs = [name for name in table.columns if name in INPUTS and name != "at"]
    return table.filter(table["type"].notin(KNOWN)).select("at", "type", *inputs).order_by("at")


# --- clusters ---------------------------------------------------------------------------------


def _with_clusters(
    given: pa.Table, events: Events, clusters: Events | None, backend: Any, local: Any
) -> pa.Table:
    """Add to what is given the cluster of each event's member: the newest found before it."""
    size, frauds = np.full((2, len(given)), np.nan)
    there = events.columns if not isinstance(events, pa.Table) else events.column_names
    if set(CLUSTER_BY).issubset(there) and len(given):
        table = _as_ibis(events, CLUSTER_BY)
        whole = [table[name].notnull() for name in CLUSTER_BY]
        mine = table.filter(table["type"].notin(KNOWN), *whole)
        mine = mine.select("member", at=mine["at"].cast("int64"))
        if clusters is None:
            found = mine.select("at", size=ibis.null("int64"), frauds=ibis.null("int64"))
        else:
            rows = _as_ibis(clusters, ("member", "size", "frauds"))
            rows = rows.select("size", "frauds", of="member", since=rows["at"].cast("int64"))
            if backend.name != local.name:  # the one join that Spark does not have
                mine, rows = (_brought(table, backend) for table in (mine, rows))
                backend = local
            found = mine.asof_join(
                rows, on=mine["at"] > rows["since"], predicates=mine["member"] == rows["of"]
            ).select("at", "size", "frauds")
        alone = [
            found[n].fill_null(v).cast("float64")
            for n, v in zip(("size", "frauds"), ALONE, strict=True)
        ]
        done = backend.to_pyarrow(found.select("at", size=alone[0], frauds=alone[1]))
        _fill({"size": size, "frauds": frauds}, given["at"].to_numpy(), done)
    for name, column in zip(CLUSTER_INPUTS, (size, frauds), strict=True):
        given = given.append_column(name, pa.array(column, from_pandas=True))
    return given


def _brought(table: ibis.Table, backend: Any) -> ibis.Table:
    """Return the table in memory, as the events themselves are by now."""
    return ibis.memtable(backend.to_pyarrow(table))


def _as_ibis(data: Events, fields: Sequence[str]) -> ibis.Table:
    """Return these columns, and the instant, as an Ibis table, tokens as they are."""
    return data if isinstance(data, ibis.Table) else ibis.memtable(_picked(data, fields))


# --- row features -----------------------------------------------------------------------------


def _row_features(
    rows: Sequence[Row],
    windows: Sequence[Window],
    given: pa.Table,
    columns: Mapping[str, Floats],
) -> ibis.Table:
    """Return `at` and `rows`, from the events given and the windows found."""
    for window in windows:
        given = given.append_column(window.name, pa.array(columns[window.name], from_pandas=True))
    table = ibis.memtable(given)
    scope = {name: table[name] for name in table.columns}
    scope["type_code"] = ibis.cases(
        *((table["type"] == name, float(code)) for code, name in enumerate(EVENT_TYPES))
    )
    f = SimpleNamespace(**scope)
    return table.select("at", **{r.name: r.formula(f, Columns).cast("float64") for r in rows})
