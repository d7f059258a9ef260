"""Drift is measured against the training period; what chance makes of it is said beside it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sectionfour.features.catalog import NAMES, columns
from sectionfour.learning import drift
from sectionfour.reports import drifting
from sectionfour.web.metrics import Metrics

counts = st.lists(st.integers(0, 500), min_size=2, max_size=11).filter(lambda c: sum(c) > 0)


def slow_psi(expected: list[int], actual: list[int]) -> float:
    """Return the index by its definition, half a row in each bin that is not empty in both."""
    bins = [(e + 0.5, a + 0.5) for e, a in zip(expected, actual, strict=True) if e or a]
    of_e, of_a = sum(e for e, _ in bins), sum(a for _, a in bins)
    return sum((a / of_a - e / of_e) * math.log((a / of_a) / (e / of_e)) for e, a in bins)


@settings(max_examples=60, deadline=None)
@given(counts, st.data())
def test_the_index_is_what_its_definition_says(expected: list[int], data: st.DataObject) -> None:
    actual = data.draw(
        st.lists(st.integers(0, 500), min_size=len(expected), max_size=len(expected)).filter(any)
    )
    found = drift.stability(expected, actual)["psi"]
    assert found == pytest.approx(slow_psi(expected, actual), abs=1e-5)
    assert found >= 0
    assert drift.stability(expected, expected)["psi"] == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-100, 100) | st.just(math.nan), min_size=1, max_size=60))
def test_a_histogram_holds_every_value_once_and_a_value_at_an_edge_below_it(
    values: list[float],
) -> None:
    given = np.array(values)
    found = drift.histogram(given)
    assert sum(found["counts"]) == len(values)
    assert found["counts"][-1] == np.isnan(given).sum()
    edges = [-math.inf, *found["edges"], math.inf]
    for count, low, high in zip(found["counts"], edges, edges[1:], strict=False):
        assert count == ((given > low) & (given <= high)).sum()


def test_without_a_change_chance_explains_nineteen_of_twenty() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        before = drift.histogram(rng.normal(size=2000))
        now = drift.histogram(rng.normal(size=1000), before["edges"])
        said = drift.stability(before["counts"][:-1], now["counts"][:-1])
        found.append(said["psi"] <= said["chance"])
    assert 0.90 <= np.mean(found) <= 0.99


def test_what_moved_is_named_and_what_did_not_is_not() -> None:
    rng = np.random.default_rng(1)
    places = columns("transaction")
    rows = rng.normal(size=(4000, len(places)))
    before = drift.reference(rows[:2000], places, rng.random(2000))
    moved = rows[2000:].copy()
    place = [NAMES[i] for i in places].index("page_views")
    moved[:, place] += 2
    found = drift.measure(before, moved, places, rng.random(2000))
    log = found["categories"]["log"]
    assert log["worst"] == "page_views"
    assert drift.verdict(log["psi"], log["features"]["page_views"]["chance"]) == "much"
    assert drift.verdict(found["scores"]["psi"], found["scores"]["chance"]) == "none"
    assert found["categories"]["payment"]["psi"] < drift.SOME


def test_a_category_that_everybody_refuses_is_drift() -> None:
    rng = np.random.default_rng(2)
    places = columns("transaction")
    rows = rng.normal(size=(1000, len(places)))
    before = drift.reference(rows, places, rng.random(1000))
    refused = rows.copy()
    refused[:, [NAMES[i] for i in places].index("page_views")] = np.nan
    said = drift.measure(before, refused, places, rng.random(1000))["categories"]["log"]
    assert said["features"]["page_views"]["missing"] == [0, 1]
    assert said["psi"] > 1


def test_what_was_measured_is_shown_to_prometheus_and_nothing_before(tmp_path: Path) -> None:
    metrics = Metrics(lambda: 0, tmp_path)
    assert b"drift" not in metrics.text()
    stable = {"psi": 0.25, "chance": 0.01}
    said = {"scores": stable, "categories": {"device": {"psi": 0.5}}}
    drifting.keep(tmp_path, {"measured_at": 2_000_000, "models": {"account": said}})
    text = metrics.text().decode()
    assert 'sectionfour_drift_psi{model="account",of="scores"} 0.25' in text
    assert 'sectionfour_drift_psi{model="account",of="device"} 0.5' in text
    assert "sectionfour_drift_measured_seconds 2.0" in text
