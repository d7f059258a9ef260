"""The windows of the catalog as Ibis expressions, tables of `at` and what they say.

The one aggregate that SQL windows lack is a distinct count over a range (Spark refuses it). Here it
is a running sum: an event stands for its `what` from just after its `at` until the same pair is
seen again or `over` is past, whichever comes first. So at each instant every `what` in the window
is stood for exactly once; an event adds one where it begins to stand and takes one away where it
ends, and the sum of the steps before e is the count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ibis

from sectionfour.domain import DAY, HOUR, KNOWN, SECOND
from sectionfour.features.catalog import (
    DISTINCT_CAP,
    ENTITIES,
    NEWEST,
    RECENT,
    RUNS,
    SQUARED_CAP,
    STREAMS,
    Window,
    distance,
)


def entities(window: Window) -> tuple[str, ...]:
    """Return whose tokens an event must have, for the window not to be missing."""
    return (window.by, window.what) if window.what in ENTITIES else (window.by,)


def in_steps(table: ibis.Table, windows: Sequence[Window], backend: Any) -> list[ibis.Table]:
    """Return tables of `at` and windows: one for each entity, one for each distinct count.

    An entity that never occurs has none: its windows are missing, and cost nothing.
    """
    asked = sorted({name for window in windows for name in entities(window)})
    if not asked:
        return []
    counts = table.aggregate(**{name: table[name].count() for name in asked})
    seen = {name for name, count in backend.to_pyarrow(counts).to_pylist()[0].items() if count}
    found = [window for window in windows if seen.issuperset(entities(window))]
    plain: dict[str, list[Window]] = {}
    recent: dict[tuple[str, int, str], list[Window]] = {}
    for window in found:
        if window.agg in RECENT:
            recent.setdefault((window.of, window.over, str(window.what)), []).append(window)
        elif window.agg != "distinct":
            plain.setdefault(window.by, []).append(window)
    return [
        *(of_entity(table, by, group) for by, group in plain.items()),
        *(distinct(table, window) for window in found if window.agg == "distinct"),
        *(_recent(table, group) for group in recent.values()),
    ]


def of_entity(table: ibis.Table, by: str, windows: Sequence[Window]) -> ibis.Table:
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
        pair = entities(window)
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


def distinct(table: ibis.Table, window: Window) -> ibis.Table:
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
