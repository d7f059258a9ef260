"""Levels of a column: nothing but which values trees tell apart, and those where frauds are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import average_precision_score

from sectionfour.learning import dataset, fit
from sectionfour.learning.model import session

values = st.one_of(
    st.just(np.nan),
    st.integers(-40, 40).map(float),
    # What models see is in float32; halfway between two of these is exact in float64.
    st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
)


@given(st.lists(st.tuples(values, st.booleans()), min_size=1, max_size=60))
def test_each_value_goes_to_the_nearest_of_few_levels_that_are_values(rows):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "LEVELS", 8)
        matrix = np.array([[value] for value, _ in rows])
        labels = np.array([label for _, label in rows])
        found = dataset.levelled(matrix, labels)[:, 0]
    column = matrix[:, 0]
    missing = np.isnan(column)
    assert (np.isnan(found) == missing).all()
    levels = np.unique(found[~missing])
    assert len(levels) <= 8
    assert set(levels).issubset(column)
    for value, level in zip(column[~missing], found[~missing], strict=True):
        assert abs(value - level) <= np.abs(levels - value).min() * (1 + 1e-9)
    if len(np.unique(column[~missing])) <= 8:
        assert np.array_equal(found, column, equal_nan=True)
    if labels[~missing].any():  # the least and the largest of the frauds are always told
        frauds = column[~missing & labels]
        assert {frauds.min(), frauds.max()} <= set(levels)


@pytest.fixture(scope="module")
def tail() -> tuple[np.ndarray, np.ndarray]:
    """40,000 rows of which 40 are frauds: the largest, but for what nobody can know of."""
    rng = np.random.default_rng(5)
    rows = rng.lognormal(size=(40_000, 3))
    rows[rng.random(40_000) < 0.2, 1] = np.nan
    return rows, rows[:, 0] > np.sort(rows[:, 0])[-41]


def fitted(rows: np.ndarray, labels: np.ndarray) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(
        max_iter=20, min_samples_leaf=5, early_stopping=False, random_state=0
    ).fit(rows, labels)


def test_trees_of_levels_score_raw_rows_as_they_score_levels(tail):
    rows, labels = tail
    levels = dataset.levelled(rows, labels)
    assert not np.array_equal(levels, rows, equal_nan=True)
    model = fitted(levels, labels)
    assert np.array_equal(model.decision_function(rows), model.decision_function(levels))


def test_what_sets_rare_frauds_apart_is_told_only_with_levels(tail):
    rows, labels = tail
    with_levels = fitted(dataset.levelled(rows, labels), labels).predict_proba(rows)[:, 1]
    without = fitted(rows, labels).predict_proba(rows)[:, 1]
    assert average_precision_score(labels, with_levels) > 0.99
    assert average_precision_score(labels, without) < 0.9


def test_a_column_that_nobody_has_stays_missing_and_no_row_is_changed(tail):
    rows, labels = tail
    given_rows = np.column_stack([rows, np.full(len(rows), np.nan)])
    before = given_rows.copy()
    found = dataset.levelled(given_rows, labels)
    assert np.isnan(found[:, 3]).all()
    assert np.array_equal(given_rows, before, equal_nan=True)


def test_onnx_goes_the_same_way_where_values_are_as_close_as_float32_has_them():
    rng = np.random.default_rng(2)
    near = np.float32(1 / 3) + np.arange(200, dtype=np.float32) * np.spacing(np.float32(1 / 3))
    rows = rng.choice(near, (4_000, 2)).astype(np.float64)
    labels = rng.random(4_000) < (rows[:, 0] > near[90]) * 0.5
    model = fitted(dataset.levelled(rows, labels), labels)
    before = model.decision_function(rows)
    fit.round_down(model)
    assert np.array_equal(model.decision_function(rows), before)
    run = session(fit.export(model, 2, (1.0, 0.0))).run
    found = run(["log_odds"], {"X": rows.astype(np.float32)})[0][:, 0]
    assert np.abs(found - before).max() < 1e-5
