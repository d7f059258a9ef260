"""From a table of `regime.toml` to one of `tables`.

Nothing is filled in or guessed: each fault is a RegimeError that names the key.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import msgspec

from sectionfour.errors import RegimeError
from sectionfour.privacy.tables import Rule

#: What the names in a list under this key are names of.
NAMES_OF = {
    "stands_for": "purposes",
    "collected_for": "purposes",
    "serves": "purposes",
    "purposes": "purposes",
    "requires": "categories",
    "guest_categories": "categories",
    "brings": "categories",
    "categories": "categories",
    "sources": "sources",
    "controllers": "controllers",
    "withholds": "services",
    "never_affects": "services",
}

#: What the file may write where a name is due.
WORDS = frozenset({"none", "any", "everything_else"})

#: Fields that are not keys of the file.
COMPUTED = {"id", "key", "bit", "contract", "admits"}

#: The names that [lists] declares, by the table that describes them.
Names = Mapping[str, tuple[str, ...]]
T = TypeVar("T")


def read_all(
    kind: type[Rule], file: Mapping[str, Any], table: str, names: Names, words: Names
) -> dict[str, Rule]:
    """Return one rule for each of `names[table]`, in that order, from the table of that name."""
    rows = convert(dict[str, Any], file[table], table)
    same_names(table, rows, names[table])
    return {key: read(kind, rows[key], f"{table}.{key}", names, words) for key in names[table]}


def read(kind: type[Rule], row: Any, where: str, names: Names, words: Names) -> Rule:
    """Return `row` as a `kind`: "none" read as no value, lists of names checked and spelt out.

    `words` are the names that stand for several purposes. RegimeError says where what is wrong.
    """
    row = convert(dict[str, Any], row, where)
    same_names(where, row, [f.name for f in fields(kind) if f.name not in COMPUTED])
    for key, value in row.items():
        here = f"{where}.{key}"
        if value == "none":
            row[key] = None
        elif isinstance(value, str) and not value.strip():
            raise RegimeError(f"{here}: is empty; write 'none' where nothing is meant")
        elif isinstance(value, list):
            given = convert(list[str], value, here)
            no_name_twice(here, given)
            if (of := NAMES_OF.get(key)) is not None:
                meanings = _words(key, row, where, names, words)
                row[key] = _spelt_out(here, given, names[of], meanings)
    name = where.partition(".")[2]
    return convert(kind, row | {"id": name, "key": name}, where)


def _words(key: str, row: Mapping[str, Any], where: str, names: Names, words: Names) -> Names:
    """Return the words that stand for several names in the list under `key`."""
    of = NAMES_OF[key]
    if key == "never_affects":
        withheld = convert(list[str], row["withholds"], f"{where}.withholds")
        return {"everything_else": tuple(name for name in names[of] if name not in withheld)}
    if key == "withholds":
        return {}
    return {"any": names[of], **(words if of == "purposes" else {})}


def _spelt_out(where: str, given: list[str], names: tuple[str, ...], words: Names) -> list[str]:
    """Return the names that are meant by `given`, in the order of `names`."""
    meant: set[str] = set()
    for name in given:
        if name not in names and name not in words:
            raise RegimeError(f"{where}: unknown name {name!r}; there are {_listed(names)}")
        meant.update(words.get(name, (name,)))
    return [name for name in names if name in meant]


def read_plain(kind: type[T], table: Any, where: str, wanted: Collection[str]) -> dict[str, T]:
    """Return a table whose values are all of one `kind`, with exactly the keys that are wanted."""
    rows = convert(dict[str, Any], table, where)
    same_names(where, rows, wanted)
    return {key: convert(kind, rows[key], f"{where}.{key}") for key in wanted}


def convert(kind: type[T], value: Any, where: str) -> T:
    """Return `value` as a `kind`, or raise RegimeError with the place of what does not fit."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        # msgspec ends its message with the place: Expected `bool`, got `str` - at `$.sensitive`
        message, _, place = str(error).partition(" - at `$")
        raise RegimeError(f"{where}{place.rstrip('`')}: {message}") from error


def same_names(where: str, given: Collection[str], wanted: Collection[str]) -> None:
    """Refuse a name too many and a name too few, by RegimeError."""
    under = f"{where}." if where else ""
    for name in given:
        if name not in wanted:
            raise RegimeError(f"{under}{name}: unknown; there are {_listed(wanted)}")
    for name in wanted:
        if name not in given:
            raise RegimeError(f"{under}{name}: missing")


def no_name_twice(where: str, given: Sequence[str]) -> None:
    """Refuse a list that has a name twice, by RegimeError."""
    for place, name in enumerate(given):
        if name in given[:place]:
            raise RegimeError(f"{where}: {name!r} is there twice")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
