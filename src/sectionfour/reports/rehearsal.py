"""What rules would have done in a period that is past: whom they would have met, at what cost.

The events are those that may be analysed, each with its features as of then, and the outcome that
the model which was judged would have led to: what is served has the same settings, and has learnt
from most of these events since.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from sectionfour.decisions.rules import Rule, Rules
from sectionfour.domain import ACTIONS, DELAY_DAYS, MODELS, instant
from sectionfour.learning import intervals, registry
from sectionfour.learning.model import Model
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
    `until`, in microseconds; without either in the period that each model was judged on.

    `seen` counts events from before that: there a model looks better than it is, and a rule adds
    less. `held` counts events; `stricter` those of them whose outcome the rule alone would have
    changed. Of the events that are old enough to be called honest (`judged`) frauds are counted,
    with their share and its 95 % interval. `costs_more` is what 1,000 events cost more with all
    rules than without, in the minor unit; below zero, they save. Raises HistoryError where there
    are no events.
    """
    names: list[str] = [n for n in MODELS if any(n in rule.models for rule in rules.rules)]
    models = {name: registry.judged_now(parts.models, name) for name in names}
    unseen = {name: registry.tested(card)[0] for name, (_, card) in models.items()}
    of_cards = since is None and until is None
    first = min(unseen.values()) if of_cards else since
    found = period.read(parts, names, since=first, until=until, delay_days=delay_days)
    if of_cards:
        found = {name: of.of(of.at >= unseen[name]) for name, of in found.items()}
    return [
        {"seen": int((of.at < unseen[name]).sum()), **_rehearsed(parts, rules, of, models[name][0])}
        for name, of in found.items()
    ]


def _rehearsed(parts: Parts, rules: Rules, of: period.Period, model: Model) -> dict[str, Any]:
    limits = parts.policy.thresholds(of.name)
    edges = [limits.challenge, limits.review, limits.block]
    before = np.searchsorted(edges, model.score(of.rows), side="right")
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
    if found["seen"]:
        yield (
            f"  note: the model has learnt from {found['seen']:,} of these, or was chosen on them:"
            " there a rule adds less than it would"
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
