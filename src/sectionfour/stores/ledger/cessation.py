"""The end of operation: a flag that every call sees, who was told, and the taking of everything."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import msgspec

from sectionfour.domain import Leaf
from sectionfour.privacy import entries
from sectionfour.privacy.pseudonym import Keys
from sectionfour.privacy.retention import Retention
from sectionfour.privacy.tally import Tally
from sectionfour.stores.ledger import holds
from sectionfour.stores.ledger.connected import Connected, Connection

SCHEMA = """
CREATE TABLE cessation (
  one INTEGER PRIMARY KEY CHECK (one = 1), at INTEGER NOT NULL, announcement TEXT NOT NULL,
  by TEXT NOT NULL, attestation TEXT);
CREATE TABLE notifications (
  pseudonym BLOB PRIMARY KEY, status TEXT NOT NULL, at INTEGER NOT NULL) WITHOUT ROWID
"""
#: What stays, for without it nothing can be proven: every other table is emptied.
STAYS = frozenset(
    ("log", "nodes", "checkpoints", "notices", "api_keys", "cessation", "notifications", "erased")
)
#: Kinds of entries whose rows are in the tables that are emptied.
GOES = (
    "assessment", "label", "review", "consent", "exception", "hold",
    "verdict", "reidentification", "training_release", "promotion",
)  # fmt: skip


class Ending(msgspec.Struct, frozen=True):
    """That operation has ceased: since when, as announced where, by whom; and the attestation."""

    at: int
    announcement: str
    by: str
    attestation: str | None


class Cessation(Connected):
    #: Every table of the ledger, each after those that it refers to.
    tables: ClassVar[Sequence[str]]

    def cessation(self) -> Ending | None:
        rows = self.rows("SELECT at, announcement, by, attestation FROM cessation")
        return Ending(*rows[0]) if rows else None

    def cease(self, ending: Ending, leaf: Leaf) -> Ending:
        """Set the flag, once: every worker sees it at its next call. Returns what stands."""
        with self.transaction() as connection:
            set_now = connection.execute(
                "INSERT INTO cessation VALUES (1, ?, ?, ?, NULL) ON CONFLICT DO NOTHING",
                (ending.at, ending.announcement, ending.by),
            )
            if set_now.rowcount:
                self.log(connection, leaf)
        found = self.cessation()
        assert found is not None  # set now, or before
        return found

    def notify(self, keys: Keys, at: int) -> int:
        """Record, for everybody whom the vault knows, that the announcement is their notice: of
        nobody else can anything be held, but under tokens that name nobody.

        Returns how many are on record by now.
        """
        with self.transaction() as connection:
            new = 0
            for token in keys.everybody():
                new += connection.execute(
                    "INSERT INTO notifications VALUES (?, 'announcement', ?)"
                    " ON CONFLICT DO NOTHING",
                    (keys.alias(token, "audit"), at),
                ).rowcount
            if new:
                rows = connection.execute("SELECT * FROM notifications").fetchall()
                self.log(connection, entries.notified(len(rows), notified(keys, rows), at))
        return int(self.rows("SELECT COUNT(*) FROM notifications")[0][0])

    def spoken_for(self, rules: Retention, at: int) -> int:
        """Return of how many persons and orders the law, or a live grant, forbids the deletion."""
        with self.transaction() as connection:
            members, orders = holds.held(connection, rules, at)
        return len(members) + len(orders)

    def take_everything(self, keys: Keys, at: int) -> Counter[str]:
        """Empty every table that does not stay, in one step, with an entry that accounts for it."""
        gone: Counter[str] = Counter()
        with self.transaction() as connection:
            for table in reversed(self.tables):  # what refers to a row goes before it
                if table not in STAYS:
                    gone[table] += connection.execute(f"DELETE FROM {table}").rowcount
            if +gone:
                rows, lost = _account(keys, connection)
                took = {"rows": rows.text(), "entries": lost.text()}
                name = f"sw_{secrets.token_hex(12)}"
                self.log(connection, entries.sweep(name, dict(+gone), took, at))
        self.cut()
        return +gone

    def attest(self, note: str, leaf: Leaf) -> None:
        with self.transaction() as connection:
            connection.execute("UPDATE cessation SET attestation = ?", (note,))
            self.log(connection, leaf)


def notified(keys: Keys, rows: Iterable[tuple[Any, ...]]) -> str:
    """Return the tally of the notifications."""
    tally = Tally(keys.ring)
    tally.rows("notifications", rows)
    return tally.text()


def _account(keys: Keys, connection: Connection) -> tuple[Tally, Tally]:
    """Add up what was ever brought and entered, less what sweeps and erasures took before."""
    rows, lost = Tally(keys.ring), Tally(keys.ring)
    steps: dict[str, str] = {}
    for kind, ref, leaf in connection.execute(_ACCOUNTS, GOES):
        if kind in GOES:
            lost.entry(bytes(leaf))
            continue
        said = msgspec.json.decode(leaf)
        if kind == "import":
            rows.text_of(said["tally"])
        elif kind == "step":
            steps[ref] = said["tally"]  # the newest counts
        elif kind == "epoch":  # the same rows, under other tokens
            rows.text_of(said["brought"])
        if (gone := said.get("gone")) is not None:
            rows.text_of(gone["rows"], taken=True)
            lost.text_of(gone["entries"], taken=True)
    for tally in steps.values():
        rows.text_of(tally)
    return rows, lost


# What an erasure has deleted is missing already, and accounted for by its names.
_ACCOUNTS = (
    f"SELECT kind, ref, leaf FROM log WHERE (kind IN ({', '.join('?' * len(GOES))})"
    " AND NOT (kind IN ('consent', 'label') AND EXISTS"
    " (SELECT 1 FROM erased e WHERE (e.kind, e.ref) = (log.kind, log.ref))))"
    " OR kind IN ('import', 'step') OR instr(leaf, CAST('\"gone\"' AS BLOB)) > 0 ORDER BY idx"
)
