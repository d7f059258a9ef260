"""The data sheet of a release: what is in it, what was tried on it, and what it is still worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import average_precision_score, roc_auc_score

from sectionfour.learning.attacks import LIMITS

Figures = Mapping[str, Any]
Matrix = NDArray[np.float64]
Labels = NDArray[np.int8]


def missed(figures: Figures, k: int) -> list[str]:
    """Return, in words, each limit that a release does not keep; nothing where it may leave.

    What was not measured is missed: a release too small to be attacked does not leave.
    """
    found = alone(figures, k)
    if found:
        return found
    for name in ("singling_out", "linkability", "inference"):
        upper = figures.get(name, {}).get("upper", 1.0)
        if upper > LIMITS[name]:
            found.append(f"{name} may be up to {upper:.3f}, above {LIMITS[name]}")
    if figures.get("unicity", {}).get("release", {}).get("4", 0.0) > LIMITS["unicity_4"]:
        found.append("four known events tell some people from all others")
    return found


def alone(figures: Figures, k: int) -> list[str]:
    """Return what is missed of the limits that need no attacks: nobody alone, no token known."""
    unique, found = figures["uniqueness"], []
    floor = max(k, 20)
    if min(unique["k"], unique["k_of_whole_rows"]) < floor:
        found.append(
            f"k is {unique['k']}, of whole rows {unique['k_of_whole_rows']}, below {floor}"
        )
    if unique["suppressed"] > LIMITS["suppressed"]:
        found.append(f"{unique['suppressed']:.1%} of rows would have to be left out")
    if unique["sample_uniques"] or unique["uniques_of_whole_rows"]:
        found.append("some rows are like no other")
    if unique["l_diversity"] < 2:
        found.append("a class holds nothing but frauds")
    words = figures["dictionary"]
    if words["recovered"] > LIMITS["recovered"]:
        found.append(f"{words['recovered']} tokens were recognised with a dictionary")
    if words["recovered_of_unkeyed_digests"] != words["known"]:
        found.append("the dictionary attack lacks power: it missed unkeyed digests")
    return found


def worth(
    originals: Matrix, of_originals: Labels, released: Matrix, labels: Labels,
    control: Matrix, of_control: Labels,
) -> dict[str, Any]:  # fmt: skip
    """Return what a model learns from the release and from the rows behind it, on the control."""
    found: dict[str, Any] = {}
    for name, rows, marks in (
        ("originals", originals, of_originals),
        ("release", released, labels),
    ):
        told = [
            i for i in range(rows.shape[1]) if len(np.unique(rows[~np.isnan(rows[:, i]), i])) > 1
        ]
        if len(np.unique(marks)) < 2 or len(np.unique(of_control)) < 2 or not told:
            return {}
        model = HistGradientBoostingClassifier(
            max_iter=60, min_samples_leaf=50, early_stopping=False, random_state=0
        ).fit(rows[:, told], marks)
        scores = model.predict_proba(control[:, told])[:, 1]
        found[name] = {
            "average_precision": round(float(average_precision_score(of_control, scores)), 4),
            "auc": round(float(roc_auc_score(of_control, scores)), 4),
        }
    return found | {"frauds": int(of_control.sum())}


def sheet(
    release_id: str,
    at: str,
    purpose: str,
    model: str,
    counts: Figures,
    steps: Figures,
    figures: Figures,
    names: Sequence[str],
) -> dict[str, Any]:
    """Return everything that whoever gets a release ought to know."""
    return {
        "release_id": release_id,
        "made_at": at,
        "purpose": purpose,
        "events_of": model,
        "personal_data": True,
        "counts": dict(counts),
        "steps": dict(steps),
        "columns": list(names),
        "limits": LIMITS,
        "figures": dict(figures),
    }


def as_json(found: Figures) -> bytes:
    """Return the sheet for programs."""
    return msgspec.json.format(msgspec.json.encode(found), indent=1)


def as_markdown(found: Figures) -> str:
    """Return the sheet for people."""
    figures, counts = found["figures"], found["counts"]
    unique, words, unicity = figures["uniqueness"], figures["dictionary"], figures["unicity"]
    sides = ("released", "control", "residual", "upper")
    parts: list[str | list[str]] = [
        f"# Training release {found['release_id']}",
        f"Made {found['made_at']} for `{found['purpose']}` and for nothing else, from events that"
        f" the `{found['events_of']}` model rates. {unique['rows']:,} rows.",
        "This is pseudonymised personal data, made coarse. It was attacked before it left, as"
        " below; it is still personal data, to be kept, used and erased as such.",
        "## What is in it",
        "`row_ref` is random; only the builder can resolve it. The columns `known_...` are what"
        " somebody outside could know of an event, divided as below (0: taken away; in the column,"
        " -1: missing); the hours of the week begin on a day that is not told. Every feature is"
        f" the mean of a cell of at least {unique['k_of_whole_rows']} rows. `fraud` is what was"
        " known at the time.",
        _table(("column", "divided by"), found["steps"].items()),
        "## What is not in it",
        _table(
            ("why", "rows"),
            (
                *counts["left_out"].items(),
                ("held back, to attack with", counts["held_back_as_control"]),
                ("alone in their class", f"{unique['suppressed']:.2%} of the rest"),
            ),
        ),
        _table(("category masked", "rows"), counts["masked"].items() or [("none", 0)]),
        "## What was tried",
        _table(
            ("attack", *sides, "limit"),
            (
                (name, *(figures[name][side] for side in sides), found["limits"][name])
                for name in ("singling_out", "linkability", "inference")
            ),
        ),
        f"k is {unique['k']} over what could be known and {unique['k_of_whole_rows']} over whole"
        f" rows; there are {unique['sample_uniques']} uniques. Of a class at most"
        f" {unique['largest_fraud_share']:.1%} are frauds.",
        f"Of {words['known']:,} tokens and ids that the builder holds, {words['recovered']} were"
        " recognised with a dictionary; of their unkeyed digests"
        f" {words['recovered_of_unkeyed_digests']:,}.",
        "How many people so many known events (hour and payee) tell from all others:",
        _table(
            ("known events", "in the event log", "in this release"),
            (
                (n, share, unicity["release"].get(n, ""))
                for n, share in unicity["event_log"].items()
            ),
        ),
        "The event log, which does not leave, tells nearly everybody. The release keeps nothing"
        " that joins the rows of a person.",
        "## What it is still worth",
        _table(
            ("learnt from", "average precision", "AUC"),
            (
                (name, each["average_precision"], each["auc"])
                for name, each in figures["worth"].items()
                if name != "frauds"
            ),
        ),
    ]
    return "\n\n".join(p if isinstance(p, str) else "\n".join(p) for p in parts) + "\n"


def _table(head: Sequence[str], rows: Any) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows),
    ]
