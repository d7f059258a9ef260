"""Features of the past against the book's way in pandas, side by side in one run.

    python tests/benchmarks/past.py --data handbook.parquet [--rows 200000] [--rounds 3]

Twelve columns: count and mean amount of a customer over 1, 7 and 30 days, this transaction
included; count and share of frauds of a terminal over 1, 7 and 30 days that end 7 days before it.
Ties are broken by microseconds, so a handful of rows at the edge of a window may differ.
The baseline is written from the protocol's description: rolling windows, a group at a time.
The two take turns; both begin with the file as a data frame and end with a data frame.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import pandas as pd

from sectionfour.domain import DAY
from sectionfour.features import counted, history
from sectionfour.features.catalog import Window
from sectionfour.learning import handbook
from sectionfour.loading import imports

DAYS, DELAY = (1, 7, 30), 7


def in_pandas(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns as rolling windows over each customer's and each terminal's rows."""
    found = []
    for _, mine in table.groupby("CUSTOMER_ID"):
        amounts = mine.set_index("TX_DATETIME")["TX_AMOUNT"]
        of = {}
        for days in DAYS:
            window = amounts.rolling(f"{days}D")
            count, total = window.count(), window.sum()
            of[f"customer_count_{days}d"] = count.to_numpy()
            of[f"customer_mean_{days}d"] = (total / count).to_numpy()
        found.append(pd.DataFrame(of, index=mine.index))
    customers = pd.concat(found)
    found = []
    for _, mine in table.groupby("TERMINAL_ID"):
        frauds = mine.set_index("TX_DATETIME")["TX_FRAUD"]
        late = frauds.rolling(f"{DELAY}D")
        late_count, late_frauds = late.count(), late.sum()
        of = {}
        for days in DAYS:
            whole = frauds.rolling(f"{DELAY + days}D")
            count = whole.count() - late_count
            of[f"terminal_count_{days}d"] = count.to_numpy()
            risk = (whole.sum() - late_frauds) / count
            of[f"terminal_risk_{days}d"] = risk.fillna(0).to_numpy()
        found.append(pd.DataFrame(of, index=mine.index))
    return customers.join(pd.concat(found)).sort_index()


def ours(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns from twelve windows of the catalog's form, by the engine that computes it.

    What is known of a payee counts from when it is known, so the delay needs no second window.
    """
    events, known = handbook.transactions(table)
    windows = [
        Window(f"{name}_{days}", by, of, agg, days * DAY, "", "", "", what)
        for days in DAYS
        for name, by, of, agg, what in (
            ("count", "member", "purchase", "count", None),
            ("amount", "member", "purchase", "sum", "amount"),
            ("frauds", "payee", "fraud", "count", None),
            ("cleared", "payee", "cleared", "count", None),
        )
    ]
    of = {window.name: np.full(len(events), np.nan) for window in windows}
    counted.fill(of, history.joined(events, known, ["amount", "member", "payee"]), windows)
    amount, found = events["amount"].to_numpy(), {}
    for days in DAYS:
        count, total, frauds, known_of = (
            of[f"{name}_{days}"] for name in ("count", "amount", "frauds", "cleared")
        )
        count += 1  # this transaction too
        total += amount
        total /= count
        total /= 100
        known_of += frauds
        found[f"customer_count_{days}d"] = count
        found[f"customer_mean_{days}d"] = total
        found[f"terminal_count_{days}d"] = known_of
        # Where nothing is known there are no frauds either: 0, as in the baseline.
        found[f"terminal_risk_{days}d"] = np.divide(
            frauds, known_of, where=known_of > 0, out=frauds
        )
    return pd.DataFrame(found, index=table.index, copy=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, help="only the first so many")
    parser.add_argument("--rounds", type=int, default=3, help="how often each does it; medians")
    options = parser.parse_args()
    table = imports.read_handbook(options.data).head(options.rows)
    print(f"{len(table):,} transactions")
    ways = {"ours": ours, "pandas": in_pandas}
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    frames = {}
    for _ in range(options.rounds):
        for name, way in ways.items():
            frames.pop(name, None)
            began, spent = time.perf_counter(), time.process_time()
            frames[name] = way(table)
            wall[name].append(time.perf_counter() - began)
            cpu[name].append(time.process_time() - spent)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"{name:7} {wall[name][-1]:7.2f} s, {cpu[name][-1]:7.2f} s of CPU,"
                f" {len(frames[name].columns)} columns, peak memory so far {peak:,.0f} MiB"
            )
    for unit, of in (("seconds", wall), ("seconds of CPU", cpu)):
        median = {name: float(np.median(of[name])) for name in ways}
        times = median["pandas"] / median["ours"]
        both = ", ".join(f"{name} {value:.2f}" for name, value in median.items())
        print(f"{unit}, medians of {options.rounds}: {both}: {times:.1f} times (aim: 20)")
    for name in frames["ours"]:
        off = np.abs(frames["ours"][name] - frames["pandas"][name])
        differ = int((off > 1e-6).sum())
        print(f"  {name:22} {differ:8,} of {len(off):,} rows differ, at most by {off.max():.6g}")


if __name__ == "__main__":
    main()
