"""Champion and challengers: compared on the same calls, and promoted for a gain, by a person.

The first model of a name is promoted by whoever trains it: until then nothing is served. Every
later one needs a measured gain on a stated metric and the key of a person, and the log says so.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from sectionfour.errors import Forbidden, HistoryError, RegistryError, SettingsError
from sectionfour.learning import evaluate, registry
from sectionfour.learning.intervals import (
    Clusters,
    Labels,
    Scores,
    interval,
    likeness,
    mean,
    redraws,
    rows_of,
    share,
    worth,
)
from sectionfour.privacy import entries

if TYPE_CHECKING:
    from sectionfour.decisions.policy import Thresholds
    from sectionfour.parts import Parts

#: Whose word promotes.
PROMOTERS = ("trainer", "admin")
#: Members with a fraud below which a comparison says nothing that a promotion could rest on: the
#: frauds of one are much alike, and where they are all there is, no draw can be without them.
LEAST_MEMBERS = 10


def compare(
    fraud: Labels,
    mature: NDArray[np.bool_],
    challenger: Scores,
    champion: Scores,
    clusters: Clusters,
    limits: Thresholds,
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Return how far two models agree on all rows, and how each did on those old enough to judge.

    `gain` is the challenger's metric minus the champion's, with a 95 % interval from the same
    draws of members for both; None where these rows are not `enough`.
    """
    edges = np.array([limits.challenge, limits.review, limits.block])
    bands = [np.searchsorted(edges, scores, side="right") for scores in (challenger, champion)]
    same, apart = (bands[0] == bands[1]).astype(np.float64), np.abs(challenger - champion)
    y, a, b = fraud[mature], challenger[mature], champion[mature]
    of = np.unique(clusters[mature], return_inverse=True)[1]
    told = enough(y, of)
    again = islice(redraws(int(clusters.max()) + 1, np.random.default_rng(seed)), 200)
    return {
        "rows": len(fraud),
        "mature": int(mature.sum()),
        "frauds": int(y.sum()),
        "members_with_fraud": members_with_fraud(y, of),
        "agreement": {
            "same_outcome": share(same.mean(), worth(clusters, likeness(same, clusters))),
            "mean_difference": mean(apart, clusters, seed=seed),
            "rank_correlation": interval(
                _ranked_alike(challenger, champion),
                [
                    _ranked_alike(challenger[rows], champion[rows])
                    for rows in (rows_of(times[clusters]) for times in again)
                ],
            ),
        },
        "challenger": evaluate.metrics(y, a, clusters=of, seed=seed) if told else None,
        "champion": evaluate.metrics(y, b, clusters=of, seed=seed) if told else None,
        "gain": evaluate.differences(y, a, b, clusters=of, seed=seed) if told else None,
    }


def members_with_fraud(fraud: Labels, clusters: Clusters) -> int:
    """Return of how many members a fraud is known."""
    return len(np.unique(clusters[fraud == 1]))


def enough(fraud: Labels, clusters: Clusters) -> bool:
    """Whether models can be judged by these rows: frauds of LEAST_MEMBERS, and an honest row."""
    return members_with_fraud(fraud, clusters) >= LEAST_MEMBERS and not fraud.all()


def _ranked_alike(one: Scores, other: Scores) -> float:
    return float(spearmanr(one, other).statistic)


def check(found: dict[str, Any], metric: str, gain: float) -> dict[str, float]:
    """Return the measured gain where it is at least `gain` and chance does not explain it.

    A gain is a rise of a metric that ought to be large, and a fall of one that ought to be small.
    Raises RegistryError, saying what is missing; SettingsError for a metric that there is none of,
    and for a gain outside of 0 to 1.
    """
    if metric not in evaluate.METRICS:
        raise SettingsError(f"{metric} is no metric; there are {', '.join(evaluate.METRICS)}")
    if not 0 <= gain < 1:
        raise SettingsError(f"a gain is from 0 to 1, got {gain}")
    if found["gain"] is None:
        raise RegistryError(
            f"{found['frauds']} known frauds of {found['members_with_fraud']} members in"
            f" {found['mature']} rows that are old enough to judge by; frauds of {LEAST_MEMBERS}"
            " members are needed, and honest rows beside them"
        )
    measured: dict[str, float] = found["gain"][metric]
    if metric not in evaluate.RISING:
        measured = {
            "value": -measured["value"],
            "low": -measured["high"],
            "high": -measured["low"],
        }
    if measured["value"] < gain or measured["low"] <= 0:
        raise RegistryError(
            f"the gain in {metric} is {measured['value']:.4f}"
            f" ({measured['low']:.4f} to {measured['high']:.4f});"
            f" at least {gain:g} was asked for, and an interval above 0"
        )
    return measured


def promote(
    parts: Parts,
    models: Path,
    name: str,
    version: str,
    trusted: Collection[bytes],
    *,
    by: str | None = None,
    grounds: dict[str, Any] | None = None,
) -> None:
    """Serve a version from now on, and log it: first the entry, then the pointer.

    Without `by`, the id of a standing key of one of PROMOTERS, it must be the first of its name:
    RegistryError otherwise, and for a version that cannot be trusted.
    """
    before = registry.current(models, name)
    if by is None and before is not None:
        raise RegistryError(f"{name} {before} is served; to promote another takes a person's key")
    if by is not None:
        known(parts, by)
    model, _ = registry.load(models, name, version, trusted)
    _log(parts, "promoted", name, version, before, by, {"digest": model.digest} | (grounds or {}))
    registry.promote(models, name, version, trusted)


def rollback(parts: Parts, models: Path, name: str, trusted: Collection[bytes], *, by: str) -> str:
    """Serve the version before the current one again, and log it: first the entry, then the
    pointer. Returns it.

    No gain is asked for: going back must be possible at once. RegistryError where that version
    can no longer be opened: every call would then go without a score.
    """
    known(parts, by)
    before, version = registry.current(models, name), registry.earlier(models, name)
    registry.load(models, name, version, trusted)
    _log(parts, "rolled_back", name, version, before, by, {})
    return registry.rollback(models, name, trusted)


def known(parts: Parts, by: str) -> None:
    """Raise Forbidden unless `by` is the id of a standing key of one of PROMOTERS."""
    for key_id, roles, _, revoked_at in parts.ledger.all_keys():
        if key_id == by and revoked_at is None and set(PROMOTERS).intersection(roles.split(",")):
            return
    raise Forbidden(
        f"no standing key of this id has the role {' or '.join(PROMOTERS)}: `sectionfour keys list`"
    )


def _log(
    parts: Parts,
    action: str,
    name: str,
    version: str,
    before: str | None,
    by: str | None,
    more: dict[str, Any],
) -> None:
    at, promotion_id = parts.clock(), f"pm_{secrets.token_hex(8)}"
    said = {
        "action": action,
        "model": name,
        "version": version,
        "before": before,
        "by": by,
        **more,
    }
    leaf = entries.promotion(promotion_id, at, said)
    parts.ledger.add_promotion(promotion_id, at, msgspec.json.encode(said).decode(), leaf)


def pairs(
    event_ids: NDArray[np.object_], shadowed: list[tuple[str, int, float, float]]
) -> tuple[NDArray[np.intp], Scores, Scores]:
    """Return which of the events were scored by both, and the challenger's and champion's scores.

    Raises HistoryError where there is none.
    """
    scored = {event_id: (mine, theirs) for event_id, _, mine, theirs in shadowed}
    places = [place for place, event_id in enumerate(event_ids) if event_id in scored]
    if not places:
        raise HistoryError(
            "both have scored no call yet: a challenger scores what is answered while the service"
            " runs, from a second after it was named"
        )
    both = np.array([scored[event_ids[place]] for place in places])
    return np.array(places, dtype=np.intp), both[:, 0], both[:, 1]
