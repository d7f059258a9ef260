"""May we? The only maker of a Permit, and so the only way to a score or to a training row.

For each category that a request would use, one basis is looked for, in the order of the regime:
explicit consent, consent, the contract for this order (exception 7), a live grant; else it is
refused. What an affiliate or a partner shares needs an attestation of the source first, and then
the member's consent to that source or, where the law has it shared, no more than that. A basis is
looked for at every call: nothing is remembered between two calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec.structs import replace

from sectionfour.domain import Basis, Masked, Permit, Refusal, Request, Use
from sectionfour.privacy import attestations, consent, exceptions
from sectionfour.privacy.attestations import SourceAttestation, ThirdPerson
from sectionfour.privacy.consent import ConsentEvent
from sectionfour.privacy.exceptions import Grant
from sectionfour.privacy.regime import Regime, load
from sectionfour.privacy.tables import PurposeRule

#: Alone they identify nobody; joined to a member they are personal (policy, section Three).
NOT_PERSONAL_ALONE = frozenset(
    [
        "device",
        "location",
        "location.gps",
        "location.wifi",
        "location.bluetooth",
        "location.base_station",
        "log",
    ]
)


class Ledger(Protocol):
    """What the gate reads. Raises FailClosed where it cannot be read."""

    def consents(self, subject: bytes, at: int) -> Sequence[ConsentEvent]:
        """Every consent event of one subject, oldest first."""

    def grants(self, at: int) -> Sequence[tuple[Grant, int]]:
        """The grants that are live at `at`, each with the number of its uses."""

    def take(
        self,
        grant_id: str,
        at: int,
        purpose: str,
        categories: Sequence[str],
        *,
        subject: bytes | None,
        operation: str,
    ) -> bool:
        """Record one use of a grant; False, and nothing recorded, where its quota is used up."""

    def attestations(self, source: str, at: int) -> Sequence[SourceAttestation]:
        """The attestations of one source. Read only where a request names such a source."""

    def third_person(self, attestation_id: str) -> ThirdPerson | None:
        """A member's word about a consignee. Read only where a request names one."""


def check(
    purpose: str,
    request: Request,
    ledger: Ledger,
    at: int,
    *,
    operation: str = "score",
    regime: Regime | None = None,
) -> Permit | Refusal:
    """Return what may be used of `request` for `purpose` at `at`, or why nothing may be.

    `at` is in microseconds; `operation` is score, train, or export: to be read by an analyst, or
    to leave the service. Any purpose may be declared for an export, and what was not collected for
    it needs consent given before, for that very purpose (section Five). Raises BadRequest for a
    purpose, category or source outside the closed lists, FailClosed where the ledger cannot be
    read.
    """
    regime = regime or load()
    rule = regime.purpose(purpose)
    serves = {"score": rule.scores is not None, "train": rule.trains, "export": True}
    if not serves.get(operation, False):
        return _refusal(rule, regime, "purpose_change", [u.category for u in request.uses], ())

    found: dict[str, Basis] = {}
    masked: list[Masked] = []
    subject = request.subject
    said = [] if subject is None else ledger.consents(subject, at)
    consents, refusals = consent.live(said, at), consent.refusals(said)
    grants: Sequence[tuple[Grant, int]] | None = None
    origin = None
    for use in request.uses:
        basis = None
        if use.source != origin:  # most often all are of one
            source, origin = regime.source(use.source), use.source
            attested, admits = source.attestation, regime.admits[rule.id, source.key]
        category = regime.category(use.category)
        admission = admits[category.key]
        hindrance = use.hindrance
        if use.attestation is not None and hindrance == "third_person":
            word = ledger.third_person(use.attestation)
            if word is not None and attestations.authorises(word, subject, request.order):
                hindrance = None
        shared: Sequence[SourceAttestation] = ()
        if attested:
            shared = _attested(use, rule, ledger, at)
        if (attested or category.attested) and not shared:
            hindrance = hindrance or "no_attestation"
        own = operation == "export" and category.own_result and source.key == "first_party"
        if own and hindrance is None and admission == "yes":
            basis = Basis(use.category, "own_result")
        elif hindrance is None and request.kind == "guest":
            basis = _guest(use, admission, rule)
        elif hindrance is None:
            basis = _consent(use, admission, rule, consents, refusals, regime)
            if basis is None and admission == "yes":
                basis = _contract(use, source.key, rule, request, regime) or _law(use, shared)
            if basis is None and admission != "denied":
                if grants is None:
                    grants = ledger.grants(at)
                basis = _grant(use, rule, request, grants, operation, at, regime)
        if basis is None:
            masked.append(Masked(use.category, _why(admission, hindrance)))
        else:
            if shared or use.attribute is not None or use.attestation is not None:
                basis = _particulars(basis, use, shared)
            found[use.category] = basis

    # A quota may have been used up by another call since it was read: what counts is the take.
    for grant_id in dict.fromkeys(b.ref for b in found.values() if b.kind == "exception"):
        categories = [c for c, b in found.items() if b.ref == grant_id]
        lacking = _missing(rule, request, found, operation)
        if (
            grant_id is None
            or lacking
            or not ledger.take(
                grant_id, at, purpose, categories, subject=subject, operation=operation
            )
        ):
            for category_key in categories:
                del found[category_key]
                masked.append(Masked(category_key, "no_basis"))

    missing = _missing(rule, request, found, operation)
    if missing:
        changed = all(one.why == "purpose_change" for one in masked) and operation == "export"
        why = "purpose_change" if changed else "no_basis"
        return _refusal(rule, regime, why, missing, tuple(masked))
    personal = request.kind == "member" or not NOT_PERSONAL_ALONE.issuperset(found)
    permitted = 0
    for key in found:
        permitted |= regime.categories[key].bit
    return Permit(
        purpose=purpose,
        basis=tuple(found.values()),
        masked=tuple(masked),
        permitted=permitted,
        personal=personal,
        joined=tuple(found) if personal else (),
    )


def _missing(
    rule: PurposeRule, request: Request, found: dict[str, Basis], operation: str
) -> list[str]:
    if operation == "export":  # takes what may be taken; but never only what we made of a person
        theirs = any(basis.kind != "own_result" for basis in found.values())
        alone = all(use.category in found for use in request.uses)
        return [] if theirs or (found and alone) else [use.category for use in request.uses]
    if request.kind == "guest" and rule.guests_may:
        return [] if found else sorted(rule.guest_categories)
    return [key for key in rule.requires if key not in found]


def _why(admission: str, hindrance: str | None) -> str:
    if admission == "denied":
        return "purpose_change"
    return hindrance or ("default" if admission == "named" else "no_basis")


def _guest(use: Use, admission: str, rule: PurposeRule) -> Basis | None:
    """A guest's device and log are nobody's, as long as nothing is joined to them (R-01, R-17)."""
    if admission == "yes" and use.category in rule.guest_categories:
        return Basis(use.category, "non_personal")
    return None


def _consent(
    use: Use,
    admission: str,
    rule: PurposeRule,
    consents: Sequence[ConsentEvent],
    refusals: Sequence[ConsentEvent],
    regime: Regime,
) -> Basis | None:
    # Consent is to a type of document: one for a passport is none for a driving licence, and none
    # for a document that nobody names.
    if use.attribute is None and regime.category(use.category).types:
        return None
    named = use.category if use.attribute is None else f"{use.category}:{use.attribute}"
    for given in consents:
        if named not in given.categories or given.source != use.source:
            continue
        if admission == "denied":
            # Not listed in section Four: only consent for this very purpose lifts it (Five).
            valid = given.purpose == rule.id and given.event_type == consent.EXPLICIT
        else:
            valid = regime.covers(given.purpose, rule.id)
        if admission == "explicit":
            # Sensitive: explicit, and separate from consent to anything else.
            valid = valid and given.event_type == consent.EXPLICIT and len(given.categories) == 1
        if valid and not any(
            no.source == use.source
            and not no.categories.isdisjoint((named, use.category))
            and regime.covers(no.purpose, rule.id)
            and consent.is_later(no, given)
            for no in refusals
        ):
            notice = f"{given.notice_id}@{given.notice_version}"
            return Basis(use.category, "consent", given.record_id, notice)
    return None


def _attested(use: Use, rule: PurposeRule, ledger: Ledger, at: int) -> list[SourceAttestation]:
    """Return the attestations that let this be shared, the members' own authorisation first."""
    found = [
        one
        for one in ledger.attestations(use.source, at)
        if attestations.covers(one, use.source, use.category, rule.id, at)
    ]
    found.sort(key=lambda one: one.legal_ground != "subject_authorised")
    return found


def _law(use: Use, shared: Sequence[SourceAttestation]) -> Basis | None:
    """What the law has shared needs no consent; what is sensitive or only if named still does."""
    for one in shared:
        if one.legal_ground == "statutory":
            return Basis(use.category, "statutory", one.attestation_id)
    return None


def _particulars(basis: Basis, use: Use, shared: Sequence[SourceAttestation]) -> Basis:
    """Return the basis with what lifted the hindrances before it: the two grounds are two codes."""
    basis = replace(basis, attribute=use.attribute, third_person=use.attestation)
    if not shared:
        return basis
    by = next((one for one in shared if one.attestation_id == basis.ref), shared[0])
    kind = by.legal_ground if basis.kind == "consent" else basis.kind
    return replace(basis, kind=kind, attestation=by.attestation_id)


def _contract(
    use: Use, source: str, rule: PurposeRule, request: Request, regime: Regime
) -> Basis | None:
    """Exception 7: a purchase that the member asks for, for its minimal list alone."""
    contract = regime.contract
    asked = request.event_type == "purchase" and request.order is not None
    listed = use.category in contract.categories and rule.id in contract.purposes
    if asked and listed and source in contract.sources:
        return Basis(use.category, "contract", "order", exception=contract.number)
    return None


def _grant(
    use: Use,
    rule: PurposeRule,
    request: Request,
    grants: Sequence[tuple[Grant, int]],
    operation: str,
    at: int,
    regime: Regime,
) -> Basis | None:
    for grant, uses in grants:
        if exceptions.covers(
            grant,
            regime.exceptions[grant.exception],
            subject=request.subject,
            order=request.order,
            category=use.category,
            purpose=rule.id,
            operation=operation,
            source=use.source,
            at=at,
            uses=uses,
        ):
            return Basis(use.category, "exception", grant.grant_id, exception=grant.exception)
    return None


def _refusal(
    rule: PurposeRule,
    regime: Regime,
    why: str,
    missing: Sequence[str],
    masked: tuple[Masked, ...],
) -> Refusal:
    # Where the purpose is at fault nobody has refused anything: nothing may be withheld for it.
    held_against = missing if why == "no_basis" else ()
    return Refusal(
        purpose=rule.id,
        why=why,
        missing=tuple(missing),
        masked=masked,
        withholdable_services=regime.withholdable_services(held_against),
        never_withheld=regime.never_withheld,
    )
