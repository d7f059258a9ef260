"""All spellings of a value are one, and two values stay two."""

from __future__ import annotations

import ipaddress
import math
import unicodedata
from typing import Any

import phonenumbers
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sectionfour.errors import BadRequest
from sectionfour.features.catalog import Numbers, distance
from sectionfour.privacy import spelling

mobiles = st.integers(10**8, 10**9 - 1).map(lambda n: f"13{n}")
separators = st.sampled_from(["", " ", "-", ".", "  ", "\u00a0", "/"])
full_width = str.maketrans("0123456789", "".join(chr(0xFF10 + n) for n in range(10)))


@st.composite
def spelt_phones(draw: st.DrawFn) -> tuple[str, str]:
    """Return a Chinese mobile number in E.164 and one of its spellings."""
    number = draw(mobiles)
    gap = draw(separators)
    body = gap.join([number[:3], number[3:7], number[7:]])
    prefix = draw(st.sampled_from(["", "+86", "+86 ", "0086", "0086 ", "(+86) ", "tel:+86-"]))
    text = prefix + body
    if draw(st.booleans()):
        text = text.translate(full_width)
    around = draw(st.sampled_from(["", " ", "\n"]))
    return f"+86{number}", around + text + around


@settings(max_examples=300, deadline=None)
@given(spelt_phones())
def test_all_spellings_of_a_phone_number_are_one(spelt: tuple[str, str]) -> None:
    assert spelling.phone(spelt[1]) == spelt[0]


@settings(max_examples=200, deadline=None)
@given(mobiles, mobiles)
def test_distinct_phone_numbers_stay_distinct(one: str, other: str) -> None:
    assert (spelling.phone(one) == spelling.phone(other)) == (one == other)


letters = st.text("abcdefghijklmnopqrstuvwxyz0123456789\u00e9\u00f6\u00df\u0142\u4f8b", min_size=1)
labels = letters.filter(lambda text: len(text) <= 20)
mails = st.tuples(labels, st.lists(labels, min_size=1, max_size=3))


@st.composite
def spelt_mails(draw: st.DrawFn, of: tuple[str, list[str]]) -> str:
    local, domain_labels = of
    written = []
    for label in domain_labels:
        form = draw(st.sampled_from(["plain", "upper", "punycode", "nfd"]))
        if form == "punycode" and not label.isascii():
            label = "XN--" + label.encode("punycode").decode()
        elif form == "upper" and label.upper().lower() == label:
            label = label.upper()
        elif form == "nfd":
            label = unicodedata.normalize("NFD", label)
        written.append(label)
    stop = draw(st.sampled_from([".", "\u3002", "\uff0e", "\uff61"]))
    end = draw(st.sampled_from(["", "."]))
    if draw(st.booleans()) and local.upper().lower() == local:
        local = local.upper()
    return f" {local}@{stop.join(written)}{end} "


@settings(max_examples=300, deadline=None)
@given(st.data(), mails)
def test_all_spellings_of_a_mail_address_are_one(
    data: st.DataObject, of: tuple[str, list[str]]
) -> None:
    plain = f"{of[0]}@{'.'.join(of[1])}"
    assert spelling.email(data.draw(spelt_mails(of))) == spelling.email(plain)


@settings(max_examples=300, deadline=None)
@given(mails, mails)
@example(("a", ["stra\u00dfe", "de"]), ("a", ["strasse", "de"]))
@example(("stra\u00dfe", ["de"]), ("strasse", ["de"]))
def test_distinct_mail_addresses_stay_distinct(
    one: tuple[str, list[str]], other: tuple[str, list[str]]
) -> None:
    same = one[0] == other[0] and one[1] == other[1]
    one_text, other_text = (f"{local}@{'.'.join(host)}" for local, host in (one, other))
    assert (spelling.email(one_text) == spelling.email(other_text)) == same


@pytest.mark.parametrize("text", ["", "a", "@", "a@", "@b", "a@.", "a@b..c", "a@ .b", "a@.b"])
def test_what_is_no_mail_address_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        spelling.email(text)
    assert caught.value.detail == "not a mail address"
    assert caught.value.pointer == "/member/email"


hosts = st.ip_addresses()


@settings(max_examples=300, deadline=None)
@given(hosts, st.booleans())
def test_all_spellings_of_an_ip_address_are_one(
    host: ipaddress.IPv4Address | ipaddress.IPv6Address, upper: bool
) -> None:
    if isinstance(host, ipaddress.IPv4Address):
        high, low = divmod(int(host), 1 << 16)
        spellings = [str(host), f"::ffff:{host}", f"::ffff:{high:x}:{low:x}", f"0::ffff:{host}"]
    else:
        spellings = [host.compressed, host.exploded]
    for text in spellings:
        found = spelling.ip(f" {text.upper() if upper else text} ")
        assert found == spelling.ip(str(host))


@settings(max_examples=300, deadline=None)
@given(hosts, hosts)
def test_distinct_ip_addresses_stay_distinct(one: Any, other: Any) -> None:
    same = (getattr(one, "ipv4_mapped", None) or one) == (
        getattr(other, "ipv4_mapped", None) or other
    )
    assert (spelling.ip(str(one))[0] == spelling.ip(str(other))[0]) == same


def test_the_network_of_an_address_is_its_24_or_its_48() -> None:
    def network(text: str) -> bytes:
        return spelling.ip(text)[1]

    assert network("203.0.113.7") == network("203.0.113.250") != network("203.0.114.7")
    assert network("2001:db8:1::1") == network("2001:db8:1:ffff::2") != network("2001:db8:2::1")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text("abcxyz0189\u00e9\u4f8b", min_size=1, max_size=8), min_size=1), st.data())
def test_all_spellings_of_a_postal_address_are_one(words: list[str], data: st.DataObject) -> None:
    plain = " ".join(words)
    gaps = st.sampled_from([" ", "  ", "\t", "\u3000", "\n"])
    text = data.draw(gaps) + "".join(word + data.draw(gaps) for word in words)
    if data.draw(st.booleans()):
        text = text.upper()
    if data.draw(st.booleans()):
        text = text.translate(full_width)
    assert spelling.address(text) == spelling.address(plain)


LATITUDES, LONGITUDES = st.floats(-90, 90), st.floats(-180, 180)


@given(LATITUDES, LONGITUDES, LATITUDES, LONGITUDES)
@example(0.0, 180.0, 0.0, -180.0)
@example(90.0, 0.0, 90.0, 77.0)
@example(90.0, 0.0, -90.0, 0.0)
def test_cells_are_as_far_apart_as_the_places_in_them(
    north: float, east: float, north_too: float, east_too: float
) -> None:
    """Against the haversine formula; a cell's corner is at most 4.4 km from its middle."""
    one, other = map(math.radians, (north, north_too))
    half = math.sin((other - one) / 2) ** 2
    half += math.cos(one) * math.cos(other) * math.sin(math.radians(east_too - east) / 2) ** 2
    cells = spelling.cell(north, east), spelling.cell(north_too, east_too)
    assert abs(distance(*cells, Numbers) - 2 * 6371 * math.sqrt(half)) <= 2 * 4.4
    assert all(0 <= cell < 1 << 36 for cell in cells)


def test_a_cell_is_no_finer_than_five_kilometres() -> None:
    steps = [spelling.cell(31.0 + n * 1e-4, 121.5) for n in range(10_000)]  # 111 km to the north
    assert 111 / 8.7 <= len(set(steps)) <= 111 / 5 * 3  # every axis is crossed once in 5 km at most


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30))
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = spelling.address(text)
    assert spelling.address(once) == once
    try:
        mail = spelling.email(f"a{text}@example.com")
    except BadRequest:
        return
    assert spelling.email(mail) == mail


@settings(max_examples=500)
@given(st.from_regex(r"\A\+861[3-9][0-9]{9}\Z"))
def test_a_number_that_is_spelt_right_already_is_what_the_library_makes_of_it(text):
    number = phonenumbers.parse(text, "CN")
    spelt = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    assert spelling.phone(text) == spelt
