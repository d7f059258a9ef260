"""The last fit: what is served has learnt all that is known, what is said of it stays honest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sectionfour import simulate
from sectionfour.bootstrap import open_parts, trusted_keys
from sectionfour.domain import instant
from sectionfour.errors import HistoryError, RegistryError
from sectionfour.features.catalog import columns
from sectionfour.learning import dataset, evaluate, fit, material, past, refit, registry
from sectionfour.learning.model import Model, session
from sectionfour.learning.plan import Plan
from sectionfour.loading import imports
from sectionfour.loading.replay import replay
from sectionfour.parts import Parts
from sectionfour.reports import period
from sectionfour.settings import Settings
from sectionfour.train import train

NAME = "transaction"
PLAN = Plan(candidates=1, jobs=1, delay_days=7, test_days=28, names=(NAME,), shadows=0)
PLACES = tuple(columns(NAME))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Parts, registry.Card]]:
    """A home that has trained a model, and its card."""
    folder = tmp_path_factory.mktemp("refitted")
    simulate.write(simulate.simulate(seed=9, events=12_000), folder / "market")
    parts = open_parts(Settings(home=folder / "home", models=folder / "m", velocity_gib=1))
    replay(imports.market(folder / "market")[0], parts, notice=imports.MARKET_NOTICE)
    ring = parts.keys.ring
    [done] = train(parts, PLAN, parts.models.folder, ring.signing("models"), trusted_keys(ring))
    yield parts, registry.load(parts.models.folder, NAME, done.version, parts.models.trusted)[1]
    parts.close()


def test_the_figures_are_of_the_model_that_had_not_seen_what_it_is_judged_on(
    trained: tuple[Parts, registry.Card],
) -> None:
    parts, card = trained
    given = (parts.models.folder, NAME, card["version"], parts.models.trusted)
    since, until = registry.tested(card)
    of = period.read(parts, [NAME], since=since, until=until + 1, delay_days=7)[NAME]
    of = of.of(of.mature)
    assert len(of.at) == card["data"]["rows"]["test"]
    found = {
        name: evaluate.METRICS["average_precision"](of.fraud, opened(*given)[0].score(of.rows))
        for name, opened in (("judged", registry.judged), ("served", registry.load))
    }
    said = card["metrics"]["average_precision"]["value"]
    assert found["judged"] == pytest.approx(said, abs=1e-6)
    assert found["served"] > found["judged"] + 0.1  # it has learnt these very rows
    assert "seen nothing" in card["judged"]


def test_what_is_served_has_learnt_from_every_row_whose_label_can_be_known(
    trained: tuple[Parts, registry.Card],
) -> None:
    parts, card = trained
    data = card["data"]
    assert set(data["rows"]) == {"learn", "choose", "delay", "test"}
    assert data["frauds_known"] >= data["frauds"]["learn"] + data["frauds"]["choose"]
    end = registry.unseen_from(card)
    assert instant(end) == data["unseen_from"] > data["to"]
    of = period.read(parts, [NAME], until=end, delay_days=7)[NAME]
    assert sum(data["rows"].values()) == len(of.at)
    assert data["frauds_known"] == of.fraud.sum()
    # Where nothing was fitted anew the model itself was tested.
    older = {"data": {k: v for k, v in data.items() if k != "unseen_from"}}
    assert registry.unseen_from(older) == registry.tested(card)[0]


def test_the_model_that_was_judged_is_signed_for_too(
    trained: tuple[Parts, registry.Card], tmp_path: Path
) -> None:
    parts, card = trained
    version, whole = card["version"], parts.models.folder / NAME
    copy = tmp_path / NAME / version
    copy.mkdir(parents=True)
    for path in (whole / version).iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    served = registry.load(tmp_path, NAME, version, parts.models.trusted)[0]
    judged = registry.judged(tmp_path, NAME, version, parts.models.trusted)[0]
    assert served.digest != judged.digest
    (copy / registry.JUDGED).write_bytes((copy / "model.onnx").read_bytes())
    for opened in (registry.judged, registry.load):
        with pytest.raises(RegistryError, match=r"judged\.onnx was changed"):
            opened(tmp_path, NAME, version, parts.models.trusted)


def test_models_are_compared_as_they_were_judged(trained: tuple[Parts, registry.Card]) -> None:
    parts, card = trained
    ring, folder = parts.keys.ring, parts.models.folder
    other = replace(PLAN, seed=5)
    [done] = train(parts, other, folder, ring.signing("models"), trusted_keys(ring))
    assert not done.promoted
    said = period.on_test(parts, NAME, done.version, delay_days=7)
    assert said["champion"]["average_precision"] == {
        **said["champion"]["average_precision"],
        "value": card["metrics"]["average_precision"]["value"],
    }
    assert said["challenger"]["auc"]["value"] == done.metrics["auc"]["value"]


def test_frauds_of_one_member_teach_nothing_of_others(
    trained: tuple[Parts, registry.Card],
) -> None:
    parts, _ = trained
    found = past.read(parts.ledger)
    found.events["member"] = 1
    rows = np.arange(len(found.events))
    labels = (rows % 50 == 0).astype(np.int8)
    quarters = np.array_split(rows, 4)
    split = dataset.Split(*quarters, labels, labels, 0, 0, {})
    matrix = np.ones((len(rows), len(dataset.FEATURES)))
    with pytest.raises(HistoryError, match=f"{NAME}: all {labels.sum()} known frauds are of one"):
        material.gather(NAME, found, matrix, split, PLAN)


# --- crossing ----------------------------------------------------------------------------------


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=2, max_size=120),
    st.integers(0, 99),
)
def test_members_are_dealt_whole_and_each_part_has_frauds(
    rows: list[tuple[int, bool]], seed: int
) -> None:
    rows = [*rows, (31, True), (32, True), (33, False)]
    clusters = np.unique([c for c, _ in rows], return_inverse=True)[1]
    labels = np.array([y for _, y in rows], dtype=np.int8)
    part = refit.dealt(labels, clusters, np.random.default_rng(seed))
    for cluster in range(clusters.max() + 1):
        assert len(np.unique(part[clusters == cluster])) == 1
    bad = len(np.unique(clusters[labels == 1]))
    assert set(part[labels == 1]) == set(range(min(bad, refit.PARTS))) == set(part) - {-1}
    assert (part >= 0).all()  # so few rows are all crossed


def test_of_many_rows_some_members_are_crossed_and_as_large_a_share_of_frauds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fit, "TRIED_ON", 5_000)
    rng = np.random.default_rng(0)
    clusters = np.unique(rng.integers(0, 3_000, 20_000), return_inverse=True)[1]
    labels = (rng.random(clusters.max() + 1) < 0.1)[clusters].astype(np.int8)
    part = refit.dealt(labels, clusters, rng)
    assert 4_900 < (part >= 0).sum() <= 5_000
    assert labels[part >= 0].mean() == pytest.approx(labels.mean(), abs=0.002)


def a_past(rng: np.random.Generator, rows: int) -> tuple[Any, Any, Any]:
    """Rows of which the first column tells how likely a fraud is, by a member of ten rows each."""
    clusters = np.arange(rows) // 10
    matrix = rng.random((rows, len(PLACES)))
    labels = (rng.random(rows) < 0.3 * matrix[:, 0] ** 2).astype(np.int8)
    return matrix, labels, clusters


def test_what_is_crossed_means_what_it_says_and_what_was_learnt_does_not() -> None:
    rng = np.random.default_rng(1)
    matrix, labels, clusters = a_past(rng, 3_000)
    chosen = fit.FIRST | {"max_leaf_nodes": 31, "max_iter": 30, "learning_rate": 0.2}
    last = refit.refit(matrix, labels, clusters, PLACES, chosen, PLAN)
    served = Model(NAME, "", "", session(last.onnx), last.usual)
    fresh, truth, _ = a_past(rng, 6_000)
    error = evaluate.METRICS["calibration_error"](truth, served.score_rows(fresh))
    # What the last model itself says of rows that it has learnt is no measure of what it means.
    raw = served.session.run(["log_odds"], {"X": matrix.astype(np.float32)})[0]
    slope, intercept = fit.calibrate(raw, labels)
    unseen = served.session.run(["log_odds"], {"X": fresh.astype(np.float32)})[0][:, 0]
    by_heart = 1 / (1 + np.exp(-(slope * unseen + intercept)))
    assert error < 0.03
    assert evaluate.METRICS["calibration_error"](truth, by_heart) > 2 * error
    assert last.agreement < fit.AGREEMENT


def test_refusing_is_neutral_for_those_who_come_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a device told of the older half, it does not tell of the newer."""
    rng = np.random.default_rng(2)
    places = dataset.columns_of("device", PLACES)
    matrix = rng.random((4_000, len(PLACES)))
    matrix[2_000:, places] *= 0.3
    labels = (rng.random(4_000) < 0.4 * matrix[:, places[0]] ** 2).astype(np.int8)
    fresh = rng.random((1_000, len(PLACES)))
    fresh[:, places] *= 0.3
    chosen = fit.FIRST | {"max_iter": 30, "learning_rate": 0.2}

    def penalty() -> float:
        last = refit.refit(matrix, labels, np.arange(4_000), PLACES, chosen, PLAN)
        score = Model(NAME, "", "", session(last.onnx), last.usual).score_rows
        return 100 * float((score(dataset.masked(fresh, "device", PLACES)) - score(fresh)).mean())

    assert abs(penalty()) < 1
    monkeypatch.setattr(refit, "NEWEST", 1.0)
    assert penalty() > 2
