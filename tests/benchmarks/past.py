"""Features of the past against the book's way in pandas, side by side in one run.

    python tests/benchmarks/past.py --data handbook.parquet [--rows 200000]

Twelve columns: count and mean amount of a customer over 1, 7 and 30 days, this transaction
included; count and share of frauds of a terminal over 1, 7 and 30 days that end 7 days before it.
Ties are broken by microseconds, so a handful of rows at the edge of a window may differ.
The baseline is written from the protocol's description: rolling windows, a group at a time.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import pandas as pd

from sectionfour.domain import CLEARED, FRAUD
from sectionfour.features import counted, history
from sectionfour.features.catalog import DAY, Window
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
    events = pd.DataFrame(
        {
            "at": table["at"],
            "type": "purchase",
            "member": table["CUSTOMER_ID"].astype("int64"),
            "payee": table["TERMINAL_ID"].astype("int64"),
            "amount": (table["TX_AMOUNT"] * 100).round().astype("int64"),
        }
    )
    known = events.assign(
        type=np.where(table["TX_FRAUD"] == 1, FRAUD, CLEARED), at=events["at"] + DELAY * DAY
    )
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
    with history._connected({}) as local:
        fields = ["amount", "member", "payee"]
        _, _, joined = history._opened(events, known, fields, local)
    assert joined is not None
    of = counted.windows_of(joined, windows)
    amount, found = events["amount"].to_numpy(dtype=np.float64), {}
    for days in DAYS:
        count = of[f"count_{days}"] + 1
        found[f"customer_count_{days}d"] = count
        found[f"customer_mean_{days}d"] = (of[f"amount_{days}"] + amount) / count / 100
        known_of = of[f"frauds_{days}"] + of[f"cleared_{days}"]
        found[f"terminal_count_{days}d"] = known_of
        risk = np.divide(
            of[f"frauds_{days}"], known_of, where=known_of > 0, out=np.zeros(len(events))
        )
        found[f"terminal_risk_{days}d"] = risk
    return pd.DataFrame(found, index=table.index)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, help="only the first so many")
    options = parser.parse_args()
    table = imports.read_handbook(options.data).head(options.rows)
    print(f"{len(table):,} transactions")
    frames, seconds = {}, {}
    for name, way in (("ours", ours), ("pandas", in_pandas)):
        wall, cpu = time.perf_counter(), time.process_time()
        frames[name] = way(table)
        seconds[name] = time.perf_counter() - wall
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        spent = time.process_time() - cpu
        columns = len(frames[name].columns)
        print(
            f"{name:7} {seconds[name]:8.1f} s, {spent:8.1f} s of CPU, {columns} columns,"
            f" peak memory so far {peak:,.0f} MiB"
        )
    print(f"ours is {seconds['pandas'] / seconds['ours']:.1f} times as fast (aim: 20)")
    for name in frames["ours"]:
        off = np.abs(frames["ours"][name] - frames["pandas"][name])
        differ = int((off > 1e-6).sum())
        print(f"  {name:22} {differ:8,} of {len(off):,} rows differ, at most by {off.max():.6g}")


if __name__ == "__main__":
    main()
