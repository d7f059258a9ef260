"""The catalog, over the past: every feature as of each event, as Ibis expressions.

On DuckDB here, on Spark where that is outgrown: every window is an expression that both have, a
plain SQL window over integers, turned into a float last and the same way as online, so all agree to
the bit. Row formulas, and the join of clusters, which Spark lacks, are computed in memory, and so
are counts and sums of data that is there already (`counted`). No store, no model, no gate: what may
be learnt from is picked after this, never before, for an event that may not be learnt from still
formed the windows of others.

The one aggregate that SQL windows lack is a distinct count over a range (Spark refuses it). Here it
is a running sum: an event stands for its `what` from just after its `at` until the same pair is
seen again or `over` is past, whichever comes first. So at each instant every `what` in the window
is stood for exactly once; an event adds one where it begins to stand and takes one away where it
ends, and the sum of the steps before e is the count.
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
    DAY,
    DISTINCT_CAP,
    ENTITIES,
    HOUR,
    INPUTS,
    NAMES,
    NEWEST,
    RECENT,
    ROWS,
    RUNS,
    SECOND,
    SQUARED_CAP,
    STREAMS,
    WINDOWS,
    Numbers,
    Row,
    Window,
    distance,
)

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
        steps = _steps(table, windows, backend)
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
    fields = {name for window in windows for name in _entities(window)}
    fields |= uses.names.intersection(INPUTS) - {"at", "type_code"}
    if any(window.agg == "sum" for window in windows):
        fields.add("amount")
    fields |= {str(window.what) for window in windows if window.agg in RECENT}
    return rows, windows, sorted(fields), not uses.names.isdisjoint(CLUSTER_INPUTS)


def _entities(window: Window) -> tuple[str, ...]:
    return (window.by, window.what) if window.what in ENTITIES else (window.by,)


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


# --- windows ----------------------------------------------------------------------------------


def _steps(table: ibis.Table, windows: Sequence[Window], backend: Any) -> list[ibis.Table]:
    """Return tables of `at` and windows: one for each entity, one for each distinct count.

    An entity that never occurs has none: its windows are missing, and cost nothing.
    """
    entities = sorted({name for window in windows for name in _entities(window)})
    if not entities:
        return []
    counts = table.aggregate(**{name: table[name].count() for name in entities})
    seen = {name for name, count in backend.to_pyarrow(counts).to_pylist()[0].items() if count}
    found = [window for window in windows if seen.issuperset(_entities(window))]
    plain: dict[str, list[Window]] = {}
    recent: dict[tuple[str, int, str], list[Window]] = {}
    for window in found:
        if window.agg in RECENT:
            recent.setdefault((window.of, window.over, str(window.what)), []).append(window)
        elif window.agg != "distinct":
            plain.setdefault(window.by, []).append(window)
    return [
        *(_of_entity(table, by, group) for by, group in plain.items()),
        *(_distinct(table, window) for window in found if window.agg == "distinct"),
        *(_recent(table, group) for group in recent.values()),
    ]


def _of_entity(table: ibis.Table, by: str, windows: Sequence[Window]) -> ibis.Table:
    """Return `at` and `windows`, of entity `by`, where the event has one: sorted once for all."""
    mine = table.filter(table[by].notnull())
    for of, what in sorted({(w.of, str(w.what)) for w in windows if w.agg in RUNS}):
        mine = _with_runs(mine, by, of, what)
    found = mine.select("at", "type", **{w.name: _window(mine, w) for w in windows})
    return found.filter(found["type"].notin(KNOWN)).drop("type")


def _window(table: ibis.Table, window: Window) -> ibis.Value:
    at = table["at"]
    inside = _inside(table, window.of)
    if window.agg == "age":
        pair = _entities(window)
        # Who has an earlier event in the stream has a first one that is earlier, and none else.
        first = inside.ifelse(at, None).min().over(ibis.window(group_by=pair))
        age = (first < at).fill_null(False).ifelse(at - first, 0).cast("float64") / SECOND
        missing = ibis.or_(*(table[name].isnull() for name in pair))
        return missing.ifelse(None, age)
    frame = ibis.window(group_by=window.by, order_by="at", range=(1 - window.over, -1))
    if window.agg in RUNS:
        # Both the run and the window reach back from the event: what is in both is the shorter.
        within = inside.ifelse(1, None).count().over(frame)
        whole = table[f"run of {window.of} after {window.what}"]
        run = (whole < within).ifelse(whole, within)
        if window.agg == "run":
            return run.cast("float64")
        begins = table[f"{window.of} begins after {window.what}"].ifelse(at, None)
        begun = begins.max().over(ibis.window(group_by=window.by, order_by="at", range=(None, -1)))
        cut = inside.ifelse(at, None).min().over(frame)
        first = (begun > at - window.over).fill_null(False).ifelse(begun, cut)
        return (run > 0).ifelse(at - first, None).cast("float64") / SECOND
    if window.agg == "since_last":
        last = inside.ifelse(at, None).max().over(frame)
        return (at - last).fill_null(window.over).cast("float64") / SECOND
    if window.agg == "count":
        return inside.ifelse(1, None).count().over(frame).cast("float64")
    amount = table["amount"]
    if window.what == "amount_sq":
        amount = (amount > SQUARED_CAP).ifelse(SQUARED_CAP, amount)
        amount = amount * amount
    return inside.ifelse(amount, None).sum().over(frame).fill_null(0).cast("float64")


def _with_runs(table: ibis.Table, by: str, of: str, what: str) -> ibis.Table:
    """Add to each event how many of `of` are since the newest of `what`, and whether it is of `of`
    and the first since.

    The count of `of` up to an event of `what` only grows: its largest so far is the newest one's.
    """
    earlier, until = (ibis.window(group_by=by, order_by="at", range=(None, end)) for end in (-1, 0))
    ones = _inside(table, of).ifelse(1, None)
    counted = table.mutate(before=ones.count().over(earlier), upto=ones.count().over(until))
    ended = _inside(counted, what).ifelse(counted["upto"], None).max().over(earlier).fill_null(0)
    run = counted.mutate(run=counted["before"] - ended).drop("before", "upto")
    return run.mutate(first=_inside(run, of) & (run["run"] == 0)).rename(
        {f"run of {of} after {what}": "run", f"{of} begins after {what}": "first"}
    )


def _inside(table: ibis.Table, stream: str) -> ibis.Value:
    return table["type"].isin(sorted(STREAMS[stream]))


def _distinct(table: ibis.Table, window: Window) -> ibis.Table:
    """Return `at` and a distinct count, where the event has both of the pair."""
    by, what = window.by, str(window.what)
    seen = table.filter(table[by].notnull(), table[what].notnull())
    inside = seen.filter(_inside(seen, window.of))
    again = inside["at"].lead().over(ibis.window(group_by=(by, what), order_by="at"))
    past = inside["at"] + (window.over - 1)
    # Steps in order: an event asks at 2 at, before anything that ends there is gone; it begins
    # to stand at the same step, which is not before it. What is no event never asks.
    asks = seen["type"].notin(KNOWN)
    begins = seen.select(
        by,
        at=asks.ifelse(seen["at"], None),
        place=2 * seen["at"] + asks.ifelse(0, 1),
        step=_inside(seen, window.of).ifelse(1, 0),
    )
    ends = inside.select(
        by,
        at=ibis.null().cast("int64"),
        place=2 * ((again < past).fill_null(False).ifelse(again, past)) + 1,
        step=ibis.literal(-1).cast(begins["step"].type()),
    )
    steps = begins.union(ends)
    before = ibis.window(group_by=by, order_by="place", rows=(None, -1))
    count = steps["step"].sum().over(before).fill_null(0)
    capped = (count > DISTINCT_CAP).ifelse(DISTINCT_CAP, count).cast("float64")
    found = steps.select("at", **{window.name: capped})
    return found.filter(found["at"].notnull())


def _recent(table: ibis.Table, windows: Sequence[Window]) -> ibis.Table:
    """Return `at` and `windows`, all of the same newest ones, where the event has their `what`.

    Those that have it are numbered by entity; an event is joined to the newest before it, which
    has the values of those before itself beside its own.
    """
    by, of, what, over = windows[0].by, windows[0].of, str(windows[0].what), windows[0].over
    mine = table.filter(table[by].notnull())
    here = _inside(mine, of) & mine[what].notnull()
    earlier = ibis.window(group_by=by, order_by="at", range=(None, -1))
    mine = mine.mutate(number=here.ifelse(1, None).count().over(earlier))
    kept = mine.filter(_inside(mine, of), mine[what].notnull())
    order = ibis.window(group_by=by, order_by="at")
    values = {}
    for n in range(NEWEST[what]):
        values[f"at_{n}"] = kept["at"].lag(n).over(order) if n else kept["at"]
        values[f"value_{n}"] = kept[what].lag(n).over(order) if n else kept[what]
    kept = kept.select(whose=by, newest=kept["number"] + 1, **values)
    asks = mine.filter(mine["type"].notin(KNOWN), mine[what].notnull())
    asks = asks.select("at", "number", asked=what, who=by)
    both = asks.left_join(kept, [asks["who"] == kept["whose"], asks["number"] == kept["newest"]])

    def counted(kind: str) -> Any:
        total = ibis.literal(0)
        for n in range(NEWEST[what]):
            value, asked = both[f"value_{n}"], both["asked"]
            matches = (value < asked) if kind == "below" else (value > asked)
            inside = matches & (both[f"at_{n}"] > both["at"] - over)
            total = total + inside.fill_null(False).ifelse(1, 0)
        return total.cast("float64")

    def placed(kind: str) -> Any:
        inside = both["at_0"] > both["at"] - over
        if kind == "distance":
            found = distance(both["value_0"], both["asked"], Columns).cast("float64")
        else:
            found = (both["at"] - both["at_0"]).cast("float64") / SECOND
        return inside.ifelse(found, None)

    kind_of = counted if what == "amount" else placed
    return both.select("at", **{w.name: kind_of(w.agg) for w in windows})


# --- row features -----------------------------------------------------------------------------


class Columns:
    """`Operations` on Ibis columns, NULL for missing."""

    @staticmethod
    def div(a: Any, b: Any) -> Any:
        return a / b.nullif(0)

    @staticmethod
    def sqrt(a: Any) -> Any:
        return ibis.cases((a > 0, a), (a <= 0, 0.0)).sqrt()

    @staticmethod
    def is_zero(a: Any) -> Any:
        return (a == 0).cast("float64")

    @staticmethod
    def less(a: Any, b: Any) -> Any:
        return (a < b).cast("float64")

    @staticmethod
    def hour(at: Any) -> Any:
        # By remainders: SQL dialects differ in how they divide whole numbers, but not in this.
        return (at % DAY - at % HOUR) / HOUR


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
