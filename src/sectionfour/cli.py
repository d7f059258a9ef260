"""The command line: `sectionfour --help`. Each command's code is in a room of its own."""

from __future__ import annotations

from typing import Any

import click

from sectionfour.commands import COMMANDS
from sectionfour.commands.opened import Address, address
from sectionfour.errors import SectionFourError
from sectionfour.settings import from_environment


class Edge(click.Group):
    """Says what went wrong in one line, where it went wrong as foreseen."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SectionFourError as error:
            raise click.ClickException(error.detail) from error


@click.group(cls=Edge)
@click.version_option(package_name="sectionfour")
def main() -> None:
    """Risk of accounts and transactions, scored where that is lawful, with a receipt for each.

    All state lies in SECTIONFOUR_HOME (./var), models in SECTIONFOUR_MODELS (./models).
    """


@main.command()
@click.option(
    "--bind", default="127.0.0.1:8400", show_default=True, type=address, help="HOST:PORT."
)
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1, 256))
@click.option("--ledger", help="URL of the ledger, sqlite:PATH or postgresql:.")
@click.option("--velocity", help="URL of the windows, lmdb:FOLDER or redis:.")
@click.option(
    "--pin/--no-pin",
    default=True,
    show_default=True,
    help="Keep each worker to one CPU, where there is a worker for each.",
)
@click.option(
    "--older-ledger",
    is_flag=True,
    help="Go on with a ledger put back from a copy, without what it lacks: withdrawals, too.",
)
def serve(
    bind: Address,
    workers: int,
    ledger: str | None,
    velocity: str | None,
    pin: bool,
    older_ledger: bool,
) -> None:
    """Run the service until it is told to stop.

    Example: sectionfour serve --bind 0.0.0.0:8400 --workers 4
    """
    from sectionfour.serve import serve as run

    settings = from_environment(ledger=ledger, velocity=velocity)
    run(
        settings,
        host=bind.host,
        port=bind.port,
        workers=workers,
        pin=pin,
        older_ledger=older_ledger,
    )


@main.group()
def keys() -> None:
    """API keys: each has one role, and is shown once."""


def _ledger(url: str | None) -> Any:
    from sectionfour import stores

    settings = from_environment(ledger=url)
    settings.make_home()
    return stores.open_ledger(settings.ledger or f"sqlite:{settings.home / 'ledger.db'}")


@keys.command(name="create")
@click.option("--role", required=True, help="checkout, consent, analyst, privacy, trainer, admin.")
@click.option("--office", help="Whose approval it speaks, of exceptions; for the role privacy.")
@click.option("--ledger", help="URL of the ledger, sqlite:PATH or postgresql:.")
def keys_create(role: str, office: str | None, ledger: str | None) -> None:
    """Make a key and print it, this once; only a digest of it is kept.

    Example: sectionfour keys create --role privacy --office general_counsel
    """
    from sectionfour.parts import now
    from sectionfour.privacy import regime
    from sectionfour.web.keys import create_key, key_id

    offices = regime.load(from_environment(ledger=ledger).regime).offices
    if office is not None and office not in offices:
        raise click.BadParameter(f"one of {', '.join(offices)}", param_hint="--office")
    key = create_key(_ledger(ledger), role, now(), office)
    click.echo(key)
    click.echo(f"{key_id(key)}: role {role}", err=True)


@keys.command(name="list")
@click.option("--ledger", help="URL of the ledger, sqlite:PATH or postgresql:.")
def keys_list(ledger: str | None) -> None:
    """List the keys: id, role, when made and, where it was, when revoked.

    Example: sectionfour keys list
    """
    from sectionfour.domain import instant
    from sectionfour.web.keys import list_keys

    for row in list_keys(_ledger(ledger)):
        ended = "" if row.revoked_at is None else f"  revoked {instant(row.revoked_at)}"
        click.echo(f"{row.key_id}  {row.role:9} {instant(row.made_at)}{ended}")


@keys.command(name="revoke")
@click.argument("key_id")
@click.option("--ledger", help="URL of the ledger, sqlite:PATH or postgresql:.")
def keys_revoke(key_id: str, ledger: str | None) -> None:
    """End a key, for the next call on.

    Example: sectionfour keys revoke k_0123456789abcdef
    """
    from sectionfour.parts import now
    from sectionfour.web.keys import revoke_key

    if not revoke_key(_ledger(ledger), key_id, now()):
        raise click.ClickException("no key of this id stands: `sectionfour keys list`")
    click.echo(f"{key_id} is revoked", err=True)


for command in COMMANDS:
    main.add_command(command)

if __name__ == "__main__":
    main()
