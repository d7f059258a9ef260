"""Fitting so that no row answers for its own label: what a model says of a row, others taught it.

Teachers are fitted on all folds but one, and say of the rows of that one how fraudulent they are;
the model learns what they say instead of the labels. So the label of a row reaches what the model
says of that very row by detours alone, which is what membership inference lives on.
After Tang and others, "Mitigating Membership Inference Attacks by Self-Distillation Through a Novel
Ensemble Architecture" (2022). Needs the `training` extra.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold

Matrix = NDArray[np.float64]
Labels = NDArray[np.int8]


def fitted(
    settings: Mapping[str, Any],
    rows: Matrix,
    labels: Labels,
    weights: Matrix,
    *,
    folds: int,
    seed: int,
) -> HistGradientBoostingClassifier:
    """Return a classifier of `rows`: taught by the labels where `folds` is 0, else by teachers.

    A row that teachers call fraudulent with probability p counts as a fraud with weight p and as
    honest with weight 1 - p.
    """

    def fit(x: Matrix, y: Labels, w: Matrix) -> HistGradientBoostingClassifier:
        return HistGradientBoostingClassifier(
            **settings, early_stopping=False, random_state=seed
        ).fit(x, y, sample_weight=w)

    if not folds:
        return fit(rows, labels, weights)
    said = np.zeros(len(rows))
    for others, mine in StratifiedKFold(folds, shuffle=True, random_state=seed).split(rows, labels):
        teacher = fit(rows[others], labels[others], weights[others])
        said[mine] = teacher.predict_proba(rows[mine])[:, 1]
    both = np.repeat(np.array([1, 0], dtype=np.int8), len(rows))
    # Weights even out patterns of missing categories; teachers have learnt under them already.
    return fit(np.concatenate([rows, rows]), both, np.concatenate([said, 1 - said]))
