"""One value, one token; two values, two; and after `seal` nothing that was not permitted."""

from __future__ import annotations

import copy
import hashlib
import ipaddress
import pickle
import random
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sectionfour import given as what_is_given
from sectionfour.domain import Event, Permit, Use
from sectionfour.errors import BadRequest
from sectionfour.given import Given, Raw
from sectionfour.privacy import gate, pseudonym
from sectionfour.privacy.consent import ConsentEvent
from sectionfour.privacy.keys import DOMAINS
from sectionfour.privacy.pseudonym import Keys, open_keys
from sectionfour.privacy.regime import load
from sectionfour.privacy.vault import Person

REGIME = load()
NOW = 1_800_000_000_000_000


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    found = open_keys(tmp_path_factory.mktemp("home"))
    yield found
    found.vault.close()


def test_the_spelling_of_a_member_id_does_not_make_two_members(keys: Keys) -> None:
    name = "m\u00e9_raw"
    token = keys.subject(name, enrol=True)
    assert token == keys.subject(f" {unicodedata.normalize('NFD', name)}\n")
    assert token != keys.subject("me_raw", enrol=True)


# --- tokens ----------------------------------------------------------------------------------

KINDS = ["subject", "phone", "email", "device", "ip", "network", "payee", "instrument", "address"]
pieces = st.sampled_from(["", "a", "b", "ab", "serve", "phone", "\x00", "\x00\x05", "e01", "1"])


@settings(max_examples=300, deadline=None)
@given(
    st.tuples(st.sampled_from(DOMAINS), pieces, pieces),
    st.tuples(st.sampled_from(DOMAINS), pieces, pieces),
)
@example(("serve", "a", "bc"), ("serve", "ab", "c"))
@example(("serve", "", "1"), ("train", "", "1"))
def test_no_two_triples_of_domain_kind_and_value_share_a_token(
    keys: Keys, one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    tokens = [keys.ring.token(d, kind, value.encode()) for d, kind, value in (one, other)]
    assert (tokens[0] == tokens[1]) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [(("a", "bc"), ("ab", "c")), (("a\x1fb", "c"), ("a", "b\x1fc")), (("1", "1"), ("11", "1"))],
)
def test_kind_and_number_of_an_instrument_do_not_run_together(
    keys: Keys, one: tuple[str, str], other: tuple[str, str]
) -> None:
    tokens = set()
    body = a_purchase()
    for kind, number in (one, other):
        instrument = what_is_given.Instrument(kind=kind, id=number)
        transaction = msgspec.structs.replace(body.transaction, instrument=instrument)
        body = msgspec.structs.replace(body, transaction=transaction)
        tokens.add(sealed(keys, body, ["payment"]).instrument)
    assert len(tokens) == 2


def test_tokens_of_one_domain_say_nothing_about_those_of_another(keys: Keys) -> None:
    values = [f"device {n}".encode() for n in range(200)]
    tokens = {d: {keys.ring.token(d, "device", v) for v in values} for d in ("serve", "train")}
    assert all(len(found) == 200 for found in tokens.values())
    assert not tokens["serve"] & tokens["train"]
    member = keys.subject("m_alias", enrol=True)
    assert member is not None
    aliases = {member} | {keys.alias(member, d) for d in ("train", "analyst", "audit", "partner")}
    assert len(aliases) == 5


def test_a_dictionary_of_all_phone_numbers_does_not_open_a_token(keys: Keys) -> None:
    """T11: with the matrix and every candidate, but no key. The control shows the power."""
    numbers = [f"+8613800{n:06d}" for n in range(20_000)]
    members = random.Random(4).sample(numbers, 200)
    keyed = {keys.ring.token("serve", "phone", number.encode()) for number in members}
    control = {hashlib.sha256(number.encode()).digest()[:16] for number in members}

    def attacks(number: str) -> Iterator[bytes]:
        message = (
            b"".join(len(part).to_bytes(2) + part for part in (b"serve", b"phone", b"e01"))
            + number.encode()
        )
        for data in (number.encode(), message):
            for digest in (hashlib.sha256, hashlib.sha1, hashlib.md5):
                yield digest(data).digest()[:16]

    opened = [token for number in numbers for token in attacks(number)]
    assert len(keyed & set(opened)) == 0
    assert len(control & set(opened)) == 200


# --- what a request would use ----------------------------------------------------------------

FULL: dict[str, Any] = {
    "event_id": "evt_1",
    "purpose": "security.transaction_risk",
    "event": {"type": "purchase", "occurred_at": "2026-11-23T09:00:00+08:00"},
    "member": {
        "id": "m_seal",
        "registered_at": "2024-01-01T00:00:00Z",
        "email": "anna@example.com",
        "phone": "13800138000",
        "optional": {"birth_date": "1990-01-01", "gender": "f", "real_name": "A", "residence": "B"},
    },
    "transaction": {
        "order_id": "o_1",
        "amount": 129_900,
        "currency": "CNY",
        "payee_id": "s_9",
        "item_count": 2,
        "instrument": {"kind": "alipay", "id": "2088"},
        "consignee": {"name": "A", "phone": "1", "address": "1 Long Road", "is_member": True},
    },
    "device": {"id": "d_1", "model": "X", "os": "1", "permissions": ["location.ip"]},
    "location": {
        "ip": "203.0.113.7",
        "gps": {"lat": 31.2, "lon": 121.5},
        "wifi": [{"ssid": "home"}],
        "bluetooth": ["00:00:5e:00:53:01"],
        "base_station": {"cell": 1},
    },
    "log": {"user_agent": "u", "session_id": "s", "page_views": 1, "search_count": 3},
    "identity": {
        "document_type": "passport",
        "document_verified": True,
        "face_match_level": 2,
        "credit_band": 1,
    },
    "communication": {"said": "hello"},
    "profile": ["likes tea"],
}


def a_purchase(**changes: Any) -> Given:
    body = copy.deepcopy(FULL)
    for key, value in changes.items():
        if key in ("instrument", "consignee"):
            body["transaction"][key] = value
        else:
            body[key] = value
    return msgspec.convert(body, Given)


def uses(keys: Keys, body: Given) -> dict[str, Use]:
    return {use.category: use for use in pseudonym.claim(body, keys, REGIME).uses}


def test_a_request_claims_each_category_that_it_brings_and_no_other(keys: Keys) -> None:
    everything = set(REGIME.categories) - {"indirect.counterparty", "derived.risk"}
    assert set(uses(keys, a_purchase())) == everything
    parts = ("member", "transaction", "device", "location", "log", "identity")
    bare = a_purchase(**dict.fromkeys((*parts, "communication", "profile")))
    assert uses(keys, bare) == {}


PLACES = {key for key in REGIME.categories if key.startswith("location")}


@pytest.mark.parametrize(
    ("permissions", "hindered"),
    [
        ([], PLACES),
        (["location.ip"], PLACES - {"location"}),
        (["location.gps"], PLACES - {"location.gps"}),
        (["location.ip", "location.wifi"], PLACES - {"location", "location.wifi"}),
        (["location.ip", *PLACES], set()),
        (["LOCATION.IP", "location"], PLACES),
    ],
)
def test_a_place_needs_the_permission_of_the_operating_system(
    keys: Keys, permissions: list[str], hindered: set[str]
) -> None:
    found = uses(keys, a_purchase(device={"id": "d", "permissions": permissions}))
    assert {c for c, use in found.items() if use.hindrance == "no_permission"} == hindered


@pytest.mark.parametrize(
    ("kind", "needed"),
    [
        (None, None),
        ("app", None),
        ("advertising", "device.tracking"),
        ("hardware", "device.identifiers"),
    ],
)
def test_an_identifier_of_the_device_needs_the_permission_of_its_kind(
    keys: Keys, kind: str | None, needed: str | None
) -> None:
    for granted in ("device.tracking", "device.identifiers", "location.ip"):
        device = {"id": "d", "id_kind": kind, "model": "X", "permissions": [granted]}
        hindrance = uses(keys, a_purchase(device=device))["device"].hindrance
        assert hindrance == (None if needed in (None, granted) else "no_permission")


def test_any_field_of_a_device_may_be_given_a_permission_by_who_runs_the_service(
    keys: Keys,
) -> None:
    stricter = replace(REGIME, permissions={**REGIME.permissions, "device.os": "device.settings"})

    def hindrance(**device: Any) -> str | None:
        body = a_purchase(device=device)
        return {u.category: u for u in pseudonym.claim(body, keys, stricter).uses}[
            "device"
        ].hindrance

    assert hindrance(id="d", model="X") is None
    assert hindrance(id="d", os="1") == "no_permission"
    assert hindrance(id="d", os="1", permissions=["device.settings"]) is None


@pytest.mark.parametrize(
    ("field", "pointer"),
    [
        ({"device": {"id_kind": "13800138000"}}, "/device/id_kind"),
        ({"threat_type": "13800138000"}, "/threat_type"),
    ],
)
def test_a_kind_or_a_threat_outside_the_closed_list_is_refused_and_not_repeated(
    keys: Keys, field: dict[str, Any], pointer: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        pseudonym.claim(a_purchase(**field), keys, REGIME)
    assert refused.value.pointer == pointer
    assert "13800138000" not in str(refused.value.detail)


@pytest.mark.parametrize("is_member", [None, False])
def test_a_consignee_who_is_not_the_member_is_hindered(keys: Keys, is_member: bool | None) -> None:
    found = uses(keys, a_purchase(consignee={"address": "x", "is_member": is_member}))
    assert found["consignee"].hindrance == "third_person"


def test_a_source_is_of_its_category_and_of_its_parts(keys: Keys) -> None:
    found = uses(keys, a_purchase(sources={"location": "partner:p", "device": "public"}))
    assert {c: use.source for c, use in found.items() if use.source != "first_party"} == {
        "device": "public"
    } | dict.fromkeys(PLACES, "partner:p")


@pytest.mark.parametrize("source", ["", "partner", "partner:", "first_party:x", "nobody"])
def test_a_source_outside_the_list_is_refused(keys: Keys, source: str) -> None:
    with pytest.raises(BadRequest):
        pseudonym.claim(a_purchase(sources={"device": source}), keys, REGIME)


# --- seal ------------------------------------------------------------------------------------


class Consented:
    """A ledger in which everybody has said yes to the same."""

    def __init__(self, categories: list[str], purpose: str) -> None:
        plain = [c for c in categories if REGIME.data(c).security != "explicit"]
        sensitive = [[c] for c in categories if c not in plain]  # a record each
        self.events = [
            ConsentEvent(
                n, f"cr_{n}", purpose, frozenset(of), "first_party", "pn", "1",
                "explicitly_expressed", "consent_given", 0, None, False,
            )
            for n, of in enumerate((plain, *sensitive))
        ]  # fmt: skip

    def consents(self, subject: bytes, at: int) -> list[ConsentEvent]:
        return self.events

    def grants(self, at: int) -> list[Any]:
        return []

    def take(self, *args: Any) -> bool:
        return False


def permit_for(keys: Keys, body: Given, categories: list[str]) -> tuple[Any, Permit]:
    keys.subject("m_seal", enrol=True)
    request = pseudonym.claim(body, keys, REGIME)
    permit = gate.check(body.purpose, request, Consented(categories, body.purpose), NOW)
    assert isinstance(permit, Permit), permit
    return request, permit


def sealed(keys: Keys, body: Given, categories: list[str]) -> Event:
    typed = {"identity.document": "identity.document:passport"}
    named = [typed.get(category, category) for category in categories]
    request, permit = permit_for(keys, body, ["member.required", "order", *named])
    return pseudonym.seal(request, permit, keys, at=NOW, regime=REGIME)


text = st.text("abc\u4f8b 12", min_size=1, max_size=9).filter(str.strip)
phones = st.integers(10**8, 10**9 - 1).map(lambda n: f"13{n}")
counts = st.integers(0, 1000)
#: What each category holds, drawn anew. A switch of the basis itself (a permission of the device,
#: whether the consignee is the member) is not an input of it.
INPUTS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "member.optional": st.fixed_dictionaries(
        {"birth_date": text, "gender": text, "real_name": text, "residence": text}
    ),
    "payment": st.fixed_dictionaries({"kind": text, "id": text}),
    "consignee": st.fixed_dictionaries(
        {"name": text, "phone": phones, "address": text, "is_member": st.just(True)}
    ),
    "device": st.fixed_dictionaries(
        {"id": text, "model": text, "os": text, "permissions": st.just(["location.ip"])}
    ),
    "location": st.fixed_dictionaries({"ip": st.ip_addresses(v=4).map(str)}),
    "location.gps": st.fixed_dictionaries({"lat": st.floats(-90, 90), "lon": st.floats(-180, 180)}),
    "location.wifi": st.fixed_dictionaries({"wifi": text}),
    "location.bluetooth": st.fixed_dictionaries({"bluetooth": text}),
    "location.base_station": st.fixed_dictionaries({"base_station": counts}),
    "log": st.fixed_dictionaries(
        {"user_agent": text, "session_id": text, "page_views": counts, "search_count": counts}
    ),
    "identity.document": st.fixed_dictionaries(
        {"document_verified": st.booleans(), "document_type": st.just("passport")}
    ),
    "biometric.face": st.fixed_dictionaries({"face_match_level": st.integers(0, 9)}),
    "credit.realname": st.fixed_dictionaries({"credit_band": st.integers(0, 9)}),
    "communication": st.fixed_dictionaries({"said": text}),
    "profile.tag": st.fixed_dictionaries({"likes": text}),
}


def with_inputs(category: str, inputs: dict[str, Any]) -> Given:
    body = copy.deepcopy(FULL)
    body["event"]["type"] = "payout"  # no contract: consent alone counts
    body["device"]["permissions"] = granted = ["location.ip", *PLACES]
    match category:
        case "member.optional":
            body["member"]["optional"] = inputs
        case "payment":
            body["transaction"]["instrument"] = inputs
        case "consignee":
            body["transaction"]["consignee"] = inputs
        case "device":
            body["device"] |= inputs | {"permissions": granted}
        case "location":
            body["location"]["ip"] = inputs["ip"]
        case "location.gps":
            body["location"]["gps"] = inputs
        case "location.wifi" | "location.bluetooth" | "location.base_station":
            body["location"] |= inputs
        case "log":
            body["log"] = inputs
        case "communication" | "profile.tag":
            body["communication" if category == "communication" else "profile"] = inputs
        case _:
            body["identity"] |= inputs
    return msgspec.convert(body, Given)


@pytest.mark.parametrize("category", sorted(INPUTS))
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_what_is_not_permitted_leaves_no_trace_in_the_event(
    keys: Keys, category: str, data: st.DataObject
) -> None:
    """T4: randomise every raw input of a category that is not permitted; the event is the same."""
    others = [c for c in INPUTS if c != category]
    one, other = (data.draw(INPUTS[category]) for _ in range(2))
    events = [sealed(keys, with_inputs(category, inputs), others) for inputs in (one, other)]
    assert events[0] == events[1]
    assert not events[0].permitted & REGIME.categories[category].bit


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(sorted(INPUTS)), unique=True))
def test_an_event_holds_what_is_permitted_and_nothing_else(
    keys: Keys, permitted: list[str]
) -> None:
    body = with_inputs("log", FULL["log"] | {"seconds_on_page": 2.5})
    event = sealed(keys, body, permitted)
    of_category = {
        "payment": ["instrument"],
        "consignee": ["address", "consignee_self"],
        "device": ["device"],
        "location": ["ip", "network"],
        "location.gps": ["place"],
        "log": ["page_views", "search_count", "seconds_on_page"],
        "identity.document": ["document_verified"],
        "biometric.face": ["face_match_level"],
    }
    for category, names in of_category.items():
        for name in names:
            of_another = name == "address" and event.consignee_self != 1  # no token of theirs
            assert (getattr(event, name) is not None) == (category in permitted and not of_another)
    assert None not in (event.member, event.phone, event.email, event.order_ref, event.amount)


INPUT_ALL = sorted(INPUTS)


def test_parts_of_a_transaction_are_permitted_one_by_one(keys: Keys) -> None:
    body = a_purchase(purpose="security.account_risk")
    request, permit = permit_for(keys, body, ["member.required", "payment", "consignee"])
    event = pseudonym.seal(request, permit, keys, at=NOW, regime=REGIME)
    assert event.instrument is not None
    assert event.address is not None
    assert (event.order_ref, event.amount, event.payee) == (None, None, None)


def test_a_blank_postal_address_is_none(keys: Keys) -> None:
    for blank in ("", " ", "\u3000\t"):
        event = sealed(keys, a_purchase(consignee={"address": blank, "is_member": True}), INPUT_ALL)
        assert event.address is None


def test_an_event_holds_tokens_and_no_raw_identifier(keys: Keys) -> None:
    event = sealed(keys, a_purchase(), INPUT_ALL)
    stored = (msgspec.msgpack.encode(event) + msgspec.json.encode(event)).lower()
    for value in ("m_seal", "anna@", "13800138000", "2088", "d_1", "203.0.113", "long road"):
        assert value.encode() not in stored  # in no case: an address is spelt in one
    assert ipaddress.ip_address("203.0.113.7").packed not in stored


# --- nothing prints --------------------------------------------------------------------------

RAW_KINDS = [
    kind
    for kind in vars(what_is_given).values()
    if isinstance(kind, type) and issubclass(kind, Raw)
]


def instances(value: Any) -> Iterator[Any]:
    if isinstance(value, Raw):
        yield value
        for name in value.__struct_fields__:
            yield from instances(getattr(value, name))


def test_what_is_given_neither_prints_nor_formats_nor_is_pickled_or_copied() -> None:
    found = [*instances(a_purchase()), what_is_given.Spelt(phone="+8613800138000")]
    assert {type(value) for value in found} == {*RAW_KINDS} - {Raw}
    for value in [*found, Person(b"u" * 16, "m_secret")]:
        withheld = f"<{type(value).__name__} withheld>"
        texts = [repr(value), str(value), f"{value}", f"{value!r}", "%s" % (value,)]  # noqa: UP031
        assert texts == [withheld] * 5
        assert list(value.__rich_repr__()) == []
        assert repr([value, {"k": value}]).count(withheld) == 2
        with pytest.raises(TypeError):
            pickle.dumps(value)
        with pytest.raises(TypeError):
            copy.deepcopy(value)


def test_what_the_gate_is_asked_prints_no_raw_identifier(keys: Keys) -> None:
    request = pseudonym.claim(a_purchase(), keys, REGIME)
    for value in ("m_seal", "anna@", "13800138000", "2088", "Long Road"):
        assert value not in repr(request)


def test_no_error_repeats_what_was_sent(
    keys: Keys, raw: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    secret = raw("not-a-number-of-any-kind")
    for change in (
        {"member": FULL["member"] | {"phone": secret}},
        {"member": FULL["member"] | {"email": secret}},
        {"location": {"ip": secret}},
        {"sources": {"device": secret}},
        {"sources": {"device": f"partner:{secret}:"}, "purpose": secret},
    ):
        with pytest.raises(BadRequest) as caught:
            sealed(keys, a_purchase(**change), INPUT_ALL)
        assert secret not in caught.value.detail
        assert caught.value.pointer


def test_home_is_private(tmp_path: Path) -> None:
    keys = open_keys(tmp_path / "home")
    keys.subject("m_1", enrol=True)
    for file in (tmp_path / "home").rglob("*"):
        if file.is_file() and file.suffix != ".lock":
            assert file.stat().st_mode & 0o077 == 0, file.name
    keys.vault.close()
