"""The published protocol: what may be known on which day, and what a leak would look like."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pytest

from sectionfour.domain import DAY
from sectionfour.errors import HistoryError
from sectionfour.learning import handbook

START = (date(2018, 7, 25) - date(1970, 1, 1)).days


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Ten weeks of 40 customers at 12 terminals, with bad terminals now and then."""
    rng = np.random.default_rng(8)
    count = 6_000
    at = np.sort(rng.choice(70 * 86_400, count, replace=False)).astype(np.int64) * 1_000_000
    return pd.DataFrame(
        {
            "at": at + (START - 40) * DAY,
            "CUSTOMER_ID": rng.integers(0, 40, count),
            "TERMINAL_ID": rng.integers(0, 12, count),
            "TX_AMOUNT": rng.integers(100, 9_000, count) / 100,
            "TX_FRAUD": (rng.random(count) < 0.04).astype(int),
        }
    )


def same(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return ((one == other) | (np.isnan(one) & np.isnan(other))).all(axis=1)


def test_a_label_of_the_last_seven_days_changes_no_feature(table):
    cut = (START + 10) * DAY
    before = handbook.features(table)
    lied = table.assign(
        TX_FRAUD=np.where(table["at"] >= cut - 7 * DAY, 1 - table["TX_FRAUD"], table["TX_FRAUD"])
    )
    after = handbook.features(lied)
    rows = (table["at"] < cut).to_numpy()
    assert same(before[rows], after[rows]).all()
    assert not same(before[~rows], after[~rows]).all()  # and later they tell


def test_what_comes_later_changes_no_feature(table):
    cut = (START + 10) * DAY
    rows = (table["at"] < cut).to_numpy()
    assert same(handbook.features(table[rows]), handbook.features(table)[rows]).all()


def test_no_feature_is_a_number_of_the_row_or_of_a_person(table):
    matrix = handbook.features(table)
    swapped = table.assign(
        CUSTOMER_ID=977 - 3 * table["CUSTOMER_ID"], TERMINAL_ID=500 + 7 * table["TERMINAL_ID"]
    )
    swapped.index = swapped.index[::-1]
    assert same(handbook.features(swapped), matrix).all()


@pytest.mark.parametrize("regime", ["same", "all"])
def test_no_row_of_the_delay_week_is_learnt_from_and_test_follows_it(table, regime):
    day = (table["at"].to_numpy() // DAY).astype(np.int64)
    customer, fraud = table["CUSTOMER_ID"].to_numpy(), table["TX_FRAUD"].to_numpy() == 1
    found = handbook.fold(day, customer, fraud, START, regime)
    assert day[found.train].max() == START + 6
    assert (day[found.train].min() == START) == (regime == "same")
    assert (day[found.test].min(), day[found.test].max()) == (START + 14, START + 20)
    for row in found.test:
        known = (customer == customer[row]) & fraud & (day >= START) & (day <= day[row] - 8)
        assert not known.any()


def test_a_week_that_the_file_does_not_have_is_refused(table):
    day = (table["at"].to_numpy() // DAY).astype(np.int64)
    customer, fraud = table["CUSTOMER_ID"].to_numpy(), table["TX_FRAUD"].to_numpy() == 1
    with pytest.raises(HistoryError, match="no rows"):
        handbook.fold(day, customer, fraud, START + 60, "same")
