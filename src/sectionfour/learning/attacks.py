"""Attacks on rows that are to leave: what somebody who holds them, and knows something, finds out.

Each is run on rows that were released and on others of the same past that were not: what works on
both is knowledge of how people are, what works on the released alone is a leak. Figures are
residual risks, (released - control) / (1 - control), with a 95 % upper bound by Newcombe's score
interval for a difference (1998). The three risks are those of WP216 (2014): singling out,
linking, inferring. No clock, no store; all columns are numbers, and missing is NaN.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from sectionfour.learning.generalise import Generalised

Matrix = NDArray[np.float64]
Rows = NDArray[np.intp]
Figures = dict[str, Any]
Z = 1.959964

#: At most so much: prosecutor risk 1/k, suppression, uniques, and the upper bounds of T14, T15.
LIMITS = {
    "suppressed": 0.02,
    "sample_uniques": 0,
    "recovered": 0,
    "singling_out": 0.05,
    "linkability": 0.05,
    "inference": 0.10,
    "unicity_4": 0.01,
}


# --- T13: who stands alone -------------------------------------------------------------------


def uniqueness(found: Generalised, frauds: NDArray[np.int8], rows_before: int) -> Figures:
    """Return k over the quasi-identifiers and over whole rows, and how diverse the label is.

    Sweeney, "k-Anonymity" (2002); Machanavajjhala and others, "l-Diversity" (2007).
    `l_diversity`: the fewest labels in a class that holds a fraud; 1 would mean that some class
    says of all its people that they are frauds. Classes without a fraud say no more than is said
    of nearly everybody.
    """
    quasi = np.column_stack(list(found.quasi.values())) if found.quasi else found.features[:, :0]
    of_class, sizes = classes(quasi.astype(np.float64))
    _, whole = classes(found.table)
    fraudulent = np.bincount(of_class, weights=frauds, minlength=len(sizes))
    some = fraudulent > 0
    return {
        "rows": len(frauds),
        "suppressed": _share(found.suppressed, rows_before),
        "classes": len(sizes),
        "k": int(sizes.min()) if len(sizes) else 0,
        "prosecutor_risk": _share(1, int(sizes.min())) if len(sizes) else 1.0,
        "sample_uniques": int((sizes == 1).sum()),
        "k_of_whole_rows": int(whole.min()) if len(whole) else 0,
        "uniques_of_whole_rows": int((whole == 1).sum()),
        "l_diversity": int(np.where(fraudulent[some] == sizes[some], 1, 2).min(initial=2)),
        "largest_fraud_share": round(float((fraudulent / np.maximum(sizes, 1)).max(initial=0)), 4),
    }


def classes(table: Matrix) -> tuple[Rows, Rows]:
    """Return each row's class and the classes' sizes; NaN equals NaN."""
    if not len(table):
        return np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp)
    plain = np.ascontiguousarray(np.where(np.isnan(table), -1e300, table + 0.0))
    keys = plain.view(np.dtype((np.void, plain.dtype.itemsize * max(1, plain.shape[1])))).ravel()
    _, where, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    return where.astype(np.intp), sizes.astype(np.intp)


def _share(part: float, whole: float) -> float:
    return round(part / whole, 6) if whole else 0.0


# --- T11: a dictionary -----------------------------------------------------------------------

DIGESTS = ("sha256", "sha1", "md5", "blake2b")


def digests(value: bytes) -> Iterable[str]:
    """Yield, in hexadecimal, what a value becomes without a key, and the value itself."""
    yield value.hex()
    for name in DIGESTS:
        yield hashlib.new(name, value).hexdigest()


def dictionary(published: Collection[str], known: Iterable[bytes]) -> int:
    """Return how many of `known` values are recognised among `published` texts, whole or cut.

    The attacker hashes everything that he knows of with every function in use, and compares the
    first 128 bits, as a token has them; what is published shorter is compared as a whole.
    """
    heads = {text[:32] for text in published}
    return sum(any(head[:32] in heads for head in digests(value)) for value in known)


# --- T14: singling out, linking, inferring ---------------------------------------------------


def residual(on_released: int, on_control: int, attacks: int) -> Figures:
    """Return both success rates and the residual risk with its 95 % upper bound."""
    released, control = on_released / attacks, on_control / attacks
    high, low = _wilson(released, attacks)[1], _wilson(control, attacks)[0]
    upper = released - control + ((high - released) ** 2 + (control - low) ** 2) ** 0.5
    rest = max(1 - control, 1 / attacks)
    return {
        "attacks": attacks,
        "released": round(released, 5),
        "control": round(control, 5),
        "residual": round(max(0.0, (released - control) / rest), 5),
        "upper": round(min(1.0, max(0.0, upper / rest)), 5),
    }


def _wilson(share: float, n: int) -> tuple[float, float]:
    middle = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z * ((share * (1 - share) + Z * Z / (4 * n)) / n) ** 0.5 / (1 + Z * Z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def singling_out(
    released: Matrix, originals: Matrix, control: Matrix, attacks: int, rng: np.random.Generator
) -> Figures:
    """Say, from the released table alone, what only one person can be like; look whether one is.

    A guess is a conjunction of up to four statements ("at least this", "at most this", "missing")
    that few released rows meet; it succeeds where exactly one original meets it. Originals are
    drawn down to as many as there are of the control, since one of fewer is easier to be.
    """
    size = min(len(originals), len(control))
    mine = originals[rng.permutation(len(originals))[:size]]
    others = control[rng.permutation(len(control))[:size]]
    middle = _medians(released)
    guesses = rng.choice(len(released), 2_000, replace=False) if len(released) > 2_000 else ...
    sample = released[guesses]
    hits = {"mine": 0, "others": 0}
    for _ in range(attacks):
        statements = min(
            (_statements(released, middle, rng) for _ in range(4)),
            key=lambda s: _met(s, sample).sum() or len(sample),
        )
        hits["mine"] += int(_met(statements, mine).sum() == 1)
        hits["others"] += int(_met(statements, others).sum() == 1)
    return residual(hits["mine"], hits["others"], attacks)


Statement = tuple[int, str, float]


def _statements(released: Matrix, middle: Matrix, rng: np.random.Generator) -> list[Statement]:
    row = released[rng.integers(len(released))]
    chosen = rng.choice(released.shape[1], min(released.shape[1], int(rng.integers(1, 5))), False)
    return [(int(c), _how(row[c], middle[c]), float(row[c])) for c in chosen]


def _how(value: float, middle: float) -> str:
    return "missing" if np.isnan(value) else "most" if value > middle else "least"


def _met(statements: Sequence[Statement], table: Matrix) -> NDArray[np.bool_]:
    met = np.ones(len(table), dtype=np.bool_)
    for column, how, value in statements:
        values = table[:, column]
        if how == "missing":
            met &= np.isnan(values)
        else:  # a comparison with what is missing is false
            met &= values >= value if how == "most" else values <= value
    return met


def _medians(table: Matrix) -> Matrix:
    found = np.full(table.shape[1], np.nan)
    some = ~np.isnan(table).all(axis=0)
    found[some] = np.nanmedian(table[:, some], axis=0)
    return found


class Nearest:
    """Finds the released rows that are nearest to somebody by what is known of them."""

    def __init__(self, released: Matrix) -> None:
        self._sorted = [np.sort(c[~np.isnan(c)]) for c in released.T]
        where, sizes = classes(released)
        first = np.zeros(len(sizes), dtype=np.intp)
        first[where[::-1]] = np.arange(len(where))[::-1]
        self.of_row = where
        self._classes = self._scaled(released[first])

    def ranks(self, values: Matrix, column: int) -> Matrix:
        """Return ranks among the released, 0 to 1, so that no column outweighs another."""
        known = self._sorted[column]
        found = np.full(values.shape, -0.5)
        given = ~np.isnan(values)
        if len(known):
            low = np.searchsorted(known, values[given], side="left")
            high = np.searchsorted(known, values[given], side="right")
            found[given] = (low + high) / 2 / len(known)
        return found

    def _scaled(self, table: Matrix) -> Matrix:
        return np.column_stack([self.ranks(c, i) for i, c in enumerate(table.T)])

    def classes(self, people: Matrix, columns: Sequence[int]) -> Rows:
        """Return the class of equal released rows that is nearest to each, by some columns."""
        finder = NearestNeighbors(n_neighbors=1).fit(self._classes[:, columns])
        found: Rows = finder.kneighbors(self._scaled(people)[:, columns])[1][:, 0]
        return found


def linkability(
    released: Matrix, originals: Matrix, control: Matrix, attacks: int, rng: np.random.Generator
) -> Figures:
    """Hold half of what is known of somebody in one hand and half in the other: does the release
    lead from both to the same rows? The halves are drawn anew for every thousand attacks."""
    nearest = Nearest(released)
    hits = [0, 0]
    for part in np.array_split(np.arange(attacks), max(1, attacks // 1000)):
        columns = rng.permutation(released.shape[1])
        halves = columns[: len(columns) // 2].tolist(), columns[len(columns) // 2 :].tolist()
        for side, people in enumerate((originals, control)):
            drawn = people[rng.choice(len(people), len(part), replace=len(people) < len(part))]
            one, other = (nearest.classes(drawn, half) for half in halves)
            hits[side] += int((one == other).sum())
    return residual(hits[0], hits[1], attacks)


def inference(
    released: Matrix, originals: Matrix, control: Matrix, attacks: int, rng: np.random.Generator
) -> Figures:
    """Know all of somebody but one thing: do the nearest released rows tell it?

    The thing is a column drawn at random for every hundred attacks; the guess is the nearest
    rows' value, or the median of theirs, and succeeds within 5 % of the ranks, or where both say
    that it is missing. Columns that say the same of everybody are nobody's secret.
    """
    nearest = Nearest(released)
    open_to = [c for c in range(released.shape[1]) if len(np.unique(released[:, c])) > 1]
    hits = [0, 0]
    for part in np.array_split(np.arange(attacks), max(1, attacks // 100)):
        column = int(rng.choice(open_to))
        rest = [c for c in open_to if c != column]
        guess = _medians_of(released[:, column], nearest.of_row)
        for side, people in enumerate((originals, control)):
            drawn = people[rng.choice(len(people), len(part), replace=len(people) < len(part))]
            told = nearest.ranks(guess[nearest.classes(drawn, rest)], column)
            true = nearest.ranks(drawn[:, column], column)
            hits[side] += int((abs(told - true) <= 0.05).sum())
    return residual(hits[0], hits[1], attacks)


def _medians_of(values: Matrix, classes: Rows) -> Matrix:
    """Return the median of each class; missing where any is, for then most are."""
    found = np.full(int(classes.max()) + 1, np.nan)
    order = np.argsort(classes, kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(classes[order])) + 1):
        found[classes[part[0]]] = np.median(values[part])
    return found


def fraud_inference(
    released: Matrix,
    labels: NDArray[np.int8],
    originals: Matrix,
    of_originals: NDArray[np.int8],
    control: Matrix,
    of_control: NDArray[np.int8],
) -> Figures:
    """Return how often those who are frauds are called so by the rows nearest to them.

    Called so: more frauds among those rows than among all. On every fraud there is; a figure to
    publish with its interval and no gate, since there are few.
    """
    nearest = Nearest(released)
    size = np.bincount(nearest.of_row)
    share = np.bincount(nearest.of_row, weights=labels, minlength=len(size)) / size
    columns = list(range(released.shape[1]))
    found: Figures = {}
    for name, people, marks in (
        ("released", originals, of_originals),
        ("control", control, of_control),
    ):
        frauds = people[marks == 1]
        if not len(frauds):
            return {}
        called = float((share[nearest.classes(frauds, columns)] > labels.mean()).mean())
        low, high = _wilson(called, len(frauds))
        found[name] = {
            "frauds": len(frauds),
            "called": round(called, 4),
            "low": round(low, 4),
            "high": round(high, 4),
        }
    return found


# --- T15: how few events tell who it is ------------------------------------------------------


def unicity(
    member: Rows, points: Matrix, known: Sequence[int], trials: int, rng: np.random.Generator
) -> dict[str, float]:
    """Return the share of people whom so many of their events, drawn at random, tell from all.

    De Montjoye and others, "Unique in the Crowd" (2013). `points` are what is known of an event;
    an event log keeps together what belongs to one `member`. People with fewer events are not
    drawn.
    """
    point = classes(points)[0]
    order = np.argsort(member, kind="stable")
    own = np.split(order, np.flatnonzero(np.diff(member[order])) + 1)
    holders: dict[int, set[int]] = {}
    for m, p in zip(member.tolist(), point.tolist(), strict=True):
        holders.setdefault(p, set()).add(m)
    return _unicity(
        own, known, trials, rng,
        lambda events: len(set.intersection(*(holders[int(point[e])] for e in events))) == 1,
    )  # fmt: skip


def unicity_of_rows(
    member: Rows, of_class: Rows, known: Sequence[int], trials: int, rng: np.random.Generator
) -> dict[str, float]:
    """The same against released rows, which hold nothing that keeps a person's rows together.

    So the attacker has found somebody where one of the known events is like one row alone.
    """
    sizes = np.bincount(of_class)
    order = np.argsort(member, kind="stable")
    own = np.split(order, np.flatnonzero(np.diff(member[order])) + 1)
    return _unicity(own, known, trials, rng, lambda rows: bool((sizes[of_class[rows]] == 1).any()))


def _unicity(
    own: Sequence[Rows],
    known: Sequence[int],
    trials: int,
    rng: np.random.Generator,
    alone: Callable[[Rows], bool],
) -> dict[str, float]:
    found = {}
    for number in known:
        able = [events for events in own if len(events) >= number]
        if able:
            drawn = rng.integers(len(able), size=trials)
            hits = sum(alone(rng.choice(able[i], number, replace=False)) for i in drawn)
            found[str(number)] = round(hits / trials, 4)
    return found
