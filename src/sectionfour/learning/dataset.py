"""Rows to learn from: labels as far as known, splits in time, and missingness that tells nothing.

A row without a label counts as honest only when it is older than the label delay: before that
nobody could have known, and it is left out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sectionfour.domain import FRAUD_LABELS
from sectionfour.errors import HistoryError
from sectionfour.features.catalog import DAY, FEATURES

Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: The categories that a member can refuse without the score becoming impossible.
MASKABLE = (
    "consignee",
    "payment",
    "device",
    "location",
    "log",
    "identity.document",
    "biometric.face",
)


@dataclass(frozen=True, slots=True)
class Split:
    """Row positions, in order of time. `learn` and `choose` know labels up to `cut` alone."""

    learn: NDArray[np.intp]
    choose: NDArray[np.intp]
    test: NDArray[np.intp]
    labels: NDArray[np.int8]  # of every row; what was known by `cut`, and for the test by the end
    cut: int
    too_young: int


def model_rows(events: pd.DataFrame, name: str, scores: Mapping[str, str | None]) -> Mask:
    """Return which events the model called `name` is for; `scores` names a purpose's model."""
    return (events["purpose"].map(dict(scores)) == name).to_numpy()


def labels_at(events: pd.DataFrame, labels: pd.DataFrame, until: int) -> NDArray[np.int8]:
    """Return 1 for each event known as fraud before `until`, else 0. The last word counts."""
    known = labels[(labels["at"] < until) & labels["event_id"].notna()]
    known = known[known["label"].isin({*FRAUD_LABELS, "legitimate"})]
    last = known.drop_duplicates("event_id", keep="last")
    verdict = events["event_id"].map(last.set_index("event_id")["label"])
    return verdict.isin(FRAUD_LABELS).to_numpy().astype(np.int8)


def split(
    events: pd.DataFrame,
    labels: pd.DataFrame,
    rows: Mask,
    *,
    delay_days: float,
    test_days: float,
    choose_share: float = 0.2,
) -> Split:
    """Split in time, with the delay of labels: learn | choose | delay | test | delay.

    Raises HistoryError where a part would be empty or of a single class.
    """
    at = events["at"].to_numpy()
    end = int(max(at[-1], labels["at"].max() if len(labels) else 0)) + 1 if len(at) else 0
    delay, test = int(delay_days * DAY), int(test_days * DAY)
    matured = min(end - delay, int(at[-1]) + 1)
    cut = matured - test
    early, late = labels_at(events, labels, cut), labels_at(events, labels, end)
    old_enough = at < cut - delay
    # A fraud that became known sooner is left out all the same: of the honest rows of its age
    # nothing is known yet, and with the frauds alone the newest days would look all bad.
    learnable = np.flatnonzero(rows & old_enough)
    tested = np.flatnonzero(rows & (at >= cut) & (at < matured))
    border = int(len(learnable) * (1 - choose_share))
    learn, choose = learnable[:border], learnable[border:]
    chosen = np.where(at < cut, early, late).astype(np.int8)
    for part, places in (("learning", learn), ("choosing", choose), ("testing", tested)):
        found = np.unique(chosen[places])
        if len(found) < 2:
            raise HistoryError(
                f"the rows for {part} hold {len(places)} events and"
                f" {int(chosen[places].sum())} known frauds; both classes are needed."
                " A longer history, or a shorter delay or test, may help"
            )
    used = len(learnable) + len(tested)
    return Split(learn, choose, tested, chosen, cut, int(rows.sum()) - used)


def columns_of(category: str, columns: Collection[int]) -> NDArray[np.intp]:
    """Return the positions within `columns` of the features that need `category`."""
    return np.array(
        [i for i, c in enumerate(columns) if category in FEATURES[c].needs], dtype=np.intp
    )


def masked(matrix: Matrix, category: str, columns: Collection[int]) -> Matrix:
    """Return a copy of `matrix` in which `category` is missing."""
    copy = matrix.copy()
    copy[:, columns_of(category, columns)] = np.nan
    return copy


def drop_at_random(
    matrix: Matrix, columns: Collection[int], share: float, rng: np.random.Generator
) -> Matrix:
    """Return a copy in which each maskable category is missing from a `share` of the rows.

    Drawn independently of everything else, the label above all: so missing means nothing.
    """
    copy = matrix.copy()
    for category in MASKABLE:
        rows = rng.random(len(copy)) < share
        copy[np.ix_(rows, columns_of(category, columns))] = np.nan
    return copy


def even_weights(
    matrix: Matrix, labels: NDArray[np.int8], columns: Collection[int]
) -> NDArray[np.float64]:
    """Return row weights under which each pattern of missing categories has the same fraud share.

    Without them a model would learn from real refusals that refusing goes with fraud, or not.
    Patterns with fewer than 5 frauds are left as they are: their share is not known.
    """
    pattern = np.zeros(len(matrix), dtype=np.int64)
    for bit, category in enumerate(MASKABLE):
        places = columns_of(category, columns)
        if len(places):
            pattern |= np.isnan(matrix[:, places]).all(axis=1).astype(np.int64) << bit
    weights = np.ones(len(matrix))
    overall = labels.mean()
    for found in np.unique(pattern):
        rows = pattern == found
        share = labels[rows].mean()
        if labels[rows].sum() >= 5 and share < 1:
            weights[rows & (labels == 1)] = overall / share
            weights[rows & (labels == 0)] = (1 - overall) / (1 - share)
    return weights
