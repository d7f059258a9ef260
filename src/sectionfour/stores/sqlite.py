"""The ledger on SQLite: consents, grants, assessments, events, labels, keys, and the log of leaves.

Append-only but for keys, grants and cases, whose changes are leaves of the log too. Everything that
belongs together is one transaction: an assessment, its event and its receipt's leaf stand or fall
together. Assessments of concurrent requests share a commit, and each is on disk before it is
answered.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec

from sectionfour.database import Database, closed
from sectionfour.domain import Assessed, Event, Label, Leaf, Notice
from sectionfour.errors import Conflict, FailClosed
from sectionfour.privacy import merkle
from sectionfour.privacy.consent import ConsentEvent
from sectionfour.privacy.exceptions import Grant

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
  categories TEXT NOT NULL);
CREATE INDEX use_of_grant ON grant_uses (grant_id);
CREATE TABLE events (
  {_EVENT_TABLE});
CREATE TABLE assessments (
  seq INTEGER PRIMARY KEY, assessment_id TEXT NOT NULL UNIQUE, event_id TEXT NOT NULL UNIQUE,
  asked BLOB NOT NULL, at INTEGER NOT NULL, subject BLOB, purpose TEXT NOT NULL,
  status TEXT NOT NULL, http INTEGER NOT NULL, answer BLOB NOT NULL, vector BLOB, nonce BLOB,
  key_id TEXT);
CREATE INDEX assessment_of_subject ON assessments (subject);
CREATE TABLE labels (
  label_id TEXT PRIMARY KEY, at INTEGER NOT NULL, label TEXT NOT NULL, source TEXT NOT NULL,
  known_at INTEGER NOT NULL, event_id TEXT, member BLOB, settled INTEGER NOT NULL DEFAULT 0);
CREATE INDEX label_of_event ON labels (event_id);
CREATE TABLE reviews (
  review_id TEXT PRIMARY KEY, assessment_id TEXT NOT NULL UNIQUE, at INTEGER NOT NULL,
  state TEXT NOT NULL);
CREATE TABLE api_keys (
  key_id TEXT PRIMARY KEY, hash BLOB NOT NULL UNIQUE, role TEXT NOT NULL, at INTEGER NOT NULL,
  revoked_at INTEGER);
CREATE TABLE log (
  idx INTEGER PRIMARY KEY, kind TEXT NOT NULL, ref TEXT NOT NULL, leaf BLOB NOT NULL);
CREATE INDEX log_of_ref ON log (ref);
CREATE TABLE nodes (level INTEGER, idx INTEGER, hash BLOB NOT NULL, PRIMARY KEY (level, idx))
  WITHOUT ROWID;
CREATE TABLE checkpoints (size INTEGER PRIMARY KEY, at INTEGER NOT NULL, note TEXT NOT NULL)
"""
VERSION = 1
#: Leaves that the tree takes in at a time: the ledger is locked for about a millisecond.
GROWTH = 2_000


class _Pending:
    __slots__ = ("done", "error", "inserted", "row")

    def __init__(self, row: Assessed) -> None:
        self.row = row
        self.done = False
        self.inserted = False
        self.error: BaseException | None = None


class SqliteLedger:
    schema = SCHEMA

    def __init__(self, path: Path, *, synchronous: str = "FULL") -> None:
        with closed("ledger"):
            self._database = Database(path, SCHEMA, version=VERSION, synchronous=synchronous)
        self._pending: list[_Pending] = []
        self._guard = threading.Lock()
        self._turn = threading.Lock()

    def close(self) -> None:
        self._database.close()

    # --- reading and writing, as every method below does it

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of a query; FailClosed where the ledger cannot be read."""
        with closed("ledger"):
            return self._database.read.execute(sql, values).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        with closed("ledger"), self._database.write() as connection:
            yield connection

    @staticmethod
    def log(connection: sqlite3.Connection, leaf: Leaf) -> None:
        """Append a leaf to the log, in the transaction of what it speaks of."""
        connection.execute(
            "INSERT INTO log (idx, kind, ref, leaf)"
            " VALUES ((SELECT COALESCE(MAX(idx), -1) + 1 FROM log), ?, ?, ?)",
            (leaf.kind, leaf.ref, leaf.body),
        )

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
            (_grant(body), uses)
            for body, uses in self.rows(
                "SELECT body, (SELECT COUNT(*) FROM grant_uses u WHERE u.grant_id = g.grant_id)"
                " FROM grants g WHERE live_until > ? ORDER BY grant_id",
                at,
            )
        ]

    def take(self, grant_id: str, at: int, purpose: str, categories: Sequence[str]) -> bool:
        with self.transaction() as connection:
            row = connection.execute(
                "SELECT body FROM grants WHERE grant_id = ? AND live_until > ?", (grant_id, at)
            ).fetchone()
            if row is None:  # revoked since it was read
                return False
            grant = _grant(row[0])
            taken = connection.execute(
                "INSERT INTO grant_uses SELECT ?, ?, ?, ?"
                " WHERE (SELECT COUNT(*) FROM grant_uses WHERE grant_id = ?) < ?",
                (grant_id, at, purpose, ",".join(categories), grant_id, grant.max_uses),
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
                    notice.material,
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

    @staticmethod
    def insert_consents(
        connection: sqlite3.Connection, rows: Iterable[tuple[bytes, ConsentEvent, int]]
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
            grant, leaf = change(_grant(row[0]))
            self._put_grant(connection, grant, leaf)
            return grant

    def _put_grant(self, connection: sqlite3.Connection, grant: Grant, leaf: Leaf) -> None:
        live_until = grant.expires_at if grant.state == "live" else 0
        connection.execute(
            "INSERT INTO grants VALUES (?, ?, ?) ON CONFLICT (grant_id)"
            " DO UPDATE SET live_until = excluded.live_until, body = excluded.body",
            (grant.grant_id, live_until, msgspec.json.encode(grant)),
        )
        self.log(connection, leaf)

    def grant(self, grant_id: str) -> Grant | None:
        rows = self.rows("SELECT body FROM grants WHERE grant_id = ?", grant_id)
        return _grant(rows[0][0]) if rows else None

    # --- assessments

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
            if not isinstance(error, sqlite3.Error):
                raise
            if isinstance(error, sqlite3.IntegrityError) and len(batch) > 1:
                for pending in batch:  # one row is at fault, and the others must not suffer for it
                    pending.error = None
                    self._write([pending])
        finally:
            for pending in batch:
                pending.done = True

    def insert(self, connection: sqlite3.Connection, row: Assessed) -> bool:
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
        self.log(connection, row.leaf)
        return True

    def add_events(self, events: Iterable[Event]) -> None:
        """Keep events that came without an assessment: imports, and steps never answered."""
        with self.transaction() as connection:
            self.insert_events(connection, events)

    @staticmethod
    def insert_events(connection: sqlite3.Connection, events: Iterable[Event]) -> None:
        connection.executemany(_INSERT_EVENT, map(msgspec.structs.astuple, events))

    def event(self, event_id: str) -> Event | None:
        rows = self.rows(
            f"SELECT {', '.join(EVENT_COLUMNS)} FROM events WHERE event_id = ?", event_id
        )
        return Event(**dict(zip(EVENT_COLUMNS, rows[0], strict=True))) if rows else None

    # --- labels

    def label(self, label_id: str) -> Label | None:
        rows = self.rows(
            "SELECT label_id, label, source, at, known_at, event_id, member FROM labels"
            " WHERE label_id = ?",
            label_id,
        )
        names = ("label_id", "label", "source", "at", "known_at", "event_id", "member")
        return Label(**dict(zip(names, rows[0], strict=True))) if rows else None

    def add_label(self, label: Label, leaf: Leaf) -> bool:
        """Record a label; False where one of this id is recorded already, with the same content."""
        with self.transaction() as connection:
            row = connection.execute(
                "SELECT label, source, event_id, member FROM labels WHERE label_id = ?",
                (label.label_id,),
            ).fetchone()
            if row is not None:
                if row != (label.label, label.source, label.event_id, label.member):
                    raise Conflict(
                        "this label_id is recorded with other content", pointer="/label_id"
                    )
                return False
            self.insert_labels(connection, [label])
            self.log(connection, leaf)
            return True

    @staticmethod
    def insert_labels(connection: sqlite3.Connection, labels: Iterable[Label]) -> None:
        connection.executemany(
            "INSERT INTO labels (label_id, at, label, source, known_at, event_id, member)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                (x.label_id, x.at, x.label, x.source, x.known_at, x.event_id, x.member)
                for x in labels
            ),
        )

    # --- API keys, by the digest of each

    def key(self, digest: bytes) -> tuple[str, str] | None:
        """Return (key_id, roles) of a key that stands."""
        rows = self.rows(
            "SELECT key_id, role FROM api_keys WHERE hash = ? AND revoked_at IS NULL", digest
        )
        return rows[0] if rows else None

    def add_key(self, key_id: str, digest: bytes, roles: str, at: int, leaf: Leaf) -> None:
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO api_keys VALUES (?, ?, ?, ?, NULL)", (key_id, digest, roles, at)
            )
            self.log(connection, leaf)

    def all_keys(self) -> list[tuple[str, str, int, int | None]]:
        """Return (key_id, roles, made at, revoked at) of every key, oldest first."""
        return self.rows("SELECT key_id, role, at, revoked_at FROM api_keys ORDER BY at, key_id")

    def revoke_key(self, key_id: str, at: int, leaf: Leaf) -> bool:
        """End a key; False where there is none that stands."""
        with self.transaction() as connection:
            ended = connection.execute(
                "UPDATE api_keys SET revoked_at = ? WHERE key_id = ? AND revoked_at IS NULL",
                (at, key_id),
            )
            if ended.rowcount:
                self.log(connection, leaf)
            return ended.rowcount == 1

    # --- the log, for receipts

    def leaves(self, start: int, stop: int) -> list[tuple[int, str, str, bytes]]:
        return self.rows(
            "SELECT idx, kind, ref, leaf FROM log WHERE idx >= ? AND idx < ? ORDER BY idx",
            start,
            stop,
        )

    def find(self, ref: str) -> tuple[int, bytes] | None:
        """Return the index and the leaf of the newest entry called `ref`."""
        rows = self.rows("SELECT idx, leaf FROM log WHERE ref = ? ORDER BY idx DESC LIMIT 1", ref)
        return (rows[0][0], bytes(rows[0][1])) if rows else None

    def checkpoints(self) -> list[tuple[int, str]]:
        return self.rows("SELECT size, note FROM checkpoints ORDER BY size")

    def newest_checkpoint(self) -> tuple[int, str] | None:
        rows = self.rows("SELECT size, note FROM checkpoints ORDER BY size DESC LIMIT 1")
        return rows[0] if rows else None

    def size(self) -> int:
        return int(self.rows("SELECT COALESCE(MAX(idx), -1) + 1 FROM log")[0][0])

    def node(self, level: int, index: int) -> bytes:
        rows = self.rows("SELECT hash FROM nodes WHERE level = ? AND idx = ?", level, index)
        if not rows:
            raise LookupError(f"the log has no node {index} at level {level}")
        return bytes(rows[0][0])

    def nodes(self, level: int, start: int, stop: int) -> list[tuple[int, bytes]]:
        return self.rows(
            "SELECT idx, hash FROM nodes WHERE level = ? AND idx >= ? AND idx < ? ORDER BY idx",
            level,
            start,
            stop,
        )

    def grow(self, most: int) -> int:
        """Take up to `most` of the leaves that are not in the tree yet into it; return how many.

        Leaves are hashed before the ledger is locked: a checkout waits for the rows alone.
        """
        before = self._grown()
        rows = self.rows("SELECT leaf FROM log WHERE idx >= ? ORDER BY idx LIMIT ?", before, most)
        if not rows:
            return 0
        nodes = merkle.new_nodes(before, [merkle.leaf_hash(row[0]) for row in rows], self.node)
        with self.transaction() as connection:
            connection.executemany("INSERT OR IGNORE INTO nodes VALUES (?, ?, ?)", nodes)
        return len(rows)

    def _grown(self) -> int:
        """Return how many leaves are in the tree."""
        return int(self.rows("SELECT COALESCE(MAX(idx), -1) + 1 FROM nodes WHERE level = 0")[0][0])

    def extend(self, at: int, note_of: Callable[[int, bytes], str]) -> tuple[int, str] | None:
        """Take the leaves since the last checkpoint into the tree and sign it.

        `note_of(size, root)` makes the signed note. Returns (size, note), None where no leaf is
        new.
        """
        size = self.size()
        while self._grown() < size:
            self.grow(GROWTH)
        with self.transaction() as connection:
            newest = connection.execute("SELECT COALESCE(MAX(size), 0) FROM checkpoints").fetchone()
            if size <= newest[0]:  # another worker's is as new
                return None
            note = note_of(size, merkle.root_at(size, self.node))
            connection.execute("INSERT INTO checkpoints VALUES (?, ?, ?)", (size, at, note))
            return size, note


_INSERT_EVENT = (
    f"INSERT INTO events ({', '.join(EVENT_COLUMNS)})"
    f" VALUES ({', '.join('?' * len(EVENT_COLUMNS))}) ON CONFLICT (event_id) DO NOTHING"
)
# A step that was lost and kept, and is now answered: what it is answered for is what counts.
_KEEP_EVENT = _INSERT_EVENT.replace(
    "NOTHING", "UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in EVENT_COLUMNS)
)

# A version of a notice is superseded when a later one of the same notice, with a material change,
# has come into force; and one that is not on record is as good as superseded.
_CONSENTS = """
SELECT c.seq, c.record_id, c.purpose, c.categories, c.source, c.notice_id, c.notice_version,
  c.event_type, c.event_state, c.event_time, c.expires_at,
  COALESCE((SELECT EXISTS (SELECT 1 FROM notices n WHERE n.notice_id = o.notice_id
      AND n.material AND (n.valid_from, n.seq) > (o.valid_from, o.seq) AND n.valid_from <= ?)
    FROM notices o WHERE o.notice_id = c.notice_id AND o.version = c.notice_version), 1)
FROM consent_events c"""


_decode_grant = msgspec.json.Decoder(Grant).decode


def _grant(body: bytes) -> Grant:
    try:
        return _decode_grant(body)
    except msgspec.DecodeError as error:
        raise FailClosed("the ledger cannot be used: a grant in it cannot be read") from error


def _consent_event(row: Sequence[Any]) -> ConsentEvent:
    return ConsentEvent._make((*row[:3], frozenset(row[3].split(",")), *row[4:11], bool(row[11])))


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
