"""Numbers become the tables that `import events` reads: identifiers, spellings, instants.

Identifiers are short and mean nothing. Phone numbers are valid, mail addresses are of reserved
domains, IPs lie in private, shared and documentation ranges. Nobody here exists.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sectionfour.marketplace.frauds import KINDS, RINGS
from sectionfour.marketplace.people import CITIES, HOME6, Bools, Floats, Ints, World
from sectionfour.marketplace.visits import TRANSACTIONS, TYPES, Table

Texts = NDArray[np.object_]
Columns = dict[str, "pd.Series[Any]"]

BLOCKS = ("10.", "2001:db8:", "100.64.", "198.18.", "172.16.", "192.168.")
INSTRUMENT_KINDS = np.array(["alipay", "card", "balance"], dtype=object)
CARRIERS = np.array(["46000", "46001", "46011"], dtype=object)  # network codes
PLACES = (
    ("Shanghai", 31.23, 121.47), ("Beijing", 39.90, 116.40), ("Guangzhou", 23.13, 113.26),
    ("Shenzhen", 22.54, 114.06), ("Hangzhou", 30.27, 120.16), ("Chengdu", 30.57, 104.07),
    ("Wuhan", 30.59, 114.31), ("Nanjing", 32.06, 118.80), ("Chongqing", 29.56, 106.55),
    ("Xi'an", 34.34, 108.94), ("Tianjin", 39.13, 117.20), ("Shenyang", 41.80, 123.43),
)  # fmt: skip
SYSTEMS = (
    ("ios 18.6", "app-ios/8.2"), ("ios 19.1", "app-ios/8.4"),
    ("android 14", "app-android/8.1"), ("android 15", "app-android/8.4"),
    ("android 16", "app-android/8.4"), ("windows 11", "Mozilla/5.0 (Windows) web"),
    ("macos 26", "Mozilla/5.0 (Macintosh) web"),
)  # fmt: skip
SYSTEM_SHARES = (0.1, 0.24, 0.14, 0.22, 0.18, 0.08, 0.04)
LANGUAGES, LANGUAGE_SHARES = (
    ("zh-CN", "zh-TW", "zh-HK", "en-US", "ko-KR"),
    (0.9, 0.03, 0.03, 0.03, 0.01),
)
PERMISSIONS, PERMISSION_SHARES = ("location.ip", "location.ip,location.gps", ""), (0.72, 0.22, 0.06)
CURRENCIES, CURRENCY_SHARES, RATES = ("CNY", "HKD", "USD"), (0.96, 0.025, 0.015), (1.0, 1.09, 0.14)
PREFIXES = ("130", "131", "133", "135", "138", "139", "150", "152", "156", "158")


def named(prefix: str, numbers: NDArray[Any]) -> Texts:
    """Return an identifier for each number; None where the number is negative."""
    unique, where = np.unique(numbers, return_inverse=True)
    texts = np.array([f"{prefix}{i}" if i >= 0 else None for i in unique.tolist()], dtype=object)
    return np.asarray(texts[where], dtype=object)


def member_ids(world: World, who: Ints) -> Texts:
    return named("m", np.where(who >= 0, world.number[who], -1))


def strings(texts: NDArray[Any]) -> pd.Series[Any]:
    return pd.Series(texts, dtype="str")


def only(given: Bools, texts: NDArray[Any]) -> Texts:
    """Return the texts that are `given`, None for the others."""
    kept = np.full(len(texts), None, dtype=object)
    kept[given] = texts[given]
    return kept


def numbers(values: NDArray[Any], dtype: str, given: Bools | None = None) -> pd.Series[Any]:
    """Return a column of a nullable type, missing where not `given`."""
    column: pd.Series[Any] = pd.Series(values).astype(pd.api.types.pandas_dtype(dtype))
    if given is not None:
        column[~given] = pd.NA
    return column


def instants(start: datetime, seconds: Floats) -> pd.Series[Any]:
    """Return instants in UTC, in whole microseconds."""
    micros = np.round(seconds * 1e6).astype("timedelta64[us]")
    first = np.datetime64(start.replace(tzinfo=None), "us")
    return pd.Series(pd.DatetimeIndex(first + micros, tz="UTC"))


def phones(rng: np.random.Generator, people: Ints) -> Texts:
    """Return a valid number a person, no two alike; one in twelve is spelt in another way."""
    # an odd factor makes a permutation of the last eight digits, and no order can be seen in them
    tails = (people * 48271 + 13800138) % 100_000_000
    style = rng.random(len(people))
    out = [
        _spelt(f"{PREFIXES[person % len(PREFIXES)]}{tail:08d}", how)
        for person, tail, how in zip(people.tolist(), tails.tolist(), style.tolist(), strict=True)
    ]
    return np.array(out, dtype=object)


def _spelt(number: str, style: float) -> str:
    if style < 0.03:
        return f"{number[:3]} {number[3:7]} {number[7:]}"
    if style < 0.05:
        return number
    if style < 0.08:
        return f"+86 {number[:3]} {number[3:7]} {number[7:]}"
    return f"+86{number}"


def members_table(
    world: World, rng: np.random.Generator, start: datetime, who: Ints
) -> pd.DataFrame:
    """Return one row for each member of `who`."""
    n = len(who)
    domains = np.array(["example.com", "example.net", "example.org"], dtype=object)
    mails = (
        np.array([f"u{i}@" for i in world.number[who].tolist()], dtype=object)
        + domains[rng.integers(0, 3, n)]
    )
    loud = np.flatnonzero(rng.random(n) < 0.04)
    mails[loud] = [mail.capitalize() for mail in mails[loud]]
    born = np.datetime64("1960-01-01") + rng.integers(0, 365 * 46, n).astype("timedelta64[D]")
    birth = only(rng.random(n) < 0.3, born.astype(str).astype(object))
    sexes = np.array(["f", "m", None], dtype=object)
    return pd.DataFrame({
        "member_id": strings(member_ids(world, who)),
        "registered_at": instants(start, world.registered[who]),
        "email": strings(mails),
        "phone": strings(phones(rng, world.number[who])),
        "birth_date": strings(birth),
        "gender": strings(sexes[rng.choice(3, n, p=[0.2, 0.2, 0.6])]),
    })  # fmt: skip


def events_table(
    world: World, rng: np.random.Generator, start: datetime, events: Table, verified: Table
) -> pd.DataFrame:
    """Return one row an event.

    `verified` holds, by person, since when documents and face are known, and with what result.
    """
    n, who = len(events["at"]), events["member"]
    seen = {key: (who >= 0) & (events["at"] >= verified[key][who]) for key in ("document", "face")}
    return pd.DataFrame({
        "event_id": strings(named("e", np.arange(n))),
        "occurred_at": instants(start, events["at"]),
        "type": strings(np.array(TYPES, dtype=object)[events["type"]]),
        "member_id": strings(member_ids(world, who)),
        **_deals(world, rng, events),
        **_consignees(world, rng, events),
        **_devices(world, rng, events),
        "session_id": strings(named("s", events["visit"])),
        "page_views": numbers(events["pages"], "Int32"),
        "search_count": numbers(events["searches"], "Int32"),
        "seconds_on_page": pd.Series(events["seconds"]),
        "document_type": strings(only(seen["document"], verified["document_type"][who])),
        "document_verified": numbers(verified["passes"][who], "boolean", seen["document"]),
        "face_match_level": numbers(verified["level"][who], "Int8", seen["face"]),
    })  # fmt: skip


def _deals(world: World, rng: np.random.Generator, events: Table) -> Columns:
    who, instrument = events["member"], events["instrument"]
    deals = np.isin(events["type"], [TYPES.index(name) for name in TRANSACTIONS])
    buys, pays = (events["type"] == TYPES.index(name) for name in ("purchase", "payout"))
    everybody = len(world.registered)
    currency = rng.choice(3, everybody, p=CURRENCY_SHARES)[np.where(buys, events["payee"], who)]
    amount = np.maximum(np.round(events["amount"] * np.array(RATES)[currency]), 1)
    stores = member_ids(world, np.where(buys, events["payee"], -1))
    accounts = named("b", np.where(pays, instrument, -1))  # where a payout goes to
    return {
        "order_id": strings(named("o", np.where(deals, np.cumsum(deals), -1))),
        "amount": numbers(amount, "Int64", deals),
        "currency": strings(only(deals, np.array(CURRENCIES, dtype=object)[currency])),
        "payee_id": strings(np.where(pays, accounts, stores)),
        "item_count": numbers(events["items"], "Int32", buys),
        "instrument_kind": strings(only(instrument >= 0, INSTRUMENT_KINDS[instrument % 3])),
        "instrument_id": strings(named("i", instrument)),
    }


def _consignees(world: World, rng: np.random.Generator, events: Table) -> Columns:
    to, own = events["address"], events["own"]
    shipped = to >= 0
    phone = only(own, phones(rng, world.number)[events["member"]])
    others = shipped & ~own
    phone[others] = phones(rng, 30_000_000 + to[others])  # far from any member's number
    return {
        "consignee_address": strings(_addresses(to)),
        "consignee_phone": strings(phone),
        "consignee_is_member": numbers(own, "boolean", shipped),
    }


def _devices(world: World, rng: np.random.Generator, events: Table) -> Columns:
    persona, device = events["persona"], events["device"]
    everybody, n = len(world.registered), len(persona)
    kinds = rng.choice(len(SYSTEMS), int(device.max()) + 1, p=SYSTEM_SHARES)
    model = rng.integers(1, 40, len(kinds))[device]
    system, agent = (np.array(texts, dtype=object) for texts in zip(*SYSTEMS, strict=True))
    permission = rng.choice(3, everybody, p=PERMISSION_SHARES)[persona]
    gps = (permission == PERMISSIONS.index("location.ip,location.gps")) & (rng.random(n) < 0.9)
    lat, lon = _whereabouts(world, rng, persona, events["away"])
    language = rng.choice(len(LANGUAGES), everybody, p=LANGUAGE_SHARES)[persona]
    return {
        "device_id": strings(named("d", device)),
        "device_model": strings(named("phone-", model)),
        "device_os": strings(system[kinds[device]]),
        "permissions": strings(np.array(PERMISSIONS, dtype=object)[permission]),
        "ip": strings(_ips(events["ip"])),
        "gps_lat": pd.Series(np.where(gps, lat, np.nan)),
        "gps_lon": pd.Series(np.where(gps, lon, np.nan)),
        "user_agent": strings(agent[kinds[device]]),
        "language": strings(np.array(LANGUAGES, dtype=object)[language]),
        "carrier": strings(CARRIERS[world.carrier[persona]]),
    }


def consents_table(world: World, start: datetime, consents: Table) -> pd.DataFrame:
    n = len(consents["at"])
    whose = named("c", world.number[consents["member"]])
    return pd.DataFrame({
        "member_id": strings(member_ids(world, consents["member"])),
        "at": instants(start, consents["at"]),
        "action": strings(consents["action"]),
        "consent_ref": strings(whose + consents["ref"]),
        "purpose": strings(np.full(n, "security", dtype=object)),
        "categories": strings(consents["categories"]),
        "event_type": strings(np.where(consents["explicit"], "explicitly_expressed",
                                       "implicitly_expressed").astype(object)),
    })  # fmt: skip


def labels_table(start: datetime, labels: Table) -> pd.DataFrame:
    return pd.DataFrame({
        "label_id": strings(named("l", np.arange(len(labels["row"])))),
        "event_id": strings(named("e", labels["row"])),
        "label": strings(labels["label"]),
        "known_at": instants(start, labels["at"]),
        "source": strings(labels["source"]),
    })  # fmt: skip


def truth_table(events: Table) -> pd.DataFrame:
    row = np.flatnonzero(events["kind"] >= 0)
    kind = events["kind"][row]
    in_ring = np.isin(kind, [KINDS.index(name) for name in RINGS])
    return pd.DataFrame({
        "event_id": strings(named("e", row)),
        "kind": strings(np.array(KINDS, dtype=object)[kind]),
        "ring": strings(named("r", np.where(in_ring, events["incident"][row], -1))),
    })  # fmt: skip


def _ips(packed: Ints) -> Texts:
    unique, where = np.unique(packed, return_inverse=True)
    return np.array([_ip(code) for code in unique.tolist()], dtype=object)[where]


def _ip(code: int) -> str:
    block, net, host = code >> 40, code >> 8 & 0xFFFF, code & 0xFF
    head, high, low = BLOCKS[block], net >> 8, net & 0xFF
    if block == HOME6:
        return f"{head}{net:x}::{host:x}"
    if head.count(".") == 1:
        return f"{head}{high}.{low}.{host}"
    first, second, *_ = head.split(".")
    return f"{first}.{int(second) + high}.{low}.{host}"


def _addresses(numbers: Ints) -> Texts:
    unique, where = np.unique(numbers, return_inverse=True)
    texts = [None if i < 0 else f"{i % 211 + 1} Road {i // 211 + 1}, {PLACES[i % CITIES][0]}"
             for i in unique.tolist()]  # fmt: skip
    return np.array(texts, dtype=object)[where]


def _whereabouts(
    world: World, rng: np.random.Generator, persona: Ints, away: Bools
) -> tuple[Floats, Floats]:
    """Return latitude and longitude to about 100 m: near home, or in another city when away."""
    n = len(persona)
    city = np.where(away, rng.integers(0, CITIES, n), world.city[persona])
    scatter = (world.household[persona] * 2654435761 % 1000) / 1000 - 0.5
    lat = np.array([place[1] for place in PLACES])[city] + 0.2 * scatter
    lon = np.array([place[2] for place in PLACES])[city] + 0.2 * (scatter * 7 % 1 - 0.5)
    return (np.round(lat + rng.normal(0, 0.004, n), 3), np.round(lon + rng.normal(0, 0.004, n), 3))
