"""Grants under section Six as values: where one stands, and what it covers, by the rule of its
exception.

A grant holds for a scope and a time, and is metered; how it comes to be is in `granting`. No clock,
no store: the caller hands in the instant and the number of uses. Instants are microseconds since
the epoch, UTC. Recording a use, and counting it without a race, is the ledger's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from sectionfour.domain import DAY, HOUR
from sectionfour.privacy.tables import LEGAL_MEMO, ExceptionRule

State = Literal["requested", "live", "revoked"]
#: Live, but the time is over, nobody ratified it in time, or a review is overdue.
Standing = Literal["requested", "live", "revoked", "expired", "lapsed", "review_overdue"]
#: What came of asking for consent. Who has said no was not hard to ask: there is no such result.
AttemptResult = Literal["no_answer", "unreachable", "unable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What was laid before the approvers: by reference and digest, never the text itself."""

    kind: str
    ref: str
    sha256: str | None = None
    issued_by: str | None = None
    issued_at: int | None = None
    valid_until: int | None = None
    permits: tuple[str, ...] = ()  # operations that it expressly permits; asked of a legal memo


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt to get the person's own consent, before an emergency went without."""

    at: int
    channel: str
    result: AttemptResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a grant is for: these members (subject tokens), this order, or both; never everyone."""

    categories: frozenset[str]
    purposes: frozenset[str]
    operations: frozenset[str]
    sources: frozenset[str]
    members: frozenset[bytes] = frozenset()
    order: bytes | None = None
    #: Those of `members` that were erased: what is left of them is the log's pseudonym.
    orphans: frozenset[bytes] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A grant at one moment of its life: `granting` makes and changes it.

    `live_at` is when the last approval that the rule needs was given; an approval after that is
    the ratification of an exception that wants one. `told` is a digest of what the approvers were
    told, once those words are gone with everybody whom the grant is for.
    """

    grant_id: str
    exception: int
    documents: tuple[Document, ...]
    necessity: str
    scope: Scope
    not_before: int
    expires_at: int
    max_uses: int
    requested_by: str
    requested_at: int
    sealed: bool = False
    controller_type: str = "marketplace"
    consent_attempts: tuple[Attempt, ...] = ()
    consent_impossible: str | None = None
    state: State = "requested"
    approved_by: tuple[str, ...] = ()
    offices: tuple[str | None, ...] = ()  # of the approvals, in the same order
    reviewed_by: str | None = None
    reviewed_at: int | None = None
    unsealed_by: str | None = None
    unsealed_at: int | None = None
    live_at: int | None = None
    revoked_by: str | None = None
    revoked_at: int | None = None
    told: str | None = None

    def wordless(self, told: str) -> Grant:
        """Return the grant without what may name somebody; `told` is a digest of that."""
        nameless = tuple(replace(document, ref="", issued_by=None) for document in self.documents)
        return replace(
            self, necessity="", consent_impossible=None, documents=nameless, told=self.told or told
        )


# --- where a grant stands --------------------------------------------------------------------


def hidden(grant: Grant) -> bool:
    """Whether the person is not shown the grant and its uses yet (R-36)."""
    return grant.sealed and grant.unsealed_at is None


def review_due(grant: Grant, rule: ExceptionRule) -> int | None:
    """Return when a live grant covers nothing any more unless it is reviewed."""
    since = grant.reviewed_at or grant.live_at
    return None if since is None or not rule.review_days else since + rule.review_days * DAY


def ratified(grant: Grant, rule: ExceptionRule) -> bool:
    """Whether every office that must ratify the grant has: of most exceptions, none."""
    return all(office in grant.offices for office in rule.ratifiers)


def standing(grant: Grant, rule: ExceptionRule, at: int) -> Standing:
    """Return where the grant stands at `at`, time and ratification counted in."""
    if grant.state == "revoked":
        return "revoked"
    if at >= grant.expires_at:
        return "expired"
    if grant.live_at is None:
        return "requested"
    due = grant.live_at + rule.ratify_within_hours * HOUR
    if rule.ratifiers and at >= due and not ratified(grant, rule):
        return "lapsed"
    review_by = review_due(grant, rule)
    if review_by is not None and at >= review_by:
        return "review_overdue"
    return "live"


# --- what a grant covers ---------------------------------------------------------------------


def covers(
    grant: Grant,
    rule: ExceptionRule,
    *,
    subject: bytes | None,
    order: bytes | None,
    category: str,
    purpose: str,
    operation: str,
    source: str,
    at: int,
    uses: int,
) -> bool:
    """Whether the grant is a basis for one use of one category; False wherever anything is open.

    `subject` and `order` are tokens, None for a guest and where there is no order; `source` is
    as the request names it ("partner:ID"); `uses` counts those recorded before this one.
    """
    scope = grant.scope
    return (
        grant.exception == rule.number
        and not rule.never
        and grant.live_at is not None
        and max(grant.live_at, grant.not_before) <= at
        and standing(grant, rule, at) == "live"
        and 0 <= uses < grant.max_uses
        and bool(scope.members or scope.order)
        and (not scope.members or subject in scope.members)
        and (scope.order is None or order == scope.order)
        and category in scope.categories
        and category in rule.categories
        and purpose in scope.purposes
        and purpose in rule.purposes
        and operation in scope.operations
        and operation in rule.operations
        and source in scope.sources
        and _kind(source) in rule.sources
        and (operation != "score" or _may_score(grant, rule, source))
    )


def in_vain(grant: Grant, rule: ExceptionRule) -> tuple[tuple[str, str], ...]:
    """Return (pointer, warning) for whatever the grant asks that it will never cover."""
    scope = grant.scope
    beyond = {
        "categories": scope.categories - rule.categories,
        "purposes": scope.purposes - rule.purposes,
        "operations": scope.operations - rule.operations,
        # the kind alone: a provider's name is the caller's, and is not repeated
        "sources": {_kind(source) for source in scope.sources} - rule.sources,
    }
    found = [
        (f"/scope/{key}", f"exception {rule.number} never covers {', '.join(sorted(names))}")
        for key, names in beyond.items()
        if names
    ]
    asks_for_scores = "score" in scope.operations & rule.operations
    if asks_for_scores and not any(_may_score(grant, rule, source) for source in scope.sources):
        found.append(("/scope/operations", _SCORES_ONLY[rule.routine_scoring]))
    return tuple(found)


_SCORES_ONLY = {
    "incident": "scores rest on it only for members that the scope names",
    "source_tag": "scores rest on it only for data from the public source",
    "order": "scores rest on it only for the order that the scope names",
    "if_memo": f"scores rest on it only where the {LEGAL_MEMO} permits score",
}


def _may_score(grant: Grant, rule: ExceptionRule, source: str) -> bool:
    """Whether a live score may rest on the grant: the column "for routine scoring?"."""
    match rule.routine_scoring:
        case "no":
            return False
        case "incident":  # the people of that incident, by name
            return bool(grant.scope.members)
        case "source_tag":
            return source == "public"
        case "order":
            return grant.scope.order is not None
        case "if_memo":
            return any(d.kind == LEGAL_MEMO and "score" in d.permits for d in grant.documents)


def _kind(source: str) -> str:
    return source.partition(":")[0]
