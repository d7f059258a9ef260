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
