"""The books: rows without an entry of their own, and entries without a row, against the log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from sectionfour.domain import Event
from sectionfour.parts import Parts
from sectionfour.privacy import entries
from sectionfour.privacy.tally import Tally
from sectionfour.stores.ledger.tallied import COLUMNS

#: How many missing rows are named, where more are missing than were taken.
MOST_NAMED = 100
MISSING = "its row is missing"


class Books:
    """Rows that no entry of their own vouches for, and entries whose rows are gone, against what
    the log says was brought and taken."""

    def __init__(self, parts: Parts) -> None:
        self._ledger, self._keys = parts.ledger, parts.keys
        self.rows, self._brought = Tally(parts.keys.ring), Tally(parts.keys.ring)
        self._lost, self._taken = Tally(parts.keys.ring), Tally(parts.keys.ring)
        self._missing: list[str] = []
        self._steps: dict[str, str] = {}

    def open(self) -> None:
        for table in COLUMNS:
            self.rows.rows(table, self._ledger.tallied_rows(table))
        for ref, leaf in self._ledger.rows(
            "SELECT ref, leaf FROM log WHERE kind = 'step' ORDER BY idx"
        ):
            self._steps[ref] = msgspec.json.decode(leaf)["tally"]  # the newest counts
        for tally in self._steps.values():
            self._brought.text_of(tally)

    def said(self, kind: str, said: dict[str, Any]) -> None:
        """Take in what an entry says of many rows at once."""
        if kind == "import":
            self._brought.text_of(said["tally"])
        elif kind == "epoch" and "brought" in said:  # the same rows, under other tokens
            self._brought.text_of(said["brought"])
        gone = said.get("gone")
        if isinstance(gone, dict):
            self._brought.text_of(gone["rows"], taken=True)
            self._taken.text_of(gone["entries"])

    def vouched(self, table: str, values: Sequence[Any]) -> None:
        """An entry of its own vouches for this row."""
        self.rows.row(table, values, taken=True)

    def answered(self, event: Event) -> None:
        """An assessment vouches for this event, whether or not it was kept as a step before."""
        self.vouched("events", [getattr(event, name) for name in COLUMNS["events"]])
        if self._steps:
            tally = self._steps.get(entries.step_id(self._keys, event.event_id))
            if tally is not None:
                self._brought.text_of(tally, taken=True)

    def missing(self, name: str, body: bytes) -> None:
        """The row that this entry speaks of is not there."""
        self._lost.entry(body)
        if len(self._missing) < MOST_NAMED:
            self._missing.append(name)

    def balance(self) -> Iterator[str]:
        if self.rows.total != self._brought.total:
            yield (
                "events, labels or consents that have no entry of their own are not those that"
                " imports brought"
            )
        if self._lost.total != self._taken.total:
            yield from (f"{name}: {MISSING}" for name in self._missing)
            yield "the entries without a row are not those that sweeps and erasures took"
