"""The taking away of what is due: nothing that is held, and nothing untold.

Each transaction that deletes rows leaves an entry in the log, with tallies of what went: so
`verify` can tell a sweep from a loss.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from sectionfour.domain import Event, Leaf
from sectionfour.features.catalog import ALONE
from sectionfour.privacy import consent, entries
from sectionfour.privacy.consent import ConsentEvent
from sectionfour.privacy.pseudonym import Keys
from sectionfour.privacy.retention import Retention
from sectionfour.privacy.tally import Tally
from sectionfour.stores.ledger import holds
from sectionfour.stores.ledger.bases import read_grant
from sectionfour.stores.ledger.connected import Connected, Connection
from sectionfour.stores.ledger.holds import Held
from sectionfour.stores.ledger.tallied import COLUMNS, counted
from sectionfour.stores.ledger.unvouched import ASSESSED, step_of, vouches

#: Rows a transaction: a checkout waits for no more.
BITE = 200


class Gone:
    """What one transaction takes away: numbers, and tallies for the log."""

    def __init__(self, keys: Keys, connection: Connection) -> None:
        self._keys, self._connection = keys, connection
        self.rows, self.entries = Tally(keys.ring), Tally(keys.ring)
        self.deleted: Counter[str] = Counter()

    def delete(self, table: str, key: str, value: Any) -> int:
        sql = f"DELETE FROM {table} WHERE {key} = ?"
        count = self._connection.execute(sql, (value,)).rowcount
        self.deleted[table] += count
        return count

    def entered(self, kind: str, ref: str) -> list[bytes]:
        """The rows of these entries go. Returns the entries."""
        found = self._connection.execute(
            "SELECT leaf FROM log WHERE ref = ? AND kind = ? ORDER BY idx", (ref, kind)
        )
        bodies = [bytes(row[0]) for row in found]
        for body in bodies:
            self.entries.entry(body)
        return bodies

    def event(self, row: Sequence[Any], *, vouched: bool) -> None:
        """An event goes; `vouched`: by an assessment, whether or not it was a step before."""
        event_id = row[COLUMNS["events"].index("event_id")]
        if vouched:
            step = step_of(self._keys, self._connection, row)
            if step is not None:
                self.rows.text_of(step)
        else:
            self.rows.row("events", row)
        self.delete("events", "event_id", event_id)

    def label(self, row: Sequence[Any]) -> None:
        if not self.entered("label", row[0]):
            self.rows.row("labels", row)
        self.delete("labels", "label_id", row[0])

    def leaf(self, at: int) -> Leaf | None:
        """Return the entry of all this; None where nothing went."""
        if not +self.deleted:
            return None
        gone = {"rows": self.rows.text(), "entries": self.entries.text()}
        return entries.sweep(f"sw_{secrets.token_hex(12)}", dict(+self.deleted), gone, at)


class Retained(Connected):
    def sweep(self, keys: Keys, rules: Retention, at: int) -> Iterator[Counter[str]]:
        """Delete what is due at `at` and not held; yields what went, a transaction each.

        An event goes with its assessment, its case, and all that became known of it, once the last
        of that is due; a consent or a grant as long after its end as its class says.
        """
        before = rules.cutoff("security_3y", at)
        for take, ids in (
            (self._events, self._numbers("events", "at", before)),
            (self._assessments, self._numbers("assessments", "seq", before)),
            (self._labels, self._numbers("labels", "label_id", before)),
            (self._consents, self._ended(rules.cutoff("consent_3y", at), at)),
            (self._grants, self._over(rules.cutoff("audit_3y", at))),
            (self._lifted, self._released(rules.cutoff("audit_3y", at))),
            (self._clusters, self._clustered(before)),
            (self._words, self._of_orders(rules.cutoff("consent_3y", at))),
            (self._release_rows, self._released_rows(before)),
        ):
            lot: list[Any] = []
            for name in ids:
                lot.append(name)
                if len(lot) == BITE:
                    yield self._bite(keys, rules, at, take, lot, before)
                    lot = []
            if lot:
                yield self._bite(keys, rules, at, take, lot, before)

    def _bite(
        self, keys: Keys, rules: Retention, at: int, take: Any, lot: list[Any], before: int
    ) -> Counter[str]:
        with self.transaction() as connection:
            gone = Gone(keys, connection)
            held = holds.held(connection, rules, at)
            for name in lot:
                take(connection, gone, held, name, before)
            leaf = gone.leaf(at)
            if leaf is not None:
                self.log(connection, leaf)
        return gone.deleted

    def _numbers(self, table: str, key: str, before: int) -> Iterator[Any]:
        """Yield the keys of the rows from before `before`, in their order."""
        after: Any = "" if key == "label_id" else -1
        while found := self.rows(
            f"SELECT {key}, at FROM {table} WHERE {key} > ? ORDER BY {key} LIMIT 5000", after
        ):
            yield from (number for number, at in found if at < before)
            after = found[-1][0]
            if key == "at" and after >= before:
                return

    def _ended(self, before: int, at: int) -> Iterator[str]:
        """Yield each consent record that ended before `before`."""
        after = ""
        while found := self.rows(
            "SELECT record_id FROM consent_events WHERE record_id > ? GROUP BY record_id"
            " HAVING MAX(recorded_at) < ? ORDER BY record_id LIMIT 1000",
            after,
            before,
        ):
            for (after,) in found:
                if self._consent_ended(after, at) < before:
                    yield after

    def _consent_ended(self, record_id: str, at: int) -> int:
        """Return when a record ended; `at` where it stands."""
        rows = self.rows(_CONSENT, record_id)
        events = []
        for row in rows:
            over = row[11] is not None and row[11] <= at
            categories = frozenset(row[3].split(","))
            events.append(ConsentEvent._make((*row[:3], categories, *row[4:11], over, False)))
        state = consent.state(events, at)
        if state in (consent.GIVEN, consent.RENEWED):
            return at
        ends = [max(row[9], row[12]) for row in rows]  # event_time and recorded_at
        if state == consent.EXPIRED:
            ends += [row[10] for row in rows if row[10] is not None]
        if state == consent.INVALIDATED:
            ends += [row[11] for row in rows if row[11] is not None]
        return int(min(at, max(ends)))

    def _over(self, before: int) -> list[str]:
        found = []
        for (body,) in self.rows("SELECT body FROM grants"):
            grant = read_grant(body)
            end = grant.expires_at if grant.revoked_at is None else grant.revoked_at
            if max(end, grant.requested_at) < before:
                found.append(grant.grant_id)
        return found

    def _clustered(self, before: int) -> list[bytes]:
        found = self.rows("SELECT DISTINCT member FROM clusters WHERE at < ?", before)
        return [member for (member,) in found]

    def _of_orders(self, before: int) -> Iterator[str]:
        """Yield each member's word about the consignee of an order that is gone by now."""
        for (name,) in self.rows(
            "SELECT attestation_id FROM third_persons WHERE COALESCE(revoked_at, recorded_at) < ?"
            " AND order_ref NOT IN (SELECT order_ref FROM events WHERE order_ref IS NOT NULL)",
            before,
        ):
            yield name

    def _released_rows(self, before: int) -> list[bytes]:
        found = self.rows(
            "SELECT row_ref FROM release_rows JOIN releases USING (release_id) WHERE at < ?", before
        )
        return [ref for (ref,) in found]

    def _released(self, before: int) -> list[str]:
        return [
            name for (name,) in self.rows("SELECT hold_id FROM holds WHERE lifted_at < ?", before)
        ]

    # --- one by one, inside a transaction

    def _events(self, connection: Connection, gone: Gone, held: Held, at: int, before: int) -> None:
        columns = ", ".join(COLUMNS["events"])
        row = connection.execute(f"SELECT {columns} FROM events WHERE at = ?", (at,)).fetchone()
        if row is None:
            return
        event = Event(**dict(zip(COLUMNS["events"], row, strict=True)))
        if event.member in held.members or event.order_ref in held.orders:
            return
        labels = _labels_of(connection, "event_id", event.event_id)
        assessed = connection.execute(ASSESSED, (event.event_id,)).fetchone()
        subject = None if assessed is None else assessed[2]
        if subject in held.members or any(label[1] >= before for label in labels):
            return
        if assessed is not None and assessed[1] >= before:
            return
        vouched = assessed is not None and self._assessment(connection, gone, assessed, event)
        gone.event(row, vouched=vouched)
        for label in labels:
            gone.label(label)

    def _assessments(
        self, connection: Connection, gone: Gone, held: Held, seq: int, before: int
    ) -> None:
        """Those without an event: refused, or asked in mode `evaluate`."""
        row = connection.execute(
            ASSESSED.replace("event_id = ?", "seq = ?") + " AND NOT EXISTS"
            " (SELECT 1 FROM events e WHERE e.event_id = assessments.event_id)",
            (seq,),
        ).fetchone()
        if row is None or row[2] in held.members:
            return
        decided = connection.execute(
            "SELECT 1 FROM verdicts JOIN cases USING (case_id) WHERE assessment_id = ?"
            " AND verdicts.at >= ?",
            (row[0], before),
        )
        if decided.fetchone() is None:
            self._assessment(connection, gone, row, None)

    def _assessment(
        self, connection: Connection, gone: Gone, row: Sequence[Any], event: Event | None
    ) -> bool:
        """An assessment goes. Returns whether it vouched for the event."""
        name = row[0]
        vouched = event is not None and vouches(connection, row, event)
        gone.entered("assessment", name)
        for (review,) in connection.execute(
            "SELECT review_id FROM reviews WHERE assessment_id = ?", (name,)
        ).fetchall():
            gone.entered("review", review)
            gone.delete("reviews", "review_id", review)
        for (case,) in connection.execute(
            "SELECT case_id FROM cases WHERE assessment_id = ?", (name,)
        ).fetchall():
            self._case(connection, gone, case)
        (seq,) = connection.execute(
            "SELECT seq FROM assessments WHERE assessment_id = ?", (name,)
        ).fetchone()
        gone.delete("shadow_scores", "seq", seq)
        gone.delete("assessments", "assessment_id", name)
        return vouched

    @staticmethod
    def _case(connection: Connection, gone: Gone, case: str) -> None:
        for kind in ("verdict", "reidentification"):
            table, key = f"{kind}s", f"{kind}_id"
            for (name,) in connection.execute(
                f"SELECT {key} FROM {table} WHERE case_id = ?", (case,)
            ).fetchall():
                gone.entered(kind, name)
                gone.delete(table, key, name)
        gone.delete("cases", "case_id", case)

    def _labels(
        self, connection: Connection, gone: Gone, held: Held, name: str, before: int
    ) -> None:
        """Those of a member, or of an event that is gone."""
        for row in _labels_of(connection, "label_id", name):
            member, event_id = row[6], row[5]
            there = connection.execute("SELECT 1 FROM events WHERE event_id = ?", (event_id,))
            if member not in held.members and there.fetchone() is None:
                gone.label(row)

    def _consents(
        self, connection: Connection, gone: Gone, held: Held, name: str, before: int
    ) -> None:
        columns = ", ".join(COLUMNS["consent_events"])
        rows = connection.execute(
            f"SELECT {columns} FROM consent_events WHERE record_id = ? ORDER BY seq", (name,)
        ).fetchall()
        if not rows or any(row[1] in held.members or row[-1] >= before for row in rows):
            return
        vouched = len(gone.entered("consent", name))
        for row in rows[: len(rows) - vouched]:
            gone.rows.row("consent_events", counted("consent_events")(row))
        gone.delete("consent_events", "record_id", name)

    def _grants(
        self, connection: Connection, gone: Gone, held: Held, name: str, before: int
    ) -> None:
        row = connection.execute("SELECT body FROM grants WHERE grant_id = ?", (name,)).fetchone()
        if row is None:
            return
        scope = read_grant(row[0]).scope
        if scope.members & held.members or scope.order in held.orders:
            return
        gone.entered("exception", name)
        gone.delete("grant_uses", "grant_id", name)
        gone.delete("grants", "grant_id", name)

    def _clusters(
        self, connection: Connection, gone: Gone, held: Held, name: bytes, before: int
    ) -> None:
        """Those of a member that count for no event that is kept; what is in force stays."""
        if name in held.members:
            return
        in_force = connection.execute(
            "SELECT at, (size, frauds) = (?, ?) FROM clusters WHERE member = ? AND at < ?"
            " ORDER BY at DESC LIMIT 1",
            (*ALONE, name, before),
        ).fetchone()
        if in_force is not None:
            at, alone = in_force  # who is alone needs no row to say so
            gone.deleted["clusters"] += connection.execute(
                "DELETE FROM clusters WHERE member = ? AND at < ?", (name, at + alone)
            ).rowcount

    def _words(
        self, connection: Connection, gone: Gone, held: Held, name: str, before: int
    ) -> None:
        of = connection.execute(
            "SELECT subject, order_ref FROM third_persons WHERE attestation_id = ?", (name,)
        ).fetchone()
        if of is not None and of[0] not in held.members and of[1] not in held.orders:
            gone.entered("third_person", name)
            gone.delete("third_persons", "attestation_id", name)

    def _release_rows(
        self, connection: Connection, gone: Gone, held: Held, ref: bytes, before: int
    ) -> None:
        """Whose a row was that left; it is known for as long as what it was made of."""
        of = connection.execute("SELECT member FROM release_rows WHERE row_ref = ?", (ref,))
        if (row := of.fetchone()) is not None and row[0] not in held.members:
            gone.delete("release_rows", "row_ref", ref)

    def _lifted(
        self, connection: Connection, gone: Gone, held: Held, name: str, before: int
    ) -> None:
        gone.entered("hold", name)
        gone.delete("holds", "hold_id", name)


def _labels_of(connection: Connection, key: str, value: Any) -> list[tuple[Any, ...]]:
    columns = ", ".join(COLUMNS["labels"])
    return connection.execute(f"SELECT {columns} FROM labels WHERE {key} = ?", (value,)).fetchall()


# The last two: when a newer notice, with a material change, came into force; when it was recorded.
_CONSENT = """
SELECT c.seq, c.record_id, c.purpose, c.categories, c.source, c.notice_id, c.notice_version,
  c.event_type, c.event_state, c.event_time, c.expires_at,
  (SELECT MIN(n.valid_from) FROM notices n JOIN notices o ON n.notice_id = o.notice_id
    WHERE o.notice_id = c.notice_id AND o.version = c.notice_version AND n.material <> 0
    AND (n.valid_from, n.seq) > (o.valid_from, o.seq)),
  c.recorded_at
FROM consent_events c WHERE c.record_id = ? ORDER BY c.seq"""
