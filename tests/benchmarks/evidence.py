"""What each group of features adds: `python tests/benchmarks/evidence.py --data FILE`.

Leave one group out. On a simulated market the groups are the reasons, judged on the rows that
`train` would test on; on the published transactions they are single features, judged on the folds
that settings are chosen on, never on the four test folds. Prints tables in Markdown.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import average_precision_score, roc_auc_score

from sectionfour import simulate
from sectionfour.bootstrap import open_parts
from sectionfour.features import history
from sectionfour.features.catalog import FEATURES, columns
from sectionfour.jobs import clustering
from sectionfour.learning import dataset, handbook, past
from sectionfour.learning.registry import NAMES
from sectionfour.loading import imports
from sectionfour.loading.replay import replay
from sectionfour.settings import Settings

SEEDS = (0, 1, 2)
#: Those of the tables in `docs/features.md`; a search begins with others since.
SETTINGS = {
    "learning_rate": 0.08,
    "max_iter": 120,
    "max_leaf_nodes": 15,
    "min_samples_leaf": 50,
    "l2_regularization": 1.0,
    "max_features": 0.5,
}
Places = NDArray[np.intp]


def market(events: int) -> None:
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "market"
        simulate.write(simulate.simulate(seed=11, events=events), folder)
        parts = open_parts(Settings(home=Path(home), models=Path(home), velocity_gib=4))
        replay(imports.market(folder)[0], parts, notice=imports.MARKET_NOTICE)
        clustering.refresh_past(parts, 0)
        found = past.read(parts.ledger)
        scores = {p: rule.scores for p, rule in parts.regime.purposes.items()}
        parts.close()
    matrix, _ = history.compute(found.events, found.known, clusters=found.clusters)
    for name in NAMES:
        of_model = dataset.model_rows(found.events, name, scores)
        split = dataset.split(found.events, found.labels, of_model, delay_days=14, test_days=28)
        learn = np.concatenate([split.learn, split.choose])
        rows = dataset.levelled(matrix[learn], split.labels[learn])

        def judge(
            places: list[int],
            split: dataset.Split = split,
            learn: Places = learn,
            rows: dataset.Matrix = rows,
        ) -> tuple[float, float]:
            total = np.zeros(len(split.test))
            for seed in SEEDS:
                model = HistGradientBoostingClassifier(
                    **SETTINGS, early_stopping=False, random_state=seed
                ).fit(rows[:, places], split.labels[learn])
                total += model.predict_proba(matrix[np.ix_(split.test, places)])[:, 1]
            truth = split.labels[split.test]
            return float(roc_auc_score(truth, total)), float(average_precision_score(truth, total))

        whole = list(columns(name))
        auc, ap = judge(whole)
        frauds = int(split.labels[split.test].sum())
        click.echo(f"\n{name}: {len(learn):,} rows learnt from, {len(split.test):,} tested, ")
        click.echo(f"{frauds} frauds among them; AUC {auc:.4f}, AP {ap:.4f}\n")
        click.echo("| without | features | AUC | AP |\n|---|---|---|---|")
        for code in sorted({FEATURES[place].code for place in whole}):
            rest = [place for place in whole if FEATURES[place].code != code]
            less = judge(rest)
            change = f"{less[0] - auc:+.4f} | {less[1] - ap:+.4f}"
            click.echo(f"| `{code}` | {len(whole) - len(rest)} | {change} |")


def transactions(path: Path) -> None:
    table = imports.read_handbook(path)
    matrix = handbook.features(table)

    def judge(places: list[int]) -> np.ndarray:
        found = handbook.run(table, handbook.CHOSEN_ON, "same", matrix=matrix[:, places])
        return np.mean([[s.auc, s.average_precision, s.card_precision] for s in found.values()], 0)

    whole = list(range(len(handbook.FEATURES_USED)))
    first = judge(whole)
    click.echo("\nall: AUC {:.4f}, AP {:.4f}, CP@100 {:.4f}\n".format(*first))
    click.echo("| without | AUC | AP | CP@100 |\n|---|---|---|---|")
    for place, name in enumerate(handbook.FEATURES_USED):
        less = judge([other for other in whole if other != place]) - first
        click.echo("| `{}` | {:+.4f} | {:+.4f} | {:+.4f} |".format(name, *less))


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="The transactions.")
@click.option("--events", default=100_000, show_default=True, help="Of the simulated market.")
def main(data: Path | None, events: int) -> None:
    """Print what each group of features adds.

    Example: python tests/benchmarks/evidence.py --events 100000
    """
    if events:
        market(events)
    if data is not None:
        transactions(data)


if __name__ == "__main__":
    main()
