"""The life of a grant: asked for by one key, approved by others, ratified, reviewed, revoked.

Each step is a function from a grant to the grant after it, or an error that says why not. No clock,
no store: the caller hands in the instant and keeps what comes back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import chain

from sectionfour.domain import DAY
from sectionfour.errors import BadRequest, Conflict, Forbidden
from sectionfour.privacy.exceptions import Attempt, Document, Grant, Scope, ratified, standing
from sectionfour.privacy.regime import Regime
from sectionfour.privacy.tables import OPERATIONS, ExceptionRule

_HEX = frozenset("0123456789abcdef")


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
    ratifies = now == "live" and bool(rule.ratifiers) and not ratified(grant, rule)
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
    """Return the grant, found still needed: it covers for another `review_days`.

    Raises Conflict where there is nothing to review, or for the key that asked for the grant;
    Forbidden where `office`, that of the key, is not one that approves such a grant.
    """
    now = standing(grant, rule, at)
    if not rule.review_days or now not in ("live", "review_overdue"):
        raise Conflict(f"the grant is {now}: there is nothing to review")
    _one_of_the_approvers(grant, rule, by, office)
    return replace(grant, reviewed_by=by, reviewed_at=at)


def unseal(grant: Grant, rule: ExceptionRule, *, by: str, at: int, office: str | None) -> Grant:
    """Return the grant with its seal lifted: from now on the person sees it, and its uses.

    Apart from revoking: a seal may outlive its grant, and a grant its seal. Raises Conflict where
    there is no seal, or for the key that asked for the grant; Forbidden as `review` does.
    """
    if not grant.sealed or grant.unsealed_at is not None:
        raise Conflict("the grant bears no seal")
    _one_of_the_approvers(grant, rule, by, office)
    return replace(grant, unsealed_by=by, unsealed_at=at)


def revoke(grant: Grant, *, by: str, at: int) -> Grant:
    """Return the grant ended from `at` on. Any key may, the requester's too; Conflict if it was."""
    if grant.state == "revoked":
        raise Conflict("the grant is revoked already")
    return replace(grant, state="revoked", revoked_by=by, revoked_at=at)


def _one_of_the_approvers(grant: Grant, rule: ExceptionRule, by: str, office: str | None) -> None:
    if not by or by == grant.requested_by:
        raise Conflict("this is for another key than the one that asked for the grant")
    if rule.approvers and office not in rule.approvers:
        raise Forbidden(f"this is for the {' or the '.join(rule.approvers)}, by a key of theirs")


def _same_exception(grant: Grant, rule: ExceptionRule) -> None:
    if grant.exception != rule.number:
        raise ValueError(f"a grant of exception {grant.exception} under rule {rule.number}")
