"""The words of Section Four: what is asked, what may be used, what is kept, what is answered.

`Given` and its parts hold raw identifiers; they live for one request, in memory, and neither print
nor format themselves. `Event` holds tokens only and is what is stored and learnt from.
Nothing of ours is imported here.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field
from msgspec.json import Decoder
from msgspec.structs import replace

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
#: What UTC's calendar has, in microseconds since EPOCH; by its offset an instant may lie outside.
_FIRST = (datetime.min.replace(tzinfo=UTC) - EPOCH) // MICROSECOND
_LAST = (datetime.max.replace(tzinfo=UTC) - EPOCH) // MICROSECOND

#: No control character, and something to see: what is blank would be one and the same for all.
_IDENTIFIER = r"^(?=.*\S)[^\x00-\x1f\x7f]+(?![\s\S])"
Identifier = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=128,
        pattern=_IDENTIFIER,
        description="1 to 128 characters, not blank, and none of them a control character",
    ),
]
Text = Annotated[str, Meta(max_length=512)]
Instant = Annotated[datetime, Meta(tz=True)]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]
Amount = Annotated[int, Meta(ge=0, le=1_000_000_000_000, description="in the minor unit")]

EventType = Literal[
    "purchase",
    "payout",
    "listing",
    "registration",
    "login",
    "login_failed",
    "password_reset",
    "profile_change",
    "instrument_added",
    "store_opened",
]
#: Every type of event, in the order of its code as a feature.
EVENT_TYPES: tuple[str, ...] = EventType.__args__  # type: ignore[attr-defined]
TRANSACTION_TYPES = frozenset({"purchase", "payout", "listing"})
#: A place is kept as a cell of a grid of so many kilometres through the Earth, 12 bits an axis.
PLACE_KM, PLACE_BITS = 5, 12
#: What becomes known of an event enters the windows as an event of its own, when it is known.
FRAUD, CLEARED = "fraud", "cleared"
KNOWN = frozenset({FRAUD, CLEARED})

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


# --- what is given: raw, for one request -----------------------------------------------------


class Guard:
    """What no encoder knows: a struct that holds it is encoded by none."""

    def __repr__(self) -> str:
        return "withheld"


#: The guard's name in a body: none that a client would choose.
GUARD = "<guard>"


_THE_GUARD = Guard()


def _guard() -> Guard:  # a default by itself would be drawn into the schema of the API
    return _THE_GUARD


class Raw(Struct, frozen=True, kw_only=True):
    """A part of a request that may hold raw identifiers, and so does not print itself.

    msgspec encodes a struct from C and asks nobody; at `guard` it stops.
    """

    guard: Guard = field(default_factory=_guard, name=GUARD)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} withheld>"

    __str__ = __repr__

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []

    def __reduce__(self) -> Any:
        raise TypeError(f"{type(self).__name__} lives for one request: it is not pickled or copied")

    def __copy__(self) -> Any:
        return self.__reduce__()


class What(Raw, frozen=True, kw_only=True):
    type: EventType
    occurred_at: Instant


class MemberOptional(Raw, frozen=True, kw_only=True):
    birth_date: Text | None = None
    gender: Text | None = None
    real_name: Text | None = None
    residence: Text | None = None


class Member(Raw, frozen=True, kw_only=True):
    id: Identifier
    registered_at: Instant | None = None
    email: Identifier | None = None
    phone: Identifier | None = None
    optional: MemberOptional | None = None


class Instrument(Raw, frozen=True, kw_only=True):
    kind: Annotated[str, Meta(min_length=1, max_length=32)]
    id: Identifier | None = None


class Consignee(Raw, frozen=True, kw_only=True):
    name: Text | None = None
    phone: Identifier | None = None
    address: Text | None = None
    is_member: bool | None = None
    attestation_id: Identifier | None = None  # of a person's authorisation who is not the member


class Transaction(Raw, frozen=True, kw_only=True):
    order_id: Identifier
    amount: Amount
    currency: Annotated[
        str,
        Meta(pattern=r"^[A-Z]{3}(?![\s\S])", description="three capital letters, like CNY"),
    ]
    payee_id: Identifier | None = None
    item_count: Count | None = None
    instrument: Instrument | None = None
    consignee: Consignee | None = None


class Device(Raw, frozen=True, kw_only=True):
    """What a device tells. `id_kind` is whose the id is, where it is not the app's own: the regime
    names the permission that each needs."""

    id: Identifier | None = None
    id_kind: Annotated[str, Meta(min_length=1, max_length=32)] | None = None
    model: Text | None = None
    os: Text | None = None
    permissions: Annotated[tuple[Text, ...], Meta(max_length=64)] = ()


class Gps(Raw, frozen=True, kw_only=True):
    lat: Annotated[float, Meta(ge=-90, le=90)]
    lon: Annotated[float, Meta(ge=-180, le=180)]


class Location(Raw, frozen=True, kw_only=True):
    """Networks and stations near the device are accepted so that the gate can say what it thinks
    of them; nothing reads them."""

    ip: Identifier | None = None
    gps: Gps | None = None
    wifi: Any = None
    bluetooth: Any = None
    base_station: Any = None


class Log(Raw, frozen=True, kw_only=True):
    user_agent: Text | None = None
    language: Text | None = None
    carrier: Text | None = None
    session_id: Identifier | None = None
    page_views: Count | None = None
    search_count: Count | None = None
    seconds_on_page: Annotated[float, Meta(ge=0, le=10_000_000)] | None = None


class Identity(Raw, frozen=True, kw_only=True):
    """Results of verification; a document or a face never comes this way."""

    document_verified: bool | None = None
    document_type: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    face_match_level: Annotated[int, Meta(ge=0, le=9)] | None = None
    credit_band: Annotated[int, Meta(ge=0, le=9)] | None = None


class Given(Raw, frozen=True, kw_only=True):
    """The body of `POST /v1/assessments`.

    `threat_type` is what the purpose protects from, where the caller says so.
    Communications and profile tags are accepted so that the gate can say what it thinks of them;
    nothing reads them.
    """

    event_id: Identifier
    purpose: Annotated[str, Meta(min_length=1, max_length=64)]
    event: What
    mode: Literal["protect", "evaluate"] = "protect"
    threat_type: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    member: Member | None = None
    transaction: Transaction | None = None
    device: Device | None = None
    location: Location | None = None
    log: Log | None = None
    identity: Identity | None = None
    sources: dict[str, Annotated[str, Meta(max_length=160)]] = {}
    communication: Any = None
    profile: Any = None


# What a Struct may hold is worked out at its first use, and two threads at that at once can crash
# the process (msgspec 0.22): so it is done here, before there are any.
Decoder(Given)


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


class Spelt(Raw, frozen=True, kw_only=True):
    """Identifiers of a request in their one spelling, raw still: the address with its network."""

    phone: str | None = None
    email: str | None = None
    ip: tuple[bytes, bytes] | None = None


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

    `place` is a cell of about 5 km: see `pseudonym.cell`. `brought` is JSON, by category, of what
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


class Outcome(Struct, frozen=True):
    """What to do: `level` is low, elevated, high or highest; `action` allow to block."""

    level: str
    action: str


#: The answer to a request, as JSON-ready values; `decide` makes it, the ledger keeps it.
Answer = dict[str, Any]
