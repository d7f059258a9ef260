"""The lived week: what is sent and when, and what was served against what history computes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from flask import Flask

from sectionfour.domain import instant, micros
from sectionfour.features.catalog import DAY
from sectionfour.learning import handbook
from sectionfour.loading import imports
from sectionfour.loading.replay import replay
from sectionfour.parts import Parts
from sectionfour.settings import Settings
from sectionfour.web import create_app
from sectionfour.web.keys import create_key

from .benchmarks import week

FIRST = datetime(2018, 4, 20, tzinfo=UTC)
START, END = micros(FIRST), micros(FIRST + timedelta(days=3))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Transactions of 30 days, by 20 customers at 9 terminals, in a file as it is published."""
    rng = np.random.default_rng(3)
    seconds = np.sort(rng.choice(30 * 86_400, 900, replace=False))
    table = pd.DataFrame(
        {
            "TX_DATETIME": pd.Timestamp("2018-04-01") + pd.to_timedelta(seconds, unit="s"),
            "CUSTOMER_ID": rng.integers(0, 20, 900),
            "TERMINAL_ID": rng.integers(0, 9, 900),
            "TX_AMOUNT": rng.integers(100, 9_000, 900) / 100,
            "TX_FRAUD": (rng.random(900) < 0.1).astype(int),
        }
    )
    table.to_parquet(tmp_path / "transactions.parquet")
    return tmp_path / "transactions.parquet"


@pytest.fixture
def lived(
    file: Path, settings: Settings, tmp_path: Path
) -> Iterator[tuple[Parts, dict[int, float]]]:
    """What a service holds that lived through three days, and the scores that it answered with."""
    clock = tmp_path / "clock"
    clock.write_text(instant(START))
    app: Flask = create_app(dataclasses.replace(settings, clock=clock, models=week.ROOT / "models"))
    parts: Parts = app.extensions["sectionfour"]
    replay(imports.handbook(file, START)[0], parts, notice=imports.HANDBOOK_NOTICE)
    headers = {"Authorization": f"Bearer {create_key(parts.ledger, 'checkout', START)}"}
    scores, client = {}, app.test_client()
    for at, path, body, row in week.bodies(imports.read_handbook(file), START, END):
        clock.write_text(instant(at))
        answer = client.post(path, data=body, headers=headers, content_type="application/json")
        assert answer.status_code in (200, 201), answer.get_data()
        if row >= 0:
            scores[row] = answer.get_json()["risk_score"]
    yield parts, scores
    parts.close()


def test_what_was_served_is_what_history_computes_and_the_same_model_gives_it_the_same(lived):
    parts, scores = lived
    kept, equal, again = week.recomputed(parts)
    assert kept == equal == len(scores) > 50
    assert {row: round(100 * score, 2) for row, score in again.items()} == scores
    assert len(set(scores.values())) > 10


def test_one_vector_that_is_off_by_the_last_bit_is_seen(lived):
    parts, _ = lived
    name, vector = parts.ledger.rows(
        "SELECT event_id, vector FROM assessments WHERE vector IS NOT NULL LIMIT 1"
    )[0]
    values = np.frombuffer(vector).copy()
    place = np.flatnonzero(np.isfinite(values) & (values > 0))[0]
    values[place] = np.nextafter(values[place], np.inf)
    with parts.ledger.transaction() as connection:
        connection.execute(
            "UPDATE assessments SET vector = ? WHERE event_id = ?", (values.tobytes(), name)
        )
    kept, equal, _ = week.recomputed(parts)
    assert equal == kept - 1


def test_a_label_is_sent_a_week_after_its_transaction_and_all_in_order_of_time(file):
    table = imports.read_handbook(file)
    steps = week.bodies(table, START, END)
    at = [step[0] for step in steps]
    assert at == sorted(at)
    bought = {row for _, path, _, row in steps if path == "/v1/assessments"}
    assert bought == set(table.index[(table["at"] >= START) & (table["at"] < END)])
    labels = [at for at, path, _, _ in steps if path == "/v1/labels"]
    assert [at - 7 * DAY for at in labels] == [
        at for at in table["at"] if START <= at + 7 * DAY < END
    ]


def test_rows_learnt_from_are_all_that_a_fold_learns_from():
    """The benchmark's settings learn from what they are given: other rows, other scores."""
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(4_000, len(handbook.FEATURES_USED)))
    fraud = matrix[:, 0] + rng.normal(size=4_000) > 2
    test = np.arange(3_000, 4_000)
    whole = handbook.learnt(matrix, fraud, handbook.Fold(np.arange(3_000), test), "all")
    first = handbook.learnt(matrix, fraud, handbook.Fold(np.arange(1_000), test), "all")
    alone = handbook.learnt(
        np.concatenate([matrix[:1_000], matrix[test]]),
        np.concatenate([fraud[:1_000], fraud[test]]),
        handbook.Fold(np.arange(1_000), np.arange(1_000, 2_000)),
        "all",
    )
    assert np.array_equal(first, alone)
    assert not np.array_equal(first, whole)
