"""Models: train, the registry, the published benchmark."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from sectionfour.commands.opened import FILE, opened
from sectionfour.settings import from_environment


def _micros(text: str | None) -> int | None:
    from sectionfour.domain import micros

    return None if text is None else micros(datetime.fromisoformat(text).replace(tzinfo=UTC))


@click.command()
@click.option("--delay-days", default=14.0, show_default=True, help="Until a label is known.")
@click.option("--test-days", default=21.0, show_default=True)
@click.option("--candidates", default=8, show_default=True, help="Settings to try.")
@click.option("--jobs", default=2, show_default=True)
@click.option("--backend", default="loky", show_default=True, help="joblib's.")
@click.option("--seed", default=4, show_default=True)
@click.option("--since", help="Learn from events from this date on (older ones form windows).")
@click.option("--until", help="Use nothing from this date on.")
@click.option("--model", "names", multiple=True, help="Only this model; may be repeated.")
def train(
    delay_days: float,
    test_days: float,
    candidates: int,
    jobs: int,
    backend: str,
    seed: int,
    since: str | None,
    until: str | None,
    names: tuple[str, ...],
) -> None:
    """Retrain, evaluate and register. Safe to run again; never promotes a worse model by itself.

    Example: sectionfour train --candidates 12
    """
    from sectionfour.bootstrap import trusted_keys
    from sectionfour.learning.registry import NAMES
    from sectionfour.train import Plan
    from sectionfour.train import train as run

    plan = Plan(
        delay_days=delay_days,
        test_days=test_days,
        candidates=candidates,
        jobs=jobs,
        backend=backend,
        seed=seed,
        since=_micros(since),
        until=_micros(until),
        names=names or NAMES,
    )
    with opened() as parts:
        ring = parts.keys.ring
        models = from_environment().models
        for done in run(parts, plan, models, ring.signing("models"), trusted_keys(ring)):
            state = "registered" if done.new else "was there already"
            served = "served now" if done.promoted else "not promoted"
            click.echo(f"{done.name} {done.version}: {state}, {served}")
            for name, metric in done.metrics.items():
                low, high = metric["low"], metric["high"]
                click.echo(f"  {name:18} {metric['value']:.4f}  ({low:.4f} to {high:.4f})")


@click.group()
def models() -> None:
    """The registry: list, promote, roll back, and read cards."""


@models.command(name="list")
def models_list() -> None:
    """List models and their versions; a star marks the one that is served.

    Example: sectionfour models list
    """
    from sectionfour.learning import registry

    folder = from_environment().models
    for name in registry.NAMES:
        for version in registry.versions(folder, name):
            mark = "*" if version == registry.current(folder, name) else " "
            click.echo(f"{mark} {name} {version}")


@models.command(name="promote")
@click.argument("name")
@click.argument("version")
def models_promote(name: str, version: str) -> None:
    """Serve a version from now on; running workers see it at their next call.

    Example: sectionfour models promote transaction 20260628-0123456789ab
    """
    from sectionfour.bootstrap import trusted_keys
    from sectionfour.learning import registry

    with opened() as parts:
        trusted = trusted_keys(parts.keys.ring)
    registry.promote(from_environment().models, name, version, trusted)
    click.echo(f"{name} {version} is served")


@models.command(name="rollback")
@click.argument("name")
def models_rollback(name: str) -> None:
    """Serve the version before the current one again.

    Example: sectionfour models rollback transaction
    """
    from sectionfour.learning import registry

    click.echo(f"{name} {registry.rollback(from_environment().models, name)} is served")


@models.command(name="card")
@click.argument("name")
@click.argument("version", required=False)
def models_card(name: str, version: str | None) -> None:
    """Print a model's card (JSON): data, metrics, calibration, thresholds, refusal penalties.

    Example: sectionfour models card transaction
    """
    from sectionfour.errors import RegistryError
    from sectionfour.learning import registry

    folder = from_environment().models
    version = version or registry.current(folder, name)
    card = folder / name / (version or "") / "card.json"
    if version is None or not card.is_file():
        raise RegistryError(f"model {name} has no such version; `sectionfour models list`")
    click.echo(card.read_text("utf-8"))


@click.group()
def benchmark() -> None:
    """Published benchmarks, run by their protocols."""


@benchmark.command(name="handbook")
@click.option("--data", type=FILE, required=True, help="The transactions (parquet).")
@click.option("--train-start", multiple=True, help="First day of a training week; repeatable.")
@click.option("--regime", type=click.Choice(["same", "all", "both"]), default="both")
def benchmark_handbook(data: Path, train_start: tuple[str, ...], regime: str) -> None:
    """Run the published protocol on card transactions and print our rows beside the others.

    Example: sectionfour benchmark handbook --data handbook.parquet
    """
    from datetime import date

    from sectionfour import imports
    from sectionfour.learning import handbook

    def say(text: str) -> None:
        click.echo(f"... {text}", err=True)

    starts = [date.fromisoformat(text) for text in train_start] or list(handbook.TEST)
    table = imports.read_handbook(data)
    say(f"{len(table):,} transactions; features")
    matrix = handbook.features(table)
    regimes: list[handbook.Regime] = ["same", "all"] if regime == "both" else [regime]  # type: ignore[list-item]
    found = {r: handbook.run(table, starts, r, matrix=matrix, progress=say) for r in regimes}
    click.echo(handbook.table_of(found))
    if not train_start:
        for r in regimes:
            for start, s in handbook.run(
                table, handbook.LATER, r, matrix=matrix, progress=say
            ).items():
                click.echo(
                    f"kept apart, {r} data, trained from {start}: AUC {s.auc:.3f}, AP"
                    f" {s.average_precision:.3f}, CP@100 {s.card_precision:.3f}"
                    f" ({s.transactions:,} transactions, {s.frauds} frauds, an incomplete week)"
                )


COMMANDS = (train, models, benchmark)
