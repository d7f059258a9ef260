"""Erasures, and all that is held about one person, as the inventory says where it is.

An erasure's case holds the person's token, and where their vault row is, only until it is done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from sectionfour.database import closed
from sectionfour.domain import Event, Leaf, known_as, known_event
from sectionfour.privacy import entries, inventory
from sectionfour.privacy.erasure import Case, Target
from sectionfour.privacy.exceptions import Grant
from sectionfour.privacy.inventory import Kept
from sectionfour.privacy.pseudonym import Keys
from sectionfour.stores.ledger.assessments import EVENT_COLUMNS
from sectionfour.stores.ledger.bases import read_grant
from sectionfour.stores.ledger.connected import Connected, Connection
from sectionfour.stores.ledger.tallied import COLUMNS
from sectionfour.stores.ledger.unvouched import taken

SCHEMA = """
CREATE TABLE erasures (
  erasure_id TEXT PRIMARY KEY, trigger TEXT NOT NULL, requested_at INTEGER NOT NULL,
  due_at INTEGER NOT NULL, sweeps INTEGER NOT NULL DEFAULT 0, completed_at INTEGER,
  subject BLOB, place BLOB, half BLOB, nonce BLOB);
CREATE TABLE erasure_targets (
  erasure_id TEXT NOT NULL REFERENCES erasures, store TEXT NOT NULL, action TEXT NOT NULL,
  rows INTEGER NOT NULL, law TEXT, until INTEGER, due INTEGER, done_by TEXT,
  PRIMARY KEY (erasure_id, store));
CREATE TABLE erased (
  kind TEXT NOT NULL, ref TEXT NOT NULL, erasure_id TEXT NOT NULL, sweep INTEGER NOT NULL,
  PRIMARY KEY (kind, ref)) WITHOUT ROWID;
CREATE TABLE trainings (
  name TEXT NOT NULL, version TEXT NOT NULL, log_size INTEGER NOT NULL, events INTEGER NOT NULL,
  at INTEGER NOT NULL)
"""

TOKENS = {"erasures": ("subject",)}  # of one that waits; others are over before an epoch ends


class Rights(Connected):
    def open_erasure(self, case: Case, leaf: Leaf | None = None) -> Case:
        """Begin an erasure, with an entry where it waits; the one that is there of the same vault
        row, where there is one."""
        with self.transaction() as connection:
            row = connection.execute(
                "SELECT * FROM erasures WHERE place = ? AND half = ?", (case.place, case.half)
            ).fetchone()
            if row is not None:
                return Case(*row)
            connection.execute(
                f"INSERT INTO erasures VALUES ({', '.join('?' * 10)})",
                msgspec.structs.astuple(case),
            )
            if leaf is not None:
                self.log(connection, leaf)
            return case

    def begin_erasure(self, case: Case, due_at: int) -> Case:
        """Let an erasure that has waited be done by `due_at`."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE erasures SET due_at = ? WHERE erasure_id = ? AND due_at = 0",
                (due_at, case.erasure_id),
            )
        return msgspec.structs.replace(case, due_at=due_at)

    def note_erasure(self, case: Case, at: int, leaf: Leaf) -> None:
        """Record an erasure of somebody of whom nothing is here: done, and nobody's."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO erasures VALUES (?, ?, ?, ?, 0, ?, NULL, NULL, NULL, NULL)",
                (case.erasure_id, case.trigger, case.requested_at, case.due_at, at),
            )
            self.log(connection, leaf)

    def lacks_erasures(self, erasure_ids: Sequence[str]) -> list[str]:
        """Return those of these erasures that are not here."""
        return [
            name
            for (name,) in self.rows(
                "SELECT value FROM json_each(?)"
                " WHERE value NOT IN (SELECT erasure_id FROM erasures)",
                msgspec.json.encode(erasure_ids).decode(),
            )
        ]

    def erasure(self, erasure_id: str) -> Case | None:
        rows = self.rows("SELECT * FROM erasures WHERE erasure_id = ?", erasure_id)
        return Case(*rows[0]) if rows else None

    def erasure_at(self, place: bytes) -> Case | None:
        """Return the newest erasure of whoever was at a place of the vault, while that is kept."""
        rows = self.rows(
            "SELECT * FROM erasures WHERE place = ? ORDER BY requested_at DESC LIMIT 1", place
        )
        return Case(*rows[0]) if rows else None

    def open_erasures(self) -> list[Case]:
        """Return those that are not done, oldest first."""
        rows = self.rows("SELECT * FROM erasures WHERE completed_at IS NULL ORDER BY requested_at")
        return [Case(*row) for row in rows]

    def targets(self, erasure_id: str) -> list[Target]:
        rows = self.rows(
            "SELECT store, action, rows, law, until, due, done_by FROM erasure_targets"
            " WHERE erasure_id = ? ORDER BY store",
            erasure_id,
        )
        return [Target(*row) for row in rows]

    def put_targets(self, erasure_id: str, targets: Sequence[Target]) -> None:
        with self.transaction() as connection:
            _put_targets(connection, erasure_id, targets)

    def complete_erasure(self, erasure_id: str, at: int, leaf: Leaf) -> None:
        """End a case: nothing in it tells any more whose it was, but `place`, for a retry."""
        with self.transaction() as connection:
            done = connection.execute(
                "UPDATE erasures SET completed_at = ?, subject = NULL, half = NULL, nonce = NULL"
                " WHERE erasure_id = ? AND completed_at IS NULL",
                (at, erasure_id),
            )
            if done.rowcount:
                self.log(connection, leaf)

    def forget_retries(self, before: int) -> int:
        """Forget whose the erasures were that were asked for before `before`, and are done."""
        with self.transaction() as connection:
            return connection.execute(
                "UPDATE erasures SET place = NULL WHERE completed_at IS NOT NULL"
                " AND place IS NOT NULL AND requested_at < ?",
                (before,),
            ).rowcount

    # --- what is a person's

    def past_of(self, subject: bytes) -> list[Event]:
        """Return a person's events, and what became known of them or of the person as events."""
        columns = ", ".join(f"e.{name}" for name in EVENT_COLUMNS)
        events = [
            Event(**dict(zip(EVENT_COLUMNS, row, strict=True)))
            for row in self.rows(f"SELECT {columns} FROM events e WHERE e.member = ?", subject)
        ]
        by_id = {event.event_id: event for event in events}
        ids = msgspec.json.encode(list(by_id)).decode()
        for label_id, label, at, event_id in self.rows(
            "SELECT label_id, label, at, event_id FROM labels WHERE member = ?"
            " OR event_id IN (SELECT value FROM json_each(?))",
            subject,
            ids,
        ):
            kind = known_as(label)
            if kind is not None:
                of = by_id.get(event_id) or Event(
                    event_id="", at=at, purpose="", type=kind, occurred_at=at, member=subject
                )
                events.append(known_event(of, kind, label_id, at))
        return events

    def others_of(self, by: str, token: bytes, types: Sequence[str]) -> list[tuple[int, bytes]]:
        """Return (at, member) of the events with this token of an entity, in order of `at`."""
        assert by in EVENT_COLUMNS
        return self.rows(
            f"SELECT at, member FROM events WHERE {by} = ? AND member IS NOT NULL"
            " AND type IN (SELECT value FROM json_each(?)) ORDER BY at",
            token,
            msgspec.json.encode(list(types)).decode(),
        )

    def held(self, subject: bytes) -> Iterator[tuple[Kept, list[dict[str, Any]]]]:
        """Yield, for each place that keeps rows of persons, the rows of this one."""
        with closed("ledger"):
            names = _names(self._database.read, subject)
        for kept in inventory.load().of("ledger"):
            if kept.person:
                with closed("ledger"):
                    cursor = self._database.read.execute(
                        f"SELECT * FROM {kept.name} WHERE {_theirs(kept)}", names
                    )
                    rows = cursor.fetchall()
                columns = [column[0] for column in cursor.description]
                yield kept, [dict(zip(columns, row, strict=True)) for row in rows]

    def grants_of(self, subject: bytes) -> list[tuple[Grant, int]]:
        """Return the grants whose scope names a member, each with its uses so far."""
        found = []
        for body, uses in self.rows(
            "SELECT body, (SELECT COUNT(*) FROM grant_uses u WHERE u.grant_id = g.grant_id)"
            " FROM grants g ORDER BY grant_id"
        ):
            grant = read_grant(body)
            if subject in grant.scope.members:
                found.append((grant, uses))
        return found

    # --- and goes

    def erase_rows(
        self,
        keys: Keys,
        case: Case,
        targets: Sequence[Target],
        leaf_of: Callable[[int, Sequence[Target], str, dict[str, str]], Leaf],
    ) -> list[Target]:
        """Erase a person's rows, in one transaction with the log's entry of it.

        `targets` are what was done elsewhere. Returns every target so far; `leaf_of(sweep, targets,
        digest of the names left behind, tallies of the rows that had no entry of their own)`.
        """
        assert case.subject is not None
        pseudonym = keys.alias(case.subject, "audit")
        with self.transaction() as connection:
            names = _names(connection, case.subject)
            theirs = {kept.name: _theirs(kept) for kept in inventory.load().of("ledger")
                      if kept.person and kept.erasure == "delete"}  # fmt: skip
            gone = taken(keys, connection, {table: theirs[table] for table in COLUMNS}, names)
            sweep, done = case.sweeps + 1, list(targets)
            for kept in inventory.load().of("ledger"):
                if kept.person and kept.erasure in ("delete", "anonymise"):
                    rows = _sweep_place(connection, kept, names, case.erasure_id, sweep)
                    action = "deleted" if kept.erasure == "delete" else "anonymised"
                    done.append(Target(kept.place, action, rows))
            rows = _orphan_grants(keys, connection, case.subject, pseudonym)
            done.append(Target("ledger.grants", "anonymised", rows))
            _put_targets(connection, case.erasure_id, done)
            connection.execute(
                "UPDATE erasures SET sweeps = ? WHERE erasure_id = ?", (sweep, case.erasure_id)
            )
            leaf = leaf_of(sweep, done, _digest(connection, case.erasure_id, sweep), gone)
            self.log(connection, leaf)
        return self.targets(case.erasure_id)

    def erased_digest(self, erasure_id: str, sweep: int) -> str:
        with closed("ledger"):
            return _digest(self._database.read, erasure_id, sweep)

    def was_erased(self, kind: str, ref: str) -> bool:
        return bool(self.rows("SELECT 1 FROM erased WHERE kind = ? AND ref = ?", kind, ref))

    # --- models

    def add_training(self, name: str, version: str, log_size: int, events: int, at: int) -> None:
        """Record that a version was made from what was left when the log had `log_size` entries."""
        with self.transaction() as connection:
            connection.execute(
                "INSERT INTO trainings VALUES (?, ?, ?, ?, ?)",
                (name, version, log_size, events, at),
            )

    def trained_at(self, name: str, version: str) -> int | None:
        """Return the size of the log when the data of a version was last read."""
        size: int | None = self.rows(
            "SELECT MAX(log_size) FROM trainings WHERE name = ? AND version = ?", name, version
        )[0][0]
        return size


def _names(connection: Connection, subject: bytes) -> dict[str, Any]:
    """Return what a person's rows are found by: the token, and their events, assessments, cases."""
    asked = connection.execute(
        "SELECT assessment_id, event_id, seq FROM assessments WHERE subject = ?", (subject,)
    ).fetchall()
    seen = connection.execute("SELECT event_id FROM events WHERE member = ?", (subject,)).fetchall()
    events = {name for (name,) in seen} | {name for _, name, _ in asked}
    assessments = msgspec.json.encode([name for name, _, _ in asked]).decode()
    about = connection.execute(
        "SELECT case_id FROM cases WHERE assessment_id IN (SELECT value FROM json_each(?))",
        (assessments,),
    ).fetchall()
    return {
        "subject": subject,
        "event": msgspec.json.encode(sorted(events)).decode(),
        "assessment": assessments,
        "case": msgspec.json.encode([name for (name,) in about]).decode(),
        "turn": msgspec.json.encode([seq for _, _, seq in asked]).decode(),
    }


def _theirs(kept: Kept) -> str:
    """Return the condition under which a row is a person's."""
    conditions = {
        "subject": "{} = :subject",
        "event": "{} IN (SELECT value FROM json_each(:event))",
        "assessment": "{} IN (SELECT value FROM json_each(:assessment))",
        "turn": "{} IN (SELECT CAST(value AS BIGINT) FROM json_each(:turn))",
        "case": "{} IN (SELECT value FROM json_each(:case))",
    }
    return " OR ".join(conditions[what].format(column) for what, column in kept.person.items())


def _sweep_place(
    connection: Connection, kept: Kept, names: dict[str, Any], erasure_id: str, sweep: int
) -> int:
    theirs = _theirs(kept)
    for kind, column in kept.entry.items():
        connection.execute(
            f"INSERT INTO erased SELECT :kind, {column}, :id, :sweep FROM {kept.name}"
            f" WHERE {theirs} ON CONFLICT DO NOTHING",
            names | {"kind": kind, "id": erasure_id, "sweep": sweep},
        )
    if kept.erasure == "delete":
        return connection.execute(f"DELETE FROM {kept.name} WHERE {theirs}", names).rowcount
    changes = ", ".join(f"{column} = {value}" for column, value in kept.becomes.items())
    return connection.execute(f"UPDATE {kept.name} SET {changes} WHERE {theirs}", names).rowcount


def _orphan_grants(keys: Keys, connection: Connection, subject: bytes, pseudonym: bytes) -> int:
    """Put the log's pseudonym in a member's place in every grant; it is nobody's token. With the
    last of its members the words go, for they may name somebody."""
    count = 0
    for grant_id, body in connection.execute("SELECT grant_id, body FROM grants").fetchall():
        grant = read_grant(body)
        if subject in grant.scope.members:
            scope = replace(
                grant.scope,
                members=grant.scope.members - {subject} | {pseudonym},
                orphans=grant.scope.orphans | {pseudonym},
            )
            after = replace(grant, scope=scope)
            if scope.members == scope.orphans:
                after = after.wordless(entries.told(keys, grant))
            connection.execute(
                "UPDATE grants SET body = ? WHERE grant_id = ?",
                (msgspec.json.encode(after), grant_id),
            )
            count += 1
    return count


def _put_targets(connection: Connection, erasure_id: str, targets: Sequence[Target]) -> None:
    connection.executemany(
        "INSERT INTO erasure_targets VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT"
        " (erasure_id, store) DO UPDATE SET rows = erasure_targets.rows + excluded.rows,"
        " due = excluded.due, done_by = excluded.done_by",
        ((erasure_id, *msgspec.structs.astuple(target)) for target in targets),
    )


def _digest(connection: Connection, erasure_id: str, sweep: int) -> str:
    rows = connection.execute(
        "SELECT kind, ref FROM erased WHERE erasure_id = ? AND sweep <= ? ORDER BY kind, ref",
        (erasure_id, sweep),
    ).fetchall()
    return hashlib.sha256(msgspec.json.encode(rows)).hexdigest()
