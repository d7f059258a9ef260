"""How much a model tells of whom it has learnt from: membership, and what it learnt by heart.

Shadow models are fitted as `fit` fits, each on its own random half of the same rows, so that for
every model it is known who was inside. Attackers see scores alone. Needs the `training` extra.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from joblib import delayed
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score, roc_curve
from threadpoolctl import threadpool_limits

from sectionfour.errors import HistoryError
from sectionfour.learning import backends, dataset, evaluate
from sectionfour.learning.progress import watched

Matrix = NDArray[np.float64]
Labels = NDArray[np.int8]
Settings = Mapping[str, Any]

#: The fewest shadow models that LiRA is worth anything with, and the targets that it is run on.
SHADOWS, TARGETS = 32, 8
#: What must hold of a model (requirements T16): at most so much.
LIMITS = {
    "overall_auc": 0.53,
    "fraud_auc": 0.65,
    "fraud_tpr_at_1pct": 0.05,
    "overall_tpr_at_01pct": 0.003,
}
#: T17: at most so much more often than without them does a model say what the canaries were marked.
CANARIES, CANARY_LIMIT = 50, 0.05
#: Fewer frauds than this on a side of an attack, and its figures would be noise.
LEAST_FRAUDS = 20


@dataclass(frozen=True, slots=True)
class Shadows:
    """What was inside each model, shape (models, rows), and the log-odds it gives each row.

    `fresh` are the log-odds of rows that no model has seen, shape (models, fresh rows).
    """

    inside: NDArray[np.bool_]
    scores: Matrix
    fresh: Matrix


def shadows(
    rows: Matrix,
    labels: Labels,
    places: Sequence[int],
    settings: Settings,
    *,
    count: int = SHADOWS,
    drop_share: float = 0.15,
    seed: int = 0,
    jobs: int = 2,
    backend: str = "loky",
    fresh: Matrix | None = None,
) -> Shadows:
    """Fit `count` models, each on a random half of the rows; halves come in pairs, so that every
    row is inside as often as outside.

    Raises HistoryError where a half would hold too few frauds to say anything of them.
    """
    if labels.sum() < 2 * LEAST_FRAUDS:
        raise HistoryError(
            f"{int(labels.sum())} frauds are too few to attack a model with;"
            f" {2 * LEAST_FRAUDS} are needed"
        )
    rng = np.random.default_rng(seed)
    inside = np.zeros((count, len(rows)), dtype=np.bool_)
    for first in range(0, count, 2):
        inside[first] = _half(labels, rng)
        inside[first + 1 : first + 2] = ~inside[first]
    seen = rows if fresh is None else np.concatenate([rows, fresh])
    jobs_of = (
        delayed(fitted_scores)(rows[i], labels[i], seen, places, settings, drop_share, seed + n)
        for n, i in enumerate(inside)
    )
    found = backends.run(jobs_of, jobs=jobs, backend=backend)
    scores = np.array(list(watched(found, total=count, text="shadow models")))
    return Shadows(inside, scores[:, : len(rows)], scores[:, len(rows) :])


def _half(labels: Labels, rng: np.random.Generator) -> NDArray[np.bool_]:
    chosen = np.zeros(len(labels), dtype=np.bool_)
    for label in (0, 1):
        of = np.flatnonzero(labels == label)
        chosen[rng.permutation(of)[: len(of) // 2]] = True
    return chosen


def fitted_scores(
    rows: Matrix,
    labels: Labels,
    seen: Matrix,
    places: Sequence[int],
    settings: Settings,
    drop_share: float,
    seed: int,
) -> Matrix:
    """Return the log-odds that a model, fitted as `fit.search` fits, gives the rows `seen`."""
    rng = np.random.default_rng(seed)
    dropped = dataset.fill_empty(dataset.drop_at_random(rows, places, drop_share, rng))
    weights = dataset.even_weights(dropped, labels, places)
    with threadpool_limits(1):
        classifier = HistGradientBoostingClassifier(
            **settings, early_stopping=False, random_state=seed
        ).fit(dataset.levelled(dropped, labels), labels, sample_weight=weights)
        found: Matrix = classifier.decision_function(seen)
    return found


def attacks(found: Shadows, labels: Labels, *, targets: int = TARGETS) -> dict[str, Any]:
    """Return both attacks' figures, overall and among frauds, averaged over `targets` models.

    `loss`: whoever has a small loss was inside (Yeom and others, 2018). `lira`: the likelihood
    ratio of Carlini and others, "Membership Inference Attacks From First Principles" (2022), with
    one variance for all rows, since there are few shadows. Neither the target nor the model of the
    other half is among a target's shadows: who has the latter has been told who was inside.
    `low` and `high` are 1.96 standard deviations over targets: how far one model may be from the
    mean of them. True positive rates are at 0.1 % and 1 % false positives. With fewer than four
    models there is no `lira`.
    """
    signed = np.where(labels == 1, found.scores, -found.scores)  # log-odds of the true label
    spread = _spread(signed, found.inside)
    kinds: dict[str, Callable[[int], Matrix]] = {
        "loss": lambda target: signed[target],
        "lira": lambda target: _likelihood_ratio(signed, found.inside, target, spread),
    }
    parts = {"overall": np.ones(len(labels), dtype=np.bool_), "fraud": labels == 1}
    if len(found.scores) < 4:
        del kinds["lira"]
    return {
        kind: {
            name: _averaged(
                [
                    _figures(found.inside[target][part], guess(target)[part])
                    for target in range(min(targets, len(found.scores)))
                ]
            )
            for name, part in parts.items()
        }
        for kind, guess in kinds.items()
    }


def _figures(inside: NDArray[np.bool_], guess: Matrix) -> dict[str, float]:
    false, true, _ = roc_curve(inside, guess, drop_intermediate=False)
    return {
        "auc": float(roc_auc_score(inside, guess)),
        **{
            name: float(true[np.searchsorted(false, rate, side="right") - 1])
            for name, rate in (("tpr_at_01pct", 0.001), ("tpr_at_1pct", 0.01))
        },
    }


def _averaged(figures: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    found = {}
    for name in figures[0]:
        values = np.array([each[name] for each in figures])
        half = 1.96 * float(values.std(ddof=1)) if len(values) > 1 else float("nan")
        mean = float(values.mean())
        found[name] = {
            "value": round(mean, 5),
            "low": round(max(0.0, mean - half), 5),
            "high": round(min(1.0, mean + half), 5),
        }
    return found


def _sides(signed: Matrix, inside: NDArray[np.bool_], without: int | None) -> tuple[Matrix, Matrix]:
    """Return each row's mean over the models that it was inside of, and over the others; `without`
    a target and the model of its other half."""
    use = np.ones(len(signed), dtype=np.bool_)
    if without is not None:
        same = inside == inside[without]
        use = same.any(axis=1) & ~same.all(axis=1)
    within, scores = inside[use], signed[use]
    n = np.maximum(within.sum(axis=0), 1)
    out = np.maximum((~within).sum(axis=0), 1)
    return (scores * within).sum(axis=0) / n, (scores * ~within).sum(axis=0) / out


def _spread(signed: Matrix, inside: NDArray[np.bool_]) -> tuple[float, float]:
    mean_in, mean_out = _sides(signed, inside, None)
    return (
        float((signed - mean_in)[inside].std()) + 1e-9,
        float((signed - mean_out)[~inside].std()) + 1e-9,
    )


def _likelihood_ratio(
    signed: Matrix, inside: NDArray[np.bool_], target: int, spread: tuple[float, float]
) -> Matrix:
    mean_in, mean_out = _sides(signed, inside, target)
    seen = signed[target]
    ratio: Matrix = ((seen - mean_out) / spread[1]) ** 2 - ((seen - mean_in) / spread[0]) ** 2
    return ratio / 2 + float(np.log(spread[1] / spread[0]))


def verdict(figures: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return, for each limit of T16, what the stronger attack reaches, and whether it holds."""
    found = {}
    for name, limit in LIMITS.items():
        part, measure = name.split("_", 1)
        worst = max(figures[kind][part][measure]["value"] for kind in figures)
        found[name] = {"value": worst, "limit": limit, "holds": bool(worst <= limit)}
    return found


def of_card(
    rows: Matrix,
    labels: Labels,
    places: Sequence[int],
    settings: Settings,
    *,
    count: int,
    drop_share: float,
    seed: int,
    jobs: int,
    backend: str = "loky",
) -> dict[str, Any]:
    """Return what a model's card says of membership: figures, limits, and in words whether they
    hold. Measured on models of half of the rows, which betray more than one of all."""
    if not count:
        return {"measured": False, "says": "not measured; run `sectionfour privacy-report`"}
    try:
        made = shadows(
            rows, labels, places, settings,
            count=count, drop_share=drop_share, seed=seed, jobs=jobs, backend=backend,
        )  # fmt: skip
    except HistoryError as error:
        return {"measured": False, "says": error.detail}
    figures = attacks(made, labels)
    limits = verdict(figures)
    above = [
        f"{name} is {each['value']:.4g}, above {each['limit']}"
        for name, each in limits.items()
        if not each["holds"]
    ]
    says = "All limits hold." if not above else (
        f"Not all limits hold: {'; '.join(above)}. Only {int(labels.sum())} frauds could be learnt"
        " from, and each of them shapes the model; holding it back until the limits hold costs"
        " average precision, as the curve of `sectionfour privacy-report` shows."
        " Who may read the model's scores for chosen rows must be kept to those who need to."
    )  # fmt: skip
    if "lira" not in figures:
        says += (
            " The attack by loss alone was tried; that by likelihood ratio is stronger and needs"
            " more shadow models: run `sectionfour privacy-report`."
        )
    return {
        "measured": True,
        "shadows": count,
        "rows": len(rows),
        "frauds": int(labels.sum()),
        "attacks": figures,
        "limits": limits,
        "holds": not above,
        "says": says,
    }


# --- what is learnt by heart -----------------------------------------------------------------


def outliers(
    rows: Matrix, labels: Labels, count: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """Return honest rows that lie far out: drawn from the twentieth that is furthest from the
    middle of its columns, by rank. Real rows, so that other honest rows lie around each.

    HistoryError where there are fewer than `count`.
    """
    filled = np.where(np.isnan(rows), -np.inf, rows)
    places = np.argsort(np.argsort(filled, axis=0, kind="stable"), axis=0) / max(1, len(rows) - 1)
    distance = np.abs(places - 0.5).mean(axis=1)
    honest = np.flatnonzero(labels == 0)
    far = honest[np.argsort(-distance[honest], kind="stable")[: max(count, len(honest) // 20)]]
    if len(far) < count:
        raise HistoryError(f"{len(far)} honest rows are too few to plant {count} canaries among")
    return rng.choice(far, count, replace=False)


def canaries(
    rows: Matrix,
    labels: Labels,
    places: Sequence[int],
    settings: Settings,
    *,
    count: int = CANARIES,
    drop_share: float = 0.15,
    seed: int = 0,
) -> dict[str, Any]:
    """Mark `count` honest outliers as frauds: does the model say of them what it was told (T17)?

    `returned` is the share that it calls frauds, `control` the share by a model that was told the
    truth. As many rows are called frauds as there are frauds.
    """
    rng = np.random.default_rng(seed)
    chosen = outliers(rows, labels, count, rng)
    told = labels.copy()
    told[chosen] = 1
    shares = []
    for marks in (told, labels):
        scores = fitted_scores(rows, marks, rows, places, settings, drop_share, seed)
        border = float(np.quantile(scores, 1 - labels.mean()))
        shares.append(float((scores[chosen] >= border).mean()))
    excess = shares[0] - shares[1]
    return {
        "planted": count,
        "frauds": int(labels.sum()),
        "returned": round(shares[0], 4),
        "control": round(shares[1], 4),
        "excess": round(excess, 4),
        "limit": CANARY_LIMIT,
        "holds": bool(excess <= CANARY_LIMIT),
    }


# --- what privacy costs ----------------------------------------------------------------------

#: From free to held back: what each step of the trade-off curve changes of the model's settings.
#: What counts most is how many leaves a tree has: with two a fraud cannot be set apart by itself.
CURVE: tuple[dict[str, Any], ...] = (
    {"max_leaf_nodes": 31},
    {"max_leaf_nodes": 15},
    {},
    {"max_leaf_nodes": 4, "learning_rate": 0.08, "max_iter": 120, "l2_regularization": 1.0},
    {"max_leaf_nodes": 4, "learning_rate": 0.08, "max_iter": 120, "l2_regularization": 10.0},
    {"max_leaf_nodes": 2, "learning_rate": 0.16, "max_iter": 60, "l2_regularization": 1.0},
    {"max_leaf_nodes": 2, "learning_rate": 0.08, "max_iter": 60, "l2_regularization": 10.0},
)


def trade_off(
    rows: Matrix,
    labels: Labels,
    test: Matrix,
    y_test: Labels,
    places: Sequence[int],
    curve: Sequence[Settings],
    *,
    clusters: NDArray[np.intp] | None = None,
    count: int = SHADOWS,
    drop_share: float = 0.15,
    seed: int = 0,
    jobs: int = 2,
    backend: str = "loky",
) -> list[dict[str, Any]]:
    """Return, for each setting, what its attacks reach and its average precision on the test, with
    a 95 % interval over `clusters` of the test's rows.

    The precision is the mean over the shadow models, each of which has half of the rows: less
    than that of a model that has them all, and comparable along the curve.
    """
    found = []
    for settings in curve:
        made = shadows(
            rows, labels, places, settings,
            count=count, drop_share=drop_share, seed=seed, jobs=jobs, backend=backend, fresh=test,
        )  # fmt: skip
        figures = verdict(attacks(made, labels))
        found.append(
            {
                "settings": dict(settings),
                "average_precision": evaluate.mean_precision(
                    y_test, made.fresh, clusters=clusters, seed=seed
                ),
                **{name: each["value"] for name, each in figures.items()},
                "holds": all(each["holds"] for each in figures.values()),
            }
        )
    return found
