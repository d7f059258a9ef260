"""A week of the handbook's card transactions, lived through over HTTP as it happened.

    python tests/benchmarks/week.py --data handbook.parquet [--start 2018-08-08] [--days 7]

Everything before the week is imported, with the labels that were known by then; a model is trained
on it and served. Then the service's clock is moved from transaction to transaction: each is sent as
a checkout would, each label when it became known. What the service answered is judged by the
protocol of `benchmarks.md`, beside the figures of the same week from `benchmark handbook`.
"""

from __future__ import annotations

import argparse
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
from sklearn.metrics import average_precision_score, roc_auc_score
from tqdm import tqdm

from sectionfour.domain import DAY, instant, micros
from sectionfour.learning import handbook
from sectionfour.loading.imports import HANDBOOK_DELAY, read_handbook
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


def live(
    url: str, key: str, clock: Path, steps: list[tuple[int, str, bytes, int]]
) -> dict[int, float]:
    """Send every step at its own time; return the risk score of each transaction by its row."""
    import http.client

    scores: dict[int, float] = {}
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    for at, path, body, row in tqdm(steps, unit="call", file=sys.stderr):
        fresh = clock.with_suffix(".next")
        fresh.write_text(instant(at))
        os.replace(fresh, clock)
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        answer = response.read()
        if response.status not in (200, 201):
            raise SystemExit(f"{path} answered {response.status}: {answer.decode()}")
        if row >= 0:
            scores[row] = msgspec.json.decode(answer)["risk_score"]
    return scores


def judged(table: pd.DataFrame, scores: dict[int, float], first: int) -> handbook.Scores:
    """Judge a week by the published protocol; `first` is the first day of its training week."""
    day = (table["at"].to_numpy() // DAY).astype(np.int64)
    customer = table["CUSTOMER_ID"].to_numpy(dtype=np.int64)
    fraud = table["TX_FRAUD"].to_numpy() == 1
    test = handbook.fold(day, customer, fraud, first, "same").test
    test = test[[row in scores for row in table.index[test]]]
    score = np.array([scores[row] for row in table.index[test]])
    return handbook.Scores(
        auc=float(roc_auc_score(fraud[test], score)),
        average_precision=float(average_precision_score(fraud[test], score)),
        card_precision=handbook.card_precision(day[test], customer[test], fraud[test], score),
        transactions=len(test),
        frauds=int(fraud[test].sum()),
    )


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
    training_week = (first - timedelta(days=14)).date()
    found = judged(table, scores, micros(first - timedelta(days=14)) // DAY)
    line = "AUC {0.auc:.3f}, AP {0.average_precision:.3f}, CP@100 {0.card_precision:.3f}"
    print(f"served: {line.format(found)} on {found.transactions:,}/{found.frauds}")
    for regime in ("same", "all"):
        offline = handbook.run(table, [training_week], regime)[training_week]
        print(f"benchmark, {regime}: {line.format(offline)}")


if __name__ == "__main__":
    main()
