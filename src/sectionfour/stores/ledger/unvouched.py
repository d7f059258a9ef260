"""Rows that no entry of their own vouches for: what imports brought, and steps never answered.

Whoever takes such rows away, or changes them, tells the log by a tally: else `verify` finds that
what imports brought is not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from sectionfour.domain import Event
from sectionfour.privacy import entries, receipts
from sectionfour.privacy.pseudonym import Keys
from sectionfour.privacy.tally import Tally
from sectionfour.stores.ledger.connected import Connection
from sectionfour.stores.ledger.tallied import COLUMNS, counted

Row = tuple[Any, ...]
ALL = dict.fromkeys(COLUMNS, "true")
NOTHING = f"{0:064x}"

#: An assessment, as far as it vouches for its event.
ASSESSED = (
    "SELECT assessment_id, at, subject, nonce, asked, key_id, vector, answer FROM assessments"
    " WHERE event_id = ?"
)


def vouches(connection: Connection, assessed: Sequence[Any], event: Event) -> bool:
    """Whether the receipt of an assessment commits to this event: of one that was only evaluated
    it does not, whatever came under its id."""
    name, _, subject, nonce, asked, key_id, vector, answer = assessed
    said = connection.execute(
        "SELECT leaf FROM log WHERE ref = ? AND kind = 'assessment' ORDER BY idx LIMIT 1", (name,)
    ).fetchone()
    if nonce is None or said is None:
        return False
    carried = connection.execute(
        "SELECT commitment FROM carried WHERE assessment_id = ?", (name,)
    ).fetchone()
    told = msgspec.json.decode(answer)
    told.pop("receipt", None)
    commitment = receipts.commitment(
        nonce,
        asked=asked,
        subject=subject,
        key_id=key_id,
        vector=vector,
        event=event,
        answer=msgspec.json.encode(told),
    )
    committed = msgspec.json.decode(said[0])["commitment"] if carried is None else carried[0]
    return bool(commitment == committed)


def unvouched(
    connection: Connection, where: Mapping[str, str], names: Mapping[str, Any]
) -> Iterator[tuple[str, Row]]:
    """Yield (table, row in the order of COLUMNS) under a condition a table."""
    for row in _rows(connection, "events", where["events"], names):
        event = Event(**dict(zip(COLUMNS["events"], row, strict=True)))
        assessed = connection.execute(ASSESSED, (event.event_id,)).fetchone()
        if assessed is None or not vouches(connection, assessed, event):
            yield "events", row
    alone = "NOT EXISTS (SELECT 1 FROM log WHERE ref = label_id AND kind = 'label')"
    for row in _rows(connection, "labels", f"({where['labels']}) AND {alone}", names):
        yield "labels", row
    records: dict[str, list[Row]] = {}
    for row in _rows(connection, "consent_events", where["consent_events"], names):
        records.setdefault(row[2], []).append(row)
    for record_id, rows in records.items():
        entered = connection.execute(
            "SELECT COUNT(*) FROM log WHERE ref = ? AND kind = 'consent'", (record_id,)
        ).fetchone()[0]
        for row in sorted(rows)[: len(rows) - entered]:  # what came later has entries
            yield "consent_events", row


def step_of(keys: Keys, connection: Connection, row: Sequence[Any]) -> str | None:
    """Return the tally of an event that was kept as a step, by its newest entry."""
    event_id = row[COLUMNS["events"].index("event_id")]
    found = connection.execute(
        "SELECT leaf FROM log WHERE ref = ? AND kind = 'step' ORDER BY idx DESC LIMIT 1",
        (entries.step_id(keys, event_id),),
    ).fetchone()
    return None if found is None else str(msgspec.json.decode(found[0])["tally"])


def taken(
    keys: Keys, connection: Connection, where: Mapping[str, str], names: Mapping[str, Any]
) -> dict[str, str]:
    """Return what the entry of an erasure says of the rows under `where`, before they go."""
    tally = Tally(keys.ring)
    for table, row in unvouched(connection, where, names):
        tally.row(table, counted(table)(row))
    for row in _rows(connection, "events", where["events"], names):
        event = Event(**dict(zip(COLUMNS["events"], row, strict=True)))
        step = step_of(keys, connection, row)
        assessed = connection.execute(ASSESSED, (event.event_id,)).fetchone()
        if step is not None and assessed is not None and vouches(connection, assessed, event):
            # It was a step before it was answered: its tally goes as well.
            tally.text_of(step)
    return {"rows": tally.text(), "entries": NOTHING}


def _rows(
    connection: Connection, table: str, condition: str, names: Mapping[str, Any]
) -> list[Row]:
    columns = ", ".join(COLUMNS[table])
    return connection.execute(f"SELECT {columns} FROM {table} WHERE {condition}", names).fetchall()
