"""A running service, and what it has kept: demo, bench, verify."""

from __future__ import annotations

import click

from sectionfour.commands.opened import opened
from sectionfour.settings import from_environment


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

    with opened() as parts:
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
    with opened() as parts:
        notary = open_notary(settings, parts)
        faults = list(check(parts, notary))
        size = parts.ledger.size()
    for fault in faults:
        click.echo(fault)
    if faults:
        raise SystemExit(1)
    click.echo(f"{size:,} entries match their checkpoints and the witness")


COMMANDS = (demo, bench, verify)
