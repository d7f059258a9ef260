"""A week of the handbook's card transactions, lived through over HTTP as it happened.

    python tests/benchmarks/week.py --data handbook.parquet [--start 2018-08-08] [--days 7]

Everything before the week is imported, with the labels that were known by then; a model is trained
on it and served. Then the service's clock is moved from transaction to transaction: each is sent as
a checkout would, each label when it became known. What the service answered is judged by the
published protocol, and beside it, on the same rows: the served model on the vectors that history
computes; the benchmark's settings on all rows that `train` learnt from, and on the older part of
them, which the model has learnt that was judged; and the figures of `benchmark handbook`.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from sectionfour.commands.opened import opened
from sectionfour.domain import DAY, instant, micros
from sectionfour.features import history
from sectionfour.learning import handbook, past, registry
from sectionfour.loading.imports import HANDBOOK_DELAY, read_handbook
from sectionfour.parts import Parts
from sectionfour.trial import demo

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "sectionfour.cli"]


def run(*arguments: str) -> str:
    """Run a command of ours; return what it said."""
    began = time.perf_counter()
    done = subprocess.run([*COMMAND, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    print(f"$ sectionfour {' '.join(arguments)}   ({time.perf_counter() - began:.0f} s)")
    print(done.stdout, flush=True)
    return done.stdout


def bodies(table: pd.DataFrame, start: int, end: int) -> list[tuple[int, str, bytes, int]]:
    """Return (at, path, body, row) of each transaction of the week and each label known in it."""
    steps: list[tuple[int, str, bytes, int]] = []
    week = table[(table["at"] >= start) & (table["at"] < end)]
    for row, at, customer, terminal, amount in zip(
        week.index, week["at"], week["CUSTOMER_ID"], week["TERMINAL_ID"], week["TX_AMOUNT"],
        strict=True,
    ):  # fmt: skip
        body = {
            "event_id": f"handbook_{row}",
            "purpose": "security.transaction_risk",
            "event": {"type": "purchase", "occurred_at": instant(at)},
            "member": {"id": f"customer_{customer}"},
            "transaction": {
                "order_id": f"handbook_{row}",
                "amount": round(amount * 100),
                "currency": "EUR",
                "payee_id": f"terminal_{terminal}",
            },
        }
        steps.append((at, "/v1/assessments", msgspec.json.encode(body), row))
    known = table["at"] + HANDBOOK_DELAY
    told = table[(known >= start) & (known < end)]
    for row, at, fraud in zip(told.index, told["at"], told["TX_FRAUD"], strict=True):
        body = {
            "label_id": f"handbook_{row}",
            "event_id": f"handbook_{row}",
            "label": "chargeback" if fraud else "legitimate",
            "source": "handbook",
        }
        steps.append((at + HANDBOOK_DELAY, "/v1/labels", msgspec.json.encode(body), -1))
    return sorted(steps, key=lambda step: step[0])


def _answered(
    connection: http.client.HTTPConnection, path: str, body: bytes, headers: dict[str, str]
) -> tuple[int, bytes]:
    connection.request("POST", path, body, headers)
    response = connection.getresponse()
    return response.status, response.read()


def live(
    url: str, key: str, clock: Path, steps: list[tuple[int, str, bytes, int]]
) -> dict[int, float]:
    """Send every step at its own time; return the risk score of each transaction by its row."""
    scores: dict[int, float] = {}
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    for at, path, body, row in tqdm(steps, unit="call", file=sys.stderr):
        fresh = clock.with_suffix(".next")
        fresh.write_text(instant(at))
        os.replace(fresh, clock)
        try:
            status, answer = _answered(connection, path, body, headers)
        except ConnectionError:  # whoever stood still for long is cut off; a repeat counts once
            connection.close()
            status, answer = _answered(connection, path, body, headers)
        if status not in (200, 201):
            raise SystemExit(f"{path} answered {status}: {answer.decode()}")
        if row >= 0:
            scores[row] = msgspec.json.decode(answer)["risk_score"]
    return scores


def recomputed(parts: Parts) -> tuple[int, int, dict[int, float]]:
    """Return how many vectors were kept with assessments, how many of these history computes to
    the bit, and the probability that the model of now gives history's, by the transaction's row."""
    kept = dict(
        parts.ledger.rows("SELECT event_id, vector FROM assessments WHERE vector IS NOT NULL")
    )
    found = past.read(parts.ledger)
    matrix, _ = history.compute(found.events, found.known, clusters=found.clusters)
    names = found.events["event_id"]
    places = np.flatnonzero(names.isin(list(kept)))
    names, matrix = names.iloc[places], matrix[places]
    equal = sum(kept[name] == row.tobytes() for name, row in zip(names, matrix, strict=True))
    score = parts.models.get("transaction").score(matrix)
    rows = names.str.removeprefix("handbook_").astype(int)
    return len(kept), equal, dict(zip(rows, score.tolist(), strict=True))


def learnt_until(models: Path) -> dict[str, int]:
    """Return the instant of the last row that the transaction model of now learnt from, as it is
    served and as it was judged."""
    version = registry.current(models, "transaction")
    manifest = json.loads((models / "transaction" / str(version) / registry.MANIFEST).read_text())
    return {
        what: micros(datetime.fromisoformat(manifest["periods"][part]["to"]))
        for what, part in (("is served", "test"), ("was judged", "learn"))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--start", default="2018-08-08")
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--port", type=int, default=8490)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _week(Path(folder), options)


def _week(folder: Path, options: argparse.Namespace) -> None:
    first = datetime.fromisoformat(options.start).replace(tzinfo=UTC)
    start, end = micros(first), micros(first + timedelta(days=options.days))
    clock = folder / "clock"
    clock.write_text(instant(start))
    os.environ |= {
        "SECTIONFOUR_HOME": str(folder / "home"),
        "SECTIONFOUR_MODELS": str(folder / "models"),
        "SECTIONFOUR_CLOCK": str(clock),
    }
    table = read_handbook(options.data)
    # The account model is served as it is; ours is the first of its name, and so promoted at once.
    shutil.copytree(ROOT / "models" / "account", folder / "models" / "account")
    run("import", "handbook", str(options.data), "--until", options.start)
    run("train", "--model", "transaction", "--delay-days", "7", "--test-days", "7")
    key = run("keys", "create", "--role", "checkout").split()[0]
    where = f"127.0.0.1:{options.port}"
    service = subprocess.Popen([*COMMAND, "serve", "--bind", where])
    try:
        for _ in range(600):
            try:
                demo.call(where, "GET", "/healthz")
                break
            except OSError:
                time.sleep(0.2)
        steps = bodies(table, start, end)
        began = time.perf_counter()
        scores = live(f"http://{where}", key, clock, steps)
        seconds = time.perf_counter() - began
    finally:
        service.terminate()
        service.wait(timeout=60)
    print(f"{len(steps):,} calls, one at a time, {len(steps) / seconds:,.0f} a second")
    run("verify")
    beside(table, scores, first, folder / "models")


def beside(table: pd.DataFrame, scores: dict[int, float], first: datetime, models: Path) -> None:
    """Print the figures of the served scores of the week that begins at `first`, and the others."""
    at = table["at"].to_numpy()
    day = (at // DAY).astype(np.int64)
    customer = table["CUSTOMER_ID"].to_numpy(dtype=np.int64)
    fraud = table["TX_FRAUD"].to_numpy() == 1
    week = first - timedelta(days=handbook.TRAIN_DAYS + handbook.DELAY_DAYS)
    folds = {
        r: handbook.fold(day, customer, fraud, micros(week) // DAY, r) for r in handbook.SETTINGS
    }
    test = folds["same"].test  # of both
    test = test[table.index[test].isin(list(scores))]  # all of them, but for less than a week

    def say(who: str, score: NDArray[np.float64]) -> None:
        found = handbook.judged(day[test], customer[test], fraud[test], score)
        print(
            f"{who}: AUC {found.auc:.3f}, AP {found.average_precision:.3f},"
            f" CP@100 {found.card_precision:.3f} on {found.transactions:,}/{found.frauds}"
        )

    with opened() as parts:
        kept, equal, again = recomputed(parts)
    print(f"vectors: {equal:,} of {kept:,} are to the bit what history computes")
    say("served", np.array([scores[row] for row in table.index[test]]))
    say("the same model on history's vectors", np.array([again[row] for row in table.index[test]]))
    matrix = handbook.features(table)
    for what, until in learnt_until(models).items():
        learn = handbook.Fold(np.flatnonzero(at <= until), test)
        name = (
            f"benchmark's settings on what the model learnt that {what}, to {instant(until)[:10]}"
        )
        say(name, handbook.learnt(matrix, fraud, learn, "all"))
    for regime, rows in folds.items():
        until = int(at[rows.train[-1]])
        rows = handbook.Fold(rows.train, test)
        score = handbook.learnt(matrix, fraud, rows, regime)
        say(f"benchmark, {regime}, to {instant(until)[:10]}", score)


if __name__ == "__main__":
    main()
