"""What the last fit, on all that is known by now, brings: `python tests/benchmarks/refit.py SEEDS`.

On simulated markets, each with its own seed, `train` is made to stand three weeks before the end:
it chooses and judges by what was known by then, and fits anew (`learning/refit.py`). Beside it
stands the model that was judged, which has learnt from the oldest part alone. Both are judged on
the three weeks after, which neither has seen, by all that became known of them.

`kept` are the log-odds of the one that was fitted anew with the sigmoid and the offsets of the one
that was judged, `anew` what is served, with its own. Prints tables in Markdown: means over markets,
and how far each is from the first line, with the standard error over markets. `said` is the mean
probability over the share of frauds, `told` how well scores alone tell frauds that were learnt from
those of the three weeks (AUC; frauds of members that are in both count as well), `refusing` the
largest change of the mean score of honest events by refusing one category (points of 100).
"""

from __future__ import annotations

from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from settings import markets  # of this folder
from sklearn.metrics import log_loss, roc_auc_score

from sectionfour.domain import DAY
from sectionfour.features.catalog import columns
from sectionfour.learning import dataset, evaluate, fit, neutral, refit, refusing
from sectionfour.learning.model import Model, session
from sectionfour.learning.plan import Plan
from sectionfour.learning.registry import NAMES
from sectionfour.reports.learnable import Learnable

AFTER = 21  # days that are judged
WAYS = ("judged", "kept", "anew")
Matrix = NDArray[np.float64]


def measures(labels: dataset.Mask, scores: Matrix) -> dict[str, float]:
    """Return how good probabilities are."""
    found = {name: metric(labels, scores) for name, metric in evaluate.METRICS.items()}
    found["log_loss"] = float(log_loss(labels, np.clip(scores, 1e-9, 1 - 1e-9)))
    return found | {"said": float(scores.mean() / labels.mean())}


def compared(
    found: Learnable, labels: Any, name: str, scored: dict[str, str | None], plan: Plan
) -> dict[str, dict[str, float]]:
    """Return the measures of each way, of one model of one market."""
    events, of_model = found.past.events, found.of_model(name, scored)
    at, places = events["at"].to_numpy(), columns(name)
    now = int(at[-1]) + 1 - AFTER * DAY
    seen = int(np.searchsorted(at, now))
    split = dataset.split(
        events.iloc[:seen], labels[labels["at"] < now], of_model[:seen],
        delay_days=plan.delay_days, test_days=plan.test_days,
    )  # fmt: skip
    known = np.concatenate([split.learn, split.choose, split.delay, split.test])
    y_known = split.known[known]
    later = np.flatnonzero(of_model & (at >= now))
    y_later = dataset.labels_at(events.iloc[later], labels, np.iinfo(np.int64).max)

    def rows(of: NDArray[np.intp]) -> Matrix:
        narrow = found.matrix[np.ix_(of, places)].astype(np.float32)  # as ONNX sees them
        return narrow.astype(np.float64)

    learn, choose = rows(split.learn), rows(split.choose)
    y_learn, y_choose = split.labels[split.learn], split.labels[split.choose]
    fitted = fit.search(learn, y_learn, choose, y_choose, places, plan)
    member = dataset.clusters(events["member"].iloc[known])
    last = refit.refit(rows(known), y_known, member, places, fitted.settings, plan)
    of_later = rows(later)
    pattern = neutral.patterns(of_later, places)
    frauds = {"judged": learn[y_learn == 1], "anew": rows(known[y_known == 1])}
    result = {}
    for way, made in (("judged", fitted), ("anew", last)):
        model = session(made.onnx)
        outputs = {"X": of_later.astype(np.float32)}
        probability, log_odds = (each[:, 0] for each in model.run(None, outputs))
        result[way] = measures(y_later, probability.astype(np.float64))
        learnt = model.run(None, {"X": frauds[way].astype(np.float32)})[0][:, 0]
        seen = np.concatenate([learnt, probability[y_later == 1]])
        inside = np.repeat([1, 0], [len(frauds[way]), int(y_later.sum())])
        result[way]["told"] = float(roc_auc_score(inside, seen))
        score = Model(name, way, "", model, {}).score_rows
        penalties = refusing.refusal_penalties(
            score, of_later, y_later, places, clusters=np.arange(len(later))
        )
        result[way]["refusing"] = max(abs(each["points"]) for each in penalties.values())
    raw = (log_odds - np.array(last.offsets)[pattern] - last.calibration[1]) / last.calibration[0]
    shifted = (
        fitted.calibration[0] * raw + fitted.calibration[1] + np.array(fitted.offsets)[pattern]
    )
    result["kept"] = measures(y_later, 1 / (1 + np.exp(-shifted)))
    click.echo(
        f"{name}: {len(learn):,} rows and {int(y_learn.sum())} frauds learnt, anew {len(known):,}"
        f" and {int(y_known.sum())}; judged on {len(later):,} and {int(y_later.sum())}; {result}",
        err=True,
    )
    return result


@click.command()
@click.argument("seeds", nargs=-1, type=int)
@click.option("--events", default=55_000, show_default=True, help="Of each market.")
@click.option("--days", default=120, show_default=True, help="That each market lasts.")
def main(seeds: tuple[int, ...], events: int, days: int) -> None:
    """Print what a last fit brings, over markets of SEEDS.

    Example: python tests/benchmarks/refit.py 81 82 83 84 85 86 87 88
    """
    plan = Plan(jobs=1, backend="threading", shadows=0)
    found: dict[str, list[dict[str, dict[str, float]]]] = {name: [] for name in NAMES}
    for _, market, labels, scored in markets(seeds or range(81, 89), events, days):
        for name in NAMES:
            found[name].append(compared(market, labels, name, scored, plan))
    kinds = list(found[NAMES[0]][0]["judged"])
    for name in NAMES:
        click.echo(f"\n| {name} | {' | '.join(kinds)} |\n|{'---|' * (len(kinds) + 1)}")
        for way in WAYS:
            cells = []
            for kind in kinds:
                values = np.array([of[way].get(kind, np.nan) for of in found[name]])
                cell = f"{values.mean():.4f}"
                if way != "judged" and len(values) > 1:
                    more = values - np.array([of["judged"][kind] for of in found[name]])
                    error = more.std(ddof=1) / np.sqrt(len(more))
                    cell += f" ({more.mean():+.4f} ± {error:.4f})"
                cells.append(cell)
            click.echo(f"| {way} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
