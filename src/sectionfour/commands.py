"""The commands that are not serving: each one's body imports what it needs, when it is called.

So `sectionfour serve` loads neither pandas nor scikit-learn, whatever else the command line can do.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sectionfour.settings import from_environment

if TYPE_CHECKING:
    from sectionfour.parts import Parts

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, path_type=Path)


@contextmanager
def _parts() -> Iterator[Parts]:
    from sectionfour.bootstrap import open_parts

    parts = open_parts(from_environment())
    try:
        yield parts
    finally:
        parts.close()


@click.command()
@click.option("--once", is_flag=True, help="End after a short run.")
@click.option("--bind", default="127.0.0.1:8400", show_default=True, help="Where to listen.")
def demo(once: bool, bind: str) -> None:
    """Simulate, train, serve, send traffic and show the answers.

    Example: sectionfour demo --once
    """
    from sectionfour.demo import demo as run

    run(from_environment(), click.echo, once=once, bind=bind)


@click.command()
@click.option("--seed", default=4, show_default=True)
@click.option("--events", default=55_000, show_default=True)
@click.option("--days", default=120, show_default=True)
@click.option("--out", type=_FOLDER, required=True, help="Folder for the parquet files.")
def simulate(seed: int, events: int, days: int, out: Path) -> None:
    """Write a simulated marketplace (parquet).

    Example: sectionfour simulate --seed 4 --events 55000 --out market
    """
    from sectionfour import simulate as room

    room.write(room.simulate(seed=seed, events=events, days=days), out)
    click.echo(f"{events:,} events in {out}")


@click.group(name="import")
def import_() -> None:
    """Replay past events into ledger and windows, through gate and seal."""


def _import(kind: str, path: Path) -> None:
    from tqdm import tqdm

    from sectionfour import imports
    from sectionfour.bootstrap import velocity_url
    from sectionfour.replay import replay
    from sectionfour.stores.loader import loading

    with _parts() as parts:
        read = imports.market if kind == "events" else imports.handbook
        notice = imports.MARKET_NOTICE if kind == "events" else imports.HANDBOOK_NOTICE
        steps, count = read(path)
        settings = from_environment()
        with (
            loading(velocity_url(settings), gib=settings.velocity_gib) as load,
            tqdm(total=count, unit="event", unit_scale=True, file=sys.stderr) as bar,
        ):
            report = replay(steps, parts, notice=notice, progress=bar.update, load=load)
    click.echo(
        f"kept {report.events:,} events, {report.consents:,} consents, {report.labels:,} labels"
    )
    for why, number in report.left_out.items():
        click.echo(f"left out {number:,}: {why}")


@import_.command(name="events")
@click.argument("folder", type=_FILE)
def import_events(folder: Path) -> None:
    """Take in a marketplace's past: events, members, consents and labels in FOLDER (parquet).

    Example: sectionfour import events data_samples/market
    """
    _import("events", folder)


@import_.command(name="handbook")
@click.argument("file", type=_FILE)
def import_handbook(file: Path) -> None:
    """Take in the handbook's card transactions: a customer as member, a terminal as payee.

    Example: sectionfour import handbook handbook.parquet
    """
    _import("handbook", file)


@click.command()
def rebuild() -> None:
    """Make the windows anew from the ledger, as after a power cut.

    Example: sectionfour rebuild
    """
    from tqdm import tqdm

    from sectionfour.replay import rebuild as run

    with _parts() as parts, tqdm(unit="event", unit_scale=True, file=sys.stderr) as bar:
        count = run(parts, bar.update)
    click.echo(f"{count:,} events in the windows")


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
    with _parts() as parts:
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

    with _parts() as parts:
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
@click.option("--data", type=_FILE, required=True, help="The transactions (parquet).")
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


@click.command()
@click.option("--url", default="http://127.0.0.1:8400", show_default=True)
@click.option("--checkout-key", envvar="CHECKOUT_KEY", help="A key with role checkout.")
@click.option("--consent-key", envvar="CONSENT_KEY", help="A key with role consent.")
@click.option("--members", default=5_000, show_default=True)
@click.option("--connections", default=8, show_default=True)
@click.option("--seconds", default=15.0, show_default=True)
def bench(
    url: str,
    checkout_key: str | None,
    consent_key: str | None,
    members: int,
    connections: int,
    seconds: float,
) -> None:
    """Load a running service of this machine: rate, percentiles, errors.

    Without keys, they are made in SECTIONFOUR_HOME and revoked afterwards.

    Example: sectionfour bench --seconds 15
    """
    from sectionfour.bench import bench as run
    from sectionfour.web import keys

    def say(text: str) -> None:
        click.echo(f"... {text}", err=True)

    with _parts() as parts:
        at = parts.clock()
        made = []
        if checkout_key is None:
            made.append(checkout_key := keys.create_key(parts.ledger, "checkout", at))
        if consent_key is None:
            made.append(consent_key := keys.create_key(parts.ledger, "consent", at))
        result = run(
            url,
            checkout_key,
            consent_key,
            members=members,
            connections=connections,
            seconds=seconds,
            progress=say,
        )
        for key in made:
            keys.revoke_key(parts.ledger, keys.key_id(key), parts.clock())
    click.echo(
        f"{result.rate:,.0f} requests/s over {result.seconds:.1f} s, {connections} connections\n"
        f"p50 {result.percentile(50):.2f} ms, p95 {result.percentile(95):.2f} ms,"
        f" p99 {result.percentile(99):.2f} ms, max {result.percentile(100):.2f} ms\n"
        f"answers by status: {dict(sorted(result.statuses.items()))}"
    )


@click.command()
def verify() -> None:
    """Check the log against its checkpoints and the witness; status 1 where anything is off.

    Example: sectionfour verify
    """
    from sectionfour.bootstrap import open_notary
    from sectionfour.verify import verify as check

    settings = from_environment()
    with _parts() as parts:
        notary = open_notary(settings, parts)
        faults = list(check(parts, notary))
        size = parts.ledger.size()
    for fault in faults:
        click.echo(fault)
    if faults:
        raise SystemExit(1)
    click.echo(f"{size:,} entries match their checkpoints and the witness")
