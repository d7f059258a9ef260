"""The catalog, over the past: every feature as of each event, as Ibis expressions.

On DuckDB here, on Spark where that is outgrown: nothing below is DuckDB's own. Every window is a
plain SQL window over integers, converted to a float at the very end and in the same way as online,
so both agree to the bit. No store, no model, no gate: what may be learnt from is filtered by the
caller after this, never before, for such events still formed the windows of others.

A distinct count is the one aggregate that SQL windows lack (Spark refuses it, DuckDB builds a tree
for it). It is a running count instead: an event x stands for its `what` from just after x.at until
the same pair is seen again or `over` is past, whichever comes first, so that at each instant every
`what` in the window is stood for once; each x adds one where it begins and takes one away where it
ends, and the sum of these steps before e is the count.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
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

_WINDOWS = {window.name: window for window in WINDOWS}
_FEATURES = dict(zip(NAMES, FEATURES, strict=True))
_GIVEN = tuple(name for name in INPUTS if name not in {"at", "type_code"})


def compute(
    events: Events,
    frauds: Events | None = None,
    *,
    only: Sequence[str] | None = None,
    backend: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the features of each event, (events, features), and each row's `at`, in its order.

    `events` has columns named as the fields of `domain.Event`; an absent one is missing throughout.
    `at` is in microseconds, above 0 and unique; tokens may be of any type that can be compared.
    `frauds` are the known frauds, each at the instant at which it became known, with the tokens
    of the event it is about: they form windows and have no row. Both are of one kind: in memory, or
    tables of one Ibis backend.

    Columns are those of the catalog, or `only` and in that order; missing is NaN. `backend` is the
    Ibis connection that data in memory is loaded into; its memory limit and folder for what
    does not fit are set there. Without one, a DuckDB of its own. `progress(done, total)` is called
    after each step.

    Raises HistoryError where `at` is not unique or not there.
    """
    names = NAMES if only is None else tuple(only)
    windows = _needed(names)
    fields = _fields(names, windows)
    with ExitStack() as stack:
        table = stack.enter_context(_opened(events, frauds, fields, backend))
        at, known = _surveyed(table, fields)
        # Where an entity never occurs its windows are missing, and cost nothing.
        present = [w for w in windows if w.by in known and (w.what not in ENTITIES or w.what in known)]
        steps = _steps(table, present)
        parts = []
        for done, step in enumerate(steps):
            parts.append(stack.enter_context(step.cache()))
            if progress is not None:
                progress(done + 1, len(steps) + 1)
        values = _gathered(_joined(table, parts, windows, names), at, names)
        if progress is not None:
            progress(len(steps) + 1, len(steps) + 1)
    return values, at


# --- what is needed ---------------------------------------------------------------------------


class _Uses:
    """Handed to a row formula in place of values, notes which it asks for."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __getattr__(self, name: str) -> float:
        self.names.add(name)
        return 1.0


def _uses(row: Row) -> set[str]:
    uses = _Uses()
    row.formula(uses, _Any())
    return uses.names


class _Any:
    """`Operations` that do nothing."""

    def __getattr__(self, name: str) -> Callable[..., float]:
        return lambda *_: 1.0


def _needed(names: Sequence[str]) -> list[Window]:
    """Return the windows that are asked for, or that a row feature asked for is made from."""
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        raise HistoryError(f"the catalog has no feature called {', '.join(unknown)}")
    used = set(names)
    for name in names:
        feature = _FEATURES[name]
        if isinstance(feature, Row):
            used |= _uses(feature)
    return [window for window in WINDOWS if window.name in used]


def _fields(names: Sequence[str], windows: Sequence[Window]) -> dict[str, str]:
    """Return the columns to read, and what each is: entity, amount or number."""
    fields: dict[str, str] = {}
    for window in windows:
        fields[window.by] = "entity"
        if window.what in ENTITIES:
            fields[window.what] = "entity"
        elif window.what is not None:
            fields["amount"] = "number"
    for name in names:
        feature = _FEATURES[name]
        if isinstance(feature, Row):
            fields |= dict.fromkeys(_uses(feature).intersection(_GIVEN), "number")
    return fields
