"""Clusters of members are found, for now or as of past days, and put where scoring looks them up.

What is found counts for events a minute later and after, so never for one that is being scored:
the same row is looked up online and joined over the past. An event counts where the gate would
still let it be learnt from, and with those fields alone: who has withdrawn or was erased is in
nobody's cluster from the next run on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sectionfour.domain import DAY, SECOND
from sectionfour.errors import Ceased
from sectionfour.features.catalog import ALONE, CLUSTER_BY, CLUSTER_OVER, ENTITIES
from sectionfour.learning import clusters, past
from sectionfour.learning.permitted import permit
from sectionfour.parts import Parts

#: How far ahead of its finding a cluster begins to count, in microseconds.
AHEAD = 60 * SECOND


@dataclass(frozen=True, slots=True)
class Done:
    """What a run has found: members in clusters of two and more, the largest of these, the rows
    that were written, and from when the last of them count (microseconds)."""

    members: int
    largest: int
    rows: int
    at: int


@dataclass(frozen=True, slots=True)
class _Graph:
    """What members have used, as numbers in order of `at`; what became known; who they are."""

    uses: pd.DataFrame
    labels: pd.DataFrame
    subjects: list[bytes]

    def as_of(self, at: int) -> dict[bytes, clusters.Cluster]:
        """Return the cluster of every member who has used anything in the time before `at`."""
        first, end = np.searchsorted(self.uses["at"], [at - CLUSTER_OVER + 1, at])
        found = clusters.find(self.uses.iloc[first:end], clusters.frauds_known(self.labels, at))
        return {self.subjects[member]: values for member, values in found.items()}


def refresh(parts: Parts) -> Done:
    """Find the clusters of now; a row is written for each member whose values have changed.

    Safe to run again and beside the service. Raises Ceased where operation has ceased, NotReady
    where somebody was erased meanwhile: nothing is written, and it can be run again.
    """
    log_size = _begun(parts)
    now = parts.clock()
    found = _read(parts, now - CLUSTER_OVER, now).as_of(now)
    changed = list(_changes(parts.ledger.newest_clusters(), found))

    def begin() -> int:
        return max(parts.clock(), parts.velocity.exchange(b"", 0, [], 0, None)[0]) + AHEAD

    rows, at = parts.ledger.add_clusters(changed, begin, log_size)
    return _done(found, rows, at)


def refresh_past(
    parts: Parts, since: int, progress: Callable[[int, int], object] = lambda done, total: None
) -> Done:
    """Find the clusters as of each midnight (UTC) from `since` until now, of what was known then.

    For a past that was imported: of what was scored by the service nothing may be that young, for
    it was scored by what was known then (Conflict). Replaces what was found from there on, so it
    may be run again. Errors as in `refresh`.
    """
    log_size = _begun(parts)
    now = parts.clock()
    oldest = parts.ledger.rows("SELECT COALESCE(MIN(at), ?) FROM events", now)[0][0]
    begin = midnight(max(since, oldest) + DAY - 1)
    days = range(begin, now, DAY)
    graph = _read(parts, begin - CLUSTER_OVER, now)
    newest = parts.ledger.newest_clusters(begin + AHEAD)
    rows: list[tuple[bytes, int, int, int]] = []
    found: dict[bytes, clusters.Cluster] = {}
    for number, day in enumerate(days):
        found = graph.as_of(day)
        for member, size, frauds in _changes(newest, found):
            newest[member] = (size, frauds)
            rows.append((member, day + AHEAD, size, frauds))
        progress(number + 1, len(days))
    parts.ledger.replace_clusters(rows, begin + AHEAD, log_size)
    return _done(found, len(rows), (days[-1] if days else begin) + AHEAD)


def midnight(at: int) -> int:
    """Return the last midnight (UTC) at or before an instant, both in microseconds."""
    return at - at % DAY


def _begun(parts: Parts) -> int:
    if parts.ledger.cessation() is not None:
        raise Ceased("operation has ceased: no clusters are found any more")
    return parts.ledger.size()  # before the events: whoever was erased by then is not there


def _read(parts: Parts, after: int, before: int) -> _Graph:
    """Read what members have used between two instants, as far as it may be learnt from."""
    columns = ["at", *CLUSTER_BY, "permitted", "brought"]
    rows = parts.ledger.linked(after, before)
    events = pd.DataFrame(rows, columns=columns, dtype=object)
    events = events.astype({"at": "int64", "permitted": "int64"})
    subjects: list[bytes] = []
    for name in CLUSTER_BY:
        events[name], tokens = past.numbered(events[name])
        subjects = tokens if name == "member" else subjects
    places = {token: place for place, token in enumerate(subjects)}
    known = [
        (at, label, event_id or member, places[member])
        for at, label, event_id, member in parts.ledger.known_of_members(before)
        if member in places
    ]
    labels = pd.DataFrame(known, columns=["at", "label", "what", "member"])
    nothing = pd.DataFrame()
    found = past.Past(events, nothing, subjects, nothing)
    permitted, _, masked = permit(found, parts.ledger, at=parts.clock(), regime=parts.regime)
    for name in CLUSTER_BY:
        if ENTITIES[name] in masked:
            events[name] = events[name].mask(masked[ENTITIES[name]])
    uses = events[permitted & events["member"].notna().to_numpy()]
    return _Graph(uses, labels, subjects)


def _changes(
    newest: dict[bytes, clusters.Cluster], found: dict[bytes, clusters.Cluster]
) -> Iterator[tuple[bytes, int, int]]:
    """Yield whoever's values are others than before; who is not there any more is alone."""
    for member in sorted(newest.keys() | found.keys()):
        values = found.get(member, ALONE)
        if newest.get(member, ALONE) != values:
            yield member, *values


def _done(found: dict[bytes, clusters.Cluster], rows: int, at: int) -> Done:
    sizes = [size for size, _ in found.values() if size > 1]
    return Done(len(sizes), max(sizes, default=0), rows, at)
