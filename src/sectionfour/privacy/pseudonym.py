"""Under which name: identifiers become keyed tokens, and what is not permitted is dropped.

`claim` says what a request would use, before the gate; `seal` turns what the gate permitted into
an `Event`. After `seal` nothing is raw: what follows sees tokens and numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from sectionfour.domain import Event, Permit, Request, Use, micros
from sectionfour.errors import BadRequest, KeyringError
from sectionfour.given import Device, Given
from sectionfour.privacy import spelling
from sectionfour.privacy.kek import load_kek
from sectionfour.privacy.keys import FIRST, Keyring
from sectionfour.privacy.regime import Regime
from sectionfour.privacy.spelling import plain
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
        name = plain(member_id)
        uid = self.vault.enrol(name) if enrol else self.vault.find(name)
        return None if uid is None else self.ring.token("serve", "subject", uid)

    def order(self, order_id: str) -> bytes:
        """Return the serve-domain token of an order."""
        return self.ring.token("serve", "order", plain(order_id).encode())

    def enrol(self, member_ids: Sequence[str]) -> None:
        """Make a vault row for each of these members that has none, in one commit."""
        self.vault.enrol_many([plain(member_id) for member_id in dict.fromkeys(member_ids)])

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
        spelt=spelling.spelt(given, keys.region),
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
                token("serve", "order", plain(transaction.order_id).encode())
            fields["order_ref"] = request.order
            fields["amount"] = transaction.amount
            fields["item_count"] = transaction.item_count
            if transaction.payee_id is not None:
                fields["payee"] = token("serve", "payee", plain(transaction.payee_id).encode())
        instrument, consignee = transaction.instrument, transaction.consignee
        if instrument is not None and instrument.id is not None and may("payment"):
            kind, number = plain(instrument.kind).encode(), plain(instrument.id).encode()
            name = len(kind).to_bytes(2) + kind + number
            fields["instrument"] = token("serve", "instrument", name)
        if consignee is not None and may("consignee"):
            fields["consignee_self"] = int(consignee.is_member is True)
            place = spelling.address(consignee.address or "")
            # Of a third person there is no token, only that it is not the member; and a
            # blank address would be one and the same for all.
            if place and consignee.is_member is True:
                fields["address"] = token("serve", "address", place.encode())
    if given.device is not None and given.device.id is not None and may("device"):
        fields["device"] = token("serve", "device", plain(given.device.id).encode())
    if spelt.ip is not None and may("location"):
        host, network = spelt.ip
        fields["ip"] = token("serve", "ip", host)
        fields["network"] = token("serve", "network", network)
    gps = None if given.location is None else given.location.gps
    if gps is not None and may("location.gps"):
        fields["place"] = spelling.cell(gps.lat, gps.lon)
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
