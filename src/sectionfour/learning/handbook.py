"""The published benchmark on card transactions: weekly folds with a label delay, and its metrics.

Protocol and figures: Le Borgne, Siblini, Lebichot, Bontempi, *Reproducible Machine Learning for
Credit Card Fraud Detection* (2021), chapters 4 to 7. Features are those of the catalog that the
data's fields allow; settings were chosen on the folds of `CHOSEN_ON`, never on those of `TEST`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import average_precision_score, roc_auc_score

from sectionfour.domain import CLEARED, DAY, FRAUD
from sectionfour.errors import HistoryError
from sectionfour.features import history
from sectionfour.learning import dataset

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Regime = Literal["same", "all"]

TRAIN_DAYS = DELAY_DAYS = TEST_DAYS = 7
CHOSEN_ON = (date(2018, 6, 20), date(2018, 6, 27), date(2018, 7, 4), date(2018, 7, 11))
TEST = (date(2018, 7, 25), date(2018, 8, 1), date(2018, 8, 8), date(2018, 8, 15))
#: What is left after TEST, kept apart for a final check: three days of a test week.
LATER = (date(2018, 8, 22),)
#: Test transactions and frauds that a right implementation sees, by the training week's first day.
FOLD_SIZES = {
    date(2018, 7, 25): (58_264, 385),
    date(2018, 8, 1): (57_937, 387),
    date(2018, 8, 8): (58_337, 408),
    date(2018, 8, 15): (57_604, 422),
}
#: AUC ROC, average precision, card precision at 100 of the published models.
PUBLISHED = {
    "logistic regression": (0.868, 0.623, 0.297),
    "decision tree": (0.797, 0.579, 0.284),
    "random forest": (0.870, 0.678, 0.299),
    "XGBoost": (0.869, 0.687, 0.303),
    "multilayer perceptron": (0.876, 0.675, 0.303),
    "CNN over sequences": (0.872, 0.599, 0.288),
    "LSTM over sequences": (0.876, 0.665, 0.297),
    "LSTM with attention": (0.874, 0.667, 0.295),
    "balanced bagging": (0.879, 0.680, 0.305),
}
BEST_PUBLISHED = (0.879, 0.687, 0.305)

#: Chosen on the folds of CHOSEN_ON; each score is the mean of so many seeds.
SETTINGS: dict[Regime, dict[str, Any]] = {
    "same": {"learning_rate": 0.05, "max_iter": 150, "max_leaf_nodes": 15, "min_samples_leaf": 10,
             "l2_regularization": 1.0, "max_features": 0.4},
    "all": {"learning_rate": 0.06, "max_iter": 150, "max_leaf_nodes": 15, "min_samples_leaf": 50,
            "l2_regularization": 1.0, "max_features": 0.4},
}  # fmt: skip
SEEDS = 3
#: The features of the catalog that these fields allow and that earned their place on CHOSEN_ON.
FEATURES_USED = (
    "amount", "payee_frauds_7d", "payee_frauds_14d", "payee_frauds_30d", "payee_since_fraud",
    "payee_since_cleared", "payee_fraud_share", "payee_fraud_share_7d", "amount_to_cleared_mean",
    "cleared_mean", "member_purchases_7d", "spending_excess_7d", "spending_squares_7d",
    "payee_fraud_run", "payee_fraud_run_age", "payee_fraud_mean_7d", "payee_fraud_mean_30d",
    "member_cleared_1y",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fold:
    """Rows of one fold, as positions in the table it was made from; both ascending."""

    train: Ints
    test: Ints


@dataclass(frozen=True, slots=True)
class Scores:
    """All three in [0, 1], larger is better; and the size of the test, which may lack days."""

    auc: float
    average_precision: float
    card_precision: float
    transactions: int
    frauds: int
    days: int = TEST_DAYS


def fold(day: Ints, customer: Ints, fraud: Bools, start: int, regime: Regime) -> Fold:
    """Return the fold whose training week begins on day `start` (days since the epoch, UTC).

    `same` trains on the training week, `all` on every day up to its end; the delay week is in
    neither. A customer with a fraud on a day from `start` to t - 8 is known to be compromised on
    test day t, and leaves. Raises HistoryError where a week is empty.
    """
    end = start + TRAIN_DAYS
    first = end + DELAY_DAYS
    train = (day < end) if regime == "all" else (day >= start) & (day < end)
    test = (day >= first) & (day < first + TEST_DAYS)
    known_from = np.full(int(customer.max()) + 1, np.iinfo(np.int64).max, dtype=np.int64)
    counts = fraud & (day >= start)
    np.minimum.at(known_from, customer[counts], day[counts] + DELAY_DAYS + 1)
    test &= day < known_from[customer]
    for rows, what, begin in ((train, "training", start), (test, "test", first)):
        if not rows.any():
            raise HistoryError(f"the file has no rows in the {what} week from {_date(begin)} on")
    return Fold(np.flatnonzero(train), np.flatnonzero(test))


def _date(day: int) -> date:
    return date(1970, 1, 1) + timedelta(days=day)


def card_precision(day: Ints, customer: Ints, fraud: Bools, score: Floats, top: int = 100) -> float:
    """Return the mean over days of the share of the `top` customers that have a fraud that day.

    A customer's score is the largest of the day; customers found leave the following days.
    """
    found: set[int] = set()
    shares = []
    for today in np.unique(day):
        rows = np.flatnonzero(day == today)
        names, which = np.unique(customer[rows], return_inverse=True)
        best = np.full(len(names), -np.inf)
        np.maximum.at(best, which, score[rows])
        bad = np.zeros(len(names), dtype=np.bool_)
        np.logical_or.at(bad, which, fraud[rows])
        left = np.array([int(name) not in found for name in names], dtype=np.bool_)
        order = np.argsort(-best[left], kind="stable")[:top]
        hit = names[left][order][bad[left][order]]
        shares.append(len(hit) / top)
        found.update(int(name) for name in hit)
    return float(np.mean(shares))


def learnt(matrix: Floats, fraud: Bools, rows: Fold, regime: Regime) -> Floats:
    """Return the score of each test row, by models of the regime's settings that learn `train`."""
    score = np.zeros(len(rows.test))
    learn = dataset.fill_empty(dataset.levelled(matrix[rows.train], fraud[rows.train]))
    for seed in range(SEEDS):
        model = HistGradientBoostingClassifier(
            **SETTINGS[regime], early_stopping=False, random_state=seed
        ).fit(learn, fraud[rows.train])
        score += model.predict_proba(matrix[rows.test])[:, 1] / SEEDS
    return score


def judged(day: Ints, customer: Ints, fraud: Bools, score: Floats) -> Scores:
    """Return the scores of a fold; all four are of its test rows."""
    return Scores(
        auc=float(roc_auc_score(fraud, score)),
        average_precision=float(average_precision_score(fraud, score)),
        card_precision=card_precision(day, customer, fraud, score),
        transactions=len(fraud),
        frauds=int(fraud.sum()),
        days=len(np.unique(day)),
    )


def transactions(table: pd.DataFrame) -> tuple[pa.Table, pa.Table]:
    """Return the transactions as events, and what became known of each seven days after it."""
    names = ["purchase", CLEARED, FRAUD]
    at, fraud = table["at"].to_numpy(), table["TX_FRAUD"].to_numpy() == 1

    def columns(at: Ints, code: NDArray[np.int8]) -> pa.Table:
        return pa.table({"at": at, "type": pa.DictionaryArray.from_arrays(code, names), **rest})

    rest = {
        "member": table["CUSTOMER_ID"].to_numpy(),
        "payee": table["TERMINAL_ID"].to_numpy(),
        "amount": (table["TX_AMOUNT"] * 100).round().astype("int64").to_numpy(),
    }
    events = columns(at, np.zeros(len(at), np.int8))
    return events, columns(at + DELAY_DAYS * DAY, (fraud + 1).astype(np.int8))


def features(table: pd.DataFrame) -> Floats:
    """Return the features of every transaction, as of it; a label counts seven days after."""
    events, known = transactions(table)
    matrix, _ = history.compute(events, known, only=FEATURES_USED)
    return matrix


def run(
    table: pd.DataFrame,
    starts: Sequence[date],
    regime: Regime,
    *,
    matrix: Floats | None = None,
    progress: Callable[[str], object] = lambda text: None,
) -> dict[date, Scores]:
    """Return the scores of each fold, by its training week's first day.

    Raises HistoryError where a week is empty, or of one class.
    """
    day = (table["at"].to_numpy() // DAY).astype(np.int64)
    customer = pd.factorize(table["CUSTOMER_ID"], sort=True)[0]  # whatever they are called
    fraud = table["TX_FRAUD"].to_numpy() == 1
    if matrix is None:
        progress("features")
        matrix = features(table)
    found = {}
    for start in starts:
        progress(f"{regime} {start}")
        rows = fold(day, customer, fraud, (start - date(1970, 1, 1)).days, regime)
        for places, what in ((rows.train, "learn from"), (rows.test, "test on")):
            if len(np.unique(fraud[places])) < 2:
                raise HistoryError(
                    f"trained from {start}: {int(fraud[places].sum())} of the {len(places)} rows to"
                    f" {what} are frauds; both classes are needed"
                )
        score = learnt(matrix, fraud, rows, regime)
        found[start] = judged(day[rows.test], customer[rows.test], fraud[rows.test], score)
    return found


def table_of(found: dict[Regime, dict[date, Scores]]) -> str:
    """Return our rows beside the published ones, with the spread over folds."""
    lines = [f"{'model':34} {'AUC':>13} {'AP':>13} {'CP@100':>13}"]
    for name, published in PUBLISHED.items():
        lines.append(f"{name:34} " + " ".join(f"{value:13.3f}" for value in published))
    lines.append(
        f"{'best published in each column':34} " + " ".join(f"{v:13.3f}" for v in BEST_PUBLISHED)
    )
    for regime, folds in found.items():
        columns = zip(
            *((s.auc, s.average_precision, s.card_precision) for s in folds.values()), strict=True
        )
        cells = " ".join(
            f"{np.mean(c):6.3f} ±{np.std(c):5.3f}" if len(c) > 1 else f"{c[0]:13.3f}"
            for c in columns
        )
        lines.append(f"{f'Section Four, {regime} data':34} {cells}")
    for start, scores in next(iter(found.values())).items():
        size, expected = (scores.transactions, scores.frauds), FOLD_SIZES.get(start)
        lines.append(f"fold {start}: {size[0]:,} test transactions, {size[1]} frauds")
        if scores.days < TEST_DAYS:
            lines[-1] += f", of {scores.days} days alone"
        if expected is not None:
            wrong = f", WRONG: published are {expected[0]:,} and {expected[1]}"
            lines[-1] += ", as published" if size == expected else wrong
    return "\n".join(lines)
