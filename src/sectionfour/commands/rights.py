"""Rights of a person, from the shell: export, erase."""

from __future__ import annotations

import sys

import click

from sectionfour.commands.opened import opened
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
@click.argument("member")
@click.option(
    "--trigger",
    type=click.Choice(["cancellation", "subject_request"]),
    required=True,
    help="Why.",
)
def erase(member: str, trigger: str) -> None:
    """Forget MEMBER in every place of the inventory, and say what became of each.

    A running service ends what was on its way a minute later; `sectionfour erase` needs none.

    Example: sectionfour erase m_1 --trigger cancellation
    """
    from sectionfour.privacy import erasure

    with opened() as parts:
        case = erasure.erase(parts, member, trigger, parts.clock())
        for target in parts.ledger.targets(case.erasure_id):
            click.echo(f"{target.store}: {target.action} {target.rows}")
    click.echo(case.erasure_id)


COMMANDS = (export, erase)
