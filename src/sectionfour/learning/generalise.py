"""Coarser, until nobody stands alone: how rows become rows that may leave (requirements 6 and 7).

Two steps, k the same in both. What somebody outside could know of an event (its kind, hour of the
week, amount, the account's age) is made coarser along a ladder, all rows alike, as far as needed
for k rows to share every combination; the few that still stand alone are left out. Then, within
each combination, rows are parted into cells of k to 2k - 1 that are alike in everything else, and
each feature becomes its cell's mean. So a whole row, not its quasi-identifiers alone, is shared by
k: full-domain recoding (Samarati, 2001), then median partition (LeFevre, DeWitt, Ramakrishnan,
"Mondrian Multidimensional K-Anonymity", 2006) and microaggregation. No clock, no store.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from sectionfour.domain import DAY, HOUR, WEEK

Matrix = NDArray[np.float64]
Codes = NDArray[np.int64]

#: What is missing is a value of its own: who refused is with the others who did.
MISSING = -1
AMOUNT_BUCKETS = 64
#: Account ages end a band at so many days.
AGE_DAYS = (1, 7, 30, 90, 365, 1095)

#: A quasi-identifier's steps, finest first: by how much its code is divided; 0 takes it away.
LADDERS: dict[str, tuple[int, ...]] = {
    "kind": (1, 0),
    "hour_of_week": (1, 3, 6, 12, 24, 0),
    "account_age": (1, 2, 0),
    "amount": (1, 2, 4, 8, 16, 0),
}
#: What a bit of each is worth to whoever learns from it: of the hour features tell enough.
WORTH = {"kind": 1.0, "hour_of_week": 0.2, "account_age": 1.0, "amount": 1.0}


def amount_bucket(amount: Matrix) -> Codes:
    """Return a bucket of its logarithm for each amount (minor units), at most 64 of them.

    >>> amount_bucket(np.array([0.0, 99.0, 100.0, 1e12, np.nan])).tolist()
    [0, 10, 10, 63, -1]
    """
    bucket = np.floor(np.log2(1 + np.nan_to_num(amount)) * 1.6)
    return np.where(np.isnan(amount), MISSING, np.minimum(bucket, AMOUNT_BUCKETS - 1)).astype(int)


def age_band(seconds: Matrix) -> Codes:
    """Return which band of AGE_DAYS an account's age falls into."""
    band = np.searchsorted(np.array(AGE_DAYS) * 86_400.0, np.nan_to_num(seconds), side="right")
    return np.where(np.isnan(seconds), MISSING, band).astype(np.int64)


def hour_of_week(at: Codes, offset_days: int) -> Codes:
    """Return 0 to 167, of a week that begins on a day which nobody is told (microseconds in)."""
    found: Codes = (at + offset_days * DAY) % WEEK // HOUR
    return found


@dataclass(frozen=True, slots=True)
class Generalised:
    """`kept` are the places of the rows that stay; all else has a row for each of them."""

    kept: NDArray[np.intp]
    quasi: dict[str, Codes]
    features: Matrix
    cells: NDArray[np.intp]  # which rows are alike
    steps: dict[str, int]
    suppressed: int

    @property
    def table(self) -> Matrix:
        """All columns as numbers, quasi-identifiers first."""
        return np.column_stack([*self.quasi.values(), self.features]).astype(np.float64)


def generalised(
    quasi: dict[str, Codes], features: Matrix, *, k: int = 20, suppress: float = 0.02
) -> Generalised:
    """Return rows of which each is shared by `k`, leaving out at most `suppress` of them.

    Of all steps that do, those are taken that tell the most, in bits weighed by WORTH.
    Where there are no k rows at all, none is left.
    """
    best: tuple[float, dict[str, int], NDArray[np.intp]] | None = None
    for steps in _lattice(quasi):
        classes = _classes([coarser(quasi[name], step) for name, step in steps.items()])
        sizes = np.bincount(classes)
        if sizes[sizes < k].sum() > suppress * len(classes):
            continue
        told = sum(WORTH[name] * _bits(coarser(quasi[name], step)) for name, step in steps.items())
        if best is None or told > best[0]:
            best = told, steps, classes
    if best is None:
        steps, classes = dict.fromkeys(quasi, 0), np.zeros(len(features), dtype=np.intp)
    else:
        _, steps, classes = best
    sizes = np.bincount(classes, minlength=1)
    kept = np.flatnonzero(sizes[classes] >= k)
    cells = _cells(classes[kept], _ranks(features[kept]), k)
    return Generalised(
        kept=kept,
        quasi={name: coarser(quasi[name], step)[kept] for name, step in steps.items()},
        features=_means(features[kept], cells),
        cells=cells,
        steps=steps,
        suppressed=len(features) - len(kept),
    )


def coarser(codes: Codes, step: int) -> Codes:
    """Return codes divided by `step`; what is missing stays so, and at step 0 all is missing."""
    if step == 0:
        return np.full(len(codes), MISSING)
    return np.where(codes == MISSING, MISSING, codes // step)


def _bits(codes: Codes) -> float:
    share = np.unique(codes, return_counts=True)[1] / max(1, len(codes))
    return float(-(share * np.log2(share)).sum())


def _lattice(quasi: dict[str, Codes]) -> Iterator[dict[str, int]]:
    for steps in product(*(LADDERS[name] for name in quasi)):
        yield dict(zip(quasi, steps, strict=True))


def _classes(columns: list[Codes]) -> NDArray[np.intp]:
    """Return the number of each row's combination."""
    joined = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        joined = joined * (int(column.max(initial=0)) + 2) + column + 1
    found: NDArray[np.intp] = np.unique(joined, return_inverse=True)[1].astype(np.intp)
    return found


def _ranks(features: Matrix) -> Matrix:
    """Return each value's rank in its column, 0 to 1, equal where values are; missing is -0.5."""
    ranks = np.full(features.shape, -0.5)
    for column in range(features.shape[1]):
        given = ~np.isnan(features[:, column])
        values, where, counts = np.unique(
            features[given, column], return_inverse=True, return_counts=True
        )
        if len(values) > 1:
            middle = np.cumsum(counts) - counts / 2
            ranks[given, column] = (middle / counts.sum())[where]
        else:
            ranks[given, column] = 0.5
    return ranks


def _cells(classes: NDArray[np.intp], ranks: Matrix, k: int) -> NDArray[np.intp]:
    """Return the cell of each row: parts of its class that hold k rows or more."""
    cells = np.zeros(len(classes), dtype=np.intp)
    order = np.argsort(classes, kind="stable")
    open_parts = np.split(order, np.flatnonzero(np.diff(classes[order])) + 1)
    number = 0
    while open_parts:
        part = open_parts.pop()
        halves = _halves(part, ranks, k)
        if halves is None:
            cells[part] = number
            number += 1
        else:
            open_parts.extend(halves)
    return cells


def _halves(
    part: NDArray[np.intp], ranks: Matrix, k: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]] | None:
    """Part rows where they differ most and k are left on each side; None where none can be."""
    if len(part) < 2 * k:
        return None
    mine = ranks[part]
    spread = mine.std(axis=0)
    for column in np.argsort(-spread)[:8]:
        if spread[column] == 0:
            return None
        values = mine[:, column]
        for left in (values <= np.median(values), values < np.median(values)):
            if k <= left.sum() <= len(part) - k:
                return part[left], part[~left]
    return None


def _means(features: Matrix, cells: NDArray[np.intp]) -> Matrix:
    """Return each cell's mean in place of its rows' values; missing where most of them are."""
    if not len(cells):
        return features
    number = int(cells.max()) + 1
    rows = np.bincount(cells, minlength=number)
    found = np.empty_like(features)
    for column in range(features.shape[1]):
        values = features[:, column]
        given = ~np.isnan(values)
        count = np.bincount(cells[given], minlength=number)
        total = np.bincount(cells[given], weights=values[given], minlength=number)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(2 * count > rows, total / count, np.nan)
        # Rounded to float32: the last bits of a sum tell of the order of its rows.
        found[:, column] = mean.astype(np.float32)[cells]
    return found
