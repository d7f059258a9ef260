"""How good a model is, said honestly: metrics with intervals, calibration, the cost of refusing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from sectionfour.learning import dataset

Scores = NDArray[np.float64]
Labels = NDArray[np.int8]


def calibration_error(labels: Labels, scores: Scores, *, bins: int = 10) -> float:
    """Return the expected calibration error over bins of equal size; 0 is perfect.

    Naeini, Cooper, Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning"
    (2015), with bins of equal size, since almost all scores are near 0.
    """
    order = np.argsort(scores, kind="stable")
    error = 0.0
    for part in np.array_split(order, bins):
        if len(part):
            error += len(part) / len(labels) * abs(labels[part].mean() - scores[part].mean())
    return float(error)


METRICS: dict[str, Callable[[Labels, Scores], float]] = {
    "auc": lambda y, s: float(roc_auc_score(y, s)),
    "average_precision": lambda y, s: float(average_precision_score(y, s)),
    "brier": lambda y, s: float(brier_score_loss(y, s)),
    "calibration_error": calibration_error,
}


def metrics(
    labels: Labels, scores: Scores, *, seed: int = 0, resamples: int = 200
) -> dict[str, dict[str, float]]:
    """Return each metric with a 95 % interval from a stratified bootstrap over rows."""
    rng = np.random.default_rng(seed)
    frauds, honest = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    draws: dict[str, list[float]] = {name: [] for name in METRICS}
    for _ in range(resamples):
        rows = np.concatenate([rng.choice(frauds, len(frauds)), rng.choice(honest, len(honest))])
        for name, metric in METRICS.items():
            draws[name].append(metric(labels[rows], scores[rows]))
    return {
        name: {
            "value": round(metric(labels, scores), 6),
            "low": round(float(np.percentile(draws[name], 2.5)), 6),
            "high": round(float(np.percentile(draws[name], 97.5)), 6),
        }
        for name, metric in METRICS.items()
    }


def reliability(labels: Labels, scores: Scores, *, bins: int = 10) -> list[dict[str, float]]:
    """Return, for bins of equal size from low scores to high, what was said and what was true."""
    order = np.argsort(scores, kind="stable")
    return [
        {
            "rows": len(part),
            "mean_score": round(float(scores[part].mean()), 6),
            "fraud_share": round(float(labels[part].mean()), 6),
        }
        for part in np.array_split(order, bins)
        if len(part)
    ]


def refusal_penalties(
    score: Callable[[NDArray[np.float64]], Scores],
    matrix: NDArray[np.float64],
    labels: Labels,
    columns: Sequence[int],
    *,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Return, a category, the mean change in `risk_score` (points of 100) over honest rows that
    have it, when it is masked; with a 95 % interval. Above 0, refusing costs; below, it pays.
    """
    rng = np.random.default_rng(seed)
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
        means = [rng.choice(change, len(change)).mean() for _ in range(200)]
        found[category] = {
            "rows": len(rows),
            "points": round(float(change.mean()), 4),
            "low": round(float(np.percentile(means, 2.5)), 4),
            "high": round(float(np.percentile(means, 97.5)), 4),
        }
    return found


def outcome_mix(thresholds: Any, scores: Scores) -> dict[str, float]:
    """Return the share of rows that each action would have fallen to."""
    actions = [thresholds.outcome(float(score)).action for score in scores]
    return {
        action: round(actions.count(action) / len(actions), 5)
        for action in ("allow", "challenge", "review", "block")
    }
