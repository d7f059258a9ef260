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
    refit,
    refusing,
    registry,
)
from sectionfour.learning.audit import PURPOSE
from sectionfour.learning.material import Material
from sectionfour.learning.model import Model, feature_list
from sectionfour.learning.plan import Plan

if TYPE_CHECKING:
    from sectionfour.parts import Parts


#: What a card's figures are of.
JUDGED = (
    "The figures are of these settings fitted on `learn` alone, calibrated on `choose`, and judged"
    " on `test`, of which that model had seen nothing (judged.onnx). What is served was fitted once"
    " more, on all of `rows`, so that nothing is left to judge it by; its membership figures,"
    " calibration and offsets are its own."
)


def figures(
    of: Material, model: Model, data: dict[str, Any], plan: Plan, parts: Parts
) -> dict[str, Any]:
    """Return how good a model is on the test, of which it has seen nothing."""
    test, labels = of.parted(of.rows)[-1], of.parted(of.labels)[-1]
    clusters = np.unique(of.parted(of.clusters)[-1], return_inverse=True)[1]
    scores, limits = model.score_rows(test), parts.policy.thresholds(of.name)
    drawn: dict[str, Any] = {"clusters": clusters, "seed": plan.seed}
    return {
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
        "outcomes": paying.outcome_mix(limits, scores),
        "refusal_penalty": refusing.refusal_penalties(
            model.score_rows, test, labels, of.places, **drawn
        ),
        "without": refusing.without(model.score_rows, test, labels, of.places, limits, **drawn),
        "fairness": fairness.false_positives(
            labels,
            np.array([limits.outcome(float(score)).action != "allow" for score in scores]),
            data["members"][of.split.test],
            {group: values[of.split.test] for group, values in data["audited"].items()},
            seed=plan.seed,
        ),
    }


def card(
    of: Material,
    fitted: fit.Fitted,
    last: refit.Refitted,
    judged: dict[str, Any],
    manifest: dict[str, Any],
    plan: Plan,
    parts: Parts,
) -> registry.Card:
    """Return what is said of a model: what it was made from, and how good its predecessor is."""
    counted = ("labels_known_by", "unseen_from", "rows", "frauds", "frauds_known", "left_out")
    return {
        "name": of.name,
        "version": of.version,
        **feature_list(of.name),
        "purpose": PURPOSE,
        "data": {
            "from": manifest["periods"]["learn"]["from"],
            "to": manifest["periods"]["test"]["to"],
            **{name: manifest[name] for name in counted},
            **{name: manifest[name] for name in ("labels", "gaps", "missing_throughout")},
        },
        "plan": plan.settings,
        "settings": fitted.settings,
        "tried": fitted.tried,
        "calibration": {"slope": last.calibration[0], "intercept": last.calibration[1]},
        "agreement": max(fitted.agreement, last.agreement),
        "judged": JUDGED,
        **judged,
        "costs": msgspec.structs.asdict(parts.policy.of(of.name)),
        "thresholds": asdict(parts.policy.thresholds(of.name)),
        "never_used": sorted(set(parts.regime.categories) - set(needed(of.places))),
        "offsets": last.offsets,
        "membership": membership.of_card(
            of.rows,
            of.known,
            of.places,
            fitted.settings,
            count=plan.shadows,
            drop_share=plan.drop_share,
            seed=plan.seed,
            jobs=plan.jobs,
            backend=plan.backend,
        ),
        "usual": last.usual,
        "libraries": fit.libraries(),
    }
