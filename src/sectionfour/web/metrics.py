"""What the service counts, for Prometheus. No label holds anything that a caller chose.

Where several workers serve, each counts in a file of its own under PROMETHEUS_MULTIPROC_DIR, and
whichever is asked adds them up; `serve` sets it before this is imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from sectionfour import room
from sectionfour.errors import FailClosed

#: Bytes of each file that a worker counts in, written through memory: some hundred for each set of
#: labels, of which there are at most a few hundred.
COUNTED = 1 << 17
_BUCKETS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)


class _Held(msgspec.Struct):
    id: str


class _Gist(msgspec.Struct):
    """What is counted of an answer."""

    status: str | int = "refused"
    outcome: str = "none"
    missing: tuple[str, ...] = ()
    rules: tuple[_Held, ...] = ()


class Metrics:
    """The counters of this worker, and the text of all workers' together."""

    def __init__(self, log_size: Callable[[], int], home: Path) -> None:
        if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            for kind in ("counter", "histogram"):
                room.make(Path(folder) / f"{kind}_{os.getpid()}.db", COUNTED)
        self._registry = CollectorRegistry()
        self._log_size, self._home = log_size, home
        self._gist = msgspec.json.Decoder(_Gist).decode
        answers = Counter(
            "sectionfour_assessments",
            "Answers to requests for an assessment, retries included",
            ("purpose", "status", "outcome"),
            registry=self._registry,
        )
        refusals = Counter(
            "sectionfour_refusals",
            "Categories without a basis for which an assessment was refused",
            ("purpose", "missing"),
            registry=self._registry,
        )
        rules = Counter(
            "sectionfour_rules_held", "Answers for which a rule held", ("rule",),
            registry=self._registry,
        )  # fmt: skip
        errors = Counter("sectionfour_errors", "Errors by code", ("code",), registry=self._registry)
        self._seconds = Histogram(
            "sectionfour_assessment_seconds",
            "From the request's arrival in the worker to its answer",
            buckets=_BUCKETS,
            registry=self._registry,
        )
        # A child is looked up once for each set of labels: the look-up costs more than counting.
        self._answer = cache(answers.labels)
        self._refusal = cache(refusals.labels)
        self._rule = cache(rules.labels)
        self._error = cache(errors.labels)
        self._error(FailClosed.code)  # opens the file that an error may find no handle for

    def answered(self, purpose: str, status: int, answer: bytes, seconds: float) -> None:
        """Count one answer; `purpose` is one of the closed list by now."""
        gist = self._gist(answer)
        refused = status != 200
        name = "refused" if refused else str(gist.status)
        self._answer(purpose, name, gist.outcome).inc()
        for rule in gist.rules:
            self._rule(rule.id).inc()
        if refused:
            for category in gist.missing:
                self._refusal(purpose, category).inc()
        self._seconds.observe(seconds)

    def error(self, code: str) -> None:
        """Count one error by its code, which is ours."""
        self._error(code).inc()

    def text(self) -> bytes:
        """Return everything counted by all workers, in Prometheus' text form."""
        registry = self._registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry) + generate_latest(
            _Now(self._log_size(), _drift(self._home))
        )


class _Now:
    """What is read when asked for, and so the same whichever worker is asked."""

    def __init__(self, log_size: int, drift: _Drift | None) -> None:
        self._log_size, self._drift = log_size, drift

    def collect(self) -> Iterator[Any]:
        yield GaugeMetricFamily(
            "sectionfour_log_entries", "Entries of the receipt log", self._log_size
        )
        if self._drift is None:  # never measured: no value is told from a good one
            return
        yield GaugeMetricFamily(
            "sectionfour_drift_measured_seconds",
            "When `sectionfour drift` ran last, seconds since 1970",
            self._drift.measured_at / 1e6,
        )
        psi = GaugeMetricFamily(
            "sectionfour_drift_psi",
            "Population stability index against the training period; above 0.25 is much",
            labels=("model", "of"),
        )
        for model, measured in self._drift.psi.items():
            for of, value in measured.items():
                psi.add_metric((model, of), value)
        yield psi


class _Drift(msgspec.Struct):
    """What `sectionfour drift` left in the home."""

    measured_at: int
    psi: dict[str, dict[str, float]]


def _drift(home: Path) -> _Drift | None:
    try:
        return msgspec.json.decode((home / "drift.json").read_bytes(), type=_Drift)
    except FileNotFoundError:
        return None
