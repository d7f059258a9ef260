"""Attestations: that a source may share, and that a member has a consignee's authorisation.

Both hold from the next call on, on every worker, and end the same way: the gate reads the ledger at
each call that names one. The rules are in `privacy.attestations`.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Literal

from flask import Response
from msgspec import Meta, Struct
from msgspec.structs import replace

from sectionfour.domain import Leaf, instant, instant_or_none, micros
from sectionfour.errors import BadRequest, Conflict, NotFound
from sectionfour.given import Identifier, Instant, Raw, Text
from sectionfour.privacy import attestations, entries
from sectionfour.privacy.attestations import SourceAttestation, ThirdPerson
from sectionfour.privacy.tables import Ground
from sectionfour.web import body
from sectionfour.web.consents import CLOCK_SKEW
from sectionfour.web.keys import Caller
from sectionfour.web.routes import Route, Service, answer
from sectionfour.web.schemas import Digest, Key, Keys, Name, Warned


class AttestationBody(Raw, frozen=True, kw_only=True):
    """`provider` is the ID in "affiliate:ID" or "partner:ID", as requests and consents name it."""

    provider: Name
    provider_role: Key
    legal_ground: Ground
    evidence_sha256: Digest
    categories: Keys
    purposes: Keys
    expires_at: Instant
    citation: Text | None = None


class ThirdPersonBody(Raw, frozen=True, kw_only=True):
    """A member's word that whom an order is sent to has authorised it; the wording they saw."""

    member_id: Identifier
    order_id: Identifier
    wording_version: Name
    attested_at: Instant


class Attested(Struct):
    """`purposes` with the umbrella spelt out."""

    attestation_id: str
    state: Literal["live", "expired", "revoked"]
    source: str
    legal_ground: str
    citation: str | None
    evidence_sha256: str
    categories: list[str]
    purposes: list[str]
    verified_by: str
    verified_at: str
    expires_at: str
    revoked_at: str | None
    warnings: list[Warned] = []


class AttestationNow(Struct):
    attestation_id: str
    state: Annotated[str, Meta(description="live, expired or revoked")]


class ThirdPersonKept(Struct):
    attestation_id: str
    state: Literal["live"]
    warnings: list[Warned]


# --- sources


def attest_source(service: Service, who: Caller) -> Response:
    """Attest that an affiliate or a partner may share data: which, for what, on which ground.

    On the ground subject_authorised each member's consent to that source is needed besides; on the
    ground statutory, which cites the provision, sensitive data alone need it.
    """
    given, _, warnings = body.read(AttestationBody)
    parts, at = service.parts, service.parts.clock()
    made = attestations.attested(
        parts.regime,
        attestation_id=f"sa_{secrets.token_hex(12)}",
        provider=given.provider,
        provider_role=given.provider_role,
        legal_ground=given.legal_ground,
        citation=given.citation,
        evidence_sha256=given.evidence_sha256,
        categories=given.categories,
        purposes=given.purposes,
        expires_at=micros(given.expires_at),
        by=who.key_id,
        at=at,
    )
    parts.ledger.add_attestation(made, entries.attestation(made, "attested", at))
    said = _said(made, at)
    said.warnings = [Warned(**warning) for warning in warnings]
    return answer(said, 201)


def read_attestation(service: Service, who: Caller, attestation_id: str) -> Response:
    """An attestation of a source, and whether it stands."""
    found = service.parts.ledger.attestation(attestation_id)
    if found is None:
        raise NotFound("there is no attestation of this id")
    return answer(_said(found, service.parts.clock()))


def revoke_attestation(service: Service, who: Caller, attestation_id: str) -> Response:
    """End an attestation of a source, from the next call on."""
    at = service.parts.clock()

    def ended(found: SourceAttestation) -> tuple[SourceAttestation, Leaf]:
        found = attestations.revoked(found, by=who.key_id, at=at)
        return found, entries.attestation(found, "revoked", at)

    if service.parts.ledger.change_attestation(attestation_id, ended) is None:
        raise NotFound("there is no attestation of this id")
    return answer(AttestationNow(attestation_id, "revoked"))


def _said(found: SourceAttestation, at: int) -> Attested:
    return Attested(
        attestation_id=found.attestation_id,
        state=attestations.standing(found, at),
        source=found.source,
        legal_ground=found.legal_ground,
        citation=found.citation,
        evidence_sha256=found.evidence_sha256,
        categories=list(found.categories),
        purposes=list(found.purposes),
        verified_by=found.verified_by,
        verified_at=instant(found.verified_at),
        expires_at=instant(found.expires_at),
        revoked_at=instant_or_none(found.revoked_at),
    )


# --- consignees who are not members


def attest_third_person(service: Service, who: Caller) -> Response:
    """Record a member's word that the consignee of one order has authorised giving their data.

    An assessment of that order names it as `transaction.consignee.attestation_id`. Even then the
    consignee is nobody who is scored: all that is used is that they are not the member.
    """
    given, _, warnings = body.read(ThirdPersonBody)
    parts, at = service.parts, service.parts.clock()
    attested_at = micros(given.attested_at)
    if attested_at > at + CLOCK_SKEW:
        raise BadRequest("a word is recorded once it is given", pointer="/attested_at")
    subject = parts.keys.subject(given.member_id, enrol=True)
    assert subject is not None  # enrolled
    made = ThirdPerson(
        attestation_id=f"ta_{secrets.token_hex(12)}",
        subject=subject,
        order_ref=parts.keys.order(given.order_id),
        wording_version=given.wording_version,
        attested_at=attested_at,
        recorded_by=who.key_id,
        recorded_at=at,
    )
    parts.ledger.put_third_person(made, entries.third_person(parts.keys, made, "attested", at))
    return answer(
        ThirdPersonKept(made.attestation_id, "live", [Warned(**w) for w in warnings]), 201
    )


def revoke_third_person(service: Service, who: Caller, attestation_id: str) -> Response:
    """End it, from the next call on: the member takes it back, or the person objects."""
    parts, at = service.parts, service.parts.clock()

    def ended(found: ThirdPerson) -> tuple[ThirdPerson, Leaf]:
        if found.revoked_at is not None:
            raise Conflict("the attestation is revoked already")
        found = replace(found, revoked_by=who.key_id, revoked_at=at)
        return found, entries.third_person(parts.keys, found, "revoked", at)

    if parts.ledger.change_third_person(attestation_id, ended) is None:
        raise NotFound("there is no attestation of this id")
    return answer(AttestationNow(attestation_id, "revoked"))


ROUTES = (
    Route(
        method="POST",
        path="/v1/attestations",
        handle=attest_source,
        tag="Attestations",
        roles=("consent",),
        body=AttestationBody,
        answers={201: Attested},
    ),
    Route(
        method="GET",
        path="/v1/attestations/{attestation_id}",
        handle=read_attestation,
        tag="Attestations",
        roles=("consent", "privacy"),
        answers={200: Attested},
    ),
    Route(
        method="POST",
        path="/v1/attestations/{attestation_id}/revoke",
        handle=revoke_attestation,
        tag="Attestations",
        roles=("consent", "privacy"),
        answers={200: AttestationNow},
        problems=(409,),
    ),
    Route(
        method="POST",
        path="/v1/third-person-attestations",
        handle=attest_third_person,
        tag="Attestations",
        roles=("consent",),
        body=ThirdPersonBody,
        answers={201: ThirdPersonKept},
    ),
    Route(
        method="POST",
        path="/v1/third-person-attestations/{attestation_id}/revoke",
        handle=revoke_third_person,
        tag="Attestations",
        roles=("consent", "privacy"),
        answers={200: AttestationNow},
        problems=(409,),
    ),
)
