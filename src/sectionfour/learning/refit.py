"""The last fit: settings that were chosen and judged out of time, on all that is known by now.

A model that is judged on the newest weeks has not learnt from them, and what is new since is what a
service needs most. So the settings are fitted once more, on every row whose label can be known. Of
that model no row is left to say how good it is: the figures stay those of its predecessor.

What turns its log-odds into probabilities needs rows that were not learnt from. They are had by
crossing: the members are dealt into PARTS, and each part is scored by a model that has learnt from
the others. Stone, "Cross-Validatory Choice and Assessment of Statistical Predictions" (1974).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from joblib import delayed
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from sectionfour.learning import backends, fit, neutral
from sectionfour.learning.progress import watched

Matrix = NDArray[np.float64]
#: Parts that the members are dealt into; fewer where there are fewer members with a fraud.
PARTS = 4
#: The share of the rows, the newest, by which refusing is made neutral: what a category tells
#: changes while a past is young (`docs/settings.md`).
NEWEST = 0.4


@dataclass(frozen=True, slots=True)
class Refitted:
    """What is served, as in `fit.Fitted`."""

    onnx: bytes
    calibration: tuple[float, float]
    offsets: list[float]
    agreement: float
    usual: dict[str, float]


def refit(
    rows: Matrix,
    labels: NDArray[np.int8],
    clusters: NDArray[np.intp],
    places: Sequence[int],
    settings: Mapping[str, Any],
    plan: fit.Plan,
) -> Refitted:
    """Fit `settings` on all rows, in order of time, as `fit.search` does, and export them.

    Calibration and offsets are crossed, on at most fit.TRIED_ON rows, all of some of the `clusters`
    (members). Frauds of two are needed.
    """
    rows = fit.rounded(rows)
    part = dealt(labels, clusters, np.random.default_rng(plan.seed))
    parts = range(int(part.max()) + 1)
    others = [np.flatnonzero((part >= 0) & (part != k)) for k in parts]
    calls = [
        delayed(_taught)(settings, rows[some], labels[some], places, plan.drop_share, plan.seed)
        for some in others
    ]
    results = backends.run(calls, jobs=plan.jobs, backend=plan.backend)
    trees = [each[0] for each in watched(results, total=len(calls), text="crossing")]

    def log_odds(numbered: Matrix) -> Matrix:
        """Each row by the model of its part, which is in its last column; NaN without one."""
        found = np.full(len(numbered), np.nan)
        for k, classifier in enumerate(trees):
            of = numbered[:, -1] == k
            if of.any():
                found[of] = classifier.decision_function(numbered[of, :-1])
        return found

    some = np.flatnonzero(part >= 0)
    numbered = np.column_stack([rows[some], part[some]])
    slope, intercept = calibration = fit.calibrate(log_odds(numbered), labels[some])
    honest = numbered[(some >= (1 - NEWEST) * len(rows)) & (labels[some] == 0)]
    offsets = neutral.offsets(lambda of: slope * log_odds(of) + intercept, honest, places)
    crossed = rows[some]
    del numbered, honest, calls, results  # what comes takes as much memory as all of these
    last, usual = _taught(
        settings, rows, labels, places, plan.drop_share, plan.seed, jobs=plan.jobs
    )
    onnx = fit.export(last, rows.shape[1], calibration, offsets, neutral.groups(places))
    shifts = offsets[neutral.patterns(crossed, places)]
    expected = slope * last.decision_function(crossed) + intercept + shifts
    return Refitted(
        onnx=onnx,
        calibration=calibration,
        offsets=[round(float(offset), 6) for offset in offsets],
        agreement=fit.agreement(onnx, expected, crossed),
        usual=fit.named(usual, places),
    )


def dealt(
    labels: NDArray[np.int8], clusters: NDArray[np.intp], rng: np.random.Generator
) -> NDArray[np.intp]:
    """Return the part of each row, from 0 on; -1 for those of clusters that are left out.

    All rows of a cluster are in one part, and those with a fraud are dealt evenly, so that each
    part has one. Where there are more than fit.TRIED_ON rows, clusters are left out at random.
    """
    count = int(clusters.max()) + 1
    order = rng.permutation(count)
    bad = np.zeros(count, dtype=np.bool_)
    bad[clusters[labels == 1]] = True
    sizes = np.bincount(clusters, minlength=count)
    kept = np.zeros(count, dtype=np.bool_)
    share = min(1.0, fit.TRIED_ON / len(labels))
    for kind in (bad, ~bad):  # of each the same share of rows: calibration rests on the ratio
        of_kind = order[kind[order]]
        fits = np.cumsum(sizes[of_kind]) <= share * sizes[of_kind].sum()
        fits[:2] = True
        kept[of_kind[fits]] = True
    parts = min(PARTS, int((bad & kept).sum()))
    of_cluster = np.full(count, -1, dtype=np.intp)
    for kind in (bad & kept, ~bad & kept):
        of_kind = order[kind[order]]
        of_cluster[of_kind] = np.arange(len(of_kind)) % parts
    found: NDArray[np.intp] = of_cluster[clusters]
    return found


def _taught(
    settings: Mapping[str, Any],
    rows: Matrix,
    labels: NDArray[np.int8],
    places: Sequence[int],
    drop_share: float,
    seed: int,
    *,
    jobs: int = 1,
) -> tuple[HistGradientBoostingClassifier, Matrix]:
    """Return trees fitted on rows, and what 95 % of these stay below, a column."""
    levels, weights, usual = fit.prepared(rows, labels, places, drop_share, seed)
    return fit.fitted(settings, levels, labels, weights, seed, jobs=jobs), usual
