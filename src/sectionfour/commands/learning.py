"""Learning: train, evaluate, drift, the published benchmark."""

from __future__ import annotations

import fcntl
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from sectionfour.commands.opened import DATE, DELAY, FILE, opened
from sectionfour.errors import HistoryError
from sectionfour.settings import Settings, from_environment

#: Exit statuses of `train` beside 0, 1 (failed) and 2 (usage), as in sysexits(3).
CANNOT_LEARN, BUSY = 65, 75


class _Ended(click.ClickException):
    """A message, and a status to end with."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.exit_code = status  # type: ignore[misc]  # click reads it of the instance


@contextmanager
def _alone(settings: Settings, name: str = "train", does: str = "trains") -> Iterator[None]:
    """Hold this home's lock on such work; it is let go when the process ends, however it ends."""
    settings.make_home()
    with open(settings.home / f"{name}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _Ended(BUSY, f"another run {does} in this home; nothing was done") from error
        yield


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """Let SIGTERM unwind what runs: the search's workers, and the rows that they share in memory,
    would else outlive it by minutes. The status is the one that a shell gives it."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _peak() -> str:
    """Return the most memory that this process and its largest child have held."""
    own, child = (
        resource.getrusage(who).ru_maxrss / 1024
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return f"{own:,.0f} MiB, the largest of its workers {child:,.0f} MiB"


def say_metrics(metrics: dict[str, dict[str, float]]) -> None:
    """Print metrics with their intervals."""
    for name, metric in metrics.items():
        low, high = metric["low"], metric["high"]
        click.echo(f"  {name:18} {metric['value']:.4f}  ({low:.4f} to {high:.4f})")


@click.command()
@DELAY
@click.option("--test-days", default=21.0, show_default=True)
@click.option("--candidates", default=8, show_default=True, help="Settings to try.")
@click.option("--jobs", default=2, show_default=True)
@click.option(
    "--backend",
    default="loky",
    show_default=True,
    help="Of the search: loky, threading, dask[:ADDRESS] or spark[:ADDRESS].",
)
@click.option("--seed", default=4, show_default=True)
@click.option(
    "--since", type=DATE, help="Learn from events from then on (older ones form windows)."
)
@click.option("--until", type=DATE, help="Use nothing from this date on.")
@click.option("--model", "names", multiple=True, help="Only this model; may be repeated.")
@click.option("--challenge", is_flag=True, help="Let a new version score in shadow.")
def train(
    delay_days: float,
    test_days: float,
    candidates: int,
    jobs: int,
    backend: str,
    seed: int,
    since: int | None,
    until: int | None,
    names: tuple[str, ...],
    challenge: bool,
) -> None:
    """Retrain, evaluate and register; promotes the first model of a name, and no other.

    Safe to run again, also after a run that was killed. Ends with status 0 when every model is
    registered (also when it was there already), 65 when the history cannot be learnt from, 75 when
    another run is at work, 143 when it was told to end (SIGTERM), 1 when something else failed, 2
    for a wrong option. Unless it ends with 0, what is served has not changed but for a first model.

    Example: sectionfour train --candidates 12 --challenge
    """
    from sectionfour.bootstrap import trusted_keys
    from sectionfour.learning import registry
    from sectionfour.learning.plan import Plan
    from sectionfour.train import train as run

    plan = Plan(
        delay_days=delay_days,
        test_days=test_days,
        candidates=candidates,
        jobs=jobs,
        backend=backend,
        seed=seed,
        since=since,
        until=until,
        names=names or registry.NAMES,
        challenge=challenge,
    )
    settings = from_environment()
    with _ending_in_order(), _alone(settings), opened() as parts:
        for name in plan.names:
            registry.sweep(settings.models, name)
        ring = parts.keys.ring
        try:
            done = run(parts, plan, settings.models, ring.signing("models"), trusted_keys(ring))
        except HistoryError as error:
            raise _Ended(CANNOT_LEARN, error.detail) from error
        for one in done:
            state = "registered" if one.new else "was there already"
            served = "served" if one.promoted else "not promoted"
            shadow = ", scores in shadow" if one.challenges else ""
            click.echo(f"{one.name} {one.version}: {state}, {served}{shadow}")
            click.echo("  the same settings, before the newest weeks were learnt from, on these:")
            say_metrics(one.metrics)
            card = registry.load(settings.models, one.name, one.version, trusted_keys(ring))[1]
            for text in (*_oddities(card["data"]), *_doubts(card)):
                click.echo(f"  note: {text}")
    click.echo(f"peak memory: {_peak()}", err=True)


def _oddities(data: dict[str, Any]) -> Iterator[str]:
    """Yield what is odd about the history, in words."""
    for gap in data.get("gaps", ()):
        yield f"the history has no event from {gap['from']} to {gap['to']} ({gap['days']} days)"
    for category in data.get("missing_throughout", ()):
        yield f"{category} is missing for everybody; nothing was learnt from it"
    labels = data.get("labels", {})
    for reason, text in (
        ("unknown_event", "are of events that are not there, and were left out"),
        ("before_event", "were known before their event, and were left out"),
        ("contradicting", "contradict an earlier one; the last word counts"),
        ("duplicate", "repeat an earlier one"),
    ):
        if labels.get(reason):
            yield f"{labels[reason]} labels {text}"


def _doubts(card: dict[str, Any]) -> Iterator[str]:
    """Yield why a model's figures say little, in words."""
    from sectionfour.learning.challengers import LEAST_MEMBERS

    auc, members = card["metrics"]["auc"], card["intervals"]["members_with_fraud"]
    if members < LEAST_MEMBERS:
        yield (
            f"the test has frauds of {members} member{'s' if members > 1 else ''} alone; the"
            " intervals say less than the truth, and no promotion can rest on them"
        )
    if auc["low"] <= 0.5:
        yield f"it was not seen to rank better than chance (AUC from {auc['low']:.2f} on)"


@click.command()
@click.option(
    "--from", "since", type=DATE, help="As of each midnight from this date on (UTC), not of now."
)
def clusters(since: int | None) -> None:
    """Find who shares devices, instruments or addresses with whom, for the features of clusters.

    Run it on a schedule; what is found counts for events a minute later and after. With --from it
    is found as of each past midnight, of what was known then: for a past that was imported, before
    anything is learnt from it. That is refused where the service runs, or has scored anything since
    that date.

    Safe to run again, also after a run that was killed. Ends with status 0 when done, 75 when
    another run is at work, 1 when something failed, 2 for a wrong option; then nothing has changed.

    Example: sectionfour clusters
    """
    from sectionfour.domain import instant
    from sectionfour.jobs import clustering, upkeep
    from sectionfour.learning.progress import steps_watched

    settings = from_environment()
    with _alone(settings, "clusters", "finds clusters"), opened() as parts:
        if since is None:
            done = clustering.refresh(parts)
        else:
            with upkeep.alone(settings.home) as unserved:
                if not unserved:
                    raise _Ended(1, "a service runs in this home: end it first")
                done = clustering.refresh_past(parts, since, steps_watched("days"))
    click.echo(
        f"{done.members:,} members in clusters, the largest of {done.largest:,};"
        f" {done.rows:,} rows written, the last count after {instant(done.at)}"
    )


@click.command()
@click.argument("name")
@click.option("--version", help="The one that is served, without it.")
@click.option(
    "--since", type=DATE, help="From this date on (UTC); the model's test period without it."
)
@click.option("--until", type=DATE, help="Nothing from this date on.")
@DELAY
@click.option("--costs", type=FILE, help="What each outcome costs (TOML); this home's without it.")
@click.option("--json", "as_json", is_flag=True, help="Everything, the curves included, as JSON.")
def evaluate(
    name: str,
    version: str | None,
    since: int | None,
    until: int | None,
    delay_days: float,
    costs: Path | None,
    as_json: bool,
) -> None:
    """Judge a model on a period: metrics with intervals, and what its thresholds would have cost.

    Without a period it is that of the card, judged by the model that the card's figures are of:
    what is served has learnt from it since. Events younger than the label delay are not called
    honest: they count for the mix of outcomes and the review load alone. A missed fraud costs its
    own amount, where it has one. A period that the model has learnt from is told as such.

    Example: sectionfour evaluate transaction --since 2026-06-01 --costs costs.toml
    """
    import msgspec

    from sectionfour.decisions import policy
    from sectionfour.learning import registry
    from sectionfour.reports import period

    priced = policy.load(costs) if costs else None
    with opened() as parts:
        of_card = since is None and until is None
        model, card = _model(name, version, parts, judged=of_card)
        unseen = registry.tested(card)[0] if of_card else registry.unseen_from(card)
        begin = unseen if of_card else since
        found = period.read(parts, [name], since=begin, until=until, delay_days=delay_days)[name]
        stated = (priced or parts.policy).of(name)
        said = period.judged(found, model.score(found.rows), stated, unseen=unseen)
    said = {"version": model.version, "fitted_anew": not of_card, **said}
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(said), indent=1))
        return
    _say_judged(said)


def _say_judged(said: dict[str, Any]) -> None:
    click.echo(f"{said['model']} {said['version']}, {said['from']} to {said['to']}")
    click.echo(
        f"  {said['rows']:,} events of {said['members']:,} members, {said['too_young']:,} too young"
        f" to judge by; {said['frauds']:,} known frauds of {said['members_with_fraud']:,} members"
    )
    if not said["fitted_anew"]:
        click.echo("  by the model that its card's figures are of, which had not seen these events")
    if said["before_its_test"]:
        click.echo(
            f"  note: {said['before_its_test']:,} of these events are from the model's own past;"
            " it has learnt from or was chosen on most of them, and looks better than it is"
        )
    say_metrics(said["metrics"])
    click.echo("said and true, by what events lack")
    for part in said["calibration_by_pattern"]:
        gap = part["gap"]
        click.echo(
            f"  {part['rows']:7,} rows {part['said']:7.2%} {part['true']:7.2%}, apart"
            f" {gap['value']:+.4f} ({gap['low']:+.4f} to {gap['high']:+.4f}): {part['missing']}"
        )
    amount, stated = said["mean_fraud_amount"], said["costs"]["missed_fraud"]
    if amount is not None:
        click.echo(f"a missed fraud: {stated:,.0f} stated, {amount:,.0f} the mean of these")
    edges = ", ".join(f"{action} from {at:.2%}" for action, at in said["thresholds"].items())
    click.echo(f"thresholds that follow: {edges}")
    for what, text in (("in_force", "with these"), ("nobody_stopped", "with nobody stopped")):
        cost = said["paid"][what]
        click.echo(
            f"  1,000 events {text:20} {cost['cost']:10,.0f}"
            f"  ({cost['low']:,.0f} to {cost['high']:,.0f})"
        )
    click.echo("cost of 1,000 events with one threshold moved")
    by_threshold: dict[float, dict[str, float]] = {}
    for point in said["curve"]:
        by_threshold.setdefault(point["threshold"], {})[point["moved"]] = point["cost"]
    moved = list(next(iter(by_threshold.values())))
    click.echo("  " + " ".join(f"{text:>12}" for text in ("from", *moved)))
    for at, costs in list(by_threshold.items())[::2]:
        click.echo("  " + " ".join([f"{at:12.2%}", *(f"{costs[m]:12,.0f}" for m in moved)]))
    load = said["reviews_a_day"]
    click.echo(
        f"reviews a day: {load['mean']:.1f}, at most {load['most']:.0f};"
        f" {load['minutes']:.0f} minutes a day"
    )
    mix = ", ".join(f"{action} {share:.2%}" for action, share in said["outcomes"]["share"].items())
    click.echo(f"outcomes of the last {said['outcomes']['days']:.0f} days: {mix}")


def _model(name: str, version: str | None, parts: Any, *, judged: bool) -> Any:
    """Open a version of a model with its card; the one that is served without a version.

    `judged`: not what is served of it, but the model that its card's figures are of.
    """
    from sectionfour.errors import RegistryError
    from sectionfour.learning import registry

    models = parts.models
    if name not in registry.NAMES:
        raise RegistryError(f"there is no such model; there are {', '.join(registry.NAMES)}")
    version = version or registry.current(models.folder, name)
    if version is None:
        raise RegistryError(f"no {name} model has been promoted")
    opened_by = registry.judged if judged else registry.load
    return opened_by(models.folder, name, version, models.trusted)


@click.command()
@click.option("--model", "names", multiple=True, help="Only this model; may be repeated.")
@click.option("--since", type=DATE, help="From this date on (UTC); the last 30 days without it.")
@click.option("--until", type=DATE, help="Nothing from this date on.")
@DELAY
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="HTML to write.")
@click.option("--fail", is_flag=True, help="End with status 1 where something drifts much.")
def drift(
    names: tuple[str, ...],
    since: int | None,
    until: int | None,
    delay_days: float,
    report: Path | None,
    fail: bool,
) -> None:
    """Compare what comes in, and how it is scored, with the training period of what is served.

    Also: performance by week, as labels mature. What is found goes into drift.json of this home,
    which /metrics shows as sectionfour_drift_psi with the time of the measurement.

    Example: sectionfour drift --since 2026-06-01 --report drift.html
    """
    from sectionfour.reports import drifting

    with opened() as parts:
        found = drifting.measure(
            parts,
            names,
            since=since,
            until=until,
            delay_days=delay_days,
        )
    for line in drifting.lines(found):
        click.echo(line)
    if report is not None:
        report.write_text(drifting.html(found), "utf-8")
        click.echo(f"written: {report}", err=True)
    drifting.keep(from_environment().home, found)
    if fail and any(one["verdict"] == "much" for one in found["models"].values()):
        raise _Ended(1, "something drifts much: retrain, or look at what changed")


@click.group()
def benchmark() -> None:
    """Published benchmarks, run by their protocols."""


@benchmark.command(name="handbook")
@click.option("--data", type=FILE, required=True, help="The transactions (parquet).")
@click.option(
    "--train-start",
    type=click.DateTime(["%Y-%m-%d"]),
    multiple=True,
    help="First day of a training week; repeatable.",
)
@click.option("--regime", type=click.Choice(["same", "all", "both"]), default="both")
def benchmark_handbook(data: Path, train_start: tuple[datetime, ...], regime: str) -> None:
    """Run the published protocol on card transactions and print our rows beside the others.

    Example: sectionfour benchmark handbook --data handbook.parquet
    """
    from sectionfour.learning import handbook
    from sectionfour.loading import imports

    def say(text: str) -> None:
        click.echo(f"... {text}", err=True)

    starts = [day.date() for day in train_start] or list(handbook.TEST)
    table = imports.read_handbook(data)
    say(f"{len(table):,} transactions; features")
    matrix = handbook.features(table)
    regimes: list[handbook.Regime] = ["same", "all"] if regime == "both" else [regime]  # type: ignore[list-item]
    found = {r: handbook.run(table, starts, r, matrix=matrix, progress=say) for r in regimes}
    click.echo(handbook.table_of(found))
    if not train_start:
        for r in regimes:
            for start, s in handbook.run(
                table, handbook.LATER, r, matrix=matrix, progress=say
            ).items():
                click.echo(
                    f"kept apart, {r} data, trained from {start}: AUC {s.auc:.3f}, AP"
                    f" {s.average_precision:.3f}, CP@100 {s.card_precision:.3f}"
                    f" ({s.transactions:,} transactions, {s.frauds} frauds, {s.days} days)"
                )


COMMANDS = (train, clusters, evaluate, drift, benchmark)
