"""Drift is measured against the training period; what chance makes of it is said beside it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sectionfour.domain import DAY
from sectionfour.features.catalog import NAMES, columns
from sectionfour.learning import drift
from sectionfour.reports import drifting
from sectionfour.web.metrics import Metrics

counts = st.lists(st.integers(0, 500), min_size=2, max_size=11).filter(lambda c: sum(c) > 0)


#: Instants of rows that are spread over four months.
AT = np.random.default_rng(6).integers(0, 120 * DAY, 2000)


def of_counts(counts: list[int]) -> dict[str, list[int]]:
    return {"counts": counts}


def alone(rows: int) -> np.ndarray:
    """Return as many members as there are rows."""
    return np.arange(rows)


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
    found = drift.stability(of_counts(expected), of_counts(actual))["psi"]
    assert found == pytest.approx(slow_psi(expected, actual), abs=1e-5)
    assert found >= 0
    assert drift.stability(of_counts(expected), of_counts(expected))["psi"] == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-100, 100) | st.just(math.nan), min_size=1, max_size=60))
def test_a_histogram_holds_every_value_once_and_a_value_at_an_edge_below_it(
    values: list[float],
) -> None:
    given = np.array(values)
    found = drift.histogram(given, alone(len(given)))
    assert found["worth"] == pytest.approx(len(given), abs=0.1)
    assert sum(found["counts"]) == len(values)
    assert found["counts"][-1] == np.isnan(given).sum()
    edges = [-math.inf, *found["edges"], math.inf]
    for count, low, high in zip(found["counts"], edges, edges[1:], strict=False):
        assert count == ((given > low) & (given <= high)).sum()


@pytest.mark.parametrize("each", [1, 10])
def test_without_a_change_chance_explains_nineteen_of_twenty(each: int) -> None:
    """Also where members have ten rows each, much alike: then chance makes more of it."""
    rng = np.random.default_rng(0)

    def rows(members: int) -> tuple[np.ndarray, np.ndarray]:
        of = np.repeat(np.arange(members), each)
        values = rng.normal(size=members)[of] + 0.3 * (each > 1) * rng.normal(size=len(of))
        return np.where(rng.random(members)[of] < 0.1, math.nan, values), of

    found = []
    for _ in range(300):
        before = drift.histogram(*rows(600))
        now = drift.histogram(*rows(300), before["edges"])
        said = drift.stability(before, now)
        found.append(said["psi"] <= said["chance"])
    assert 0.90 <= np.mean(found) <= 0.99
    assert (before["worth"] < 600 * each / 4) == (each > 1)


def test_rows_of_a_member_that_are_the_same_are_worth_one() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(size=500)
    once = drift.histogram(values, alone(500))
    written_thrice = drift.histogram(np.repeat(values, 3), np.repeat(alone(500), 3), once["edges"])
    assert written_thrice["worth"] == pytest.approx(500, rel=0.01)
    assert once["worth"] == pytest.approx(500, rel=0.01)


def test_what_moved_is_named_and_what_did_not_is_not() -> None:
    rng = np.random.default_rng(1)
    places = columns("transaction")
    rows = rng.normal(size=(4000, len(places)))
    before = drift.reference(rows[:2000], places, alone(2000), rng.random(2000), AT[:2000])
    moved = rows[2000:].copy()
    place = [NAMES[i] for i in places].index("page_views")
    moved[:, place] += 2
    found = drift.measure(before, moved, places, alone(2000), rng.random(2000))
    log = found["categories"]["log"]
    assert log["worst"] == "page_views"
    assert drift.verdict(log["features"]["page_views"]) == "much"
    assert drift.verdict(found["scores"]) == "none"
    assert found["categories"]["payment"]["psi"] < drift.SOME


def test_what_fills_by_itself_is_no_drift() -> None:
    """A year's count is higher every month of the first year, whatever anybody does."""
    rng = np.random.default_rng(4)
    places = columns("transaction")
    rows = rng.normal(size=(1000, len(places)))
    before = drift.reference(rows, places, alone(1000), rng.random(1000), AT[:1000])
    grown = rows.copy()
    names = [NAMES[i] for i in places]
    for name in ("member_purchases_1y", "payee_fraud_run_age", "device_age"):
        grown[:, names.index(name)] += 3
    found = drift.measure(before, grown, places, alone(1000), rng.random(1000))["categories"]
    assert max(category["psi"] for category in found.values()) < drift.SOME
    assert found["member.required"]["features"]["member_purchases_1y"]["psi"] > drift.MUCH


def test_what_moved_as_much_before_is_no_news_and_what_moves_on_is() -> None:
    """A window that fills while a model is trained, a market that grows: the newest month of the
    training period is as far from the whole as the month after it."""
    rng = np.random.default_rng(5)
    places = columns("transaction")
    names = [NAMES[i] for i in places]
    filling, jumping = names.index("payee_purchases_37d"), names.index("amount")
    rows = rng.normal(size=(6000, len(places)))
    months = np.repeat(np.arange(6), 1000)
    rows[:, filling] += 3 * np.minimum(months, 3)  # full from the fourth month on
    rows[:, jumping] += 3 * (months == 5)
    at = 30 * DAY * months + 1
    then, now = months < 4, months == 4
    given = (places, alone(1000), rng.random(1000))
    before = drift.reference(rows[then], places, alone(4000), rng.random(4000), at[then])
    quiet = drift.measure(before, rows[now], *given)["categories"]["order"]
    filled = quiet["features"]["payee_purchases_37d"]
    assert filled["psi"] > drift.MUCH
    assert filled["usual"] == pytest.approx(filled["psi"], abs=0.1)
    assert drift.verdict(filled) == "none"
    assert drift.verdict(quiet["features"][quiet["worst"]]) == "none"
    loud = drift.measure(before, rows[months == 5], *given)["categories"]["order"]
    assert loud["worst"] == "amount"
    assert drift.verdict(loud["features"]["amount"]) == "much"


def test_a_category_that_everybody_refuses_is_drift() -> None:
    rng = np.random.default_rng(2)
    places = columns("transaction")
    rows = rng.normal(size=(1000, len(places)))
    before = drift.reference(rows, places, alone(1000), rng.random(1000), AT[:1000])
    refused = rows.copy()
    refused[:, [NAMES[i] for i in places].index("page_views")] = np.nan
    found = drift.measure(before, refused, places, alone(1000), rng.random(1000))
    said = found["categories"]["log"]
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
