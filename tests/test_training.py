"""Training that can be trusted: what is wrong with a history is said, the same gives the same."""

from __future__ import annotations

import fcntl
import hashlib
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from sectionfour import simulate
from sectionfour.bootstrap import open_parts, trusted_keys
from sectionfour.cli import main
from sectionfour.decisions import policy
from sectionfour.errors import HistoryError, RegistryError, SettingsError
from sectionfour.features.catalog import DAY, columns
from sectionfour.learning import dataset, evaluate, past, registry
from sectionfour.learning.plan import Plan
from sectionfour.loading import imports
from sectionfour.loading.replay import replay
from sectionfour.parts import Parts
from sectionfour.reports import period
from sectionfour.settings import Settings
from sectionfour.train import train

PLAN = Plan(candidates=1, jobs=1, delay_days=7, test_days=28, names=("transaction",), shadows=0)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    """A market's past in a home, on a clock that stands still."""
    folder = tmp_path_factory.mktemp("trained")
    simulate.write(simulate.simulate(seed=9, events=12_000), folder / "market")
    parts = open_parts(
        Settings(home=folder / "home", models=folder / "m", durability="normal", velocity_gib=1)
    )
    replay(imports.market(folder / "market")[0], parts, notice=imports.MARKET_NOTICE)
    now = parts.clock()
    yield replace(parts, clock=lambda: now)
    parts.close()


def run(parts: Parts, plan: Plan, models: Path) -> list[Any]:
    ring = parts.keys.ring
    return train(parts, plan, models, ring.signing("models"), trusted_keys(ring))


def digests(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_the_same_history_and_seed_give_the_same_bytes_whatever_the_backend(
    kept: Parts, tmp_path: Path
) -> None:
    two = replace(PLAN, candidates=2)
    plans = [replace(two, backend="threading", jobs=2), replace(two, backend="loky", jobs=2)]
    found = []
    for number, plan in enumerate(plans):
        run(kept, plan, tmp_path / str(number))
        found.append(digests(tmp_path / str(number)))
    assert found[0] == found[1]
    assert {name.rpartition("/")[2] for name in found[0]} == {
        "CURRENT", "card.json", "histograms.json", "manifest.json", "model.onnx", "signature",
    }  # fmt: skip
    other = run(kept, replace(PLAN, seed=5), tmp_path / "0")
    assert other[0].version not in str(found[0])
    assert not other[0].promoted

    name, version = "transaction", registry.current(tmp_path / "0", "transaction")
    assert version is not None
    card = registry.load(tmp_path / "0", name, version, trusted_keys(kept.keys.ring))[1]
    manifest = registry.beside(tmp_path / "0", card, registry.MANIFEST)
    events = past.read(kept.ledger).events
    scores = {p: r.scores for p, r in kept.regime.purposes.items()}
    of_model = int(dataset.model_rows(events, name, scores).sum())
    assert manifest["events"] == len(events)
    assert manifest["plan"]["seed"] == 4
    assert sum(manifest["rows"].values()) < of_model
    assert manifest["left_out"].keys() >= {"no_basis", "too_young", "label_delay"}
    assert manifest["labels"]["labels"] > 0
    assert card["intervals"]["drawn"] == "members"
    patterns = card["calibration_by_pattern"]
    assert patterns[0]["rows"] == max(p["rows"] for p in patterns)
    assert all(p["gap"]["low"] <= p["gap"]["value"] <= p["gap"]["high"] for p in patterns)

    path = tmp_path / "0" / name / version / registry.MANIFEST
    path.write_bytes(path.read_bytes().replace(b'"seed": 4', b'"seed": 9'))
    with pytest.raises(RegistryError, match=r"manifest\.json was changed"):
        registry.load(tmp_path / "0", name, version, trusted_keys(kept.keys.ring))


def test_a_run_that_was_killed_leaves_nothing_half_and_the_next_goes_on(
    kept: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(PLAN, candidates=1)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(registry, "promote", killed)
        with pytest.raises(KeyboardInterrupt):
            run(kept, plan, tmp_path)
    [version] = registry.versions(tmp_path, "transaction")
    assert registry.current(tmp_path, "transaction") is None
    half = tmp_path / "transaction" / ".v9.0123abcd"
    half.mkdir()
    assert registry.sweep(tmp_path, "transaction") == 1
    [done] = run(kept, plan, tmp_path)
    assert (done.version, done.new, done.promoted) == (version, False, True)
    before = digests(tmp_path)
    run(kept, plan, tmp_path)
    assert digests(tmp_path) == before
    [other] = run(kept, replace(plan, seed=6, challenge=True), tmp_path)
    assert other.challenges
    assert registry.challengers(tmp_path, "transaction") == [other.version]
    assert registry.current(tmp_path, "transaction") == version


def test_one_class_of_one_model_leaves_the_registry_untouched_for_all(
    kept: Parts, tmp_path: Path
) -> None:
    found = past.read(kept.ledger)
    last = pd.Timestamp(found.events["at"].iloc[0] + 20 * DAY, unit="us", tz="UTC")
    plan = replace(PLAN, names=registry.NAMES, until=int(last.value // 1000))
    with pytest.raises(HistoryError, match="both classes are needed"):
        run(kept, plan, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_period_is_judged_by_what_is_known_and_missed_frauds_cost_their_amount(
    kept: Parts,
) -> None:
    of = period.read(kept, ["transaction"], delay_days=40)["transaction"]
    assert not of.mature[-1]
    assert of.fraud[of.mature].sum() > 0
    rng = np.random.default_rng(0)
    costs = policy.load().transaction
    said = period.judged(of, rng.random(len(of.at)), costs)
    assert said["too_young"] == (~of.mature).sum()
    lost = np.where(np.isnan(of.amount), costs.missed_fraud, of.amount)[of.mature]
    nobody = 1000 * (lost * of.fraud[of.mature]).sum() / of.mature.sum()
    assert said["paid"]["nobody_stopped"]["cost"] == pytest.approx(nobody, abs=0.01)
    assert sum(said["outcomes"]["share"].values()) == pytest.approx(1, abs=1e-4)
    assert said["reviews_a_day"]["most"] >= said["reviews_a_day"]["mean"]


# --- the command -----------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path: Path) -> Any:
    environment = {
        "SECTIONFOUR_HOME": str(tmp_path / "home"),
        "SECTIONFOUR_MODELS": str(tmp_path / "models"),
        "SECTIONFOUR_VELOCITY_GIB": "0.05",
    }
    return lambda *words: CliRunner(env=environment).invoke(main, words)


def test_the_exit_status_says_what_happened(command: Any, tmp_path: Path) -> None:
    empty = command("train")
    assert empty.exit_code == 65
    assert "no events to learn from" in empty.output
    assert not (tmp_path / "models").exists()
    with open(tmp_path / "home" / "train.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = command("train")
    assert second.exit_code == 75
    assert "another run" in second.output
    assert command("train", "--candidates", "many").exit_code == 2
    assert command("train", "--candidates", "0").exit_code == 1


def test_costs_without_rising_thresholds_are_refused_in_words(command: Any, tmp_path: Path) -> None:
    file = tmp_path / "costs.toml"
    said = msgspec.structs.asdict(policy.load().transaction)
    # A review is cheap and stops little; a challenge costs more, and stops everything.
    bad = said | {"wrong_block": 100_000.0, "challenge_friction": 2000.0, "challenge_stops": 1.0,
                  "review_minutes": 0.0, "review_delay": 100.0, "review_stops": 0.8}  # fmt: skip
    tables = {"transaction": bad, "account": said}
    lines = [[f"[{name}]", *(f"{k} = {v}" for k, v in of.items())] for name, of in tables.items()]
    file.write_text("\n".join(line for table in lines for line in table))
    with pytest.raises(SettingsError, match="look at the costs of these two"):
        policy.load(file)
    result = command("evaluate", "transaction", "--costs", str(file))
    assert result.exit_code == 1
    assert "challenge would be the cheapest again" in result.output


# --- what may be wrong with a history --------------------------------------------------------


def a_history(days: int = 60, a_day: int = 20) -> pd.DataFrame:
    at = np.arange(days * a_day, dtype=np.int64) * (DAY // a_day) + 20_000 * DAY
    return pd.DataFrame({"at": at, "event_id": [f"e{n}" for n in range(len(at))]})


def labels_of(*rows: tuple[int, str | None, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["at", "event_id", "label"]).sort_values("at")


def test_odd_labels_are_counted_by_their_reason() -> None:
    events = a_history()
    late = int(events["at"].iloc[-1])
    plain = [(late + n, f"e{n + 100}", "chargeback") for n in range(40)]
    kept, counts = dataset.usable(
        events,
        labels_of(
            *plain,
            (late + 50, "e1", "chargeback"),
            (late + 51, "e1", "chargeback"),
            (late + 52, "e1", "legitimate"),
            (late + 53, "e2", "suspected_fraud"),
            (late + 54, None, "account_takeover"),
            (late + 55, "nobody's", "chargeback"),
            (int(events["at"].iloc[9]) - 1, "e9", "chargeback"),
        ),
    )
    assert counts == {
        "labels": 47, "unknown_event": 1, "before_event": 1, "duplicate": 1, "contradicting": 1,
        "about_member": 1, "suspicion": 1,
    }  # fmt: skip
    assert len(kept) == 45
    found = dataset.labels_at(events, kept, 1 << 62)
    assert found.sum() == 40
    assert not found[[1, 9]].any()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([(1, f"e{n}", "chargeback") for n in range(9)], "known before their event"),
        ([(1 << 60, f"x{n}", "chargeback") for n in range(9)], "events that are not there"),
    ],
)
def test_labels_that_are_mostly_wrong_teach_nothing(rows: list[Any], words: str) -> None:
    with pytest.raises(HistoryError, match=words):
        dataset.usable(a_history(), labels_of(*rows))


def test_a_gap_is_told_and_named_where_it_breaks_the_split() -> None:
    events = a_history()
    assert dataset.gaps(events["at"].to_numpy()) == []
    day = (events["at"] // DAY - 20_000).to_numpy()
    torn = events[(day < 20) | (day > 50)].reset_index(drop=True)
    at = torn["at"].to_numpy()
    [gap] = dataset.gaps(at)
    assert gap["days"] == 31
    late = int(at[-1])
    labels = labels_of(*[(late, f"e{n}", "chargeback") for n in range(0, 400, 7)])
    rows = np.ones(len(torn), dtype=bool)
    with pytest.raises(HistoryError, match="1 gap, the longest of 31 days, from 2024-10-24"):
        dataset.split(torn, labels, rows, delay_days=7, test_days=21)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 0.5, "many", b"1"])
def test_an_amount_that_is_none_is_refused_and_none_is_no_amount(value: Any) -> None:
    with pytest.raises(
        HistoryError, match="1 of 3 events have no usable amount: it is not a whole"
    ):
        past.quantity("amount", [1, value, None])
    assert past.quantity("amount", [1, 2, None]).sum() == 3


def test_a_damaged_amount_leaves_the_registry_untouched(kept: Parts, tmp_path: Path) -> None:
    one = "(SELECT MIN(at) FROM events WHERE amount IS NOT NULL)"
    [(was,)] = kept.ledger.rows(f"SELECT amount FROM events WHERE at = {one}")
    with kept.ledger.transaction() as connection:
        connection.execute(f"UPDATE events SET amount = ? WHERE at = {one}", (math.inf,))
    try:
        with pytest.raises(HistoryError, match="no usable amount"):
            run(kept, PLAN, tmp_path / "m")
    finally:
        with kept.ledger.transaction() as connection:
            connection.execute(f"UPDATE events SET amount = ? WHERE at = {one}", (was,))
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.5, -1.0])
def test_an_import_refuses_an_amount_that_is_none(value: float, tmp_path: Path) -> None:
    market = simulate.simulate(seed=2, events=3_000)
    simulate.write(market, tmp_path / "market")
    events = pd.read_parquet(tmp_path / "market" / "events.parquet")
    events["amount"] = events["amount"].astype("float64")
    events.loc[events["order_id"].notna().idxmax(), "amount"] = value
    events.to_parquet(tmp_path / "market" / "events.parquet")
    with pytest.raises(HistoryError, match="1 orders have an amount"):
        imports.market(tmp_path / "market")


def test_a_category_that_nobody_has_is_named_and_without_a_vital_one_nothing_is_learnt() -> None:
    places = columns("transaction")
    rows = np.ones((50, len(places)))
    assert dataset.missing_throughout(rows, places) == []
    rows[:, dataset.columns_of("device", places)] = np.nan
    assert dataset.missing_throughout(rows, places) == ["device"]
    rows[:, dataset.columns_of("member.required", places)] = np.nan
    with pytest.raises(HistoryError, match=r"member\.required is missing for everybody"):
        dataset.missing_throughout(rows, places)


@pytest.mark.parametrize(
    "wrong", [{"names": ("other",)}, {"candidates": 0}, {"test_days": 0}, {"drop_share": 1.0}]
)
def test_a_plan_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        Plan(**wrong)


# --- metrics and their intervals -------------------------------------------------------------

rated = st.lists(
    st.tuples(st.integers(0, 1), st.integers(1, 19).map(lambda k: k / 20), st.integers(0, 3)),
    min_size=4,
    max_size=40,
).filter(lambda rows: len({row[0] for row in rows}) == 2)


@settings(max_examples=100, deadline=None)
@given(rated)
def test_weighted_metrics_are_those_of_rows_written_out(rows: list[tuple[int, float, int]]) -> None:
    labels, scores, weights = (np.array(column) for column in zip(*rows, strict=True))
    labels = labels.astype(np.int8)
    written = np.repeat(np.arange(len(rows)), weights)
    if len(np.unique(labels[written])) < 2:
        return
    found = evaluate._weighted(labels, scores)(weights.astype(np.float64))
    for name in ("auc", "average_precision", "brier"):
        slow = evaluate.METRICS[name](labels[written], scores[written])
        assert found[name] == pytest.approx(slow, abs=1e-9), name
    even = evaluate._weighted(labels, scores)(np.ones(len(rows)))
    assert even["calibration_error"] == pytest.approx(evaluate.calibration_error(labels, scores))


def test_frauds_that_come_in_clusters_tell_less_than_as_many_apart() -> None:
    rng = np.random.default_rng(0)
    of = np.repeat(np.arange(100), 20)
    fraud = (of < 8).astype(np.int8)
    scores = np.clip(0.3 + 0.2 * fraud + rng.normal(0, 0.2, 100)[of], 0.01, 0.99)
    widths = [
        found["high"] - found["low"]
        for clusters in (None, of)
        for found in [evaluate.metrics(fraud, scores, clusters=clusters)["auc"]]
    ]
    assert widths[1] > 2 * widths[0]


def test_the_mean_precision_of_models_is_measured_on_the_same_draws() -> None:
    rng = np.random.default_rng(5)
    fraud = (rng.random(300) < 0.1).astype(np.int8)
    scores = (rng.random((2, 300)) + fraud) / 2
    drawn: dict[str, Any] = {"clusters": np.arange(300) // 3, "seed": 2}
    one = evaluate.mean_precision(fraud, scores[:1], **drawn)
    assert one == evaluate.metrics(fraud, scores[0], **drawn)["average_precision"]
    assert evaluate.mean_precision(fraud, scores[[0, 0]], **drawn) == one
    both = evaluate.mean_precision(fraud, scores, **drawn)
    each = [evaluate.metrics(fraud, of, **drawn)["average_precision"]["value"] for of in scores]
    assert both["value"] == pytest.approx(np.mean(each), abs=1e-6)


def test_one_class_has_no_metrics_and_says_so() -> None:
    with pytest.raises(HistoryError, match="3 rows with 0 frauds"):
        evaluate.metrics(np.zeros(3, dtype=np.int8), np.array([0.1, 0.2, 0.3]))
