"""Are people of all ages and genders stopped alike? Measured on an audit set, never learnt from.

Rates are Fairlearn's (MetricFrame). The events of one person are not independent: a rate's interval
is Wilson's for as many rows as they are worth, since of nobody who was stopped there is nothing to
draw, and that of the difference is from a bootstrap over members. Groups too small to speak of are
withheld. Needs the `training` extra.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from fairlearn.metrics import MetricFrame, false_positive_rate
from numpy.typing import NDArray

from sectionfour.learning.intervals import distance, likeness, redraws, share, worth

#: Groups of fewer members, or of fewer honest events, are withheld.
LEAST_MEMBERS, LEAST_ROWS = 20, 100


def false_positives(
    labels: NDArray[np.int8],
    stopped: NDArray[np.bool_],
    member: NDArray[np.int64],
    groups: Mapping[str, Sequence[str | None] | NDArray[np.object_]],
    *,
    seed: int = 0,
    resamples: int = 200,
) -> dict[str, Any]:
    """Return, for each attribute, the share of honest rows that are stopped, a group each.

    `groups` has, an attribute, each row's group, None where it is not known. `difference` is the
    largest between two groups that are told (Fairlearn's), with the interval of a distance: the
    furthest apart of groups that are treated alike differ by chance, too.
    """
    found: dict[str, Any] = {}
    for name, of_rows in groups.items():
        group = np.array([g or "" for g in of_rows], dtype=object)
        honest = (group != "") & (labels == 0)
        told, withheld = [], 0
        for value in sorted(set(group[honest].tolist())):
            rows = honest & (group == value)
            if len(np.unique(member[rows])) < LEAST_MEMBERS or rows.sum() < LEAST_ROWS:
                withheld += 1
            else:
                told.append(value)
        use = honest & np.isin(group, told)
        entry: dict[str, Any] = {
            "members": len(np.unique(member[honest])),
            "groups_withheld": withheld,
        }
        if told:
            entry |= _rates(labels[use], stopped[use], member[use], group[use], seed, resamples)
        found[name] = entry
    return found


def _rates(
    labels: NDArray[np.int8],
    stopped: NDArray[np.bool_],
    member: NDArray[np.int64],
    group: NDArray[np.object_],
    seed: int,
    resamples: int,
) -> dict[str, Any]:
    frame = MetricFrame(
        metrics=false_positive_rate,
        y_true=labels,
        y_pred=stopped.astype(np.int8),
        sensitive_features=group,
    )
    values, of = np.unique(group, return_inverse=True)
    people, where = np.unique(member, return_inverse=True)
    hits = np.array([np.bincount(where, (group == v) & stopped, len(people)) for v in values])
    rows = np.array([np.bincount(where, group == v, len(people)) for v in values])
    again = islice(redraws(len(people), np.random.default_rng(seed)), resamples)
    with np.errstate(invalid="ignore"):
        draws = np.array([(hits @ times) / (rows @ times) for times in again])
    rates = np.array([frame.by_group[value] for value in values])
    alike = likeness(stopped - rates[of], where)
    entry: dict[str, Any] = {
        "groups": {
            value: {
                "members": int((rows[i] > 0).sum()),
                "rows": int(rows[i].sum()),
                **share(rates[i], worth(where[of == i], alike), "false_positive_rate"),
            }
            for i, value in enumerate(values)
        }
    }
    if len(values) > 1:
        drawn, apart = (
            np.nanmax(of_draws, axis=1) - np.nanmin(of_draws, axis=1)
            for of_draws in (draws, draws - rates)
        )
        entry["difference"] = distance(float(frame.difference()), drawn, apart)
    return entry
