"""What the routes read and answer, as structs: the OpenAPI document is drawn from them.

What a caller sends is decoded into those of the first half. Those of the second half describe
answers; a test holds every answer against them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from sectionfour.domain import Basis, Identifier, Instant, LabelName, Masked, Raw, Reason, Text

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
Language = Annotated[
    str,
    Meta(
        min_length=2,
        max_length=35,
        pattern=r"^[A-Za-z0-9-]+(?![\s\S])",
        description="a language tag, like zh-CN",
    ),
]
Key = Annotated[str, Meta(min_length=1, max_length=64)]
Keys = Annotated[tuple[Key, ...], Meta(min_length=1, max_length=64)]
Long = Annotated[str, Meta(max_length=4096)]

# --- what is sent ----------------------------------------------------------------------------


class NoticeBody(Raw, frozen=True, kw_only=True):
    """A version of a privacy notice. `material`: consent to earlier versions no longer holds."""

    version: Name
    language: Language
    text_sha256: Digest
    purposes: Keys
    categories: Keys
    valid_from: Instant
    material: bool = True


class NoticeRef(Raw, frozen=True, kw_only=True):
    id: Name
    version: Name


class ConsentBody(Raw, frozen=True, kw_only=True):
    """A yes, or a no. A category may name a type of document: "identity.document:passport"."""

    member_id: Identifier
    notice: NoticeRef
    purpose: Key
    categories: Keys
    event_type: Literal["explicitly_expressed", "implicitly_expressed"]
    event_time: Instant
    source: Annotated[str, Meta(min_length=1, max_length=160)] = "first_party"
    event_state: Annotated[
        Literal["consent_given", "consent_refused"], Meta(description="a no is recorded, too")
    ] = "consent_given"
    validity_duration: Annotated[str, Meta(max_length=32, description="ISO 8601: P1Y")] | None = (
        None
    )


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


class LabelBody(Raw, frozen=True, kw_only=True):
    """What became known: of an event, or of a member."""

    label: LabelName
    source: Name
    label_id: Identifier | None = None
    event_id: Identifier | None = None
    member_id: Identifier | None = None
    known_at: Instant | None = None


# --- what is answered ------------------------------------------------------------------------


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
    risk_level: Literal["low", "elevated", "high", "highest"]
    outcome: Literal["allow", "challenge", "review", "block"]
    reasons: list[Reason]
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


class NoticeKept(Struct):
    """`purposes` with the umbrella spelt out."""

    id: str
    version: str
    language: str
    text_sha256: str
    purposes: list[str]
    categories: list[str]
    valid_from: str
    material: bool
    warnings: list[Warned]


class ConsentKept(Struct):
    record_id: str
    event_state: str
    purposes: list[str]
    warnings: list[Warned]


class ConsentEnded(Struct):
    record_id: str
    event_state: str


class ConsentHappened(Struct):
    event_state: str
    event_time: str


class ConsentRecord(Struct):
    record_id: str
    event_state: str
    purpose: str
    purposes: list[str]
    categories: list[str]
    source: str
    notice: NoticeRef
    event_type: str
    expires_at: str | None
    events: list[ConsentHappened]


class Consents(Struct):
    records: list[ConsentRecord]


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


class LabelKept(Struct):
    label_id: str
    label: str
    source: str
    known_at: str
    recorded_at: str
    event_id: str | None
    warnings: list[Warned]


class Receipt(Struct):
    """`leaf` are the exact bytes whose hash is in the log, in base64; `receipt` is their JSON."""

    receipt: dict[str, Any]
    leaf: str
    proof: str
    vkey: str
    checkpoint: str


class Consistency(Struct):
    """`consistency` are hashes in base64: RFC 6962, section 2.1.2."""

    first: int
    second: int
    consistency: list[str]


class State(Struct):
    status: Literal["up", "ready"]
