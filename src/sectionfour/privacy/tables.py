"""One frozen value for each table of `regime.toml`, which says what each key means.

A field that is not computed is a key that the file must have. What the tables mean together is in
`regime`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar, get_args

from sectionfour.domain import ModelName

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
#: The document in which a lawyer says what an exception permits.
LEGAL_MEMO = "legal_memo"


@dataclass(frozen=True, slots=True, kw_only=True)
class PurposeRule:
    """One purpose. `admits` gives, for each category of the regime, how far it may serve."""

    section: Section
    title: str
    scores: ModelName | None
    trains: bool
    requires: tuple[str, ...]
    guest_categories: tuple[str, ...]
    dpv: str
    id: str = ""
    admits: Mapping[str, Admission] = field(default_factory=dict)

    @property
    def section_four(self) -> bool:
        """Whether section Four lists it: keeping people safe."""
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
    """One service, and what of a no may cost it."""

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
        """Which of the exceptions of section Six it is."""
        return int(self.key)

    @property
    def approvals(self) -> int:
        """How many keys other than the requester's make a grant live; never fewer than one."""
        return max(1, len(self.approvers))

    @property
    def live_score(self) -> bool:
        """Whether a call may be scored under it."""
        return "score" in self.operations


@dataclass(frozen=True, slots=True, kw_only=True)
class Umbrella:
    """A name that a consent may use for several purposes of section Four at once."""

    name: str
    stands_for: tuple[str, ...]
    key: str = ""


Rule = TypeVar("Rule", PurposeRule, CategoryRule, SourceRule, ServiceRule, ExceptionRule, Umbrella)
