"""What no entry of its own vouches for: rows of an import, and steps that nobody was answered for.

The log has one entry for all of a batch, with a tally of its rows; see `privacy.tally`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from sectionfour.domain import Event, Label
from sectionfour.privacy.consent import ConsentEvent
from sectionfour.privacy.keys import Keyring
from sectionfour.privacy.tally import Tally
from sectionfour.stores.ledger.assessments import Assessments
from sectionfour.stores.ledger.bases import Bases
from sectionfour.stores.ledger.connected import Connected, Connection
from sectionfour.stores.ledger.labels import Labels

#: Of each table the columns that a tally takes in, the first of them its order.
COLUMNS = {
    "events": ("at", *(name for name in Event.__struct_fields__ if name != "at")),
    "labels": ("label_id", "at", "label", "source", "known_at", "event_id", "member"),
    "consent_events": (
        "seq", "subject", "record_id", "purpose", "categories", "source", "notice_id",
        "notice_version", "event_type", "event_state", "event_time", "expires_at", "recorded_at",
    ),
}  # fmt: skip
CHUNK = 5_000


class Tallied(Connected):
    def bring(
        self,
        connection: Connection,
        ring: Keyring,
        *,
        events: Iterable[Event] = (),
        consents: Iterable[tuple[bytes, ConsentEvent, int]] = (),
        labels: Iterable[Label] = (),
    ) -> tuple[str, dict[str, int]]:
        """Put rows without entries of their own into an open transaction.

        Returns the text of their tally and their numbers, as they are in the tables now: an event
        whose id was there is not brought again.
        """
        events, labels = list(events), list(labels)
        span = min((e.at for e in events), default=0), max((e.at for e in events), default=-1)
        before = {row[0] for row in _between(connection, "at", span)}
        last = connection.execute("SELECT COALESCE(MAX(seq), 0) FROM consent_events").fetchone()[0]
        names = [label.label_id for label in labels]
        Bases.insert_consents(connection, consents)
        Assessments.insert_events(connection, events)
        Labels.insert_labels(connection, labels)
        brought = _between(connection, _listed("events"), span)
        found = {
            "events": [row for row in brought if row[0] not in before],
            "labels": _of_ids(connection, _listed("labels"), "labels", "label_id", names),
            "consent_events": connection.execute(
                f"SELECT {_listed('consent_events')} FROM consent_events WHERE seq > ?", (last,)
            ).fetchall(),
        }
        tally = Tally(ring)
        for table, rows in found.items():
            tally.rows(table, map(counted(table), rows))
        return tally.text(), {table: len(rows) for table, rows in found.items()}

    def tallied_rows(self, table: str) -> Iterator[Sequence[Any]]:
        """Yield every row of a table as a tally takes it in."""
        order, rest, after = COLUMNS[table][0], counted(table), ()
        while rows := self.rows(
            f"SELECT {_listed(table)} FROM {table}"
            + (f" WHERE {order} > ?" if after else "")
            + f" ORDER BY {order} LIMIT {CHUNK}",
            *after,
        ):
            yield from map(rest, rows)
            after = rows[-1][:1]


def counted(table: str) -> Any:
    """Return what makes of a row, in the order of COLUMNS, the part that counts."""
    return (lambda row: row[1:]) if table == "consent_events" else tuple


def _listed(table: str) -> str:
    return ", ".join(COLUMNS[table])


def _between(connection: Connection, columns: str, span: tuple[int, int]) -> list[tuple[Any, ...]]:
    return connection.execute(
        f"SELECT {columns} FROM events WHERE at BETWEEN ? AND ?", span
    ).fetchall()


def _of_ids(
    connection: Connection, columns: str, table: str, key: str, ids: Sequence[str]
) -> list[tuple[Any, ...]]:
    return connection.execute(
        f"SELECT {columns} FROM {table} WHERE {key} IN (SELECT value FROM json_each(?))",
        (msgspec.json.encode(ids).decode(),),
    ).fetchall()
