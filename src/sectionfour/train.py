"""FLOW 2: history -> gate (again, for training) -> features as of each event -> fit -> evaluate ->
fit once more, on all that is known -> register.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sectionfour.errors import HistoryError
from sectionfour.features import history
from sectionfour.features.catalog import NAMES
from sectionfour.learning import (
    audit,
    cards,
    challengers,
    dataset,
    fit,
    material,
    past,
    refit,
    registry,
)
from sectionfour.learning.material import Material
from sectionfour.learning.model import Model, session
from sectionfour.learning.permitted import permit
from sectionfour.learning.plan import Plan
from sectionfour.learning.progress import Stages, steps_watched
from sectionfour.parts import Parts

#: What is done for each model.
STEPS = ("fit", "judge", "fit anew")


@dataclass(frozen=True, slots=True)
class Trained:
    """One model's outcome: its version, whether it was new, and whether it is now served, or
    scores in shadow beside the one that is. `metrics` are those of the card: of the same settings
    fitted on the older part of the past."""

    name: str
    version: str
    new: bool
    promoted: bool
    metrics: dict[str, dict[str, float]]
    challenges: bool = False


def train(
    parts: Parts, plan: Plan, models: Path, key: Ed25519PrivateKey, trusted: Collection[bytes]
) -> list[Trained]:
    """Train, judge and register the plan's models from what the ledger holds.

    Safe to run again, also after a run that was killed: what is registered stays, the rest is
    made. Everything that may be wrong with the history is found before anything is registered.
    """
    steps = [f"{name}: {step}" for name in plan.names for step in STEPS]
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
        materials = [
            material.gather(name, found, matrix, splits[name], plan) for name in plan.names
        ]
        del matrix  # of all of the past; each model has its own part of it
        members = past.members_of(found)
        data = {
            "as_of": as_of,
            "left_out": left_out,
            "labels": told,
            "audited": audit.of_events(parts, found.subjects, members),
            "members": members,
        }
        done = []
        for of in materials:
            done.append(_one(of, found, data, plan, parts, models, key, trusted, stages))
            parts.ledger.add_training(
                of.name, of.version, log_size, len(found.events), parts.clock()
            )
        return done


def _one(
    of: Material,
    found: past.Past,
    data: dict[str, Any],
    plan: Plan,
    parts: Parts,
    models: Path,
    key: Ed25519PrivateKey,
    trusted: Collection[bytes],
    stages: Stages,
) -> Trained:
    """Make and register one model, unless it is there."""
    new = of.version not in registry.versions(models, of.name)
    if new:
        _make(of, found, data, plan, parts, models, key, stages)
    else:
        for _ in STEPS:
            stages.next()
    card = registry.load(models, of.name, of.version, trusted)[1]
    served = registry.current(models, of.name)
    if served is None:  # the first of its name; every later one takes a person's word
        challengers.promote(parts, models, of.name, of.version, trusted)
        served = of.version
    shadowing = of.version in registry.challengers(models, of.name)
    if plan.challenge and served != of.version and not shadowing:
        shadowing = of.version in registry.challenge(models, of.name, of.version, trusted)
    return Trained(of.name, of.version, new, served == of.version, card["metrics"], shadowing)


def _make(
    of: Material,
    found: past.Past,
    data: dict[str, Any],
    plan: Plan,
    parts: Parts,
    models: Path,
    key: Ed25519PrivateKey,
    stages: Stages,
) -> None:
    """Choose settings on the older part of the past, judge them on the newer, fit them on all of
    it, and write the outcome."""
    stages.next()
    learn, choose, *_ = of.parted(of.rows)
    y_learn, y_choose, *_ = of.parted(of.labels)
    fitted = fit.search(learn, y_learn, choose, y_choose, of.places, plan)
    stages.next()
    judged = Model(of.name, of.version, "", session(fitted.onnx), fitted.usual)
    figures = cards.figures(of, judged, data, plan, parts)
    stages.next()
    last = refit.refit(of.rows, of.known, of.clusters, of.places, fitted.settings, plan)
    served = Model(of.name, of.version, "", session(last.onnx), last.usual)
    manifest = material.manifest(of, found, data, plan)
    card = cards.card(of, fitted, last, figures, manifest, plan, parts)
    beside = {
        registry.MANIFEST: manifest,
        registry.HISTOGRAMS: material.histograms(of, found, served),
        registry.JUDGED: fitted.onnx,
    }
    registry.write(models, of.name, of.version, last.onnx, card, key, beside=beside)


def _split(
    name: str,
    found: past.Past,
    labels: pd.DataFrame,
    permitted: dataset.Mask,
    plan: Plan,
    parts: Parts,
) -> dataset.Split:
    scored_by = {purpose: rule.scores for purpose, rule in parts.regime.purposes.items()}
    of_model = dataset.model_rows(found.events, name, scored_by)
    split = dataset.split(
        found.events,
        labels,
        permitted & of_model,
        delay_days=plan.delay_days,
        test_days=plan.test_days,
        name=name,
    )
    others = int((permitted & ~of_model).sum())
    return replace(split, left_out={"other_model": others, **split.left_out})
