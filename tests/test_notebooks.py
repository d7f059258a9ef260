"""The analysts' reader shows nothing raw, and the notebooks run on it."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest

from sectionfour import notebook, simulate
from sectionfour.bootstrap import open_parts
from sectionfour.decisions import policy
from sectionfour.domain import DAY
from sectionfour.errors import HistoryError, RegistryError
from sectionfour.features.catalog import ENTITIES, FEATURES
from sectionfour.learning import evaluate, paying
from sectionfour.loading import imports
from sectionfour.loading.replay import Consent, replay
from sectionfour.settings import Settings

ROOT = Path(__file__).parents[1]
MARKET = ROOT / "data_samples" / "market"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FIRST = 4_000  # steps of the sample: 6 days and their consents

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the exporter's own, on import
    import sectionfour.train  # noqa: F401


# --- the reader ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(template: Path, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home with the first days of the sample market."""
    home = tmp_path_factory.mktemp("analysts") / "home"
    shutil.copytree(template, home)
    settings = Settings(home=home, models=models, velocity_gib=0.2, durability="normal")
    parts = open_parts(settings)
    steps, _ = imports.market(MARKET)
    replay(itertools.islice(steps, FIRST), parts, notice=imports.MARKET_NOTICE)
    parts.close()
    return settings


@pytest.fixture(scope="module")
def reader(kept: Settings) -> notebook.Reader:
    return notebook.open_home(kept.home, kept.models)


@pytest.fixture
def a_copy(kept: Settings, tmp_path: Path) -> Settings:
    """The same home again, to be changed."""
    shutil.copytree(kept.home, tmp_path / "home")
    return Settings(home=tmp_path / "home", models=kept.models, velocity_gib=0.2)


def identifiers() -> set[str]:
    """Every raw identifier of the sample market."""
    events = pd.read_parquet(MARKET / "events.parquet")
    members = pd.read_parquet(MARKET / "members.parquet")
    columns = [name for name in events if name.endswith("_id")]
    columns += ["ip", "consignee_address", "consignee_phone"]
    found = {value for name in columns for value in events[name].dropna()}
    return found | {value for name in ("email", "phone") for value in members[name]}


def shown_in(text: str, raw: set[str]) -> set[str]:
    """Return the raw identifiers that `text` holds as words of their own, or with a space."""
    words = set(re.findall(r"[\w.:@+-]+", text))
    return (words & raw) | {value for value in raw if " " in value and value in text}


def tables(reader: notebook.Reader) -> dict[str, pd.DataFrame]:
    events = reader.events()
    return {
        "events": events,
        "labels": reader.labels(),
        "features": reader.features(),
        "scores": reader.scores("transaction"),
        "reasons": reader.reasons(events.index[:300]),
        "links": notebook.links(events),
        "truth": reader.truth(MARKET),
    }


def test_no_table_holds_a_raw_identifier_or_a_token(reader: notebook.Reader) -> None:
    raw = identifiers()
    for name, table in tables(reader).items():
        assert len(table), name
        assert not shown_in(table.to_csv(), raw), name
        assert not any(isinstance(value, bytes) for value in table.to_numpy().ravel()), name
    assert not shown_in(repr(reader), raw)


def test_every_time_is_to_the_minute_and_every_duration_too(reader: notebook.Reader) -> None:
    for table in (reader.events(), reader.labels(), notebook.links(reader.events())):
        times = table.select_dtypes("datetimetz")
        assert len(times.columns)
        for name in times:
            assert (times[name].dropna().dt.floor("min") == times[name].dropna()).all(), name
    features = reader.features()
    durations = [f.name for f in FEATURES if f.unit == "s" and f.name in features]
    assert len(durations) > 10
    assert (features[durations].stack().dropna() % 60 == 0).all()


def test_how_somebody_browsed_and_searched_is_not_shown(reader: notebook.Reader) -> None:
    hidden = {f.name for f in FEATURES if "log" in f.needs}
    assert hidden >= {"page_views", "search_count", "seconds_on_page"}
    assert not hidden & {*reader.events(), *reader.features()}


def test_two_sessions_tell_the_same_apart_and_cannot_be_joined(
    kept: Settings, reader: notebook.Reader
) -> None:
    mine, other = reader.events(), notebook.open_home(kept.home, kept.models).events()
    for name in ENTITIES:
        pairs = pd.DataFrame({"a": mine[name], "b": other[name]}).dropna().drop_duplicates()
        assert len(pairs) == pairs["a"].nunique() == pairs["b"].nunique(), name
        assert (pairs["a"] == pairs["b"]).mean() < 0.1, name
    pd.testing.assert_frame_equal(
        reader.features(), notebook.open_home(kept.home, kept.models).features()
    )


def test_labels_go_with_their_events(reader: notebook.Reader) -> None:
    told = pd.read_parquet(MARKET / "labels.parquet").set_index("event_id")
    names = reader._past.events["event_id"][reader._permitted].to_numpy()
    for row in reader.labels().dropna(subset="event").itertuples():
        assert row.label in set(told.loc[[names[row.event - 1]], "label"])


def test_the_vault_is_not_needed(a_copy: Settings) -> None:
    for file in a_copy.home.glob("vault.db*"):
        file.unlink()
    assert len(notebook.open_home(a_copy.home, a_copy.models).events())
    assert not (a_copy.home / "vault.db").exists()


def test_no_key_is_needed_by_one_who_says_whose_models_to_trust(a_copy: Settings) -> None:
    shutil.rmtree(a_copy.home / "keys")
    reader = notebook.open_home(a_copy.home, a_copy.models, trusted=())
    assert len(reader.features()) == len(reader.events())
    assert not (a_copy.home / "keys").exists()
    with pytest.raises(RegistryError, match="not trusted"):
        reader.scores("transaction")


def test_who_has_withdrawn_is_not_shown_but_still_forms_the_windows_of_others(
    a_copy: Settings,
) -> None:
    before = notebook.open_home(a_copy.home, a_copy.models)
    consents = pd.read_parquet(MARKET / "consents.parquet").set_index("member_id")
    events = pd.read_parquet(MARKET / "events.parquet").set_index("event_id")
    kept = before._past.events["event_id"][before._permitted]
    busiest = events.loc[kept, "member_id"].value_counts().index[0]
    gone = (events.loc[kept, "member_id"] == busiest).to_numpy()
    given = consents.loc[[busiest]].iloc[0]
    parts = open_parts(a_copy)
    at = int(before._past.events["at"].max()) + DAY
    withdrawn = Consent(at, busiest, given["consent_ref"], False, "security", ("order",))
    replay(iter([withdrawn]), parts, notice=imports.MARKET_NOTICE)
    parts.close()

    after = notebook.open_home(a_copy.home, a_copy.models)
    assert gone.sum() > 3
    assert len(after.events()) == len(before.events()) - gone.sum()
    pd.testing.assert_frame_equal(
        after.features().reset_index(drop=True),
        before.features()[~gone].reset_index(drop=True),
    )


def test_of_what_no_score_can_do_without_there_is_none_where_that_was_withdrawn(
    a_copy: Settings,
) -> None:
    before = notebook.open_home(a_copy.home, a_copy.models)
    events = pd.read_parquet(MARKET / "events.parquet").set_index("event_id")
    consents = pd.read_parquet(MARKET / "consents.parquet")
    kept = before._past.events["event_id"][before._permitted]
    shown = consents[consents["categories"].fillna("").str.startswith("identity.document")]
    given = shown[shown["action"] == "given"]["member_id"]
    busiest = events.loc[kept, "member_id"].value_counts().index
    who = next(member for member in busiest if member in set(given))
    [first, *_] = consents[
        (consents["member_id"] == who) & consents["categories"].str.contains("member.required")
    ].itertuples()
    parts = open_parts(a_copy)
    at = int(before._past.events["at"].max()) + DAY
    withdrawn = Consent(at, who, first.consent_ref, False, "security", ("order",))
    replay(iter([withdrawn]), parts, notice=imports.MARKET_NOTICE)
    parts.close()

    after = notebook.open_home(a_copy.home, a_copy.models)
    left = after._past.events["event_id"][after._permitted]
    theirs = (events.loc[left, "member_id"] == who).to_numpy()
    assert theirs.any()  # the document's consent stands
    assert after.events()[theirs]["member"].isna().all()
    for name in ("transaction", "account"):
        scored = after.scores(name).index
        assert len(scored)
        assert not scored.isin(after.events().index[theirs]).any()


def test_the_account_of_each_event_is_the_one_that_the_checkout_would_get(
    reader: notebook.Reader,
) -> None:
    scores = reader.scores("transaction")
    edges = reader.thresholds("transaction")
    assert scores["probability"].between(0, 1).all()
    for row in scores.head(50).itertuples():
        assert (row.level, row.outcome) == (
            edges.outcome(row.probability).level,
            edges.outcome(row.probability).action,
        )
    reasons = reader.reasons(scores.index[:200])
    assert set(reasons.index) <= set(scores.index[:200])
    assert (reasons["contribution"] > 0).all()
    assert list(reasons.index) == sorted(reasons.index)


def test_links_are_the_pairs_that_were_seen_together(reader: notebook.Reader) -> None:
    events = reader.events()
    found = notebook.links(events, by=["device", "payee"])
    slow = {
        (kind, row["member"], row[kind])
        for _, row in events.iterrows()
        for kind in ("device", "payee")
        if not pd.isna(row["member"]) and not pd.isna(row[kind])
    }
    assert {(r.kind, r.member, r.other) for r in found.itertuples()} == slow
    assert (found["first"] <= found["last"]).all()
    assert found.loc[found["kind"] == "payee", "events"].sum() == events["payee"].notna().sum()


def test_a_home_without_a_ledger_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="holds no ledger"):
        notebook.open_home(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_that_was_never_promoted_is_refused(kept: Settings, tmp_path: Path) -> None:
    reader = notebook.open_home(kept.home, tmp_path)
    with pytest.raises(RegistryError, match="no transaction model has been promoted"):
        reader.scores("transaction")


def test_pandas_is_imported_only_when_used() -> None:
    code = "import sys, sectionfour.notebook; print('pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.strip() == b"False"


# --- what the notebooks calculate with -------------------------------------------------------

scored_rows = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 20).map(lambda k: k / 20)), min_size=4, max_size=40
).filter(lambda rows: len({label for label, _ in rows}) == 2)


def split(rows: list[tuple[int, float]]) -> tuple[Any, Any]:
    labels, scores = zip(*rows, strict=True)
    return np.array(labels, dtype=np.int8), np.array(scores)


@hypothesis.settings(deadline=None)  # the machine may have other work
@hypothesis.given(scored_rows)
def test_roc_gives_the_share_of_frauds_at_each_share_of_false_alarms(
    rows: list[tuple[int, float]],
) -> None:
    labels, scores = split(rows)
    found = evaluate.roc(labels, scores, resamples=5)
    for edge in set(scores):
        stopped = scores >= edge
        false_alarms = stopped[labels == 0].mean()
        recall = stopped[labels == 1].mean()
        reached = found["recall"][found["false_alarms"] >= false_alarms]
        assert (reached >= recall - 1e-9).all()
    assert found["recall"][-1] == 1
    assert (np.diff(found["recall"]) >= -1e-12).all()


@hypothesis.settings(deadline=None)  # the machine may have other work
@hypothesis.given(scored_rows)
def test_precision_is_that_of_the_highest_threshold_which_reaches_the_recall(
    rows: list[tuple[int, float]],
) -> None:
    labels, scores = split(rows)
    found = evaluate.precision_recall(labels, scores, resamples=5)
    for recall, precision in zip(found["recall"], found["precision"], strict=True):
        edge = max(e for e in scores if (scores >= e)[labels == 1].mean() >= recall)
        assert precision == pytest.approx(labels[scores >= edge].mean())


@hypothesis.settings(deadline=None)  # the machine may have other work
@hypothesis.given(scored_rows, st.lists(st.floats(0.01, 1), min_size=3, max_size=3).map(sorted))
def test_a_cost_is_what_the_action_taken_costs_for_what_the_event_was(
    rows: list[tuple[int, float]], given: list[float]
) -> None:
    labels, scores = split(rows)
    costs = policy.load().transaction
    edges = policy.Thresholds(*given)
    honest, fraud = (policy.expected_costs(costs, p) for p in (0.0, 1.0))
    slow = [(fraud if label else honest)[edges.outcome(score).action] for label, score in rows]
    found = paying.costs_at(labels, scores, np.array([given]), honest, fraud, resamples=5)
    assert found["cost"][0] == pytest.approx(np.mean(slow))


@hypothesis.settings(deadline=None)  # the machine may have other work
@hypothesis.given(scored_rows, st.lists(st.floats(0.01, 0.99), max_size=4, unique=True).map(sorted))
def test_bands_hold_every_row_once_and_their_intervals_the_share(
    rows: list[tuple[int, float]], given: list[float]
) -> None:
    labels, scores = split(rows)
    bands = evaluate.reliability(labels, scores, edges=given)
    assert sum(band["rows"] for band in bands) == len(rows)
    for band in bands:
        assert 0 <= band["low"] <= band["fraud_share"] <= band["high"] <= 1
    for low, high in itertools.pairwise([0.0, *given, 1.01]):
        inside = (scores >= low) & (scores < high)
        if inside.any():
            assert {
                "rows": inside.sum(),
                "fraud_share": pytest.approx(labels[inside].mean(), abs=1e-6),
            } in [{name: band[name] for name in ("rows", "fraud_share")} for band in bands]


def test_the_interval_of_a_share_is_wilsons() -> None:
    # 95 % interval of 1 in 10, as in Brown, Cai, DasGupta (2001): 0.018 to 0.404.
    labels = np.array([1] + [0] * 9, dtype=np.int8)
    (band,) = evaluate.reliability(labels, np.full(10, 0.1), bins=1)
    assert band["low"] == pytest.approx(0.0179, abs=1e-4)
    assert band["high"] == pytest.approx(0.4042, abs=1e-4)


# --- the notebooks ---------------------------------------------------------------------------

#: What each notebook must still be able to say when it has run to its end.
LAST_WORDS = {
    "quality_and_costs": """
import json
print(json.dumps({
    name: [
        evaluate.METRICS["average_precision"](*of[["fraud", "probability"]].to_numpy().T),
        reader.card(name)["metrics"]["average_precision"]["value"],
    ]
    for name in ("transaction", "account") for of in [reader.tested(name)]
}))""",
    "a_ring_through_a_week": """
import json
print(json.dumps({"ring": len(of_ring), "found": len(of_ring & found), "all": len(found)}))""",
}
CHARTS = {"quality_and_costs": 8, "a_ring_through_a_week": 4}


def source(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def run() -> Callable[[Path], Any]:
    """Return how to run a notebook, once, with its last words; it yields the cells."""
    done: dict[Path, Any] = {}

    def run(path: Path) -> Any:
        if path not in done:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Jupyter's own, about its event loops and folders
                import nbformat
                from nbclient import NotebookClient

                book = nbformat.read(path, as_version=4)
                book.cells.append(nbformat.v4.new_code_cell(LAST_WORDS[path.stem]))
                place = {"metadata": {"path": str(path.parent)}}
                environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
                client = NotebookClient(book, timeout=300, kernel_name="python3", resources=place)
                client.execute(env=environment)
            done[path] = book.cells
        return done[path]

    return run


def test_there_are_the_notebooks_that_are_promised() -> None:
    assert {path.stem for path in NOTEBOOKS} == set(LAST_WORDS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_clean_and_tells_of_no_machine(path: Path) -> None:
    for cell in source(path)["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
            assert not re.search(r"\bdef \w+|\bclass \w+", "".join(cell["source"])), (
                "define nothing"
            )
    assert not re.search(r"/home/|/root/|/tmp/|/work/|[A-Z]:\\\\", path.read_text())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_draws_and_shows_nothing_raw(
    path: Path, run: Callable[[Path], Any]
) -> None:
    outputs = [out for cell in run(path) for out in cell.get("outputs", [])]
    complaints = [out["text"] for out in outputs if out.get("name") == "stderr"]
    assert not complaints
    pictures = [out for out in outputs if "image/png" in out.get("data", {})]
    assert len(pictures) == CHARTS[path.stem]
    said = "\n".join(
        str(text)
        for out in outputs
        for text in (out.get("text"), *out.get("data", {}).values())
        if isinstance(text, str) and not text.startswith("iVBOR")
    )
    assert not shown_in(said, identifiers())


def last_words(cells: Any) -> Any:
    return json.loads(cells[-1]["outputs"][0]["text"])


def test_the_period_that_is_judged_is_the_one_on_the_card(run: Callable[[Path], Any]) -> None:
    said = last_words(run(ROOT / "notebooks" / "quality_and_costs.ipynb"))
    for name, (here, on_card) in said.items():
        assert here == pytest.approx(on_card, abs=1e-5), name


def test_who_meets_the_device_of_a_ring_later_is_not_of_it(tmp_path: Path) -> None:
    simulate.write(simulate.simulate(seed=71, events=20_000), tmp_path / "market")
    book = source(ROOT / "notebooks" / "a_ring_through_a_week.ipynb")
    code = ["".join(c["source"]) for c in book["cells"] if c["cell_type"] == "code"]
    kept = "\n".join([*code[:3], *code[-1:]])  # how the ring is found, and what it was
    for old, new in (
        ('"../data_samples/market"', repr(str(tmp_path / "market"))),
        ('"../models"', repr(str(ROOT / "models"))),
    ):
        assert old in kept
        kept = kept.replace(old, new)
    there: dict[str, Any] = {}
    exec(kept, there)
    assert there["found"] == there["of_ring"]
    assert len(there["found"]) > 3


def test_the_ring_that_is_followed_is_one_and_nobody_is_wronged(
    run: Callable[[Path], Any],
) -> None:
    said = last_words(run(ROOT / "notebooks" / "a_ring_through_a_week.ipynb"))
    assert said["found"] == said["all"]
    assert said["found"] >= 0.75 * said["ring"] > 3
