"""The search of settings: tried on some rows, fitted on all."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sectionfour.features.catalog import columns
from sectionfour.learning import fit, membership

PLACES = columns("transaction")[:20]  # fewer categories, fewer patterns to even out
ROWS = 1_000


@pytest.fixture(scope="module")
def made() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(ROWS, len(PLACES)))
    odds = 2 * rows[:, 0] + rows[:, 5] - 3
    return rows, (rng.random(ROWS) < 1 / (1 + np.exp(-odds))).astype(np.int8)


def search(made: tuple[np.ndarray, np.ndarray], candidates: int) -> fit.Fitted:
    rows, labels = made
    plan = SimpleNamespace(candidates=candidates, drop_share=0.1, seed=1, jobs=1, backend="loky")
    half = ROWS // 2
    return fit.search(rows[:half], labels[:half], rows[half:], labels[half:], PLACES, plan)


def test_what_is_tried_on_some_rows_is_fitted_on_all(
    made: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search(made, 1)
    monkeypatch.setattr(fit, "TRIED_ON", 250)
    some = search(made, 1)
    assert some.onnx == whole.onnx
    assert some.tried[0]["average_precision"] != whole.tried[0]["average_precision"]


@given(
    st.lists(st.sampled_from([0, 0, 0, 0, 1]), min_size=2, max_size=200).filter(
        lambda labels: 0 < sum(labels) < len(labels)
    ),
    st.integers(2, 100),
)
def test_no_more_rows_are_tried_on_than_allowed_and_both_kinds_are_there(
    drawn: list[int], most: int
) -> None:
    labels = np.array(drawn, dtype=np.int8)
    some = fit.sampled(labels, most, np.random.default_rng(0))
    if some is None:
        assert len(labels) <= most
        return
    assert len(set(some.tolist())) == len(some) <= most < len(labels)
    assert (np.diff(some) > 0).all()
    assert set(labels[some].tolist()) == {0, 1}
    assert labels[some].sum() == min(labels.sum(), most // 2)  # no fraud is left out for an honest


def test_a_shadow_model_bears_a_column_that_nobody_has(
    made: tuple[np.ndarray, np.ndarray],
) -> None:
    rows, labels = made[0].copy(), made[1]
    rows[:, 7] = np.nan
    settings = {"max_iter": 3}
    found = membership.fitted_scores(rows, labels, rows, PLACES, settings, 0.1, 1)
    assert np.isfinite(found).all()
