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

    from sectionfour import reports

    start, end = reports.period(period)
    with (
        opened() as parts,
        tqdm(total=parts.ledger.size(), unit="entry", unit_scale=True, file=sys.stderr) as bar,
    ):
        found = reports.data_use(parts.ledger, start, end, threshold=threshold, progress=bar.update)
    if html is not None or svg is not None:
        from sectionfour import report_page

        if html is not None:
            html.write_text(report_page.page(found), "utf-8")
        if svg is not None:
            svg.write_text(report_page.picture(found), "utf-8")
    click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2))


COMMANDS = (report,)
