"""The people of the simulated marketplace, and what each does when nothing else is said.

Everybody is drawn from the same distributions: buyers and sellers, and those who deceive. No event
and no fraud here (`visits`, `frauds`): people, devices, cards and addresses are
numbers, and time is seconds since the start.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

HOUR, DAY = 3600.0, 86400.0
LOCAL_SHIFT = 8 * HOUR  # people keep the hours of UTC+8

# Blocks of addresses: home IPv4, home IPv6, carrier NAT, VPN, public places, offices.
HOME4, HOME6, CARRIER, VPN, PUBLIC, OFFICE = range(6)
ALIPAY, CARD, BALANCE = range(3)
CITIES = 12
CARRIERS = 3


class Mint:
    """Hands out serial numbers, so that two makers never give out the same thing."""

    def __init__(self) -> None:
        self._given: defaultdict[str, int] = defaultdict(int)

    def take(self, what: str, n: int) -> Ints:
        """Return `n` numbers of sort `what` that nobody has had."""
        first = self._given[what]
        self._given[what] = first + n
        return np.arange(first, first + n, dtype=np.int64)

    def cards(self, kinds: Ints) -> Ints:
        """Return a new instrument for each kind; the kind is the number modulo 3."""
        return self.take("instrument", len(kinds)) * 3 + kinds


@dataclass(frozen=True, slots=True)
class World:
    """Everybody's habits: each array has one row a person.

    People 0 to `honest` - 1 are members of good faith, the next `false` are accounts made to
    deceive, the last `ghosts` are those who act through accounts that are not theirs.
    All are drawn from the same distributions, so habits alone tell nobody apart.
    """

    days: int
    weekday: int  # of the first day, Monday is 0
    day_starts: float  # second of the UTC day at which the simulation starts
    honest: int
    false: int
    ghosts: int
    number: Ints  # under which a person is known outside; says nothing about who it is
    registered: Floats  # seconds since the start; negative: before it
    activity: Floats
    level: Floats
    spread: Floats
    hour: Floats
    household: Ints
    home_ip: Ints
    lease: Floats  # days for which a household keeps one address
    devices: Ints  # first, the household's, a third, the successor of the first
    replaced: Floats  # when the successor took over
    cafes: Ints  # devices that anybody may sit down at
    instruments: Ints
    homes: Ints
    favourites: Ints
    restocks: Bools  # buys for a business, mostly in one place
    uses_vpn: Bools
    city: Ints
    carrier: Ints
    stores: Ints  # people who sell
    popularity: Floats  # of each store, summing to 1
    price: Floats
    digital: Bools
    promotes: Bools
    opened: Floats
    banks: Ints  # payout accounts: first, successor
    bank_changed: Floats

    @property
    def horizon(self) -> float:
        return self.days * DAY


def people(
    rng: np.random.Generator,
    mint: Mint,
    *,
    days: int,
    weekday: int,
    day_starts: float,
    honest: int,
    false: int,
    ghosts: int,
) -> World:
    """Return a world of so many people, each with habits drawn from the same distributions."""
    n = honest + false + ghosts
    seconds = days * DAY
    household = np.cumsum(rng.random(n) > 0.28).astype(
        np.int64
    )  # neighbours in number live together
    homes = household[-1] + 1
    since = np.where(rng.random(n) < 0.62, -rng.exponential(300 * DAY, n) - HOUR,
                     rng.uniform(0, seconds - 3 * HOUR, n))  # fmt: skip
    sells = np.sort(rng.choice(honest, max(12, honest // 25), replace=False)).astype(np.int64)
    selling = np.zeros(n, dtype=np.bool_)
    selling[sells] = True
    popularity = np.asarray(rng.permutation(_falling(len(sells))), np.float64)
    opens_now = selling & (rng.random(n) < 0.25)
    level = rng.normal(9.2, 0.8, n)
    restocks = rng.random(n) < 0.06
    return World(
        days=days, weekday=weekday, day_starts=day_starts,
        honest=honest, false=false, ghosts=ghosts,
        number=rng.permutation(n),
        # a store that opens in the period belongs to somebody who is there already
        registered=np.where(selling & (since > 0), -since, since),
        activity=rng.gamma(0.9, 1.0, n) * (1 + 2 * selling) * (1 + restocks),
        level=level + 0.7 * restocks,
        spread=rng.uniform(0.45, 0.95, n),
        hour=np.where(rng.random(n) < 0.7, rng.normal(20.3, 1.8, n), rng.normal(11.5, 2.5, n)),
        household=household,
        home_ip=_homes_on_the_net(rng, homes)[household],
        lease=rng.uniform(7, 60, homes)[household],
        devices=_devices(rng, mint, household),
        replaced=np.where(rng.random(n) < 0.22, rng.uniform(0, seconds, n), np.inf),
        cafes=mint.take("device", max(3, honest // 120)),
        instruments=_instruments(rng, mint, household),
        homes=np.stack([household, homes + mint.take("address", n)], axis=1),
        favourites=rng.choice(sells, (n, 5), p=popularity),
        restocks=restocks,
        uses_vpn=rng.random(n) < 0.04,
        city=rng.choice(CITIES, homes, p=_falling(CITIES))[household],
        carrier=rng.choice(CARRIERS, n, p=[0.5, 0.28, 0.22]),
        stores=sells,
        popularity=popularity,
        price=rng.normal(0, 0.5, n),
        digital=rng.random(n) < 0.18,
        promotes=rng.random(n) < 0.25,
        opened=np.where(opens_now, rng.uniform(DAY, seconds - DAY, n), -np.inf),
        banks=mint.cards(np.full(2 * n, CARD)).reshape(n, 2),
        bank_changed=np.where(rng.random(n) < 0.3, rng.uniform(DAY, seconds - DAY, n), np.inf),
    )  # fmt: skip


def packed_ip(block: Any, net: Any, host: Any) -> Ints:
    """Return one number for an address: its block, its /24 (or /48) within it, its host part."""
    return np.asarray(
        (np.asarray(block) << 40) | (np.asarray(net) << 8) | np.asarray(host), np.int64
    )


def _falling(n: int) -> Floats:
    weights = 1.0 / (np.arange(n) + 3.0) ** 0.9
    return np.asarray(weights / weights.sum(), np.float64)


def _homes_on_the_net(rng: np.random.Generator, homes: int) -> Ints:
    six = rng.random(homes) < 0.1
    net = np.where(
        six, np.arange(homes) % 65536, rng.integers(0, max(2, homes // 6), homes) % 65536
    )
    return packed_ip(np.where(six, HOME6, HOME4), net, rng.integers(1, 255, homes))


def _devices(rng: np.random.Generator, mint: Mint, household: Ints) -> Ints:
    n = len(household)
    own, third, successor = (mint.take("device", n) for _ in range(3))
    tablet = mint.take("device", int(household[-1]) + 1)[household]
    many = rng.random(n)
    first = np.where(rng.random(n) < 0.1, tablet, own)  # some have no device but the household's
    return np.stack(
        [
            first,
            np.where(many < 0.65, tablet, first),
            np.where(many < 0.2, third, first),
            successor,
        ],
        axis=1,
    )


def _instruments(rng: np.random.Generator, mint: Mint, household: Ints) -> Ints:
    n = len(household)
    first = mint.cards(np.where(rng.random(n) < 0.8, ALIPAY, CARD))
    card = mint.cards(np.full(n, CARD))
    family = mint.cards(np.full(int(household[-1]) + 1, CARD))[household]
    second = np.where(rng.random(n) < 0.5, family, card)
    third = mint.cards(np.full(n, BALANCE))
    return np.stack([first, second, np.where(rng.random(n) < 0.4, third, first)], axis=1)


# -- habits: what somebody does when nothing else is said


def clock(world: World, rng: np.random.Generator, day: NDArray[Any], who: Ints) -> Floats:
    """Return an instant on each `day` at an hour that suits `who` (seconds since the start)."""
    n = len(day)
    sort = rng.random(n)
    local = np.where(sort < 0.65, rng.normal(world.hour[who], 2.2), rng.normal(12.8, 2.0, n))
    local = np.where(sort > 0.93, rng.uniform(0, 24, n), local)
    second = (local * HOUR - LOCAL_SHIFT - world.day_starts) % DAY
    return np.asarray(np.floor(day) * DAY + second, np.float64)


def busy_days(world: World, rng: np.random.Generator, n: int) -> Ints:
    """Return days: weekends are fuller, the market grows, and each month has a sale of two days."""
    day = np.arange(world.days)
    weight = np.array([0.9, 0.88, 0.92, 0.95, 1.08, 1.22, 1.18])[(day + world.weekday) % 7]
    weight = weight * (1 + 0.35 * day / world.days) * np.where(day % 30 >= 28, 1.9, 1.0)
    return rng.choice(world.days, n, p=weight / weight.sum())


def usual_devices(world: World, rng: np.random.Generator, who: Ints, at: Floats) -> Ints:
    u = rng.random(len(who))
    slot = np.select([u < 0.71, u < 0.91], [0, 1], 2)
    slot = np.where((slot != 1) & (at >= world.replaced[who]), 3, slot)
    return np.where(u > 0.975, rng.choice(world.cafes, len(who)), world.devices[who, slot])


def usual_ips(world: World, rng: np.random.Generator, who: Ints, at: Floats) -> Ints:
    """Return addresses: home with its lease, the carrier's NAT, office, public place or VPN."""
    n = len(who)
    home = world.home_ip[who]
    leases = np.floor((at / DAY + world.household[who] % 60) / world.lease[who]).astype(np.int64)
    home = (home & ~np.int64(255)) | (((home & 255) + 37 * leases) % 254 + 1)
    nat = world.carrier[who] * CITIES + world.city[who]
    u = np.where(world.uses_vpn[who] & (rng.random(n) < 0.6), 0.99, rng.random(n))
    return np.select(
        [u < 0.43, u < 0.81, u < 0.88, u < 0.96],
        [
            home,
            packed_ip(CARRIER, nat, rng.integers(1, 7, n)),
            packed_ip(OFFICE, world.household[who] % 251, 1 + world.household[who] % 3),
            public_ips(rng, n),
        ],
        vpn_ips(rng, n),
    )


def public_ips(rng: np.random.Generator, n: int) -> Ints:
    return packed_ip(PUBLIC, rng.integers(0, 900, n), rng.integers(1, 6, n))


def vpn_ips(rng: np.random.Generator, n: int) -> Ints:
    return packed_ip(VPN, rng.integers(0, 14, n), rng.integers(1, 40, n))


def popular_stores(
    world: World, rng: np.random.Generator, n: int, among: Bools | None = None
) -> Ints:
    """Return stores by popularity, among those (by person) that are wanted."""
    wanted = np.isneginf(world.opened[world.stores])  # there from the start
    if among is not None and (wanted & among[world.stores]).any():
        wanted = wanted & among[world.stores]
    weight = world.popularity * wanted
    return rng.choice(world.stores, n, p=weight / weight.sum())


def new_addresses(world: World, mint: Mint, n: int) -> Ints:
    """Return addresses at which nothing was delivered before; households have the first numbers."""
    return int(world.household[-1]) + 1 + mint.take("address", n)
