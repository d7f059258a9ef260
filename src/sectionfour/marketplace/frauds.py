"""The frauds of the simulated marketplace, one function a kind, and what they share.

A fraud is a table of visits like any other (`visits`): it gives itself away only by how
it departs from habit, and every departure has honest people who make it too. Who refuses what is
decided elsewhere (`simulate`), for all alike: no function here knows of a consent.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sectionfour.marketplace.people import (
    CARD,
    DAY,
    HOME4,
    HOUR,
    Floats,
    Ints,
    Mint,
    World,
    clock,
    new_addresses,
    packed_ip,
    popular_stores,
    public_ips,
    vpn_ips,
)
from sectionfour.marketplace.visits import Table, joined, rows, visits

Plan = Callable[[World, np.random.Generator, Mint, int], Table]


def stolen_instrument(world: World, rng: np.random.Generator, mint: Mint, n: int) -> Table:
    """Goods bought on somebody else's card, over hours or a few days, until it is blocked.

    Looks like: a card never seen before, added and used at once, by a young account or a lent one,
    on a device new to it, for more than usual and to an address where others' cards paid too.
    Overlaps with: members who add a card (one visit in thirty) or join and buy at once, splurge,
    send gifts, travel. Three thieves in ten send to the account's own address, half have a
    device that nothing is known of.
    """
    k = many(n / 2.6)
    thief = ghosts(world, rng, k)
    at = moments(world, rng, thief)
    fresh = rng.random(k) < 0.4
    who = np.where(fresh, false_members(world, mint, k, fresh), members(world, rng, at))
    device, ip = disguise(world, rng, mint, thief)
    card = mint.cards(np.full(k, CARD))
    address = drops(world, rng, mint, thief, at_home=0.3)
    of, first, later = repeats(rng, 1 + rng.poisson(0.4, k), hours=14)
    buy = visits(
        len(of), kind=KIND["stolen_instrument"], incident=of, member=who[of], persona=thief[of],
        at=at[of] + later, device=device[of], ip=ip[of], login=rng.random(len(of)) < 0.65,
        add=first & (rng.random(len(of)) < 0.6), profile=first & (rng.random(len(of)) < 0.08),
        purchases=rng.geometric(0.55, len(of)), instrument=card[of], address=address[of],
        level=world.level[who[of]] + rng.normal(0.4, 0.5, len(of)), spread=0.7,
        browse=np.exp(rng.normal(-0.2, 0.7, len(of))),
    )  # fmt: skip
    return joined([*sign_up(rng, "stolen_instrument", who, at, thief, device, ip, fresh), buy])


def card_testing(world: World, rng: np.random.Generator, mint: Mint, n: int) -> Table:
    """Small purchases that try which of many stolen cards still work.

    Looks like: a burst of small amounts, mostly for digital goods, each on a card of its own.
    Overlaps with: top-ups, which are as small, as quick and at the same stores, on one card; shared
    devices, where many cards are honest. A third of the testers spread the cards over accounts and
    days, and so show no burst.
    """
    k = many(n / 6.0)
    tester = ghosts(world, rng, k)
    at = moments(world, rng, tester)
    fresh = rng.random(k) < 0.5
    who = np.where(fresh, false_members(world, mint, k, fresh), members(world, rng, at))
    device, ip = disguise(world, rng, mint, tester)
    slow = rng.random(k) < 0.35
    of, _, later = repeats(rng, np.where(slow, rng.integers(3, 9, k), 1 + rng.poisson(0.4, k)), 30)
    m = len(of)
    card = np.where(rng.random(m) < 0.3, mint.cards(np.full(m, CARD)), -1)
    buy = visits(
        m, kind=KIND["card_testing"], incident=of, member=who[of], persona=tester[of],
        at=at[of] + later, device=device[of], ip=np.where(rng.random(m) < 0.4, -1, ip[of]),
        login=rng.random(m) < 0.6, add=(card >= 0) & (rng.random(m) < 0.6),
        purchases=np.where(slow[of], rng.integers(1, 3, m), rng.integers(2, 9, m)),
        instrument=card, cards_each=card < 0, level=rng.normal(7.9, 0.6, m), spread=0.7,
        payee=np.where(
            rng.random(m) < 0.65, popular_stores(world, rng, m, world.digital), -1
        ),
        pace=rng.choice([60.0, 120.0, 400.0], m), browse=np.exp(rng.normal(-0.6, 0.6, m)),
    )  # fmt: skip
    return joined([*sign_up(rng, "card_testing", who, at, tester, device, ip, fresh), buy])


def account_takeover(world: World, rng: np.random.Generator, mint: Mint, n: int) -> Table:
    """Somebody else in a member's account, who spends what is stored there.

    Looks like: failed logins or a reset, then a device and an address new to the member, a changed
    profile, purchases above habit for another consignee.
    Overlaps with: one login in twelve has a typo before it, resets follow forgotten passwords, one
    member in five has a new phone in the period, and travellers come from anywhere. Half of the
    takeovers have no failed login (the password was known), a fifth come from the member's own
    device.
    """
    k = many(n / 2.6)
    thief = ghosts(world, rng, k)
    at = moments(world, rng, thief)
    who = members(world, rng, at)
    device, ip = disguise(world, rng, mint, thief)
    inside = rng.random(k) < 0.2  # the member's own device, remotely
    device, ip = np.where(inside, -1, device), np.where(inside, -1, ip)
    address = drops(world, rng, mint, thief, at_home=0.35)
    of, first, later = repeats(rng, 1 + (rng.random(k) < 0.35), hours=9)
    m = len(of)
    guessed, forgot = (rng.random(k) < 0.5)[of] & first, (rng.random(k) < 0.35)[of] & first
    buy = visits(
        m, kind=KIND["account_takeover"], incident=of, member=who[of],
        persona=np.where(inside, who, thief)[of], at=at[of] + later, device=device[of], ip=ip[of],
        away=rng.random(m) < 0.3, fails=np.where(guessed, np.minimum(rng.geometric(0.4, m), 8), 0),
        reset=forgot, login=first | (rng.random(m) < 0.6), profile=first & (rng.random(m) < 0.3),
        add=first & (rng.random(m) < 0.08), purchases=np.where(first, rng.geometric(0.5, m), 1),
        address=address[of], level=world.level[who[of]] + rng.normal(0.5, 0.5, m), spread=0.7,
        payee=np.where(rng.random(m) < 0.45, popular_stores(world, rng, m), -1),
        browse=np.exp(rng.normal(-0.3, 0.7, m)),
    )  # fmt: skip
    return buy


def false_accounts(world: World, rng: np.random.Generator, mint: Mint, n: int) -> Table:
    """A ring registers accounts on a few devices and uses them to lift a few stores.

    Looks like: several accounts young together on the same devices or in the same network, which
    come back to the same two or three stores.
    Overlaps with: households, where devices, addresses and cards are shared, and public devices
    that dozens use. Two accounts in five keep off the ring's devices, many sleep for weeks first.
    """
    k = many(n / 8.0)
    of = np.repeat(np.arange(k), rng.integers(3, 9, k))  # one row an account
    m = len(of)
    who = false_members(world, mint, m)
    start, days = moments(world, rng, ghosts(world, rng, k)), rng.uniform(1, 15, k)
    at = start[of] + rng.uniform(0, 1, m) * days[of] * DAY
    hands = ghosts(world, rng, 2 * k).reshape(k, 2)[of, rng.integers(0, 2, m)]
    device, ip = disguise(world, rng, mint, hands)
    device = np.where(rng.random(m) < 0.6, world.devices[hands, 0], device)
    asleep = np.where(rng.random(m) < 0.35, rng.uniform(5, 40, m), rng.exponential(1.0, m)) * DAY
    act, _, later = repeats(rng, rng.integers(1, 4, m), hours=80)
    stores = popular_stores(world, rng, 3 * k).reshape(k, 3)
    a = len(act)
    buy = visits(
        a, kind=KIND["false_accounts"], incident=of[act], member=who[act], persona=hands[act],
        at=at[act] + asleep[act] + later, device=device[act], ip=ip[act],
        login=rng.random(a) < 0.65, profile=rng.random(a) < 0.06,
        purchases=np.where(rng.random(a) < 0.65, rng.geometric(0.8, a), 0),
        payee=np.where(rng.random(a) < 0.75, stores[of[act], rng.integers(0, 3, a)], -1),
        level=world.level[who[act]] - 0.2, spread=0.6, browse=np.exp(rng.normal(-0.2, 0.6, a)),
    )  # fmt: skip
    join = visits(
        m, kind=KIND["false_accounts"], incident=of, member=who, persona=hands, at=at,
        device=device, ip=ip, register=1, add=rng.random(m) < 0.25,
    )  # fmt: skip
    return joined([join, buy])


def colluding_stores(world: World, rng: np.random.Generator, mint: Mint, n: int) -> Table:
    """Buyers in league with a store pay it for nothing, and it cashes out.

    Looks like: the same accounts buying again and again from one small store, at middling and high
    amounts, and payouts soon after.
    Overlaps with: restockers, who buy three times in four from one store and for more than others,
    and favourite stores. Half of the stores are old ones with honest trade, half of the buyers are
    members with a past, on their own devices, with their own cards.
    """
    k = many(n / 12.0)
    new = rng.random(k) < 0.5
    store = np.where(new, false_members(world, mint, k, new), standing_stores(world, rng, k))
    at = 0.9 * moments(world, rng, store)  # a league takes its time: let it come to something
    level = rng.normal(9.9, 0.5, k)
    pair = np.repeat(np.arange(k), rng.integers(3, 6, k))  # one row a buyer
    b = len(pair)
    fresh = rng.random(b) < 0.5
    who = np.where(fresh, false_members(world, mint, b, fresh), members(world, rng, at[pair]))
    hands = np.where(fresh & (rng.random(b) < 0.5), ghosts(world, rng, k)[pair], who)
    begins = at[pair] + rng.uniform(0, 12, b) * DAY
    of, _, later = repeats(rng, rng.integers(1, 5, b), hours=110)
    m, kind = len(of), KIND["colluding_stores"]
    buy = visits(
        m, kind=kind, incident=pair[of], member=who[of], persona=hands[of], at=begins[of] + later,
        login=rng.random(m) < 0.55, purchases=rng.geometric(0.8, m), payee=store[pair[of]],
        level=level[pair[of]], spread=0.5, browse=np.exp(rng.normal(-0.2, 0.6, m)),
    )  # fmt: skip
    cash, _, after = repeats(rng, rng.integers(1, 4, k), hours=130)
    c = len(cash)
    sell = visits(
        c, kind=kind, incident=cash, member=store[cash], at=at[cash] + 2 * DAY + after,
        login=rng.random(c) < 0.7, listings=rng.poisson(0.4, c), payouts=1,
        level=np.where(new[cash], level[cash], world.level[store[cash]] + 0.3),
    )  # fmt: skip
    opens = rows(
        visits(k, kind=kind, incident=np.arange(k), member=store, at=at - 0.2 * DAY, login=1,
               opens=1, listings=1 + rng.poisson(1.2, k)), new)  # fmt: skip
    founds = sign_up(rng, "colluding_stores", store, at - 0.5 * DAY, store, None, None, new)
    joins = sign_up(rng, "colluding_stores", who, begins, hands, None, None, fresh, pair)
    return joined([*founds, *joins, opens, buy, sell])


def promotion_abuse(world: World, rng: np.random.Generator, mint: Mint, n: int) -> Table:
    """One person takes a newcomer's offer several times under several accounts.

    Looks like: accounts that register and buy in one sitting, what is on promotion, from one
    household's device and often for its address or on its card.
    Overlaps with: families whose members join one after the other, and newcomers, two in five of
    whom buy at once and half of these what is on promotion.
    """
    k = many(n / 4.0)
    of = np.repeat(np.arange(k), rng.integers(2, 7, k))
    m = len(of)
    chance = rng.random(k) < 0.55  # an ordinary member tempted, or somebody who lives by it
    person = np.where(chance, members(world, rng, np.zeros(k)), ghosts(world, rng, k))
    who = false_members(world, mint, m)
    start, days = moments(world, rng, person), rng.exponential(5, k) + 0.2
    at = start[of] + rng.uniform(0, 1, m) * days[of] * DAY
    alike = rng.random(m)
    device = np.where(rng.random(m) < 0.25, mint.take("device", m), -1)
    return visits(
        m, kind=KIND["promotion_abuse"], incident=of, member=who, persona=person[of], at=at,
        device=device, register=1, add=rng.random(m) < 0.35,
        purchases=np.where(rng.random(m) < 0.85, rng.geometric(0.85, m), 0),
        payee=np.where(
            rng.random(m) < 0.6, popular_stores(world, rng, k, world.promotes)[of],
            popular_stores(world, rng, m, world.promotes),
        ),
        instrument=np.where(rng.random(m) < 0.3, world.instruments[person[of], 0], -1),
        address=np.select([alike < 0.5, alike < 0.7], [world.homes[person[of], 0],
                          world.homes[person[of], 1]], -1),
        level=world.level[who] - 0.3, spread=0.6, browse=np.exp(rng.normal(-0.1, 0.6, m)),
    )  # fmt: skip


def payout_hijack(world: World, rng: np.random.Generator, mint: Mint, n: int) -> Table:
    """A seller's earnings sent to somebody else's bank account.

    Looks like: a new payout account, often after a reset, a new device or a changed profile, then
    a payout that is larger than usual.
    Overlaps with: three sellers in ten change their bank in the period, half with a payout there
    and then. Two hijacks in five wait a day or more, a quarter come from the seller's own device.
    """
    k = many(n / 1.4)
    thief = ghosts(world, rng, k)
    at = moments(world, rng, thief)
    who = popular_stores(world, rng, k)
    device, ip = disguise(world, rng, mint, thief)
    inside = rng.random(k) < 0.25
    bank = mint.cards(np.full(k, CARD))
    waits = rng.random(k) < 0.4
    delay = np.where(waits, rng.uniform(0.5, 3, k) * DAY, 0.0)
    kind, level = KIND["payout_hijack"], world.level[who] + rng.normal(0.3, 0.4, k)
    guessed = rng.random(k) < 0.4
    common = {
        "kind": kind, "incident": np.arange(k), "member": who, "instrument": bank,
        "persona": np.where(inside, who, thief), "device": np.where(inside, -1, device),
        "ip": np.where(inside, -1, ip), "level": level,
    }  # fmt: skip
    change = visits(
        k, **common, at=at, fails=guessed * np.minimum(rng.geometric(0.5, k), 6),
        reset=rng.random(k) < 0.35, login=1, profile=rng.random(k) < 0.45,
        add=rng.random(k) < 0.85, payouts=~waits,
    )  # fmt: skip
    again = waits | (rng.random(k) < 0.3)
    cash = visits(k, **common, at=at + delay + 4 * HOUR, login=rng.random(k) < 0.7, payouts=1)
    return joined([change, rows(cash, again)])


# Each kind with its share of the fraudulent transactions.
FRAUDS: dict[str, tuple[Plan, float]] = {
    "stolen_instrument": (stolen_instrument, 0.25),
    "card_testing": (card_testing, 0.17),
    "account_takeover": (account_takeover, 0.20),
    "false_accounts": (false_accounts, 0.11),
    "colluding_stores": (colluding_stores, 0.12),
    "promotion_abuse": (promotion_abuse, 0.10),
    "payout_hijack": (payout_hijack, 0.05),
}
KINDS = tuple(FRAUDS)
KIND = {name: number for number, name in enumerate(KINDS)}
RINGS = ("false_accounts", "colluding_stores", "promotion_abuse")


def fraud_visits(world: World, rng: np.random.Generator, mint: Mint, *, transactions: int) -> Table:
    """Return visits of all kinds, by the shares above, with about so many transactions."""
    plans = [plan(world, rng, mint, many(transactions * share)) for plan, share in FRAUDS.values()]
    first = 0
    for plan in plans:
        count = int(plan["incident"].max()) + 1
        plan["incident"] = plan["incident"] + first
        first += count
    everything = joined(plans)
    return rows(everything, everything["at"] < world.horizon - 2 * HOUR)


# -- what the plans share


def many(x: float) -> int:
    return max(1, round(x))


def ghosts(world: World, rng: np.random.Generator, n: int) -> Ints:
    """Return people behind the frauds; each may be behind several."""
    return world.honest + world.false + rng.integers(0, world.ghosts, n)


def false_members(world: World, mint: Mint, n: int, wanted: np.ndarray | None = None) -> Ints:
    """Return `n` accounts that nobody has used, real ones only where they are `wanted`."""
    chosen = np.full(n, -1, dtype=np.int64)
    where = np.arange(n) if wanted is None else np.flatnonzero(wanted)
    taken = mint.take("false member", len(where))
    if len(taken) and taken[-1] >= world.false:
        raise ValueError(f"the world holds {world.false} false accounts, the frauds ask for more")
    chosen[where] = world.honest + taken
    return chosen


def members(world: World, rng: np.random.Generator, at: Floats) -> Ints:
    """Return honest members who were there at each instant, the active more often."""
    weight = world.activity[: world.honest] / world.activity[: world.honest].sum()
    tries = rng.choice(world.honest, (8, len(at)), p=weight)
    there = world.registered[tries] < at - DAY
    there[-1] = True
    old = np.flatnonzero(world.registered[: world.honest] < 0)
    tries[-1] = rng.choice(old, len(at))
    return np.asarray(tries[there.argmax(axis=0), np.arange(len(at))], np.int64)


def standing_stores(world: World, rng: np.random.Generator, n: int) -> Ints:
    """Return stores, small or large, that were there from the start."""
    return rng.choice(world.stores[np.isneginf(world.opened[world.stores])], n)


def moments(world: World, rng: np.random.Generator, who: Ints) -> Floats:
    """Return an instant for each, a third of them at any hour of day or night."""
    n = len(who)  # spread evenly, so that a short period has every kind too
    day = 2 + (world.days - 3) * (rng.permutation(n) + rng.random(n)) / n
    return np.where(rng.random(n) < 0.33, day * DAY, clock(world, rng, day, who))


def disguise(world: World, rng: np.random.Generator, mint: Mint, who: Ints) -> tuple[Ints, Ints]:
    """Return the device and IP of each: their own (-1), a clean one, or one that others use too."""
    n = len(who)
    u, v = rng.random(n), rng.random(n)
    device = np.select([u < 0.4, u < 0.88], [np.full(n, -1), mint.take("device", n)],
                       rng.choice(world.cafes, n))  # fmt: skip
    proxy = packed_ip(
        HOME4,
        world.home_ip[rng.integers(0, world.honest, n)] >> 8 & 0xFFFF,
        rng.integers(1, 255, n),
    )
    ip = np.select([v < 0.5, v < 0.68, v < 0.88], [np.full(n, -1), vpn_ips(rng, n), proxy],
                   public_ips(rng, n))  # fmt: skip
    return device, ip


def drops(
    world: World, rng: np.random.Generator, mint: Mint, thief: Ints, *, at_home: float
) -> Ints:
    """Return where the goods go: the account's own address (-1), the thief's drop, or a new one."""
    u = rng.random(len(thief))
    return np.select([u < at_home, u < at_home + 0.4],
                     [np.full(len(thief), -1), world.homes[thief, 1]],
                     new_addresses(world, mint, len(thief)))  # fmt: skip


def repeats(
    rng: np.random.Generator, counts: Ints, hours: float
) -> tuple[Ints, np.ndarray, Floats]:
    """Return for each of `counts` visits whose it is, whether the first, and how long after (s)."""
    of = np.repeat(np.arange(len(counts)), counts)
    first = np.diff(of, prepend=-1) > 0
    later = np.where(first, 0.0, rng.exponential(hours * HOUR, len(of)) + 0.3 * HOUR)
    return of, first, later


def sign_up(
    rng: np.random.Generator,
    kind: str,
    who: Ints,
    at: Floats,
    hands: Ints,
    device: Ints | None,
    ip: Ints | None,
    fresh: np.ndarray,
    incident: Ints | None = None,
) -> list[Table]:
    """Return the registrations of `fresh` accounts, hours before their use, or weeks."""
    n = len(who)
    wait = np.where(rng.random(n) < 0.35, rng.uniform(4, 60, n) * DAY,
                    rng.lognormal(2.0, 1.3, n) * HOUR)  # fmt: skip
    every = visits(
        n, kind=KIND[kind], incident=np.arange(n) if incident is None else incident, member=who,
        persona=hands, at=at - wait, device=-1 if device is None else device,
        ip=-1 if ip is None else ip, register=1, add=rng.random(n) < 0.15,
    )  # fmt: skip
    return [rows(every, fresh)]
