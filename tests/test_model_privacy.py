"""What a model betrays: the attacks find it where it is there, and nothing where it is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from sectionfour import simulate
from sectionfour.bootstrap import open_parts
from sectionfour.cli import main
from sectionfour.errors import HistoryError, SettingsError
from sectionfour.features.catalog import columns
from sectionfour.jobs import clustering
from sectionfour.learning import dataset, membership, registry
from sectionfour.learning.membership import Shadows
from sectionfour.learning.plan import Plan
from sectionfour.learning.progress import Stages
from sectionfour.loading import imports
from sectionfour.loading.replay import replay
from sectionfour.privacy import erasure
from sectionfour.reports import learnable, privacy_report
from sectionfour.settings import Settings
from sectionfour.train import train

ROOT = Path(__file__).parents[1]
#: Learns by heart what it can, and hardly anything.
FREE: dict[str, Any] = {"max_iter": 15, "learning_rate": 0.5, "min_samples_leaf": 2}
HEART: dict[str, Any] = {"max_iter": 150, "min_samples_leaf": 1, "early_stopping": False}
HELD: dict[str, Any] = {"max_iter": 3, "learning_rate": 0.05, "max_leaf_nodes": 2}


@pytest.fixture(scope="module")
def noise() -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Rows that say nothing of their labels: whatever a model knows of them it knows by heart."""
    rng = np.random.default_rng(0)
    places = tuple(columns("transaction")[:8])
    rows = rng.normal(size=(800, len(places)))
    return rows, (rng.random(800) < 0.15).astype(np.int8), places


def figures(noise: Any, settings: dict[str, Any]) -> dict[str, Any]:
    rows, labels, places = noise
    made = membership.shadows(rows, labels, places, settings, count=8, drop_share=0, jobs=1)
    assert (made.inside.sum(axis=0) == 4).all()
    return membership.attacks(made, labels)


def test_attacks_find_who_was_learnt_by_heart_and_nobody_else(noise: Any) -> None:
    free, held = figures(noise, FREE), figures(noise, HELD)
    for kind in ("loss", "lira"):
        assert free[kind]["fraud"]["auc"]["value"] > 0.9
        assert held[kind]["overall"]["auc"]["value"] < 0.6
        assert free[kind]["overall"]["auc"]["value"] > held[kind]["overall"]["auc"]["value"] + 0.1
    said = membership.verdict(free)
    assert not said["fraud_auc"]["holds"]
    assert said["fraud_auc"]["value"] == max(free[k]["fraud"]["auc"]["value"] for k in free)


def test_an_attacker_without_a_clue_guesses() -> None:
    rng = np.random.default_rng(1)
    inside = np.array([h for _ in range(8) for i in [rng.random(3000) < 0.5] for h in (i, ~i)])
    labels = (rng.random(3000) < 0.1).astype(np.int8)
    found = membership.attacks(
        Shadows(inside, rng.normal(size=inside.shape), inside[:, :0]), labels
    )
    for kind in ("loss", "lira"):
        assert found[kind]["overall"]["auc"]["value"] == pytest.approx(0.5, abs=0.02)
        assert found[kind]["fraud"]["auc"]["value"] == pytest.approx(0.5, abs=0.05)
        assert found[kind]["overall"]["tpr_at_1pct"]["value"] == pytest.approx(0.01, abs=0.01)


def test_the_likelihood_ratio_sees_what_a_threshold_on_the_loss_does_not() -> None:
    rng = np.random.default_rng(2)
    inside = np.array([h for _ in range(16) for i in [rng.random(2000) < 0.5] for h in (i, ~i)])
    of_row = rng.normal(scale=20, size=2000)  # some rows are easy and some hard, for every model
    scores = of_row + inside + rng.normal(scale=0.7, size=inside.shape)
    found = membership.attacks(Shadows(inside, scores, scores[:, :0]), np.ones(2000, dtype=np.int8))
    assert found["loss"]["overall"]["auc"]["value"] < 0.55
    assert found["lira"]["overall"]["auc"]["value"] > 0.8


def test_no_attacker_has_a_model_of_the_other_half() -> None:
    """What one half of the rows makes a model say of a place, the other half makes it not say."""
    rng = np.random.default_rng(3)
    halves = [rng.random(2000) < 0.5 for _ in range(8)]
    inside = np.array([half for i in halves for half in (i, ~i)])
    around = [rng.normal(size=2000) for _ in halves]
    scores = np.array([place for i in around for place in (i, -i)])
    labels = np.ones(2000, dtype=np.int8)
    found = membership.attacks(Shadows(inside, scores, scores[:, :0]), labels, targets=16)
    assert found["lira"]["overall"]["auc"]["value"] == pytest.approx(0.5, abs=0.01)


def test_planted_canaries_are_returned_by_a_model_that_learns_by_heart(noise: Any) -> None:
    rows, labels, places = noise
    free = membership.canaries(rows, labels, places, FREE, drop_share=0)
    assert free["planted"] == 50
    assert not free["holds"]
    assert free["excess"] > 0.3
    held = membership.canaries(rows, labels, places, HELD, drop_share=0)
    assert held["excess"] < free["excess"] / 2
    chosen = membership.outliers(rows, labels, 50, np.random.default_rng(0))
    assert labels[chosen].sum() == 0
    assert abs(rows[chosen]).mean() > abs(rows).mean()


def test_the_curve_says_what_holding_back_costs(noise: Any) -> None:
    rows, labels, places = noise
    curve = membership.trade_off(
        rows, labels, rows, labels, places, [FREE, HELD], count=2, drop_share=0, jobs=1
    )
    assert [point["settings"] for point in curve] == [FREE, HELD]
    assert curve[0]["fraud_auc"] > curve[1]["fraud_auc"]
    free, held = (point["average_precision"] for point in curve)
    assert free["value"] > held["value"]
    assert all(each["low"] < each["value"] < each["high"] for each in (free, held))


def test_shadows_run_where_they_are_told_to(noise: Any) -> None:
    rows, labels, places = noise
    common: dict[str, Any] = {"count": 2, "drop_share": 0, "jobs": 2}
    here, threads = (
        membership.shadows(rows, labels, places, HELD, backend=backend, **common)
        for backend in ("loky", "threading")
    )
    assert (here.scores == threads.scores).all()
    card = common | {"seed": 0, "backend": "nowhere"}
    with pytest.raises(SettingsError, match="backends are"):
        membership.of_card(rows, labels, places, HELD, **card)
    with pytest.raises(SettingsError, match="backends are"):
        membership.trade_off(rows, labels, rows, labels, places, [HELD], backend="?", **common)


def test_a_card_says_plainly_what_was_not_measured_and_what_does_not_hold(noise: Any) -> None:
    rows, labels, places = noise
    common = {"drop_share": 0, "seed": 0, "jobs": 1}
    none = membership.of_card(rows, labels, places, FREE, count=0, **common)
    assert none == {"measured": False, "says": "not measured; run `sectionfour privacy-report`"}
    few = membership.of_card(rows, labels * 0, places, FREE, count=2, **common)
    assert not few["measured"]
    assert "too few" in few["says"]
    said = membership.of_card(rows, labels, places, FREE, count=2, **common)
    assert set(said["attacks"]) == {"loss"}
    assert "fraud_auc is" in said["says"]
    assert "by loss alone was tried" in said["says"]
    more = membership.of_card(rows, labels, places, FREE, count=4, **common)
    assert set(more["attacks"]) == {"loss", "lira"}
    assert "by loss alone" not in more["says"]
    assert not said["holds"]
    with pytest.raises(HistoryError, match="too few"):
        membership.outliers(rows[:30], labels[:30], 50, np.random.default_rng(0))


def test_t20_of_the_erased_a_model_that_is_made_anew_tells_what_it_tells_of_strangers(
    tmp_path: Path, record_property: Any
) -> None:
    """Two groups are drawn by lot: strangers go before anything is trained, the erased after it.

    The attacker has all their rows, with labels, and guesses who was learnt from by the loss. The
    control arm is a model that has learnt lots of the erased by heart: the same attack finds them.
    """
    simulate.write(simulate.simulate(seed=20, events=20_000), tmp_path / "market")
    settings = Settings(home=tmp_path, models=tmp_path / "m", velocity_gib=1, durability="normal")
    parts = open_parts(settings)
    replay(imports.market(tmp_path / "market")[0], parts, notice=imports.MARKET_NOTICE)
    clustering.refresh_past(parts, 0)
    key, plan = Ed25519PrivateKey.generate(), Plan(candidates=1, shadows=0, jobs=1)
    trusted = {key.public_key().public_bytes_raw()}
    scored = {purpose: rule.scores for purpose, rule in parts.regime.purposes.items()}

    def read() -> learnable.Learnable:
        with Stages("history", "gate", "features") as stages:
            return learnable.read(parts, stages)

    names = pd.read_parquet(tmp_path / "market" / "members.parquet")["member_id"].tolist()
    of_subject = {s: n for n in names if (s := parts.keys.subject(n)) is not None}
    whole = read()
    lot = np.random.default_rng(0).permutation(len(whole.past.subjects))
    strangers, erased = lot[: len(lot) // 4], lot[len(lot) // 4 : len(lot) // 2]

    def erase(group: Any) -> set[bytes]:
        gone = {whole.past.subjects[number] for number in group}
        for subject in gone:
            erasure.erase(parts, of_subject[subject], "subject_request", parts.clock())
        return gone

    erase(strangers)
    first = {done.name: done for done in train(parts, plan, settings.models, key, trusted)}
    before = set(read().past.subjects)
    gone = erase(erased)
    clustering.refresh_past(parts, 0)
    second = {done.name: done for done in train(parts, plan, settings.models, key, trusted)}
    after = set(read().past.subjects)
    assert before - after == gone
    assert not after - before
    parts.close()

    labels = dataset.labels_at(whole.past.events, whole.past.labels, 1 << 62)
    for name in registry.NAMES:
        assert first[name].version != second[name].version
        mine = whole.of_model(name, scored)
        sides = [mine & np.isin(whole.member, group) for group in (erased, strangers)]
        rows = np.concatenate([np.flatnonzero(side) for side in sides])
        inside = np.repeat([1, 0], [side.sum() for side in sides])
        model, _ = registry.load(settings.models, name, second[name].version, trusted)
        lots = np.random.default_rng(1).integers(0, 2, len(labels))
        heart = HistGradientBoostingClassifier(**HEART, random_state=0)
        seen = np.flatnonzero(mine & ~sides[1])
        heart.fit(whole.matrix[np.ix_(seen, columns(name))], lots[seen])
        arms = {
            "anew": (labels[rows], model.score(whole.matrix[rows])),
            "by heart": (
                lots[rows],
                heart.predict_proba(whole.matrix[np.ix_(rows, columns(name))])[:, 1],
            ),
        }
        found = {
            arm: roc_auc_score(inside, np.where(said, p, 1 - p)) for arm, (said, p) in arms.items()
        }
        record_property(f"AUC of membership of the erased, {name}", round(found["anew"], 3))
        assert len(rows) > 2_000
        assert abs(found["anew"] - 0.5) < 0.05, found
        assert found["by heart"] > 0.75, found


def test_one_command_prints_the_report_and_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate.write(simulate.simulate(seed=9, events=8_000), tmp_path / "market")
    home = tmp_path / "home"
    parts = open_parts(Settings(home=home, velocity_gib=0.1, durability="normal"))
    replay(imports.market(tmp_path / "market")[0], parts, notice=imports.MARKET_NOTICE)
    parts.close()
    monkeypatch.setattr(membership, "CURVE", ({"max_iter": 5},))
    monkeypatch.setattr(privacy_report.fit, "FIRST", privacy_report.fit.FIRST | {"max_iter": 10})
    environment = {
        "SECTIONFOUR_HOME": str(home), "SECTIONFOUR_MODELS": str(tmp_path / "none"),
        "SECTIONFOUR_VELOCITY_GIB": "0.1",
    }  # fmt: skip
    members = CliRunner().invoke(
        main, ["audit-set", str(tmp_path / "market/members.parquet")], env=environment
    )
    assert members.exit_code == 0, members.output
    said = CliRunner().invoke(
        main,
        ["privacy-report", "--shadows", "4", "--curve-shadows", "2", "--jobs", "1"],
        env=environment,
    )
    assert said.exit_code == 0, said.output
    found = json.loads((home / "reports" / "privacy-transaction.json").read_bytes())
    assert set(found["T16"]["attacks"]) == {"loss", "lira"}
    assert found["T17"]["planted"] == 50
    assert len(found["trade_off"]) == 1
    for text in ("T16", "T17 50 canaries", "T18 gender", "AP "):
        assert text in said.output
