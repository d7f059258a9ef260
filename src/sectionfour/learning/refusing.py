"""What refusing costs: how a model scores, and how good it is, without what may be refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sectionfour.learning import dataset, evaluate
from sectionfour.learning.intervals import Clusters, Labels, Scores, mean


def refusal_penalties(
    score: Callable[[NDArray[np.float64]], Scores],
    matrix: NDArray[np.float64],
    labels: Labels,
    columns: Sequence[int],
    *,
    clusters: Clusters,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Return, a category, the mean change in `risk_score` (points of 100) over honest rows that
    have it, when it is masked; with a 95 % interval from a bootstrap over clusters. Above 0,
    refusing costs; below, it pays.
    """
    found: dict[str, dict[str, float]] = {}
    for category in dataset.MASKABLE:
        places = dataset.columns_of(category, columns)
        if not len(places):
            continue
        rows = np.flatnonzero((labels == 0) & ~np.isnan(matrix[:, places]).all(axis=1))
        if not len(rows):
            continue
        change = 100 * (
            score(dataset.masked(matrix[rows], category, columns)) - score(matrix[rows])
        )
        found[category] = _mean_change(change, clusters[rows], seed)
    return found


def without(
    score: Callable[[NDArray[np.float64]], Scores],
    matrix: NDArray[np.float64],
    labels: Labels,
    columns: Sequence[int],
    thresholds: Any,
    *,
    clusters: Clusters,
    seed: int = 0,
    combinations: int = 10,
) -> list[dict[str, Any]]:
    """Return how the model does without each category, and without the commonest combinations.

    The combinations are those that the rows themselves most often lack. A category is masked in
    every row; `penalty` is as in `refusal_penalties`, over honest rows that have any of what is
    masked; `allow_to_block` counts the honest rows that this would turn from one to the other.
    """
    names = [c for c in dataset.MASKABLE if len(dataset.columns_of(c, columns))]
    lacks: dict[str, NDArray[np.bool_]] = {
        c: np.asarray(np.isnan(matrix[:, dataset.columns_of(c, columns)]).all(axis=1))
        for c in names
    }
    came = Counter(tuple(c for c in names if lacks[c][i]) for i in range(len(matrix)))
    common = [lacked for lacked, _ in came.most_common() if len(lacked) > 1][:combinations]
    whole = score(matrix)
    found = []
    for masks in [*((name,) for name in names), *common]:
        masked = matrix
        for category in masks:
            masked = dataset.masked(masked, category, columns)
        scores = score(masked)
        rows: NDArray[np.bool_] = labels == 0
        rows = rows & ~np.logical_and.reduce([lacks[category] for category in masks])
        change = 100 * (scores - whole)[rows]
        flips = (whole[rows] < thresholds.challenge) & (scores[rows] >= thresholds.block)
        judged = evaluate.metrics(labels, scores, clusters=clusters, seed=seed)
        found.append(
            {
                "without": list(masks),
                "penalty": _mean_change(change, clusters[rows], seed),
                "allow_to_block": int(flips.sum()),
                **judged,
            }
        )
    return found


def _mean_change(change: Scores, clusters: Clusters, seed: int) -> dict[str, float]:
    """Return the mean of what each row's score changed by, with a 95 % interval; 0 of no rows."""
    if not len(change):
        return {"rows": 0, "points": 0.0, "low": 0.0, "high": 0.0}
    of = np.unique(clusters, return_inverse=True)[1]
    found = mean(change, of, seed=seed)
    return {"rows": len(change), "points": found.pop("value"), **found}
