"""What contradicts what in `regime.toml`, once every table of it has been read.

Each function yields the faults of one table: the key, and why it cannot stand as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from sectionfour.privacy.rules import (
    LEGAL_MEMO,
    CategoryRule,
    ExceptionRule,
    Model,
    PurposeRule,
    ServiceRule,
    SourceRule,
    Umbrella,
)

#: The operator is not a news organisation, whatever the file says.
NEWS_REPORTING = 9

Faults = Iterator[tuple[str, str]]


def in_umbrella(umbrella: Umbrella, purposes: Mapping[str, PurposeRule]) -> Faults:
    """Faults of the name that stands for several purposes: all of them are of section Four."""
    for key in umbrella.stands_for:
        if not purposes[key].section_four:
            yield "stands_for", f"{key!r} is not of section Four"


def in_purpose(rule: PurposeRule) -> Faults:
    """Faults of a purpose; what it requires, and lets guests bring, has to be simply admitted."""
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
    """Faults of a category: of how it serves security, of what it is part of and collected for."""
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
    """Faults of what a no may cost: identity costs services for identity, own data those for it."""
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
    """Faults of one exception by itself."""
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
    """Faults of the whole: a model that no purpose scores with."""
    for model in get_args(Model):
        if all(rule.scores != model for rule in purposes.values()):
            yield "purposes", f"none scores with the {model!r} model"
