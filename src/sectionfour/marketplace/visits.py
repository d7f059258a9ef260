"""What happens on the marketplace: visits, how one unfolds into events, and those of good faith.

Honest or not, every visit is a row of one table and unfolds by the same rules; what sets one apart
is written in its row. No fraud is planned here (`frauds`); numbers become the columns that
others read in `simulate`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sectionfour.marketplace.people import (
    CARD,
    CARRIER,
    HOUR,
    Bools,
    Floats,
    Ints,
    Mint,
    World,
    busy_days,
    clock,
    new_addresses,
    packed_ip,
    popular_stores,
    public_ips,
    usual_devices,
    usual_ips,
    vpn_ips,
)

Table = dict[str, NDArray[Any]]

# Events in the order in which a visit runs through them, and the usual pause before each (seconds).
STEPS = {
    "register": ("registration", 60.0),
    "fails": ("login_failed", 14.0),
    "reset": ("password_reset", 80.0),
    "login": ("login", 20.0),
    "profile": ("profile_change", 110.0),
    "add": ("instrument_added", 100.0),
    "opens": ("store_opened", 400.0),
    "listings": ("listing", 300.0),
    "purchases": ("purchase", 240.0),
    "payouts": ("payout", 200.0),
}
TYPES = tuple(name for name, _ in STEPS.values())
TRANSACTIONS = ("purchase", "payout", "listing")

# A visit where nothing is said: by the member, from the usual device and address, and nothing done.
VISIT: dict[str, Any] = {
    "at": 0.0,
    "member": -1,
    "persona": -1,  # whose habits sit before the screen; -1: the member's
    "device": -1,  # -1: one of the persona's
    "ip": -1,
    "away": False,
    **dict.fromkeys(STEPS, 0),
    "level": np.nan,  # mean of the logarithm of an amount; nan: the member's
    "spread": np.nan,
    "payee": -1,
    "instrument": -1,
    "address": -1,
    "cards_each": False,  # each purchase on a card of its own
    "pace": 240.0,  # mean seconds between purchases
    "browse": 1.0,  # how much is read before acting
    "kind": -1,
    "incident": -1,
}


def visits(n: int, **columns: Any) -> Table:
    """Return a table of `n` visits; what is not given is as `VISIT` says."""
    unknown = columns.keys() - VISIT.keys()
    if unknown:
        raise KeyError(f"a visit has no {sorted(unknown)}; it has {sorted(VISIT)}")
    return {
        key: np.array(np.broadcast_to(np.asarray(columns.get(key, usual)), n))
        for key, usual in VISIT.items()
    }


def joined(tables: list[Table]) -> Table:
    """Return one table of the rows of all, in order."""
    return {key: np.concatenate([table[key] for table in tables]) for key in tables[0]}


def rows(table: Table, keep: Bools | Ints) -> Table:
    return {key: column[keep] for key, column in table.items()}


def unfold(world: World, rng: np.random.Generator, mint: Mint, visit: Table) -> Table:
    """Return one row an event, with `visit` the number of the visit that it is part of.

    Columns of numbers, -1 (or nan) where an event has none; `at` is not yet sorted nor unique.
    """
    counts = np.stack([visit[step].astype(np.int64) for step in STEPS], axis=1)
    of = np.repeat(np.arange(len(counts)), counts.sum(axis=1))
    kind = np.repeat(np.tile(np.arange(len(STEPS)), len(counts)), counts.ravel())
    who = visit["member"][of]
    persona = np.where(visit["persona"] < 0, visit["member"], visit["persona"])

    pause = np.array([seconds for _, seconds in STEPS.values()])[kind]
    buying = kind == TYPES.index("purchase")
    gap = 1.0 + rng.exponential(np.where(buying, visit["pace"][of], pause))
    elapsed = np.cumsum(gap)
    starts = np.concatenate([[0.0], elapsed])[np.cumsum(counts.sum(axis=1)) - counts.sum(axis=1)]
    at = np.minimum(visit["at"][of] + elapsed - starts[of], world.horizon - 1.0)

    device = _or(visit["device"], usual_devices(world, rng, persona, visit["at"]))
    ip = _or(visit["ip"], usual_ips(world, rng, persona, visit["at"]))
    read = visit["browse"][of] * rng.gamma(1.6, 0.6, len(of))
    events: Table = {
        "at": at, "type": kind, "member": who, "visit": of, "persona": persona[of],
        "device": device[of], "ip": ip[of], "away": visit["away"][of],
        "pages": 1 + rng.poisson(np.where(buying, 8.0, 3.0) * read),
        "searches": rng.poisson(np.where(buying, 1.5, 0.4) * read),
        "seconds": np.round(np.exp(rng.normal(3.0, 0.75, len(of))) * np.sqrt(read + 0.05), 1),
        "kind": visit["kind"][of], "incident": visit["incident"][of],
    }  # fmt: skip
    return events | _transactions(world, rng, mint, visit, events)


def _or(said: NDArray[Any], usual: Ints) -> Ints:
    return np.asarray(np.where(said >= 0, said, usual), np.int64)


def _transactions(
    world: World, rng: np.random.Generator, mint: Mint, visit: Table, events: Table
) -> Table:
    """Return amount, payee, items, instrument, address and `own` (the member receives) an event."""
    of, who, n = events["visit"], events["member"], len(events["at"])
    buys, pays, lists, adds = (
        events["type"] == TYPES.index(name)
        for name in ("purchase", "payout", "listing", "instrument_added")
    )
    store = _or(visit["payee"][of], _stores(world, rng, who, events["at"]))
    level = np.where(np.isnan(visit["level"]), world.level[visit["member"]], visit["level"])[of]
    dear = np.where(np.isnan(visit["level"][of]), world.price[store], 0.0)
    level = np.select([lists, pays], [9.0 + world.price[who], level + 1.6], level + dear)
    spread = np.where(np.isnan(visit["spread"]), world.spread[visit["member"]], visit["spread"])[of]
    amount = np.exp(np.clip(rng.normal(level, spread), 4.6, 14.5))
    whole = rng.random(n)  # most prices are whole, many of them in tens
    amount = np.select([whole < 0.35, whole < 0.7], [np.ceil(amount / 1000) * 1000,
                       np.ceil(amount / 100) * 100], np.ceil(amount))  # fmt: skip

    slot = rng.choice(3, n, p=[0.7, 0.18, 0.12])
    instrument = _or(visit["instrument"][of], world.instruments[who, slot])
    alone = np.flatnonzero(buys & visit["cards_each"][of])
    instrument[alone] = mint.cards(np.full(len(alone), CARD))
    bank = world.banks[who, (events["at"] >= world.bank_changed[who]).astype(np.int64)]
    instrument = np.where(pays, _or(visit["instrument"][of], bank), instrument)

    address, own = _consignees(world, rng, mint, who)
    said = visit["address"][of]
    own = np.where(said >= 0, rng.random(n) < 0.8, own)
    delivered = buys & ~(world.digital[store] & (said < 0))
    return {
        "amount": np.where(buys | pays | lists, amount, -1).astype(np.int64),
        "payee": np.where(buys, store, -1),
        "items": np.where(buys, 1 + rng.poisson(0.6, n), -1),
        "instrument": np.where(buys | pays | adds, instrument, -1),
        "address": np.where(delivered, _or(said, address), -1),
        "own": delivered & own,
    }


def _stores(world: World, rng: np.random.Generator, who: Ints, at: Floats) -> Ints:
    n = len(who)
    liked = world.favourites[who, np.where(rng.random(n) < 0.3, 0, rng.integers(0, 5, n))]
    liked = np.where(world.restocks[who] & (rng.random(n) < 0.75), world.favourites[who, 0], liked)
    other = popular_stores(world, rng, n)
    keeps = (rng.random(n) < 0.6) & (world.opened[liked] < at)
    return np.asarray(np.where(keeps, liked, other), np.int64)


def _consignees(
    world: World, rng: np.random.Generator, mint: Mint, who: Ints
) -> tuple[Ints, Bools]:
    n = len(who)
    u = rng.random(n)
    address = world.homes[who, (u > 0.83).astype(np.int64)]
    gift = np.flatnonzero(u > 0.91)
    address[gift] = new_addresses(world, mint, len(gift))
    return address, (u <= 0.91) | (rng.random(n) < 0.25)


# -- visits of good faith


def honest_visits(world: World, rng: np.random.Generator, mint: Mint, *, events: int) -> Table:
    """Return visits that unfold into at most `events` events, and into few fewer.

    Everything that frauds do is also done here, by fewer people or for better reasons: mistyped
    and forgotten passwords, new phones and cards, journeys, bursts of small top-ups, gifts to new
    addresses, first orders minutes after joining, sellers who change their bank.
    """
    once = [_joining(world, rng, mint), _opening(world, rng), _changing_bank(world, rng)]
    fixed = joined(once)
    left = events - int(length(fixed).sum())
    if left < 0:
        raise ValueError(f"{events} events are too few for the people that they are to be about")
    daily = _daily(world, rng, mint, int(2.2 * events))
    keep = np.cumsum(length(daily)) <= left
    return joined([fixed, rows(daily, keep)])


def length(visit: Table) -> Ints:
    """Return how many events each visit unfolds into."""
    return np.asarray(sum(visit[step].astype(np.int64) for step in STEPS), np.int64)


def guest_visits(world: World, rng: np.random.Generator, n: int) -> Table:
    """Return `n` visits by people who are not logged in: a failed login under no known name."""
    who = rng.integers(0, world.honest, n)
    at = np.minimum(clock(world, rng, busy_days(world, rng, n), who), world.horizon - 2 * HOUR)
    return visits(n, persona=who, at=at, fails=1)


def _joining(world: World, rng: np.random.Generator, mint: Mint) -> Table:
    """Registrations of the period; two in five buy at once, many of them what is on promotion."""
    who = np.flatnonzero(world.registered[: world.honest] >= 0)
    n = len(who)
    drawn = rng.random((4, n))
    new_card = np.where(drawn[1] < 0.2, mint.cards(np.full(n, CARD)), -1)
    return visits(
        n,
        member=who,
        at=world.registered[who],
        register=1,
        add=drawn[1] < 0.35,
        instrument=new_card,
        purchases=np.where(drawn[0] < 0.42, rng.geometric(0.75, n), 0),
        payee=np.where(drawn[2] < 0.5, popular_stores(world, rng, n, world.promotes), -1),
        browse=np.exp(rng.normal(0.1, 0.6, n)),
    )


def _opening(world: World, rng: np.random.Generator) -> Table:
    who = world.stores[world.opened[world.stores] > 0]
    return visits(
        len(who),
        member=who,
        at=world.opened[who],
        login=1,
        opens=1,
        profile=rng.random(len(who)) < 0.3,
        listings=rng.poisson(2.5, len(who)),
    )


def _changing_bank(world: World, rng: np.random.Generator) -> Table:
    """Sellers who move to another payout account, half of them with a payout there and then."""
    changed = world.bank_changed[world.stores]
    who = world.stores[np.isfinite(changed) & (changed > world.opened[world.stores])]
    n = len(who)
    drawn = rng.random((5, n))
    return visits(
        n,
        member=who,
        at=world.bank_changed[who],
        fails=np.where(drawn[0] < 0.15, 1, 0),
        reset=drawn[1] < 0.1,
        login=1,
        profile=drawn[2] < 0.5,
        add=drawn[3] < 0.9,
        instrument=world.banks[who, 1],
        payouts=drawn[4] < 0.5,
    )


def _daily(world: World, rng: np.random.Generator, mint: Mint, n: int) -> Table:
    """Ordinary visits in random order, about `n` before those out of time are left out."""
    weight = world.activity[: world.honest] / world.activity[: world.honest].sum()
    who = rng.choice(world.honest, n, p=weight)
    at = clock(world, rng, busy_days(world, rng, n), who)
    here = (at > world.registered[who] + 0.5 * HOUR) & (at < world.horizon - 2 * HOUR)
    who, at = who[here], at[here]
    n = len(who)
    does = {
        name: rng.random(n) < share
        for name, share in {
            "typo": 0.08, "forgot": 0.022, "log_in": 0.55, "edit": 0.03, "card": 0.03,
            "top_up": 0.022, "travel": 0.05, "move": 0.03, "splurge": 0.02, "use_cafe": 0.12,
            "spree": 0.02,
        }.items()
    }  # fmt: skip
    sells = (world.opened[who] < at) & np.isin(who, world.stores) & (rng.random(n) < 0.65)
    buys = np.select([rng.random(n) < p for p in (0.42, 0.66)], [0, 1], rng.geometric(0.62, n))
    buys = np.where(does["top_up"], rng.integers(3, 11, n), buys)
    buys = np.where(does["spree"], rng.integers(3, 8, n), buys)
    travel = does["travel"]
    away_ip = np.where(rng.random(n) < 0.25, vpn_ips(rng, n), public_ips(rng, n))
    roaming = packed_ip(CARRIER, rng.integers(0, 36, n), rng.integers(1, 7, n))
    return visits(
        n,
        member=who,
        at=at,
        ip=np.where(travel, np.where(rng.random(n) < 0.4, roaming, away_ip), -1),
        device=np.where(travel & does["use_cafe"], rng.choice(world.cafes, n), -1),
        away=travel,
        fails=np.where(does["forgot"], rng.integers(1, 6, n), does["typo"] * rng.geometric(0.7, n)),
        reset=does["forgot"] & (rng.random(n) < 0.75),
        login=does["log_in"] | does["forgot"],
        profile=does["edit"] | (does["move"] & (rng.random(n) < 0.6)),
        add=does["card"] & ~sells,
        instrument=np.where(does["card"] & ~sells, mint.cards(np.full(n, CARD)), -1),
        listings=sells * rng.poisson(1.1, n),
        payouts=sells & (rng.random(n) < 0.45),
        purchases=np.where(sells, 0, buys),
        level=np.where(
            does["top_up"],
            rng.normal(7.6, 0.5, n),
            np.where(does["splurge"], world.level[who] + 1.3, np.nan),
        ),
        payee=np.where(
            does["top_up"],
            popular_stores(world, rng, n, world.digital),
            np.where(does["spree"], popular_stores(world, rng, n), -1),
        ),
        address=np.where(does["move"], new_addresses(world, mint, n), -1),
        pace=np.where(does["top_up"], 75.0, 240.0),
        browse=np.exp(rng.normal(0.0, 0.6, n)) * np.where(does["top_up"], 0.4, 1.0),
    )
