"""So that refusing costs nothing on average: an offset for each pattern of missing categories.

A model that sees less of an event is less sure of it, and an honest event's score then moves
towards the mean: upwards. For each set of missing categories an offset on the log-odds is chosen
here so that honest held-out events score the same on average without what is missing as with it.
What is held out for this is not what the model is judged on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from sectionfour.learning import dataset

Matrix = NDArray[np.float64]
#: With fewer rows than this an offset is not known by itself, and is the sum of its categories'.
FEWEST = 100
#: No offset is larger than this, in log-odds.
LARGEST = 3.0


def groups(columns: Sequence[int]) -> list[NDArray[np.intp]]:
    """Return the positions within `columns` of each maskable category that has any."""
    found = [dataset.columns_of(category, columns) for category in dataset.MASKABLE]
    return [places for places in found if len(places)]


def patterns(matrix: Matrix, columns: Sequence[int]) -> NDArray[np.int64]:
    """Return, a row, which categories are missing: bit i for the i-th of `groups`."""
    missing = np.isnan(matrix)
    bits = [missing[:, places].all(axis=1) << i for i, places in enumerate(groups(columns))]
    return np.sum(bits, axis=0, dtype=np.int64) if bits else np.zeros(len(matrix), np.int64)


def offsets(log_odds: Callable[[Matrix], Matrix], honest: Matrix, columns: Sequence[int]) -> Matrix:
    """Return what to add to the log-odds of each pattern, by its number; 0 for the commonest.

    `honest` are rows known to be honest, as they came: what they lack was never provided, which is
    the same as refused. A pattern's offset makes those of them that lack less score the same on
    average when they are masked to it, the offsets of what they lack already being counted.
    """
    places = groups(columns)
    found = np.zeros(1 << len(places))
    came = patterns(honest, columns)
    alone = np.zeros(len(places))
    plain = log_odds(honest)
    for i in range(len(places)):
        rows = (came >> i & 1) == 0
        if rows.sum() >= FEWEST:
            target = _probability(plain[rows]).mean()
            alone[i] = _shift(log_odds(_without(honest[rows], places, 1 << i)), target)
    for pattern in sorted(range(1, 1 << len(places)), key=int.bit_count):
        rows = ((came | pattern) == pattern) & (came != pattern)
        if rows.sum() < FEWEST:
            found[pattern] = sum(alone[i] for i in range(len(places)) if pattern >> i & 1)
            continue
        target = _probability(plain[rows] + found[came[rows]]).mean()
        found[pattern] = _shift(log_odds(_without(honest[rows], places, pattern)), target)
    commonest = np.bincount(came, minlength=len(found)).argmax()
    against: Matrix = found - found[commonest]
    return against


def _without(rows: Matrix, places: Sequence[NDArray[np.intp]], pattern: int) -> Matrix:
    rows = rows.copy()
    for i, columns in enumerate(places):
        if pattern >> i & 1:
            rows[:, columns] = np.nan
    return rows


def _probability(log_odds: Matrix) -> Matrix:
    found: Matrix = 1 / (1 + np.exp(-log_odds))
    return found


def _shift(log_odds: Matrix, target: float) -> float:
    """Return what to add for the mean probability to be `target`; it rises with what is added."""
    low, high = -LARGEST, LARGEST
    for _ in range(40):
        middle = (low + high) / 2
        if float(_probability(log_odds + middle).mean()) < target:
            low = middle
        else:
            high = middle
    return (low + high) / 2
