"""What several routes read and answer: forms of fields, problems, warnings, and assessments.

What one room alone reads and says is with it. The OpenAPI document is drawn from all of these, and
a test holds every answer against it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from sectionfour.domain import Action, Basis, Held, Level, Masked, Reason

#: No control character, of which PostgreSQL has one in no text.
LINE = Meta(pattern=r"^[^\x00-\x1f\x7f]+(?![\s\S])", description="one line of text")
Digest = Annotated[
    str, Meta(pattern="^[0-9a-f]{64}(?![\\s\\S])", description="a SHA-256 in hex, in small letters")
]
Name = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        pattern=r"^[\w.@-]+(?![\s\S])",
        description="letters, digits, and . _ @ -",
    ),
]
Key = Annotated[str, Meta(min_length=1, max_length=64)]
Keys = Annotated[tuple[Key, ...], Meta(min_length=1, max_length=64)]
Natural = Annotated[int, Meta(ge=0)]
Long = Annotated[str, Meta(max_length=4096)]


class Fault(Struct):
    pointer: str
    detail: str


class Problem(Struct):
    """RFC 9457; `errors` names the fields at fault by JSON pointers."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[Fault] = []
    line: int | None = None


class Warned(Struct):
    code: str
    input_pointer: str
    warning: str


class ModelUsed(Struct):
    name: str
    version: str
    digest: str


class ReceiptLink(Struct):
    leaf_hash: str
    proof: str


class Challenge(Struct):
    type: Literal["identity_verification"]


class Assessment(Struct, kw_only=True):
    assessment_id: str
    event_id: str
    at: str
    status: Literal["scored", "scored_masked"]
    risk_score: Annotated[float, Meta(ge=0, le=100)]
    risk_level: Level
    outcome: Action
    reasons: list[Reason]
    rules: list[Held]
    basis: list[Basis]
    masked: list[Masked]
    warnings: list[Warned]
    model: ModelUsed
    receipt: ReceiptLink
    human_review: str
    challenge: Challenge | None = None


class Refused(Struct, kw_only=True):
    """No lawful basis: an outcome, recorded, with a receipt; and a problem document."""

    type: str
    title: str
    status: Literal[403]
    detail: str
    assessment_id: str
    event_id: str
    at: str
    missing: list[str]
    masked: list[Masked]
    withholdable_services: list[str]
    never_withheld: list[str]
    warnings: list[Warned]
    receipt: ReceiptLink
    human_review: str


class Review(Struct):
    review_id: str
    state: str
