"""Rows that may leave, and what a model betrays: each tested before it is believed."""

from __future__ import annotations

from pathlib import Path

import click

from sectionfour.commands.opened import DELAY, FILE, FOLDER, opened
from sectionfour.domain import MODELS
from sectionfour.settings import from_environment


@click.command(name="release-data")
@click.option("--out", type=FOLDER, required=True, help="A new folder for rows and data sheet.")
@click.option("--purpose", default="security.record_audit_analyse", show_default=True)
@click.option(
    "--model",
    type=click.Choice(MODELS),
    default="transaction",
    show_default=True,
    help="Whose events.",
)
@DELAY
@click.option("--attacks", default=2000, show_default=True, type=click.IntRange(100, 100_000))
def release_data(out: Path, purpose: str, model: str, delay_days: float, attacks: int) -> None:
    """Write rows to train on that may leave the builder: made coarse, attacked, then written.

    Where a figure misses its limit nothing is written, and the status is 1.

    Example: sectionfour release-data --out release
    """
    from sectionfour.releases.outgoing import Terms, release

    terms = Terms(
        purpose=purpose,
        model=model,
        delay_days=delay_days,
        attacks=attacks,
        cheap_attacks=max(attacks, 5000),
    )
    with opened() as parts:
        sheet = release(parts, out, terms)
    figures = sheet["figures"]
    click.echo(f"{sheet['release_id']}: {figures['uniqueness']['rows']:,} rows in {out}")
    click.echo(f"k {figures['uniqueness']['k_of_whole_rows']} over whole rows")
    for name in ("singling_out", "linkability", "inference"):
        upper, limit = figures[name]["upper"], sheet["limits"][name]
        click.echo(f"{name.replace('_', ' '):13} at most {upper:.3f} (limit {limit})")


@click.command(name="privacy-report")
@click.option(
    "--model",
    type=click.Choice(MODELS),
    default="transaction",
    show_default=True,
)
@click.option("--shadows", default=32, show_default=True, type=click.IntRange(2, 1000))
@click.option(
    "--curve-shadows",
    default=8,
    show_default=True,
    type=click.IntRange(0, 1000),
    help="Models a point of the trade-off curve; 0: no curve.",
)
@click.option("--jobs", default=2, show_default=True)
@click.option("--backend", default="loky", show_default=True, help="As of `train`.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The figures as JSON; reports/privacy-MODEL.json in the home without it.",
)
def privacy_report(
    model: str, shadows: int, curve_shadows: int, jobs: int, backend: str, out: Path | None
) -> None:
    """Attack the model that is served: membership, planted canaries, attributes; and the price.

    Example: sectionfour privacy-report --model transaction
    """
    import msgspec

    from sectionfour.bootstrap import trusted_keys
    from sectionfour.learning import backends, registry
    from sectionfour.reports.privacy_report import Terms, lines, report

    backends.check(backend)
    settings = from_environment()
    with opened() as parts:
        version = registry.current(settings.models, model)
        served = version and registry.load(
            settings.models, model, version, trusted_keys(parts.keys.ring)
        )
        terms = Terms(
            model=model, shadows=shadows, curve_shadows=curve_shadows, jobs=jobs, backend=backend
        )
        found = report(parts, terms, served or None)
    target = out or settings.home / "reports" / f"privacy-{model}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1))
    for line in lines(found):
        click.echo(line)
    click.echo(f"figures in {target}")


@click.command(name="audit-set")
@click.argument("members", type=FILE)
def audit_set(members: Path) -> None:
    """Take age bands and genders of MEMBERS (parquet) into the audit set, where consent says so.

    Whoever is in it and has no such consent any more is taken out. No model learns from it.

    Example: sectionfour audit-set data_samples/market/members.parquet
    """
    from sectionfour.learning.audit import take

    with opened() as parts:
        done = take(members, parts)
    click.echo(f"kept {done.kept:,} members, took out {done.gone:,}")
    for why, number in done.left_out.items():
        click.echo(f"left out {number:,}: {why}")


COMMANDS = (release_data, privacy_report, audit_set)
