"""The judge of what is attainable: it knows how the data was made, and nothing that comes later."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score

from sectionfour.domain import DAY
from sectionfour.learning import handbook

from .benchmarks import oracle

ORIGIN = date(2018, 4, 1)
DAYS, CUSTOMERS, TERMINALS = 60, 300, 400
#: The first day that is judged.
JUDGED = DAYS - handbook.TEST_DAYS
START = ORIGIN + timedelta(days=JUDGED - handbook.TRAIN_DAYS - handbook.DELAY_DAYS)


def a_world(seed: int = 5) -> pd.DataFrame:
    """Return transactions made as the published ones were, of fewer people and terminals."""
    rng = np.random.default_rng(seed)
    mean = rng.uniform(5, 100, CUSTOMERS)
    stolen = np.full(CUSTOMERS, -1)  # until when
    taken = np.full(TERMINALS, -1)
    parts = []
    for day in range(DAYS):
        taken[rng.choice(TERMINALS, oracle.TERMINALS_A_DAY)] = day + oracle.TERMINAL_DAYS
        stolen[rng.choice(CUSTOMERS, oracle.CUSTOMERS_A_DAY)] = day + oracle.CUSTOMER_DAYS
        who = np.repeat(np.arange(CUSTOMERS), rng.poisson(2, CUSTOMERS))
        where = rng.integers(0, TERMINALS, len(who))
        amount = rng.normal(mean[who], mean[who] / 2)
        amount = np.where(amount < 0, rng.uniform(0, 2 * mean[who]), amount).round(2)
        times = (stolen[who] > day) & (rng.random(len(who)) < oracle.STOLEN_SHARE)
        amount = np.where(times, amount * oracle.STOLEN_TIMES, amount)
        fraud = times | (taken[where] > day) | (amount > oracle.ALWAYS_ABOVE)
        at = np.sort(rng.integers(0, DAY, len(who)))
        first = (ORIGIN - date(1970, 1, 1)).days + day
        parts.append(
            pd.DataFrame(
                {
                    "at": first * DAY + at,
                    "CUSTOMER_ID": who,
                    "TERMINAL_ID": where,
                    "TX_AMOUNT": amount,
                    "TX_FRAUD": fraud.astype(int),
                }
            ).sample(frac=1, random_state=day)
        )
    whole = pd.concat(parts).sort_values("at", ignore_index=True)
    whole["at"] += np.arange(len(whole))  # no two at once
    return whole


def day_of(table: pd.DataFrame) -> np.ndarray:
    return (table["at"] // DAY - table["at"].min() // DAY).to_numpy()


def test_nothing_that_comes_later_changes_what_it_says():
    """Of the first day judged: labels that are not yet seven days old, and amounts of the days
    after it, may be others; and labels that are old enough may not."""
    table = a_world()
    day = day_of(table)
    today = day == JUDGED
    said = oracle.chance_of_fraud(table, [START])[today]
    assert np.isfinite(said).all()
    later = table.copy()
    young = table["at"] + handbook.DELAY_DAYS * DAY > table["at"][today].max()
    plain = table["TX_AMOUNT"] <= oracle.ALWAYS_ABOVE
    later.loc[young & plain, "TX_FRAUD"] = 0
    later.loc[day > JUDGED, "TX_AMOUNT"] /= 3
    with np.errstate(invalid="ignore"):  # what cannot have happened has no chances afterwards
        assert np.array_equal(oracle.chance_of_fraud(later, [START])[today], said)
    earlier = table.copy()
    old = day == JUDGED - handbook.DELAY_DAYS - 1
    earlier.loc[old & plain, "TX_FRAUD"] = 0
    with np.errstate(invalid="ignore"):
        assert not np.array_equal(oracle.chance_of_fraud(earlier, [START])[today], said)


def test_it_counts_on_as_many_frauds_as_there_are_and_ranks_them():
    expected = found = spread = 0.0
    for seed in (1, 2, 3):
        table = a_world(seed)
        chance = oracle.chance_of_fraud(table, [START])
        judged = np.isfinite(chance)
        assert np.array_equal(judged, day_of(table) >= JUDGED)
        fraud = table["TX_FRAUD"].to_numpy()[judged]
        p = chance[judged]
        assert ((p >= 0) & (p <= 1 + 1e-9)).all()
        assert (p[table["TX_AMOUNT"].to_numpy()[judged] > oracle.ALWAYS_ABOVE] == 1).all()
        expected, found = expected + p.sum(), found + fraud.sum()
        spread += (p * (1 - p)).sum()
        by_amount = average_precision_score(fraud, table["TX_AMOUNT"].to_numpy()[judged])
        assert average_precision_score(fraud, p) > by_amount + 0.2
    # Frauds at one terminal come together: their number varies more than by chance alone.
    assert abs(found - expected) < 6 * np.sqrt(spread)


def test_who_is_who_by_number_does_not_matter():
    table = a_world()
    other = table.copy()
    rng = np.random.default_rng(0)
    other["CUSTOMER_ID"] = rng.permutation(CUSTOMERS)[table["CUSTOMER_ID"]]
    other["TERMINAL_ID"] = rng.permutation(TERMINALS)[table["TERMINAL_ID"]]
    one, two = (oracle.chance_of_fraud(t, [START]) for t in (table, other))
    assert np.allclose(one, two, rtol=1e-4, atol=1e-6, equal_nan=True)  # sums in another order
