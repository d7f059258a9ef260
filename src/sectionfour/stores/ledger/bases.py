"""Notices, consents and grants: what the gate reads, and how they came to be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from sectionfour.domain import Leaf, Notice, instant
from sectionfour.errors import Conflict, FailClosed
from sectionfour.privacy.consent import ConsentEvent
from sectionfour.privacy.exceptions import Grant, hidden
from sectionfour.stores.ledger.connected import Connected, Connection

SCHEMA = """
CREATE TABLE notices (
  seq INTEGER PRIMARY KEY, notice_id TEXT NOT NULL, version TEXT NOT NULL, language TEXT NOT NULL,
  text_sha256 TEXT NOT NULL, purposes TEXT NOT NULL, categories TEXT NOT NULL,
  valid_from INTEGER NOT NULL, material INTEGER NOT NULL, UNIQUE (notice_id, version));
CREATE TABLE consent_events (
  seq INTEGER PRIMARY KEY, subject BLOB NOT NULL, record_id TEXT NOT NULL, purpose TEXT NOT NULL,
  categories TEXT NOT NULL, source TEXT NOT NULL, notice_id TEXT NOT NULL,
  notice_version TEXT NOT NULL, event_type TEXT NOT NULL, event_state TEXT NOT NULL,
  event_time INTEGER NOT NULL, expires_at INTEGER, recorded_at INTEGER NOT NULL);
CREATE INDEX consent_of_subject ON consent_events (subject, seq);
CREATE INDEX consent_of_record ON consent_events (record_id, seq);
CREATE TABLE grants (grant_id TEXT PRIMARY KEY, live_until INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE grant_uses (
  grant_id TEXT NOT NULL REFERENCES grants, at INTEGER NOT NULL, purpose TEXT NOT NULL,
  categories TEXT NOT NULL, operation TEXT NOT NULL, subject BLOB);
CREATE INDEX use_of_grant ON grant_uses (grant_id);
CREATE INDEX use_of_subject ON grant_uses (subject)
"""
TOKENS = {"consent_events": ("subject",), "grant_uses": ("subject",)}


class Bases(Connected):
    # --- bases: what the gate reads

    def consents(self, subject: bytes, at: int) -> list[ConsentEvent]:
        rows = self.rows(_CONSENTS + " WHERE c.subject = ? ORDER BY c.seq", at, subject)
        return [_consent_event(row) for row in rows]

    def consents_of_all(self, at: int) -> dict[bytes, list[ConsentEvent]]:
        """Return every subject's consent events, for work that passes over all rows at once."""
        found: dict[bytes, list[ConsentEvent]] = {}
        for subject, *row in self.rows(
            _CONSENTS.replace("SELECT c.seq", "SELECT c.subject, c.seq") + " ORDER BY c.seq", at
        ):
            found.setdefault(subject, []).append(_consent_event(row))
        return found

    def grants(self, at: int) -> list[tuple[Grant, int]]:
        return [
            (read_grant(body), uses)
            for body, uses in self.rows(
                "SELECT body, (SELECT COUNT(*) FROM grant_uses u WHERE u.grant_id = g.grant_id)"
                " FROM grants g WHERE live_until > ? ORDER BY grant_id",
                at,
            )
        ]

    def take(
        self,
        grant_id: str,
        at: int,
        purpose: str,
        categories: Sequence[str],
        *,
        subject: bytes | None,
        operation: str,
    ) -> bool:
        with self.transaction() as connection:
            row = connection.execute(
                "SELECT body FROM grants WHERE grant_id = ? AND live_until > ?", (grant_id, at)
            ).fetchone()
            if row is None:  # revoked since it was read
                return False
            grant = read_grant(row[0])
            taken = connection.execute(
                "INSERT INTO grant_uses SELECT ?, ?, ?, ?, ?, CAST(? AS BLOB)"
                " WHERE (SELECT COUNT(*) FROM grant_uses WHERE grant_id = ?) < ?",
                (
                    grant_id,
                    at,
                    purpose,
                    ",".join(categories),
                    operation,
                    subject,
                    grant_id,
                    grant.max_uses,
                ),
            )
            return taken.rowcount == 1

    # --- notices, consents, grants

    def notice(self, notice_id: str, version: str) -> Notice | None:
        rows = self.rows(
            "SELECT * FROM notices WHERE notice_id = ? AND version = ?", notice_id, version
        )
        return _notice(rows[0]) if rows else None

    def add_notice(self, notice: Notice, leaf: Leaf) -> None:
        """Record a version of a notice; the same again is no news, other content is a Conflict."""
        with self.transaction() as connection:
            row = connection.execute(
                "SELECT * FROM notices WHERE notice_id = ? AND version = ?",
                (notice.notice_id, notice.version),
            ).fetchone()
            if row is not None:
                if _notice(row) != notice:
                    raise Conflict(
                        "this version of the notice is recorded with other content;"
                        " give changed content a new version",
                        pointer="/version",
                    )
                return
            connection.execute(
                "INSERT INTO notices (notice_id, version, language, text_sha256, purposes,"
                " categories, valid_from, material) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    notice.notice_id,
                    notice.version,
                    notice.language,
                    notice.text_sha256,
                    ",".join(notice.purposes),
                    ",".join(notice.categories),
                    notice.valid_from,
                    int(notice.material),
                ),
            )
            self.log(connection, leaf)

    def add_consent_event(
        self, subject: bytes, event: ConsentEvent, recorded_at: int, leaf: Leaf | None
    ) -> None:
        with self.transaction() as connection:
            self.insert_consents(connection, [(subject, event, recorded_at)])
            if leaf is not None:
                self.log(connection, leaf)

    def give_consent(
        self, subject: bytes, event: ConsentEvent, said_at: int, recorded_at: int, leaf: Leaf
    ) -> str:
        """Record what somebody has said, once however often it is sent; return its record's id.

        `said_at` is the time that was sent: the event's own is never after `recorded_at`. What was
        said again after a no, or after a withdrawal, is said anew.
        """
        with self.transaction() as connection:
            known = connection.execute(
                _SAID,
                (
                    subject,
                    event.purpose,
                    ",".join(sorted(event.categories)),
                    event.source,
                    event.notice_id,
                    event.notice_version,
                    event.event_type,
                    event.event_state,
                    event.expires_at or 0,
                    said_at,
                    said_at,
                    event.event_state,
                ),
            ).fetchone()
            if known is not None:
                return str(known[0])
            self.insert_consents(connection, [(subject, event, recorded_at)])
            self.log(connection, leaf)
        return event.record_id

    @staticmethod
    def insert_consents(
        connection: Connection, rows: Iterable[tuple[bytes, ConsentEvent, int]]
    ) -> None:
        connection.executemany(
            "INSERT INTO consent_events (subject, record_id, purpose, categories, source,"
            " notice_id, notice_version, event_type, event_state, event_time, expires_at,"
            " recorded_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (
                    subject,
                    e.record_id,
                    e.purpose,
                    ",".join(sorted(e.categories)),
                    e.source,
                    e.notice_id,
                    e.notice_version,
                    e.event_type,
                    e.event_state,
                    e.event_time,
                    e.expires_at,
                    recorded_at,
                )
                for subject, e, recorded_at in rows
            ),
        )

    def consent_record(self, record_id: str, at: int) -> tuple[bytes, list[ConsentEvent]] | None:
        """Return the subject and the events of one record."""
        rows = self.rows(_CONSENTS + " WHERE c.record_id = ? ORDER BY c.seq", at, record_id)
        if not rows:
            return None
        subject = self.rows("SELECT subject FROM consent_events WHERE record_id = ?", record_id)
        return subject[0][0], [_consent_event(row) for row in rows]

    def put_grant(self, grant: Grant, leaf: Leaf) -> None:
        with self.transaction() as connection:
            self._put_grant(connection, grant, leaf)

    def change_grant(
        self, grant_id: str, change: Callable[[Grant], tuple[Grant, Leaf]]
    ) -> Grant | None:
        """Put what `change` makes of a grant in its place, in one step; None where there is none.

        What `change` raises changes nothing. Of an approval and a revocation at the same moment
        the second sees what the first has done.
        """
        with self.transaction() as connection:
            row = connection.execute(
                "SELECT body FROM grants WHERE grant_id = ?", (grant_id,)
            ).fetchone()
            if row is None:
                return None
            grant, leaf = change(read_grant(row[0]))
            self._put_grant(connection, grant, leaf)
            return grant

    def _put_grant(self, connection: Connection, grant: Grant, leaf: Leaf) -> None:
        live_until = grant.expires_at if grant.state == "live" else 0
        connection.execute(
            "INSERT INTO grants VALUES (?, ?, ?) ON CONFLICT (grant_id)"
            " DO UPDATE SET live_until = excluded.live_until, body = excluded.body",
            (grant.grant_id, live_until, msgspec.json.encode(grant)),
        )
        self.log(connection, leaf)

    def uses_of(self, subject: bytes) -> list[dict[str, Any]]:
        """Return each use of an exception on one person, for them to see: what, when, by whom.

        Under a seal that is not lifted it is left out (R-36). `receipt_id` and `actor` (the id of
        an API key) are those of the assessment that it was for, whose name begins with its instant.
        """
        found = []
        for body, at, purpose, categories, operation, receipt_id, actor in self.rows(
            _USES, subject, subject
        ):
            grant = read_grant(body)
            if not hidden(grant):
                found.append(
                    {
                        "grant_id": grant.grant_id,
                        "exception": grant.exception,
                        "at": instant(at),
                        "purpose": purpose,
                        "operation": operation,
                        "categories": categories.split(","),
                        "receipt_id": receipt_id,
                        "actor": actor,
                    }
                )
        return found

    def grant(self, grant_id: str) -> Grant | None:
        rows = self.rows("SELECT body FROM grants WHERE grant_id = ?", grant_id)
        return read_grant(rows[0][0]) if rows else None


# A version of a notice is superseded when a later one of the same notice, with a material change,
# has come into force; and one that is not on record is as good as superseded. What was over at the
# newest assessment stays over, though the clock be set back.
_CONSENTS = """
SELECT c.seq, c.record_id, c.purpose, c.categories, c.source, c.notice_id, c.notice_version,
  c.event_type, c.event_state, c.event_time, c.expires_at,
  NOT EXISTS (SELECT 1 FROM notices o WHERE o.notice_id = c.notice_id
    AND o.version = c.notice_version
    AND NOT EXISTS (SELECT 1 FROM notices n WHERE n.notice_id = o.notice_id AND n.material <> 0
      AND (n.valid_from, n.seq) > (o.valid_from, o.seq) AND n.valid_from <= ?)),
  c.expires_at IS NOT NULL
    AND c.expires_at <= (SELECT at FROM assessments ORDER BY seq DESC LIMIT 1)
FROM consent_events c"""


# The record of the same words, sent before; nothing else has been said to them since.
_SAID = """
SELECT c.record_id FROM consent_events c
WHERE c.subject = ? AND c.purpose = ? AND c.categories = ? AND c.source = ? AND c.notice_id = ?
  AND c.notice_version = ? AND c.event_type = ? AND c.event_state = ?
  AND COALESCE(c.expires_at, 0) = ?
  AND (c.event_time = ? OR (c.event_time = c.recorded_at - 1 AND c.event_time < ?))
  AND NOT EXISTS (SELECT 1 FROM consent_events e
    WHERE e.subject = c.subject AND e.seq > c.seq AND e.event_state <> ?)
ORDER BY c.seq LIMIT 1"""


# Of somebody not met before the call the use does not know the subject: the assessment does.
_USES = """
SELECT g.body, u.at, u.purpose, u.categories, u.operation, a.assessment_id, a.key_id
FROM grant_uses u JOIN grants g USING (grant_id)
LEFT JOIN assessments a ON a.assessment_id >= printf('as_%013x', u.at)
  AND a.assessment_id < printf('as_%013x', u.at + 1)
  AND instr(a.answer, CAST(u.grant_id AS BLOB)) > 0
  AND (u.subject IS NULL OR a.subject = u.subject)
WHERE u.subject = ? OR (u.subject IS NULL AND a.subject = ?)
ORDER BY u.at"""


_decode_grant = msgspec.json.Decoder(Grant).decode


def read_grant(body: bytes) -> Grant:
    """Return the grant that is kept as `body`; FailClosed where it cannot be read."""
    try:
        return _decode_grant(body)
    except msgspec.DecodeError as error:
        raise FailClosed("the ledger cannot be used: a grant in it cannot be read") from error


def _consent_event(row: Sequence[Any]) -> ConsentEvent:
    return ConsentEvent._make(
        (*row[:3], frozenset(row[3].split(",")), *row[4:11], bool(row[11]), bool(row[12]))
    )


def _notice(row: Sequence[Any]) -> Notice:
    return Notice(
        notice_id=row[1],
        version=row[2],
        language=row[3],
        text_sha256=row[4],
        purposes=tuple(row[5].split(",")),
        categories=tuple(row[6].split(",")),
        valid_from=row[7],
        material=bool(row[8]),
    )
