"""What nobody can pass on the handbook's card transactions: raters that are told what is hidden.

    python tests/benchmarks/bound.py --data handbook.parquet [--chosen-on]

The generator draws with published seeds, so its hidden states can be drawn again; that they are
the right ones is checked on every transaction. What no rater can have is the label of the last
seven days: until then a terminal that has gone bad takes what any other takes.

`genie`: is told which cards are stolen today, what each customer spends in the mean, and which
terminals had gone bad a week ago, and since when; gives each transaction its chance of being a
fraud. Whoever has only transactions and labels knows less. `seer`: knows every fraud but those that
nothing but a terminal's first seven bad days explains, and ranks these like anything honest.
The spread over draws is that of frauds which rank as luck has it.
"""

from __future__ import annotations

import argparse
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from sectionfour.domain import DAY
from sectionfour.learning import handbook
from sectionfour.loading.imports import read_handbook

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

CUSTOMERS, TERMINALS = 5_000, 10_000
ALWAYS_ABOVE = 220.0
TERMINALS_A_DAY, TERMINAL_DAYS = 2, 28
CUSTOMERS_A_DAY, CUSTOMER_DAYS, STOLEN_SHARE, STOLEN_TIMES = 3, 14, 1 / 3, 5.0
DELAY = handbook.DELAY_DAYS
DRAWS = 40


class Hidden(NamedTuple):
    """Of each transaction: whether its terminal is bad, and whether it was a week ago; whether its
    card is stolen; and what its customer spends in the mean."""

    bad: Bools
    known: Bools
    stolen: Bools
    mean: Floats


def drawn(count: int, of: int, days: int, length: int, after: int = 0) -> Bools:
    """Return for each day and each of `of` whether it is in its days `after` to `length`, where
    each day `count` begin, drawn with the day as seed."""
    state = np.zeros((days + length, of), dtype=np.bool_)
    everyone = pd.Series(np.arange(of))
    for day in range(days):
        who = everyone.sample(n=count, random_state=day).to_numpy()
        state[day + after : day + length, who] = True
    return state


def hidden(table: pd.DataFrame) -> Hidden:
    """Return what the generator hid; ends where the transactions contradict it."""
    day = (table["at"] // DAY - table["at"].min() // DAY).to_numpy()
    days = int(day.max()) + 1
    customer, terminal = table["CUSTOMER_ID"].to_numpy(), table["TERMINAL_ID"].to_numpy()
    bad = drawn(TERMINALS_A_DAY, TERMINALS, days, TERMINAL_DAYS)[day, terminal]
    known = drawn(TERMINALS_A_DAY, TERMINALS, days, TERMINAL_DAYS, DELAY)[day, terminal]
    stolen = drawn(CUSTOMERS_A_DAY, CUSTOMERS, days, CUSTOMER_DAYS)[day, customer]
    mean = 5 + 95 * np.random.RandomState(0).uniform(size=(CUSTOMERS, 4))[:, 2]
    fraud = table["TX_FRAUD"].to_numpy() == 1
    high = table["TX_AMOUNT"].to_numpy() > ALWAYS_ABOVE
    # On its last day the generator begins nothing.
    if (~fraud & (bad | high) & (day < days - 1)).any() or (fraud & ~(bad | high | stolen)).any():
        raise SystemExit("these are not the transactions that these seeds make")
    return Hidden(bad, known, stolen, mean[customer])


def ended(table: pd.DataFrame) -> Bools:
    """Return of each transaction whether its terminal was bad once and is so no more."""
    day = (table["at"] // DAY - table["at"].min() // DAY).to_numpy()
    bad = drawn(TERMINALS_A_DAY, TERMINALS, int(day.max()) + 1, TERMINAL_DAYS)
    once = np.logical_or.accumulate(bad)
    found: Bools = (once & ~bad)[day, table["TERMINAL_ID"].to_numpy()]
    return found


def genie(table: pd.DataFrame, states: Hidden) -> Floats:
    """Return each transaction's chance to be a fraud, for who is told of `states` what a week old
    labels could tell at most."""
    amount, mean = table["TX_AMOUNT"].to_numpy(), states.mean

    def density(x: Floats) -> Floats:
        again = norm.cdf(-2.0) * (x < 2 * mean) / (2 * mean)
        return np.asarray(norm.pdf(x, mean, mean / 2) + again + 1e-12)

    five = STOLEN_SHARE * density(amount / STOLEN_TIMES) / STOLEN_TIMES
    card = np.where(states.stolen, five / (five + (1 - STOLEN_SHARE) * density(amount)), 0)
    unseen = 1 - (1 - TERMINALS_A_DAY / TERMINALS) ** DELAY
    chance = 1 - (1 - card) * (1 - np.where(states.known, 1.0, unseen))
    return np.where(amount > ALWAYS_ABOVE, 1.0, chance)


def seer(table: pd.DataFrame, states: Hidden) -> Floats:
    """Return 1 for every fraud but those that only a terminal's first bad days explain."""
    high = table["TX_AMOUNT"].to_numpy() > ALWAYS_ABOVE
    explained = high | states.known | states.stolen
    return ((table["TX_FRAUD"].to_numpy() == 1) & explained).astype(np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--chosen-on", action="store_true", help="the earlier folds instead")
    options = parser.parse_args()
    table = read_handbook(options.data)
    starts = handbook.CHOSEN_ON if options.chosen_on else handbook.TEST
    states = hidden(table)
    day = (table["at"].to_numpy() // DAY).astype(np.int64)
    customer = table["CUSTOMER_ID"].to_numpy(dtype=np.int64)
    fraud = table["TX_FRAUD"].to_numpy() == 1
    rng = np.random.default_rng(0)
    print(f"{'rater':8} {'AUC':>16} {'AP':>16} {'CP@100':>16}")
    for name, score in (("genie", genie(table, states)), ("seer", seer(table, states))):
        found = []
        for start in starts:
            number = (start - date(1970, 1, 1)).days
            test = handbook.fold(day, customer, fraud, number, "all").test
            for _ in range(DRAWS):
                ranked = score[test] + 1e-9 * rng.random(len(test))
                found.append(
                    (
                        float(roc_auc_score(fraud[test], ranked)),
                        float(average_precision_score(fraud[test], ranked)),
                        handbook.card_precision(day[test], customer[test], fraud[test], ranked),
                    )
                )
        means = np.array(found).reshape(len(starts), DRAWS, 3).mean(axis=0)
        cells = zip(means.mean(axis=0), means.std(axis=0), strict=True)
        print(f"{name:8} " + " ".join(f"{mean:8.4f} ±{spread:6.4f}" for mean, spread in cells))
    unseen = fraud & (seer(table, states) == 0)
    rows = [handbook.fold(day, customer, fraud, (s - date(1970, 1, 1)).days, "all") for s in starts]
    share = np.mean([unseen[r.test].sum() / fraud[r.test].sum() for r in rows])
    print(f"frauds that nothing can have told of: {share:.1%}")


if __name__ == "__main__":
    main()
