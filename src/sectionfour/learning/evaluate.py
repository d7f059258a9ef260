"""How good a model is, said honestly: metrics with intervals, calibration, the cost of refusing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

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
    draws: dict[str, list[float]] = {name: [] for name in METRICS}
    for rows in _drawn(labels, seed, resamples):
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


def _drawn(labels: Labels, seed: int, resamples: int) -> Iterator[NDArray[np.intp]]:
    """Yield rows drawn with replacement, as many of each class as there are."""
    rng = np.random.default_rng(seed)
    frauds, honest = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    for _ in range(resamples):
        yield np.concatenate([rng.choice(frauds, len(frauds)), rng.choice(honest, len(honest))])


def roc(
    labels: Labels, scores: Scores, *, seed: int = 0, resamples: int = 200
) -> dict[str, Scores]:
    """Return the share of frauds caught (recall) for each share of honest rows stopped with them.

    Columns `false_alarms`, `recall`, and `low` and `high`, its 95 % interval at each point from a
    stratified bootstrap over rows. Points lie closer where few honest rows are stopped.
    """
    grid = np.concatenate([[0.0], np.geomspace(1e-3, 0.1, 60), np.linspace(0.11, 1, 90)])

    def at(rows: NDArray[np.intp]) -> Scores:
        false_alarms, recall, _ = roc_curve(labels[rows], scores[rows])
        found: Scores = np.interp(grid, false_alarms, recall)
        return found

    return {"false_alarms": grid} | _banded("recall", at, labels, seed, resamples)


def precision_recall(
    labels: Labels, scores: Scores, *, seed: int = 0, resamples: int = 200
) -> dict[str, Scores]:
    """Return, for each share of frauds caught (recall), how many of the rows stopped are frauds.

    Columns `recall`, `precision`, and `low` and `high`, its 95 % interval at each point as in
    `roc`. At each recall it is the highest threshold that still reaches it that counts.
    """
    grid = np.linspace(0.01, 1, 100)

    def at(rows: NDArray[np.intp]) -> Scores:
        precision, recall, _ = precision_recall_curve(labels[rows], scores[rows])
        last = np.searchsorted(-recall, -grid, side="right") - 1  # recall falls
        found: Scores = precision[last]
        return found

    return {"recall": grid} | _banded("precision", at, labels, seed, resamples)


def _banded(
    name: str,
    curve: Callable[[NDArray[np.intp]], Scores],
    labels: Labels,
    seed: int,
    resamples: int,
) -> dict[str, Scores]:
    draws = [curve(rows) for rows in _drawn(labels, seed, resamples)]
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    return {name: curve(np.arange(len(labels))), "low": low, "high": high}


def reliability(
    labels: Labels, scores: Scores, *, bins: int = 10, edges: Sequence[float] | None = None
) -> list[dict[str, float]]:
    """Return, a bin from low scores to high, what was said and what was true.

    Bins are of equal size, or end at `edges` (a score at an edge is in the bin above; empty bins
    are left out). `low` and `high` are the 95 % interval of the share of frauds by Wilson,
    "Probable Inference, the Law of Succession, and Statistical Inference" (1927).
    """
    order = np.argsort(scores, kind="stable")
    cuts = bins if edges is None else np.searchsorted(scores[order], np.asarray(edges))
    return [
        {
            "rows": len(part),
            "mean_score": round(float(scores[part].mean()), 6),
            "fraud_share": round(float(labels[part].mean()), 6),
            **_wilson(int(labels[part].sum()), len(part)),
        }
        for part in np.array_split(order, cuts)
        if len(part)
    ]


def _wilson(hits: int, rows: int) -> dict[str, float]:
    z2 = 1.959964**2
    middle = (hits + z2 / 2) / (rows + z2)
    half = (z2 * hits * (rows - hits) / rows + z2**2 / 4) ** 0.5 / (rows + z2)
    return {"low": round(max(0.0, middle - half), 6), "high": round(min(1.0, middle + half), 6)}


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


def without(
    score: Callable[[NDArray[np.float64]], Scores],
    matrix: NDArray[np.float64],
    labels: Labels,
    columns: Sequence[int],
    thresholds: Any,
    *,
    seed: int = 0,
    combinations: int = 10,
) -> list[dict[str, Any]]:
    """Return how the model does without each category, and without the commonest combinations.

    The combinations are those that the rows themselves most often lack. A category is masked in
    every row; `penalty` is as in `refusal_penalties`, over honest rows that have any of what is
    masked; `allow_to_block` counts the honest rows that this would turn from one to the other.
    """
    rng = np.random.default_rng(seed)
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
        means = [rng.choice(change, len(change)).mean() for _ in range(200)] if len(change) else [0]
        flips = (whole[rows] < thresholds.challenge) & (scores[rows] >= thresholds.block)
        judged = metrics(labels, scores, seed=seed, resamples=100)
        found.append(
            {
                "without": list(masks),
                "penalty": {
                    "rows": int(rows.sum()),
                    "points": round(float(change.mean()), 4) if len(change) else 0.0,
                    "low": round(float(np.percentile(means, 2.5)), 4),
                    "high": round(float(np.percentile(means, 97.5)), 4),
                },
                "allow_to_block": int(flips.sum()),
                **judged,
            }
        )
    return found


def outcome_mix(thresholds: Any, scores: Scores) -> dict[str, float]:
    """Return the share of rows that each action would have fallen to."""
    actions = [thresholds.outcome(float(score)).action for score in scores]
    return {
        action: round(actions.count(action) / len(actions), 5)
        for action in ("allow", "challenge", "review", "block")
    }


def costs_at(
    labels: Labels,
    scores: Scores,
    edges: NDArray[np.float64],
    honest: Mapping[str, float],
    fraud: Mapping[str, float],
    *,
    seed: int = 0,
    resamples: int = 200,
) -> dict[str, Scores]:
    """Return what thresholds would have cost, in the minor unit, a row; lower is better.

    `edges` has a row for each set of thresholds to try and rises along it: from which score on the
    second, third, ... action is taken. `honest` and `fraud` say what each action costs, from the
    mildest to the hardest, for an honest row and for a fraud. `low` and `high` are the 95 %
    interval from a stratified bootstrap over rows: how far the frauds of another such period
    would have moved `cost`, as many as there are here.
    """
    prices = np.array([list(honest.values()), list(fraud.values())])
    paid = np.array([prices[labels, np.searchsorted(row, scores, side="right")] for row in edges])
    times = [np.bincount(rows, minlength=len(labels)) for rows in _drawn(labels, seed, resamples)]
    draws = np.array(times) @ paid.T / len(labels)
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    return {"cost": paid.mean(axis=1), "low": low, "high": high}
