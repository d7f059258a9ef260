"""The registry: list, cards, challengers, promotion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from sectionfour.commands.learning import say_metrics
from sectionfour.commands.opened import DELAY, opened
from sectionfour.settings import from_environment

if TYPE_CHECKING:
    from sectionfour.settings import Settings


def _known(context: click.Context, parameter: click.Parameter, name: str) -> str:
    """Refuse a model that there is none of, before anything is opened."""
    from sectionfour.learning.registry import NAMES

    if name not in NAMES:
        raise click.BadParameter(f"there is no such model; there are {', '.join(NAMES)}")
    return name


NAME = click.argument("name", callback=_known)
BY = click.option("--by", required=True, help="Id of your key (trainer or admin).")
METRIC = click.option("--metric", default="average_precision", show_default=True)


@click.group()
def models() -> None:
    """The registry: list, promote, roll back, challenge, compare, and read cards."""


@models.command(name="list")
def models_list() -> None:
    """List models and their versions; a star marks the one that is served, a plus challengers.

    Of one that no worker would open it says why: a file that was changed, a foreign signature.

    Example: sectionfour models list
    """
    from sectionfour.errors import RegistryError
    from sectionfour.learning import registry

    settings = from_environment()
    folder, trusted = settings.models, _trusted(settings)
    for name in registry.NAMES:
        served, shadow = None, registry.challengers(folder, name)
        try:
            served = registry.current(folder, name)
        except RegistryError as error:
            click.echo(f"! {name}: {error.detail}")
        found = registry.versions(folder, name)
        for version in found if served in (None, *found) else [*found, str(served)]:
            mark = "*" if version == served else "+" if version in shadow else " "
            try:
                registry.checked(folder, name, version, trusted)
                click.echo(f"{mark} {name} {version}")
            except RegistryError as error:
                click.echo(f"{mark} {name} {version}: cannot be opened, {error.detail}")


def _trusted(settings: Settings) -> frozenset[bytes]:
    """Return whose models are believed, without making a home where there is none."""
    from sectionfour.bootstrap import shipped_key, trusted_keys
    from sectionfour.privacy.kek import load_kek
    from sectionfour.privacy.keys import Keyring

    if not (settings.home / "keys" / "ring.json").exists():
        return frozenset({shipped_key()})
    return trusted_keys(Keyring(settings.home / "keys", load_kek(settings.home)))


@models.command(name="challenge")
@NAME
@click.argument("version")
def models_challenge(name: str, version: str) -> None:
    """Let a version score in shadow what is answered from now on. Nobody waits for it.

    At most three do for a model; one more, and the oldest makes way.

    Example: sectionfour models challenge transaction 20260628-0123456789ab
    """
    from sectionfour.learning import registry

    with opened() as parts:
        found = registry.challenge(parts.models.folder, name, version, parts.models.trusted)
        parts.ledger.shadow_turn(name, version)  # from here on, not from the next turn of upkeep
    click.echo(f"{name}: {', '.join(found)} in shadow")


@models.command(name="dismiss")
@NAME
@click.argument("version")
def models_dismiss(name: str, version: str) -> None:
    """Let a version score in shadow no more; what it said stays.

    Example: sectionfour models dismiss transaction 20260628-0123456789ab
    """
    from sectionfour.learning import registry

    registry.dismiss(from_environment().models, name, version)
    click.echo(f"{name} {version} scores no more")


@models.command(name="compare")
@NAME
@DELAY
@click.option("--json", "as_json", is_flag=True)
def models_compare(name: str, delay_days: float, as_json: bool) -> None:
    """Compare each challenger with the model that is served, on the calls that both have scored.

    Example: sectionfour models compare transaction
    """
    import msgspec

    from sectionfour.errors import RegistryError
    from sectionfour.learning import registry
    from sectionfour.reports import period

    with opened() as parts:
        versions = registry.challengers(parts.models.folder, name)
        if not versions:
            raise RegistryError(f"{name} has no challenger; `sectionfour models challenge`")
        found = {
            version: period.in_shadow(parts, name, version, delay_days=delay_days)
            for version in versions
        }
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=1))
        return
    for version, said in found.items():
        agreed = said["agreement"]
        same, apart, alike = (
            agreed[name] for name in ("same_outcome", "mean_difference", "rank_correlation")
        )
        click.echo(
            f"{name} {version} against {said['served']}: {said['rows']:,} calls,"
            f" {said['mature']:,} old enough to judge by, {said['frauds']} known frauds"
            f" of {said['members_with_fraud']} members"
        )
        click.echo(
            f"  same outcome {same['value']:.2%} ({same['low']:.2%} to {same['high']:.2%}),"
            f" mean difference {apart['value']:.4f} ({apart['low']:.4f} to {apart['high']:.4f}),"
            f" rank correlation {alike['value']:.3f} ({alike['low']:.3f} to {alike['high']:.3f})"
        )
        if said["gain"] is None:
            click.echo("  too few members with a known fraud to say which one is better")
        else:
            click.echo("  challenger minus champion")
            say_metrics(said["gain"])


@models.command(name="promote")
@NAME
@click.argument("version")
@BY
@METRIC
@click.option("--gain", default=0.01, show_default=True, help="The least that it must be better.")
@click.option(
    "--on",
    type=click.Choice(["shadow", "test"]),
    default="shadow",
    show_default=True,
    help="Calls scored by both in shadow, or the challenger's test period.",
)
@DELAY
@click.option("--unmeasured", is_flag=True, help="Without a gain; the log says so.")
def models_promote(
    name: str,
    version: str,
    by: str,
    metric: str,
    gain: float,
    on: str,
    delay_days: float,
    unmeasured: bool,
) -> None:
    """Serve a version from now on, if it has the gain; running workers see it at their next call.

    A gain is a rise of auc or average_precision, a fall of brier or calibration_error; chance must
    not explain it (95 %). The first model of a name needs none. Who promoted, and for which gain,
    goes into the log. `--unmeasured` is for a served model that can no longer be opened.

    Example: sectionfour models promote transaction 20260628-0123456789ab --by k_0123456789abcdef
    """
    from sectionfour.learning import challengers, registry
    from sectionfour.reports import period

    with opened() as parts:
        folder, trusted = parts.models.folder, parts.models.trusted
        challengers.known(parts, by)  # before anything is measured that nobody may promote
        registry.load(folder, name, version, trusted)
        grounds: dict[str, Any] = {"on": "nothing"}
        if registry.current(folder, name) is not None and not unmeasured:
            found = (
                period.in_shadow(parts, name, version, delay_days=delay_days)
                if on == "shadow"
                else period.on_test(parts, name, version, delay_days=delay_days)
            )
            measured = challengers.check(found, metric, gain)
            # Text: the log's entries hold no fractions.
            grounds = {"on": on, "metric": metric, "asked": str(gain)} | {
                key: str(value) for key, value in measured.items()
            }
        challengers.promote(parts, folder, name, version, trusted, by=by, grounds=grounds)
    click.echo(f"{name} {version} is served")


@models.command(name="rollback")
@NAME
@BY
def models_rollback(name: str, by: str) -> None:
    """Serve the version before the current one again. Needs no gain; goes into the log.

    Example: sectionfour models rollback transaction --by k_0123456789abcdef
    """
    from sectionfour.learning import challengers

    with opened() as parts:
        folder, trusted = parts.models.folder, parts.models.trusted
        version = challengers.rollback(parts, folder, name, trusted, by=by)
    click.echo(f"{name} {version} is served")


@models.command(name="card")
@NAME
@click.argument("version", required=False)
def models_card(name: str, version: str | None) -> None:
    """Print a model's card (JSON): data, metrics, calibration, thresholds, refusal penalties.

    One that was changed after it was signed is refused.

    Example: sectionfour models card transaction
    """
    import msgspec

    from sectionfour.errors import RegistryError
    from sectionfour.learning import registry

    settings = from_environment()
    version = version or registry.current(settings.models, name)
    if version is None:
        raise RegistryError(f"no {name} model has been promoted; `sectionfour models list`")
    card = registry.signed(settings.models, name, version, _trusted(settings))[1]
    click.echo(msgspec.json.format(msgspec.json.encode(card), indent=1))


COMMANDS = (models,)
