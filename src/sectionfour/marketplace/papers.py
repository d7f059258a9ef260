"""The papers of the simulated marketplace: what people consented to, and what became known when.

Consents are drawn for everybody alike, without a look at who deceives: refusing says nothing about
a person, here as it should elsewhere. Labels arrive late, some never, a few wrongly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sectionfour.marketplace.frauds import KINDS
from sectionfour.marketplace.people import DAY, HOUR, Bools, Floats, Ints, World
from sectionfour.marketplace.visits import TYPES, Table

EVERYTHING = ("member.required", "order", "payment", "consignee", "device", "location", "log")
# What members consent to, and the share of members who do.
PLANS: dict[tuple[str, ...], float] = {
    EVERYTHING: 0.74,
    tuple(c for c in EVERYTHING if c != "location"): 0.06,
    tuple(c for c in EVERYTHING if c != "device"): 0.03,
    tuple(c for c in EVERYTHING if c != "log"): 0.04,
    tuple(c for c in EVERYTHING if c != "consignee"): 0.02,
    tuple(c for c in EVERYTHING if c not in ("device", "location", "log")): 0.03,
    ("member.required", "order", "payment"): 0.04,
    (): 0.04,
}
OPTIONAL = {"member.optional": 0.18, "location.gps": 0.15}
# Each is a consent of its own, explicit always; members, then sellers.
SENSITIVE = {"identity.document": (0.05, 0.5), "biometric.face": (0.03, 0.3)}
#: Whoever shows a document shows one, and consents to that type of it.
DOCUMENTS = {"identity_card": 0.7, "driving_licence": 0.2, "passport": 0.1}
WITHDRAWN, GIVEN_AGAIN = 0.05, 0.35
EXPLICIT = 0.85


@dataclass(frozen=True, slots=True)
class Discovery:
    """How a kind of fraud becomes known: by whom, how many days later, how often at all."""

    label: str
    source: str
    days: float  # median
    spread: float  # standard deviation of the logarithm of days
    found: float  # share of incidents
    together: bool = True  # one report for the incident, or one for each purchase


DISCOVERIES = {
    "stolen_instrument": Discovery("chargeback", "issuer", 10.0, 0.6, 0.95, together=False),
    "card_testing": Discovery("chargeback", "issuer", 8.0, 0.7, 0.93, together=False),
    "account_takeover": Discovery("account_takeover", "member_report", 0.9, 1.1, 0.94),
    "false_accounts": Discovery("confirmed_fraud", "analyst", 5.0, 0.6, 0.92),
    "colluding_stores": Discovery("confirmed_fraud", "analyst", 9.0, 0.5, 0.9),
    "promotion_abuse": Discovery("confirmed_fraud", "analyst", 4.0, 0.7, 0.9),
    "payout_hijack": Discovery("account_takeover", "member_report", 1.5, 0.9, 0.96),
}
OVERLOOKED = 0.03  # single events of a known incident that nobody marks
MISTAKEN = 0.0006  # honest purchases charged back by mistake, and corrected later


def consents(world: World, rng: np.random.Generator, begins: Floats, sells: Bools) -> Table:
    """Return consents and withdrawals, a row each, by time.

    `begins` is each member's first instant (seconds); the general consent comes just before it.
    Categories are text, separated by commas; `ref` pairs a withdrawal with what it withdraws.
    """
    n = len(begins)
    plans = list(PLANS)
    plan = rng.choice(len(plans), n, p=list(PLANS.values()))
    extra = {name: rng.random(n) < share for name, share in OPTIONAL.items()}
    text = np.array([",".join(p) for p in plans], dtype=object)[plan]
    for name, named in extra.items():
        text = np.where(named, text + f",{name}", text)
    some = np.array([len(p) > 0 for p in plans])[plan]
    explicit = rng.random(n) < EXPLICIT
    at = begins - rng.uniform(2, 90, n)
    late = at + HOUR + rng.random(n) * np.maximum(world.horizon - at - HOUR, HOUR)
    later = late + rng.exponential(6 * DAY, n) + HOUR
    withdrawn = some & (rng.random(n) < WITHDRAWN)
    again = withdrawn & (rng.random(n) < GIVEN_AGAIN)

    parts: list[tuple[Ints, Floats, str, str, np.ndarray, Bools]] = []
    for who, when, action, ref in ((some, at, "given", "a"), (withdrawn, late, "withdrawn", "a"),
                                   (again, later, "given", "b")):  # fmt: skip
        i = np.flatnonzero(who)
        parts.append((i, when[i], action, ref, text[i], explicit[i]))
    for letter, (name, (members, sellers)) in zip("de", SENSITIVE.items(), strict=True):
        i = np.flatnonzero(rng.random(n) < np.where(sells, sellers, members))
        wait = np.where(rng.random(len(i)) < 0.6, rng.uniform(1, 60, len(i)),
                        rng.random(len(i)) * (world.horizon - at[i]))  # fmt: skip
        named = np.full(len(i), name, dtype=object)
        if name == "identity.document":
            shown = rng.spawn(1)[0].choice(list(DOCUMENTS), len(i), p=list(DOCUMENTS.values()))
            named = np.array([f"{name}:{kind}" for kind in shown], dtype=object)
        parts.append((i, at[i] + wait, "given", letter, named, np.ones(len(i), np.bool_)))
    table: Table = {
        "member": np.concatenate([i for i, *_ in parts]),
        "at": np.concatenate([when for _, when, *_ in parts]),
        "action": np.concatenate([np.full(len(i), action, object) for i, _, action, *_ in parts]),
        "ref": np.concatenate([np.full(len(i), ref, object) for i, _, _, ref, *_ in parts]),
        "categories": np.concatenate([words for *_, words, _ in parts]),
        "explicit": np.concatenate([yes for *_, yes in parts]),
    }
    order = np.argsort(table["at"], kind="stable")
    return {key: column[order] for key, column in table.items()}


def labels(rng: np.random.Generator, events: Table) -> Table:
    """Return what became known: event row, label, source, and when (seconds), by time.

    Chargebacks come purchase by purchase; the account events of such a fraud are marked by an
    analyst who follows up the first of them. Other frauds are reported as a whole.
    """
    parts = [_found(rng, events, name) for name in KINDS]
    parts.extend(_mistakes(rng, events))
    table = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    order = np.argsort(table["at"], kind="stable")
    return {key: column[order] for key, column in table.items()}


def _found(rng: np.random.Generator, events: Table, name: str) -> Table:
    how = DISCOVERIES[name]
    row = np.flatnonzero(events["kind"] == KINDS.index(name))
    _, of, sizes = np.unique(events["incident"][row], return_inverse=True, return_counts=True)
    k, n, at = len(sizes), len(row), events["at"][row]
    bought = events["type"][row] == TYPES.index("purchase")
    charge = at + np.maximum(how.days * np.exp(rng.normal(0, how.spread, n)), 0.5) * DAY
    report = how.days * np.exp(rng.normal(0, how.spread, k)) * DAY
    if how.together:
        seen = np.full(k, np.inf)  # reported some time after the middle of the incident
        np.minimum.at(seen, of, np.where(at >= (np.bincount(of, at, k) / sizes)[of], at, np.inf))
        known = (seen + report)[of]
        label = np.full(n, how.label, object)
        source = np.full(n, how.source, object)
    else:
        first = np.full(k, np.inf)
        np.minimum.at(first, of, np.where(bought, charge, np.inf))
        first = np.where(np.isinf(first), 2 * report + at.max(initial=0.0), first)
        known = np.where(bought, charge, (first + rng.exponential(DAY, k) + HOUR)[of])
        label = np.where(bought, how.label, "confirmed_fraud").astype(object)
        source = np.where(bought, how.source, "analyst").astype(object)
    # what happens after the report is marked as it is noticed
    known = np.maximum(known, at + rng.exponential(0.6 * DAY, n) + 0.3 * HOUR)
    marked = (rng.random(k) < how.found)[of] & (rng.random(n) >= OVERLOOKED)
    return {"row": row[marked], "label": label[marked], "source": source[marked],
            "at": known[marked]}  # fmt: skip


def _mistakes(rng: np.random.Generator, events: Table) -> list[Table]:
    honest = (events["kind"] < 0) & (events["type"] == TYPES.index("purchase"))
    row = np.flatnonzero(honest & (rng.random(len(honest)) < MISTAKEN))
    n = len(row)
    charged = events["at"][row] + rng.lognormal(2.3, 0.5, n) * DAY
    cleared = charged + rng.lognormal(2.2, 0.5, n) * DAY
    return [
        {"row": row, "label": np.full(n, "chargeback", object),
         "source": np.full(n, "issuer", object), "at": charged},
        {"row": row, "label": np.full(n, "legitimate", object),
         "source": np.full(n, "analyst", object), "at": cleared},
    ]  # fmt: skip
