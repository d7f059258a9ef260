"""May we? The only maker of a Permit, and so the only way to a score or to a training row.

For each category that a request would use, one basis is looked for, in the order of the regime:
explicit consent, consent, the contract for this order (exception 7), a live grant; else it is
refused. A basis is looked for at every call: nothing is remembered between two calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sectionfour.domain import Basis, Masked, Permit, Refusal, Request, Use
from sectionfour.privacy import consent, exceptions
from sectionfour.privacy.consent import ConsentEvent
from sectionfour.privacy.exceptions import Grant
from sectionfour.privacy.regime import Regime, load
from sectionfour.privacy.rules import PurposeRule

#: Alone they identify nobody; joined to a member they are personal (policy, section Three).
NOT_PERSONAL_ALONE = frozenset({"device", "location", "location.gps", "log"})


class Ledger(Protocol):
    """What the gate reads. Raises FailClosed where it cannot be read."""

    def consents(self, subject: bytes, at: int) -> Sequence[ConsentEvent]:
        """Every consent event of one subject, oldest first."""

    def grants(self, at: int) -> Sequence[tuple[Grant, int]]:
        """The grants that are live at `at`, each with the number of its uses."""

    def take(self, grant_id: str, at: int, purpose: str, categories: Sequence[str]) -> bool:
        """Record one use of a grant; False, and nothing recorded, where its quota is used up."""


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

    `at` is in microseconds; `operation` is score or train. Raises BadRequest for a purpose,
    category or source outside the closed lists, FailClosed where the ledger cannot be read.
    """
    regime = regime or load()
    rule = regime.purpose(purpose)
    serves = {"score": rule.scores is not None, "train": rule.trains}
    if not serves.get(operation, False):
        return _refusal(rule, regime, "purpose_change", [u.category for u in request.uses], ())

    found: dict[str, Basis] = {}
    masked: list[Masked] = []
    subject = request.subject
    consents = [] if subject is None else consent.live(ledger.consents(subject, at), at)
    grants: Sequence[tuple[Grant, int]] | None = None
    for use in request.uses:
        basis = None
        source = regime.source(use.source)
        admission = regime.admission(rule.id, regime.category(use.category).key, source.key)
        hindrance = use.hindrance or ("no_attestation" if source.attestation else None)
        if hindrance is None and request.kind == "guest":
            basis = _guest(use, admission, rule)
        elif hindrance is None:
            basis = _consent(use, admission, rule, consents, regime)
            if basis is None and admission == "yes":
                basis = _contract(use, source.key, rule, request, regime)
            if basis is None and admission != "denied":
                if grants is None:
                    grants = ledger.grants(at)
                basis = _grant(use, rule, request, grants, operation, at, regime)
        if basis is None:
            masked.append(Masked(use.category, _why(admission, hindrance)))
        else:
            found[use.category] = basis

    # A quota may have been used up by another call since it was read: what counts is the take.
    for grant_id in dict.fromkeys(b.ref for b in found.values() if b.kind == "exception"):
        categories = [c for c, b in found.items() if b.ref == grant_id]
        lacking = set(_missing(rule, request, found))
        if grant_id is None or lacking or not ledger.take(grant_id, at, purpose, categories):
            for category_key in categories:
                del found[category_key]
                masked.append(Masked(category_key, "no_basis"))

    missing = _missing(rule, request, found)
    if missing:
        return _refusal(rule, regime, "no_basis", missing, tuple(masked))
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


def _missing(rule: PurposeRule, request: Request, found: dict[str, Basis]) -> list[str]:
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
    regime: Regime,
) -> Basis | None:
    for given in consents:
        if use.category not in given.categories or given.source != use.source:
            continue
        if admission == "denied":
            # Not listed in section Four: only consent for this very purpose lifts it (Five).
            valid = given.purpose == rule.id and given.event_type == consent.EXPLICIT
        else:
            valid = regime.covers(given.purpose, rule.id)
        if admission == "explicit":
            # Sensitive: explicit, and separate from consent to anything that is not.
            valid = (
                valid
                and given.event_type == consent.EXPLICIT
                and all(rule.admits[key] == "explicit" for key in given.categories)
            )
        if valid:
            notice = f"{given.notice_id}@{given.notice_version}"
            return Basis(use.category, "consent", given.record_id, notice)
    return None


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
