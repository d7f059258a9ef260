"""What the edge opens and hands in: everything that the two walks may touch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sectionfour.decisions.policy import Policy
from sectionfour.features.online import Velocity
from sectionfour.learning.registry import Served
from sectionfour.privacy.pseudonym import Keys
from sectionfour.privacy.regime import Regime

if TYPE_CHECKING:
    from sectionfour.stores.sqlite import SqliteLedger


def now() -> int:
    """The service's clock: microseconds since the epoch, UTC."""
    return time.time_ns() // 1000


@dataclass(frozen=True, slots=True)
class Parts:
    ledger: SqliteLedger
    velocity: Velocity
    keys: Keys
    models: Served
    policy: Policy
    regime: Regime
    clock: Callable[[], int] = now

    def close(self) -> None:
        """Close every store, in order."""
        self.velocity.close()
        self.ledger.close()
        self.keys.vault.close()
