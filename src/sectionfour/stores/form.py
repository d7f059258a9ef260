"""The form of a card: all that is kept under one entity, as keys and bytes.

    W card token            how the keys of an entity begin: what a step touches lies together
      E at                  -> the totals of every series before it    an event that enters any
      F pair other          -> first at, last at                       when a pair was seen
      R series at           -> the count before it                     of a series that has runs
      T                     -> totals and times of each series, then each pair's (at, other) * n,
                             then each recent's (at, value) * n

Which keys and values these are is known here; in what they are kept is the store's.

Totals go on from where they are when what is past its time goes (`leaving`). The first time of a
series whose totals did not begin with it is marked CUT: what was before it has to be looked up.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from sectionfour.features.catalog import NEWEST
from sectionfour.features.plan import CARDS, JOINS, Card, Joins, Pair, Recent, Series

WRAP = (1 << 64) - 1  # totals may wrap: their differences are right all the same
COUNT = struct.Struct(">Q")
ENTRY = 24  # bytes of (at, other)
VALUE = struct.Struct(">QQ")  # (at, value)
NAME = 18  # bytes of the name of an entity: W, card, token
NEVER = b""  # of what was never seen
#: A bit of the first time of a series that had events before it, which went.
CUT = 1 << 63
TIME = CUT - 1


class _Series(NamedTuple):
    """Where a series lies: in a card's numbers, and in the totals that an entry repeats."""

    plan: Series
    number: int  # of its place among the series of the card
    head: int  # count, last, first and, where summed, sum and sum of squares
    total: int  # count and, where summed, sum and sum of squares
    nothing: tuple[int, ...]  # what is read where there is none
    runs: tuple[tuple[int, int], ...]  # (over, where the `last` of the other series lies)


class _Listed(NamedTuple):
    """A pair: `list` is the place of its others in the card, -1 where none are kept."""

    plan: Pair
    number: int  # of its place among the pairs of the card
    list: int
    suffix: bytes  # of its F keys


class _Enters(NamedTuple):
    """Where an event goes that enters some of a card: what `enter` walks over."""

    series: tuple[tuple[int, bytes, bool], ...]  # head, how R keys go on if any, whether summed
    pairs: tuple[tuple[int, bytes, int, int], ...]  # number, suffix if aged, list, longest window
    recents: tuple[tuple[int, int, int], ...]  # number, list, most bytes of it


class Layout(NamedTuple):
    """Where everything of one kind of card lies."""

    card: Card
    series: tuple[_Series, ...]
    pairs: tuple[_Listed, ...]
    heads: struct.Struct
    nothing: tuple[int, ...]
    totals: struct.Struct
    totals_of: Callable[[Sequence[int]], tuple[int, ...]]
    recents: tuple[Recent, ...]  # their lists come after those of the pairs
    lists: int  # of the pairs
    sizes: struct.Struct
    entries: tuple[int, ...]  # bytes of an entry of each list
    prefix: bytes
    enters: dict[Joins, _Enters]


def _layout(card: Card) -> Layout:
    series: list[_Series] = []
    repeated: list[int] = []
    head = total = 0
    lasts: dict[int, int] = {}
    for number, plan in enumerate(card.series):
        lasts[plan.id] = head + 1
        width = 3 if plan.summed else 1
        nothing = (0, 0, *(0,) * (width * len(plan.overs) + 2 * len(plan.runs)))
        runs = tuple((over, lasts[other]) for over, other in plan.runs)
        series.append(_Series(plan, number, head, total, nothing, runs))
        repeated += [head, head + 3, head + 4] if plan.summed else [head]
        head, total = head + (5 if plan.summed else 3), total + width
    pairs: list[_Listed] = []
    for number, pair in enumerate(card.pairs):
        place = sum(bool(p.overs) for p in card.pairs[:number]) if pair.overs else -1
        pairs.append(_Listed(pair, number, place, b"F" + bytes([pair.id])))
    longest = tuple(pair.overs[-1] for pair in card.pairs if pair.overs)
    picked: Callable[[Sequence[int]], Any] = itemgetter(*repeated) if repeated else tuple
    alone = len(repeated) == 1  # of which itemgetter makes no tuple
    return Layout(
        card=card,
        series=tuple(series),
        pairs=tuple(pairs),
        heads=struct.Struct(f">{head}Q"),
        nothing=(0,) * head,
        totals=struct.Struct(f">{total}Q"),
        totals_of=(lambda numbers: (picked(numbers),)) if alone else picked,
        recents=card.recents,
        lists=len(longest),
        sizes=struct.Struct(f">{len(longest) + len(card.recents)}H"),
        entries=(ENTRY,) * len(longest) + (VALUE.size,) * len(card.recents),
        prefix=b"W" + bytes([card.id]),
        enters={
            joins: _Enters(
                tuple((series[n].head, _runs(series[n]), series[n].plan.summed) for n in joins[0]),
                tuple(_listed(pairs[n]) for n in joins[1]),
                tuple(
                    (n, len(longest) + n, NEWEST[card.recents[n].what] * VALUE.size)
                    for n in joins[2]
                ),
            )
            for joins in {of[card.id] for of in JOINS.values()}
        },
    )


def _runs(series: _Series) -> bytes:
    """Return how the R keys of a series go on after the entity, empty where it has none."""
    return b"R" + bytes([series.plan.id]) if series.runs else b""


def _listed(pair: _Listed) -> tuple[int, bytes, int, int]:
    plan = pair.plan
    longest = plan.overs[-1] if plan.overs else 0
    return pair.number, pair.suffix if plan.aged else b"", pair.list, longest


LAYOUTS = tuple(_layout(card) for card in CARDS)


class Opened(NamedTuple):
    """A card in the hand: its numbers; the others of each pair, and the values of each recent, in
    order of time."""

    numbers: list[int]
    lists: list[bytes]


def opened(value: bytes | None, layout: Layout) -> Opened:
    """Return a card of its T; an empty one of none."""
    if value is None:
        return Opened(list(layout.nothing), [NEVER] * len(layout.entries))
    lists: list[bytes] = []
    at = layout.heads.size + layout.sizes.size
    sizes = layout.sizes.unpack_from(value, layout.heads.size)
    for size, entry in zip(sizes, layout.entries, strict=True):
        lists.append(value[at : at + size * entry])
        at += size * entry
    return Opened(list(layout.heads.unpack_from(value)), lists)


def closed(card: Opened, layout: Layout) -> bytes:
    """Return the T of a card, which `opened` opens."""
    sizes = [len(each) // n for each, n in zip(card.lists, layout.entries, strict=True)]
    return b"".join((layout.heads.pack(*card.numbers), layout.sizes.pack(*sizes), *card.lists))
