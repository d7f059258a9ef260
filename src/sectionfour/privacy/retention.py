"""How long what is kept is kept: reads `retention.toml`, and says what is due at an instant.

No clock and no store: an instant is handed in. What a legal hold, or a live grant of certain
exceptions, speaks for is never due.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Literal

import msgspec

from sectionfour.domain import DAY
from sectionfour.errors import SettingsError


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One class: so many days from an event, or from the end of what it is of."""

    necessity: str
    days: int | None = None
    since: Literal["event", "end"] | None = None
    law: str | None = None


class Floor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a law has kept for so many days at least."""

    days: int
    law: str


class Retention(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file. `exceptions`: those whose live grants keep what they speak of, and why."""

    floors: dict[str, Floor]
    classes: dict[str, Rule]
    exceptions: dict[str, str]

    def cutoff(self, name: str, at: int) -> int:
        """Return the instant before which what is of this class is due at `at`, in microseconds.

        LookupError for a class that is not kept by age.
        """
        days = self.classes[name].days
        if days is None:
            raise LookupError(f"{name} is not kept by age")
        return at - days * DAY

    def keeps(self, exception: int) -> bool:
        """Whether what a live grant of this exception speaks of is kept."""
        return str(exception) in self.exceptions


@cache
def load() -> Retention:
    """Return the rules that come with the package."""
    data = resources.files("sectionfour.privacy").joinpath("retention.toml").read_bytes()
    return assemble(tomllib.loads(data.decode()))


def assemble(file: Mapping[str, Any]) -> Retention:
    """Return what the tables of a file make; SettingsError where a rule does not hold."""
    try:
        found = msgspec.convert(file, Retention)
    except msgspec.ValidationError as error:
        raise SettingsError(f"retention.toml: {error}") from error
    for name, rule in found.classes.items():
        if (rule.days is None) != (rule.law is None) or (rule.days is None) != (rule.since is None):
            raise SettingsError(
                f"retention.toml: {name} has days, since and a law, or none of them"
            )
        if not rule.necessity or (rule.days is not None and rule.days < 1):
            raise SettingsError(f"retention.toml: {name} says why, and for a day at least")
    longest = max((floor.days for floor in found.floors.values()), default=0)
    kept = found.classes.get("security_3y")
    if kept is None or kept.days is None or kept.days < longest:
        raise SettingsError(f"retention.toml: security_3y is below a floor of {longest} days")
    return found
