"""Has what comes in changed since a model was fitted? Population stability, and what chance makes.

The training period is kept as histograms beside the card: a feature's over the rows that the model
learnt from, the score's over the newest of them, its test. A row of today falls into the same bins,
of which the last is for missing.

A young past moves by itself: windows fill, a market grows, payees come to have known frauds. So the
newest days of the training period are kept apart, too, and what they already were apart from all of
it is `usual`: only what is further apart than that, and than chance makes it, is drift.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from sectionfour.domain import DAY
from sectionfour.features.catalog import FEATURES, NAMES, WINDOWS, YEAR
from sectionfour.learning.intervals import Clusters

Floats = NDArray[np.float64]
Histogram = Mapping[str, Any]
#: Customary bounds (Siddiqi, "Credit Risk Scorecards", 2006): below the first no change worth
#: speaking of; above the second the model should be looked at.
SOME, MUCH = 0.1, 0.25
#: So many of the newest days tell how far apart a month and the whole usually are.
NEWEST_DAYS = 30
#: Fewer rows than this tell nothing of drift.
LEAST_ROWS = 200
#: What grows with the history itself, whatever changes: seconds since something was first seen, and
#: windows so long that they are still filling when a model is fitted.
GROWING = frozenset(
    {
        "account_age",
        *(w.name for w in WINDOWS if w.agg in {"age", "run_age"} or w.over >= YEAR),
    }
)
_DECILES = np.linspace(0.1, 0.9, 9)


def histogram(
    values: Floats,
    clusters: Clusters,
    edges: Sequence[float] | None = None,
    newest: NDArray[np.bool_] | None = None,
) -> Histogram:
    """Return how many values fall into each bin: up to the first edge, ..., above the last,
    missing. Without `edges`, the deciles of what is there, as far as they differ.

    `worth` is how many rows on their own would tell as much: those of one cluster are alike.
    `newest` counts some of the rows by themselves.
    """
    missing = np.isnan(values)
    if edges is None:
        there = values[~missing]
        edges = np.unique(np.quantile(there, _DECILES)).tolist() if len(there) else []
    bins = np.where(missing, len(edges) + 1, np.searchsorted(edges, values, side="left"))
    counts = np.bincount(bins, minlength=len(edges) + 2)
    worth = len(values) / _design_effect(bins, counts, clusters) if len(values) else 0.0
    found = {"edges": list(edges), "counts": counts.tolist(), "worth": round(worth, 1)}
    if newest is not None:
        found["newest"] = np.bincount(bins[newest], minlength=len(edges) + 2).tolist()
    return found


def _design_effect(bins: NDArray[np.intp], counts: NDArray[np.intp], clusters: Clusters) -> float:
    """Return by how much more the shares of bins vary than those of rows on their own; 1 at least.

    The mean of the bins' own design effects, weighted by 1 - share: Rao and Scott, "The Analysis of
    Categorical Data From Complex Sample Surveys" (1981), by which a chi-squared is to be divided.
    """
    width, rows = len(counts), len(bins)
    of, where = np.unique(clusters, return_inverse=True)
    filled = np.count_nonzero(counts)
    if filled < 2 or len(of) < 2:
        return 1.0
    pairs, times = np.unique(where * width + bins, return_counts=True)
    sizes = np.bincount(where).astype(np.float64)
    share = counts / rows
    # Of each bin, the sum over clusters of (rows in it - share of the cluster's rows) squared.
    inside = np.bincount(pairs % width, times.astype(np.float64) ** 2, width)
    crossed = np.bincount(pairs % width, times * sizes[pairs // width], width)
    squares = inside - 2 * share * crossed + share**2 * (sizes**2).sum()
    effects = squares[counts > 0] / counts[counts > 0]
    return max(1.0, float(effects.sum() / (filled - 1)))


def reference(
    rows: Floats,
    places: Sequence[int],
    clusters: Clusters,
    scores: Floats,
    at: NDArray[np.int64],
) -> dict[str, Any]:
    """Return the histograms of a training period; `places` are the catalog's of the columns,
    `clusters` whose the rows are, `at` when (microseconds). A row whose score is not one of those
    to compare with has NaN."""
    newest = at > at.max() - NEWEST_DAYS * DAY
    there = ~np.isnan(scores)
    return {
        "scores": histogram(scores[there], clusters[there], newest=newest[there]),
        "features": {
            NAMES[place]: histogram(column, clusters, newest=newest)
            for place, column in zip(places, rows.T, strict=True)
        },
    }


def stability(expected: Histogram, actual: Histogram) -> dict[str, float]:
    """Return the population stability index of two histograms, and what chance alone stays below
    in 95 of 100 cases where nothing has changed; and what is usual, the index of the newest days
    of the training period. 0 is no change; it has no upper end.

    PSI = sum of (a - e) ln(a / e) over bins, half a row added to each. Without change it is about
    (1/n + 1/m) times a chi-squared of bins - 1 degrees of freedom, n and m being what the rows are
    worth: Yurdakul, "Statistical Properties of Population Stability Index" (2018). Bins that both
    leave empty do not count.
    """
    freedom = max(1, np.count_nonzero(np.add(expected["counts"], actual["counts"])) - 1)
    newest = expected.get("newest")  # there are none of a model made before this was looked at
    usual = 0.0 if newest is None or not sum(newest) else _index(expected["counts"], newest)
    # A model made before this was looked at says nothing of worth: its rows count in full.
    worth = [float(of.get("worth", sum(of["counts"]))) for of in (expected, actual)]
    return {
        "psi": round(_index(expected["counts"], actual["counts"]), 5),
        "usual": round(usual, 5),
        "chance": round(float(chi2.ppf(0.95, freedom) * sum(1 / rows for rows in worth)), 5),
    }


def _index(expected: Sequence[int], actual: Sequence[int]) -> float:
    pair = np.array([expected, actual], dtype=np.float64)
    pair = pair[:, pair.sum(axis=0) > 0]
    e, a = (pair + 0.5) / (pair + 0.5).sum(axis=1, keepdims=True)
    return float(((a - e) * np.log(a / e)).sum())


def measure(
    before: Mapping[str, Any],
    rows: Floats,
    places: Sequence[int],
    clusters: Clusters,
    scores: Floats,
) -> dict[str, Any]:
    """Return the stability of the scores, and of each feature under the categories it needs.

    A category's is that of its worst feature, the one furthest above what is usual and what chance
    makes, those of GROWING left aside: a device seen once is older every day, whatever changes.
    `missing` are the shares of rows without that feature, then
    and now.
    """
    categories: dict[str, dict[str, Any]] = {}
    for place, column in zip(places, rows.T, strict=True):
        was = before["features"][NAMES[place]]
        now = histogram(column, clusters, was["edges"])
        said = stability(was, now) | {
            "missing": [
                round(counts[-1] / sum(counts), 5) for counts in (was["counts"], now["counts"])
            ]
        }
        for category in FEATURES[place].needs:
            categories.setdefault(category, {})[NAMES[place]] = said
    was = before["scores"]
    now = histogram(scores, clusters, was["edges"])
    return {
        "rows": len(rows),
        "scores": stability(was, now)
        | {"then": was["counts"], "now": now["counts"], "edges": was["edges"]},
        "categories": {
            category: {
                "worst": (
                    worst := max(_steady(features), key=lambda name: _beyond(features[name]))
                ),
                "psi": features[worst]["psi"],
                "features": features,
            }
            for category, features in sorted(categories.items())
        },
    }


def _steady(names: Collection[str]) -> Collection[str]:
    """Return the features that do not grow by themselves; all where there are no others."""
    return [name for name in names if name not in GROWING] or names


def verdict(said: Mapping[str, float]) -> str:
    """Return what a stability index says in a word: how far it is beyond what is usual counts.

    >>> cases = (0.3, 0, 0.02), (0.15, 0, 0.02), (0.3, 0, 0.4), (0.01, 0, 0.02), (0.4, 0.2, 0.05)
    >>> [verdict(dict(zip(("psi", "usual", "chance"), case, strict=True))) for case in cases]
    ['much', 'some', 'none', 'none', 'some']
    """
    beyond = said["psi"] - said["usual"]
    if beyond <= max(SOME, said["chance"]):
        return "none"
    return "some" if beyond <= max(MUCH, said["chance"]) else "much"


def _beyond(said: Mapping[str, float]) -> float:
    """Return by how much a stability index is above what is usual and what chance makes."""
    return said["psi"] - said["usual"] - said["chance"]
