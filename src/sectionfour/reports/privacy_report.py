"""What a model betrays of whom it learnt from, and of whom it rates: T16, T17, T18, and the price.

Figures are of models fitted as the one that is served was, on the ledger as it is now.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold

from sectionfour.domain import DELAY_DAYS, EVENT_TYPES, instant
from sectionfour.features.catalog import columns
from sectionfour.learning import audit, dataset, fit, generalise, membership
from sectionfour.learning.intervals import SPAN, redraws
from sectionfour.learning.model import Model
from sectionfour.learning.progress import Stages
from sectionfour.learning.registry import Card
from sectionfour.parts import Parts
from sectionfour.reports import learnable

#: T18: at most so much more is told of gender or age by what an answer says.
DELTA_LIMIT = 0.02
#: Fewer members than this on a side, and an attribute is not attacked.
LEAST_MEMBERS = 20
#: Rows that reasons are worked out for; each takes about a millisecond.
MOST_ROWS = 3_000

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    model: str = "transaction"
    shadows: int = membership.SHADOWS
    curve_shadows: int = 8  # models a point of the trade-off curve; 0: no curve
    delay_days: float = DELAY_DAYS
    test_days: float = 21.0
    drop_share: float = 0.15
    seed: int = 4
    jobs: int = 2
    backend: str = "loky"


def report(parts: Parts, terms: Terms, served: tuple[Model, Card] | None) -> dict[str, Any]:
    """Attack a model like the one that is served, and return the figures.

    Settings are those of its card; where none is served, those that a search begins with, and
    there is no T18.
    """
    stages = ("history", "gate", "features", "membership", "canaries", "attributes", "trade-off")
    with Stages(*stages) as bar:
        found = learnable.read(parts, bar)
        scored = {p: rule.scores for p, rule in parts.regime.purposes.items()}
        of_model = found.of_model(terms.model, scored)
        split = dataset.split(
            found.past.events, found.past.labels, of_model,
            delay_days=terms.delay_days, test_days=terms.test_days,
        )  # fmt: skip
        places = columns(terms.model)
        learnt = np.concatenate([split.learn, split.choose, split.delay, split.test])
        older = np.concatenate([split.learn, split.choose])  # for the curve, judged on the test

        def rows(of: NDArray[np.intp]) -> Matrix:
            wide: Matrix = found.matrix[np.ix_(of, np.array(places))]
            return wide.astype(np.float32).astype(np.float64)

        x, y = rows(learnt), split.known[learnt]
        model = None if served is None else served[0]
        settings = dict(fit.FIRST if served is None else served[1]["settings"])
        common: dict[str, Any] = {"drop_share": terms.drop_share, "seed": terms.seed}
        spread: dict[str, Any] = {"jobs": terms.jobs, "backend": terms.backend}
        bar.next()
        said = membership.of_card(x, y, places, settings, count=terms.shadows, **spread, **common)
        bar.next()
        planted = membership.canaries(x, y, places, settings, **common)
        bar.next()
        told = attributes(parts, found, of_model, model, terms.seed)
        bar.next()
        curve = []
        if terms.curve_shadows:
            curve = membership.trade_off(
                rows(older), split.labels[older],
                rows(split.test), split.labels[split.test], places,
                [settings | change for change in membership.CURVE],
                clusters=dataset.clusters(found.past.events["member"].iloc[split.test]),
                count=terms.curve_shadows, **spread, **common,
            )  # fmt: skip
    return {
        "model": terms.model,
        "version": None if model is None else model.version,
        "at": instant(found.at),
        "settings": settings,
        "T16": said,
        "T17": planted,
        "T18": told,
        "trade_off": curve,
    }


def attributes(
    parts: Parts,
    found: learnable.Learnable,
    of_model: dataset.Mask,
    model: Model | None,
    seed: int,
) -> dict[str, Any]:
    """Return how much better gender and age are guessed by whoever sees the answers too (T18).

    The attacker knows of each event what could be known from outside; then the score and the
    reasons as well. AUC over members that he has not learnt from, in five folds; `delta` is the
    difference, with a 95 % interval from a bootstrap over members. Age is cut at its median band.
    """
    if model is None:
        return {"measured": False, "says": "no model is served that this code can read"}
    rng = np.random.default_rng(seed)
    groups = audit.of_events(parts, found.past.subjects, found.member)
    result: dict[str, Any] = {"limit": DELTA_LIMIT}
    for name, sides in (("gender", _gender), ("age_band", _older)):
        target = sides(groups[name])
        rows = np.flatnonzero(of_model & (target >= 0))
        if len(rows) > MOST_ROWS:
            rows = np.sort(rng.choice(rows, MOST_ROWS, replace=False))
        member, y = found.member[rows], target[rows]
        people = min((len(np.unique(member[y == side])) for side in (0, 1)), default=0)
        if people < LEAST_MEMBERS:
            result[name] = {"measured": False, "says": f"{people} members are too few"}
            continue
        outside = _outside(found, rows)
        inside = np.column_stack([outside, _answers(model, found.matrix[rows])])
        guesses = [_guessed(x, y, member, seed) for x in (outside, inside)]
        result[name] = {"measured": True, "members": len(np.unique(member)), "rows": len(rows)}
        result[name] |= _delta(y, member, guesses, rng)
    return result


def _gender(of: NDArray[np.object_]) -> NDArray[np.int64]:
    return np.array([{"f": 0, "m": 1}.get(g, -1) for g in of], dtype=np.int64)


def _older(of: NDArray[np.object_]) -> NDArray[np.int64]:
    first = np.array([-1 if band is None else int(band.split("-")[0]) for band in of])
    if not (first >= 0).any():
        return first
    return np.where(first < 0, -1, first > np.median(first[first >= 0])).astype(np.int64)


def _outside(found: learnable.Learnable, rows: NDArray[np.intp]) -> Matrix:
    events = found.past.events
    at = events["at"].to_numpy()
    age = (at - found.numbers("registered_at"))[rows] / 1e6
    kinds = events["type"].map({name: code for code, name in enumerate(EVENT_TYPES)}).to_numpy()
    columns = (
        kinds[rows],
        generalise.hour_of_week(at[rows], 0),
        generalise.age_band(age),
        generalise.amount_bucket(found.numbers("amount")[rows]),
    )
    return np.column_stack(columns).astype(np.float64)


def _answers(model: Model, vectors: Matrix) -> Matrix:
    """Return the score and each reason's contribution, as an answer gives them."""
    codes = {code: place for place, code in enumerate(model.codes, start=1)}
    said = np.zeros((len(vectors), len(codes) + 1))
    for row, vector in zip(said, vectors, strict=True):
        rating = model.rate(vector)
        row[0] = rating.probability
        for reason in rating.reasons:
            row[codes[reason.code]] = reason.contribution
    return said


def _guessed(x: Matrix, y: NDArray[np.int64], member: NDArray[np.int64], seed: int) -> Matrix:
    found = np.zeros(len(y))
    for learn, test in GroupKFold(5, shuffle=True, random_state=seed).split(x, y, member):
        attacker = HistGradientBoostingClassifier(
            max_iter=50, max_leaf_nodes=8, early_stopping=False, random_state=seed
        ).fit(x[learn], y[learn])
        found[test] = attacker.predict_proba(x[test])[:, 1]
    return found


def _delta(
    y: NDArray[np.int64],
    member: NDArray[np.int64],
    guesses: list[Matrix],
    rng: np.random.Generator,
) -> dict[str, Any]:
    without, with_answers = (float(roc_auc_score(y, guess)) for guess in guesses)
    people, where = np.unique(member, return_inverse=True)
    draws = []
    for times in islice(redraws(len(people), rng), 200):
        w = times[where]
        if len(np.unique(y[w > 0])) == 2:
            a, b = (roc_auc_score(y, guess, sample_weight=w) for guess in guesses)
            draws.append(b - a)
    low, high = np.percentile(draws, SPAN)
    delta = with_answers - without
    return {
        "auc_outside": round(without, 4),
        "auc_with_answers": round(with_answers, 4),
        "delta": round(delta, 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "holds": bool(delta <= DELTA_LIMIT),
    }


def lines(found: dict[str, Any]) -> list[str]:
    """Return a report as lines to read."""
    said, planted, told = found["T16"], found["T17"], found["T18"]
    text = [f"{found['model']} {found['version'] or '(none is served)'}", f"T16 {said['says']}"]
    for kind, parts in said.get("attacks", {}).items():
        for name, figures in parts.items():
            text.append(
                f"    {kind:5} {name:8}"
                + "".join(f" {measure} {each['value']:.4f}" for measure, each in figures.items())
            )
    text.append(
        f"T17 {planted['planted']} canaries: {planted['returned']:.0%} returned,"
        f" {planted['control']:.0%} without them (limit: {planted['limit']:.0%} more)"
    )
    for name in ("gender", "age_band"):
        each = told.get(name, {"measured": False, "says": told.get("says", "")})
        text.append(
            f"T18 {name}: AUC {each['auc_outside']:.3f}, with answers"
            f" {each['auc_with_answers']:.3f}, delta {each['delta']:+.3f}"
            f" ({each['low']:+.3f} to {each['high']:+.3f}), {each['members']} members"
            if each["measured"]
            else f"T18 {name}: not measured, {each['says']}"
        )
    for point in found["trade_off"]:
        precision = point["average_precision"]
        text.append(
            f"AP {precision['value']:.3f} ({precision['low']:.3f} to {precision['high']:.3f}):"
            f" overall AUC {point['overall_auc']:.3f}, frauds {point['fraud_auc']:.3f}"
            f" at {point['settings']}"
        )
    return text
