"""What thresholds would have cost, and which actions they would have led to."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sectionfour.domain import ACTIONS
from sectionfour.learning.intervals import SPAN, Clusters, Labels, Scores, redraws


def outcome_mix(thresholds: Any, scores: Scores) -> dict[str, float]:
    """Return the share of rows that each action would have fallen to."""
    actions = [thresholds.outcome(float(score)).action for score in scores]
    return {action: round(actions.count(action) / len(actions), 5) for action in ACTIONS}


def costs_at(
    labels: Labels,
    scores: Scores,
    edges: NDArray[np.float64],
    honest: Mapping[str, float],
    fraud: Mapping[str, float],
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
    resamples: int = 200,
) -> dict[str, Scores]:
    """Return what thresholds would have cost, in the minor unit, a row; lower is better.

    `edges` has a row for each set of thresholds to try and rises along it: from which score on the
    second, third, ... action is taken. `honest` and `fraud` say what each action costs, from the
    mildest to the hardest, for an honest row and for a fraud. `low` and `high` are as in `paid`.
    """
    prices = np.array([list(honest.values()), list(fraud.values())])[labels]
    return paid(prices, scores, edges, clusters=clusters, seed=seed, resamples=resamples)


def paid(
    prices: NDArray[np.float64],
    scores: Scores,
    edges: NDArray[np.float64],
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
    resamples: int = 200,
) -> dict[str, Scores]:
    """Return the mean cost a row of each set of thresholds in `edges`, `prices` being what each
    action costs for each row, shape (rows, actions), as in `costs_at`.

    `low` and `high` are the 95 % interval from a bootstrap over clusters: how far another such
    period would have moved `cost`.
    """
    found = np.array(
        [
            np.take_along_axis(prices, np.searchsorted(row, scores, side="right")[:, None], 1)[:, 0]
            for row in edges
        ]
    )
    codes = np.arange(len(scores)) if clusters is None else clusters
    count = int(codes.max()) + 1
    sums = np.array([np.bincount(codes, row, minlength=count) for row in found])
    sizes = np.bincount(codes, minlength=count)
    drawn = islice(redraws(count, np.random.default_rng(seed)), resamples)
    means = [sums @ times / (sizes @ times) for times in drawn]
    low, high = np.percentile(means, SPAN, axis=0)
    return {"cost": found.mean(axis=1), "low": low, "high": high}
