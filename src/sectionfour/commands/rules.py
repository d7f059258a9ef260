"""Rules: look one's file over, and rehearse it on the past."""

from __future__ import annotations

from pathlib import Path

import click

from sectionfour.commands.opened import DATE, DELAY, FILE, opened


@click.group()
def rules() -> None:
    """Rules that make an outcome stricter: look them over, and rehearse them on the past."""


@rules.command(name="check")
@click.argument("file", type=FILE)
def rules_check(file: Path) -> None:
    """Read a file of rules (TOML), and say which categories of data each needs.

    Where a category is refused or missing, the rules that need it do not hold.

    Example: sectionfour rules check rules.toml
    """
    from sectionfour.decisions import rules
    from sectionfour.features.catalog import needed

    found = rules.load(file)
    for rule in found.rules:
        click.echo(f"{rule.id}: {rule.then} where {rule.when}")
        click.echo(f"  for {', '.join(rule.models)}; needs {', '.join(sorted(needed(rule.reads)))}")
    click.echo(f"{len(found.rules):,} rules", err=True)


@rules.command(name="try")
@click.argument("file", type=FILE)
@click.option(
    "--since", type=DATE, help="From this date on (UTC); without it what the models were judged on."
)
@click.option("--until", type=DATE, help="Nothing from this date on.")
@DELAY
def rules_try(file: Path, since: int | None, until: int | None, delay_days: float) -> None:
    """Say what a file of rules would have done: frauds and honest members met, and at what cost.

    On the events of this home that may be analysed, with their features as of then. Nothing is
    changed: a service follows the file that `SECTIONFOUR_RULES` names.

    Example: sectionfour rules try rules.toml --since 2026-06-01
    """
    from sectionfour.decisions import rules
    from sectionfour.reports import rehearsal

    tried = rules.load(file)
    if not tried.rules:
        raise click.ClickException(f"{file.name} has no rules")
    with opened() as parts:
        found = rehearsal.rehearse(parts, tried, since=since, until=until, delay_days=delay_days)
    for one in found:
        for line in rehearsal.lines(one):
            click.echo(line)


COMMANDS = (rules,)
