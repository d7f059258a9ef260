"""The officer's report, from the log alone: what data was used for, on what basis, what was not.

Counts that could point at a person are withheld (None). What counts is people, not calls: a cell
of the report is withheld where fewer than `threshold` people stand behind it, however often each
was rated. So that it does not follow from a total less its other parts, cells are parts of one
tree (all calls, by purpose, by outcome, by model or by what became of one category), and of each
whole that is published at least two parts are withheld or none, those with fewest calls first,
until `threshold` people stand behind them together. They become one part called `withheld`,
without their names: a name would tell that somebody is there. Below it nothing is published.
Of guests nothing is known that would tell two calls of one from one call each of two.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from sectionfour.domain import instant, micros, read_instant
from sectionfour.errors import BadRequest

if TYPE_CHECKING:
    from sectionfour.stores.ledger.rooms import Ledger

THRESHOLD, LEAST_THRESHOLD, MOST_THRESHOLD = 5, 3, 1_000
CHUNK = 5_000
Progress = Callable[[int], object]
#: What became of a category in a call that did not bring it.
NOT_USED = "not_used"
#: The parts of a whole that are withheld, together.
WITHHELD = "withheld"


@dataclass(slots=True)
class Cell:
    """So many calls, and who stood behind them, as far as `threshold` of them."""

    calls: int = 0
    people: set[str] = field(default_factory=set)

    def add(self, person: str, threshold: int) -> None:
        self.calls += 1
        if len(self.people) < threshold:
            self.people.add(person)


Cells = dict[str, Cell]


def protect(cells: Mapping[str, Cell], threshold: int) -> dict[str, int | None]:
    """Return the counts of the parts of one published whole; what is withheld is one part, None."""
    cells = {name: cell for name, cell in cells.items() if cell.calls}
    withheld = {name for name, cell in cells.items() if len(cell.people) < threshold}
    if withheld:
        rest = sorted(cells.keys() - withheld, key=lambda name: (cells[name].calls, name))
        together = set().union(*(cells[name].people for name in withheld))
        while rest and len(together) < threshold:  # so at least one more
            withheld.add(name := rest.pop(0))
            together |= cells[name].people
    shown: dict[str, int | None] = {
        n: c.calls for n, c in sorted(cells.items()) if n not in withheld
    }
    return shown | ({WITHHELD: None} if withheld else {})


# --- what the log says -----------------------------------------------------------------------


class _Subject(msgspec.Struct):
    pseudonym: str | None = None


class _Basis(msgspec.Struct):
    category: str
    kind: str
    ref: str | None = None
    exception: int | None = None


class _Masked(msgspec.Struct):
    category: str
    why: str


class _Model(msgspec.Struct):
    name: str
    version: str
    digest: str


class _Receipt(msgspec.Struct):
    """Of a receipt what the report speaks of."""

    receipt_id: str
    at: str
    subject: _Subject
    purpose: str
    status: str
    masked: list[_Masked]
    basis: list[_Basis] = []
    missing: list[str] = []
    why: str | None = None
    model: _Model | None = None


@dataclass(slots=True)
class _Outcome:
    """Calls of one purpose that ended alike: by model, and by what became of each category."""

    all: Cell = field(default_factory=Cell)
    models: Cells = field(default_factory=dict)
    categories: dict[str, Cells] = field(default_factory=dict)


@dataclass(slots=True)
class _Purpose:
    all: Cell = field(default_factory=Cell)
    outcomes: dict[str, _Outcome] = field(default_factory=dict)


class DataUse:
    """Takes the log's entries one by one; `report()` says what they came to."""

    def __init__(self, start: int, end: int, threshold: int = THRESHOLD) -> None:
        if not LEAST_THRESHOLD <= threshold <= MOST_THRESHOLD:
            raise BadRequest(
                f"a threshold is from {LEAST_THRESHOLD} to {MOST_THRESHOLD}", pointer="/threshold"
            )
        self.start, self.end, self.threshold = instant(start), instant(end), threshold
        self._all = Cell()
        self._purposes: dict[str, _Purpose] = {}
        self._exceptions: Cells = {}
        self._erasures: Cells = {}
        self._withdrawals = Cell()
        #: Record -> when it was withdrawn; and how long after that a receipt last rested on it.
        self._withdrawn: dict[str, int] = {}
        self._late: dict[str, int] = {}
        self._notices: dict[str, dict[str, Any]] = {}
        self._entries = 0

    def take(self, kind: str, ref: str, leaf: bytes) -> None:
        """Take in one entry of the log, in its order."""
        self._entries += 1
        if kind == "assessment":
            self._receipt(_decode(leaf))
        elif kind == "consent":
            said = msgspec.json.decode(leaf)
            if said["event_state"] == "consent_withdrawn":
                at = read_instant(said["at"])
                if ref not in self._withdrawn and self._inside(said["at"]):
                    self._withdrawals.add(said["subject"]["pseudonym"], self.threshold)
                    self._late[ref] = 0
                self._withdrawn.setdefault(ref, at)
        elif kind == "notice":
            self._notice(msgspec.json.decode(leaf))
        elif kind == "erasure":
            said = msgspec.json.decode(leaf)
            if self._inside(said["at"]):
                trigger = str(said.get("trigger", "unsaid"))
                self._erasures.setdefault(trigger, Cell()).add(ref, self.threshold)

    def _inside(self, at: str) -> bool:
        return self.start <= at < self.end

    def _receipt(self, said: _Receipt) -> None:
        if self._withdrawn:
            for basis in said.basis:
                if basis.ref in self._withdrawn and basis.ref in self._late:
                    late = read_instant(said.at) - self._withdrawn[basis.ref]
                    self._late[basis.ref] = max(late, self._late[basis.ref])
        if not self._inside(said.at):
            return
        person = said.subject.pseudonym or said.receipt_id
        purpose = self._purposes.setdefault(said.purpose, _Purpose())
        refused = said.status == "refused"
        name = f"refused: {said.why}" if refused else "scored"
        outcome = purpose.outcomes.setdefault(name, _Outcome())
        became = {masked.category: f"masked: {masked.why}" for masked in said.masked}
        became |= dict.fromkeys(said.missing, "missing")
        became |= {basis.category: basis.kind for basis in said.basis}
        for category in became.keys() - outcome.categories.keys():  # no call before used it
            before = Cell(outcome.all.calls, set(outcome.all.people))
            outcome.categories[category] = {NOT_USED: before}
        for category, cells in outcome.categories.items():
            self._count(cells, became.get(category, NOT_USED), person)
        for cell in (self._all, purpose.all, outcome.all):
            cell.add(person, self.threshold)
        if said.model is not None:
            model = f"{said.model.name}@{said.model.version} {said.model.digest}"
            self._count(outcome.models, model, person)
        for number in {b.exception for b in said.basis if b.kind == "exception"}:
            self._count(self._exceptions, str(number), person)

    def _count(self, cells: Cells, name: str, person: str) -> None:
        cells.setdefault(name, Cell()).add(person, self.threshold)

    def _notice(self, said: dict[str, Any]) -> None:
        name = said.get("id", said.get("notice_id"))
        begins = said["valid_from"]
        begins = instant(begins) if isinstance(begins, int) else begins
        self._notices[f"{name}@{said['version']}"] = {
            "id": name,
            "version": said["version"],
            "valid_from": begins,
            "material": said["material"],
            "purposes": said["purposes"],
            "categories": said["categories"],
        }

    def report(self) -> dict[str, Any]:
        """Return the report, ready for JSON."""
        threshold = self.threshold
        none = not self._all.calls
        total = 0 if none else protect({"all": self._all}, threshold).get("all")
        purposes = self._under(total, {name: p.all for name, p in self._purposes.items()})
        return {
            "from": self.start,
            "to": self.end,
            "threshold": threshold,
            "entries_read": self._entries,
            "calls": total,
            "purposes": [
                {
                    "purpose": name,
                    "calls": calls,
                    "outcomes": [] if calls is None else self._outcomes(calls, name),
                }
                for name, calls in purposes.items()
            ],
            "exceptions": [
                {"exception": name, "uses": calls}
                for name, calls in protect(self._exceptions, threshold).items()
            ],
            "withdrawals": self._held(),
            "erasures": [
                {"trigger": name, "erasures": count}
                for name, count in protect(self._erasures, threshold).items()
            ],
            "notices": list(self._in_force()),
        }

    def _outcomes(self, whole: int, purpose: str) -> list[dict[str, Any]]:
        outcomes = self._purposes[purpose].outcomes
        parts = self._under(whole, {name: outcome.all for name, outcome in outcomes.items()})
        found: list[dict[str, Any]] = []
        for name, calls in parts.items():
            outcome = _Outcome() if calls is None else outcomes[name]
            models = self._under(calls, outcome.models)
            categories = {
                category: self._under(calls, cells)
                for category, cells in sorted(outcome.categories.items())
            }
            found.append(
                {
                    "outcome": name,
                    "calls": calls,
                    "models": [{"model": m, "calls": count} for m, count in models.items()],
                    "categories": [
                        {
                            "category": category,
                            "became": [{"how": how, "calls": n} for how, n in became.items()],
                        }
                        for category, became in categories.items()
                    ],
                }
            )
        return found

    def _under(self, whole: int | None, cells: Cells) -> dict[str, int | None]:
        """Return the parts of a whole: of one that is withheld none."""
        return {} if whole is None else protect(cells, self.threshold)

    def _held(self) -> dict[str, Any]:
        """How fast withdrawals held: from its record to the last receipt that rests on it still."""
        late = sorted(self._late.values())
        few = 0 < len(self._withdrawals.people) < self.threshold
        recorded = None if few else self._withdrawals.calls
        shown = bool(recorded)
        return {
            "recorded": recorded,
            "held_at_once": not any(late),
            "p99_ms": late[-(-99 * len(late) // 100) - 1] / 1000 if shown else None,
            "longest_ms": late[-1] / 1000 if shown else None,
        }

    def _in_force(self) -> Iterator[dict[str, Any]]:
        """Yield the notices in force at some time of the period: until a newer version is."""
        by_id: dict[str, list[dict[str, Any]]] = {}
        for notice in self._notices.values():
            if notice["valid_from"] < self.end:
                by_id.setdefault(notice["id"], []).append(notice)
        for _, versions in sorted(by_id.items()):
            versions.sort(key=lambda notice: str(notice["valid_from"]))
            for notice, newer in zip(versions, [*versions[1:], None], strict=True):
                if newer is None or newer["valid_from"] > self.start:
                    yield notice


_decode = msgspec.json.Decoder(_Receipt).decode


def data_use(
    ledger: Ledger,
    start: int,
    end: int,
    *,
    threshold: int = THRESHOLD,
    progress: Progress = lambda count: None,
) -> dict[str, Any]:
    """Return the report on [start, end), in microseconds; reads the log once, holding none of it.

    `progress` is told of entries as they are read.
    """
    found = DataUse(start, end, threshold)
    for kind, ref, leaf in _entries(ledger, progress):
        found.take(kind, ref, leaf)
    return found.report()


def _entries(ledger: Ledger, progress: Progress) -> Iterable[tuple[str, str, bytes]]:
    size = ledger.size()
    for first in range(0, size, CHUNK):
        rows = ledger.leaves(first, min(size, first + CHUNK))
        yield from ((kind, ref, leaf) for _, kind, ref, leaf in rows)
        progress(len(rows))


# --- periods ---------------------------------------------------------------------------------

_PERIOD = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?")


def period(text: str) -> tuple[int, int]:
    """Return a year, a month, a day (UTC), or two of these with `..` between, as [start, end).

    >>> [instant(at)[:10] for at in period("2026-11")]
    ['2026-11-01', '2026-12-01']
    >>> [instant(at)[:10] for at in period("2026-11-30..2027")]
    ['2026-11-30', '2028-01-01']
    """
    first, dots, last = text.partition("..")
    start, end = _days(first)[0], _days(last if dots else first)[1]
    return between(start, end)


def between(start: date, end: date) -> tuple[int, int]:
    """Return [start, end) in microseconds: whole days, in UTC."""
    if start >= end:
        raise BadRequest("a period ends after it begins", pointer="/to")
    first, last = (micros(datetime(d.year, d.month, d.day, tzinfo=UTC)) for d in (start, end))
    return first, last


def _days(text: str) -> tuple[date, date]:
    match = _PERIOD.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        year, month, day = (int(part) if part else 0 for part in match.groups())
        first = date(year, month or 1, day or 1)
        if day:
            return first, first + timedelta(days=1)
        if month:
            return first, date(year + month // 12, month % 12 + 1, 1)
        return first, date(year + 1, 1, 1)
    except (ValueError, OverflowError):
        raise BadRequest(
            "a period is a year, a month or a day: 2026-11", pointer="/period"
        ) from None
