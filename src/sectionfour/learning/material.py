"""What one model is made of, and the manifest that says so."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sectionfour.domain import instant
from sectionfour.features.catalog import columns
from sectionfour.features.definitions import fingerprint
from sectionfour.learning import dataset, fit, past
from sectionfour.learning.plan import Plan

_PARTS = ("learn", "choose", "test")


@dataclass(frozen=True, slots=True)
class Material:
    """What one model is made of: row positions, their columns, and what was found of them."""

    name: str
    split: dataset.Split
    places: tuple[int, ...]
    rows: NDArray[np.float64]  # of learn, choose and test, in this order
    labels: NDArray[np.int8]
    clusters: NDArray[np.intp]
    missing: list[str]  # categories of which no row has anything
    version: str

    def parted(self, of: NDArray[Any]) -> list[NDArray[Any]]:
        """Return `of`, a value for each of the rows, as learn, choose and test."""
        return np.split(of, np.cumsum([len(self.split.learn), len(self.split.choose)]))


def gather(
    name: str,
    found: past.Past,
    matrix: NDArray[np.float64],
    split: dataset.Split,
    plan: Plan,
) -> Material:
    """Return the rows of `split`, learn before choose before test, in the columns that the model
    `name` learns from, and the version that these, their labels and the plan make of it.

    `matrix` has a row an event of `found`, and a column a feature.
    """
    places = columns(name)
    used = np.concatenate([split.learn, split.choose, split.test])
    rows = np.ascontiguousarray(matrix[np.ix_(used, np.array(places))])
    labels = split.labels[used]
    return Material(
        name=name,
        split=split,
        places=tuple(places),
        rows=rows,
        labels=labels,
        clusters=dataset.clusters(found.events["member"].iloc[used]),
        missing=dataset.missing_throughout(rows[: len(split.learn)], places),
        version=_version(found.events, used, rows, labels, name, plan),
    )


def manifest(of: Material, found: past.Past, data: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """Return what a model was made from: with the same ledger, seed and libraries, the same bytes.

    Counts are of events: those of `rows` and of `left_out` are all that there are. `as_of` is when
    the gate was asked: who has withdrawn since is still in the counts of this run, and in none
    after it.
    """
    parts, at = of.split, found.events["at"]
    frauds = dict(zip(_PARTS, (int(y.sum()) for y in of.parted(of.labels)), strict=True))
    used = [parts.learn, parts.choose, parts.test]
    return {
        "manifest_version": 1,
        "name": of.name,
        "version": of.version,
        "as_of": instant(data["as_of"]),
        "periods": {
            part: {"from": instant(int(at.iloc[rows[0]])), "to": instant(int(at.iloc[rows[-1]]))}
            for part, rows in zip(_PARTS, used, strict=True)
        },
        "labels_known_by": instant(parts.cut),
        "events": len(found.events),
        "rows": {part: len(rows) for part, rows in zip(_PARTS, used, strict=True)},
        "frauds": frauds,
        "left_out": {**data["left_out"], **parts.left_out},
        "labels": data["labels"],
        "gaps": dataset.gaps(at.to_numpy()),
        "missing_throughout": of.missing,
        "rows_sha256": hashlib.sha256(of.rows.tobytes()).hexdigest(),
        "labels_sha256": hashlib.sha256(of.labels.tobytes()).hexdigest(),
        "catalog": fingerprint(),
        "plan": plan.settings,
        "libraries": fit.libraries(),
    }


def _version(
    events: pd.DataFrame,
    used: NDArray[np.intp],
    rows: NDArray[np.float64],
    labels: NDArray[np.int8],
    name: str,
    plan: Plan,
) -> str:
    """Return a name made of the data's last day and of everything that the model is made from."""
    said = (name, plan.settings, fit.FIRST, fit.SPACE, fingerprint(), fit.libraries())
    digest = hashlib.sha256(repr(said).encode())
    digest.update(rows.tobytes())
    digest.update(labels.tobytes())
    day = instant(int(events["at"].iloc[used[-1]]))[:10].replace("-", "")
    return f"{day}-{digest.hexdigest()[:12]}"
