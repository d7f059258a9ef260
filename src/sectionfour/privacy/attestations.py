"""Who confirmed that somebody else's data may be used: attestations of sources, and of persons.

A source attestation says on which ground an affiliate or a partner may share what, for what, until
when (policy, sections Three and Four). A third-person attestation says that a member has the
authorisation of the person whom an order is sent to. Values; no clock, no store.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from sectionfour.errors import BadRequest, Conflict
from sectionfour.privacy.regime import Regime
from sectionfour.privacy.tables import Ground


class SourceAttestation(Struct, frozen=True, kw_only=True):
    """`legal_ground`: subject_authorised needs each member's consent besides; statutory does not,
    and cites the provision. Instants are in microseconds."""

    attestation_id: str
    provider: str
    provider_role: str
    legal_ground: Ground
    citation: str | None
    evidence_sha256: str
    categories: tuple[str, ...]
    purposes: tuple[str, ...]
    verified_by: str
    verified_at: int
    expires_at: int
    revoked_by: str | None = None
    revoked_at: int | None = None

    @property
    def source(self) -> str:
        """The source as a request and a consent name it."""
        return f"{self.provider_role}:{self.provider}"


class ThirdPerson(Struct, frozen=True, kw_only=True):
    """That a member had the authorisation of the consignee of one order; both are tokens."""

    attestation_id: str
    subject: bytes
    order_ref: bytes
    wording_version: str
    attested_at: int
    recorded_by: str
    recorded_at: int
    revoked_by: str | None = None
    revoked_at: int | None = None


Standing = Literal["live", "expired", "revoked"]


def attested(
    regime: Regime,
    *,
    attestation_id: str,
    provider: str,
    provider_role: str,
    legal_ground: Ground,
    citation: str | None,
    evidence_sha256: str,
    categories: tuple[str, ...],
    purposes: tuple[str, ...],
    expires_at: int,
    by: str,
    at: int,
) -> SourceAttestation:
    """Return an attestation, its purposes spelt out; BadRequest, with a pointer, for what is none.

    Nothing is attested that the source could never bring, or never serve.
    """
    rule = regime.sources.get(provider_role)
    if rule is None or legal_ground not in rule.grounds:
        attestable = (s.key for s in regime.sources.values() if s.attestation)
        raise BadRequest(
            f"attested are sources of the kinds {', '.join(attestable)}", pointer="/provider_role"
        )
    if legal_ground == "statutory" and not (citation or "").strip():
        raise BadRequest("a statutory ground cites the provision", pointer="/citation")
    if expires_at <= at:
        raise BadRequest("an attestation ends after now", pointer="/expires_at")
    for place, key in enumerate(categories):
        regime.category(key, pointer=f"/categories/{place}")
        if key not in rule.brings:
            raise BadRequest(f"no {rule.key} brings this category", pointer=f"/categories/{place}")
    meant: dict[str, None] = {}
    for place, name in enumerate(purposes):
        for purpose in regime.stands_for(name, pointer=f"/purposes/{place}"):
            if purpose not in rule.serves:
                raise BadRequest(
                    f"data of {rule.key}s never serve this purpose", pointer=f"/purposes/{place}"
                )
            meant[purpose] = None
    return SourceAttestation(
        attestation_id=attestation_id,
        provider=provider,
        provider_role=provider_role,
        legal_ground=legal_ground,
        citation=citation,
        evidence_sha256=evidence_sha256,
        categories=tuple(dict.fromkeys(categories)),
        purposes=tuple(meant),
        verified_by=by,
        verified_at=at,
        expires_at=expires_at,
    )


def revoked(found: SourceAttestation, *, by: str, at: int) -> SourceAttestation:
    """Return the attestation ended from `at` on; Conflict where it was revoked before."""
    if found.revoked_at is not None:
        raise Conflict("the attestation is revoked already")
    return replace(found, revoked_by=by, revoked_at=at)


def standing(found: SourceAttestation, at: int) -> Standing:
    """Return where the attestation stands at `at`, in microseconds."""
    if found.revoked_at is not None:
        return "revoked"
    return "expired" if at >= found.expires_at else "live"


def covers(found: SourceAttestation, source: str, category: str, purpose: str, at: int) -> bool:
    """Whether the attestation stands at `at` for this data, from this source, for this purpose."""
    return (
        found.source == source
        and category in found.categories
        and purpose in found.purposes
        and found.verified_at <= at
        and standing(found, at) == "live"
    )


def authorises(found: ThirdPerson, subject: bytes | None, order: bytes | None) -> bool:
    """Whether it is this member's word, about this order, and stands."""
    return found.revoked_at is None and (found.subject, found.order_ref) == (subject, order)
