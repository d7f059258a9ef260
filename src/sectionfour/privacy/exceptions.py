"""Grants under section Six as values, and the rules that all eleven exceptions share.

A grant is asked for by one key, approved by others, holds for a scope and a time, and is metered.
No clock, no store: the caller hands in the instant and the number of uses, and keeps what comes
back. Instants are microseconds since the epoch, UTC. Recording a use, and counting it without a
race, is the ledger's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

from sectionfour.errors import BadRequest, Conflict, Forbidden
from sectionfour.privacy.regime import ExceptionRule, Regime
from sectionfour.privacy.rules import LEGAL_MEMO, OPERATIONS

HOUR = 3_600_000_000
DAY = 24 * HOUR
_HEX = frozenset("0123456789abcdef")

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
    """A grant at one moment of its life: made by `requested`, changed by `approve` and `revoke`.

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


# --- a grant's life --------------------------------------------------------------------------


def requested(
    regime: Regime,
    *,
    grant_id: str,
    exception: int,
    documents: Iterable[Document],
    necessity: str,
    scope: Scope,
    not_before: int,
    expires_at: int,
    max_uses: int,
    by: str,
    at: int,
    sealed: bool = False,
    controller_type: str = "marketplace",
    consent_attempts: Iterable[Attempt] = (),
    consent_impossible: str | None = None,
) -> Grant:
    """Return a grant that waits for approval by another key than `by`.

    Raises BadRequest, with a pointer, for what cannot be asked; Conflict for the exception that
    is not applicable at all. Asking for more than the exception can give is not refused: `covers`
    never gives it, and `in_vain` says so.
    """
    rule = regime.exception(exception)
    if rule.never:
        raise Conflict(
            f"not_applicable: exception {rule.number} ({rule.title.lower()}) is never granted here",
            pointer="/exception",
        )
    if controller_type not in rule.controllers:
        raise Conflict(
            f"not_applicable: exception {rule.number} is for a {' or '.join(rule.controllers)}",
            pointer="/controller_type",
        )
    documents = tuple(documents)
    _check_documents(documents, rule)
    attempts = tuple(consent_attempts)
    if rule.asks_first and not attempts and not (consent_impossible or "").strip():
        raise BadRequest(
            "list an attempt to get the person's consent, or say in consent_impossible why there"
            " could be none",
            pointer="/consent_attempts",
        )
    if any(attempt.at > at for attempt in attempts):
        raise BadRequest("an attempt lies before now", pointer="/consent_attempts")
    if not necessity.strip():
        raise BadRequest("say why it is necessary", pointer="/necessity")
    if expires_at <= max(not_before, at):
        raise BadRequest("a grant ends after it starts, and after now", pointer="/expires_at")
    stated = [d.valid_until for d in documents if d.kind == rule.ends_with and d.valid_until]
    if stated and expires_at > min(stated):
        raise BadRequest("a grant ends with what it rests on", pointer="/expires_at")
    if not stated and expires_at - not_before > rule.max_life_days * DAY:
        raise BadRequest(
            f"exception {rule.number} holds for at most {rule.max_life_days} days",
            pointer="/expires_at",
        )
    if max_uses < 1:
        raise BadRequest("a grant is for at least one use", pointer="/max_uses")
    if sealed and not rule.sealed_possible:
        raise BadRequest(f"exception {rule.number} cannot be sealed", pointer="/sealed")
    if not by:
        raise BadRequest("a grant is asked for by a key", pointer="/requested_by")
    return Grant(
        grant_id=grant_id,
        exception=rule.number,
        documents=documents,
        necessity=necessity,
        scope=_checked(regime, scope),
        not_before=not_before,
        expires_at=expires_at,
        max_uses=max_uses,
        requested_by=by,
        requested_at=at,
        sealed=sealed,
        controller_type=controller_type,
        consent_attempts=attempts,
        consent_impossible=consent_impossible,
    )


def approve(
    grant: Grant, rule: ExceptionRule, *, by: str, at: int, office: str | None = None
) -> Grant:
    """Return the grant with one approval more; live once every office that must has approved.

    On a live grant that wants ratifying it is the ratification. `office` is that of the key. Raises
    Conflict where the key may not approve this grant, Forbidden where its office is not one that is
    still asked, and Conflict where nothing is left to approve.
    """
    _same_exception(grant, rule)
    now = standing(grant, rule, at)
    ratifies = now == "live" and bool(rule.ratifiers) and not _ratified(grant, rule)
    if now != "requested" and not ratifies:
        raise Conflict(f"the grant is {now}: there is nothing to approve")
    if not by or by == grant.requested_by:
        raise Conflict("a grant is approved by another key than the one that asked for it")
    if by in grant.approved_by:
        raise Conflict("this key has approved already; another one is needed")
    asked = [o for o in (rule.ratifiers if ratifies else rule.approvers) if o not in grant.offices]
    if asked and office not in asked:
        raise Forbidden(f"approval is asked of the {' and the '.join(asked)}, by a key of theirs")
    grant = replace(grant, approved_by=(*grant.approved_by, by), offices=(*grant.offices, office))
    if ratifies or len(grant.approved_by) < rule.approvals:
        return grant
    return replace(grant, state="live", live_at=at)


def review(grant: Grant, rule: ExceptionRule, *, by: str, at: int, office: str | None) -> Grant:
    """Return the grant, found still needed: it covers for another `review_days`."""
    now = standing(grant, rule, at)
    if not rule.review_days or now not in ("live", "review_overdue"):
        raise Conflict(f"the grant is {now}: there is nothing to review")
    _one_of_the_approvers(grant, rule, by, office)
    return replace(grant, reviewed_by=by, reviewed_at=at)


def unseal(grant: Grant, rule: ExceptionRule, *, by: str, at: int, office: str | None) -> Grant:
    """Return the grant with its seal lifted: from now on the person sees it, and its uses.

    Apart from revoking: a seal may outlive its grant, and a grant its seal.
    """
    if not grant.sealed or grant.unsealed_at is not None:
        raise Conflict("the grant bears no seal")
    _one_of_the_approvers(grant, rule, by, office)
    return replace(grant, unsealed_by=by, unsealed_at=at)


def _one_of_the_approvers(grant: Grant, rule: ExceptionRule, by: str, office: str | None) -> None:
    if not by or by == grant.requested_by:
        raise Conflict("this is for another key than the one that asked for the grant")
    if rule.approvers and office not in rule.approvers:
        raise Forbidden(f"this is for the {' or the '.join(rule.approvers)}, by a key of theirs")


def hidden(grant: Grant) -> bool:
    """Whether the person is not shown the grant and its uses yet (R-36)."""
    return grant.sealed and grant.unsealed_at is None


def review_due(grant: Grant, rule: ExceptionRule) -> int | None:
    """Return when a live grant covers nothing any more unless it is reviewed."""
    since = grant.reviewed_at or grant.live_at
    return None if since is None or not rule.review_days else since + rule.review_days * DAY


def revoke(grant: Grant, *, by: str, at: int) -> Grant:
    """Return the grant ended from `at` on. Any key may, the requester's too; Conflict if it was."""
    if grant.state == "revoked":
        raise Conflict("the grant is revoked already")
    return replace(grant, state="revoked", revoked_by=by, revoked_at=at)


def standing(grant: Grant, rule: ExceptionRule, at: int) -> Standing:
    """Return where the grant stands at `at`, time and ratification counted in."""
    if grant.state == "revoked":
        return "revoked"
    if at >= grant.expires_at:
        return "expired"
    if grant.live_at is None:
        return "requested"
    due = grant.live_at + rule.ratify_within_hours * HOUR
    if rule.ratifiers and at >= due and not _ratified(grant, rule):
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


def _ratified(grant: Grant, rule: ExceptionRule) -> bool:
    return all(office in grant.offices for office in rule.ratifiers)


def _kind(source: str) -> str:
    return source.partition(":")[0]


def _same_exception(grant: Grant, rule: ExceptionRule) -> None:
    if grant.exception != rule.number:
        raise ValueError(f"a grant of exception {grant.exception} under rule {rule.number}")


def _check_documents(documents: tuple[Document, ...], rule: ExceptionRule) -> None:
    given = {document.kind for document in documents}
    missing = [kind for kind in rule.documents if kind not in given]
    if missing:
        raise BadRequest(
            f"exception {rule.number} asks for documents of all these kinds, and here are none of:"
            f" {', '.join(missing)}",
            pointer="/documents",
        )
    for place, document in enumerate(documents):
        for key in ("kind", "ref"):
            if not getattr(document, key).strip():
                raise BadRequest(f"a document has a {key}", pointer=f"/documents/{place}/{key}")
        digest = document.sha256
        if digest is not None and (len(digest) != 64 or not _HEX.issuperset(digest)):
            raise BadRequest(
                "sha256 is 64 hexadecimal digits in lower case",
                pointer=f"/documents/{place}/sha256",
            )
        if document.kind in rule.hashed and digest is None:
            raise BadRequest(
                "this document is given with its digest", pointer=f"/documents/{place}/sha256"
            )


def _checked(regime: Regime, scope: Scope) -> Scope:
    """Return the scope with the umbrella purpose spelt out, or raise BadRequest."""
    if not scope.members and not scope.order:
        raise BadRequest("a grant is for named members or for one order", pointer="/scope")
    for key in ("categories", "purposes", "operations", "sources"):
        if not getattr(scope, key):
            raise BadRequest("an empty list would cover nothing", pointer=f"/scope/{key}")
    for category in scope.categories:
        regime.category(category, pointer="/scope/categories")
    for operation in scope.operations:
        if operation not in OPERATIONS:
            raise BadRequest(
                f"an operation must be one of {', '.join(OPERATIONS)}",
                pointer="/scope/operations",
            )
    for source in scope.sources:
        regime.source(source, pointer="/scope/sources")
    purposes = (regime.stands_for(name, pointer="/scope/purposes") for name in scope.purposes)
    return replace(scope, purposes=frozenset(chain.from_iterable(purposes)))
