"""FLOW 2: history -> gate (again, for training) -> features as of each event -> fit -> evaluate ->
register.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from sectionfour import audit
from sectionfour.audit import PURPOSE
from sectionfour.domain import Permit, Request, Use, instant
from sectionfour.errors import HistoryError, SettingsError
from sectionfour.features import history
from sectionfour.features.catalog import NAMES, columns, fingerprint, needed
from sectionfour.learning import (
    backends,
    challengers,
    dataset,
    drift,
    evaluate,
    fairness,
    fit,
    membership,
    past,
    registry,
)
from sectionfour.learning.model import Model, feature_list, session
from sectionfour.learning.progress import Stages, steps_watched
from sectionfour.parts import Parts
from sectionfour.privacy import gate, pseudonym
from sectionfour.privacy.regime import Regime

#: Scores and labels are data too (R-32).
RESULTS = "derived.risk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to train; goes into the card. Shares are from 0 to 1."""

    delay_days: float = 14.0  # a row this old without a label counts as honest
    test_days: float = 21.0
    candidates: int = 8  # settings tried
    drop_share: float = 0.15  # of rows, a category
    seed: int = 4
    shadows: int = 2  # models of half the rows, to attack for the card; 0: not measured
    since: int | None = None  # microseconds; events before still form the windows
    until: int | None = None
    jobs: int = 2
    names: tuple[str, ...] = registry.NAMES  # of the models to train
    backend: str = "loky"  # of the search: loky, threading, dask[:ADDRESS], spark[:ADDRESS]
    challenge: bool = False  # let what is not served score in shadow

    def __post_init__(self) -> None:
        unknown = set(self.names).difference(registry.NAMES)
        if unknown or not self.names:
            raise SettingsError(f"models are {', '.join(registry.NAMES)}; got {self.names}")
        if self.delay_days < 0 or self.test_days <= 0 or self.candidates < 1:
            raise SettingsError(
                "a plan needs a delay from 0 on, a test above 0 days, and a candidate at least;"
                f" got {self.delay_days}, {self.test_days}, {self.candidates}"
            )
        if not 0 <= self.drop_share < 1:
            raise SettingsError(f"drop_share must be from 0 to below 1, got {self.drop_share}")
        backends.check(self.backend)

    @property
    def settings(self) -> dict[str, Any]:
        """What a model's bytes depend on: not how the work is shared out, or what follows it."""
        apart = ("jobs", "backend", "names", "challenge")
        return {name: value for name, value in asdict(self).items() if name not in apart}


@dataclass(frozen=True, slots=True)
class Trained:
    """One model's outcome: its version, whether it was new, and whether it is now served, or
    scores in shadow beside the one that is."""

    name: str
    version: str
    new: bool
    promoted: bool
    metrics: dict[str, dict[str, float]]
    challenges: bool = False


@dataclass(frozen=True, slots=True)
class _Material:
    """What one model is made of: row positions, their columns, and what was found of them."""

    name: str
    split: dataset.Split
    places: tuple[int, ...]
    rows: NDArray[np.float64]  # of learn, choose and test, in this order
    labels: NDArray[np.int8]
    clusters: NDArray[np.intp]
    missing: list[str]  # categories of which no row has anything
    version: str

    def parted(self, of: NDArray[Any]) -> list[NDArray[Any]]:
        """Return `of`, a value for each of the rows, as learn, choose and test."""
        return np.split(of, np.cumsum([len(self.split.learn), len(self.split.choose)]))


def train(
    parts: Parts, plan: Plan, models: Path, key: Ed25519PrivateKey, trusted: Collection[bytes]
) -> list[Trained]:
    """Train, judge and register the plan's models from what the ledger holds.

    Safe to run again, also after a run that was killed: what is registered stays, the rest is
    made. Everything that may be wrong with the history is found before anything is registered.
    """
    steps = [f"{name}: {step}" for name in plan.names for step in ("fit", "judge")]
    with Stages("history", "labels", "gate", "features", *steps) as stages:
        stages.next()
        log_size = parts.ledger.size()  # before the events: whoever was erased by then is not there
        found = past.read(parts.ledger, until=plan.until)
        if not len(found.events):
            raise HistoryError("the ledger holds no events to learn from")
        stages.next()
        labels, told = dataset.usable(found.events, found.labels)
        stages.next()
        as_of = parts.clock()
        permitted, left_out, masked = permit(found, parts.ledger, at=as_of, regime=parts.regime)
        if plan.since is not None:
            early = found.events["at"].to_numpy() < plan.since
            left_out["before_since"] = int((permitted & early).sum())
            permitted = permitted & ~early
        splits = {name: _split(name, found, labels, permitted, plan, parts) for name in plan.names}
        stages.next()
        matrix, _ = history.compute(
            found.events, found.known, clusters=found.clusters, progress=steps_watched("windows")
        )
        for category, rows in masked.items():
            matrix[np.ix_(rows, dataset.columns_of(category, range(len(NAMES))))] = np.nan
        materials = [_material(name, found, matrix, splits[name], plan) for name in plan.names]
        del matrix  # of all of the past; each model has its own part of it
        data = {
            "as_of": as_of,
            "left_out": left_out,
            "labels": told,
            "audited": audit_groups(parts, found),
            "members": members_of(found),
        }
        done = []
        for of in materials:
            done.append(_one(of, found, data, plan, parts, models, key, trusted, stages))
            parts.ledger.add_training(
                of.name, of.version, log_size, len(found.events), parts.clock()
            )
        return done


def _split(
    name: str,
    found: past.Past,
    labels: pd.DataFrame,
    permitted: dataset.Mask,
    plan: Plan,
    parts: Parts,
) -> dataset.Split:
    scored_by = {purpose: rule.scores for purpose, rule in parts.regime.purposes.items()}
    return dataset.split(
        found.events,
        labels,
        permitted & dataset.model_rows(found.events, name, scored_by),
        delay_days=plan.delay_days,
        test_days=plan.test_days,
    )


def _material(
    name: str,
    found: past.Past,
    matrix: NDArray[np.float64],
    split: dataset.Split,
    plan: Plan,
) -> _Material:
    places = columns(name)
    used = np.concatenate([split.learn, split.choose, split.test])
    rows = np.ascontiguousarray(matrix[np.ix_(used, np.array(places))])
    labels = split.labels[used]
    return _Material(
        name=name,
        split=split,
        places=tuple(places),
        rows=rows,
        labels=labels,
        clusters=dataset.clusters(found.events["member"].iloc[used]),
        missing=dataset.missing_throughout(rows[: len(split.learn)], places),
        version=_version(found.events, used, rows, labels, name, plan),
    )


def members_of(found: past.Past) -> NDArray[np.int64]:
    """Return the number of each event's member, -1 for a guest."""
    numbers = found.events["member"].to_numpy(dtype=np.float64, na_value=-1)
    return numbers.astype(np.int64)


def audit_groups(parts: Parts, found: past.Past) -> dict[str, NDArray[np.object_]]:
    """Return each event's age band and gender, None but where the audit set has its member.

    They are for looking at a model once it is fitted: no matrix has them.
    """
    known = audit.groups(parts)
    of_member = [known.get(subject, (None, None)) for subject in found.subjects] + [(None, None)]
    pairs = np.array(of_member, dtype=object)[members_of(found)]
    return {"age_band": pairs[:, 0], "gender": pairs[:, 1]}


def permit(
    found: past.Past,
    ledger: gate.Ledger,
    *,
    at: int,
    regime: Regime,
    purpose: str = PURPOSE,
    operation: str = "train",
) -> tuple[dataset.Mask, Counter[str], dict[str, dataset.Mask]]:
    """Pass every row through the gate, as of `at`: for training, or for what else is declared.

    With the operation export a row is there only where its scores and labels may be used as well.

    Returns which rows may be learnt from, how many may not and why, and, a category, the rows in
    which it must be masked. Rows that ask the same of the gate, at the same instant, get the same
    answer, so each question is put once.
    """
    events = found.events
    answers: dict[tuple[object, int, str | None], Permit | str] = {}
    member = events["member"].to_numpy(dtype=np.float64, na_value=-1).astype(np.int64)
    held = events["permitted"].to_numpy()
    allowed = np.zeros(len(events), dtype=np.int64)
    left_out: Counter[str] = Counter()
    brought = events["brought"].tolist()
    for place, question in enumerate(zip(member.tolist(), held.tolist(), brought, strict=True)):
        answer = answers.get(question)
        if answer is None:
            who, bits, told = question
            uses = pseudonym.uses_of(bits, told, regime)
            verdict = gate.check(
                purpose,
                Request(
                    purpose=purpose,
                    event_type="",
                    kind="guest" if who < 0 else "member",
                    subject=None if who < 0 else found.subjects[who],
                    uses=uses if operation == "train" else (*uses, Use(RESULTS)),
                ),
                ledger,
                at,
                operation=operation,
                regime=regime,
            )
            answer = verdict if isinstance(verdict, Permit) else verdict.why
            if operation != "train" and isinstance(answer, Permit):
                results = answer.permitted & regime.categories[RESULTS].bit
                answer = answer if results else "purpose_change"
            answers[question] = answer
        if isinstance(answer, str):
            left_out[answer] += 1
        else:
            allowed[place] = answer.permitted
    masked = {
        category: ((held & ~allowed & rule.bit) != 0) & (allowed != 0)
        for category, rule in regime.categories.items()
        if ((held & ~allowed & rule.bit) != 0)[allowed != 0].any()
    }
    return allowed != 0, left_out, masked


def _one(
    of: _Material,
    found: past.Past,
    data: dict[str, Any],
    plan: Plan,
    parts: Parts,
    models: Path,
    key: Ed25519PrivateKey,
    trusted: Collection[bytes],
    stages: Stages,
) -> Trained:
    """Fit, judge and register one model, unless it is there."""
    new = of.version not in registry.versions(models, of.name)
    stages.next()
    if new:
        learn, choose, test = of.parted(of.rows)
        y_learn, y_choose, _ = of.parted(of.labels)
        fitted = fit.search(learn, y_learn, choose, y_choose, of.places, plan)
    stages.next()
    if new:
        model = Model(of.name, of.version, "", session(fitted.onnx), fitted.usual)
        scores = model.score_rows(test)
        manifest = _manifest(of, found, data, plan)
        card = _card(of, model, fitted, manifest, data, plan, parts)
        before = drift.reference(np.concatenate([learn, choose]), of.places, scores)
        files = {registry.MANIFEST: manifest, registry.HISTOGRAMS: before}
        registry.write(models, of.name, of.version, fitted.onnx, card, key, beside=files)
    else:
        card = registry.load(models, of.name, of.version, trusted)[1]
    served = registry.current(models, of.name)
    if served is None:  # the first of its name; every later one takes a person's word
        challengers.promote(parts, models, of.name, of.version, trusted)
        served = of.version
    shadowing = of.version in registry.challengers(models, of.name)
    if plan.challenge and served != of.version and not shadowing:
        shadowing = of.version in registry.challenge(models, of.name, of.version, trusted)
    return Trained(of.name, of.version, new, served == of.version, card["metrics"], shadowing)


def _manifest(of: _Material, found: past.Past, data: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """Return what a model was made from: with the same ledger, seed and libraries, the same bytes.

    Counts are of events. `as_of` is when the gate was asked: who has withdrawn since is still in
    the counts of this run, and in none after it.
    """
    parts, at = of.split, found.events["at"]
    frauds = dict(zip(_PARTS, (int(y.sum()) for y in of.parted(of.labels)), strict=True))
    used = [parts.learn, parts.choose, parts.test]
    return {
        "manifest_version": 1,
        "name": of.name,
        "version": of.version,
        "as_of": instant(data["as_of"]),
        "periods": {
            part: {"from": instant(int(at.iloc[rows[0]])), "to": instant(int(at.iloc[rows[-1]]))}
            for part, rows in zip(_PARTS, used, strict=True)
        },
        "labels_known_by": instant(parts.cut),
        "events": len(found.events),
        "rows": {part: len(rows) for part, rows in zip(_PARTS, used, strict=True)},
        "frauds": frauds,
        "left_out": {**data["left_out"], **parts.left_out},
        "labels": data["labels"],
        "gaps": dataset.gaps(at.to_numpy()),
        "missing_throughout": of.missing,
        "rows_sha256": hashlib.sha256(of.rows.tobytes()).hexdigest(),
        "labels_sha256": hashlib.sha256(of.labels.tobytes()).hexdigest(),
        "catalog": fingerprint(),
        "plan": plan.settings,
        "libraries": fit.libraries(),
    }


_PARTS = ("learn", "choose", "test")


def _card(
    of: _Material,
    model: Model,
    fitted: fit.Fitted,
    manifest: dict[str, Any],
    data: dict[str, Any],
    plan: Plan,
    parts: Parts,
) -> registry.Card:
    """Return what is said of a model: what it was made from, and how good it is."""
    test, labels = of.parted(of.rows)[2], of.parted(of.labels)[2]
    clusters = np.unique(of.parted(of.clusters)[2], return_inverse=True)[1]
    scores, limits = model.score_rows(test), parts.policy.thresholds(of.name)
    drawn: dict[str, Any] = {"clusters": clusters, "seed": plan.seed}
    return {
        "name": of.name,
        "version": of.version,
        **feature_list(of.name),
        "purpose": PURPOSE,
        "data": {
            "from": manifest["periods"]["learn"]["from"],
            "to": manifest["periods"]["test"]["to"],
            **{name: manifest[name] for name in ("labels_known_by", "rows", "frauds", "left_out")},
            **{name: manifest[name] for name in ("labels", "gaps", "missing_throughout")},
        },
        "plan": plan.settings,
        "settings": fitted.settings,
        "tried": fitted.tried,
        "calibration": {"slope": fitted.calibration[0], "intercept": fitted.calibration[1]},
        "agreement": fitted.agreement,
        "intervals": {
            "percent": 95,
            "drawn": "members",
            "members": int(clusters.max()) + 1,
            "why": "a fraud is rarely one event: all events of a member are drawn, or none",
        },
        "metrics": evaluate.metrics(labels, scores, **drawn),
        "reliability": evaluate.reliability(labels, scores),
        "calibration_by_pattern": evaluate.calibration_by_pattern(
            labels, scores, dataset.pattern(test, of.places), **drawn
        ),
        "costs": msgspec.structs.asdict(parts.policy.of(of.name)),
        "thresholds": asdict(limits),
        "outcomes": evaluate.outcome_mix(limits, scores),
        "refusal_penalty": evaluate.refusal_penalties(
            model.score_rows, test, labels, of.places, seed=plan.seed
        ),
        "without": evaluate.without(
            model.score_rows, test, labels, of.places, limits, seed=plan.seed
        ),
        "never_used": sorted(set(parts.regime.categories) - set(needed(of.places))),
        "offsets": fitted.offsets,
        "membership": membership.of_card(
            of.parted(of.rows)[0],
            of.parted(of.labels)[0],
            of.places,
            fitted.settings,
            count=plan.shadows,
            drop_share=plan.drop_share,
            seed=plan.seed,
            jobs=plan.jobs,
            backend=plan.backend,
        ),
        "fairness": fairness.false_positives(
            labels,
            np.array([limits.outcome(float(score)).action != "allow" for score in scores]),
            data["members"][of.split.test],
            {group: values[of.split.test] for group, values in data["audited"].items()},
            seed=plan.seed,
        ),
        "usual": fitted.usual,
        "libraries": fit.libraries(),
    }


def _version(
    events: pd.DataFrame,
    used: NDArray[np.intp],
    rows: NDArray[np.float64],
    labels: NDArray[np.int8],
    name: str,
    plan: Plan,
) -> str:
    """Return a name made of the data's last day and of everything that the model is made from."""
    said = (name, plan.settings, fingerprint(), fit.libraries())
    digest = hashlib.sha256(repr(said).encode())
    digest.update(rows.tobytes())
    digest.update(labels.tobytes())
    day = instant(int(events["at"].iloc[used[-1]]))[:10].replace("-", "")
    return f"{day}-{digest.hexdigest()[:12]}"
