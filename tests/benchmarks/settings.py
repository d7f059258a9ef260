"""What settings of the trees rank, and what they tell: `python tests/benchmarks/settings.py`.

On simulated markets, each with its own seed. Models are fitted as `train` fits them, on the rows
that it would learn from. Average precision is on the rows that it would test on, never looked at
to choose by; `told` is how well scores alone tell frauds that were learnt from those of the weeks
after (AUC). Prints a table in Markdown: means over markets and both models, and how far average
precision is from that of the first line, with the standard error of that difference over markets:
the two models of one have its members and their frauds in common.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

from sectionfour import simulate
from sectionfour.bootstrap import open_parts
from sectionfour.features.catalog import columns
from sectionfour.jobs import clustering
from sectionfour.learning import dataset, fit, membership
from sectionfour.learning.progress import Stages
from sectionfour.learning.registry import NAMES
from sectionfour.loading import imports
from sectionfour.loading.replay import replay
from sectionfour.reports import learnable
from sectionfour.settings import Settings

#: A search began with these until 2026-11-26, and drew up to 31 leaves and steps of .16.
BEFORE: dict[str, Any] = {
    "learning_rate": 0.08,
    "max_iter": 120,
    "max_leaf_nodes": 15,
    "min_samples_leaf": 50,
    "l2_regularization": 1.0,
    "max_features": 0.5,
}
TRIED: dict[str, dict[str, Any]] = {
    "15 leaves, where a search began before": BEFORE,
    "31 leaves": BEFORE | {"max_leaf_nodes": 31},
    "8 leaves": BEFORE | {"max_leaf_nodes": 8},
    "8 leaves, l2 10": BEFORE | {"max_leaf_nodes": 8, "l2_regularization": 10.0},
    "4 leaves": BEFORE | {"max_leaf_nodes": 4},
    "4 leaves, shorter steps, smaller leaves: where it begins now": fit.FIRST,
    "the same, l2 10": fit.FIRST | {"l2_regularization": 10.0},
    "2 leaves": BEFORE | {"max_leaf_nodes": 2, "learning_rate": 0.16},
    "2 leaves, 60 trees": BEFORE | {"max_leaf_nodes": 2, "learning_rate": 0.16, "max_iter": 60},
}


def markets(
    seeds: Iterable[int], events: int, days: int = 120
) -> Iterator[tuple[int, learnable.Learnable, pd.DataFrame, dict[str, str | None]]]:
    """Yield of each market its seed, its past with features, labels, and each purpose's model."""
    for seed in seeds:
        with tempfile.TemporaryDirectory() as home:
            folder = Path(home) / "market"
            simulate.write(simulate.simulate(seed=seed, events=events, days=days), folder)
            parts = open_parts(Settings(home=Path(home), models=Path(home), velocity_gib=1))
            replay(imports.market(folder)[0], parts, notice=imports.MARKET_NOTICE)
            clustering.refresh_past(parts, 0)
            with Stages("history", "gate", "features") as stages:
                found = learnable.read(parts, stages)
            scored = {purpose: rule.scores for purpose, rule in parts.regime.purposes.items()}
            parts.close()
        yield seed, found, dataset.usable(found.past.events, found.past.labels)[0], scored


def parted(
    found: learnable.Learnable, labels: pd.DataFrame, scored: dict[str, str | None]
) -> Iterator[tuple[str, list[dataset.Matrix], list[Any]]]:
    """Yield of each model its name, and rows and labels to learn from, to choose by, to test on."""
    for name in NAMES:
        split = dataset.split(
            found.past.events, labels, found.of_model(name, scored), delay_days=14, test_days=28
        )
        rows = (split.learn, split.choose, split.test)
        wide = [found.matrix[np.ix_(of, columns(name))].astype(np.float32) for of in rows]
        yield name, [of.astype(np.float64) for of in wide], [split.labels[of] for of in rows]


def judged(
    name: str, rows: list[dataset.Matrix], labels: list[Any], settings: dict[str, Any]
) -> tuple[float, float]:
    """Return the average precision on the test, and what is told of who was learnt from."""
    sides = [of[y == 1] for of, y in zip(rows[:2], labels[:2], strict=True)]
    seen = np.concatenate([rows[2], *sides])
    scores = membership.fitted_scores(
        rows[0], labels[0], seen, columns(name), settings, drop_share=0.15, seed=4
    )
    tested, frauds = np.split(scores, [len(rows[2])])
    inside = np.repeat([1, 0], [len(side) for side in sides])
    return (
        float(average_precision_score(labels[2], tested)),
        float(roc_auc_score(inside, frauds)),
    )


@click.command()
@click.argument("seeds", nargs=-1, type=int)
@click.option("--events", default=55_000, show_default=True, help="Of each market.")
def main(seeds: tuple[int, ...], events: int) -> None:
    """Print what each setting ranks and tells, over markets of SEEDS.

    Example: python tests/benchmarks/settings.py 31 32 33 34 35
    """
    found = np.array(
        [
            [judged(*of, settings) for settings in TRIED.values()]
            for _, *market in markets(seeds or (31, 32, 33, 34, 35), events)
            for of in parted(*market)
        ]
    )
    precision, told = found[..., 0], found[..., 1]
    click.echo("| settings | AP | against the first | told |\n|---|---|---|---|")
    for i, name in enumerate(TRIED):
        less = (precision[:, i] - precision[:, 0]).reshape(-1, len(NAMES)).mean(axis=1)
        error = less.std(ddof=1) / np.sqrt(len(less))
        difference = f"{less.mean():+.3f} ± {error:.3f}" if i else ""
        click.echo(
            f"| {name} | {precision[:, i].mean():.3f} | {difference} | {told[:, i].mean():.3f} |"
        )


if __name__ == "__main__":
    main()
