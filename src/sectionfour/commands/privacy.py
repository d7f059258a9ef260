"""For the privacy officer: what data was used for, what is due, and the end of all of it."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from sectionfour.commands.opened import opened

OUT = click.Path(dir_okay=False, writable=True, path_type=Path)


@click.group()
def report() -> None:
    """Reports from the log."""


@report.command(name="data-use")
@click.option("--period", required=True, help="2026, 2026-11, 2026-11-23, or A..B (UTC).")
@click.option("--threshold", default=5, show_default=True, help="People behind a count, at least.")
@click.option("--html", type=OUT, help="Write a page with a picture here.")
@click.option("--svg", type=OUT, help="Write the picture here.")
def data_use(period: str, threshold: int, html: Path | None, svg: Path | None) -> None:
    """What data was used for, on what basis, and what was masked, refused or withdrawn; as JSON.

    Counts that could point at a person are withheld, also from totals less their other parts.

    Example: sectionfour report data-use --period 2026-11 --html november.html
    """
    import msgspec
    from tqdm import tqdm

    from sectionfour.reports import data_use as counted

    start, end = counted.period(period)
    with (
        opened() as parts,
        tqdm(total=parts.ledger.size(), unit="entry", unit_scale=True, file=sys.stderr) as bar,
    ):
        found = counted.data_use(parts.ledger, start, end, threshold=threshold, progress=bar.update)
    if html is not None or svg is not None:
        from sectionfour.reports import page

        if html is not None:
            html.write_text(page.page(found), "utf-8")
        if svg is not None:
            svg.write_text(page.picture(found), "utf-8")
    click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2))


@click.command()
def sweep() -> None:
    """Delete what is past its time, and not held; says how much went, by table.

    A service does the same once a day; this may run beside it.

    Example: sectionfour sweep
    """
    from tqdm import tqdm

    from sectionfour.jobs.sweep import sweep as run

    with opened() as parts:
        with tqdm(unit="row", unit_scale=True, file=sys.stderr) as bar:
            gone = run(parts, parts.clock(), progress=bar.update)
        for table, count in sorted(gone.items()):
            click.echo(f"{table}: {count:,} deleted")
        if not gone:
            click.echo("nothing is due")


@click.command()
@click.option("--announcement", required=True, help="Where people are told, in one line.")
@click.option("--confirm", is_flag=True, help="It cannot be undone.")
def cease(announcement: str, confirm: bool) -> None:
    """End operation for good: collection and scoring stop, notices are recorded, everything goes.

    Prints an attestation that the log's key has signed. Begun again, it goes on.

    Example: sectionfour cease --announcement https://market.example/end --confirm
    """
    from sectionfour.bootstrap import open_notary
    from sectionfour.jobs import cessation
    from sectionfour.settings import from_environment

    if not confirm:
        raise click.BadParameter("this cannot be undone", param_hint="--confirm")
    if len(announcement) > 512 or not announcement.isprintable() or len(announcement) < 3:
        raise click.BadParameter("one line of 3 to 512 letters", param_hint="--announcement")
    settings = from_environment()
    with opened() as parts:
        ended = cessation.cease(
            parts,
            open_notary(settings, parts),
            settings,
            announcement=announcement,
            by="shell",
            say=lambda text: click.echo(f"... {text}", err=True),
        )
    click.echo(ended.attestation, nl=False)


COMMANDS = (report, sweep, cease)
