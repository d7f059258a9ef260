"""What is said of a model: what it was made from, and how good it is."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from sectionfour.features.catalog import needed
from sectionfour.learning import (
    dataset,
    evaluate,
    fairness,
    fit,
    membership,
    paying,
    refusing,
    registry,
)
from sectionfour.learning.audit import PURPOSE
from sectionfour.learning.material import Material
from sectionfour.learning.model import Model, feature_list
from sectionfour.learning.plan import Plan

if TYPE_CHECKING:
    from sectionfour.parts import Parts


def card(
    of: Material,
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
            "members_with_fraud": len(np.unique(clusters[labels == 1])),
            "why": "a fraud is rarely one event: all events of a member are drawn, or none",
        },
        "metrics": evaluate.metrics(labels, scores, **drawn),
        "reliability": evaluate.reliability(labels, scores, clusters=clusters),
        "calibration_by_pattern": evaluate.calibration_by_pattern(
            labels, scores, dataset.pattern(test, of.places), **drawn
        ),
        "costs": msgspec.structs.asdict(parts.policy.of(of.name)),
        "thresholds": asdict(limits),
        "outcomes": paying.outcome_mix(limits, scores),
        "refusal_penalty": refusing.refusal_penalties(
            model.score_rows, test, labels, of.places, **drawn
        ),
        "without": refusing.without(model.score_rows, test, labels, of.places, limits, **drawn),
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
