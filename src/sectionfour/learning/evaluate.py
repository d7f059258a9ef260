"""How good a model is, said honestly: metrics, calibration and curves, with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from sectionfour.learning.intervals import (
    SPAN,
    Clusters,
    Labels,
    Scores,
    distance,
    draws,
    interval,
    likeness,
    rows_of,
    share,
    worth,
)


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
#: Which of them are better when larger.
RISING = frozenset({"auc", "average_precision"})
#: How far the bins of a draw are from those of the rows, as the calibration error measures it.
_APART = "calibration_apart"


def metrics(
    labels: Labels,
    scores: Scores,
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
    resamples: int = 200,
) -> dict[str, dict[str, float]]:
    """Return each metric with a 95 % interval from a bootstrap over `clusters`; over rows without.

    A member's events resemble each other, and a fraud is rarely one event: drawn row by row they
    would pass for more than they tell, so all of a cluster are drawn together, or none. The bins
    of the calibration error stay those of the rows as they are; its interval is that of a
    `distance`.
    """
    measure = weighted(labels, scores)
    drawn = [measure(weights) for weights in draws(labels, clusters, seed, resamples)]
    found = {
        name: interval(metric(labels, scores), [draw[name] for draw in drawn])
        for name, metric in METRICS.items()
    }
    error = "calibration_error"
    apart = [draw[_APART] for draw in drawn]
    found[error] = distance(found[error]["value"], [draw[error] for draw in drawn], apart)
    return found


def mean_precision(
    labels: Labels,
    scores: Scores,
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
    resamples: int = 200,
) -> dict[str, float]:
    """Return the mean average precision of several models' `scores`, shape (models, rows), with a
    95 % interval: all of them measured on each draw, as `metrics` draws."""
    measures = [weighted(labels, each) for each in scores]
    drawn = [
        float(np.mean([measure(weights)["average_precision"] for measure in measures]))
        for weights in draws(labels, clusters, seed, resamples)
    ]
    found = [average_precision_score(labels, each) for each in scores]
    return interval(float(np.mean(found)), drawn)


def differences(
    labels: Labels,
    scores: Scores,
    others: Scores,
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
    resamples: int = 400,
) -> dict[str, dict[str, float]]:
    """Return by how much each metric of `scores` is above that of `others` on the same rows.

    Both are measured on the same draws, so what the rows have in common falls out.
    """
    one, other = weighted(labels, scores), weighted(labels, others)
    drawn = [
        {name: mine - theirs for (name, mine), theirs in zip(a.items(), b.values(), strict=True)}
        for weights in draws(labels, clusters, seed, resamples)
        for a, b in [(one(weights), other(weights))]
    ]
    return {
        name: interval(
            metric(labels, scores) - metric(labels, others), [draw[name] for draw in drawn]
        )
        for name, metric in METRICS.items()
    }


def weighted(labels: Labels, scores: Scores) -> Callable[[Scores], dict[str, float]]:
    """Return METRICS as a function of the rows' weights: sorted once for all draws.

    It gives `calibration_apart` as well: how far the bins so weighed are from those of the rows.
    """
    order = np.argsort(-scores, kind="stable")
    y, ranked = labels[order].astype(np.float64), scores[order]
    ends = np.flatnonzero(np.append(np.diff(ranked) != 0, True))  # of each run of equal scores
    off = (labels - scores) ** 2
    bins = np.empty(len(labels), dtype=np.intp)
    for number, part in enumerate(np.array_split(np.argsort(scores, kind="stable"), 10)):
        bins[part] = number
    gaps = np.bincount(bins, labels - scores) / len(labels)

    def measure(weights: Scores) -> dict[str, float]:
        w = weights[order]
        caught, stopped = np.cumsum(w * y)[ends], np.cumsum(w)[ends]
        gained = np.diff(caught, prepend=0.0)
        alarms = np.diff(stopped - caught, prepend=0.0)
        precision = np.divide(caught, stopped, out=np.zeros_like(caught), where=stopped > 0)
        honest = stopped[-1] - caught[-1]
        drawn = np.bincount(bins, weights * (labels - scores)) / stopped[-1]
        return {
            "auc": float((alarms * (caught - gained / 2)).sum() / (caught[-1] * honest)),
            "average_precision": float((gained * precision).sum() / caught[-1]),
            "brier": float((weights * off).sum() / stopped[-1]),
            "calibration_error": float(np.abs(drawn).sum()),
            _APART: float(np.abs(drawn - gaps).sum()),
        }

    return measure


def calibration_by_pattern(
    labels: Labels,
    scores: Scores,
    patterns: NDArray[np.int64],
    *,
    clusters: Clusters | None = None,
    most: int = 10,
    seed: int = 0,
    resamples: int = 200,
) -> list[dict[str, Any]]:
    """Return how well scores are calibrated on the commonest patterns of missing categories.

    `said` is the mean score, `true` the share of frauds; `gap` = said - true with the interval that
    `share` gives the latter (where there is no fraud none can be drawn), and where there is one
    `brier` and `calibration_error` with theirs. Below 10 frauds the last is mostly noise, and its
    interval shows it.
    """
    found = []
    names, counts = np.unique(patterns, return_counts=True)
    alike = 0.0 if clusters is None else likeness(labels - scores, clusters)
    for place in np.argsort(-counts, kind="stable")[:most]:
        rows = patterns == names[place]
        y, s = labels[rows], scores[rows]
        of = np.unique(
            np.flatnonzero(rows) if clusters is None else clusters[rows], return_inverse=True
        )[1]
        mean_score, true = float(s.mean()), share(y.mean(), worth(of, alike))
        said: dict[str, Any] = {
            "missing": dataset.spelt(int(names[place])),
            "rows": len(y),
            "frauds": int(y.sum()),
            "said": round(mean_score, 6),
            "true": true["value"],
            "gap": {
                name: round(mean_score - true[of_true], 6)
                for name, of_true in (("value", "value"), ("low", "high"), ("high", "low"))
            },
        }
        if 0 < y.sum() < len(y):
            measured = metrics(y, s, clusters=of, seed=seed, resamples=resamples)
            said |= {name: measured[name] for name in ("brier", "calibration_error")}
        found.append(said)
    return found


def roc(
    labels: Labels,
    scores: Scores,
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
    resamples: int = 200,
) -> dict[str, Scores]:
    """Return the share of frauds caught (recall) for each share of honest rows stopped with them.

    Columns `false_alarms`, `recall`, and `low` and `high`, its 95 % interval at each point from a
    bootstrap over clusters. Points lie closer where few honest rows are stopped.
    """
    grid = np.concatenate([[0.0], np.geomspace(1e-3, 0.1, 60), np.linspace(0.11, 1, 90)])

    def at(rows: NDArray[np.intp]) -> Scores:
        false_alarms, recall, _ = roc_curve(labels[rows], scores[rows])
        found: Scores = np.interp(grid, false_alarms, recall)
        return found

    return {"false_alarms": grid} | _banded("recall", at, labels, clusters, seed, resamples)


def precision_recall(
    labels: Labels,
    scores: Scores,
    *,
    clusters: Clusters | None = None,
    seed: int = 0,
    resamples: int = 200,
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

    return {"recall": grid} | _banded("precision", at, labels, clusters, seed, resamples)


def _banded(
    name: str,
    curve: Callable[[NDArray[np.intp]], Scores],
    labels: Labels,
    clusters: Clusters | None,
    seed: int,
    resamples: int,
) -> dict[str, Scores]:
    drawn = [curve(rows_of(w)) for w in draws(labels, clusters, seed, resamples)]
    low, high = np.percentile(drawn, SPAN, axis=0)
    return {name: curve(np.arange(len(labels))), "low": low, "high": high}


def reliability(
    labels: Labels,
    scores: Scores,
    *,
    clusters: Clusters | None = None,
    bins: int = 10,
    edges: Sequence[float] | None = None,
) -> list[dict[str, float]]:
    """Return, a bin from low scores to high, what was said and what was true.

    Bins are of equal size, or end at `edges` (a score at an edge is in the bin above; empty bins
    are left out). `low` and `high` are the 95 % interval of the share of frauds, as `share` has it,
    for as many rows as the bin's are worth.
    """
    order = np.argsort(scores, kind="stable")
    cuts = bins if edges is None else np.searchsorted(scores[order], np.asarray(edges))
    alike = 0.0 if clusters is None else likeness(labels - scores, clusters)
    return [
        {
            "rows": len(part),
            "mean_score": round(float(scores[part].mean()), 6),
            **share(
                labels[part].mean(),
                len(part) if clusters is None else worth(clusters[part], alike),
                "fraud_share",
            ),
        }
        for part in np.array_split(order, cuts)
        if len(part)
    ]
