"""What is attainable on the handbook's card transactions: a judge that knows how they were made.

    python tests/benchmarks/oracle.py --data handbook.parquet [--chosen-on] [--ours]

It knows the generator as its authors tell it, and of each transaction only what could be known by
then: every earlier transaction, and the labels of those that are seven days old. So it is a bound
for whoever has to learn the same from examples, not a model: nothing here is used by the service.

Every amount above 220 is a fraud. Each day 2 terminals are compromised, for 28 days, and all that
they take is fraud. Each day 3 customers' cards are stolen, for 14 days, and a third of their
transactions are frauds of five times the amount. A customer's amounts are normal about a mean of
their own, with half of it as deviation; what would be negative is drawn evenly up to twice that.

A terminal is a chain of days left (0 to 28), a customer one of days left (0 to 14) for each mean
on a grid; both are filtered forward, day by day, by what became known, and each fraud's other
explanation is weighed. Two things are printed of it: frauds expected and found (a judge that
misunderstood the generator would show there), and what it would reach were the labels drawn anew
from its own chances: the mean of that is what is attainable, its spread is the luck of four weeks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score
from tqdm import tqdm

from sectionfour.domain import DAY
from sectionfour.learning import handbook
from sectionfour.loading.imports import read_handbook

Floats = NDArray[Any]
Ints = NDArray[np.int64]
Chains = dict[int, Floats]

ALWAYS_ABOVE = 220.0
TERMINALS_A_DAY, TERMINAL_DAYS = 2, 28
CUSTOMERS_A_DAY, CUSTOMER_DAYS, STOLEN_SHARE, STOLEN_TIMES = 3, 14, 1 / 3, 5.0
#: Means of customers are even between 5 and 100; the grid is in equal ratios, and weighted for it.
MEANS = np.geomspace(5, 100, 64)
TINY = 1e-12
DELAY = handbook.DELAY_DAYS
DRAWS = 40


def density(amount: Floats) -> Floats:
    """Return the density of honest amounts for every mean of the grid: (amounts, means)."""
    x, m = amount[:, None], MEANS[None, :]
    again = norm.cdf(-2.0) * (x < 2 * m) / (2 * m)
    return np.asarray(norm.pdf(x, m, m / 2) + again + TINY)


def onward(chain: Floats, hazard: float) -> Floats:
    """Return the chain a day later; the last axis is days left."""
    fresh = np.empty_like(chain)
    fresh[..., :-1] = chain[..., 1:]
    fresh[..., -1] = 0
    fresh[..., 0] += chain[..., 0]
    fresh *= 1 - hazard
    fresh[..., -1] += hazard * chain.sum(axis=-1)
    return fresh


def learn(chain: Floats, who: Ints, clean: Floats, taken: Floats) -> None:
    """Weigh the chains of `who`, all different, by likelihoods; each sums to one again."""
    part = chain[who]
    part[..., 0] *= clean
    part[..., 1:] *= taken[..., None]
    part /= part.sum(axis=tuple(range(1, part.ndim)), keepdims=True) + 1e-30
    chain[who] = part


def in_turn(who: Ints) -> list[Ints]:
    """Return positions in `who` in parts, so that in each part everybody comes once at most."""
    order = np.argsort(who, kind="stable")
    place = np.arange(len(who))
    first = np.diff(who[order], prepend=-1) != 0
    turn = place - np.maximum.accumulate(np.where(first, place, 0))
    return [order[turn == n] for n in range(int(turn.max(initial=-1)) + 1)]


def pairs(who: Ints, others: Ints) -> tuple[Ints, Ints]:
    """Return the positions (i, j) with `who[i] == others[j]`, by i and then by j."""
    order = np.argsort(others, kind="stable")
    low = np.searchsorted(others[order], who, side="left")
    count = np.searchsorted(others[order], who, side="right") - low
    mine = np.repeat(np.arange(len(who)), count)
    step = np.arange(len(mine)) - np.repeat(np.cumsum(count) - count, count)
    return mine, order[np.repeat(low, count) + step]


class World:
    """The transactions, by day, with what the generator tells of each."""

    def __init__(self, table: pd.DataFrame) -> None:
        self.at = table["at"].to_numpy(dtype=np.int64)
        self.day = self.at // DAY - self.at.min() // DAY
        self.customer = table["CUSTOMER_ID"].to_numpy(dtype=np.int64)
        self.terminal = table["TERMINAL_ID"].to_numpy(dtype=np.int64)
        self.amount = table["TX_AMOUNT"].to_numpy(dtype=np.float64)
        self.fraud = table["TX_FRAUD"].to_numpy() == 1
        self.high = self.amount > ALWAYS_ABOVE
        self.customers, self.terminals = self.customer.max() + 1, self.terminal.max() + 1
        self.rows = [np.flatnonzero(self.day == d) for d in range(self.day.max() + 1)]
        # What else may explain a fraud, its own label unseen: the card, and the terminal.
        self.stolen = np.zeros(len(table))
        self.compromised = np.full(len(table), 0.005)

    def amounts_say(self, rows: Ints) -> tuple[Floats, Floats]:
        """Return the densities of these amounts: honest, and five times an honest one."""
        x = self.amount[rows]
        return density(x), density(x / STOLEN_TIMES) / STOLEN_TIMES

    def customers_say(self, rows: Ints, known: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        """Return each row's likelihood where the card is safe and where it is stolen; the label
        counts where it is known."""
        honest, times = self.amounts_say(rows)
        y, seen = self.fraud[rows][:, None], known[:, None]
        other = np.where(self.high[rows], 1 - TINY, self.compromised[rows])[:, None]
        clean = honest * np.where(seen, np.where(y, other, 1 - other), 1)
        return clean, (1 - STOLEN_SHARE) * clean + STOLEN_SHARE * times * (y | ~seen)

    def terminals_say(self, rows: Ints) -> tuple[Floats, Floats]:
        """Return each label's likelihood where the terminal is honest and where it is not."""
        y = self.fraud[rows]
        other = np.where(self.high[rows], 1 - TINY, np.clip(self.stolen[rows], 1e-6, 1 - TINY))
        return np.where(y, other, 1 - other), np.where(y, 1.0, TINY)


def filter_terminals(world: World, days: set[int]) -> Chains:
    """Set `world.compromised`; return, for `days`, the chains before that day's labels."""
    hazard = TERMINALS_A_DAY / world.terminals
    chain = np.zeros((world.terminals, TERMINAL_DAYS + 1))
    chain[:, 0] = 1
    kept = {}
    for day, rows in enumerate(world.rows):
        chain = onward(chain, hazard)
        if day in days:
            kept[day] = chain.copy()
        who = world.terminal[rows]
        clean, taken = world.terminals_say(rows)
        world.compromised[rows] = 1 - chain[who, 0]
        for turn in in_turn(who):
            learn(chain, who[turn], clean[turn], taken[turn])
    return kept


def filter_customers(
    world: World, days: set[int], terminals: Chains, text: str
) -> list[tuple[Ints, Floats]]:
    """Set `world.stolen`; return the rows of each of `days` and their chances to be frauds."""
    hazard = CUSTOMERS_A_DAY / world.customers
    chain = np.zeros((world.customers, len(MEANS), CUSTOMER_DAYS + 1), dtype=np.float32)
    chain[:, :, 0] = MEANS / MEANS.sum()  # even in the mean itself
    found = []
    for day, rows in enumerate(tqdm(world.rows, desc=text, disable=not sys.stderr.isatty())):
        chain = onward(chain, hazard)
        if day + DELAY in days:
            found.append(judge(world, day + DELAY, chain, terminals[day], hazard))
        who = world.customer[rows]
        amounts = world.amounts_say(rows)
        clean, taken = world.customers_say(rows, np.ones(len(rows), dtype=np.bool_))
        for turn in in_turn(who):
            world.stolen[rows[turn]] = chances(chain[who[turn]], *(a[turn] for a in amounts))
            learn(chain, who[turn], clean[turn], taken[turn])
    return found


def chances(part: Floats, honest: Floats, times: Floats) -> Floats:
    """Return how likely five times the amount is, by the chains as they are."""
    open_ = part[..., 1:].sum(axis=-1)
    five = (open_ * times * STOLEN_SHARE).sum(axis=1)
    one = ((part[..., 0] + open_ * (1 - STOLEN_SHARE)) * honest).sum(axis=1)
    return np.asarray(five / (five + one))


def judge(
    world: World, day: int, chain: Floats, terminals: Floats, hazard: float
) -> tuple[Ints, Floats]:
    """Return each row of `day` and its chance to be a fraud.

    `chain` and `terminals` know the labels of all days before `day` - 7; of that day a label is
    known to a row where it is seven days older; of the days between there are amounts alone.
    """
    rows = world.rows[day]
    cards = chain[world.customer[rows]]
    for back in range(DELAY, -1, -1):
        if back < DELAY:
            cards = onward(cards, hazard)
        earlier = world.rows[day - back]
        mine, theirs = pairs(world.customer[rows], world.customer[earlier])
        before = world.at[earlier[theirs]] < world.at[rows[mine]]
        mine, theirs = mine[before | (back > 0)], earlier[theirs[before | (back > 0)]]
        known = world.at[theirs] + DELAY * DAY <= world.at[rows[mine]]
        for turn in in_turn(mine):
            learn(cards, mine[turn], *world.customers_say(theirs[turn], known[turn]))
    stolen = chances(cards, *world.amounts_say(rows))
    week_ago, shops = world.rows[day - DELAY], terminals[world.terminal[rows]]
    mine, theirs = pairs(world.terminal[rows], world.terminal[week_ago])
    known = world.at[week_ago[theirs]] + DELAY * DAY <= world.at[rows[mine]]
    mine, theirs = mine[known], week_ago[theirs[known]]
    for turn in in_turn(mine):
        learn(shops, mine[turn], *world.terminals_say(theirs[turn]))
    for _ in range(DELAY):
        shops = onward(shops, TERMINALS_A_DAY / world.terminals)
    return rows, np.where(world.high[rows], 1.0, 1 - (1 - stolen) * shops[:, 0])


def chance_of_fraud(table: pd.DataFrame, starts: Sequence[date]) -> Floats:
    """Return the chance of every transaction of the folds' test weeks; NaN elsewhere."""
    world = World(table)
    origin = int(table["at"].min()) // DAY
    days = {
        (start - date(1970, 1, 1)).days - origin + handbook.TRAIN_DAYS + DELAY + n
        for start in starts
        for n in range(handbook.TEST_DAYS)
    }
    filter_customers(world, set(), {}, "customers, first look")
    filter_terminals(world, set())
    filter_customers(world, set(), {}, "customers, with terminals")
    terminals = filter_terminals(world, {day - DELAY for day in days})
    chance = np.full(len(table), np.nan)
    for rows, found in filter_customers(world, days, terminals, "judged"):
        chance[rows] = found
    return chance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--chosen-on", action="store_true", help="the earlier folds instead")
    parser.add_argument("--ours", action="store_true", help="fit ours, and say how far it comes")
    options = parser.parse_args()
    table = read_handbook(options.data)
    starts = handbook.CHOSEN_ON if options.chosen_on else handbook.TEST
    chance = chance_of_fraud(table, starts)
    day = (table["at"].to_numpy() // DAY).astype(np.int64)
    customer = table["CUSTOMER_ID"].to_numpy(dtype=np.int64)
    fraud = table["TX_FRAUD"].to_numpy() == 1
    rng = np.random.default_rng(0)
    means, drawn = [], []

    def judged(test: Ints, bad: NDArray[np.bool_]) -> tuple[float, float, float]:
        return (
            float(roc_auc_score(bad, chance[test])),
            float(average_precision_score(bad, chance[test])),
            handbook.card_precision(day[test], customer[test], bad, chance[test]),
        )

    def say(name: object, values: Sequence[float] | Floats, more: str = "") -> None:
        print(f"{name!s:22} " + " ".join(f"{value:7.4f}" for value in values), more, flush=True)

    print(f"{'fold':22} {'AUC':>7} {'AP':>7} {'CP@100':>7}  frauds expected / found")
    for start in starts:
        test = handbook.fold(day, customer, fraud, (start - date(1970, 1, 1)).days, "all").test
        size = (len(test), int(fraud[test].sum()))
        if handbook.FOLD_SIZES.get(start, size) != size:
            raise SystemExit(f"fold {start} has {size}, published {handbook.FOLD_SIZES[start]}")
        means.append(judged(test, fraud[test]))
        say(start, means[-1], f" {chance[test].sum():.0f} / {size[1]}")
        p = chance[test]
        drawn.append([judged(test, rng.random(len(test)) < p) for _ in range(DRAWS)])
    oracle, anew = np.mean(means, axis=0), np.mean(drawn, axis=0)
    say("mean", oracle)
    say("labels drawn anew", anew.mean(axis=0), "attainable")
    say("their spread (1 sd)", anew.std(axis=0), "the luck of such four weeks")
    if options.ours:
        matrix, best = handbook.features(table), np.array(handbook.BEST_PUBLISHED)
        for regime in ("same", "all"):
            folds = handbook.run(table, starts, regime, matrix=matrix).values()
            got = np.mean([(s.auc, s.average_precision, s.card_precision) for s in folds], axis=0)
            say(f"ours, {regime} data", got)
            share = " ".join(f"{part:7.0%}" for part in (got - best) / (oracle - best))
            print(f"{'':22} {share}  of the way from the best published to the oracle")


if __name__ == "__main__":
    main()
