"""Rights of a person, from the shell: export, erase."""

from __future__ import annotations

import sys
from typing import get_args

import click

from sectionfour.commands.opened import opened
from sectionfour.domain import Trigger
from sectionfour.settings import from_environment


@click.command()
@click.argument("member")
def export(member: str) -> None:
    """Write everything held about MEMBER, as JSON, for that person.

    Example: sectionfour export m_1 > m_1.json
    """
    from sectionfour.bootstrap import open_notary
    from sectionfour.features.catalog import NAMES
    from sectionfour.privacy import rights

    with opened() as parts:
        notary = open_notary(from_environment(), parts)
        for piece in rights.export(
            parts, notary, member, by="shell", names=NAMES, at=parts.clock()
        ):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


@click.command()
@click.argument("member", required=False)
@click.option("--trigger", type=click.Choice(get_args(Trigger)), help="Why.")
@click.option("--again", is_flag=True, help="All that an older ledger, put back, knows nothing of.")
def erase(member: str | None, trigger: str | None, again: bool) -> None:
    """Forget MEMBER in every place of the inventory, and say what became of each.

    A running service ends what was on its way a minute later; `sectionfour erase` needs none.

    Example: sectionfour erase m_1 --trigger cancellation
    """
    from sectionfour.privacy import erasure

    if again == (member is not None) or again == (trigger is not None):
        raise click.UsageError("give a member and a trigger, or --again alone")
    if member is None or trigger is None:
        with opened() as parts:
            done = erasure.redo(parts, parts.clock())
            erasure.resume(parts, parts.clock())
        click.echo(f"{done:,} erasures are done again")
        return
    with opened() as parts:
        case = erasure.erase(parts, member, trigger, parts.clock())
        for target in parts.ledger.targets(case.erasure_id):
            click.echo(f"{target.store}: {target.action} {target.rows}")
        if case.waits:
            click.echo(erasure.HELD, err=True)
    click.echo(case.erasure_id)


COMMANDS = (export, erase)
