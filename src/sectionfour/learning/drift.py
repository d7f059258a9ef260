"""Has what comes in changed since a model was fitted? Population stability, and what chance makes.

The training period is kept as histograms beside the card: a feature's over the rows that the model
learnt from and was chosen by, the score's over the test rows, which it had not seen. A row of today
falls into the same bins, of which the last is for missing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from sectionfour.features.catalog import FEATURES, NAMES, WINDOWS

Floats = NDArray[np.float64]
Histogram = dict[str, list[float]]
#: Customary bounds (Siddiqi, "Credit Risk Scorecards", 2006): below the first no change worth
#: speaking of; above the second the model should be looked at.
SOME, MUCH = 0.1, 0.25
#: Fewer rows than this tell nothing of drift.
LEAST_ROWS = 200
#: Seconds since something was first seen grow with the history itself.
AGES = frozenset({"account_age", *(w.name for w in WINDOWS if w.agg == "age")})
_DECILES = np.linspace(0.1, 0.9, 9)


def histogram(values: Floats, edges: Sequence[float] | None = None) -> Histogram:
    """Return how many values fall into each bin: up to the first edge, ..., above the last,
    missing. Without `edges`, the deciles of what is there, as far as they differ.
    """
    there = values[~np.isnan(values)]
    if edges is None:
        edges = np.unique(np.quantile(there, _DECILES)).tolist() if len(there) else []
    bins = np.searchsorted(edges, there, side="left")
    counts = np.bincount(bins, minlength=len(edges) + 1).tolist()
    return {"edges": list(edges), "counts": [*counts, int(len(values) - len(there))]}


def reference(rows: Floats, places: Sequence[int], scores: Floats) -> dict[str, Any]:
    """Return the histograms of a training period; `places` are the catalog's of the columns."""
    return {
        "scores": histogram(scores),
        "features": {
            NAMES[place]: histogram(column) for place, column in zip(places, rows.T, strict=True)
        },
    }


def stability(expected: Sequence[float], actual: Sequence[float]) -> dict[str, float]:
    """Return the population stability index of two histograms, and what chance alone stays below
    in 95 of 100 cases where nothing has changed. 0 is no change; it has no upper end.

    PSI = sum of (a - e) ln(a / e) over bins, half a row added to each. Without change it is about
    (1/n + 1/m) times a chi-squared of bins - 1 degrees of freedom: Yurdakul, "Statistical
    Properties of Population Stability Index" (2018). Bins that both leave empty do not count.
    """
    pair = np.array([expected, actual], dtype=np.float64)
    pair = pair[:, pair.sum(axis=0) > 0]
    sizes = pair.sum(axis=1)
    e, a = (pair + 0.5) / (pair + 0.5).sum(axis=1, keepdims=True)
    freedom = max(1, pair.shape[1] - 1)
    return {
        "psi": round(float(((a - e) * np.log(a / e)).sum()), 5),
        "chance": round(float(chi2.ppf(0.95, freedom) * (1 / sizes).sum()), 5),
    }


def measure(
    before: Mapping[str, Any], rows: Floats, places: Sequence[int], scores: Floats
) -> dict[str, Any]:
    """Return the stability of the scores, and of each feature under the categories it needs.

    A category's is that of its worst feature, ages left aside: a device seen once is older every
    day, whatever changes. `missing` are the shares of rows without that feature, then and now.
    """
    categories: dict[str, dict[str, Any]] = {}
    for place, column in zip(places, rows.T, strict=True):
        was = before["features"][NAMES[place]]
        now = histogram(column, was["edges"])
        said = stability(was["counts"], now["counts"]) | {
            "missing": [
                round(counts[-1] / sum(counts), 5) for counts in (was["counts"], now["counts"])
            ]
        }
        for category in FEATURES[place].needs:
            categories.setdefault(category, {})[NAMES[place]] = said
    was = before["scores"]
    now = histogram(scores, was["edges"])
    return {
        "rows": len(rows),
        "scores": stability(was["counts"], now["counts"])
        | {"then": was["counts"], "now": now["counts"], "edges": was["edges"]},
        "categories": {
            category: {
                "worst": (worst := max(_steady(features), key=lambda name: features[name]["psi"])),
                "psi": features[worst]["psi"],
                "features": features,
            }
            for category, features in sorted(categories.items())
        },
    }


def _steady(names: Collection[str]) -> Collection[str]:
    """Return the features that are no ages; all where there are no others."""
    return [name for name in names if name not in AGES] or names


def verdict(psi: float, chance: float) -> str:
    """Return what a stability index says in a word.

    >>> verdict(0.3, 0.02), verdict(0.15, 0.02), verdict(0.3, 0.4), verdict(0.01, 0.02)
    ('much', 'some', 'none', 'none')
    """
    if psi <= max(SOME, chance):
        return "none"
    return "some" if psi <= max(MUCH, chance) else "much"
