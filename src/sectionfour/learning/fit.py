"""How a model comes to be: fit, calibrate, export to ONNX. Needs the `training` extra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol

import numpy as np
import onnx
from joblib import delayed, effective_n_jobs
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import ParameterSampler
from threadpoolctl import threadpool_limits

from sectionfour.errors import HistoryError
from sectionfour.features.catalog import NAMES
from sectionfour.learning import backends, dataset, neutral
from sectionfour.learning.model import session
from sectionfour.learning.progress import watched

Matrix = NDArray[np.float64]
#: The trees' sum itself: a probability near 1 has lost its log-odds to rounding in float32.
_LOG_ODDS = {"zipmap": False, "raw_scores": True}

#: What the search draws from. The first candidate is always FIRST. More leaves, longer steps or
#: less regularisation set single frauds apart, and rank no better (`docs/settings.md`).
SPACE: dict[str, list[Any]] = {
    "learning_rate": [0.05, 0.08],
    "max_iter": [90, 120],  # a checkout waits for every tree, once a group of reasons
    "max_leaf_nodes": [4, 8],
    "min_samples_leaf": [20, 50],
    "l2_regularization": [1.0, 10.0],
    "max_features": [0.3, 0.5],
}
FIRST: dict[str, Any] = {
    "learning_rate": 0.05,
    "max_iter": 120,
    "max_leaf_nodes": 4,
    "min_samples_leaf": 20,
    "l2_regularization": 1.0,
    "max_features": 0.3,
}

#: Settings are tried on so many rows at most; the best are then fitted on all. Trying eight on a
#: million and a half is most of a night's work, and says little more of which is the best.
TRIED_ON = 300_000


class Plan(Protocol):
    """What of a training plan concerns the search."""

    @property
    def candidates(self) -> int: ...
    @property
    def drop_share(self) -> float: ...
    @property
    def seed(self) -> int: ...
    @property
    def jobs(self) -> int: ...
    @property
    def backend(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted, calibrated, exported model. `agreement` is the largest difference between the
    probabilities of ONNX and of scikit-learn on the rows that it was chosen on; `offsets` are by
    pattern, as `neutral` says."""

    onnx: bytes
    settings: dict[str, Any]
    tried: list[dict[str, Any]]
    calibration: tuple[float, float]
    offsets: list[float]
    agreement: float
    usual: dict[str, float]


#: A larger difference between ONNX and scikit-learn than this is an export gone wrong.
AGREEMENT = 1e-4


def search(
    learn: Matrix,
    y_learn: NDArray[np.int8],
    choose: Matrix,
    y_choose: NDArray[np.int8],
    places: Sequence[int],
    plan: Plan,
) -> Fitted:
    """Try the plan's number of settings in parallel, take one as `taken` says by how each does on
    `choose`, fit it on all of `learn`, calibrate and export it.

    Rows are learnt from with categories dropped at random and weights that make every pattern of
    missing categories equally fraudulent: refusing must not be held against anyone.
    """
    held_out = rounded(choose)
    rows, weights, usual = prepared(rounded(learn), y_learn, places, plan.drop_share, plan.seed)
    some = sampled(y_learn, TRIED_ON, np.random.default_rng(plan.seed))
    drawn = ParameterSampler(SPACE, plan.candidates, random_state=plan.seed)
    candidates = [FIRST, *(each for each in drawn if each != FIRST)][: plan.candidates]
    tried_on = (rows, y_learn, weights)
    if some is not None:
        # Each weighs for those of its kind that are left out: the share of frauds stays as it is.
        kinds = np.bincount(y_learn, minlength=2) / np.bincount(y_learn[some], minlength=2)
        tried_on = (
            dataset.fill_empty(rows[some]),
            y_learn[some],
            weights[some] * kinds[y_learn[some]],
        )
    calls = [delayed(_try)(s, *tried_on, held_out, y_choose, plan.seed) for s in candidates]
    results = backends.run(calls, jobs=plan.jobs, backend=plan.backend)
    tried = list(watched(results, total=len(candidates), text="search"))
    bad = np.flatnonzero(y_learn) if some is None else some[y_learn[some] == 1]
    learnt, unseen = rounded(learn[bad]), held_out[y_choose == 1]
    precisions = [each[0] for each in tried]
    tells = [told(classifier, learnt, unseen) for _, classifier in tried]
    best = taken(precisions, tells)
    classifier = tried[best][1]
    if some is not None:
        del tried_on, calls, results
        classifier = fitted(candidates[best], rows, y_learn, weights, plan.seed, jobs=plan.jobs)
    scores = classifier.decision_function(held_out)
    calibration = calibrate(scores, y_choose)

    def calibrated(some: Matrix) -> Matrix:
        found: Matrix = calibration[0] * classifier.decision_function(some) + calibration[1]
        return found

    offsets = neutral.offsets(calibrated, held_out[y_choose == 0], places)
    onnx_bytes = export(classifier, learn.shape[1], calibration, offsets, neutral.groups(places))
    expected = calibrated(held_out) + offsets[neutral.patterns(held_out, places)]
    return Fitted(
        onnx=onnx_bytes,
        settings=candidates[best],
        tried=[
            {
                **settings,
                "average_precision": round(float(precision.mean()), 6),
                "standard_error": round(_error(precision), 6),
                "fraud_auc": round(auc, 6),
            }
            for settings, precision, auc in zip(candidates, precisions, tells, strict=True)
        ],
        calibration=calibration,
        offsets=[round(float(offset), 6) for offset in offsets],
        agreement=agreement(onnx_bytes, expected, held_out),
        usual=named(usual, places),
    )


def prepared(
    rows: Matrix, labels: NDArray[np.int8], places: Sequence[int], drop_share: float, seed: int
) -> tuple[Matrix, Matrix, Matrix]:
    """Return what trees learn from, `rows` with categories dropped and on levels; the weights of
    the rows; and what 95 % of them stay below, a column."""
    rng = np.random.default_rng(seed)
    rows = dataset.fill_empty(dataset.drop_at_random(rows, places, drop_share, rng))
    weights, usual = dataset.even_weights(rows, labels, places), _percentile(rows, 95)
    return dataset.levelled(rows, labels, out=rows), weights, usual


def named(usual: Matrix, places: Sequence[int]) -> dict[str, float]:
    """Return what is usual of each feature, by its name, as far as it is known."""
    return {
        NAMES[place]: float(value)
        for place, value in zip(places, usual, strict=True)
        if np.isfinite(value)
    }


def sampled(
    labels: NDArray[np.int8], most: int, rng: np.random.Generator
) -> NDArray[np.intp] | None:
    """Return at most `most` rows, in their order: the frauds, at most half, and honest ones drawn
    at random; None where there are no more than that."""
    if len(labels) <= most:
        return None
    frauds, honest = np.flatnonzero(labels), np.flatnonzero(labels == 0)
    if len(frauds) > most // 2:
        frauds = rng.choice(frauds, most // 2, replace=False)
    honest = rng.choice(honest, min(len(honest), most - len(frauds)), replace=False)
    found: NDArray[np.intp] = np.sort(np.concatenate([frauds, honest]))
    return found


def _try(
    settings: dict[str, Any],
    rows: Matrix,
    labels: NDArray[np.int8],
    weights: Matrix,
    held_out: Matrix,
    held_out_labels: NDArray[np.int8],
    seed: int,
) -> tuple[Matrix, HistGradientBoostingClassifier]:
    classifier = fitted(settings, rows, labels, weights, seed)
    with threadpool_limits(1):
        scores = classifier.decision_function(held_out)
    return precisions_at(held_out_labels, scores), classifier


def fitted(
    settings: Mapping[str, Any],
    rows: Matrix,
    labels: NDArray[np.int8],
    weights: Matrix,
    seed: int,
    *,
    jobs: int = 1,
) -> HistGradientBoostingClassifier:
    """Return trees fitted on rows that are `prepared`; the same ones by however many threads.

    One is for those of which several are fitted at a time; `jobs` below 0 is of all cores.
    """
    with threadpool_limits(effective_n_jobs(jobs)):
        classifier = HistGradientBoostingClassifier(
            **settings, early_stopping=False, random_state=seed
        ).fit(rows, labels, sample_weight=weights)
    round_down(classifier)
    return classifier


def precisions_at(labels: NDArray[np.int8], scores: Matrix) -> Matrix:
    """Return for each fraud which share of the rows that score at least as high are frauds.

    Their mean is the average precision: so it has the standard error of a mean.
    """
    frauds = scores[labels == 1]
    bad = len(frauds) - np.searchsorted(np.sort(frauds), frauds)
    found: Matrix = bad / (len(scores) - np.searchsorted(np.sort(scores), frauds))
    return found


def told(classifier: HistGradientBoostingClassifier, learnt: Matrix, unseen: Matrix) -> float:
    """Return how well scores alone tell frauds that were learnt from those that were not, as AUC.

    The attack by loss (`membership.attacks`) on the very model that was tried, for next to nothing.
    Later frauds may be others than earlier ones, for all settings alike: it serves to compare.
    """
    inside = np.repeat([1, 0], [len(learnt), len(unseen)])
    return float(roc_auc_score(inside, classifier.decision_function(np.vstack([learnt, unseen]))))


def taken(precisions: Sequence[Matrix], tells: Sequence[float]) -> int:
    """Return which to take: of those within one standard error of the best average precision, the
    one that tells least of whom it has learnt from.

    The rule of one standard error of Breiman, Friedman, Olshen, Stone, "Classification and
    Regression Trees" (1984): what held-out rows cannot tell apart is decided by what is simpler,
    or here by what betrays less. The error is that over frauds alone, less than one over members,
    so that little is given away for it.
    """
    means = [float(each.mean()) for each in precisions]
    best = int(np.argmax(means))
    near = [i for i, mean in enumerate(means) if mean >= means[best] - _error(precisions[best])]
    return min(near, key=lambda i: tells[i])


def _error(values: Matrix) -> float:
    return float(values.std() / np.sqrt(len(values)))


def round_down(classifier: HistGradientBoostingClassifier) -> None:
    """Bring each threshold to the float32 at or below it.

    ONNX has no other and would take the nearest: a value just above the threshold could be equal to
    that, and go the other way. At or below, every value in float32 goes where it went.
    """
    for (tree,) in classifier._predictors:
        exact = tree.nodes["num_threshold"]
        with np.errstate(over="ignore"):  # beyond what float32 has is infinite
            near = exact.astype(np.float32)
        below = np.nextafter(near, np.float32(-np.inf))
        tree.nodes["num_threshold"] = np.where(near > exact, below, near)


def rounded(matrix: Matrix) -> Matrix:
    """Return rows in float32's values, as ONNX will see them: a threshold must not fall between a
    value and its rounding."""
    return matrix.astype(np.float32).astype(np.float64)


def _percentile(rows: Matrix, percent: float) -> Matrix:
    found = np.full(rows.shape[1], np.nan)
    for place in range(rows.shape[1]):  # one at a time: a copy of all of them is a gigabyte or more
        there = rows[~np.isnan(rows[:, place]), place]
        if len(there):
            found[place] = np.percentile(there, percent)
    return found


def agreement(onnx_bytes: bytes, expected: Matrix, rows: Matrix) -> float:
    """Return the largest difference in probability; raises HistoryError beyond AGREEMENT."""
    ours = 1 / (1 + np.exp(-expected))
    theirs = session(onnx_bytes).run(["probability"], {"X": rows.astype(np.float32)})[0][:, 0]
    worst = float(np.abs(ours - theirs).max())
    if worst > AGREEMENT:
        raise HistoryError(
            f"ONNX and scikit-learn differ by {worst:.2g}, more than {AGREEMENT}; not registered"
        )
    return worst


def libraries() -> dict[str, str]:
    """Return the versions that a model's bytes depend on."""
    return {name: version(name) for name in ("scikit-learn", "skl2onnx", "onnx", "numpy")}


def calibrate(scores: Matrix, labels: NDArray[np.int8]) -> tuple[float, float]:
    """Return (slope, intercept) of Platt's sigmoid on log-odds, fitted on held-out rows.

    Platt, "Probabilistic outputs for support vector machines" (1999). It keeps the ranking.
    """
    model = LogisticRegression(C=1e6).fit(scores.reshape(-1, 1), labels)
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def export(
    classifier: HistGradientBoostingClassifier,
    width: int,
    calibration: tuple[float, float],
    offsets: Matrix | None = None,
    groups: Sequence[NDArray[np.intp]] = (),
) -> bytes:
    """Return ONNX with outputs `probability` and `log_odds`, shape (n, 1), both calibrated.

    The graph sees for itself which of `groups` of columns are missing, and adds the offset of that
    pattern, bit i for the i-th group: nothing that is served beside the model can be left out.
    """
    sample = np.zeros((1, width), dtype=np.float32)
    model = to_onnx(classifier, sample, options={id(classifier): _LOG_ODDS}, target_opset=17)
    graph = model.graph
    graph.input[0].name, old = "X", graph.input[0].name
    for node in graph.node:
        node.input[:] = ["X" if name == old else name for name in node.input]

    def constant(name: str, value: Any) -> str:
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    slope, intercept = (np.float32(value) for value in calibration)
    table = np.zeros(1 << len(groups)) if offsets is None else offsets
    # A group is missing where as many of its columns are as it has; small counts are exact.
    of_group = np.zeros((width, max(1, len(groups))), dtype=np.float32)
    for i, places in enumerate(groups):
        of_group[places, i] = 1
    sizes = np.maximum(of_group.sum(axis=0), 1)
    powers = (2.0 ** np.arange(of_group.shape[1], dtype=np.float32)).reshape(-1, 1)
    graph.node.extend(
        [
            helper.make_node("IsNaN", ["X"], ["is_missing"]),
            helper.make_node("Cast", ["is_missing"], ["missing"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["missing", constant("of_group", of_group)], ["counts"]),
            helper.make_node("GreaterOrEqual", ["counts", constant("sizes", sizes)], ["whole"]),
            helper.make_node("Cast", ["whole"], ["bits"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["bits", constant("powers", powers)], ["number"]),
            helper.make_node("Cast", ["number"], ["pattern"], to=TensorProto.INT64),
            helper.make_node(
                "Gather", [constant("offsets", table.astype(np.float32)), "pattern"], ["offset"]
            ),
        ]
    )
    graph.node.extend(
        [
            helper.make_node("Gather", ["probabilities", constant("one", [1])], ["ln"], axis=1),
            helper.make_node("Mul", ["ln", constant("slope", slope)], ["scaled"]),
            helper.make_node("Add", ["scaled", constant("intercept", intercept)], ["shifted"]),
            helper.make_node("Add", ["shifted", "offset"], ["log_odds"]),
            helper.make_node("Sigmoid", ["log_odds"], ["probability"]),
        ]
    )
    del graph.output[:]
    graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1])
        for name in ("probability", "log_odds")
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
