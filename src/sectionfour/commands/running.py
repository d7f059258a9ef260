"""A running service, and what it has kept: demo, bench, verify."""

from __future__ import annotations

from pathlib import Path

import click

from sectionfour.commands.opened import FOLDER, Address, address, opened
from sectionfour.settings import from_environment


@click.command()
@click.option("--once", is_flag=True, help="End after a short run.")
@click.option(
    "--bind", default="127.0.0.1:8400", show_default=True, type=address, help="HOST:PORT."
)
def demo(once: bool, bind: Address) -> None:
    """Simulate, train, serve, send traffic and show the answers.

    Example: sectionfour demo --once
    """
    from sectionfour.trial.demo import demo as run

    run(from_environment(), click.echo, once=once, bind=str(bind))


@click.command()
@click.option("--url", default="http://127.0.0.1:8400", show_default=True)
@click.option("--checkout-key", envvar="CHECKOUT_KEY", help="A key with role checkout.")
@click.option("--consent-key", envvar="CONSENT_KEY", help="A key with role consent.")
@click.option("--members", default=5_000, show_default=True, type=click.IntRange(min=1))
@click.option("--connections", default=8, show_default=True, type=click.IntRange(min=1))
@click.option("--seconds", default=15.0, show_default=True, type=click.FloatRange(min=0))
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
    from sectionfour.trial.bench import bench as run
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
        try:
            result = run(
                url,
                checkout_key,
                consent_key,
                members=members,
                connections=connections,
                seconds=seconds,
                progress=say,
            )
        finally:
            for key in made:
                keys.revoke_key(parts.ledger, keys.key_id(key), parts.clock())
    click.echo(
        f"{result.rate:,.0f} requests/s over {result.seconds:.1f} s, {connections} connections\n"
        f"p50 {result.percentile(50):.2f} ms, p95 {result.percentile(95):.2f} ms,"
        f" p99 {result.percentile(99):.2f} ms, max {result.percentile(100):.2f} ms\n"
        f"answers by status: {dict(sorted(result.statuses.items()))}"
    )


@click.command()
@click.option(
    "--witness",
    "witnesses",
    multiple=True,
    metavar="URL_OR_FILE",
    help="What a witness elsewhere has seen: its URL, or a copy of its file.",
)
@click.option(
    "--witness-key", help="The witness's verifier key; its cosignatures are then checked."
)
def verify(witnesses: tuple[str, ...], witness_key: str | None) -> None:
    """Check the log against its checkpoints and the witness; status 1 where anything is off.

    Example: sectionfour verify --witness http://witness.example:8500
    """
    import sys

    from tqdm import tqdm

    from sectionfour.bootstrap import open_notary
    from sectionfour.privacy.witness import seen_by
    from sectionfour.verify import verify as check

    settings = from_environment()
    others = {f"witness {name}": seen_by(name, witness_key) for name in witnesses}
    with opened() as parts:
        notary, size = open_notary(settings, parts), parts.ledger.size()
        with tqdm(total=2 * size, unit="entry", unit_scale=True, file=sys.stderr) as bar:
            faults = list(check(parts, notary, progress=bar.update, others=others))
    for fault in faults:
        click.echo(fault)
    if faults:
        raise SystemExit(1)
    click.echo(f"{size:,} entries match their checkpoints and the witness")


@click.command()
@click.argument("vkey")
@click.option("--folder", default="witness", show_default=True, type=FOLDER, help="What it keeps.")
@click.option(
    "--bind", default="127.0.0.1:8500", show_default=True, type=address, help="HOST:PORT."
)
@click.option("--name", default="witness.example", show_default=True, help="Its name as a signer.")
def witness(vkey: str, folder: Path, bind: Address, name: str) -> None:
    """See the checkpoints of a log from another machine, and refuse every fork.

    VKEY is the log's verifier key, as in every receipt. The service sends here with
    SECTIONFOUR_WITNESS_TO=http://HOST:PORT, and `sectionfour verify --witness` asks here.

    Example: sectionfour witness sectionfour.example/log+01234567+AbCd... --folder /srv/witness
    """
    from sectionfour.privacy.witness import Witness
    from sectionfour.witness import listen

    seeing = Witness(folder, vkey, name)
    server = listen(seeing, *bind)
    click.echo(seeing.vkey)
    click.echo(f"listening at http://{bind._replace(port=server.server_port)}", err=True)
    try:
        server.serve_forever()
    finally:
        server.server_close()


COMMANDS = (demo, bench, verify, witness)
