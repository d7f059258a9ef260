"""Under which name: identifiers become keyed tokens, and what is not permitted is dropped.

`claim` says what a request would use, before the gate; `seal` turns what the gate permitted into
an `Event`. After `seal` nothing is raw: what follows sees tokens and numbers.
"""

from __future__ import annotations

import ipaddress
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import phonenumbers

from sectionfour.domain import PLACE_BITS, PLACE_KM, Event, Permit, Request, Use, micros
from sectionfour.errors import BadRequest, KeyringError
from sectionfour.given import Device, Given, Spelt
from sectionfour.privacy.kek import load_kek
from sectionfour.privacy.keys import FIRST, Keyring
from sectionfour.privacy.regime import Regime
from sectionfour.privacy.vault import Vault


@dataclass(frozen=True, slots=True)
class Keys:
    """What turns identifiers into tokens: the ring, and the vault for subjects."""

    ring: Keyring
    vault: Vault
    region: str = "CN"  # of phone numbers that are written without a country code
    currency: str | None = None  # the one that amounts are in; any without one

    def subject(self, member_id: str, *, enrol: bool = False) -> bytes | None:
        """Return a member's serve-domain token; None for one never met, unless `enrol`."""
        name = _plain(member_id)
        uid = self.vault.enrol(name) if enrol else self.vault.find(name)
        return None if uid is None else self.ring.token("serve", "subject", uid)

    def order(self, order_id: str) -> bytes:
        """Return the serve-domain token of an order."""
        return self.ring.token("serve", "order", _plain(order_id).encode())

    def enrol(self, member_ids: Sequence[str]) -> None:
        """Make a vault row for each of these members that has none, in one commit."""
        self.vault.enrol_many([_plain(member_id) for member_id in dict.fromkeys(member_ids)])

    def alias(self, subject: bytes, domain: str, epoch: str | None = None) -> bytes:
        """Return the token in `domain` of what is known by a serve-domain token.

        In the audit domain it lasts for the life of the log, whatever became of serve's epochs.
        """
        if domain == "audit" and self.ring.epoch("serve") != FIRST:
            carried = self.vault.alias(subject)
            if carried is not None:
                return carried
        return self.ring.token(domain, "alias", subject, epoch)

    def member_of(self, subject: bytes) -> str | None:
        """Return the member's id behind a serve-domain token; None where the vault knows no such
        person (any more). Opens row after row: some 15 us a member, for the rare case alone."""
        for person in self.vault.people():
            if self.ring.token("serve", "subject", person.subject_uid) == subject:
                return person.member_id
        return None

    def everybody(self) -> Iterator[bytes]:
        """Yield the serve-domain token of everybody whom the vault knows."""
        for person in self.vault.people():
            yield self.ring.token("serve", "subject", person.subject_uid)

    def sealing(self) -> Callable[[str, str, bytes], bytes]:
        """Return what makes the tokens of an event that is kept. While an epoch is ending, it
        notes what each is called in the next one."""
        return self.ring.token if self.ring.coming("serve") is None else self._met

    def _met(self, domain: str, kind: str, value: bytes) -> bytes:
        found = self.ring.token(domain, kind, value)
        following = self.ring.token(domain, kind, value, self.ring.coming("serve"))
        self.ring.successors.note(found, following)
        return found


def open_keys(home: Path, region: str = "CN", currency: str | None = None) -> Keys:
    """Open the ring and the vault of a home, both made on first use.

    KeyringError where there is a vault and no ring: every row of it would be lost unseen.
    """
    vault, folder = home / "vault.db", home / "keys"
    # The ring is made before the vault: where there is a vault, there was a ring.
    if vault.exists() and not (folder / "ring.json").exists():
        raise KeyringError(
            "the ring of keys is gone, and the vault that it opens is there:"
            " restore keys/ring.json from a copy"
        )
    ring = Keyring(folder, load_kek(home), reload=partial(load_kek, home))
    ring.key("vault:index")
    return Keys(ring, Vault(vault, ring), region, currency)


# --- one value, one spelling


def _plain(text: str) -> str:
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
    local, at, domain = _plain(_plain(text).lower()).rpartition("@")
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


# --- what a request would use


def claim(given: Given, keys: Keys, regime: Regime) -> Request:
    """Return what `given` asks of the gate: the subject, and each category that it brings along.

    A permission of the operating system that was not granted, and a consignee who is not the
    member, hinder a category whatever consent there is (R-12, R-14). Raises BadRequest for an
    identifier that is malformed, and an amount in another currency than the one set: before the
    gate, so that nothing is taken for a request that is not answered.
    """
    if given.threat_type is not None:
        regime.threat(given.threat_type)
    member, transaction, sources = given.member, given.transaction, given.sources
    if transaction is not None and transaction.currency != (keys.currency or transaction.currency):
        raise BadRequest(f"amounts are in {keys.currency} here", pointer="/transaction/currency")
    uses: list[Use] = []

    granted = given.device.permissions if given.device is not None else ()

    def bring(
        category: str,
        hindrance: str | None = None,
        attribute: str | None = None,
        attestation: str | None = None,
    ) -> None:
        needed = regime.categories[category].permission
        if needed is not None and needed not in granted:
            hindrance = "no_permission"
        origin = "first_party"
        if sources:
            origin = sources.get(category, sources.get(category.partition(".")[0], origin))
            if origin != "first_party":
                regime.source(origin, pointer="/sources")
        uses.append(Use(category, origin, hindrance, attribute, attestation))

    if member is not None:
        bring("member.required")
        if member.optional is not None:
            bring("member.optional")
    if transaction is not None:
        bring("order")
        if transaction.instrument is not None:
            bring("payment")
        if transaction.consignee is not None:
            if transaction.consignee.is_member is True:
                bring("consignee")
            else:
                word = transaction.consignee.attestation_id
                bring("consignee", "third_person", attestation=word)
    if given.device is not None:
        wanted = _wanted(given.device, regime)
        bring("device", "no_permission" if wanted.difference(granted) else None)
    if given.location is not None:
        if given.location.ip is not None:
            bring("location")
        for part in PLACES:
            if getattr(given.location, part) is not None:
                bring(f"location.{part}")
    if given.log is not None:
        bring("log")
    if given.identity is not None:
        kind = given.identity.document_type
        if kind is not None:
            document = regime.categories["identity.document"]
            regime.type_of(document, kind, pointer="/identity/document_type")
        if given.identity.document_verified is not None:
            bring("identity.document", attribute=kind)
        if given.identity.face_match_level is not None:
            bring("biometric.face")
        if given.identity.credit_band is not None:
            bring("credit.realname")
    if given.communication is not None:
        bring("communication")
    if given.profile is not None:
        bring("profile.tag")
    return Request(
        purpose=given.purpose,
        event_type=given.event.type,
        kind="guest" if member is None else "member",
        subject=None if member is None else keys.subject(member.id),
        order=None if transaction is None else keys.order(transaction.order_id),
        uses=tuple(uses),
        given=given,
        spelt=_spelt(given, keys.region),
    )


#: Fields of a location that are categories of their own (R-15).
PLACES = ("gps", "wifi", "bluetooth", "base_station")


def _wanted(device: Device, regime: Regime) -> set[str]:
    """Return the permissions without which a device could not have told this."""
    found = set()
    if device.id is not None or device.id_kind is not None:
        found.add(regime.permission_of(device.id_kind))
    for name in ("model", "os"):
        if getattr(device, name) is not None:
            found.add(regime.permissions[f"device.{name}"])
    return {permission for permission in found if permission is not None}


def _spelt(given: Given, region: str) -> Spelt:
    member, location = given.member, given.location
    return Spelt(
        phone=None if member is None or member.phone is None else phone(member.phone, region),
        email=None if member is None or member.email is None else email(member.email),
        ip=None if location is None or location.ip is None else ip(location.ip),
    )


# --- sealing


def seal(request: Request, permit: Permit, keys: Keys, *, at: int, regime: Regime) -> Event:
    """Return the event under tokens, without whatever `permit` does not name.

    A member met for the first time, with a basis, gets a vault row here.
    """
    given, spelt = request.given, request.spelt
    assert given is not None
    assert spelt is not None
    token = keys.sealing()
    fields: dict[str, bytes | int | float | None] = {}
    categories = regime.categories

    def may(category: str) -> bool:
        return bool(permit.permitted & categories[category].bit)

    if given.member is not None and may("member.required"):
        member = given.member
        fields["member"] = request.subject or keys.subject(member.id, enrol=True)
        if spelt.phone is not None:
            fields["phone"] = token("serve", "phone", spelt.phone.encode())
        if spelt.email is not None:
            fields["email"] = token("serve", "email", spelt.email.encode())
        if member.registered_at is not None:
            fields["registered_at"] = micros(member.registered_at)
    transaction = given.transaction
    if transaction is not None:
        if may("order"):
            if keys.ring.coming("serve") is not None:
                token("serve", "order", _plain(transaction.order_id).encode())
            fields["order_ref"] = request.order
            fields["amount"] = transaction.amount
            fields["item_count"] = transaction.item_count
            if transaction.payee_id is not None:
                fields["payee"] = token("serve", "payee", _plain(transaction.payee_id).encode())
        instrument, consignee = transaction.instrument, transaction.consignee
        if instrument is not None and instrument.id is not None and may("payment"):
            kind, number = _plain(instrument.kind).encode(), _plain(instrument.id).encode()
            name = len(kind).to_bytes(2) + kind + number
            fields["instrument"] = token("serve", "instrument", name)
        if consignee is not None and may("consignee"):
            fields["consignee_self"] = int(consignee.is_member is True)
            place = address(consignee.address or "")
            # Of a third person there is no token, only that it is not the member; and a
            # blank address would be one and the same for all.
            if place and consignee.is_member is True:
                fields["address"] = token("serve", "address", place.encode())
    if given.device is not None and given.device.id is not None and may("device"):
        fields["device"] = token("serve", "device", _plain(given.device.id).encode())
    if spelt.ip is not None and may("location"):
        host, network = spelt.ip
        fields["ip"] = token("serve", "ip", host)
        fields["network"] = token("serve", "network", network)
    gps = None if given.location is None else given.location.gps
    if gps is not None and may("location.gps"):
        fields["place"] = cell(gps.lat, gps.lon)
    if given.log is not None and may("log"):
        fields["page_views"] = given.log.page_views
        fields["search_count"] = given.log.search_count
        if given.log.seconds_on_page is not None:  # a zero has no sign: in a database it loses it
            fields["seconds_on_page"] = given.log.seconds_on_page + 0.0
    if given.identity is not None:
        if given.identity.document_verified is not None and may("identity.document"):
            fields["document_verified"] = int(given.identity.document_verified)
        if may("biometric.face"):
            fields["face_match_level"] = given.identity.face_match_level
    return Event(
        event_id=given.event_id,
        at=at,
        purpose=permit.purpose,
        type=given.event.type,
        occurred_at=micros(given.event.occurred_at),
        permitted=permit.permitted,
        brought=_brought(request, permit, regime),
        **fields,  # type: ignore[arg-type]
    )


class Brought(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where one category of an event came from, where that is not plainly the member."""

    source: str = "first_party"
    attribute: str | None = None


def _brought(request: Request, permit: Permit, regime: Regime) -> str | None:
    """Return what `uses_of` needs to ask the gate again; None where all is the member's own."""
    for use in request.uses:
        if use.source != "first_party" or use.attribute is not None:
            break
    else:
        return None
    found = {
        use.category: Brought(use.source, use.attribute)
        for use in request.uses
        if permit.permitted & regime.categories[use.category].bit
    }
    told = {category: what for category, what in found.items() if what != Brought()}
    return msgspec.json.encode(told).decode() if told else None


_decode_brought = msgspec.json.Decoder(dict[str, Brought]).decode


def uses_of(permitted: int, brought: str | None, regime: Regime) -> tuple[Use, ...]:
    """Return what an event that is kept holds, with its true sources, to ask the gate again."""
    told = {} if brought is None else _decode_brought(brought)
    plain = Brought()
    return tuple(
        Use(category, what.source, attribute=what.attribute)
        for category in regime.unmask(permitted)
        for what in [told.get(category, plain)]
    )
