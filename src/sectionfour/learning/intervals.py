"""How sure a number is: members drawn anew, shares, distances, each with its 95 % interval.

A member's events resemble each other, and a fraud is rarely one event: drawn row by row they would
pass for more than they tell. So all of a cluster, which is a member, are drawn together, or none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from sectionfour.errors import HistoryError

Scores = NDArray[np.float64]
Labels = NDArray[np.int8]
#: Which cluster each row is of, numbered from 0 without a hole.
Clusters = NDArray[np.intp]
#: The percentiles of what was drawn between which an interval lies.
SPAN = (2.5, 97.5)


def redraws(count: int, rng: np.random.Generator) -> Iterator[NDArray[np.intp]]:
    """Yield, without end, how often each of `count` clusters is in a draw of as many of them, with
    replacement: the bootstrap of Efron, "Bootstrap Methods: Another Look at the Jackknife" (1979).
    """
    while True:
        yield np.bincount(rng.integers(0, count, count), minlength=count)


def draws(labels: Labels, clusters: Clusters | None, seed: int, resamples: int) -> Iterator[Scores]:
    """Yield how often each row is in each of `resamples` draws of clusters; of rows without.

    A draw without a fraud, or without an honest row, has no metrics and is drawn again. Raises
    HistoryError where all rows are of one class.
    """
    if len(np.unique(labels)) < 2:
        raise HistoryError(
            f"{len(labels)} rows with {int(labels.sum())} frauds: both classes are needed"
        )
    codes = np.arange(len(labels)) if clusters is None else clusters
    drawn = (times[codes] for times in redraws(int(codes.max()) + 1, np.random.default_rng(seed)))
    both = (w for w in drawn if 0 < int(w @ labels) < int(w.sum()))
    return (w.astype(np.float64) for w in islice(both, resamples))


def rows_of(drawn: NDArray[np.intp] | Scores) -> NDArray[np.intp]:
    """Return the rows of a draw, each as often as it is in it."""
    return np.repeat(np.arange(len(drawn)), drawn.astype(np.intp))


def mean(
    values: Scores, clusters: Clusters, *, seed: int = 0, resamples: int = 200
) -> dict[str, float]:
    """Return the mean over rows with a 95 % interval from a bootstrap over clusters."""
    sums, sizes = np.bincount(clusters, values), np.bincount(clusters)
    drawn = islice(redraws(len(sums), np.random.default_rng(seed)), resamples)
    return interval(
        float(values.mean()), [float(sums @ times / (sizes @ times)) for times in drawn]
    )


def interval(value: float, drawn: Sequence[float]) -> dict[str, float]:
    """Return a value with its 95 % interval, the percentiles of what was drawn."""
    low, high = np.percentile(drawn, SPAN)
    return {"value": round(value, 6), "low": round(float(low), 6), "high": round(float(high), 6)}


def distance(
    value: float, drawn: Sequence[float] | Scores, apart: Sequence[float] | Scores
) -> dict[str, float]:
    """Return a distance, which is never below 0, with its 95 % interval.

    Chance adds to a distance whichever way it goes, and a draw is further off than what was
    measured, so percentiles would hold a distance of 0 never. `apart` is how far each draw is from
    what was measured. By the triangle inequality the truth is no nearer than `value` less what
    chance puts between a measurement and the truth; the interval begins there, and ends at the
    percentile. It holds the truth at least as often as it says.
    """
    low, high = value - np.percentile(apart, SPAN[1]), np.percentile(drawn, SPAN[1])
    return {
        "value": round(value, 6),
        "low": round(float(max(0.0, low)), 6),
        "high": round(float(max(value, high)), 6),
    }


def likeness(values: Scores, clusters: Clusters) -> float:
    """Return how alike the values of one cluster are, from 0 (no more than any) to 1.

    The intraclass correlation of Fisher, "Statistical Methods for Research Workers" (1925), over
    all pairs: the mean product of two of a cluster, over the mean square.
    """
    off = values - values.mean()
    sizes = np.bincount(clusters).astype(np.float64)
    pairs = float((sizes * (sizes - 1)).sum())
    squares = float((off**2).sum())
    if not pairs or not squares:
        return 0.0
    products = float((np.bincount(clusters, off) ** 2).sum()) - squares
    return float(np.clip((products / pairs) / (squares / len(values)), 0.0, 1.0))


def worth(clusters: Clusters, alike: float) -> float:
    """Return how many rows on their own tell as much as these, of which those of a cluster are
    `alike`: Kish, "Survey Sampling" (1965)."""
    sizes = np.bincount(np.unique(clusters, return_inverse=True)[1])
    return len(clusters) / (1 + (float((sizes**2).sum()) / len(clusters) - 1) * alike)


def share(value: float, rows: float, name: str = "value") -> dict[str, float]:
    """Return a share with its 95 % interval by Wilson, "Probable Inference, the Law of Succession,
    and Statistical Inference" (1927): it has a width for none and for all, too, where a bootstrap
    has nothing to draw."""
    z2 = 1.959964**2
    middle = (value * rows + z2 / 2) / (rows + z2)
    half = (z2 * rows * value * (1 - value) + z2**2 / 4) ** 0.5 / (rows + z2)
    return {
        name: round(float(value), 6),
        "low": round(float(max(0.0, middle - half)), 6),
        "high": round(float(min(1.0, middle + half)), 6),
    }
