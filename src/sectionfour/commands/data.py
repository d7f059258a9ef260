"""Past events: simulate, import, rebuild."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sectionfour.commands.opened import DATE, FILE, FOLDER, opened
from sectionfour.settings import from_environment

if TYPE_CHECKING:
    from sectionfour.domain import Notice
    from sectionfour.loading.replay import Step


@click.command()
@click.option("--seed", default=4, show_default=True)
@click.option("--events", default=55_000, show_default=True, type=click.IntRange(min=3_000))
@click.option("--days", default=120, show_default=True, type=click.IntRange(min=10))
@click.option("--out", type=FOLDER, required=True, help="Folder for the parquet files.")
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


def _import(steps: Iterator[Step], count: int, notice: Notice) -> None:
    from tqdm import tqdm

    from sectionfour.bootstrap import home_of, open_notary, velocity_url
    from sectionfour.loading.replay import replay
    from sectionfour.stores.loader import loading

    settings = from_environment()
    url, gib = velocity_url(settings), settings.velocity_gib
    with (
        opened() as parts,
        loading(url, home=home_of(parts.keys.ring), gib=gib) as load,
        tqdm(total=count, unit="event", unit_scale=True, file=sys.stderr) as bar,
    ):
        report = replay(steps, parts, notice=notice, progress=bar.update, load=load)
        open_notary(settings, parts).extend(parts.clock())  # signed, though no service runs
    click.echo(
        f"kept {report.events:,} events, {report.consents:,} consents, {report.labels:,} labels"
    )
    for why, number in report.left_out.items():
        click.echo(f"left out {number:,}: {why}")


@import_.command(name="events")
@click.argument("folder", type=FILE)
def import_events(folder: Path) -> None:
    """Take in a marketplace's past: events, members, consents and labels in FOLDER (parquet).

    Example: sectionfour import events data_samples/market
    """
    from sectionfour.loading import imports

    _import(*imports.market(folder), imports.MARKET_NOTICE)
    click.echo("before anything is learnt from it: sectionfour clusters --from 2000-01-01")


@import_.command(name="handbook")
@click.argument("file", type=FILE)
@click.option("--until", type=DATE, help="Nothing from this day on, UTC.")
def import_handbook(file: Path, until: int | None) -> None:
    """Take in the handbook's card transactions: a customer as member, a terminal as payee.

    Example: sectionfour import handbook handbook.parquet --until 2018-08-08
    """
    from sectionfour.loading import imports

    _import(*imports.handbook(file, until), imports.HANDBOOK_NOTICE)


@click.command()
def rebuild() -> None:
    """Make the windows anew from the ledger, as after a power cut.

    A service answers 503 meanwhile.

    Example: sectionfour rebuild
    """
    from tqdm import tqdm

    from sectionfour.jobs.upkeep import anew

    with (
        opened(steady=False) as parts,
        tqdm(unit="event", unit_scale=True, file=sys.stderr) as bar,
    ):
        count = anew(parts, bar.update)
    click.echo(f"{count:,} events in the windows")


COMMANDS = (simulate, import_, rebuild)
