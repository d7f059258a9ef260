"""The raters that nobody can pass are told what is hidden, and not what nobody could know."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sectionfour.domain import DAY

from .benchmarks import bound

DAYS = 40


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Transactions labelled as the published ones are, by a loop: a day begins, all its days."""
    rng = np.random.default_rng(1)
    day = np.sort(rng.integers(0, DAYS, 20_000))
    terminal, customer = rng.integers(0, 10_000, len(day)), rng.integers(0, 5_000, len(day))
    some = pd.Series(np.arange(10_000)).sample(n=2, random_state=3).to_numpy()
    places = np.flatnonzero(day >= 3)[:200]
    terminal[places] = rng.choice(some, len(places))
    amount = rng.uniform(1, 210, len(day))
    amount[:5] = 250.0
    began = np.full(len(day), -1)
    for start in range(DAYS):
        for who in pd.Series(np.arange(10_000)).sample(n=2, random_state=start):
            began[(terminal == who) & (day >= start) & (day < start + 28)] = start
    return pd.DataFrame(
        {
            "at": day * DAY + np.arange(len(day)) + 1,
            "CUSTOMER_ID": customer,
            "TERMINAL_ID": terminal,
            "TX_AMOUNT": amount,
            "TX_FRAUD": ((began >= 0) | (amount > 220)).astype(int),
            "day": day,
            "began": began,
        }
    )


def test_a_terminal_is_told_of_a_week_after_it_has_gone_bad(table):
    states = bound.hidden(table)
    assert (states.bad == (table["began"] >= 0)).all()
    week_ago = (table["began"] >= 0) & (table["day"] - table["began"] >= 7)
    # One terminal may have gone bad twice; then the earlier time tells.
    assert (states.known >= week_ago).all()
    assert (states.known & ~week_ago).sum() <= 2
    assert 0 < states.known.sum() < states.bad.sum()


def test_raters_see_all_but_the_first_week(table):
    states = bound.hidden(table)
    fraud = table["TX_FRAUD"].to_numpy() == 1
    seer, genie = bound.seer(table, states), bound.genie(table, states)
    first_week = states.bad & ~states.known & ~states.stolen & (table["TX_AMOUNT"] <= 220)
    assert ((seer == 1) == (fraud & ~first_week)).all()
    assert (genie[states.known] == 1).all()
    assert genie[~fraud].max() < 1
    told = first_week | (~fraud & ~states.stolen)  # what is bad unseen looks like what is honest
    assert len(np.unique(genie[told])) == 1


def test_a_terminal_has_ended_when_all_its_bad_days_are_behind_it(table):
    found = bound.ended(table)
    ended = np.zeros(len(table), dtype=np.bool_)
    for start in range(DAYS - 28):
        for who in pd.Series(np.arange(10_000)).sample(n=2, random_state=start):
            ended |= ((table["TERMINAL_ID"] == who) & (table["day"] >= start + 28)).to_numpy()
    assert np.array_equal(found, ended & (table["began"] < 0).to_numpy())
    assert found.any()


def test_transactions_of_other_seeds_are_refused(table):
    quiet = table.copy()
    row = np.flatnonzero(table["began"] >= 0)[0]
    quiet.loc[row, "TX_FRAUD"] = 0
    with pytest.raises(SystemExit, match="not the transactions"):
        bound.hidden(quiet)
    states = bound.hidden(table)
    loud = table.copy()
    row = np.flatnonzero(~states.bad & ~states.stolen & (table["TX_AMOUNT"] <= 220))[0]
    loud.loc[row, "TX_FRAUD"] = 1
    with pytest.raises(SystemExit, match="not the transactions"):
        bound.hidden(loud)
