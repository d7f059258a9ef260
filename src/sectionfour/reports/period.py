"""What a model is judged by after it was made: the events of a period, from the ledger.

Every row has passed the gate for analysis, as before training. A row younger than the label delay
is there for what needs no label, and is not called honest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from sectionfour.decisions.policy import Costs, expected_costs, thresholds
from sectionfour.domain import ACTIONS, DAY, DELAY_DAYS, instant
from sectionfour.errors import HistoryError, RegistryError, SettingsError
from sectionfour.features import history
from sectionfour.features.catalog import NAMES, columns
from sectionfour.learning import challengers, dataset, evaluate, past, paying, registry
from sectionfour.learning.intervals import Clusters
from sectionfour.learning.permitted import permit
from sectionfour.learning.plan import LONGEST
from sectionfour.parts import Parts

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Period:
    """A model's events, in order of `at`. `rows` are their features, of the whole catalog."""

    name: str
    at: NDArray[np.int64]
    event_id: NDArray[np.object_]
    clusters: Clusters  # by member; a guest is one of their own
    amount: NDArray[np.float64]  # NaN where there is none
    fraud: NDArray[np.int8]  # known as fraud by now
    mature: Mask  # older than the label delay: without a label, honest
    rows: NDArray[np.float64]
    left_out: dict[str, int]

    def of(self, kept: Mask) -> Period:
        """Return some of the events."""
        return replace(
            self,
            at=self.at[kept],
            event_id=self.event_id[kept],
            clusters=np.unique(self.clusters[kept], return_inverse=True)[1],
            amount=self.amount[kept],
            fraud=self.fraud[kept],
            mature=self.mature[kept],
            rows=self.rows[kept],
        )


def read(
    parts: Parts,
    names: Sequence[str],
    *,
    since: int | None = None,
    until: int | None = None,
    delay_days: float = DELAY_DAYS,
    with_rows: bool = True,
) -> dict[str, Period]:
    """Return the period of each model, from `since` on and before `until`, in microseconds.

    Labels are as known now, whatever `until`. Without rows there are no features, and it is quick.
    Raises HistoryError where there is not one event, SettingsError for a delay that is none.
    """
    if not 0 <= delay_days < LONGEST:
        raise SettingsError(f"a label delay is from 0 to below {LONGEST:,} days, got {delay_days}")
    found = past.read(parts.ledger)
    if not len(found.events):
        raise HistoryError("the ledger holds no events")
    permitted, left_out, masked = permit(found, parts.ledger, at=parts.clock(), regime=parts.regime)
    matrix = np.empty((len(found.events), 0))
    if with_rows:
        matrix, _ = history.compute(found.events, found.known, clusters=found.clusters)
        for category, rows in masked.items():
            matrix[np.ix_(rows, dataset.columns_of(category, range(len(NAMES))))] = np.nan
    events = found.events
    labels, _ = dataset.usable(events, found.labels)
    at = events["at"].to_numpy()
    end = int(max(at[-1], found.labels["at"].max() if len(found.labels) else 0)) + 1
    fraud = dataset.labels_at(events, labels, end)
    scored_by = {purpose: rule.scores for purpose, rule in parts.regime.purposes.items()}
    inside = (at >= (since or 0)) & (at < (until or end))
    periods = {}
    for name in names:
        kept = inside & permitted & dataset.model_rows(events, name, scored_by)
        if not kept.any():
            raise HistoryError(f"the ledger holds no events of that period for {name}")
        periods[name] = Period(
            name=name,
            at=at[kept],
            event_id=events["event_id"].to_numpy()[kept],
            clusters=dataset.clusters(events["member"][kept]),
            amount=events["amount"][kept].to_numpy(dtype=np.float64, na_value=np.nan),
            fraud=fraud[kept],
            mature=(at < end - int(delay_days * DAY))[kept],
            rows=matrix[kept],
            left_out=dict(Counter(left_out)),
        )
    return periods


def judged(
    period: Period,
    scores: NDArray[np.float64],
    costs: Costs,
    *,
    unseen: int = 0,
    seed: int = 0,
    mix_days: float = 30.0,
) -> dict[str, Any]:
    """Return what `sectionfour evaluate` says: metrics, thresholds, costs, reviews, outcomes.

    A missed fraud costs its own amount where it has one, else what is stated; amounts are in the
    minor unit. Events before `unseen` are counted: the model may have learnt from them. Raises
    HistoryError where the mature rows are of one class.
    """
    mature, limits, places = period.of(period.mature), thresholds(costs), columns(period.name)
    seen = scores[period.mature]
    in_force = np.array([limits.challenge, limits.review, limits.block])
    priced = prices(mature, costs)
    actions = np.searchsorted(in_force, scores, side="right")
    latest = period.at >= period.at[-1] - int(mix_days * DAY)
    frauds = mature.amount[(mature.fraud == 1) & ~np.isnan(mature.amount)]
    measured = evaluate.metrics(mature.fraud, seen, clusters=mature.clusters, seed=seed)
    return {
        "model": period.name,
        "from": instant(int(period.at[0])),
        "to": instant(int(period.at[-1])),
        "rows": len(period.at),
        "too_young": int((~period.mature).sum()),
        "before_its_test": int((period.at < unseen).sum()),
        "frauds": int(mature.fraud.sum()),
        "members": int(mature.clusters.max()) + 1,
        "members_with_fraud": challengers.members_with_fraud(mature.fraud, mature.clusters),
        "metrics": measured,
        "reliability": evaluate.reliability(mature.fraud, seen, clusters=mature.clusters),
        "calibration_by_pattern": evaluate.calibration_by_pattern(
            mature.fraud,
            seen,
            dataset.pattern(mature.rows[:, places], places),
            clusters=mature.clusters,
            seed=seed,
        ),
        "costs": msgspec.structs.asdict(costs),
        "mean_fraud_amount": round(float(frauds.mean()), 2) if len(frauds) else None,
        "thresholds": {
            "challenge": limits.challenge,
            "review": limits.review,
            "block": limits.block,
        },
        "paid": _paid(priced, seen, in_force, mature.clusters, seed),
        "curve": _curve(priced, seen, in_force, mature.clusters, seed),
        "reviews_a_day": _reviews(period, actions, costs),
        "outcomes": {
            "days": mix_days,
            "rows": int(latest.sum()),
            "share": {
                action: round(float((actions[latest] == place).mean()), 5)
                for place, action in enumerate(ACTIONS)
            },
        },
    }


def prices(period: Period, costs: Costs) -> NDArray[np.float64]:
    """Return what each action costs for each row, shape (rows, 4): for a fraud, at its amount."""
    honest = np.array(list(expected_costs(costs, 0.0).values()))
    prices = np.tile(honest, (len(period.at), 1))
    for row in np.flatnonzero(period.fraud == 1):
        amount = float(period.amount[row])
        own = costs if np.isnan(amount) else msgspec.structs.replace(costs, missed_fraud=amount)
        prices[row] = list(expected_costs(own, 1.0).values())
    return prices


def _paid(
    prices: NDArray[np.float64],
    scores: NDArray[np.float64],
    in_force: NDArray[np.float64],
    clusters: Clusters,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Return the cost of 1,000 events: with these thresholds, and with nobody stopped."""
    edges = np.array([in_force, [np.inf] * 3])
    found = paying.paid(prices, scores, edges, clusters=clusters, seed=seed)
    return {
        name: {key: round(1000 * float(found[key][place]), 2) for key in ("cost", "low", "high")}
        for place, name in enumerate(("in_force", "nobody_stopped"))
    }


def _curve(
    prices: NDArray[np.float64],
    scores: NDArray[np.float64],
    in_force: NDArray[np.float64],
    clusters: Clusters,
    seed: int,
) -> list[dict[str, Any]]:
    """Return the cost of 1,000 events along each threshold, the others where they are: a
    threshold that meets its neighbours pushes them along."""
    grid = np.round(np.geomspace(1e-3, 1, 25), 6)
    found: list[dict[str, Any]] = []
    for place, action in enumerate(ACTIONS[1:]):
        tried = np.tile(in_force, (len(grid), 1))
        tried[:, :place] = np.minimum(tried[:, :place], grid[:, None])
        tried[:, place] = grid
        tried[:, place + 1 :] = np.maximum(tried[:, place + 1 :], grid[:, None])
        cost = paying.paid(prices, scores, tried, clusters=clusters, seed=seed)
        found += [
            {"moved": action, "threshold": float(at)}
            | {key: round(1000 * float(cost[key][i]), 2) for key in ("cost", "low", "high")}
            for i, at in enumerate(grid)
        ]
    return found


def _reviews(period: Period, actions: NDArray[np.intp], costs: Costs) -> dict[str, float]:
    """Return the load of reviews a day (UTC), whole days with an event: mean, most, minutes."""
    days = np.unique(period.at // DAY, return_inverse=True)[1]
    a_day = np.bincount(days, actions == ACTIONS.index("review"))
    return {
        "mean": round(float(a_day.mean()), 2),
        "most": float(a_day.max()),
        "minutes": round(float(a_day.mean()) * costs.review_minutes, 1),
    }


def in_shadow(
    parts: Parts, name: str, version: str, *, delay_days: float, seed: int = 0
) -> dict[str, Any]:
    """Compare a version with the one that is served, on the calls that both scored in shadow."""
    served = _served(parts, name)
    shadowed = parts.ledger.shadow_pairs(version, served)
    whole = read(parts, [name], delay_days=delay_days, with_rows=False)[name]
    places, mine, theirs = challengers.pairs(whole.event_id, shadowed)
    of = whole.of(np.isin(np.arange(len(whole.at)), places))
    return _compared(parts, of, mine, theirs, served, seed)


def on_test(
    parts: Parts, name: str, version: str, *, delay_days: float, seed: int = 0
) -> dict[str, Any]:
    """Compare a version with the one that is served, on the version's own test period.

    Like with like: of both it is the model that was judged, not the one that was fitted anew, which
    has learnt from that period. Where the other's has, too, it looks better than it is: the gain
    that is found is the less for it.
    """
    served, models = _served(parts, name), parts.models
    model, card = registry.judged(models.folder, name, version, models.trusted)
    other = registry.judged(models.folder, name, served, models.trusted)[0]
    since, until = registry.tested(card)
    of = read(parts, [name], since=since, until=until + 1, delay_days=delay_days)[name]
    return _compared(parts, of, model.score(of.rows), other.score(of.rows), served, seed)


def _served(parts: Parts, name: str) -> str:
    served = registry.current(parts.models.folder, name)
    if served is None:
        raise RegistryError(f"no {name} model has been promoted; there is nothing to compare with")
    return served


def _compared(
    parts: Parts,
    of: Period,
    mine: NDArray[np.float64],
    theirs: NDArray[np.float64],
    served: str,
    seed: int,
) -> dict[str, Any]:
    limits = parts.policy.thresholds(of.name)
    found = challengers.compare(of.fraud, of.mature, mine, theirs, of.clusters, limits, seed=seed)
    return {"served": served, **found}
