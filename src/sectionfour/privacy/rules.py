"""One frozen value for each table of `regime.toml`: how it is read, and what contradicts what.

A field that is not computed is a key that the file must have. Nothing is filled in or guessed: each
fault is a RegimeError that names the key. What the tables mean together is in `regime.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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

#: The operator is not a news organisation, whatever the file says.
NEWS_REPORTING = 9
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
        elif value == "":
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


# --- contradictions: the key at fault, and why -----------------------------------------------

Faults = Iterator[tuple[str, str]]


def in_umbrella(umbrella: Umbrella, purposes: Mapping[str, PurposeRule]) -> Faults:
    for key in umbrella.stands_for:
        if not purposes[key].section_four:
            yield "stands_for", f"{key!r} is not of section Four"


def in_purpose(rule: PurposeRule) -> Faults:
    for key in ("scores", "trains", "guest_categories"):
        if getattr(rule, key) and not rule.section_four:
            yield key, "only a purpose of section Four may have it"
    if not rule.dpv.startswith("dpv:"):
        yield "dpv", "a term of the vocabulary is written dpv:Term"
    if rule.scores and rule.trains:
        yield "scores", "a purpose trains or scores, not both"
    for key in ("requires", "guest_categories"):
        for category in getattr(rule, key):
            if rule.admits[category] != "yes":
                yield key, f"{category!r} is {rule.admits[category]!r} for this purpose"


def in_category(
    rule: CategoryRule,
    categories: Mapping[str, CategoryRule],
    purposes: Mapping[str, PurposeRule],
) -> Faults:
    if rule.sensitive and rule.security in ("yes", "named"):
        yield "security", f"{rule.security!r} is too little for what is sensitive"
    if rule.part_of is not None:
        whole = categories.get(rule.part_of)
        if whole is None or whole.part_of is not None:
            yield "part_of", f"{rule.part_of!r} is not a category that has parts"
    if not rule.collected_for:
        yield "collected_for", "no purpose is named"
    if rule.types and rule.security != "explicit":
        yield "types", "only what needs an explicit consent has one for each type"
    for key in rule.collected_for:
        if rule.security == "denied" and purposes[key].section_four:
            yield "collected_for", f"is denied for security, yet collected for {key!r}"


def in_refusal(rule: CategoryRule | SourceRule, services: Mapping[str, ServiceRule]) -> Faults:
    identity = isinstance(rule, CategoryRule) and rule.security == "explicit"
    for key in rule.withholds:
        if key in rule.never_affects:
            yield "never_affects", f"{key!r} is under withholds too"
        may = services[key].may_be_withheld
        if may != ("for_identity" if identity else "for_own_data"):
            yield "withholds", f"services.{key}.may_be_withheld is {may!r}"


def in_service(rule: ServiceRule, file: Mapping[str, Any]) -> Faults:
    """A service belongs to somebody's list by name, or nothing is said of it."""
    side = "never_affects" if rule.may_be_withheld == "never" else "withholds"
    rows = (*file["categories"].values(), *file["sources"].values())
    if not any(rule.key in row[side] for row in rows):
        yield "may_be_withheld", f"no category and no source lists it under {side}"


def in_exception(rule: ExceptionRule) -> Faults:
    if rule.number == NEWS_REPORTING and not rule.never:
        yield "never", "the operator is not a news organisation"
    for key in ("documents", "categories", "purposes", "sources", "operations", "max_life_days"):
        if rule.never and getattr(rule, key):
            yield key, "this exception is never granted"
        if not rule.never and not getattr(rule, key):
            yield key, "without it nothing could be granted"
    if rule.max_life_days < 0:
        yield "max_life_days", "is less than nothing"
    if bool(rule.approvers) == (rule.never or rule.auto):
        yield "approvers", "somebody approves, unless it is never granted or arises by itself"
    if (rule.routine_scoring != "no") != rule.live_score:
        yield "routine_scoring", "does not agree with 'score' under operations"
    if rule.routine_scoring == "if_memo" and LEGAL_MEMO not in rule.documents:
        yield "documents", f"'if_memo' needs {LEGAL_MEMO!r} among them"
    for key in rule.hashed + ((rule.ends_with,) if rule.ends_with else ()):
        if key not in rule.documents:
            yield "documents", f"{key!r} is spoken of, and not asked for"
    if rule.review_days < 0:
        yield "review_days", "is less than nothing"
    if bool(rule.ratifiers) != (rule.ratify_within_hours > 0):
        yield "ratify_within_hours", "does not agree with ratifiers"


def in_contract(rule: ExceptionRule, purposes: Mapping[str, PurposeRule]) -> Faults:
    """Faults of the exception that arises from the order itself."""
    if rule.bound_to != "order" or rule.routine_scoring != "order":
        yield "bound_to", "what arises from an order holds for that order, in routine_scoring too"
    for purpose in rule.purposes:
        for category in rule.categories:
            if purposes[purpose].admits[category] != "yes":
                yield "categories", f"{category!r} is not simply admitted for {purpose!r}"


def in_models(purposes: Mapping[str, PurposeRule]) -> Faults:
    for model in get_args(Model):
        if all(rule.scores != model for rule in purposes.values()):
            yield "purposes", f"none scores with the {model!r} model"
