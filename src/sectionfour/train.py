"""FLOW 2: history -> gate (again, for training) -> features as of each event -> fit -> evaluate ->
register.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from sectionfour import audit
from sectionfour.audit import PURPOSE
from sectionfour.domain import Permit, Request, Use, instant
from sectionfour.errors import HistoryError
from sectionfour.features import history
from sectionfour.features.catalog import NAMES, columns, fingerprint, needed
from sectionfour.learning import dataset, evaluate, fairness, fit, membership, past, registry
from sectionfour.learning.model import Model, feature_list, session
from sectionfour.learning.progress import Stages
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
    backend: str = "loky"  # joblib's: loky, threading, dask, ray, spark


@dataclass(frozen=True, slots=True)
class Trained:
    """One model's outcome: its version, whether it was new, and whether it is now served."""

    name: str
    version: str
    new: bool
    promoted: bool
    metrics: dict[str, dict[str, float]]


def train(
    parts: Parts, plan: Plan, models: Path, key: Ed25519PrivateKey, trusted: Collection[bytes]
) -> list[Trained]:
    """Train, judge and register both models from what the ledger holds. Safe to run again."""
    with Stages("history", "gate", "features", *plan.names) as stages:
        stages.next()
        log_size = parts.ledger.size()  # before the events: whoever was erased by then is not there
        found = past.read(parts.ledger, until=plan.until)
        if not len(found.events):
            raise HistoryError("the ledger holds no events to learn from")
        stages.next()
        permitted, left_out, masked = permit(
            found, parts.ledger, at=parts.clock(), regime=parts.regime
        )
        stages.next()
        matrix, _ = history.compute(found.events, found.known)
        for category, rows in masked.items():
            matrix[np.ix_(rows, dataset.columns_of(category, range(len(NAMES))))] = np.nan
        audited = audit_groups(parts, found)
        done = []
        for name in plan.names:
            stages.next()
            if plan.since is not None:
                permitted = permitted & (found.events["at"].to_numpy() >= plan.since)
            done.append(
                _one(
                    name,
                    found,
                    matrix,
                    permitted,
                    left_out,
                    audited,
                    plan,
                    parts,
                    models,
                    key,
                    trusted,
                )
            )
            parts.ledger.add_training(
                name, done[-1].version, log_size, len(found.events), parts.clock()
            )
        return done


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
    name: str,
    found: past.Past,
    matrix: NDArray[np.float64],
    permitted: dataset.Mask,
    left_out: Counter[str],
    audited: dict[str, NDArray[np.object_]],
    plan: Plan,
    parts: Parts,
    models: Path,
    key: Ed25519PrivateKey,
    trusted: Collection[bytes],
) -> Trained:
    of_model = dataset.model_rows(
        found.events, name, {p: rule.scores for p, rule in parts.regime.purposes.items()}
    )
    split = dataset.split(
        found.events,
        found.labels,
        permitted & of_model,
        delay_days=plan.delay_days,
        test_days=plan.test_days,
    )
    places = columns(name)
    used = np.concatenate([split.learn, split.choose, split.test])
    rows = np.ascontiguousarray(matrix[np.ix_(used, np.array(places))])
    version = _version(found.events, used, rows, split.labels[used], name, plan)
    if version in registry.versions(models, name):
        card = registry.load(models, name, version, trusted)[1]
        return Trained(
            name, version, False, registry.current(models, name) == version, card["metrics"]
        )

    sizes = np.cumsum([len(split.learn), len(split.choose)])
    learn, choose, test = np.split(rows, sizes)
    y_learn, y_choose, y_test = np.split(split.labels[used], sizes)
    fitted = fit.search(learn, y_learn, choose, y_choose, places, plan)
    model = Model(name, version, "", session(fitted.onnx), fitted.usual)
    scores = model.score_rows(test)
    thresholds = parts.policy.thresholds(name)
    card = {
        "name": name,
        "version": version,
        **feature_list(name),
        "purpose": PURPOSE,
        "data": {
            "from": instant(int(found.events["at"].iloc[used[0]])),
            "to": instant(int(found.events["at"].iloc[used[-1]])),
            "labels_known_by": instant(split.cut),
            "rows": {"learn": len(learn), "choose": len(choose), "test": len(test)},
            "frauds": {
                "learn": int(y_learn.sum()),
                "choose": int(y_choose.sum()),
                "test": int(y_test.sum()),
            },
            "left_out": {**left_out, "too_young": split.too_young},
        },
        "plan": {k: v for k, v in asdict(plan).items() if k not in ("jobs", "backend", "names")},
        "settings": fitted.settings,
        "tried": fitted.tried,
        "calibration": {"slope": fitted.calibration[0], "intercept": fitted.calibration[1]},
        "agreement": fitted.agreement,
        "metrics": evaluate.metrics(y_test, scores, seed=plan.seed),
        "reliability": evaluate.reliability(y_test, scores),
        "costs": msgspec.structs.asdict(parts.policy.of(name)),
        "thresholds": asdict(parts.policy.thresholds(name)),
        "outcomes": evaluate.outcome_mix(parts.policy.thresholds(name), scores),
        "refusal_penalty": evaluate.refusal_penalties(
            model.score_rows, test, y_test, places, seed=plan.seed
        ),
        "without": evaluate.without(
            model.score_rows, test, y_test, places, parts.policy.thresholds(name), seed=plan.seed
        ),
        "never_used": sorted(set(parts.regime.categories) - set(needed(places))),
        "offsets": fitted.offsets,
        "membership": membership.of_card(
            learn,
            y_learn,
            places,
            fitted.settings,
            count=plan.shadows,
            drop_share=plan.drop_share,
            seed=plan.seed,
            jobs=plan.jobs,
        ),
        "fairness": fairness.false_positives(
            y_test,
            np.array([thresholds.outcome(float(score)).action != "allow" for score in scores]),
            members_of(found)[split.test],
            {of: groups[split.test] for of, groups in audited.items()},
            seed=plan.seed,
        ),
        "usual": fitted.usual,
        "libraries": fit.libraries(),
    }
    registry.write(models, name, version, fitted.onnx, card, key)
    promoted = _better(name, model, test, y_test, models, trusted)
    if promoted:
        registry.promote(models, name, version, trusted)
    return Trained(name, version, True, promoted, card["metrics"])


def _version(
    events: pd.DataFrame,
    used: NDArray[np.intp],
    rows: NDArray[np.float64],
    labels: NDArray[np.int8],
    name: str,
    plan: Plan,
) -> str:
    """Return a name made of the data's last day and of everything that the model is made from."""
    settings = {k: v for k, v in asdict(plan).items() if k not in ("jobs", "backend", "names")}
    digest = hashlib.sha256(repr((name, settings, fingerprint(), fit.libraries())).encode())
    digest.update(rows.tobytes())
    digest.update(labels.tobytes())
    day = instant(int(events["at"].iloc[used[-1]]))[:10].replace("-", "")
    return f"{day}-{digest.hexdigest()[:12]}"


def _better(
    name: str,
    model: Model,
    test: NDArray[np.float64],
    labels: NDArray[np.int8],
    models: Path,
    trusted: Collection[bytes],
) -> bool:
    """Whether the new model ranks the test rows at least as well as the one that is served."""
    version = registry.current(models, name)
    if version is None:
        return True
    champion = registry.load(models, name, version, trusted)[0]
    judge = evaluate.METRICS["average_precision"]
    return judge(labels, model.score_rows(test)) >= judge(labels, champion.score_rows(test))
