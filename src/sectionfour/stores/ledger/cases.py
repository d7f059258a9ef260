"""Cases for the analysts: opened with the assessment that asks for one, closed by a verdict.

Notes and reasons are an analyst's own words and may name somebody: they are kept sealed.
"""

from __future__ import annotations

from typing import Any

from sectionfour.domain import Leaf
from sectionfour.errors import Conflict
from sectionfour.stores.ledger.connected import Connected, Connection

SCHEMA = """
CREATE TABLE cases (
  case_id TEXT PRIMARY KEY, assessment_id TEXT NOT NULL UNIQUE, at INTEGER NOT NULL,
  why TEXT NOT NULL, state TEXT NOT NULL);
CREATE INDEX open_case ON cases (state, at, case_id);
CREATE TABLE verdicts (
  verdict_id TEXT PRIMARY KEY, case_id TEXT NOT NULL REFERENCES cases, at INTEGER NOT NULL,
  verdict TEXT NOT NULL, measure TEXT NOT NULL, note BLOB, decided_by TEXT NOT NULL,
  label_id TEXT);
CREATE INDEX verdict_of_case ON verdicts (case_id);
CREATE TABLE reidentifications (
  reidentification_id TEXT PRIMARY KEY, case_id TEXT NOT NULL REFERENCES cases,
  at INTEGER NOT NULL, purpose TEXT NOT NULL, reason BLOB NOT NULL, asked_by TEXT NOT NULL,
  expires_at INTEGER NOT NULL, approved_by TEXT, approved_at INTEGER, answered_at INTEGER)
"""

Row = tuple[Any, ...]
_CASE = (
    "SELECT c.case_id, c.assessment_id, c.at, c.why, c.state, a.http, a.answer, a.subject"
    " FROM cases c JOIN assessments a ON a.assessment_id = c.assessment_id"
)
_ASKED = (
    "reidentification_id, case_id, at, purpose, reason, asked_by, expires_at, approved_by,"
    " approved_at, answered_at"
)


def case_id(assessment_id: str) -> str:
    return f"cs_{assessment_id.removeprefix('as_')}"


class Cases(Connected):
    @staticmethod
    def open_case(connection: Connection, assessment_id: str, at: int, why: str) -> None:
        """Put a case into the transaction of what asks for it; one that was closed opens again."""
        connection.execute(
            "INSERT INTO cases VALUES (?, ?, ?, ?, 'open') ON CONFLICT (assessment_id)"
            " DO UPDATE SET why = excluded.why, state = 'open'",
            (case_id(assessment_id), assessment_id, at, why),
        )

    def cases(self, state: str, after: tuple[int, str], most: int) -> list[Row]:
        return self.rows(
            _CASE + " WHERE c.state = ? AND (c.at, c.case_id) > (?, ?)"
            " ORDER BY c.at, c.case_id LIMIT ?",
            state,
            *after,
            most,
        )

    def case(self, case_id: str) -> Row | None:
        rows = self.rows(_CASE + " WHERE c.case_id = ?", case_id)
        return rows[0] if rows else None

    def verdicts(self, case_id: str) -> list[Row]:
        """Return (id, at, verdict, measure, note, by, label) of each, oldest first."""
        return self.rows(
            "SELECT verdict_id, at, verdict, measure, note, decided_by, label_id FROM verdicts"
            " WHERE case_id = ? ORDER BY at",
            case_id,
        )

    def add_verdict(self, row: Row, leaf: Leaf) -> None:
        """Close a case by a verdict, as `verdicts` has it. Conflict where it is not open."""
        with self.transaction() as connection:
            closed = connection.execute(
                "UPDATE cases SET state = 'closed' WHERE case_id = ? AND state = 'open'", (row[1],)
            )
            if not closed.rowcount:
                raise Conflict("the case is closed; an appeal opens it again")
            connection.execute("INSERT INTO verdicts VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            connection.execute(
                "UPDATE reviews SET state = 'decided' WHERE assessment_id ="
                " (SELECT assessment_id FROM cases WHERE case_id = ?)",
                (row[1],),
            )
            self.log(connection, leaf)

    # --- who it is

    def ask_reidentification(self, row: Row, leaf: Leaf) -> None:
        with self.transaction() as connection:
            connection.execute(
                f"INSERT INTO reidentifications ({_ASKED})"
                " VALUES (?, ?, ?, ?, ?, ?, ?, NULL, NULL, NULL)",
                row,
            )
            self.log(connection, leaf)

    def reidentification(self, name: str) -> Row | None:
        rows = self.rows(
            f"SELECT {_ASKED} FROM reidentifications WHERE reidentification_id = ?", name
        )
        return rows[0] if rows else None

    def step_reidentification(self, name: str, step: str, at: int, leaf: Leaf, by: str) -> bool:
        """Approve or answer once; False where somebody was first."""
        sql = {
            "approved": "UPDATE reidentifications SET approved_at = ?, approved_by = ?"
            " WHERE reidentification_id = ? AND approved_at IS NULL",
            "answered": "UPDATE reidentifications SET answered_at = ?"
            " WHERE asked_by = ? AND reidentification_id = ? AND answered_at IS NULL"
            " AND approved_at IS NOT NULL",
        }[step]
        with self.transaction() as connection:
            done = connection.execute(sql, (at, by, name)).rowcount == 1
            if done:
                self.log(connection, leaf)
            return done
