"""What a past teaches in which no fraud has ended yet, on the handbook's card transactions.

    python tests/benchmarks/ended.py --data handbook.parquet

A terminal is bad for 28 days, so what began on 2018-04-01, the first day of all, is over on the
29th. Whoever learnt before that has seen no terminal that has known frauds and is honest again. The
benchmark's settings learn from parts of the past before 2018-05-09 and are judged on the week from
there on, by the protocol: on all of it, and without what was paid at terminals that have ended.
"""

from __future__ import annotations

import argparse
from datetime import date
from pathlib import Path

import numpy as np
from bound import ended, hidden
from sklearn.metrics import average_precision_score

from sectionfour.features.catalog import DAY
from sectionfour.learning import handbook
from sectionfour.loading.imports import read_handbook

#: First and last day of what is learnt from, and by which settings; `train` learnt from the first.
PARTS: tuple[tuple[str, str, handbook.Regime], ...] = (
    ("2018-04-01", "2018-04-14", "all"),
    ("2018-04-01", "2018-04-24", "all"),
    ("2018-04-18", "2018-04-24", "same"),
    ("2018-04-25", "2018-05-01", "same"),
    ("2018-04-01", "2018-05-01", "all"),
)


def number(text: str) -> int:
    """Return a date as days since the epoch."""
    return (date.fromisoformat(text) - date(1970, 1, 1)).days


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    whole = read_handbook(parser.parse_args().data)
    hidden(whole)  # ends where these are not the transactions that the seeds make
    over = ended(whole)
    day = (whole["at"].to_numpy() // DAY).astype(np.int64)
    customer = whole["CUSTOMER_ID"].to_numpy(dtype=np.int64)
    fraud = whole["TX_FRAUD"].to_numpy() == 1
    test = handbook.fold(day, customer, fraud, number("2018-04-25"), "same").test
    seen = np.arange(test[-1] + 1)
    matrix = handbook.features(whole.iloc[seen])
    print(f"{len(test):,} judged, {int(fraud[test].sum())} frauds; at ended terminals")
    print(f"{int(over[test].sum())}, {int((over & fraud)[test].sum())} frauds")
    print(f"{'learnt from':34} {'rows':>8} {'ended':>6} {'AP':>6} {'without ended':>14}")

    def say(name: str, train: handbook.Ints, regime: handbook.Regime) -> None:
        score = handbook.learnt(matrix, fraud[seen], handbook.Fold(train, test), regime)
        rest = ~over[test]
        figures = (
            average_precision_score(fraud[test], score),
            average_precision_score(fraud[test][rest], score[rest]),
        )
        ends = int(over[train].sum())
        print(f"{name:34} {len(train):8,} {ends:6} {figures[0]:6.3f} {figures[1]:14.3f}")

    for begin, end, regime in PARTS:
        train = np.flatnonzero((day >= number(begin)) & (day <= number(end)))
        say(f"{begin} to {end[5:]}, {regime}", train, regime)
        if over[train].any():
            say("the same without ended", train[~over[train]], regime)


if __name__ == "__main__":
    main()
