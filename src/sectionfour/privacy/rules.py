"""One frozen value for each table of `regime.toml`, and how it is read.

A field that is not computed is a key that the file must have. Nothing is filled in or guessed: each
fault is a RegimeError that names the key. What the tables mean together is in `regime.py`, what
cannot be meant in `contradictions.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar, get_args

import msgspec

from sectionfour.errors import RegimeError

Section = Literal["One", "Two", "Three", "Four", "Five", "Six"]
#: How far a category may serve a purpose: with any consent, only if named, only explicitly, not.
Admission = Literal["yes", "named", "explicit", "denied"]
BasisStep = Literal["explicit_consent", "consent", "contract", "exception"]
Why = Literal[
    "no_basis", "purpose_change", "no_permission", "no_attestation", "third_person", "default"
]
Operation = Literal["collect", "score", "train", "dispose", "export"]
OPERATIONS: tuple[str, ...] = get_args(Operation)
Ground = Literal["subject_authorised", "statutory"]
Model = Literal["transaction", "account"]
#: The document in which a lawyer says what an exception permits.
LEGAL_MEMO = "legal_memo"


@dataclass(frozen=True, slots=True, kw_only=True)
class PurposeRule:
    """One purpose. `admits` gives, for each category of the regime, how far it may serve."""

    section: Section
    title: str
    scores: Model | None
    trains: bool
    requires: tuple[str, ...]
    guest_categories: tuple[str, ...]
    dpv: str
    id: str = ""
    admits: Mapping[str, Admission] = field(default_factory=dict)

    @property
    def section_four(self) -> bool:
        return self.section == "Four"

    @property
    def guests_may(self) -> bool:
        """Whether a request without a member is accepted, for `guest_categories` alone."""
        return bool(self.guest_categories)


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryRule:
    """One category of data. `bit` marks it in stored masks; `contract`: on the minimal list."""

    section: Section
    title: str
    note: str | None
    sensitive: bool
    security: Admission
    permission: str | None
    third_person: bool
    result_only: bool
    attested: bool
    types: tuple[str, ...]
    part_of: str | None
    collected_for: tuple[str, ...]
    withholds: tuple[str, ...]
    never_affects: tuple[str, ...]
    key: str = ""
    bit: int = 0
    contract: bool = False

    @property
    def own_result(self) -> bool:
        """Whether it is made here, under section Four, and not collected: scores and labels."""
        return self.section == "Four" and self.security == "yes"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRule:
    """Where data may come from, what it may then be, and what it may serve."""

    sections: tuple[Section, ...]
    title: str
    grounds: tuple[Ground, ...]
    brings: tuple[str, ...]
    serves: tuple[str, ...]
    withholds: tuple[str, ...]
    never_affects: tuple[str, ...]
    key: str = ""

    @property
    def attestation(self) -> bool:
        """Whether someone must have attested the provider's right to share."""
        return bool(self.grounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRule:
    sections: tuple[Section, ...]
    title: str
    may_be_withheld: Literal["never", "for_identity", "for_own_data"]
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExceptionRule:
    """One exception of section Six; the collections are the widest that a grant can cover."""

    title: str
    law: str | None
    documents: tuple[str, ...]
    hashed: tuple[str, ...]
    ends_with: str | None
    review_days: int
    controllers: tuple[str, ...]
    asks_first: bool
    approvers: tuple[str, ...]
    ratifiers: tuple[str, ...]
    ratify_within_hours: int
    bound_to: Literal[
        "subjects",
        "incident",
        "attributes",
        "order",
        "service",
        "nothing",
        "extract",
        "citation",
    ]
    categories: frozenset[str]
    purposes: frozenset[str]
    sources: frozenset[str]
    operations: frozenset[Operation]
    max_life_days: int
    routine_scoring: Literal["no", "incident", "source_tag", "order", "if_memo"]
    sealed_possible: bool
    auto: bool
    never: bool
    key: str = ""

    @property
    def number(self) -> int:
        return int(self.key)

    @property
    def approvals(self) -> int:
        """How many keys other than the requester's make a grant live; never fewer than one."""
        return max(1, len(self.approvers))

    @property
    def live_score(self) -> bool:
        return "score" in self.operations

    @property
    def training_allowed(self) -> bool:
        return "train" in self.operations

    @property
    def disposal_allowed(self) -> bool:
        return "dispose" in self.operations


@dataclass(frozen=True, slots=True, kw_only=True)
class Umbrella:
    """A name that a consent may use for several purposes of section Four at once."""

    name: str
    stands_for: tuple[str, ...]
    key: str = ""


# --- from a table to a value -----------------------------------------------------------------

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
Rule = TypeVar("Rule", PurposeRule, CategoryRule, SourceRule, ServiceRule, ExceptionRule, Umbrella)
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

    `words` are the names that stand for several purposes.
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
    """Refuse a name too many and a name too few."""
    under = f"{where}." if where else ""
    for name in given:
        if name not in wanted:
            raise RegimeError(f"{under}{name}: unknown; there are {_listed(wanted)}")
    for name in wanted:
        if name not in given:
            raise RegimeError(f"{under}{name}: missing")


def no_name_twice(where: str, given: Sequence[str]) -> None:
    for place, name in enumerate(given):
        if name in given[:place]:
            raise RegimeError(f"{where}: {name!r} is there twice")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
