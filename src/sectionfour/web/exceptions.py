"""Grants under section Six: asked for by one key, approved by others, revoked by any.

The rules are in `privacy.exceptions`. Members and orders become tokens here, and of the documents
the log gets kinds and digests alone.
"""

from __future__ import annotations

import secrets
from dataclasses import replace

from flask import Response

from sectionfour.domain import Leaf, micros
from sectionfour.errors import NotFound
from sectionfour.parts import Parts
from sectionfour.privacy import entries, exceptions
from sectionfour.privacy.exceptions import Document, Grant, Scope
from sectionfour.web import body, schemas
from sectionfour.web.keys import Caller
from sectionfour.web.routes import Route, Service, answer


def ask_exception(service: Service, who: Caller) -> Response:
    """Ask for an exception of section Six: documents, necessity, scope, an end, a limit on uses.

    It holds only once other keys have approved it. Asking for more than the exception can give is
    warned of.
    """
    given, _, warnings = body.read(schemas.ExceptionBody)
    parts, at = service.parts, service.parts.clock()
    scope = given.scope
    grant = exceptions.requested(
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
    """Approve a grant, by another key than the one that asked; live once enough have."""
    parts, at = service.parts, service.parts.clock()

    def approved(grant: Grant) -> tuple[Grant, Leaf]:
        rule = parts.regime.exception(grant.exception)
        grant = exceptions.approve(grant, rule, by=who.key_id, at=at)
        return grant, entries.grant(parts.keys, grant, "approved", at)

    return _said(parts, parts.ledger.change_grant(grant_id, approved), at)


def revoke_exception(service: Service, who: Caller, grant_id: str) -> Response:
    """End a grant, from the next call on. Any key of the role may."""
    parts, at = service.parts, service.parts.clock()

    def revoked(grant: Grant) -> tuple[Grant, Leaf]:
        grant = exceptions.revoke(grant, by=who.key_id, at=at)
        return grant, entries.grant(parts.keys, grant, "revoked", at)

    return _said(parts, parts.ledger.change_grant(grant_id, revoked), at)


def _said(parts: Parts, grant: Grant | None, at: int) -> Response:
    if grant is None:
        raise NotFound("there is no grant of this id")
    state = exceptions.standing(grant, parts.regime.exception(grant.exception), at)
    return answer({"grant_id": grant.grant_id, "state": state, "approvals": len(grant.approved_by)})


ROUTES = (
    Route(
        method="POST",
        path="/v1/exceptions",
        handle=ask_exception,
        tag="Exceptions",
        roles=("privacy",),
        body=schemas.ExceptionBody,
        answers={201: schemas.GrantAsked},
    ),
    Route(
        method="POST",
        path="/v1/exceptions/{grant_id}/approve",
        handle=approve_exception,
        tag="Exceptions",
        roles=("privacy",),
        answers={200: schemas.GrantNow},
    ),
    Route(
        method="POST",
        path="/v1/exceptions/{grant_id}/revoke",
        handle=revoke_exception,
        stays=True,
        tag="Exceptions",
        roles=("privacy",),
        answers={200: schemas.GrantNow},
    ),
)
