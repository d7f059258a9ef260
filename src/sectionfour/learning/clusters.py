"""The clusters of members who share devices, instruments and delivery addresses, found in batch.

Members and what they use are the two sides of a graph; a cluster is a connected component of it.
What more than HUB_MEMBERS members share joins nobody.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from sectionfour.domain import FRAUD, known_as
from sectionfour.features.catalog import CLUSTER_BY, HUB_MEMBERS

#: (members, members of whom a fraud is known) of one cluster.
Cluster = tuple[int, int]


def find(uses: pd.DataFrame, frauds: Collection[int]) -> dict[int, Cluster]:
    """Return the cluster of each member of `uses`, the cluster of one included.

    `uses` has a row an event and columns `member`, `device`, `instrument` and `address`: numbers,
    missing where not permitted. `frauds` are the members of whom a fraud is known.

    >>> uses = {"member": [1, 2, 3], "device": [7, 7, 8], "instrument": None, "address": None}
    >>> find(pd.DataFrame(uses), {2})
    {1: (2, 1), 2: (2, 1), 3: (1, 0)}
    """
    members, who = np.unique(uses["member"].to_numpy(dtype=np.int64), return_inverse=True)
    ends = len(members)
    edges: list[np.ndarray] = []
    for name in CLUSTER_BY[1:]:
        pairs = pd.DataFrame({"who": who, "thing": uses[name].to_numpy()})
        pairs = pairs.dropna().drop_duplicates()
        pairs = pairs[pairs.groupby("thing")["who"].transform("size") <= HUB_MEMBERS]
        places, things = pd.factorize(pairs["thing"])
        edges.append(np.stack([pairs["who"].to_numpy(dtype=np.int64), places + ends]))
        ends += len(things)
    rows, columns = np.concatenate(edges, axis=1)
    graph = coo_matrix((np.ones(len(rows), np.int8), (rows, columns)), shape=(ends, ends))
    cluster = connected_components(graph, directed=False)[1][: len(members)]
    known = np.isin(members, np.fromiter(frauds, np.int64, len(frauds)))
    size = np.bincount(cluster)[cluster]
    count = np.bincount(cluster[known], minlength=ends)[cluster]
    values = zip(size.tolist(), count.tolist(), strict=True)
    return dict(zip(members.tolist(), values, strict=True))


def frauds_known(labels: pd.DataFrame, at: int) -> set[int]:
    """Return the members of whom a fraud is known at `at` (microseconds, exclusive).

    `labels` has columns `at` (in its order), `label`, `what` (of what it speaks) and `member`. Of
    each thing the last word counts, so who was cleared counts no more; a mere suspicion is none.
    """
    known = labels[labels["at"].to_numpy() < at]
    known = known.assign(kind=known["label"].map(known_as))
    last = known[known["kind"].notna()].drop_duplicates("what", keep="last")
    return set(last.loc[last["kind"] == FRAUD, "member"].tolist())
