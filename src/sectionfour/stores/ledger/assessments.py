"""Events and assessments: an assessment, its event and its receipt's leaf stand or fall together.

Assessments of concurrent requests share a commit, and each is on disk before it is answered.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any, get_args, get_type_hints

import msgspec

from sectionfour.database import CLASHES, FAULTS
from sectionfour.domain import Assessed, Event, Leaf
from sectionfour.errors import FailClosed
from sectionfour.stores.ledger.cases import Cases
from sectionfour.stores.ledger.connected import Connected, Connection

_SQL_TYPES = {int: "INTEGER", float: "REAL", bytes: "BLOB", str: "TEXT"}


def _sql_type(hint: Any) -> str:
    options = [h for h in (get_args(hint) or (hint,)) if h is not type(None)]
    return _SQL_TYPES[options[0]] + ("" if get_args(hint) else " NOT NULL")


#: The columns of an event, drawn from its definition.
EVENT_COLUMNS = Event.__struct_fields__
_EVENT_TABLE = ",\n  ".join(
    f"{name} {_sql_type(hint)}"
    + (" PRIMARY KEY" if name == "at" else " UNIQUE" if name == "event_id" else "")
    for name, hint in get_type_hints(Event).items()
)

SCHEMA = f"""
CREATE TABLE events (
  {_EVENT_TABLE});
CREATE INDEX event_of_member ON events (member) WHERE member IS NOT NULL;
CREATE TABLE assessments (
  seq INTEGER PRIMARY KEY, assessment_id TEXT NOT NULL UNIQUE, event_id TEXT NOT NULL UNIQUE,
  asked BLOB NOT NULL, at INTEGER NOT NULL, subject BLOB, purpose TEXT NOT NULL,
  status TEXT NOT NULL, http INTEGER NOT NULL, answer BLOB NOT NULL, vector BLOB, nonce BLOB,
  key_id TEXT);
CREATE INDEX assessment_of_subject ON assessments (subject);
CREATE TABLE reviews (
  review_id TEXT PRIMARY KEY, assessment_id TEXT NOT NULL UNIQUE, at INTEGER NOT NULL,
  state TEXT NOT NULL)
"""
TOKENS = {
    "events": tuple(
        name for name, hint in get_type_hints(Event).items() if bytes in get_args(hint)
    ),
    "assessments": ("subject",),
}


class _Pending:
    __slots__ = ("done", "error", "inserted", "row")

    def __init__(self, row: Assessed) -> None:
        self.row = row
        self.done = False
        self.inserted = False
        self.error: BaseException | None = None


class Assessments(Connected):
    def __init__(self) -> None:
        self._pending: list[_Pending] = []
        self._guard = threading.Lock()
        self._turn = threading.Lock()

    def assessed(self, event_id: str) -> tuple[bytes, int, bytes] | None:
        """Return (digest of what was asked, HTTP status, answer) of an event already assessed."""
        rows = self.rows("SELECT asked, http, answer FROM assessments WHERE event_id = ?", event_id)
        return rows[0] if rows else None

    def assessment(self, assessment_id: str) -> tuple[int, bytes, str | None] | None:
        """Return (HTTP status, answer, id of the API key that asked)."""
        rows = self.rows(
            "SELECT http, answer, key_id FROM assessments WHERE assessment_id = ?", assessment_id
        )
        return rows[0] if rows else None

    def open_review(
        self, review_id: str, assessment_id: str, at: int, leaf: Leaf
    ) -> tuple[str, str, bool]:
        """Ask for a human review, once. Returns (its id, its state, whether it is new)."""
        with self.transaction() as connection:
            found = connection.execute(
                "SELECT review_id, state FROM reviews WHERE assessment_id = ?", (assessment_id,)
            ).fetchone()
            if found is not None:
                return (*found, False)
            connection.execute(
                "INSERT INTO reviews VALUES (?, ?, ?, 'open')", (review_id, assessment_id, at)
            )
            Cases.open_case(connection, assessment_id, at, "appeal")
            self.log(connection, leaf)
            return review_id, "open", True

    def recorded(self, event_ids: Sequence[str]) -> set[str]:
        """Return those of `event_ids` that were answered: an assessment, or `label:ID` a label."""
        found = self.rows(
            "SELECT value FROM json_each(?) WHERE"
            " EXISTS (SELECT 1 FROM assessments WHERE event_id = value) OR"
            " (value LIKE 'label:%' AND"
            " EXISTS (SELECT 1 FROM labels WHERE label_id = substr(value, 7)))",
            msgspec.json.encode(event_ids).decode(),
        )
        return {row[0] for row in found}

    def record(self, row: Assessed) -> bool:
        """Keep an assessment; on disk when this returns. False where its event_id was there.

        Requests that wait here together share one commit: the first to get its turn writes for
        all that are pending, the others find theirs done.
        """
        mine = _Pending(row)
        with self._guard:
            self._pending.append(mine)
        with self._turn:
            if not mine.done:
                with self._guard:
                    batch, self._pending = self._pending, []
                self._write(batch)
        if mine.error is not None:
            raise FailClosed("the ledger could not be written") from mine.error
        return mine.inserted

    def _write(self, batch: Sequence[_Pending]) -> None:
        """Write all of `batch` in one transaction; where that fails, each in one of its own."""
        try:
            with self._database.write() as connection:
                for pending in batch:
                    pending.inserted = self.insert(connection, pending.row)
        except BaseException as error:
            for pending in batch:
                pending.error = error
            if not isinstance(error, FAULTS):
                raise
            if isinstance(error, CLASHES) and len(batch) > 1:
                for pending in batch:  # one row is at fault, and the others must not suffer for it
                    pending.error = None
                    self._write([pending])
        finally:
            for pending in batch:
                pending.done = True

    def insert(self, connection: Connection, row: Assessed) -> bool:
        """Put an assessment, its event and its leaf into an open transaction."""
        added = connection.execute(
            "INSERT INTO assessments (assessment_id, event_id, asked, at, subject, purpose,"
            " status, http, answer, vector, nonce, key_id)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (event_id) DO NOTHING",
            (
                row.assessment_id,
                row.event_id,
                row.asked,
                row.at,
                row.subject,
                row.purpose,
                row.status,
                row.http,
                row.answer,
                row.vector,
                row.nonce,
                row.key_id,
            ),
        )
        if added.rowcount != 1:
            return False
        if row.event is not None:
            connection.execute(_KEEP_EVENT, msgspec.structs.astuple(row.event))
        if row.case is not None:
            Cases.open_case(connection, row.assessment_id, row.at, row.case)
        self.log(connection, row.leaf)
        return True

    def add_events(self, events: Iterable[Event]) -> None:
        """Keep events that came without an assessment: imports, and steps never answered."""
        with self.transaction() as connection:
            self.insert_events(connection, events)

    @staticmethod
    def insert_events(connection: Connection, events: Iterable[Event]) -> None:
        rows = [msgspec.structs.astuple(event) for event in events]
        # To bind what none of them has takes as long as the rest.
        had = [n for n, of in enumerate(zip(*rows, strict=True)) if of.count(None) < len(rows)]
        if rows:
            names = [EVENT_COLUMNS[n] for n in had]
            connection.executemany(_insert_event(names), map(itemgetter(*had), rows))

    def event(self, event_id: str) -> Event | None:
        rows = self.rows(
            f"SELECT {', '.join(EVENT_COLUMNS)} FROM events WHERE event_id = ?", event_id
        )
        return Event(**dict(zip(EVENT_COLUMNS, rows[0], strict=True))) if rows else None


def _insert_event(columns: Sequence[str]) -> str:
    return (
        f"INSERT INTO events ({', '.join(columns)})"
        f" VALUES ({', '.join('?' * len(columns))}) ON CONFLICT (event_id) DO NOTHING"
    )


# A step that was lost and kept, and is now answered: what it is answered for is what counts.
_KEEP_EVENT = _insert_event(EVENT_COLUMNS).replace(
    "NOTHING", "UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in EVENT_COLUMNS)
)
