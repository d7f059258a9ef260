"""The search of settings: tried on some rows, fitted on all."""

from __future__ import annotations

import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from joblib import delayed
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import average_precision_score

from sectionfour.errors import SettingsError
from sectionfour.features.catalog import columns
from sectionfour.learning import backends, fit, membership
from sectionfour.learning.plan import Plan

PLACES = columns("transaction")[:20]  # fewer categories, fewer patterns to even out
ROWS = 1_000


@pytest.fixture(scope="module")
def made() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(ROWS, len(PLACES)))
    odds = 2 * rows[:, 0] + rows[:, 5] - 3
    return rows, (rng.random(ROWS) < 1 / (1 + np.exp(-odds))).astype(np.int8)


def search(made: tuple[np.ndarray, np.ndarray], candidates: int) -> fit.Fitted:
    rows, labels = made
    plan = SimpleNamespace(candidates=candidates, drop_share=0.1, seed=1, jobs=1, backend="loky")
    half = ROWS // 2
    return fit.search(rows[:half], labels[:half], rows[half:], labels[half:], PLACES, plan)


def test_what_is_tried_on_some_rows_is_fitted_on_all(
    made: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search(made, 1)
    monkeypatch.setattr(fit, "TRIED_ON", 250)
    some = search(made, 1)
    assert some.onnx == whole.onnx
    assert some.tried[0]["average_precision"] != whole.tried[0]["average_precision"]


@given(
    st.lists(st.sampled_from([0, 0, 0, 0, 1]), min_size=2, max_size=200).filter(
        lambda labels: 0 < sum(labels) < len(labels)
    ),
    st.integers(2, 100),
)
def test_no_more_rows_are_tried_on_than_allowed_and_both_kinds_are_there(
    drawn: list[int], most: int
) -> None:
    labels = np.array(drawn, dtype=np.int8)
    some = fit.sampled(labels, most, np.random.default_rng(0))
    if some is None:
        assert len(labels) <= most
        return
    assert len(set(some.tolist())) == len(some) <= most < len(labels)
    assert (np.diff(some) > 0).all()
    assert set(labels[some].tolist()) == {0, 1}
    assert labels[some].sum() == min(labels.sum(), most // 2)  # no fraud is left out for an honest


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5)), min_size=1, max_size=60).filter(
        lambda rows: any(label for label, _ in rows)
    )
)
def test_average_precision_is_a_mean_over_frauds(rows: list[tuple[int, int]]) -> None:
    labels = np.array([label for label, _ in rows], dtype=np.int8)
    scores = np.array([float(score) for _, score in rows])  # many of them equal
    found = fit.precisions_at(labels, scores)
    for share, score in zip(found, scores[labels == 1], strict=True):
        assert share == pytest.approx(labels[scores >= score].mean())
    assert found.mean() == pytest.approx(average_precision_score(labels, scores))


def test_of_what_choosing_cannot_tell_apart_the_one_that_tells_least_is_taken() -> None:
    wide = [np.array([0.1, 0.9, 0.8, 0.2]) + shift for shift in (0.0, -0.1, 0.05, -0.3)]
    assert fit.taken(wide, [0.9, 0.7, 0.8, 0.5]) == 1  # the error is .18: the last is beyond it
    assert fit.taken(wide, [0.6, 0.7, 0.8, 0.5]) == 0
    narrow = [np.full(4, mean) for mean in (0.5, 0.55, 0.54)]
    assert fit.taken(narrow, [0.5, 0.9, 0.6]) == 1
    one = [np.array([0.5]), np.array([0.25])]
    assert fit.taken(one, [0.9, 0.1]) == 0


def test_what_a_model_tells_of_frauds_is_how_often_one_it_learnt_from_scores_higher(
    made: tuple[np.ndarray, np.ndarray],
) -> None:
    rows, labels = made
    heart = HistGradientBoostingClassifier(min_samples_leaf=1, max_iter=50, random_state=0)
    heart.fit(rows[:500], labels[:500])
    sides = [part[of == 1] for part, of in ((rows[:500], labels[:500]), (rows[500:], labels[500:]))]
    inside, outside = (heart.decision_function(side) for side in sides)
    higher = np.mean([(a > b) + (a == b) / 2 for a in inside for b in outside])
    assert fit.told(heart, *sides) == pytest.approx(higher)
    assert higher > 0.9
    assert fit.told(heart, sides[1], sides[1]) == pytest.approx(0.5)


def test_as_many_settings_are_tried_as_were_asked_for_and_each_once(
    made: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {name: [value] for name, value in fit.FIRST.items()} | {"max_iter": [5, 6, 7, 8]}
    monkeypatch.setattr(fit, "SPACE", few)
    monkeypatch.setattr(fit, "FIRST", fit.FIRST | {"max_iter": 6})
    tried = [each["max_iter"] for each in search(made, 3).tried]
    assert tried[0] == 6
    assert len(set(tried)) == len(tried) == 3


def test_a_card_says_by_what_its_settings_were_taken(
    made: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first learns by heart what the others cannot; which ranks best is not known so well."""
    monkeypatch.setattr(fit, "FIRST", fit.FIRST | {"max_leaf_nodes": 31, "min_samples_leaf": 5})
    monkeypatch.setattr(fit, "SPACE", fit.SPACE | {"max_leaf_nodes": [2, 3]})
    found = search(made, 6)
    assert found.tried[0]["fraud_auc"] > min(each["fraud_auc"] for each in found.tried) + 0.1
    picked = [found]
    with monkeypatch.context() as unsure:
        unsure.setattr(fit, "_error", lambda values: 0.2)
        picked.append(search(made, 6))
    for one in picked:
        best = max(one.tried, key=lambda each: each["average_precision"])
        least = best["average_precision"] - best["standard_error"]
        near = [each for each in one.tried if each["average_precision"] >= least]
        assert one.settings.items() <= min(near, key=lambda each: each["fraud_auc"]).items()
    assert not picked[1].settings.items() <= best.items()


def test_a_shadow_model_bears_a_column_that_nobody_has(
    made: tuple[np.ndarray, np.ndarray],
) -> None:
    rows, labels = made[0].copy(), made[1]
    rows[:, 7] = np.nan
    settings = {"max_iter": 3}
    found = membership.fitted_scores(rows, labels, rows, PLACES, settings, 0.1, 1)
    assert np.isfinite(found).all()


# --- where it runs -----------------------------------------------------------------------------


def shared_out(made: tuple[np.ndarray, np.ndarray], backend: str) -> fit.Fitted:
    rows, labels = made
    plan = SimpleNamespace(candidates=3, drop_share=0.1, seed=1, jobs=2, backend=backend)
    half = ROWS // 2
    return fit.search(rows[:half], labels[:half], rows[half:], labels[half:], PLACES, plan)


@pytest.fixture(scope="module")
def alone(made: tuple[np.ndarray, np.ndarray]) -> fit.Fitted:
    return shared_out(made, "threading")


@pytest.mark.parametrize("backend", ["loky", "dask"])
def test_the_bytes_are_the_same_wherever_the_search_runs(made, alone, backend) -> None:
    found = shared_out(made, backend)
    assert found.onnx == alone.onnx
    assert found.tried == alone.tried


def test_a_scheduler_that_is_there_is_used_and_left_running(made, alone) -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        before = cluster.scheduler.transition_counter
        assert shared_out(made, f"dask:{cluster.scheduler_address}").onnx == alone.onnx
        assert cluster.scheduler.transition_counter > before
        assert len(cluster.scheduler.workers) == 2


def elsewhere(backend: str) -> bool:
    """Return whether calls ran, in other processes than this one."""
    found = list(backends.run([delayed(os.getpid)() for _ in range(4)], jobs=2, backend=backend))
    return len(found) == 4 and os.getpid() not in found


def test_a_backend_of_processes_runs_in_processes_and_threads_here() -> None:
    assert elsewhere("loky")
    assert elsewhere("dask")
    assert not elsewhere("threading")


@pytest.mark.filterwarnings("ignore")  # what joblibspark and pyspark say of themselves
def test_on_spark_the_bytes_are_the_same_too(made, alone) -> None:
    pytest.importorskip("joblibspark", reason="sectionfour[spark] is not installed")
    if not shutil.which("java"):
        pytest.skip("no java is found")
    assert elsewhere("spark")
    found = shared_out(made, "spark")
    assert found.onnx == alone.onnx
    assert found.tried == alone.tried


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        ("ray", "backends are loky, threading, dask, spark; got 'ray'"),
        ("", "backends are"),
        ("loky:tcp://a", "dask and spark take an address"),
        ("dask:", "dask and spark take an address"),
    ],
)
def test_a_backend_that_is_none_is_refused_before_anything_else(backend: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Plan(backend=backend)


@pytest.mark.parametrize("backend", ["dask", "spark"])
def test_a_backend_that_is_not_installed_names_its_extra(backend, made, monkeypatch) -> None:
    missing = backends.NEEDS[backend][-1]
    monkeypatch.setattr(backends, "find_spec", lambda name: None if name == missing else name)
    with pytest.raises(SettingsError, match=rf"install sectionfour\[{backend}\]"):
        Plan(backend=backend)
    monkeypatch.setattr(fit, "_try", None)  # nothing gets as far as this
    with pytest.raises(SettingsError, match=rf"install sectionfour\[{backend}\]"):
        shared_out(made, backend)


def test_spark_without_java_says_so(monkeypatch) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: name)
    monkeypatch.setattr(backends.shutil, "which", lambda name: None)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(SettingsError, match="Java 17"):
        backends.check("spark")
