"""Training that can be trusted: what is wrong with a history is said, the same gives the same."""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
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
from sectionfour.commands.learning import _doubts, _say_judged
from sectionfour.commands.opened import DATE
from sectionfour.decisions import policy
from sectionfour.domain import DAY
from sectionfour.errors import HistoryError, RegistryError, SettingsError
from sectionfour.features.catalog import columns
from sectionfour.learning import dataset, evaluate, intervals, past, registry
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
        "CURRENT", "card.json", "histograms.json", "judged.onnx", "manifest.json", "model.onnx",
        "signature",
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
    assert manifest["rows"].keys() == {"learn", "choose", "delay", "test"}
    assert manifest["left_out"].keys() >= {"no_basis", "too_young", "other_model"}
    used_or_not = (*manifest["rows"].values(), *manifest["left_out"].values())
    assert sum(used_or_not) == manifest["events"]
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
    patterns = said["calibration_by_pattern"]
    assert sum(of_pattern["rows"] for of_pattern in patterns) <= of.mature.sum()
    assert 0 < said["members_with_fraud"] <= said["frauds"]


def test_a_period_that_the_model_has_learnt_from_is_told_as_such(
    kept: Parts, capsys: pytest.CaptureFixture[str]
) -> None:
    of = period.read(kept, ["account"], delay_days=7)["account"]
    given = of, np.random.default_rng(0).random(len(of.at)), policy.load().account
    for unseen, told in ((int(of.at[0]), 0), (int(of.at[100]), 100)):
        said = period.judged(*given, unseen=unseen)
        assert said["before_its_test"] == told
        _say_judged({"version": "v1", "fitted_anew": True, **said})
        assert (
            f"{told:,} of these events are from the model's own" in capsys.readouterr().out
        ) == (told > 0)


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
    for words in (("train", "--since"), ("evaluate", "account", "--until"), ("drift", "--since")):
        wrong = command(*words, "yesterday")
        assert wrong.exit_code == 2
        assert "'yesterday' is no date" in wrong.output
    young = command("evaluate", "account", "--since", "2026-01-01", "--delay-days", "nan")
    assert young.exit_code == 1


def _children(of: int) -> set[int]:
    found = {
        int(path.parent.name) for path in Path("/proc").glob("[0-9]*/stat") if _parent(path) == of
    }
    return found.union(*map(_children, found))


def _parent(stat: Path) -> int | None:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):  # it has ended since
        return None


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_who_is_told_to_end_takes_its_workers_along_and_leaves_no_rows(tmp_path: Path) -> None:
    simulate.write(simulate.simulate(seed=9, events=12_000), tmp_path / "market")
    environment = os.environ | {
        "SECTIONFOUR_HOME": str(tmp_path / "home"),
        "SECTIONFOUR_MODELS": str(tmp_path / "models"),
        "JOBLIB_TEMP_FOLDER": str(tmp_path / "shared"),
    }
    (tmp_path / "shared").mkdir()
    ours = (sys.executable, "-m", "sectionfour.cli")
    subprocess.run(
        [*ours, "import", "events", str(tmp_path / "market")], env=environment, check=True
    )
    job = subprocess.Popen([*ours, "train", "--candidates", "64"], env=environment)
    workers: set[int] = set()
    while job.poll() is None and not list((tmp_path / "shared").rglob("*.pkl")):
        time.sleep(0.05)
    workers = _children(job.pid)
    assert job.poll() is None
    assert len(workers) >= 2
    job.terminate()
    assert job.wait(timeout=60) == 143
    for _ in range(100):
        left = {pid for pid in workers if Path(f"/proc/{pid}").exists()}
        if not left:
            break
        time.sleep(0.1)
    assert not left
    assert not list((tmp_path / "shared").rglob("*.pkl"))
    assert not list((tmp_path / "models").rglob("*.onnx"))


def test_a_date_is_of_the_zone_that_it_names_and_else_of_utc() -> None:
    noon = 1_780_315_200_000_000
    for text in ("2026-06-01T12:00", "2026-06-01T20:00+08:00", "2026-06-01T12:00Z"):
        assert DATE.convert(text, None, None) == noon


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


def test_a_split_that_cannot_be_names_the_model_and_what_is_known_at_all() -> None:
    events = a_history(days=120)
    at = events["at"].to_numpy()
    rows = np.ones(len(events), dtype=bool)
    given: dict[str, Any] = {"delay_days": 7, "test_days": 21, "name": "account"}
    with pytest.raises(
        HistoryError, match=r"^account: .* No fraud is known at all: without labels"
    ):
        dataset.split(events, labels_of(), rows, **given)
    late = labels_of(*[(int(at[-1]), f"e{n}", "chargeback") for n in range(0, 2300, 9)])
    with pytest.raises(HistoryError, match="In all 256 frauds are known, 0 of them by 20"):
        dataset.split(events, late, rows, **given)


def test_figures_that_say_little_are_doubted_in_words() -> None:
    card: dict[str, Any] = {
        "metrics": {"auc": {"low": 0.6}},
        "intervals": {"members_with_fraud": 10},
    }
    assert list(_doubts(card)) == []
    card["intervals"]["members_with_fraud"] = 1
    card["metrics"]["auc"]["low"] = 0.22
    few, chance = _doubts(card)
    assert "frauds of 1 member alone" in few
    assert "not seen to rank better than chance (AUC from 0.22 on)" in chance


def test_no_row_is_learnt_from_or_tested_on_before_its_label_can_be_known() -> None:
    events = a_history(days=120)
    at = events["at"].to_numpy()
    known = labels_of(*[(int(at[n]) + 3 * DAY, f"e{n}", "chargeback") for n in range(0, 2300, 9)])
    end = max(int(at[-1]), int(known["at"].max())) + 1
    rows = np.ones(len(events), dtype=bool)

    def split(labels: pd.DataFrame) -> dataset.Split:
        return dataset.split(events, labels, rows, delay_days=7, test_days=21)

    found = split(known)
    assert at[found.learn].max() < at[found.choose].min()
    assert at[found.choose].max() < found.cut - 7 * DAY
    assert found.cut <= at[found.test].min()
    assert at[found.test].max() < end - 7 * DAY
    used = len(found.learn) + len(found.choose) + len(found.delay) + len(found.test)
    assert used + sum(found.left_out.values()) == len(events)
    assert len(found.delay) == found.left_out["too_young"] == 7 * 20
    assert at[found.choose].max() < at[found.delay].min()
    assert at[found.delay].max() < at[found.test].min()
    assert at[found.test].max() < found.matured <= at[-1] + 1
    # What became known once the test had begun tells nothing of the rows before it.
    learnt = np.concatenate([found.learn, found.choose])
    late = labels_of(*[(found.cut, f"e{n}", "chargeback") for n in learnt[::2]])
    again = split(pd.concat([known, late]).sort_values("at"))
    assert again.cut == found.cut
    assert (again.labels[learnt] == found.labels[learnt]).all()
    # The last fit knows it.
    assert (again.known[learnt[::2]] == 1).all()


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


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.5, -1.0, 1e15])
def test_an_import_refuses_an_amount_that_is_none(value: float, tmp_path: Path) -> None:
    market = simulate.simulate(seed=2, events=3_000)
    simulate.write(market, tmp_path / "market")
    events = pd.read_parquet(tmp_path / "market" / "events.parquet")
    events["amount"] = events["amount"].astype("float64")
    events.loc[events["order_id"].notna().idxmax(), "amount"] = value
    events.to_parquet(tmp_path / "market" / "events.parquet")
    with pytest.raises(HistoryError, match="1 orders have an amount"):
        imports.market(tmp_path / "market")


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("market")
    simulate.write(simulate.simulate(seed=2, events=3_000), folder)
    return folder


Change = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.fixture
def changed(market: Path, tmp_path: Path) -> Callable[[str, Change], Path]:
    """Return a market of which one table was changed."""

    def change(name: str, how: Change) -> Path:
        shutil.copytree(market, tmp_path / "market")
        path = tmp_path / "market" / f"{name}.parquet"
        how(pd.read_parquet(path)).to_parquet(path)
        return tmp_path / "market"

    return change


@pytest.fixture
def taken(tmp_path: Path) -> Callable[[Path], tuple[dict[str, int], list[Any]]]:
    """Return what an import left out, and the events and labels that it kept."""

    def take(folder: Path) -> tuple[dict[str, int], list[Any]]:
        home = Path(tempfile.mkdtemp(dir=tmp_path))
        parts = open_parts(Settings(home=home, models=home / "m", velocity_gib=0.1))
        try:
            report = replay(imports.market(folder)[0], parts, notice=imports.MARKET_NOTICE)
            events = parts.ledger.rows("SELECT event_id, at, amount FROM events ORDER BY at")
            return dict(report.left_out), events + parts.ledger.rows("SELECT label_id FROM labels")
        finally:
            parts.close()

    return take


@pytest.mark.parametrize(
    ("name", "how", "words"),
    [
        ("events", lambda t: pd.concat([t, t[5:8]]), "3 events have no event_id, or one that came"),
        ("events", lambda t: t.assign(event_id=t["event_id"].mask(t.index == 9)), "1 events have"),
        ("events", lambda t: t.assign(occurred_at=t["occurred_at"].mask(t.index == 9)), "1 events"),
        ("events", lambda t: t[:0], "events.parquet has no rows"),
        ("labels", lambda t: pd.concat([t, t[:2]]), "2 labels have no label_id, or one that came"),
        ("labels", lambda t: t.assign(known_at=t["known_at"].mask(t.index == 1)), "1 labels have"),
        ("labels", lambda t: t.assign(label="bad"), "labels say something else than chargeback"),
    ],
)
def test_a_past_that_cannot_be_is_refused_before_anything_is_taken(
    name: str, how: Change, words: str, changed: Callable[[str, Change], Path]
) -> None:
    with pytest.raises(HistoryError, match=words):
        imports.market(changed(name, how))


def test_a_past_out_of_order_is_the_same_in_order(
    market: Path, changed: Callable[[str, Change], Path], taken: Callable[[Path], Any]
) -> None:
    assert taken(changed("events", lambda t: t.sample(frac=1, random_state=1))) == taken(market)


def test_labels_that_are_early_or_of_nothing_are_counted_apart(
    market: Path, changed: Callable[[str, Change], Path], taken: Callable[[Path], Any]
) -> None:
    plain, kept = taken(market)

    def wrong(labels: pd.DataFrame) -> pd.DataFrame:
        early = labels["known_at"] - pd.Timedelta(days=300)
        return labels.assign(
            known_at=labels["known_at"].mask(labels.index % 4 == 1, early),
            event_id=labels["event_id"].mask(labels.index % 4 == 2, "nothing"),
        )

    left_out, found = taken(changed("labels", wrong))
    labels = len(pd.read_parquet(market / "labels.parquet"))
    early, none = (len(range(n, labels, 4)) for n in (1, 2))
    assert left_out["label that was known before its event"] == early
    assert left_out["label of an event that was not kept"] == none
    assert len(kept) - len(found) == early + none
    assert "label of an event that was not kept" not in plain


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
    "wrong",
    [
        {"names": ("other",)},
        {"candidates": 0},
        {"test_days": 0},
        {"test_days": math.nan},
        {"delay_days": math.inf},
        {"delay_days": math.nan},
        {"drop_share": 1.0},
        {"jobs": 0},
        {"seed": -1},
        {"shadows": -1},
    ],
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
    found = evaluate.weighted(labels, scores)(weights.astype(np.float64))
    for name in ("auc", "average_precision", "brier"):
        slow = evaluate.METRICS[name](labels[written], scores[written])
        assert found[name] == pytest.approx(slow, abs=1e-9), name
    even = evaluate.weighted(labels, scores)(np.ones(len(rows)))
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


def test_a_draw_is_of_as_many_members_as_there_are_whole_and_of_both_classes() -> None:
    labels = np.array([0, 0, 1, 0, 0, 0], dtype=np.int8)
    of, firsts = np.array([0, 0, 1, 2, 2, 3]), [0, 2, 3, 5]
    drawn = list(intervals.draws(labels, of, seed=1, resamples=200))
    assert len(drawn) == 200
    for weights in drawn:
        assert (weights == weights[firsts][of]).all()
        assert weights[firsts].sum() == 4
        assert 0 < weights @ labels < weights.sum()
    assert len({tuple(weights) for weights in drawn}) > 15
    assert intervals.rows_of(np.array([2.0, 0.0, 1.0])).tolist() == [0, 0, 2]


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


def calibrated(rng: np.random.Generator, members: int, each: int) -> tuple[np.ndarray, ...]:
    """Return labels, true chances and members: a member is a fraud in all events or in none."""
    of = np.repeat(np.arange(members), each)
    chances = np.clip(rng.beta(1, 8, members), 0.001, 0.999)
    return (rng.random(members) < chances)[of].astype(np.int8), chances[of], of


def test_a_perfect_calibration_is_not_said_to_be_none() -> None:
    """Of scores that are the very chances the error is 0, though chance makes it look larger."""
    rng = np.random.default_rng(11)
    missed = 0
    for seed in range(40):
        labels, chances, of = calibrated(rng, 300, 1)
        found = evaluate.metrics(labels, chances, clusters=of, seed=seed)["calibration_error"]
        assert found["low"] <= found["value"] <= found["high"]
        missed += found["low"] > 0
    assert missed <= 4
    labels, chances, of = calibrated(rng, 2000, 1)
    off = evaluate.metrics(labels, np.sqrt(chances), clusters=of)["calibration_error"]
    assert off["low"] > 0.1


@pytest.mark.parametrize("each", [1, 8])
def test_reliability_holds_the_truth_as_often_as_it_says(each: int) -> None:
    rng = np.random.default_rng(12)
    held, by_rows, bins = 0, 0, 0
    for _ in range(60):
        labels, chances, of = calibrated(rng, 400, each)
        for with_members in (True, False):
            for band in evaluate.reliability(
                labels, chances, clusters=of if with_members else None, bins=5
            ):
                inside = band["low"] <= band["mean_score"] <= band["high"]
                held += inside and with_members
                by_rows += inside and not with_members
                bins += with_members
    assert held / bins >= 0.91
    assert (by_rows / bins < 0.75) == (each > 1)


def test_a_pattern_without_a_fraud_is_not_said_to_be_scored_too_high() -> None:
    """Of 100 rows that say 0.4 %, two thirds of the time none is a fraud."""
    scores = np.full(1100, 0.004)
    labels = (np.arange(1100) >= 1095).astype(np.int8)
    patterns = (np.arange(1100) < 100).astype(np.int64)
    many, few = evaluate.calibration_by_pattern(labels, scores, patterns)
    assert (few["rows"], few["frauds"], few["gap"]["value"]) == (100, 0, 0.004)
    assert few["gap"]["low"] < 0 < few["gap"]["high"]
    assert many["gap"]["low"] < many["gap"]["value"] < many["gap"]["high"]
    held, told = 0, 0
    rng = np.random.default_rng(14)
    for _ in range(60):
        labels, chances, of = calibrated(rng, 400, 4)
        for part in evaluate.calibration_by_pattern(
            labels, chances, of % 5, clusters=of, resamples=2
        ):
            held += part["gap"]["low"] <= 0 <= part["gap"]["high"]
            told += 1
    assert held / told >= 0.91


def test_rows_are_worth_what_they_tell_apart() -> None:
    of = np.repeat(np.arange(50), 4)
    assert intervals.worth(of, 0.0) == 200
    assert intervals.worth(of, 1.0) == pytest.approx(50)
    rng = np.random.default_rng(13)
    own = rng.normal(size=50)[of]
    assert intervals.likeness(own, of) == pytest.approx(1)
    assert intervals.likeness(rng.normal(size=200), of) < 0.2
    assert intervals.likeness(own + rng.normal(size=200), of) == pytest.approx(0.5, abs=0.2)
    assert intervals.likeness(np.zeros(200), of) == intervals.likeness(own, np.arange(200)) == 0
