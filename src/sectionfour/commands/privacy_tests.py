"""Rows that may leave, and what a model betrays: each tested before it is believed."""

from __future__ import annotations

from pathlib import Path

import click

from sectionfour.commands.opened import FOLDER, opened


@click.command(name="release-data")
@click.option("--out", type=FOLDER, required=True, help="A new folder for rows and data sheet.")
@click.option("--purpose", default="security.record_audit_analyse", show_default=True)
@click.option(
    "--model",
    type=click.Choice(["transaction", "account"]),
    default="transaction",
    show_default=True,
    help="Whose events.",
)
@click.option("--delay-days", default=14.0, show_default=True, help="How long labels take.")
@click.option("--attacks", default=2000, show_default=True, type=click.IntRange(100, 100_000))
def release_data(out: Path, purpose: str, model: str, delay_days: float, attacks: int) -> None:
    """Write rows to train on that may leave the builder: made coarse, attacked, then written.

    Where a figure misses its limit nothing is written, and the status is 1.

    Example: sectionfour release-data --out release
    """
    from sectionfour.outgoing import Terms, release

    terms = Terms(purpose=purpose, model=model, delay_days=delay_days, attacks=attacks)
    with opened() as parts:
        sheet = release(parts, out, terms)
    figures = sheet["figures"]
    click.echo(f"{sheet['release_id']}: {figures['uniqueness']['rows']:,} rows in {out}")
    click.echo(f"k {figures['uniqueness']['k_of_whole_rows']} over whole rows")
    for name in ("singling_out", "linkability", "inference"):
        upper, limit = figures[name]["upper"], sheet["limits"][name]
        click.echo(f"{name.replace('_', ' '):13} at most {upper:.3f} (limit {limit})")


COMMANDS = (release_data,)
