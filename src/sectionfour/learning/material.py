"""What one model is made of, and the manifest that says so."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sectionfour.domain import instant
from sectionfour.errors import HistoryError
from sectionfour.features.catalog import columns
from sectionfour.features.definitions import fingerprint
from sectionfour.learning import dataset, drift, fit, past
from sectionfour.learning.model import Model
from sectionfour.learning.plan import Plan

_PARTS = ("learn", "choose", "delay", "test")


@dataclass(frozen=True, slots=True)
class Material:
    """What one model is made of: row positions, their columns, and what was found of them."""

    name: str
    split: dataset.Split
    places: tuple[int, ...]
    rows: NDArray[np.float64]  # of learn, choose, delay and test, in this order
    labels: NDArray[np.int8]  # by which it is chosen and judged
    known: NDArray[np.int8]  # by which it is fitted in the end
    clusters: NDArray[np.intp]
    missing: list[str]  # categories of which no row has anything
    version: str

    def parted(self, of: NDArray[Any]) -> list[NDArray[Any]]:
        """Return `of`, a value for each of the rows, as learn, choose, delay and test."""
        split = self.split
        return np.split(of, np.cumsum([len(split.learn), len(split.choose), len(split.delay)]))


def gather(
    name: str,
    found: past.Past,
    matrix: NDArray[np.float64],
    split: dataset.Split,
    plan: Plan,
) -> Material:
    """Return the rows of `split`, part after part, in the columns that the model `name` learns
    from, and the version that these, their labels and the plan make of it.

    `matrix` has a row an event of `found`, and a column a feature. Raises HistoryError where it
    could not learn what holds for anybody else: all frauds are of one member.
    """
    places = columns(name)
    used = np.concatenate([split.learn, split.choose, split.delay, split.test])
    rows = np.ascontiguousarray(matrix[np.ix_(used, np.array(places))])
    labels, known = split.labels[used], split.known[used]
    clusters = dataset.clusters(found.events["member"].iloc[used])
    if len(np.unique(clusters[known == 1])) < 2:
        raise HistoryError(
            f"{name}: all {int(known.sum())} known frauds are of one member; nothing can be learnt"
            " from them that holds for another"
        )
    return Material(
        name=name,
        split=split,
        places=tuple(places),
        rows=rows,
        labels=labels,
        known=known,
        clusters=clusters,
        missing=dataset.missing_throughout(rows[: len(split.learn)], places),
        version=_version(found.events, used, (rows, labels, known), name, plan),
    )


def manifest(of: Material, found: past.Past, data: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """Return what a model was made from: with the same ledger, seed and libraries, the same bytes.

    Counts are of events: those of `rows` and of `left_out` are all that there are. `frauds` are
    those known when it was chosen and judged, `frauds_known` those that the last fit learnt.
    `as_of` is when the gate was asked: who has withdrawn since is still in the counts of this run,
    and in none after it.
    """
    parts, at = of.split, found.events["at"]
    frauds = dict(zip(_PARTS, (int(y.sum()) for y in of.parted(of.labels)), strict=True))
    used = [parts.learn, parts.choose, parts.delay, parts.test]
    return {
        "manifest_version": 2,
        "name": of.name,
        "version": of.version,
        "as_of": instant(data["as_of"]),
        "periods": {
            part: {"from": instant(int(at.iloc[rows[0]])), "to": instant(int(at.iloc[rows[-1]]))}
            for part, rows in zip(_PARTS, used, strict=True)
            if len(rows)
        },
        "labels_known_by": instant(parts.cut),
        "unseen_from": instant(parts.matured),
        "events": len(found.events),
        "rows": {part: len(rows) for part, rows in zip(_PARTS, used, strict=True)},
        "frauds": frauds,
        "frauds_known": int(of.known.sum()),
        "left_out": {**data["left_out"], **parts.left_out},
        "labels": data["labels"],
        "gaps": dataset.gaps(at.to_numpy()),
        "missing_throughout": of.missing,
        "rows_sha256": hashlib.sha256(of.rows.tobytes()).hexdigest(),
        "labels_sha256": hashlib.sha256(of.labels.tobytes()).hexdigest(),
        "known_sha256": hashlib.sha256(of.known.tobytes()).hexdigest(),
        "catalog": fingerprint(),
        "plan": plan.settings,
        "libraries": fit.libraries(),
    }


def histograms(of: Material, found: past.Past, model: Model) -> dict[str, Any]:
    """Return what `drift` compares with: the features of all rows, and what the model that is
    served says of the test. It has learnt from that, which moves the scores of its few frauds; an
    older past, or another model of these settings, would move them all."""
    parts = of.split
    scores = np.full(len(of.rows), np.nan)
    scores[-len(parts.test) :] = model.score_rows(of.parted(of.rows)[-1])
    used = np.concatenate([parts.learn, parts.choose, parts.delay, parts.test])
    at = found.events["at"].to_numpy()[used]
    return drift.reference(of.rows, of.places, of.clusters, scores, at)


def _version(
    events: pd.DataFrame,
    used: NDArray[np.intp],
    made_from: tuple[NDArray[Any], ...],
    name: str,
    plan: Plan,
) -> str:
    """Return a name made of the data's last day and of everything that the model is made from."""
    said = (name, plan.settings, fit.FIRST, fit.SPACE, fingerprint(), fit.libraries())
    digest = hashlib.sha256(repr(said).encode())
    for part in made_from:
        digest.update(part.tobytes())
    day = instant(int(events["at"].iloc[used[-1]]))[:10].replace("-", "")
    return f"{day}-{digest.hexdigest()[:12]}"
