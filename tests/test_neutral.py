"""Refusing is held against nobody: offsets for what is missing, inside the exported model."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from sectionfour.decisions import policy
from sectionfour.features.catalog import FEATURES, columns
from sectionfour.learning import dataset, fit, neutral, refusing
from sectionfour.learning.model import session

PLACES = columns("account")
MASKED = ("device", "location", "log")


def a_market(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Frauds that device features give away, and missingness that has nothing to do with it."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < 0.03).astype(np.int8)
    matrix = rng.normal(size=(rows, len(PLACES)))
    matrix[:, dataset.columns_of("device", PLACES)] += 1.2 * labels[:, None]
    for category, share in (("identity.document", 0.9), ("biometric.face", 0.95), ("log", 0.2)):
        gone = rng.random(rows) < share
        matrix[np.ix_(gone, dataset.columns_of(category, PLACES))] = np.nan
    return matrix.astype(np.float32).astype(np.float64), labels


@pytest.fixture(scope="module")
def made():
    learn, y = a_market(6_000, 1)
    held, y_held = a_market(6_000, 2)
    rows = dataset.drop_at_random(learn, PLACES, 0.15, np.random.default_rng(0))
    hiding = (y == 1) & (np.arange(len(y)) % 3 > 0)  # here, whoever refuses is worse
    rows[hiding] = dataset.masked(rows[hiding], "device", PLACES)
    classifier = HistGradientBoostingClassifier(max_iter=40, random_state=0).fit(rows, y)
    offsets = neutral.offsets(classifier.decision_function, held[y_held == 0], PLACES)
    return classifier, offsets


def scored(classifier, offsets, rows):
    onnx = fit.export(classifier, len(PLACES), (1.0, 0.0), offsets, neutral.groups(PLACES))
    found = session(onnx).run(["probability"], {"X": rows.astype(np.float32)})
    return found[0][:, 0].astype(np.float64)


def penalties(classifier, offsets):
    test, labels = a_market(6_000, 3)
    found = refusing.refusal_penalties(
        lambda rows: scored(classifier, offsets, rows),
        test,
        labels,
        PLACES,
        clusters=np.arange(len(labels)),
    )
    return {category: abs(one["points"]) for category, one in found.items()}


def test_without_offsets_refusing_costs_and_with_them_it_does_not(made):
    classifier, offsets = made
    before = penalties(classifier, np.zeros_like(offsets))
    after = penalties(classifier, offsets)
    assert before["device"] > 0.5
    assert max(after.values()) < 0.5
    assert after["device"] < before["device"] / 3


def test_what_refusing_costs_is_known_no_better_for_rows_written_out_again():
    """A member's rows are alike: five times the same are no more evidence than one."""
    rows, labels = a_market(400, 6)
    limits = policy.load().thresholds("account")

    def score(some):
        seen = np.nan_to_num(some, nan=-1.0)
        return 1 / (1 + np.exp(3 - seen[:, dataset.columns_of("device", PLACES)].mean(axis=1)))

    widths = []
    for times in (1, 5):
        given = score, np.repeat(rows, times, axis=0), np.repeat(labels, times), PLACES
        of = np.repeat(np.arange(400), times)
        alone = refusing.refusal_penalties(*given, clusters=of)["device"]
        both = refusing.without(*given, limits, clusters=of)
        found = [alone, both[0]["penalty"], both[0]["brier"]]
        assert both[0]["without"] == ["device"]
        assert alone == both[0]["penalty"]
        assert alone["rows"] == times * (labels == 0).sum()
        widths.append([of["high"] - of["low"] for of in found])
    np.testing.assert_allclose(widths[1], widths[0], rtol=0.25)


def test_the_graph_adds_the_offset_of_the_very_pattern(made):
    classifier, _ = made
    offsets = np.arange(1 << len(neutral.groups(PLACES))) / 10 - 1
    rows, _ = a_market(400, 4)
    for category in MASKED:
        rows[::3] = dataset.masked(rows[::3], category, PLACES)
    expected = classifier.decision_function(rows) + offsets[neutral.patterns(rows, PLACES)]
    assert len(np.unique(neutral.patterns(rows, PLACES))) > 4
    found = scored(classifier, offsets, rows)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-expected)), atol=1e-5)


def test_one_column_left_is_not_missing():
    places = neutral.groups(PLACES)[0]
    row = np.zeros((1, len(PLACES)))
    row[0, places[:-1]] = np.nan
    assert neutral.patterns(row, PLACES).tolist() == [0]
    row[0, places] = np.nan
    assert neutral.patterns(row, PLACES).tolist() == [1]


def test_a_pattern_that_nobody_shows_gets_the_sum_of_its_categories(made):
    rows = np.full((neutral.FEWEST - 1, len(PLACES)), 0.0)
    found = neutral.offsets(lambda some: np.nansum(some, axis=1), rows, PLACES)
    assert (found == 0).all()


def test_optional_affiliate_and_partner_data_cannot_move_a_score():
    for category in ("member.optional", "indirect.counterparty", "profile.tag"):
        assert all(category not in feature.needs for feature in FEATURES)
        rows, _ = a_market(10, 5)
        assert dataset.masked(rows, category, PLACES).tobytes() == rows.tobytes()
