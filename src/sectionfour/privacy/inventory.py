"""Everywhere that anything is kept, and what becomes of it: reads `inventory.toml`.

The list is closed: a test compares it with a home that a real service has filled. Erasure and
export are driven by it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal

import msgspec

from sectionfour.errors import SettingsError

Erasure = Literal["delete", "shred", "anonymise", "retain", "none"]
#: What a column may hold of a person.
Names = Literal["subject", "event", "assessment", "turn", "case"]
KINDS = ("ledger", "vault", "persons", "velocity", "file", "models", "memory", "elsewhere")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """One place. The fields are the keys of the file, which says what each means."""

    place: str
    holds: str
    personal: bool
    erasure: Erasure
    retention: str
    person: dict[Names, str] = field(default_factory=dict)
    becomes: dict[str, str] = field(default_factory=dict)
    entry: dict[str, str] = field(default_factory=dict)
    law: str = ""
    keep_days: int = 0
    note: str = ""

    @property
    def kind(self) -> str:
        """What sort of place it is: "ledger", "velocity", "file" and so on."""
        return self.place.replace(":", ".", 1).partition(".")[0]

    @property
    def name(self) -> str:
        """The table, key space or glob, without its kind."""
        return self.place[len(self.kind) + 1 :]


@dataclass(frozen=True, slots=True)
class Inventory:
    """All places, in the order of the file, and the retention classes in words."""

    places: tuple[Kept, ...]
    classes: Mapping[str, str]

    def of(self, kind: str) -> tuple[Kept, ...]:
        """Return the places of one kind: "ledger", "velocity" and so on."""
        return tuple(kept for kept in self.places if kept.kind == kind)

    def __getitem__(self, place: str) -> Kept:
        return next(kept for kept in self.places if kept.place == place)


@cache
def load() -> Inventory:
    """Return the inventory that comes with the package."""
    data = resources.files("sectionfour.privacy").joinpath("inventory.toml").read_bytes()
    return assemble(tomllib.loads(data.decode()))


def assemble(file: Mapping[str, Any]) -> Inventory:
    """Return the inventory that the tables of a file make; SettingsError where it does not hold."""
    try:
        places = msgspec.convert(file["kept"], tuple[Kept, ...])
    except (KeyError, msgspec.ValidationError) as error:
        raise SettingsError(f"inventory.toml: {error}") from error
    classes: dict[str, str] = file.get("classes", {})
    seen: set[str] = set()
    for kept in places:
        for fault in _faults(kept, classes):
            raise SettingsError(f"inventory.toml: {kept.place} {fault}")
        if kept.place in seen:
            raise SettingsError(f"inventory.toml: {kept.place} is named twice")
        seen.add(kept.place)
    return Inventory(places, classes)


def _faults(kept: Kept, classes: Mapping[str, str]) -> list[str]:
    wrong = {
        f"is of no kind among {', '.join(KINDS)}": kept.kind not in KINDS,
        f"has no retention class of the file: {kept.retention}": kept.retention not in classes,
        "erases what is nobody's": not kept.personal and kept.erasure != "none",
        "says neither what erasure does nor why nothing": (
            kept.personal and kept.erasure == "none" and not (kept.note or kept.kind == "elsewhere")
        ),
        "is retained without a law and an end": (
            (kept.erasure == "retain") != bool(kept.law and kept.keep_days)
        ),
        "deletes rows without saying whose": (
            kept.kind == "ledger" and kept.erasure == "delete" and not kept.person
        ),
        "changes columns without anonymising": bool(kept.becomes) and kept.erasure != "anonymise",
    }
    return [fault for fault, found in wrong.items() if found]
