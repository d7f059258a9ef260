"""What may be learnt from, with its features: for those who test rows and models before they go.

The same gate and the same history as in `train`, which these tests speak of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sectionfour.errors import HistoryError
from sectionfour.features import history
from sectionfour.features.catalog import NAMES
from sectionfour.learning import dataset, past
from sectionfour.learning.past import members_of
from sectionfour.learning.permitted import permit
from sectionfour.learning.progress import Stages
from sectionfour.parts import Parts


@dataclass(frozen=True, slots=True)
class Learnable:
    """The past, which of its rows are permitted, and the features of all, masked where needed."""

    past: past.Past
    at: int
    permitted: dataset.Mask
    left_out: Counter[str]
    masked: dict[str, dataset.Mask]
    matrix: NDArray[np.float64]

    @property
    def member(self) -> NDArray[np.int64]:
        """The number of each event's member, -1 for a guest."""
        return members_of(self.past)

    def of_model(self, name: str, scored: Mapping[str, str | None]) -> dataset.Mask:
        return self.permitted & dataset.model_rows(self.past.events, name, scored)

    def numbers(self, column: str) -> NDArray[np.float64]:
        """Return a field of every event as numbers, missing where it is or must be."""
        found = self.past.events[column].to_numpy(dtype=np.float64, na_value=np.nan)
        if column == "amount" and "order" in self.masked:
            found = np.where(self.masked["order"], np.nan, found)
        return found


def read(parts: Parts, stages: Stages) -> Learnable:
    """Read the ledger, pass every row through the gate for training, compute the features.

    Raises HistoryError for a ledger without events.
    """
    stages.next()
    found = past.read(parts.ledger)
    if not len(found.events):
        raise HistoryError("the ledger holds no events to learn from")
    stages.next()
    at = parts.clock()
    permitted, left_out, masked = permit(found, parts.ledger, at=at, regime=parts.regime)
    stages.next()
    matrix, _ = history.compute(found.events, found.known, clusters=found.clusters)
    for category, rows in masked.items():
        matrix[np.ix_(rows, dataset.columns_of(category, range(len(NAMES))))] = np.nan
    return Learnable(found, at, permitted, left_out, masked, matrix)
