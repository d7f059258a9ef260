"""The catalog, over the past: every feature as of each event, as Ibis expressions.

On DuckDB here, on Spark where that is outgrown: no expression below is DuckDB's own. Every window
is a plain SQL window over integers, turned into a float last and the same way as online, so both
agree to the bit. No store, no model, no gate: what may be learnt from is picked after this, never
before, for an event that may not be learnt from still formed the windows of others.

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
from typing import Any

import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from sectionfour.domain import EVENT_TYPES, FRAUD
from sectionfour.errors import HistoryError
from sectionfour.features.catalog import (
    DAY,
    DISTINCT_CAP,
    ENTITIES,
    FEATURES,
    HOUR,
    INPUTS,
    NAMES,
    SECOND,
    SQUARED_CAP,
    STREAMS,
    WINDOWS,
    Row,
    Window,
)

Events = ibis.Table | pa.Table | pd.DataFrame
Floats = NDArray[np.float64]
Times = NDArray[np.int64]

_BY_NAME = dict(zip(NAMES, FEATURES, strict=True))
_GIVEN = frozenset(INPUTS) - {"at", "type_code"}


def compute(
    events: Events,
    frauds: Events | None = None,
    *,
    only: Sequence[str] | None = None,
    duckdb: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> tuple[Floats, Times]:
    """Return the features of each event, shape (events, features), and the `at` of each row.

    `events` has columns named as the fields of `domain.Event`: `at` in microseconds, above 0 and
    unique; `type`; tokens, of any type with equality. What is absent is missing throughout.
    `frauds` has the same columns but `type`: known frauds, at the instant at which each became
    known, with the tokens of the event that it is about. They form windows and have no row.

    Rows are in order of `at`. Columns are the catalog's, or `only` in its order; missing is NaN.
    Data in memory is computed on a DuckDB of its own, with the settings given in `duckdb`
    (`memory_limit`, `temp_directory`, `threads`); an Ibis table by the backend that it lives in.
    `progress(done, total)` is called after each step.

    Raises HistoryError for an unknown feature and for an `at` that is missing or there twice.
    """
    names = NAMES if only is None else tuple(only)
    rows, windows, fields = _needed(names)
    with _connected(duckdb) as local:
        table, backend = _opened(events, frauds, fields, local)
        at, seen = _survey(table, fields, backend)
        steps = list(_steps(table, [w for w in windows if seen.issuperset(_entities(w))]))
        # Columns are filled one by one, so each is one piece of memory.
        wanted = dict.fromkeys((*names, *(w.name for w in windows)))
        values = np.full((len(wanted), len(at)), np.nan)
        columns = dict(zip(wanted, values, strict=True))
        for done, step in enumerate(steps):
            _fill(columns, at, backend.to_pyarrow(step))
            progress(done + 1, len(steps) + 1)
        if rows:
            _fill(columns, at, local.to_pyarrow(_row_features(rows, table, columns, at, backend)))
        progress(len(steps) + 1, len(steps) + 1)
    return values[: len(names)].T, at


# --- what is needed ---------------------------------------------------------------------------


class _Uses:
    """Handed to a row formula in place of its values, notes which it asks for."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __getattr__(self, name: str) -> float:
        self.names.add(name)
        return 1.0


def _uses(row: Row) -> set[str]:
    uses = _Uses()
    row.formula(uses, Columns(lambda a, b=1.0: a))
    return uses.names
