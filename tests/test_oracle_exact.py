"""The oracle beside every way tried out, where there are few enough; and a leak that is planted."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from sectionfour.domain import DAY
from sectionfour.learning import handbook

from .benchmarks import oracle

ORIGIN = date(2018, 4, 1)
FIRST = (ORIGIN - date(1970, 1, 1)).days
CUSTOMERS, TERMINALS = 60, 16


def starting(day: int) -> list[date]:
    """Return the training week of a fold whose test week begins on `day`."""
    return [ORIGIN + timedelta(day - handbook.TRAIN_DAYS - handbook.DELAY_DAYS)]


def market(days: int, a_day: int, seed: int = 5) -> pd.DataFrame:
    """Return transactions made as the generator's authors tell it, few people over few days."""
    rng = np.random.default_rng(seed)
    count = days * a_day
    at = np.sort(rng.choice(days * 86_400, count, replace=False)).astype(np.int64) * 1_000_000
    day = at // DAY
    customer, terminal = rng.integers(0, CUSTOMERS, count), rng.integers(0, TERMINALS, count)
    means = rng.uniform(5, 100, CUSTOMERS)[customer]
    amount = rng.normal(means, means / 2)
    amount = np.where(amount < 0, rng.uniform(0, 2 * means), amount)
    fraud = amount > oracle.ALWAYS_ABOVE
    for today in range(days):
        for bad in rng.integers(0, TERMINALS, oracle.TERMINALS_A_DAY):
            fraud |= (terminal == bad) & (day >= today) & (day < today + oracle.TERMINAL_DAYS)
        for bad in rng.integers(0, CUSTOMERS, oracle.CUSTOMERS_A_DAY):
            theirs = (customer == bad) & (day >= today) & (day < today + oracle.CUSTOMER_DAYS)
            stolen = theirs & (rng.random(count) < oracle.STOLEN_SHARE)
            amount, fraud = np.where(stolen, amount * oracle.STOLEN_TIMES, amount), fraud | stolen
    return pd.DataFrame(
        {
            "at": at + FIRST * DAY,
            "CUSTOMER_ID": customer,
            "TERMINAL_ID": terminal,
            "TX_AMOUNT": amount,
            "TX_FRAUD": fraud.astype(int),
        }
    )


@pytest.fixture
def calmer(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few people would all be robbed at the rates of thousands."""
    monkeypatch.setattr(oracle, "TERMINALS_A_DAY", 1)
    monkeypatch.setattr(oracle, "TERMINAL_DAYS", 4)
    monkeypatch.setattr(oracle, "CUSTOMERS_A_DAY", 1)
    monkeypatch.setattr(oracle, "CUSTOMER_DAYS", 6)
    monkeypatch.setattr(oracle, "MEANS", np.geomspace(5, 100, 16))


# --- what it may know --------------------------------------------------------------------------

#: Labels that nobody could have given have no explanation, and what follows them no chance.
IMPOSSIBLE = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")


def differ_by(table: pd.DataFrame, other: pd.DataFrame, rows: np.ndarray) -> float:
    """Return by how much the chances of `rows` differ at most."""
    one, two = (oracle.chance_of_fraud(t, starting(14))[rows] for t in (table, other))
    assert np.isfinite(one).sum() > 100  # rows that are judged
    same = (one == two) | (np.isnan(one) & np.isnan(two))
    return float(np.where(same, 0, np.nan_to_num(np.abs(one - two), nan=1)).max())


def with_labels_turned(table: pd.DataFrame, cut: int) -> pd.DataFrame:
    late = (table["at"] + 7 * DAY > cut) & (table["TX_AMOUNT"] <= oracle.ALWAYS_ABOVE)
    return table.assign(TX_FRAUD=np.where(late, 1 - table["TX_FRAUD"], table["TX_FRAUD"]))


@IMPOSSIBLE
@pytest.mark.usefixtures("calmer")
@pytest.mark.parametrize("hours", [5, 12, 23])
def test_labels_of_the_last_seven_days_and_of_later_change_no_chance(hours: int) -> None:
    table = market(24, 60)
    cut = (FIRST + 17) * DAY + hours * DAY // 24
    turned = with_labels_turned(table, cut)
    at = table["at"].to_numpy()
    assert differ_by(table, turned, at <= cut) == 0
    assert differ_by(table, turned, at > cut) > 0.1  # and later they tell


@IMPOSSIBLE
@pytest.mark.usefixtures("calmer")
def test_a_label_that_comes_a_day_early_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The leak is planted: the test above must be one that can fail."""
    table = market(24, 60)
    cut = (FIRST + 17) * DAY + DAY // 2
    monkeypatch.setattr(oracle, "DELAY", 6)
    rows = (table["at"] <= cut).to_numpy()
    assert differ_by(table, with_labels_turned(table, cut), rows) > 0.01


@IMPOSSIBLE
@pytest.mark.usefixtures("calmer")
def test_what_comes_later_changes_no_chance() -> None:
    """Who buys where, for how much, and how it ends: all of it dealt anew after the cut."""
    table = market(24, 60)
    cut = (FIRST + 17) * DAY + DAY // 2
    late = np.flatnonzero(table["at"] > cut)
    other = table.copy()
    rng = np.random.default_rng(1)
    for name in ("CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT", "TX_FRAUD"):
        other.loc[late, name] = rng.permutation(table[name].to_numpy()[late])
    rows = (table["at"] <= cut).to_numpy()
    assert differ_by(table, other, rows) < 1e-5
    assert differ_by(table, other, ~rows) > 0.01


# --- that it judges as well as can be ----------------------------------------------------------


def started_patterns(days: int, lasting: int, hazard: float) -> tuple[np.ndarray, np.ndarray]:
    """Return every way in which something may begin on some of `days`, as the days on which it
    then lasts, shape (ways, days), and how likely each is."""
    begins = (np.arange(1 << days)[:, None] >> np.arange(days)) & 1
    prior = np.where(begins, hazard, 1 - hazard).prod(axis=1)
    lasts = np.zeros_like(begins)
    for back in range(lasting):
        lasts[:, back:] |= begins[:, : days - back]
    return lasts == 1, prior


def test_terminals_are_judged_as_by_trying_every_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cards are never stolen here, so a terminal's own labels say all there is to say."""
    monkeypatch.setattr(oracle, "CUSTOMERS_A_DAY", 0)
    monkeypatch.setattr(oracle, "TERMINALS_A_DAY", 1)
    monkeypatch.setattr(oracle, "TERMINAL_DAYS", 9)
    monkeypatch.setattr(oracle, "MEANS", np.array([20.0, 60.0]))
    table = market(16, 20)
    chance = oracle.chance_of_fraud(table, starting(9))
    at, amount = table["at"].to_numpy(), table["TX_AMOUNT"].to_numpy()
    day, fraud = at // DAY - FIRST, table["TX_FRAUD"].to_numpy() == 1
    terminal, high = table["TERMINAL_ID"].to_numpy(), amount > 220
    bad, prior = started_patterns(16, 9, 1 / (terminal.max() + 1))
    judged = np.flatnonzero(np.isfinite(chance))
    assert len(judged) > 100
    assert (day[judged].min(), day[judged].max()) == (9, 15)
    wanted = []
    for row in judged:
        told = (terminal == terminal[row]) & (at + 7 * DAY <= at[row])
        posterior = prior.copy()
        for other in np.flatnonzero(told & ~high):  # a high amount is a fraud anyway: tells nothing
            posterior *= np.where(bad[:, day[other]] == fraud[other], 1, 1e-6)
        share = (posterior * bad[:, day[row]]).sum() / posterior.sum()
        wanted.append(1.0 if high[row] else share)
    np.testing.assert_allclose(chance[judged], wanted, atol=1e-3)
    assert np.ptp(wanted) > 0.5


def test_cards_are_judged_as_by_trying_every_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """No terminal is compromised here: a card's amounts, and the labels that are known, say all."""
    means = np.array([10.0, 30.0, 80.0])
    monkeypatch.setattr(oracle, "TERMINALS_A_DAY", 0)
    monkeypatch.setattr(oracle, "CUSTOMERS_A_DAY", 3)
    monkeypatch.setattr(oracle, "CUSTOMER_DAYS", 5)
    monkeypatch.setattr(oracle, "MEANS", means)
    table = market(14, 40)
    chance = oracle.chance_of_fraud(table, starting(7))
    at, amount = table["at"].to_numpy(), table["TX_AMOUNT"].to_numpy()
    day, fraud = at // DAY - FIRST, table["TX_FRAUD"].to_numpy() == 1
    customer, high = table["CUSTOMER_ID"].to_numpy(), amount > 220
    stolen, prior = started_patterns(14, 5, 3 / (customer.max() + 1))

    def honest(x: float) -> np.ndarray:
        """A normal amount; what fell below zero is drawn evenly up to twice the mean."""
        return norm.pdf(x, means, means / 2) + np.where(x < 2 * means, norm.cdf(-2) / 2 / means, 0)

    def ways(row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the likelihoods of the amount, by way and mean: by the thief, and not."""
        open_ = stolen[:, day[row], None]
        thief = np.where(open_, 1 / 3, 0) * honest(amount[row] / 5) / 5
        return thief, np.where(open_, 2 / 3, 1) * honest(amount[row])

    judged, wanted = np.flatnonzero(np.isfinite(chance)), []
    assert len(judged) > 150
    for row in judged:
        posterior = prior[:, None] * (means / means.sum())
        for other in np.flatnonzero((customer == customer[row]) & (at < at[row])):
            thief, owner = ways(other)
            known = at[other] + 7 * DAY <= at[row]
            if known and not high[other]:
                posterior = posterior * (thief if fraud[other] else owner)
            else:
                posterior = posterior * (thief + owner)
        thief, owner = ((posterior * of).sum() for of in ways(row))
        wanted.append(1.0 if high[row] else thief / (thief + owner))
    np.testing.assert_allclose(chance[judged], wanted, atol=2e-3)
    assert np.ptp(wanted) > 0.5
