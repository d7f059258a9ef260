"""Keys that end: epochs of tokens, and the key-encryption key."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from sectionfour.commands.opened import opened
from sectionfour.settings import from_environment


@contextmanager
def _progress() -> Iterator[Callable[[str, int], object]]:
    from tqdm import tqdm

    with tqdm(unit="row", unit_scale=True, file=sys.stderr) as bar:

        def told(what: str, count: int) -> None:
            if bar.desc != f"{what}: ":
                bar.set_description(what, refresh=False)
            bar.update(count)

        yield told


@click.group()
def epochs() -> None:
    """Epochs of the token keys: list, rotate, finish, destroy; and the key-encryption key."""


@epochs.command(name="list")
def epochs_list() -> None:
    """List the epochs of each domain: the live one, the one to come, those destroyed.

    Example: sectionfour epochs list
    """
    with opened(steady=False) as parts:
        for domain, found in sorted(parts.keys.ring.epochs().items()):
            for name in found.destroyed:
                click.echo(f"{domain:24} {name:20} destroyed")
            for place, name in enumerate(found.alive):
                coming = domain == "serve" and place > 0
                click.echo(f"{domain:24} {name:20} {'to come' if coming else 'live'}")


@epochs.command(name="rotate")
@click.option("--domain", default="serve", show_default=True, help="serve, train, partner:ID.")
def epochs_rotate(domain: str) -> None:
    """Begin a new epoch. Running workers see it at their next call.

    For serve the service then notes what it meets; some weeks later `epochs finish` gives what is
    kept its new tokens and destroys the old key. For train and partners the old key is destroyed
    at once, and with it every join to what was released under it.

    Example: sectionfour epochs rotate --domain serve
    """
    from sectionfour.jobs import rotation

    with opened(steady=False) as parts:
        if domain == "serve":
            name = rotation.rotate(parts)
            click.echo(f"serve {name} is to come: run `sectionfour epochs finish` in 30 days")
        else:
            click.echo(f"{domain} {rotation.renew(parts, domain)} is live, the last one destroyed")


@epochs.command(name="finish")
def epochs_finish() -> None:
    """End the epoch of serve: new tokens for what is kept, new windows, the old key destroyed.

    The service answers 503 meanwhile. What a device, an address or an instrument did before is
    joined to it from now on only if it was met since `epochs rotate`; members keep all.

    Example: sectionfour epochs finish
    """
    from sectionfour.bootstrap import open_notary
    from sectionfour.jobs import rotation

    with opened(steady=False) as parts, _progress() as progress:
        notary = open_notary(from_environment(), parts)
        name = rotation.finish(parts, notary, progress)
    click.echo(f"serve {name} is live, the last one destroyed")


@epochs.command(name="destroy")
@click.option("--domain", required=True, help="train, analyst, partner:ID, export:CASE.")
@click.option("--epoch", required=True, help="As listed; for analyst, the case.")
def epochs_destroy(domain: str, epoch: str) -> None:
    """Destroy the key of an epoch for good: its tokens can never be made again.

    Example: sectionfour epochs destroy --domain partner:acme --epoch e01
    """
    from sectionfour.jobs import rotation

    with opened(steady=False) as parts:
        rotation.destroy(parts, domain, epoch)
    click.echo(f"{domain} {epoch} is destroyed")


@epochs.command(name="rewrap")
@click.option("--done", is_flag=True, help="The new key is set everywhere: forget the old one.")
def epochs_rewrap(done: bool) -> None:
    """Replace the key-encryption key: everything that it wraps is wrapped by a new one.

    Where it comes from SECTIONFOUR_KEK or SECTIONFOUR_KEK_COMMAND, give the new one in
    SECTIONFOUR_KEK_NEXT; both open everything until the service has the new one and
    `epochs rewrap --done` is run. Broken off, run it again.

    Example: sectionfour epochs rewrap
    """
    from sectionfour.jobs import rotation
    from sectionfour.privacy import kek

    home, following = from_environment().home, os.environ.get(kek.NEXT)
    with opened(steady=False) as parts:
        if done:
            rotation.forget_kek(parts, home)
        else:
            with _progress() as progress:
                new = None if following is None else kek.decode(following)
                done = rotation.rewrap(parts, home, new, progress)
    if done:
        click.echo("everything is wrapped by the new key; the old one opens nothing")
    else:
        click.echo(
            "everything is wrapped by the new key, and the old one opens it still: set the new one,"
            " restart the service, then run `sectionfour epochs rewrap --done`"
        )


COMMANDS = (epochs,)
