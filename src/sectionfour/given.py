"""What is given: raw, in memory, for one request.

`Given`, its parts and whatever else may hold an identifier as it was sent neither print nor format
themselves, and no encoder takes them. Beyond the seal nothing here is known. Nothing of ours is
imported here.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field
from msgspec.json import Decoder

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
MOST_AMOUNT = 1_000_000_000_000
Amount = Annotated[int, Meta(ge=0, le=MOST_AMOUNT, description="in the minor unit")]

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


class Spelt(Raw, frozen=True, kw_only=True):
    """Identifiers of a request in their one spelling, raw still: the address with its network."""

    phone: str | None = None
    email: str | None = None
    ip: tuple[bytes, bytes] | None = None


# What a Struct may hold is worked out at its first use, and two threads at that at once can crash
# the process (msgspec 0.22): so it is done here, before there are any.
Decoder(Given)
