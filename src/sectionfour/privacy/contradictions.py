"""What contradicts what in `regime.toml`, whoever reads it: each fault is a key, and why.

What a deployer's counsel may read otherwise is not judged here; only what cannot be meant, by the
file itself or by what the service is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from sectionfour.domain import MODELS
from sectionfour.privacy.reading import Names
from sectionfour.privacy.tables import (
    LEGAL_MEMO,
    CategoryRule,
    ExceptionRule,
    PurposeRule,
    ServiceRule,
    SourceRule,
    Umbrella,
)

#: The operator is not a news organisation, whatever the file says.
NEWS_REPORTING = 9
#: Where data is from of which nothing else is said.
FIRST_PARTY = "first_party"
#: What a grant must be tied to, for scores to rest on it in this way; on one of research none may.
SCORES_BOUND_TO = {
    "incident": ("incident",),
    "source_tag": ("attributes",),
    "order": ("order",),
    "if_memo": ("citation",),
}

#: In the order of their bits in what is stored. A file may add others, after these.
CATEGORIES = (
    "member.required", "member.optional", "identity.document", "biometric.face", "credit.realname",
    "order", "consignee", "payment", "device", "location", "location.gps", "log", "communication",
    "indirect.counterparty", "profile.tag", "derived.risk", "location.wifi", "location.bluetooth",
    "location.base_station",
)  # fmt: skip
#: What code speaks of by name.
SPOKEN_OF = {
    "purposes": (
        "security.account_risk", "security.transaction_risk", "security.incident_detection",
        "security.record_audit_analyse",
    ),
    "sources": (FIRST_PARTY, "public"),
}  # fmt: skip

Faults = Iterator[tuple[str, str]]


def in_lists(names: Names) -> Faults:
    """Faults of the closed lists themselves."""
    for key, listed in names.items():
        if not listed:
            yield key, "is empty"
        for name in SPOKEN_OF.get(key, ()):
            if name not in listed:
                yield key, f"lacks {name!r}, which code speaks of"
    for name in set(names["categories"]).intersection(names["sources"]):
        yield "sources", f"{name!r} is a category"  # a refusal names either
    if names["categories"][: len(CATEGORIES)] != CATEGORIES:
        first = ", ".join(CATEGORIES)
        yield "categories", f"a place is a bit in what is stored: {first}; others come after these"


def in_permissions(
    of_devices: Mapping[str, str | None],
    categories: Mapping[str, CategoryRule],
    listed: Collection[str],
) -> Faults:
    """Faults of the permissions: one mistyped would mask what it guards for everybody."""
    needed = [*of_devices.values(), *(rule.permission for rule in categories.values())]
    for name in needed:
        if name is not None and name not in listed:
            yield "permissions", f"lacks {name!r}, which something needs"
    for name in listed:
        if name not in needed:
            yield "permissions", f"nothing needs {name!r}"


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
    if (rule.scores or rule.trains) and not rule.requires:
        yield "requires", "what scores or trains cannot do without anything"
    for key in ("requires", "guest_categories"):
        for category in getattr(rule, key):
            if rule.admits[category] != "yes":
                yield key, f"{category!r} is {rule.admits[category]!r} for this purpose"


def in_guests(
    rule: PurposeRule, categories: Mapping[str, CategoryRule], contract: ExceptionRule
) -> Faults:
    """Faults of what a guest may bring: it needs no basis, for it is nobody's."""
    for key in rule.guest_categories:
        if key in rule.requires or key in contract.categories:
            yield "guest_categories", f"{key!r} is a member's, or an order's"
        if categories[key].third_person:
            yield "guest_categories", f"{key!r} may be about a third person"


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
    if rule.security == "explicit" and not rule.result_only:
        yield "result_only", "of what needs an explicit consent nothing but the result is taken in"
    if rule.types and rule.security != "explicit":
        yield "types", "only what needs an explicit consent has one for each type"
    for key in rule.collected_for:
        if rule.security == "denied" and purposes[key].section_four:
            yield "collected_for", f"is denied for security, yet collected for {key!r}"
        if rule.own_result and not purposes[key].section_four:
            yield "collected_for", f"made for security, it serves nothing else, not {key!r} either"


def in_source(rule: SourceRule) -> Faults:
    """Faults of one source by itself: what it brings, what for, and on what grounds."""
    for key in ("brings", "serves"):
        if not getattr(rule, key):
            yield key, "nothing is named"
    if rule.key == FIRST_PARTY and rule.grounds:
        yield "grounds", "nobody else shares what the member gives"


def in_sources(sources: Mapping[str, SourceRule], categories: Mapping[str, CategoryRule]) -> Faults:
    """Faults of all sources together: each category comes from somewhere."""
    for category in categories.values():
        bring = [source for source in sources.values() if category.key in source.brings]
        if not bring:
            yield "sources", f"none brings {category.key!r}"
        elif category.attested and not any(source.attestation for source in bring):
            yield "sources", f"none that brings {category.key!r} is attested"


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
    if not rule.controllers:
        yield "controllers", "nobody may rely on it"
    if rule.max_life_days < 0:
        yield "max_life_days", "is less than nothing"
    if bool(rule.approvers) == (rule.never or rule.auto):
        yield "approvers", "somebody approves, unless it is never granted or arises by itself"
    if (rule.routine_scoring != "no") != rule.live_score:
        yield "routine_scoring", "does not agree with 'score' under operations"
    if not rule.auto and rule.bound_to not in SCORES_BOUND_TO.get(
        rule.routine_scoring, (rule.bound_to,)
    ):
        yield "routine_scoring", f"{rule.routine_scoring!r} is not for what is bound otherwise"
    if rule.routine_scoring == "source_tag" and rule.sources != {"public"}:
        yield "sources", "'source_tag' is for data from the public source"
    if rule.routine_scoring == "if_memo" and LEGAL_MEMO not in rule.documents:
        yield "documents", f"'if_memo' needs {LEGAL_MEMO!r} among them"
    for key in rule.hashed + ((rule.ends_with,) if rule.ends_with else ()):
        if key not in rule.documents:
            yield "documents", f"{key!r} is spoken of, and not asked for"
    if rule.review_days < 0:
        yield "review_days", "is less than nothing"
    for office in set(rule.approvers).intersection(rule.ratifiers):
        yield "ratifiers", f"{office!r} has approved already"
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
    for model in MODELS:
        if all(rule.scores != model for rule in purposes.values()):
            yield "purposes", f"none scores with the {model!r} model"
