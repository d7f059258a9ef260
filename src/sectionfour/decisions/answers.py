"""What goes back to the checkout, and what the receipt says of it. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import to_builtins

from sectionfour.domain import Answer, Event, Outcome, Permit, Rating, Refusal, Request, instant
from sectionfour.errors import PROBLEMS
from sectionfour.given import Given

NO_BASIS = f"{PROBLEMS}no-lawful-basis"


def scored(
    assessment_id: str,
    event: Event,
    permit: Permit,
    rating: Rating,
    outcome: Outcome,
    warnings: Sequence[dict[str, str]] = (),
) -> Answer:
    """Return the answer to a request that was rated; `warnings` are about its form."""
    answer: Answer = {
        "assessment_id": assessment_id,
        "event_id": event.event_id,
        "at": instant(event.at),
        "status": "scored_masked" if permit.masked else "scored",
        "risk_score": round(100 * rating.probability, 2),
        "risk_level": outcome.level,
        "outcome": outcome.action,
    }
    if outcome.action == "challenge":
        answer["challenge"] = {"type": "identity_verification"}
    answer["reasons"] = to_builtins(rating.reasons)
    answer["rules"] = to_builtins(outcome.rules)
    answer["basis"] = to_builtins(permit.basis)
    answer["masked"] = to_builtins(permit.masked)
    answer["warnings"] = list(warnings)
    answer["model"] = rating.model
    answer["human_review"] = f"/v1/assessments/{assessment_id}/review"
    return answer


def refused(
    assessment_id: str,
    given: Given,
    refusal: Refusal,
    at: int,
    warnings: Sequence[dict[str, str]] = (),
) -> Answer:
    """Return the answer to a request without a basis: a problem document (RFC 9457).

    It says what may be withheld for it, and what never may; refusing is nothing to be held
    against anyone.
    """
    detail = (
        f"{refusal.purpose} is not a purpose under which a risk may be scored"
        if refusal.why == "purpose_change"
        else f"no consent, contract or exception was found for {', '.join(refusal.missing)}"
    )
    return {
        "type": NO_BASIS,
        "title": "No lawful basis for this use of the data",
        "status": 403,
        "detail": detail,
        "assessment_id": assessment_id,
        "event_id": given.event_id,
        "at": instant(at),
        "missing": list(refusal.missing),
        "masked": to_builtins(refusal.masked),
        "withholdable_services": list(refusal.withholdable_services),
        "never_withheld": list(refusal.never_withheld),
        "warnings": list(warnings),
        "human_review": f"/v1/assessments/{assessment_id}/review",
    }


def receipt(
    answer: Answer,
    verdict: Permit | Refusal,
    request: Request,
    *,
    alias: bytes | None,
    digests: dict[str, str],
    commitment: str,
) -> dict[str, Any]:
    """Return the leaf of the log for `answer`: who for, on what basis, with what, to what end.

    `alias` is the subject's token in the audit domain; None for a guest, and for a person whom
    the service had no basis to get to know.
    """
    leaf = {
        "receipt_version": 1,
        "receipt_id": answer["assessment_id"],
        "at": answer["at"],
        "subject": {"kind": request.kind, "pseudonym": None if alias is None else alias.hex()},
        "purpose": verdict.purpose,
        "operation": "score",
        "status": "refused" if isinstance(verdict, Refusal) else answer["status"],
        "masked": to_builtins(verdict.masked),
        "digests": digests,
        "commitment": commitment,
        "human_review": answer["human_review"],
    }
    if request.given is not None and request.given.threat_type is not None:
        leaf["threat_type"] = request.given.threat_type
    if answer.get("rules"):
        leaf["rules"] = [rule["id"] for rule in answer["rules"]]
    if isinstance(verdict, Refusal):
        return leaf | {"missing": list(verdict.missing), "why": verdict.why}
    return leaf | {
        "basis": to_builtins(verdict.basis),
        "combination": {"joined": list(verdict.joined), "personal": verdict.personal},
        "model": answer["model"],
        "score_band": answer["risk_level"],
        "action": answer["outcome"],
        "reasons": [reason["code"] for reason in answer["reasons"]],
    }
