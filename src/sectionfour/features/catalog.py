"""Every feature that a model sees, defined once, as data. Both walks read this list.

A window is an aggregate of the *earlier* events of one entity: those x with
`e.at - over < x.at < e.at`. A row feature is arithmetic on windows and on the event itself, made
only of operations that IEEE 754 makes exact, so that a number online and a column offline agree to
the bit. No clock, no I/O, no pandas: stores are handed in elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from sectionfour.domain import (
    CLEARED,
    DAY,
    EVENT_TYPES,
    FRAUD,
    HOUR,
    MINUTE,
    PLACE_BITS,
    PLACE_KM,
    SECOND,
    WEEK,
)

MONTH, YEAR = 30 * DAY, 365 * DAY

#: The largest number of others that a distinct count tells apart.
DISTINCT_CAP = 1_000
#: Squares are taken of at most this amount, so that 2^15 of them sum within 64 bits.
SQUARED_CAP = 1 << 24
#: What a member without a past is taken to spend on one purchase, in minor units; weighs as one.
TYPICAL_AMOUNT = 5_000

#: The entities that windows are kept by, and the data category that each comes from.
ENTITIES = {
    "member": "member.required",
    "phone": "member.required",
    "email": "member.required",
    "device": "device",
    "ip": "location",
    "network": "location",
    "payee": "order",
    "instrument": "payment",
    "address": "consignee",
}

#: The streams: which types of event each is made of.
STREAMS = {
    "event": frozenset(EVENT_TYPES),
    "purchase": frozenset({"purchase"}),
    "payout": frozenset({"payout"}),
    "registration": frozenset({"registration"}),
    "login_failed": frozenset({"login_failed"}),
    "change": frozenset({"password_reset", "profile_change", "instrument_added"}),
    "fraud": frozenset({FRAUD}),
    "cleared": frozenset({CLEARED}),
}

#: The aggregates over what came after the newest event of another stream.
RUNS = frozenset({"run", "run_age"})
#: What single earlier events are looked at for, and of how many of the newest of them: a member's
#: own alone, for what is kept of others could not be taken away with one who goes.
NEWEST = {"amount": 16, "place": 1}
#: The aggregates over those: of each one, and of what.
RECENT = {"below": "amount", "above": "amount", "distance": "place", "distance_age": "place"}
#: The category that each comes from, where the current event has it.
RECENT_NEEDS = {"amount": "order", "place": "location.gps"}

#: What an event itself brings to row features, and the category that each comes from.
INPUTS = {
    "at": None,
    "type_code": None,
    "amount": "order",
    "item_count": "order",
    "registered_at": "member.required",
    "consignee_self": "consignee",
    "page_views": "log",
    "search_count": "log",
    "seconds_on_page": "log",
    "document_verified": "identity.document",
    "face_match_level": "biometric.face",
}

#: The cluster of a member: all members that one comes to from this one over devices, instruments
#: and delivery addresses that they share, by the events of CLUSTER_OVER. It is found in batch; an
#: event has the newest found before it. Missing where the event lacks any of CLUSTER_BY.
CLUSTER_INPUTS = ("cluster_size", "cluster_frauds")
CLUSTER_BY = ("member", "device", "instrument", "address")
CLUSTER_NEEDS = tuple(ENTITIES[name] for name in CLUSTER_BY)
CLUSTER_OVER = MONTH
#: What more members than this share joins nobody: the terminal of a shop, a parcel locker. One of
#: them would make a single cluster of strangers, which says nothing of anybody.
HUB_MEMBERS = 20
#: Size of the cluster, and members in it of whom a fraud is known, of who shares nothing.
ALONE = (1, 0)
#: A cluster's share of frauds is taken as if it had so many honest members more.
CLUSTER_PRIOR = 2


class Operations(Protocol):
    """What a row formula may do beyond + - * and comparisons; numbers and columns each have one."""

    def div(self, a: Any, b: Any) -> Any:
        """a / b; missing where b is zero."""

    def sqrt(self, a: Any) -> Any:
        """The square root; zero for what is below zero."""

    def is_zero(self, a: Any) -> Any:
        """1 where a is zero, else 0."""

    def less(self, a: Any, b: Any) -> Any:
        """1 where a < b, else 0; missing where either is."""

    def hour(self, at: Any) -> Any:
        """The hour of the day in UTC, 0 to 23."""


@dataclass(frozen=True, slots=True)
class Window:
    """An aggregate over the earlier events of an entity.

    `agg`: count, sum (`what`: amount or amount_sq), distinct (`what`: another entity, at most
    1,000), since_last (seconds; `over` where there is none), age (seconds since first seen, of the
    entity or of its pair with `what`; 0 when new), run (how many in a row: those after the newest
    event of the entity in the stream `what`), run_age (seconds since the first of that run;
    missing where there is none), below and above (how many of the newest 16 with a `what` had less,
    or more, than this event has), distance (km to where the newest with a place was; missing where
    there is none) and distance_age (seconds since that one). `over` is in microseconds. A window is missing where the event
    has no `by`, or no `what` where that is an entity or is compared.
    """

    name: str
    by: str
    of: str
    agg: str
    over: int
    code: str
    unit: str
    says: str
    what: str | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """The data categories of the current event without which this feature is missing."""
        other = ENTITIES.get(self.what or "")
        if self.agg in RECENT:
            other = RECENT_NEEDS[str(self.what)]
        return (ENTITIES[self.by],) if other is None else (ENTITIES[self.by], other)


@dataclass(frozen=True, slots=True)
class Row:
    """Arithmetic on the event and its windows: `formula(f, o)`, with `f.NAME` and `Operations`."""

    name: str
    formula: Callable[[Any, Operations], Any]
    needs: tuple[str, ...]
    code: str
    unit: str
    says: str
    #: A value at which `says` is nothing to tell, or is not so; nor is it at any below.
    untold: float | None = None


#: Reason codes: what an answer gives as its grounds, each for a group of features.
REASONS = {
    "member_activity": "how much this member has done in a short time",
    "member_spending": "how much this member has bought lately",
    "amount_unusual": "how the amount compares with what is usual",
    "account_new": "how long the account has existed",
    "account_changes": "whether the account or its password was changed lately",
    "failed_logins": "how many logins failed at the account, the device or the address",
    "device_new": "how long this device has been known, and with this member",
    "device_activity": "how much was done from this device",
    "device_shared": "how many members use this device",
    "contact_shared": "how many members share a phone number or a mail address",
    "address_activity": "how much was done from this network address",
    "address_shared": "how many members use this network address",
    "payee_activity": "how much this payee receives, from how many members",
    "instrument_shared": "how this payment instrument is used, and by how many members",
    "delivery_shared": "how this delivery address is used, and by how many members",
    "cluster_shared": "how many members share devices, instruments or addresses with this one, directly or over others",
    "travel": "how far this is from where the member last was, and how soon after",
    "known_fraud": "whether frauds are known of the member, payee, device or address",
    "session_behaviour": "how the session went: pages, searches, seconds",
    "identity": "the result of a verification of identity",
    "event_context": "what kind of event it is, and when",
}

_D, _S = "distinct", "sum"

# One line a feature: name, entity, stream, aggregate, window, reason, unit, text[, of what].
# fmt: off
WINDOWS: tuple[Window, ...] = (
    Window("member_events_5m", "member", "event", "count", 5 * MINUTE, "member_activity", "events", "{:.0f} events by this member in 5 minutes"),
    Window("member_events_1h", "member", "event", "count", HOUR, "member_activity", "events", "{:.0f} events by this member in an hour"),
    Window("member_events_24h", "member", "event", "count", DAY, "member_activity", "events", "{:.0f} events by this member in 24 hours"),
    Window("member_events_30d", "member", "event", "count", MONTH, "member_activity", "events", "{:.0f} events by this member in 30 days"),
    Window("member_since_last", "member", "event", "since_last", MONTH, "member_activity", "s", "{} since the member's last event"),
    Window("member_purchases_1h", "member", "purchase", "count", HOUR, "member_spending", "purchases", "{:.0f} purchases by this member in an hour"),
    Window("member_purchases_24h", "member", "purchase", "count", DAY, "member_spending", "purchases", "{:.0f} purchases by this member in 24 hours"),
    Window("member_purchases_7d", "member", "purchase", "count", WEEK, "member_spending", "purchases", "{:.0f} purchases by this member in 7 days"),
    Window("member_purchases_30d", "member", "purchase", "count", MONTH, "member_spending", "purchases", "{:.0f} purchases by this member in 30 days"),
    Window("member_amount_24h", "member", "purchase", _S, DAY, "member_spending", "minor units", "{:.0f} (minor units) spent by this member in 24 hours", "amount"),
    Window("member_amount_7d", "member", "purchase", _S, WEEK, "member_spending", "minor units", "{:.0f} (minor units) spent by this member in 7 days", "amount"),
    Window("member_amount_30d", "member", "purchase", _S, MONTH, "member_spending", "minor units", "{:.0f} (minor units) spent by this member in 30 days", "amount"),
    Window("member_purchases_1y", "member", "purchase", "count", YEAR, "member_spending", "purchases", "{:.0f} purchases by this member in a year"),
    Window("member_amount_1y", "member", "purchase", _S, YEAR, "member_spending", "minor units", "{:.0f} (minor units) spent by this member in a year", "amount"),
    Window("member_amount_sq_30d", "member", "purchase", _S, MONTH, "amount_unusual", "minor units^2", "spread of the member's amounts", "amount_sq"),
    Window("member_amount_sq_7d", "member", "purchase", _S, WEEK, "amount_unusual", "minor units^2", "spread of the member's latest amounts", "amount_sq"),
    Window("member_cleared_1y", "member", "cleared", "count", YEAR, "member_spending", "purchases", "{:.0f} purchases of this member known to be honest in a year"),
    Window("member_cleared_amount_1y", "member", "cleared", _S, YEAR, "amount_unusual", "minor units", "{:.0f} (minor units) spent by this member and known to be honest in a year", "amount"),
    Window("member_amounts_below", "member", "purchase", "below", YEAR, "amount_unusual", "purchases", "{:.0f} of this member's newest purchases were of less", "amount"),
    Window("member_amounts_above", "member", "purchase", "above", YEAR, "amount_unusual", "purchases", "{:.0f} of this member's newest purchases were of more", "amount"),
    Window("member_distance", "member", "event", "distance", MONTH, "travel", "km", "{:.0f} km from where this member last was", "place"),
    Window("member_distance_age", "member", "event", "distance_age", MONTH, "travel", "s", "this member was last located {} ago", "place"),
    Window("member_payees_24h", "member", "purchase", _D, DAY, "member_spending", "payees", "{:.0f} payees paid by this member in 24 hours", "payee"),
    Window("member_failed_logins_1h", "member", "login_failed", "count", HOUR, "failed_logins", "logins", "{:.0f} failed logins at this account in an hour"),
    Window("member_failed_logins_24h", "member", "login_failed", "count", DAY, "failed_logins", "logins", "{:.0f} failed logins at this account in 24 hours"),
    Window("member_since_failed", "member", "login_failed", "since_last", MONTH, "failed_logins", "s", "{} since the last failed login at this account"),
    Window("member_changes_24h", "member", "change", "count", DAY, "account_changes", "changes", "{:.0f} changes to this account in 24 hours"),
    Window("member_changes_7d", "member", "change", "count", WEEK, "account_changes", "changes", "{:.0f} changes to this account in 7 days"),
    Window("member_since_change", "member", "change", "since_last", MONTH, "account_changes", "s", "{} since the last change to this account"),
    Window("member_payouts_7d", "member", "payout", "count", WEEK, "account_changes", "payouts", "{:.0f} payouts to this member in 7 days"),
    Window("member_devices_30d", "member", "event", _D, MONTH, "device_new", "devices", "{:.0f} devices used by this member in 30 days", "device"),
    Window("member_ips_24h", "member", "event", _D, DAY, "address_activity", "addresses", "{:.0f} network addresses used by this member in 24 hours", "ip"),
    Window("member_instruments_24h", "member", "purchase", _D, DAY, "instrument_shared", "instruments", "{:.0f} instruments used by this member in 24 hours", "instrument"),
    Window("member_instruments_30d", "member", "purchase", _D, MONTH, "instrument_shared", "instruments", "{:.0f} instruments used by this member in 30 days", "instrument"),
    Window("member_addresses_30d", "member", "purchase", _D, MONTH, "delivery_shared", "addresses", "{:.0f} delivery addresses used by this member in 30 days", "address"),
    Window("member_device_age", "member", "event", "age", MONTH, "device_new", "s", "this device was first used by this member {} ago", "device"),
    Window("member_instrument_age", "member", "purchase", "age", MONTH, "instrument_shared", "s", "this instrument was first used by this member {} ago", "instrument"),
    Window("member_address_age", "member", "purchase", "age", MONTH, "delivery_shared", "s", "this delivery address was first used by this member {} ago", "address"),
    Window("member_payee_age", "member", "purchase", "age", MONTH, "payee_activity", "s", "this member first paid this payee {} ago", "payee"),
    Window("member_frauds_30d", "member", "fraud", "count", MONTH, "known_fraud", "frauds", "{:.0f} frauds known of this member in 30 days"),
    Window("phone_members_30d", "phone", "event", _D, MONTH, "contact_shared", "members", "{:.0f} members with this phone number", "member"),
    Window("email_members_30d", "email", "event", _D, MONTH, "contact_shared", "members", "{:.0f} members with this mail address", "member"),
    Window("device_events_5m", "device", "event", "count", 5 * MINUTE, "device_activity", "events", "{:.0f} events from this device in 5 minutes"),
    Window("device_events_1h", "device", "event", "count", HOUR, "device_activity", "events", "{:.0f} events from this device in an hour"),
    Window("device_events_24h", "device", "event", "count", DAY, "device_activity", "events", "{:.0f} events from this device in 24 hours"),
    Window("device_purchases_7d", "device", "purchase", "count", WEEK, "device_activity", "purchases", "{:.0f} purchases from this device in 7 days"),
    Window("device_registrations_30d", "device", "registration", "count", MONTH, "device_shared", "registrations", "{:.0f} registrations from this device in 30 days"),
    Window("device_failed_logins_1h", "device", "login_failed", "count", HOUR, "failed_logins", "logins", "{:.0f} failed logins from this device in an hour"),
    Window("device_members_24h", "device", "event", _D, DAY, "device_shared", "members", "{:.0f} members used this device in 24 hours", "member"),
    Window("device_members_30d", "device", "event", _D, MONTH, "device_shared", "members", "{:.0f} members used this device in 30 days", "member"),
    Window("device_age", "device", "event", "age", MONTH, "device_new", "s", "this device was first seen {} ago"),
    Window("device_since_fraud", "device", "fraud", "since_last", 3 * MONTH, "known_fraud", "s", "{} since a fraud became known from this device"),
    Window("device_frauds_30d", "device", "fraud", "count", MONTH, "known_fraud", "frauds", "{:.0f} frauds known from this device in 30 days"),
    Window("ip_events_5m", "ip", "event", "count", 5 * MINUTE, "address_activity", "events", "{:.0f} events from this network address in 5 minutes"),
    Window("ip_events_1h", "ip", "event", "count", HOUR, "address_activity", "events", "{:.0f} events from this network address in an hour"),
    Window("ip_events_24h", "ip", "event", "count", DAY, "address_activity", "events", "{:.0f} events from this network address in 24 hours"),
    Window("ip_failed_logins_1h", "ip", "login_failed", "count", HOUR, "failed_logins", "logins", "{:.0f} failed logins from this network address in an hour"),
    Window("ip_members_24h", "ip", "event", _D, DAY, "address_shared", "members", "{:.0f} members used this network address in 24 hours", "member"),
    Window("ip_frauds_30d", "ip", "fraud", "count", MONTH, "known_fraud", "frauds", "{:.0f} frauds known from this network address in 30 days"),
    Window("network_events_1h", "network", "event", "count", HOUR, "address_activity", "events", "{:.0f} events from this network in an hour"),
    Window("network_registrations_24h", "network", "registration", "count", DAY, "address_shared", "registrations", "{:.0f} registrations from this network in 24 hours"),
    Window("network_members_24h", "network", "event", _D, DAY, "address_shared", "members", "{:.0f} members used this network in 24 hours", "member"),
    Window("payee_purchases_1h", "payee", "purchase", "count", HOUR, "payee_activity", "purchases", "{:.0f} purchases at this payee in an hour"),
    Window("payee_purchases_24h", "payee", "purchase", "count", DAY, "payee_activity", "purchases", "{:.0f} purchases at this payee in 24 hours"),
    Window("payee_purchases_7d", "payee", "purchase", "count", WEEK, "payee_activity", "purchases", "{:.0f} purchases at this payee in 7 days"),
    Window("payee_purchases_14d", "payee", "purchase", "count", 14 * DAY, "payee_activity", "purchases", "{:.0f} purchases at this payee in 14 days"),
    Window("payee_purchases_37d", "payee", "purchase", "count", 37 * DAY, "payee_activity", "purchases", "{:.0f} purchases at this payee in 37 days"),
    Window("payee_purchases_30d", "payee", "purchase", "count", MONTH, "payee_activity", "purchases", "{:.0f} purchases at this payee in 30 days"),
    Window("payee_amount_30d", "payee", "purchase", _S, MONTH, "amount_unusual", "minor units", "{:.0f} (minor units) taken by this payee in 30 days", "amount"),
    Window("payee_members_24h", "payee", "purchase", _D, DAY, "payee_activity", "members", "{:.0f} members paid this payee in 24 hours", "member"),
    Window("payee_age", "payee", "purchase", "age", MONTH, "payee_activity", "s", "this payee was first paid {} ago"),
    Window("payee_frauds_7d", "payee", "fraud", "count", WEEK, "known_fraud", "frauds", "{:.0f} frauds known at this payee in 7 days"),
    Window("payee_frauds_14d", "payee", "fraud", "count", 14 * DAY, "known_fraud", "frauds", "{:.0f} frauds known at this payee in 14 days"),
    Window("payee_since_cleared", "payee", "cleared", "since_last", 3 * MONTH, "known_fraud", "s", "{} since a purchase at this payee was known to be honest"),
    Window("payee_frauds_30d", "payee", "fraud", "count", MONTH, "known_fraud", "frauds", "{:.0f} frauds known at this payee in 30 days"),
    Window("payee_fraud_amount_7d", "payee", "fraud", _S, WEEK, "known_fraud", "minor units", "{:.0f} (minor units) lost to frauds known at this payee in 7 days", "amount"),
    Window("payee_fraud_amount_30d", "payee", "fraud", _S, MONTH, "known_fraud", "minor units", "{:.0f} (minor units) lost to frauds known at this payee in 30 days", "amount"),
    Window("payee_since_fraud", "payee", "fraud", "since_last", MONTH, "known_fraud", "s", "{} since a fraud became known at this payee"),
    Window("payee_first_fraud", "payee", "fraud", "age", YEAR, "known_fraud", "s", "the first fraud at this payee became known {} ago"),
    Window("payee_fraud_run", "payee", "fraud", "run", YEAR, "known_fraud", "frauds", "{:.0f} frauds in a row, the newest of what is known at this payee", "cleared"),
    Window("payee_fraud_run_age", "payee", "fraud", "run_age", YEAR, "known_fraud", "s", "nothing but frauds became known at this payee for {}", "cleared"),
    Window("instrument_purchases_1h", "instrument", "purchase", "count", HOUR, "instrument_shared", "purchases", "{:.0f} purchases with this instrument in an hour"),
    Window("instrument_purchases_24h", "instrument", "purchase", "count", DAY, "instrument_shared", "purchases", "{:.0f} purchases with this instrument in 24 hours"),
    Window("instrument_purchases_30d", "instrument", "purchase", "count", MONTH, "instrument_shared", "purchases", "{:.0f} purchases with this instrument in 30 days"),
    Window("instrument_members_30d", "instrument", "purchase", _D, MONTH, "instrument_shared", "members", "{:.0f} members used this instrument in 30 days", "member"),
    Window("instrument_age", "instrument", "purchase", "age", MONTH, "instrument_shared", "s", "this instrument was first used {} ago"),
    Window("address_purchases_7d", "address", "purchase", "count", WEEK, "delivery_shared", "purchases", "{:.0f} purchases to this delivery address in 7 days"),
    Window("address_members_30d", "address", "purchase", _D, MONTH, "delivery_shared", "members", "{:.0f} members ordered to this delivery address in 30 days", "member"),
    Window("address_frauds_30d", "address", "fraud", "count", MONTH, "known_fraud", "frauds", "{:.0f} frauds known at this delivery address in 30 days"),
)


def _spread(f: Any, o: Operations) -> Any:
    """Standard deviation of the member's amounts in 30 days, from exact sums."""
    mean = o.div(f.member_amount_30d, f.member_purchases_30d)
    return o.sqrt(o.div(f.member_amount_sq_30d, f.member_purchases_30d) - mean * mean)


#: What no traveller exceeds, in km/h, and over less than so many km nobody is called one.
FASTEST, FAR = 1_000, 100


def distance(a: Any, b: Any, o: Operations) -> Any:
    """The straight line between two cells, in km: through the Earth, so up to a third less than
    over it. Cells, or columns of them."""
    squares = 0
    for shift in (0, PLACE_BITS, 2 * PLACE_BITS):
        apart = (a >> shift & _AXIS) - (b >> shift & _AXIS)
        squares = squares + apart * apart
    return o.sqrt(squares) * PLACE_KM


_AXIS = (1 << PLACE_BITS) - 1


def _speed(f: Any, o: Operations) -> Any:
    """km/h; a minute is added, in which a neighbouring cell is no journey."""
    return o.div(f.member_distance * 3600, f.member_distance_age + 60)


def _cleared_mean(f: Any, o: Operations) -> Any:
    """Mean of the member's purchases known to be honest, drawn towards a typical amount."""
    return o.div(f.member_cleared_amount_1y + TYPICAL_AMOUNT, f.member_cleared_1y + 1)


ROWS: tuple[Row, ...] = (
    Row("event_type", lambda f, o: f.type_code, (), "event_context", "code", "the kind of this event"),
    Row("hour", lambda f, o: o.hour(f.at), (), "event_context", "hour, UTC", "at {:.0f} o'clock UTC"),
    Row("account_age", lambda f, o: (f.at - f.registered_at) / SECOND, ("member.required",), "account_new", "s", "the account was made {} ago", untold=0.0),
    Row("amount", lambda f, o: f.amount, ("order",), "amount_unusual", "minor units", "an amount of {:.0f} (minor units)"),
    Row("item_count", lambda f, o: f.item_count, ("order",), "amount_unusual", "items", "{:.0f} items"),
    Row("amount_to_member_mean", lambda f, o: o.div(f.amount, o.div(f.member_amount_30d, f.member_purchases_30d)), ("member.required", "order"), "amount_unusual", "ratio", "an amount {:.1f} times this member's mean"),
    Row("amount_spreads_from_mean", lambda f, o: o.div(f.amount - o.div(f.member_amount_30d, f.member_purchases_30d), _spread(f, o) + 100), ("member.required", "order"), "amount_unusual", "standard deviations", "an amount {:.1f} standard deviations from this member's mean"),
    Row("amount_to_payee_mean", lambda f, o: o.div(f.amount, o.div(f.payee_amount_30d, f.payee_purchases_30d)), ("order",), "amount_unusual", "ratio", "an amount {:.1f} times this payee's mean"),
    Row("amount_to_member_day", lambda f, o: o.div(f.amount, f.member_amount_24h + f.amount), ("member.required", "order"), "member_spending", "share", "{:.2f} of the member's spending in a day"),
    Row("amount_to_cleared_mean", lambda f, o: o.div(f.amount, _cleared_mean(f, o)), ("member.required", "order"), "amount_unusual", "ratio", "an amount {:.1f} times what is taken to be usual for this member"),
    Row("cleared_mean", lambda f, o: _cleared_mean(f, o), ("member.required",), "amount_unusual", "minor units", "{:.0f} (minor units) is taken to be usual for this member", untold=TYPICAL_AMOUNT),
    Row("spending_excess_7d", lambda f, o: o.div(f.member_amount_7d, _cleared_mean(f, o)) - f.member_purchases_7d, ("member.required",), "member_spending", "purchases", "{:.1f} usual purchases more than usual in 7 days", untold=0.0),
    Row("spending_squares_7d", lambda f, o: o.div(f.member_amount_sq_7d, _cleared_mean(f, o) * _cleared_mean(f, o)) - f.member_purchases_7d, ("member.required",), "member_spending", "squares", "large amounts among this member's purchases of 7 days", untold=0.0),
    Row("payee_fraud_share", lambda f, o: o.div(f.payee_frauds_30d, f.payee_purchases_37d - f.payee_purchases_7d + 1), ("order",), "known_fraud", "share", "known frauds are {:.2f} of this payee's purchases of a month, a week ago", untold=0.0),
    Row("payee_fraud_share_7d", lambda f, o: o.div(f.payee_frauds_7d, f.payee_purchases_14d - f.payee_purchases_7d + 1), ("order",), "known_fraud", "share", "known frauds are {:.2f} of this payee's purchases of the week before last", untold=0.0),
    Row("payee_fraud_mean_7d", lambda f, o: o.div(f.payee_fraud_amount_7d, f.payee_frauds_7d), ("order",), "known_fraud", "minor units", "{:.0f} (minor units) is the mean of the frauds known at this payee in 7 days"),
    Row("payee_fraud_mean_30d", lambda f, o: o.div(f.payee_fraud_amount_30d, f.payee_frauds_30d), ("order",), "known_fraud", "minor units", "{:.0f} (minor units) is the mean of the frauds known at this payee in 30 days"),
    Row("member_pace", lambda f, o: o.div(f.member_events_24h * 30, f.member_events_30d + 1), ("member.required",), "member_activity", "ratio", "{:.1f} times this member's usual pace", untold=0.0),
    Row("member_burst", lambda f, o: o.div(f.member_events_1h * 720, f.member_events_30d + 1), ("member.required",), "member_activity", "ratio", "{:.1f} times this member's usual pace, in an hour", untold=0.0),
    Row("amount_to_older_mean", lambda f, o: o.div(f.amount, o.div(f.member_amount_1y - f.member_amount_30d + TYPICAL_AMOUNT, f.member_purchases_1y - f.member_purchases_30d + 1)), ("member.required", "order"), "amount_unusual", "ratio", "an amount {:.1f} times what a month ago was taken to be usual for this member"),
    Row("changed_after_failures", lambda f, o: o.less(f.member_since_change, f.member_since_failed) * o.less(f.member_since_failed, WEEK / SECOND), ("member.required",), "account_changes", "0 or 1", "the account was changed after failed logins", untold=0.0),
    Row("amount_rank", lambda f, o: o.div(f.member_amounts_below + 1, f.member_amounts_below + f.member_amounts_above + 2), ("member.required", "order"), "amount_unusual", "share", "larger than a share of {:.2f} of this member's newest purchases", untold=0.5),
    Row("travel_speed", lambda f, o: _speed(f, o), ("member.required", "location.gps"), "travel", "km/h", "{:.0f} km/h since this member was last located", untold=PLACE_KM),
    Row("impossible_travel", lambda f, o: o.less(FASTEST, _speed(f, o)) * o.less(FAR, f.member_distance), ("member.required", "location.gps"), "travel", "0 or 1", "farther from where this member last was than anyone travels in the time", untold=0.0),
    Row("new_device", lambda f, o: o.is_zero(f.member_device_age), ("member.required", "device"), "device_new", "0 or 1", "a device that is new for this member", untold=0.0),
    Row("cluster_size", lambda f, o: f.cluster_size, CLUSTER_NEEDS, "cluster_shared", "members", "{:.0f} members are joined by devices, instruments or addresses that they share", untold=1.0),
    Row("cluster_frauds", lambda f, o: f.cluster_frauds, CLUSTER_NEEDS, "cluster_shared", "members", "a fraud is known of {:.0f} of the members who are joined by what they share", untold=0.0),
    Row("cluster_fraud_share", lambda f, o: o.div(f.cluster_frauds, f.cluster_size + CLUSTER_PRIOR), CLUSTER_NEEDS, "cluster_shared", "share", "a fraud is known of a share of {:.2f} of the members who are joined by what they share", untold=0.0),
    Row("consignee_self", lambda f, o: f.consignee_self, ("consignee",), "delivery_shared", "0 or 1", "the member is the consignee", untold=0.0),
    Row("page_views", lambda f, o: f.page_views, ("log",), "session_behaviour", "pages", "{:.0f} pages in this session"),
    Row("search_count", lambda f, o: f.search_count, ("log",), "session_behaviour", "searches", "{:.0f} searches in this session"),
    Row("seconds_on_page", lambda f, o: f.seconds_on_page, ("log",), "session_behaviour", "s", "{} on the page"),
    Row("seconds_a_page", lambda f, o: o.div(f.seconds_on_page, f.page_views), ("log",), "session_behaviour", "s", "{} a page"),
    Row("document_verified", lambda f, o: f.document_verified, ("identity.document",), "identity", "0 or 1", "the result of a document check"),
    Row("face_match_level", lambda f, o: f.face_match_level, ("biometric.face",), "identity", "level", "a face match of level {:.0f}"),
)
# fmt: on

FEATURES: tuple[Window | Row, ...] = WINDOWS + ROWS
NAMES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)

#: Categories that an account event has none of; an account model learns without their features.
TRANSACTION_ONLY = frozenset({"order", "payment", "consignee"})


def columns(model: str) -> tuple[int, ...]:
    """Return the positions in FEATURES that `model` ("transaction" or "account") learns from."""
    return tuple(
        i
        for i, feature in enumerate(FEATURES)
        if model == "transaction" or not TRANSACTION_ONLY.intersection(feature.needs)
    )


def needed(columns: Iterable[int]) -> frozenset[str]:
    """Return the data categories that any of these features needs."""
    return frozenset(category for place in columns for category in FEATURES[place].needs)


NAN = math.nan


class Numbers:
    """`Operations` on Python floats, NaN for missing."""

    @staticmethod
    def div(a: float, b: float) -> float:
        return a / b if b else NAN

    @staticmethod
    def sqrt(a: float) -> float:
        return math.sqrt(a) if a > 0 else (0.0 if a <= 0 else NAN)

    @staticmethod
    def is_zero(a: float) -> float:
        return 1.0 if a == 0 else (0.0 if a == a else NAN)

    @staticmethod
    def less(a: float, b: float) -> float:
        return float(a < b) if a == a and b == b else NAN

    @staticmethod
    def hour(at: float) -> float:
        return float(int(at) // HOUR % 24)
