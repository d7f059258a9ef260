"""What rules would have done in a period that is past: whom they would have met, at what cost.

The events are those that may be analysed, each with its features as of then, and the outcome that
the model which is served would have led to.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from sectionfour.decisions.rules import Rule, Rules
from sectionfour.domain import ACTIONS, DELAY_DAYS, MODELS, instant
from sectionfour.learning import intervals
from sectionfour.parts import Parts
from sectionfour.reports import period


def rehearse(
    parts: Parts,
    rules: Rules,
    *,
    since: int | None = None,
    until: int | None = None,
    delay_days: float = DELAY_DAYS,
) -> list[dict[str, Any]]:
    """Return, by model that has a rule, what the rules would have done from `since` on and before
    `until`, in microseconds.

    `held` counts events; `stricter` those of them whose outcome the rule alone would have changed.
    Of the events that are old enough to be called honest (`judged`) frauds are counted, with their
    share and its 95 % interval. `costs_more` is what 1,000 events cost more with all rules than
    without, in the minor unit; below zero, they save. Raises HistoryError where there are none.
    """
    names = [n for n in MODELS if any(n in rule.models for rule in rules.rules)]
    found = period.read(parts, names, since=since, until=until, delay_days=delay_days)
    return [_rehearsed(parts, rules, found[name]) for name in names]


def _rehearsed(parts: Parts, rules: Rules, of: period.Period) -> dict[str, Any]:
    limits = parts.policy.thresholds(of.name)
    edges = [limits.challenge, limits.review, limits.block]
    before = np.searchsorted(edges, parts.models.get(of.name).score(of.rows), side="right")
    after, told = before.copy(), []
    for rule in (rule for rule in rules.rules if of.name in rule.models):
        held = rule.among(of.rows)
        asked = ACTIONS.index(rule.then)
        after[held] = np.maximum(after[held], asked)
        told.append(_told(rule, of, held, held & (before < asked)))
    judged = of.of(of.mature)
    prices, row = period.prices(judged, parts.policy.of(of.name)), np.arange(len(judged.at))
    more = prices[row, after[of.mature]] - prices[row, before[of.mature]]
    return {
        "model": of.name,
        "from": instant(int(of.at[0])),
        "to": instant(int(of.at[-1])),
        "rows": len(of.at),
        "judged": len(judged.at),
        "frauds": int(judged.fraud.sum()),
        "rules": told,
        "costs_more": intervals.mean(1000 * more, judged.clusters) if len(more) else None,
    }


def _told(
    rule: Rule, of: period.Period, held: period.Mask, stricter: period.Mask
) -> dict[str, Any]:
    judged = held & of.mature
    count, frauds = int(judged.sum()), int(of.fraud[judged].sum())
    honest = judged & (of.fraud == 0)
    share = None
    if count:  # rows of one member are alike, and tell less
        members = np.unique(of.clusters[judged], return_inverse=True)[1]
        alike = intervals.likeness(of.fraud[judged].astype(np.float64), members)
        share = intervals.share(frauds / count, intervals.worth(members, alike))
    return {
        "id": rule.id,
        "then": rule.then,
        "held": int(held.sum()),
        "stricter": int(stricter.sum()),
        "judged": count,
        "frauds": frauds,
        "share": share,
        "honest_members": len(np.unique(of.clusters[honest])),
    }


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield what was found of one model, in words."""
    yield (
        f"{found['model']}, {found['from']} to {found['to']}: {found['rows']:,} events,"
        f" {found['judged']:,} old enough to judge by, {found['frauds']:,} frauds of these"
    )
    for rule in found["rules"]:
        yield (
            f"  {rule['id']}: {rule['then']}; held for {rule['held']:,}, and made"
            f" {rule['stricter']:,} stricter than the model"
        )
        if rule["share"] is not None:
            of = rule["share"]
            yield (
                f"    {rule['frauds']:,} frauds of {rule['judged']:,}: {of['value']:.1%}"
                f" ({of['low']:.1%} to {of['high']:.1%});"
                f" {rule['honest_members']:,} honest members met it"
            )
    if found["costs_more"] is not None:
        more = found["costs_more"]
        yield (
            f"  1,000 events cost {more['value']:+,.0f} with all of these"
            f" ({more['low']:+,.0f} to {more['high']:+,.0f})"
        )
