"""All rooms of the ledger as one: what `SqliteLedger` and `PostgresLedger` have in common.

A room is a few tables with every statement that touches them, and asks nothing of another; what
crosses tables (who goes, what is due, an epoch that ends) is a room of its own. They are one class,
because whoever is handed the ledger is handed one database, and one transaction may be of several.

Append-only but for keys, grants and cases, whose changes are leaves of the log too. Everything that
belongs together is one transaction, and one writer is at it at a time, among all processes: so the
log has no gap, a quota is never overdrawn, and what follows in the log came after.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

from sectionfour.stores.ledger import (
    api_keys,
    assessments,
    attestations,
    audit_set,
    bases,
    cases,
    cessation,
    clusters,
    epochs,
    holds,
    labels,
    log,
    releases,
    retention,
    rights,
    shadow,
)
from sectionfour.stores.ledger.tallied import Tallied

#: Every table, from the rooms that hold them.
ROOMS = (
    bases,
    assessments,
    labels,
    api_keys,
    log,
    holds,
    cessation,
    attestations,
    cases,
    epochs,
    releases,
    audit_set,
    rights,
    shadow,
    clusters,
)
SCHEMA = ";\n".join(room.SCHEMA.strip() for room in ROOMS)
VERSION = 3


class Ledger(
    bases.Bases,
    assessments.Assessments,
    labels.Labels,
    api_keys.ApiKeys,
    log.Log,
    Tallied,
    holds.Holds,
    retention.Retained,
    cessation.Cessation,
    attestations.Attestations,
    cases.Cases,
    epochs.Epochs,
    releases.Releases,
    audit_set.AuditSet,
    rights.Rights,
    shadow.Shadow,
    clusters.Clusters,
):
    """The ledger, whichever database it is in. FailClosed where that cannot be read or written."""

    tables: ClassVar = re.findall(r"CREATE TABLE (\w+)", SCHEMA)
    tokens: ClassVar = {k: v for room in ROOMS for k, v in getattr(room, "TOKENS", {}).items()}

    def damage(self) -> Iterator[str]:
        """Yield, in words, what the database itself finds wrong with the tables."""
        raise NotImplementedError

    def newest(self) -> int:
        """Return the latest instant on record, in microseconds; 0 of an empty ledger."""
        found = self.rows(
            "SELECT MAX(at) FROM events UNION ALL"
            " SELECT * FROM (SELECT at FROM assessments ORDER BY seq DESC LIMIT 1) AS a UNION ALL"
            " SELECT * FROM"
            " (SELECT recorded_at FROM consent_events ORDER BY seq DESC LIMIT 1) AS c"
        )
        return max((at for (at,) in found if at is not None), default=0)

    def close(self) -> None:
        self._database.close()
