"""One value, one spelling: whichever way an identifier was written, one token is made of it.

What comes out is raw still. A spelling that changes here makes other tokens of what is kept under
the old ones: nobody is known again by it.
"""

from __future__ import annotations

import ipaddress
import math
import re
import unicodedata

import phonenumbers

from sectionfour.domain import PLACE_BITS, PLACE_KM
from sectionfour.errors import BadRequest
from sectionfour.given import Given, Spelt


def spelt(given: Given, region: str) -> Spelt:
    """Return what of `given` can be malformed, in its one spelling; raises BadRequest if it is.

    `region` is that of phone numbers without a country code, as in `phone`.
    """
    member, location = given.member, given.location
    return Spelt(
        phone=None if member is None or member.phone is None else phone(member.phone, region),
        email=None if member is None or member.email is None else email(member.email),
        ip=None if location is None or location.ip is None else ip(location.ip),
    )


def plain(text: str) -> str:
    r"""Return an identifier without the white space around it, its characters composed (NFC).

    For those without a spelling of their own: ids of members, orders, payees, devices, instruments.

    >>> plain(" me\u0301_1\n")
    'm\xe9_1'
    """
    text = text.strip()
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def phone(text: str, region: str = "CN") -> str:
    """Return a phone number in E.164; raises BadRequest for what is none.

    >>> phone("138 0013-8000"), phone("+86 138 0013 8000")
    ('+8613800138000', '+8613800138000')
    """
    if _SPELT.match(text):
        return text
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        raise BadRequest("not a phone number", pointer="/member/phone") from None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


#: A Chinese mobile number in E.164: the commonest, and a tenth of claim's time to find so spelt.
#: 179 is left out: it may be a carrier's prefix, which the library takes away.
_SPELT = re.compile(r"\+861(?:[3-689]\d|7[0-8])\d{8}\Z", re.ASCII)


def email(text: str) -> str:
    """Return a mail address lower-cased, its domain in ASCII; raises BadRequest for what is none.

    >>> email(" Anna@EXAMPLE.com")
    'anna@example.com'
    """
    # lower(), not casefold(): that makes one mailbox of two, where a sharp s is for "ss".
    local, at, domain = plain(plain(text).lower()).rpartition("@")
    labels = _DOTS.split(unicodedata.normalize("NFKC", domain).lower().removesuffix("."))
    if not (local and at and all(labels)) or any(map(str.isspace, local + domain)):
        raise BadRequest("not a mail address", pointer="/member/email")
    ascii_domain = ".".join(
        label if label.isascii() else f"xn--{label.encode('punycode').decode()}" for label in labels
    )
    return f"{local}@{ascii_domain}"


#: Full stops of other scripts that stand for one in a domain (RFC 3490, section 3.1).
_DOTS = re.compile("[.\u3002\uff0e\uff61]")


def address(text: str) -> str:
    r"""Return a postal address with one width of characters, one case and single spaces.

    >>> address("\uff11\uff12  Long  Road ")
    '12 long road'
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def ip(text: str) -> tuple[bytes, bytes]:
    """Return an address and its network (/24 of IPv4, /48 of IPv6), packed.

    An IPv4 address written as IPv6 is the IPv4 address. Raises BadRequest for what is none.

    >>> ip("::ffff:203.0.113.7") == ip("203.0.113.7")
    True
    """
    try:
        found = ipaddress.ip_address(text.strip())
    except ValueError:
        raise BadRequest("not an IP address", pointer="/location/ip") from None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    packed = found.packed
    return packed, packed[:3] if len(packed) == 4 else packed[:6]


def cell(lat: float, lon: float) -> int:
    """Return the cell that a place on the Earth is in: about 5 km, no finer (R-15).

    Degrees in; out come the three co-ordinates from the centre of the Earth (a sphere of 6,371 km),
    in cells: so a distance is the root of three squares, which is the same number wherever it is
    computed. A geohash of five letters is as coarse, but its distances need sines.

    >>> cell(31.2304, 121.4737) == cell(31.2310, 121.4741)
    True
    """
    north, east = math.radians(lat), math.radians(lon)
    axes = (
        math.cos(north) * math.cos(east),
        math.cos(north) * math.sin(east),
        math.sin(north),
    )
    found = 0
    for axis in axes:
        found = found << PLACE_BITS | (round(6371 / PLACE_KM * axis) + (1 << PLACE_BITS - 1))
    return found
