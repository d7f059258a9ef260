"""Cases for the analysts: opened with the assessment that asks for one, closed by a verdict.

Notes and reasons are an analyst's own words and may name somebody: they are kept sealed.
"""

from __future__ import annotations

from typing import NamedTuple

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


class CaseRow(NamedTuple):
    """A case, with the answer of its assessment (empty after an erasure) and whom that is of."""

    case_id: str
    assessment_id: str
    at: int
    why: str
    state: str
    answer: bytes
    subject: bytes | None


class VerdictRow(NamedTuple):
    """A verdict; `note` is sealed, None where there is none."""

    verdict_id: str
    case_id: str
    at: int
    verdict: str
    measure: str
    note: bytes | None
    decided_by: str
    label_id: str | None


class ReidentificationRow(NamedTuple):
    """That somebody asked who a case is about, and what became of it; `reason` is sealed."""

    reidentification_id: str
    case_id: str
    at: int
    purpose: str
    reason: bytes
    asked_by: str
    expires_at: int
    approved_by: str | None = None
    approved_at: int | None = None
    answered_at: int | None = None


_CASE = (
    "SELECT c.case_id, c.assessment_id, c.at, c.why, c.state, a.answer, a.subject"
    " FROM cases c JOIN assessments a ON a.assessment_id = c.assessment_id"
)
_VERDICT = ", ".join(VerdictRow._fields)
_ASKED = ", ".join(ReidentificationRow._fields)


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

    def cases(self, state: str, after: tuple[int, str], most: int) -> list[CaseRow]:
        """Return at `most` so many cases of a state, oldest first, from behind `after`: the instant
        and the id of a case."""
        rows = self.rows(
            _CASE + " WHERE c.state = ? AND (c.at, c.case_id) > (?, ?)"
            " ORDER BY c.at, c.case_id LIMIT ?",
            state,
            *after,
            most,
        )
        return [CaseRow._make(row) for row in rows]

    def case(self, case_id: str) -> CaseRow | None:
        rows = self.rows(_CASE + " WHERE c.case_id = ?", case_id)
        return CaseRow._make(rows[0]) if rows else None

    def verdicts(self, case_id: str) -> list[VerdictRow]:
        """Return the verdicts on a case, oldest first."""
        rows = self.rows(f"SELECT {_VERDICT} FROM verdicts WHERE case_id = ? ORDER BY at", case_id)
        return [VerdictRow._make(row) for row in rows]

    def add_verdict(self, row: VerdictRow, leaf: Leaf) -> None:
        """Close a case by a verdict. Conflict where it is not open."""
        with self.transaction() as connection:
            closed = connection.execute(
                "UPDATE cases SET state = 'closed' WHERE case_id = ? AND state = 'open'",
                (row.case_id,),
            )
            if not closed.rowcount:
                raise Conflict("the case is closed; an appeal opens it again")
            connection.execute(
                f"INSERT INTO verdicts ({_VERDICT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row
            )
            connection.execute(
                "UPDATE reviews SET state = 'decided' WHERE assessment_id ="
                " (SELECT assessment_id FROM cases WHERE case_id = ?)",
                (row.case_id,),
            )
            self.log(connection, leaf)

    # --- who it is

    def ask_reidentification(self, row: ReidentificationRow, leaf: Leaf) -> None:
        with self.transaction() as connection:
            connection.execute(
                f"INSERT INTO reidentifications ({_ASKED}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )
            self.log(connection, leaf)

    def reidentification(self, name: str) -> ReidentificationRow | None:
        rows = self.rows(
            f"SELECT {_ASKED} FROM reidentifications WHERE reidentification_id = ?", name
        )
        return ReidentificationRow._make(rows[0]) if rows else None

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
