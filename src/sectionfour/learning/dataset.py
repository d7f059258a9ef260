"""Rows to learn from: labels as far as known, splits in time, and missingness that tells nothing.

A row without a label counts as honest only when it is older than the label delay: before that
nobody could have known, and it is left out. What cannot be learnt from is counted by its reason;
where there is too much of it for a slip, nothing is learnt at all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sectionfour.domain import DAY, FRAUD_LABELS, instant
from sectionfour.errors import HistoryError
from sectionfour.features.catalog import FEATURES

Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: The categories that a member can refuse without the score becoming impossible.
MASKABLE = (
    "consignee",
    "payment",
    "device",
    "location",
    "location.gps",
    "log",
    "identity.document",
    "biometric.face",
)


#: Shares of the labels above which they are no slips any more, and nothing is learnt from them.
MOST_BEFORE, MOST_UNKNOWN = 0.05, 0.5
#: As many values of a column as trees tell apart (scikit-learn has 255 bins), and how many honest
#: rows are looked at for them, as many as it looks at.
LEVELS, LEVELS_FROM = 254, 200_000
#: A day on which nothing happened is quiet; so many in a row are a gap.
GAP_DAYS = 2


@dataclass(frozen=True, slots=True)
class Split:
    """Row positions, in order of time. `learn` and `choose` know labels up to `cut` alone.

    `delay` lies between choosing and testing: by `cut` nothing could be known of it yet. The last
    fit learns from all four parts, by `known`. `left_out` counts the rows in none of them:
    `too_young` is younger than the delay at the end, `matured`.
    """

    learn: NDArray[np.intp]
    choose: NDArray[np.intp]
    delay: NDArray[np.intp]
    test: NDArray[np.intp]
    labels: NDArray[np.int8]  # of every row; what was known by `cut`, and for the test by the end
    known: NDArray[np.int8]  # of every row, by the end
    cut: int
    matured: int
    left_out: dict[str, int]


def model_rows(events: pd.DataFrame, name: str, scores: Mapping[str, str | None]) -> Mask:
    """Return which events the model called `name` is for; `scores` names a purpose's model."""
    return (events["purpose"].map(dict(scores)) == name).to_numpy()


def usable(events: pd.DataFrame, labels: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the labels that rows can be judged by, and how many are odd or left out, and why.

    Left out: `unknown_event`, of an event that is not there; `before_event`, known before it.
    Odd, and of each event the last one counts: `duplicate`, saying what the one before it said;
    `contradicting`, saying the opposite. Told apart, and not used for rows: `about_member`, and
    `suspicion`, which nobody has confirmed.

    Raises HistoryError where more than MOST_BEFORE or MOST_UNKNOWN of the labels of events are so.
    """
    of_event = labels["event_id"].notna().to_numpy()
    begun = labels["event_id"].map(events.set_index("event_id")["at"]).to_numpy(dtype=np.float64)
    unknown = of_event & np.isnan(begun)
    before = of_event & (labels["at"].to_numpy(dtype=np.float64) <= begun)
    total = int(of_event.sum())
    for count, most, what in (
        (int(before.sum()), MOST_BEFORE, "were known before their event: look at the clocks"),
        (int(unknown.sum()), MOST_UNKNOWN, "are of events that are not there: look at the ids"),
    ):
        if total and count > most * total:
            raise HistoryError(f"{count} of {total} labels {what} of the import")
    kept = labels[~unknown & ~before]
    telling = kept[kept["event_id"].notna() & kept["label"].isin({*FRAUD_LABELS, "legitimate"})]
    verdict = telling["label"].isin(FRAUD_LABELS)
    earlier = verdict.astype("float").groupby(telling["event_id"]).shift()
    counts = {
        "labels": len(labels),
        "unknown_event": int(unknown.sum()),
        "before_event": int(before.sum()),
        "duplicate": int((earlier == verdict).sum()),
        "contradicting": int((earlier.notna() & (earlier != verdict)).sum()),
        "about_member": int((~of_event).sum()),
        "suspicion": int((labels["label"] == "suspected_fraud").sum()),
    }
    return kept, counts


def gaps(at: NDArray[np.int64]) -> list[dict[str, str | int]]:
    """Return the runs of at least GAP_DAYS whole days (UTC) without an event, between two events.

    `from` is the day after the event before, `days` how many have none.
    """
    days = np.unique(at // DAY)
    found = np.flatnonzero(np.diff(days) > GAP_DAYS)
    return [
        {
            "from": instant(int((days[i] + 1) * DAY))[:10],
            "to": instant(int((days[i + 1] - 1) * DAY))[:10],
            "days": int(days[i + 1] - days[i] - 1),
        }
        for i in found
    ]


def missing_throughout(rows: Matrix, columns: Sequence[int]) -> list[str]:
    """Return the categories of which not one row has anything: nothing can be learnt from them.

    Raises HistoryError where it is one without which there is no score at all.
    """
    empty: Mask = np.atleast_1d(np.isnan(rows).all(axis=0))
    found = []
    for category in sorted({category for c in columns for category in FEATURES[c].needs}):
        places = columns_of(category, columns)
        # Of what cannot be refused, those that need it alone: others may be empty for the refused.
        if category not in MASKABLE:
            alone = [i for i, c in enumerate(columns) if tuple(FEATURES[c].needs) == (category,)]
            places = np.array(alone, dtype=np.intp)
        if len(places) and empty[places].all():
            found.append(category)
    vital = [category for category in found if category not in MASKABLE]
    if vital:
        raise HistoryError(
            f"{', '.join(vital)} is missing for everybody: without it no score can be learnt"
        )
    return found


def pattern(rows: Matrix, columns: Sequence[int]) -> NDArray[np.int64]:
    """Return, for each row, which of MASKABLE it has nothing of, as bits in that order.

    A category without a feature among `columns` counts as there.
    """
    found = np.zeros(len(rows), dtype=np.int64)
    for bit, category in enumerate(MASKABLE):
        places = columns_of(category, columns)
        if len(places):
            found |= np.isnan(rows[:, places]).all(axis=1).astype(np.int64) << bit
    return found


def spelt(bits: int) -> str:
    """Return the categories that a pattern lacks, in words.

    >>> spelt(0), spelt(0b1100)
    ('nothing', 'device, location')
    """
    named = [category for bit, category in enumerate(MASKABLE) if bits >> bit & 1]
    return ", ".join(named) or "nothing"


def clusters(member: pd.Series[int]) -> NDArray[np.intp]:
    """Return a number for each member, from 0 without a hole; each guest has one of their own.

    Members are what is drawn for intervals: on the simulated market the events of a fraud are
    mostly those of one member, and the intervals come out wider than over rows or days.
    """
    numbers = member.to_numpy(dtype=np.float64, na_value=np.nan)
    guests = np.isnan(numbers)
    numbers[guests] = -1 - np.arange(guests.sum())
    found: NDArray[np.intp] = np.unique(numbers, return_inverse=True)[1]
    return found


def labels_at(events: pd.DataFrame, labels: pd.DataFrame, until: int) -> NDArray[np.int8]:
    """Return 1 for each event known as fraud before `until`, else 0. The last word counts."""
    known = labels[(labels["at"] < until) & labels["event_id"].notna()]
    known = known[known["label"].isin({*FRAUD_LABELS, "legitimate"})]
    last = known.drop_duplicates("event_id", keep="last")
    verdict = events["event_id"].map(last.set_index("event_id")["label"])
    return verdict.isin(FRAUD_LABELS).to_numpy().astype(np.int8)


def split(
    events: pd.DataFrame,
    labels: pd.DataFrame,
    rows: Mask,
    *,
    delay_days: float,
    test_days: float,
    choose_share: float = 0.2,
    name: str = "",
) -> Split:
    """Split in time, with the delay of labels: learn | choose | delay | test | delay.

    Raises HistoryError where a part would be empty or of a single class, naming the model, what is
    known at all, and the gaps in the history where it has some.
    """
    at = events["at"].to_numpy()
    end = int(max(at[-1], labels["at"].max() if len(labels) else 0)) + 1 if len(at) else 0
    delay, test = int(delay_days * DAY), int(test_days * DAY)
    matured = min(end - delay, int(at[-1]) + 1)
    cut = matured - test
    early, late = labels_at(events, labels, cut), labels_at(events, labels, end)
    old_enough = at < cut - delay
    # A fraud that became known sooner is left out all the same: of the honest rows of its age
    # nothing is known yet, and with the frauds alone the newest days would look all bad.
    waiting = np.flatnonzero(rows & ~old_enough & (at < cut))
    learnable = np.flatnonzero(rows & old_enough)
    tested = np.flatnonzero(rows & (at >= cut) & (at < matured))
    border = int(len(learnable) * (1 - choose_share))
    learn, choose = learnable[:border], learnable[border:]
    chosen = np.where(at < cut, early, late).astype(np.int8)
    for part, places in (("learning", learn), ("choosing", choose), ("testing", tested)):
        found = np.unique(chosen[places])
        if len(found) < 2:
            raise HistoryError(
                f"{name and f'{name}: '}the rows for {part} hold {len(places)} events and"
                f" {int(chosen[places].sum())} known frauds; both classes are needed."
                f"{_told(gaps(at))} {_known(int(early[rows].sum()), int(late[rows].sum()), cut)}"
            )
    left_out = {"too_young": int((rows & (at >= matured)).sum())}
    return Split(learn, choose, waiting, tested, chosen, late, cut, matured, left_out)


def _known(early: int, late: int, cut: int) -> str:
    if not late:
        return "No fraud is known at all: without labels nothing can be learnt"
    return (
        f"In all {late} frauds are known, {early} of them by {instant(cut)[:10]}, when learning and"
        " choosing end. A longer history, or a shorter delay or test, may help"
    )


def _told(found: Sequence[Mapping[str, str | int]]) -> str:
    if not found:
        return ""
    longest = max(found, key=lambda gap: int(gap["days"]))
    return (
        f" The history has {len(found)} gap{'s' if len(found) > 1 else ''}, the longest of"
        f" {longest['days']} days, from {longest['from']} to {longest['to']}."
    )


def columns_of(category: str, columns: Collection[int]) -> NDArray[np.intp]:
    """Return the positions within `columns` of the features that need `category`."""
    return np.array(
        [i for i, c in enumerate(columns) if category in FEATURES[c].needs], dtype=np.intp
    )


def masked(matrix: Matrix, category: str, columns: Collection[int]) -> Matrix:
    """Return a copy of `matrix` in which `category` is missing."""
    copy = matrix.copy()
    copy[:, columns_of(category, columns)] = np.nan
    return copy


def drop_at_random(
    matrix: Matrix, columns: Collection[int], share: float, rng: np.random.Generator
) -> Matrix:
    """Return a copy in which each maskable category is missing from a `share` of the rows.

    Drawn independently of everything else, the label above all: so missing means nothing.
    """
    copy = matrix.copy()
    for category in MASKABLE:
        rows = rng.random(len(copy)) < share
        copy[np.ix_(rows, columns_of(category, columns))] = np.nan
    return copy


def fill_empty(matrix: Matrix) -> Matrix:
    """Return the matrix, its columns that nobody has set to 0 in place: the same for all, they are
    never split on, and bins need a value."""
    matrix[:, np.isnan(matrix).all(axis=0)] = 0.0
    return matrix


def levelled(
    matrix: Matrix, labels: NDArray[np.int8] | NDArray[np.bool_], *, out: Matrix | None = None
) -> Matrix:
    """Return a copy in which a column has at most LEVELS values, half of them those of frauds; or
    `out`, which may be `matrix` itself, so filled.

    Boosted trees split between quantiles of all rows. Where few rows are frauds, all that sets
    these apart is in the last quantile or two, and cannot be told from what borders on it. So the
    levels of a column are quantiles of honest rows and as many of frauds, and each value goes to
    the nearest. Trees then split halfway between two levels, which parts raw values as it parts the
    levels: they score rows as they are. Missing stays missing.
    """
    bad = labels.astype(np.bool_)
    copy = np.empty_like(matrix) if out is None else out
    honest = np.flatnonzero(~bad)
    some = honest[:: max(1, len(honest) // LEVELS_FROM)]
    for place in range(matrix.shape[1]):
        column = matrix[:, place]
        levels = _levels(column[some], column[bad])
        borders = (levels[1:] + levels[:-1]) / 2
        if len(levels):
            nearest = levels[np.searchsorted(borders, column)]
            copy[:, place] = np.where(np.isnan(column), np.nan, nearest)
        else:
            copy[:, place] = column
    return copy


def _levels(*kinds: Matrix) -> Matrix:
    """Return all values, ascending, or where they are too many quantiles, as many of each kind."""
    there = [np.sort(kind[~np.isnan(kind)]) for kind in kinds]
    found = np.unique(np.concatenate(there))
    if len(found) <= LEVELS:
        return found
    each = LEVELS // len(kinds)
    places = [np.linspace(0, len(kind) - 1, each).round().astype(np.intp) for kind in there]
    picked = [kind[at] for kind, at in zip(there, places, strict=True) if len(kind)]
    return np.unique(np.concatenate(picked))


def even_weights(
    matrix: Matrix, labels: NDArray[np.int8], columns: Collection[int]
) -> NDArray[np.float64]:
    """Return row weights under which each pattern of missing categories has the same fraud share.

    Without them a model would learn from real refusals that refusing goes with fraud, or not.
    Patterns with fewer than 5 frauds are left as they are: their share is not known.
    """
    missing = pattern(matrix, list(columns))
    weights = np.ones(len(matrix))
    overall = labels.mean()
    for found in np.unique(missing):
        rows = missing == found
        share = labels[rows].mean()
        if labels[rows].sum() >= 5 and share < 1:
            weights[rows & (labels == 1)] = overall / share
            weights[rows & (labels == 0)] = (1 - overall) / (1 - share)
    return weights
