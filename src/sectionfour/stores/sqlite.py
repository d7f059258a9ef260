"""The ledger on SQLite: its rooms, opened as one.

Append-only but for keys, grants and cases, whose changes are leaves of the log too. Everything that
belongs together is one transaction.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from sectionfour.database import Database, closed
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
    retention,
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


class SqliteLedger(
    bases.Bases,
    assessments.Assessments,
    labels.Labels,
    api_keys.ApiKeys,
    log.Log,
    Tallied,
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
    schema = SCHEMA
    tokens: ClassVar = {k: v for room in ROOMS for k, v in getattr(room, "TOKENS", {}).items()}

    def __init__(self, path: Path, *, synchronous: str = "FULL") -> None:
        super().__init__()
        with closed("ledger"):
            self._database = Database(path, SCHEMA, version=VERSION, synchronous=synchronous)

    def newest(self) -> int:
        """Return the latest instant on record, in microseconds; 0 of an empty ledger."""
        found = self.rows(
            "SELECT MAX(at) FROM events UNION ALL"
            " SELECT * FROM (SELECT at FROM assessments ORDER BY seq DESC LIMIT 1) UNION ALL"
            " SELECT * FROM (SELECT recorded_at FROM consent_events ORDER BY seq DESC LIMIT 1)"
        )
        return max((at for (at,) in found if at is not None), default=0)

    def close(self) -> None:
        self._database.close()
