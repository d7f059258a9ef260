"""What a feature tells a person: in words, and whether it is worth telling."""

from __future__ import annotations

from sectionfour.domain import KNOWN, SECOND
from sectionfour.features.catalog import Row, Window

#: What says nothing about the event's risk by itself is never given as a reason.
NO_REASON = frozenset({"event_context"})
#: What is counted, of one.
_ONE = {
    "addresses": "address", "changes": "change", "devices": "device", "events": "event",
    "frauds": "fraud", "instruments": "instrument", "items": "item", "logins": "login",
    "members": "member", "pages": "page", "payees": "payee", "payouts": "payout",
    "purchases": "purchase", "registrations": "registration", "searches": "search",
}  # fmt: skip


def say(feature: Window | Row, value: float) -> str:
    """Return what `feature` says to a person, at this value.

    >>> from sectionfour.features.catalog import WINDOWS
    >>> say(next(f for f in WINDOWS if f.name == "device_age"), 7260.0)
    'this device was first seen 2 hours ago'
    >>> say(next(f for f in WINDOWS if f.name == "device_age"), 0.0)
    'this device was first seen just now'
    >>> say(next(f for f in WINDOWS if f.name == "member_purchases_7d"), 1.0)
    '1 purchase by this member in 7 days'
    """
    if feature.unit != "s":
        said = feature.says.format(value)
        alone = said.startswith("1 ") and not said.startswith("1 of ") and feature.unit in _ONE
        return said.replace(feature.unit, _ONE[feature.unit], 1) if alone else said
    if value < 1:
        return feature.says.replace("{} ago", "just now").format("less than a second")
    units = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))
    name, seconds = next(unit for unit in units if value >= unit[1])
    count = int(value // seconds)
    return feature.says.format(f"{count} {name}{'s' if count > 1 else ''}")


def tells(feature: Window | Row, value: float) -> bool:
    """Whether what `feature` says at this value is a fact worth telling: not of a missing value,
    not of a count of nothing, nor of what is not so.

    A time since the last one is the whole window where there is none in it, and an age is 0 of what
    is new: of a device that is a fact, of frauds it means that there are none.
    """
    if value != value:
        return False
    if isinstance(feature, Window):
        if feature.agg == "since_last":
            return value * SECOND < feature.over
        if feature.agg == "age" and feature.of not in KNOWN:
            return value >= 0
        return value > 0 or (feature.agg == "distance_age" and value == 0)
    return feature.untold is None or value > feature.untold
