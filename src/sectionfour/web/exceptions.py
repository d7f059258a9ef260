"""Grants under section Six: asked for by one key, approved by others, revoked by any.

The rules are in `privacy.granting`. Members and orders become tokens here, and of the documents
the log gets kinds and digests alone.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Literal

from flask import Response
from msgspec import Meta, Struct

from sectionfour.domain import Leaf, instant_or_none, micros
from sectionfour.errors import NotFound
from sectionfour.given import Identifier, Instant, Raw, Text
from sectionfour.parts import Parts
from sectionfour.privacy import entries, exceptions, granting
from sectionfour.privacy.exceptions import Attempt, Document, Grant, Scope
from sectionfour.web import body
from sectionfour.web.keys import Caller
from sectionfour.web.routes import Route, Service, answer
from sectionfour.web.schemas import Digest, Key, Keys, Long, Warned


class DocumentBody(Raw, frozen=True, kw_only=True):
    kind: Key
    ref: Identifier
    sha256: Digest | None = None
    issued_by: Text | None = None
    issued_at: Instant | None = None
    valid_until: Instant | None = None
    permits: Annotated[tuple[Key, ...], Meta(max_length=8)] = ()


class AttemptBody(Raw, frozen=True, kw_only=True):
    """An attempt to get the person's consent, and what came of it."""

    at: Instant
    channel: Literal["sms", "call", "mail", "app", "post", "in_person"]
    result: Literal["no_answer", "unreachable", "unable"]


class ScopeBody(Raw, frozen=True, kw_only=True):
    categories: Keys
    purposes: Keys
    operations: Keys
    sources: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=160)], ...],
        Meta(min_length=1, max_length=64),
    ]
    members: Annotated[tuple[Identifier, ...], Meta(max_length=1000)] = ()
    order_id: Identifier | None = None


class ExceptionBody(Raw, frozen=True, kw_only=True):
    exception: Annotated[int, Meta(ge=1, le=11)]
    documents: Annotated[tuple[DocumentBody, ...], Meta(max_length=64)]
    necessity: Long
    scope: ScopeBody
    expires_at: Instant
    max_uses: Annotated[int, Meta(ge=1, le=1_000_000)]
    not_before: Instant | None = None
    sealed: bool = False
    controller_type: Key = "marketplace"
    consent_attempts: Annotated[tuple[AttemptBody, ...], Meta(max_length=64)] = ()
    consent_impossible: Long | None = None


class GrantAsked(Struct):
    grant_id: str
    state: str
    approvals_needed: int
    warnings: list[Warned]


class GrantNow(Struct):
    """`approvals_asked`: the offices that have yet to approve or ratify."""

    grant_id: str
    state: str
    approvals: int
    approvals_asked: list[str]
    review_due: str | None
    sealed: bool


def ask_exception(service: Service, who: Caller) -> Response:
    """Ask for an exception of section Six: documents, necessity, scope, an end, a limit on uses.

    It holds only once other keys have approved it. Asking for more than the exception can give is
    warned of.
    """
    given, _, warnings = body.read(ExceptionBody)
    parts, at = service.parts, service.parts.clock()
    scope = given.scope
    grant = granting.requested(
        parts.regime,
        grant_id=f"xg_{secrets.token_hex(12)}",
        exception=given.exception,
        documents=[
            Document(
                kind=d.kind,
                ref=d.ref,
                sha256=d.sha256,
                issued_by=d.issued_by,
                issued_at=None if d.issued_at is None else micros(d.issued_at),
                valid_until=None if d.valid_until is None else micros(d.valid_until),
                permits=d.permits,
            )
            for d in given.documents
        ],
        necessity=given.necessity,
        scope=Scope(
            categories=frozenset(scope.categories),
            purposes=frozenset(scope.purposes),
            operations=frozenset(scope.operations),
            sources=frozenset(scope.sources),
            # Who they are is looked up once all else is found right: that enrols.
            members=frozenset(name.encode() for name in scope.members),
            order=None if scope.order_id is None else parts.keys.order(scope.order_id),
        ),
        not_before=at if given.not_before is None else micros(given.not_before),
        expires_at=micros(given.expires_at),
        max_uses=given.max_uses,
        by=who.key_id,
        at=at,
        sealed=given.sealed,
        controller_type=given.controller_type,
        consent_attempts=[
            Attempt(at=micros(a.at), channel=a.channel, result=a.result)
            for a in given.consent_attempts
        ],
        consent_impossible=given.consent_impossible,
    )
    members = {parts.keys.subject(name, enrol=True) for name in scope.members}
    known = frozenset(member for member in members if member is not None)
    grant = replace(grant, scope=replace(grant.scope, members=known))
    parts.ledger.put_grant(grant, entries.grant(parts.keys, grant, "requested", at))
    rule = parts.regime.exception(grant.exception)
    warnings += [
        {"code": "in_vain", "input_pointer": pointer, "warning": text}
        for pointer, text in exceptions.in_vain(grant, rule)
    ]
    said = {"grant_id": grant.grant_id, "state": grant.state, "approvals_needed": rule.approvals}
    return answer(said | {"warnings": warnings}, 201)


def approve_exception(service: Service, who: Caller, grant_id: str) -> Response:
    """Approve a grant, by another key than the one that asked, of an office that is asked.

    Live once every office has; on a live grant that wants it, this is the ratification.
    """
    return _done(service, who, grant_id, granting.approve, "approved")


def review_exception(service: Service, who: Caller, grant_id: str) -> Response:
    """Say that a live grant is still needed, by an office that approves such: until the next."""
    return _done(service, who, grant_id, granting.review, "reviewed")


def unseal_exception(service: Service, who: Caller, grant_id: str) -> Response:
    """Lift the seal of a grant: from now on the person sees it and each use of it."""
    return _done(service, who, grant_id, granting.unseal, "unsealed")


def _done(
    service: Service, who: Caller, grant_id: str, what: Callable[..., Grant], action: str
) -> Response:
    parts, at = service.parts, service.parts.clock()
    office = parts.ledger.office(who.key_id)

    def change(grant: Grant) -> tuple[Grant, Leaf]:
        rule = parts.regime.exception(grant.exception)
        grant = what(grant, rule, by=who.key_id, at=at, office=office)
        return grant, entries.grant(parts.keys, grant, action, at)

    return _said(parts, parts.ledger.change_grant(grant_id, change), at)


def revoke_exception(service: Service, who: Caller, grant_id: str) -> Response:
    """End a grant, from the next call on. Any key of the role may."""
    parts, at = service.parts, service.parts.clock()

    def revoked(grant: Grant) -> tuple[Grant, Leaf]:
        grant = granting.revoke(grant, by=who.key_id, at=at)
        return grant, entries.grant(parts.keys, grant, "revoked", at)

    return _said(parts, parts.ledger.change_grant(grant_id, revoked), at)


def _said(parts: Parts, grant: Grant | None, at: int) -> Response:
    if grant is None:
        raise NotFound("there is no grant of this id")
    rule = parts.regime.exception(grant.exception)
    due = exceptions.review_due(grant, rule)
    return answer(
        {
            "grant_id": grant.grant_id,
            "state": exceptions.standing(grant, rule, at),
            "approvals": len(grant.approved_by),
            "approvals_asked": [
                o for o in rule.approvers + rule.ratifiers if o not in grant.offices
            ],
            "review_due": instant_or_none(due),
            "sealed": exceptions.hidden(grant),
        }
    )


ROUTES = (
    Route(
        method="POST",
        path="/v1/exceptions",
        handle=ask_exception,
        tag="Exceptions",
        roles=("privacy",),
        body=ExceptionBody,
        answers={201: GrantAsked},
        problems=(409,),
    ),
    Route(
        method="POST",
        path="/v1/exceptions/{grant_id}/approve",
        handle=approve_exception,
        tag="Exceptions",
        roles=("privacy",),
        answers={200: GrantNow},
        problems=(409,),
    ),
    Route(
        method="POST",
        path="/v1/exceptions/{grant_id}/review",
        handle=review_exception,
        tag="Exceptions",
        roles=("privacy",),
        answers={200: GrantNow},
        problems=(409,),
    ),
    Route(
        method="POST",
        path="/v1/exceptions/{grant_id}/unseal",
        handle=unseal_exception,
        tag="Exceptions",
        roles=("privacy",),
        answers={200: GrantNow},
        problems=(409,),
    ),
    Route(
        method="POST",
        path="/v1/exceptions/{grant_id}/revoke",
        handle=revoke_exception,
        stays=True,
        tag="Exceptions",
        roles=("privacy",),
        answers={200: GrantNow},
        problems=(409,),
    ),
)
