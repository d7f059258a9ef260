"""FLOW 1: request -> gate -> seal -> velocity -> model -> policy -> receipt -> answer."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import msgspec

from sectionfour.decisions import answers, cases
from sectionfour.domain import Assessed, Leaf, Refusal
from sectionfour.errors import Conflict
from sectionfour.features import online
from sectionfour.given import Given
from sectionfour.parts import Parts
from sectionfour.privacy import gate, merkle, pseudonym, receipts


def decide(
    given: Given,
    asked: bytes,
    parts: Parts,
    *,
    key_id: str | None = None,
    warnings: Sequence[dict[str, str]] = (),
) -> tuple[int, bytes]:
    """Return (HTTP status, answer) for one request; the answer is on disk before it is returned.

    `asked` is a keyed digest of the body: the same event_id with another one is a Conflict.
    `warnings`, about the form of the request, become part of the answer.
    """
    known = parts.ledger.assessed(given.event_id)
    if known is not None:
        return _again(known, asked, parts)
    at = parts.clock()
    request = pseudonym.claim(given, parts.keys, parts.regime)
    verdict = gate.check(given.purpose, request, parts.ledger, at, regime=parts.regime)
    name = f"as_{at:013x}{secrets.token_hex(8)}"
    nonce = secrets.token_bytes(32)
    if isinstance(verdict, Refusal):
        event, vector, outcome = None, None, None
        answer = answers.refused(name, given, verdict, at, warnings)
    else:
        event = pseudonym.seal(request, verdict, parts.keys, at=at, regime=parts.regime)
        observe = given.mode == "protect"
        event, vector = online.read_and_observe(
            event, parts.velocity, observe=observe, cluster=parts.ledger.cluster
        )
        model = parts.regime.purpose(given.purpose).scores
        assert model is not None  # the gate permits no purpose without one
        rating = parts.models.get(model).rate(vector)
        outcome = parts.policy.thresholds(model).outcome(rating.probability)
        outcome = parts.rules.now().applied(model, vector, outcome)
        answer = answers.scored(name, event, verdict, rating, outcome, warnings)
    subject = request.subject if event is None else event.member
    seen = None if vector is None else vector.tobytes()
    kept_event = event if given.mode == "protect" else None
    leaf = answers.receipt(
        answer,
        verdict,
        request,
        alias=None if subject is None else parts.keys.alias(subject, "audit"),
        digests=parts.digests(outcome),
        commitment=receipts.commitment(
            nonce,
            asked=asked,
            subject=subject,
            key_id=key_id,
            vector=seen,
            event=kept_event,
            answer=msgspec.json.encode(answer),
        ),
    )
    body = receipts.canonical(leaf)
    answer["receipt"] = {
        "leaf_hash": merkle.leaf_hash(body).hex(),
        "proof": f"/v1/receipts/{name}",
    }
    kept = Assessed(
        assessment_id=name,
        event_id=given.event_id,
        asked=asked,
        at=at if event is None else event.at,
        subject=subject,
        purpose=given.purpose,
        status=leaf["status"],
        http=403 if isinstance(verdict, Refusal) else 200,
        answer=msgspec.json.encode(answer),
        vector=seen,
        nonce=nonce,
        key_id=key_id,
        event=kept_event,
        leaf=Leaf("assessment", name, body),
        case=cases.why(answer) if kept_event is not None else None,
    )
    if not parts.ledger.record(kept):  # the same event_id, at the same moment, elsewhere
        known = parts.ledger.assessed(given.event_id)
        assert known is not None
        return _again(known, asked, parts)
    return kept.http, kept.answer


def _again(known: tuple[bytes, int, bytes], asked: bytes, parts: Parts) -> tuple[int, bytes]:
    if known[0] != asked:
        raise Conflict(
            "this event_id was assessed with another body; a new event needs an id of its own",
            pointer="/event_id",
        )
    parts.ledger.flush()  # whoever wrote it may be waiting for the disk still
    return known[1], known[2]
