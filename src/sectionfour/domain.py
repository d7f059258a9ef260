"""The words of Section Four: what is asked, what may be used, what is kept, what is answered.

`Event` holds tokens only and is what is stored and learnt from; what is raw is in `given`, and a
`Request` alone has any of it. Nothing else of ours is imported here.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

from msgspec import Struct
from msgspec.structs import replace

from sectionfour.given import EventType, Given, Spelt

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
#: In microseconds, as every instant is.
SECOND = 1_000_000
MINUTE, HOUR, DAY, WEEK = 60 * SECOND, 3_600 * SECOND, 86_400 * SECOND, 604_800 * SECOND
#: So many days after it, an event of which nothing became known counts as honest.
DELAY_DAYS = 14.0
#: After every instant, and within the 63 bits that the stores count in.
EVER = 1 << 62
#: What UTC's calendar has, in microseconds since EPOCH; by its offset an instant may lie outside.
_FIRST = (datetime.min.replace(tzinfo=UTC) - EPOCH) // MICROSECOND
_LAST = (datetime.max.replace(tzinfo=UTC) - EPOCH) // MICROSECOND

#: Every type of event, in the order of its code as a feature.
EVENT_TYPES: tuple[str, ...] = get_args(EventType)
#: A place is kept as a cell of a grid of so many kilometres through the Earth, 12 bits an axis.
PLACE_KM, PLACE_BITS = 5, 12
#: What becomes known of an event enters the windows as an event of its own, when it is known.
FRAUD, CLEARED = "fraud", "cleared"
KNOWN = frozenset({FRAUD, CLEARED})

#: The models, each by what it rates.
ModelName = Literal["transaction", "account"]
MODELS: tuple[ModelName, ...] = get_args(ModelName)
#: What is done about a score, and how high it is said to be; from the mildest.
Action = Literal["allow", "challenge", "review", "block"]
Level = Literal["low", "elevated", "high", "highest"]
ACTIONS: tuple[Action, ...] = get_args(Action)
LEVELS: tuple[Level, ...] = get_args(Level)
#: Why somebody is to be forgotten.
Trigger = Literal["cancellation", "subject_request"]

LabelName = Literal[
    "chargeback", "account_takeover", "confirmed_fraud", "suspected_fraud", "legitimate"
]
#: A suspicion is for the analysts; only what is confirmed counts as fraud, in windows and training.
FRAUD_LABELS = frozenset({"chargeback", "account_takeover", "confirmed_fraud"})


def known_as(label: str) -> str | None:
    """Return the type of event that a label becomes in the windows; None for a mere suspicion.

    >>> known_as("chargeback"), known_as("legitimate"), known_as("suspected_fraud")
    ('fraud', 'cleared', None)
    """
    return FRAUD if label in FRAUD_LABELS else CLEARED if label == "legitimate" else None


def micros(instant: datetime) -> int:
    """Return `instant` (any offset) as whole microseconds since 1970-01-01 UTC; of one that its
    offset puts beyond the years 1 to 9999 of UTC, the nearest in them.

    >>> micros(datetime(1970, 1, 1, 8, tzinfo=UTC))
    28800000000
    >>> micros(datetime.fromisoformat("9999-12-31T23:59:59-23:00")) == micros(
    ...     datetime.max.replace(tzinfo=UTC)
    ... )
    True
    """
    return min(max((instant - EPOCH) // MICROSECOND, _FIRST), _LAST)


def instant(at: int) -> str:
    """Return microseconds since the epoch as RFC 3339 in UTC.

    >>> instant(1)
    '1970-01-01T00:00:00.000001Z'
    """
    return (EPOCH + timedelta(microseconds=at)).isoformat(timespec="microseconds")[:-6] + "Z"


def read_instant(text: str) -> int:
    """Return an instant in RFC 3339 as microseconds since the epoch: what `instant` wrote, above
    all. ValueError for what is none, TypeError for one without an offset.

    >>> read_instant(instant(1))
    1
    """
    return micros(datetime.fromisoformat(text))


def instant_or_none(at: int | None) -> str | None:
    """Return `instant` of what has come about; None of what has not."""
    return None if at is None else instant(at)


# --- what the gate weighs --------------------------------------------------------------------


class Use(Struct, frozen=True):
    """One category of data that a request would use.

    `hindrance` is a reason, known before any basis is looked for, why it may not be:
    `no_permission` or `third_person`. `attribute` is the type of document, where the request names
    one; `attestation` is the one said to lift `third_person`, still to be looked up.
    """

    category: str
    source: str = "first_party"
    hindrance: str | None = None
    attribute: str | None = None
    attestation: str | None = None


class Request(Struct, frozen=True, kw_only=True):
    """What is asked of the gate. `subject` is None for a guest and for a member not yet known."""

    purpose: str
    event_type: str
    kind: Literal["member", "guest"]
    uses: tuple[Use, ...]
    subject: bytes | None = None
    order: bytes | None = None
    given: Given | None = None
    spelt: Spelt | None = None


class Basis(Struct, frozen=True, omit_defaults=True):
    """Why one category may be used.

    `kind` is consent, contract, exception or non_personal; of what an affiliate or a partner shares
    it is the ground that was attested, subject_authorised or statutory; of scores and labels, for
    the purposes that they are made for, own_result. `attestation` is that of the source,
    `third_person` that of a consignee who is not the member, `attribute` the type of document.
    """

    category: str
    kind: str
    ref: str | None = None
    notice: str | None = None
    exception: int | None = None
    attestation: str | None = None
    third_person: str | None = None
    attribute: str | None = None


class Masked(Struct, frozen=True):
    category: str
    why: str


class Permit(Struct, frozen=True, kw_only=True):
    """What may be used for one purpose, and why. Made by `privacy.gate` and nowhere else."""

    purpose: str
    basis: tuple[Basis, ...]
    masked: tuple[Masked, ...]
    permitted: int  # bitmask over regime.categories
    personal: bool
    joined: tuple[str, ...]


class Refusal(Struct, frozen=True, kw_only=True):
    """Nothing may be used: `missing` are the categories without which the purpose cannot be."""

    purpose: str
    why: str
    missing: tuple[str, ...]
    masked: tuple[Masked, ...]
    withholdable_services: tuple[str, ...]
    never_withheld: tuple[str, ...]


# --- what is kept ----------------------------------------------------------------------------


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A sealed event: tokens (16 bytes) for identifiers; None where masked or never given.

    `place` is a cell of about 5 km: see `spelling.cell`. `brought` is JSON, by category, of what
    did not plainly come from the member: whoever asks later (training, an analyst) asks the gate
    with the true source.
    """

    event_id: str
    at: int
    purpose: str
    type: str
    occurred_at: int
    permitted: int = 0
    member: bytes | None = None
    phone: bytes | None = None
    email: bytes | None = None
    device: bytes | None = None
    ip: bytes | None = None
    network: bytes | None = None
    payee: bytes | None = None
    instrument: bytes | None = None
    address: bytes | None = None
    place: int | None = None
    order_ref: bytes | None = None
    registered_at: int | None = None
    amount: int | None = None
    item_count: int | None = None
    consignee_self: int | None = None
    page_views: int | None = None
    search_count: int | None = None
    seconds_on_page: float | None = None
    document_verified: int | None = None
    face_match_level: int | None = None
    brought: str | None = None


def known_event(event: Event, kind: str, label_id: str, at: int) -> Event:
    """Return what became known of `event` as an event of its own, at the instant it did."""
    return replace(event, event_id=f"label:{label_id}", type=kind, at=at)


class Label(Struct, frozen=True, kw_only=True):
    """What became known of an event or a member, and when. `at` is the service's clock."""

    label_id: str
    label: str
    source: str
    at: int
    known_at: int
    event_id: str | None = None
    member: bytes | None = None


class Leaf(Struct, frozen=True):
    """An entry of the log: `body` is the canonical JSON whose hash is in the tree."""

    kind: str
    ref: str
    body: bytes


class Assessed(Struct, frozen=True, kw_only=True):
    """One assessment as it is kept, with its event (None where no window was changed)."""

    assessment_id: str
    event_id: str
    asked: bytes
    at: int
    subject: bytes | None
    purpose: str
    status: str
    http: int
    answer: bytes
    vector: bytes | None
    nonce: bytes
    key_id: str | None
    event: Event | None
    leaf: Leaf
    case: str | None = None  # why a human is to look at it, where one is


class Notice(Struct, frozen=True, kw_only=True):
    """A versioned privacy notice: what members were told, by its digest."""

    notice_id: str
    version: str
    language: str
    text_sha256: str
    purposes: tuple[str, ...]
    categories: tuple[str, ...]
    valid_from: int
    material: bool


# --- what is answered ------------------------------------------------------------------------


class Reason(Struct, frozen=True):
    """`contribution` is in log-odds: lost when the reason's features go missing."""

    code: str
    reason: str
    contribution: float


class Rating(Struct, frozen=True, kw_only=True):
    """A model's word on one event: calibrated probability of fraud, reasons, and which model."""

    probability: float
    reasons: tuple[Reason, ...]
    model: dict[str, str]


class Held(Struct, frozen=True):
    """A rule that held, and the outcome that it asks for at least."""

    id: str
    outcome: Action
    reason: str


class Outcome(Struct, frozen=True):
    """What to do: `level` is how high the model's score is said to be, `action` what is done, by
    that and by the rules that held; `ruled_by` is the digest of their file, where there is one."""

    level: Level
    action: Action
    rules: tuple[Held, ...] = ()
    ruled_by: str | None = None


#: The answer to a request, as JSON-ready values; `decide` makes it, the ledger keeps it.
Answer = dict[str, Any]
