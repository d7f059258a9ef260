"""What the edge opens and hands in: everything that the two walks may touch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sectionfour.decisions.policy import Policy
from sectionfour.decisions.rules import Followed
from sectionfour.domain import Outcome, read_instant
from sectionfour.errors import SettingsError
from sectionfour.features.online import Velocity
from sectionfour.learning.registry import Served
from sectionfour.privacy.pseudonym import Keys
from sectionfour.privacy.regime import Regime

if TYPE_CHECKING:
    from sectionfour.stores.ledger.rooms import Ledger


def now() -> int:
    """The service's clock: microseconds since the epoch, UTC."""
    return time.time_ns() // 1000


def told_by(path: Path | None) -> Callable[[], int]:
    """Return the clock whose time is in the file at `path`, RFC 3339; the machine's without one.

    With such a clock a service lives through the past as it happened, at whatever speed the file
    is moved on. SettingsError where the file does not tell a time.
    """
    if path is None:
        return now

    def read() -> int:
        try:
            return read_instant(path.read_text("ascii").strip())
        except (OSError, ValueError, TypeError) as error:
            raise SettingsError(f"{path.name} does not tell a time with an offset") from error

    return read


def never_back(clock: Callable[[], int], floor: int) -> Callable[[], int]:
    """Return `clock`, but never a time before `floor` or before one that it has told.

    A consent or a grant that has ended must not come to life because a clock was set back.
    """
    last = floor

    def read() -> int:
        nonlocal last
        told = clock()
        last = max(last, told)
        return last

    return read


@dataclass(frozen=True, slots=True)
class Parts:
    ledger: Ledger
    velocity: Velocity
    keys: Keys
    models: Served
    policy: Policy
    regime: Regime
    rules: Followed
    clock: Callable[[], int] = now

    def digests(self, outcome: Outcome | None) -> dict[str, str]:
        """Return what an assessment was made by, for its receipt: SHA-256 of each file, in hex."""
        found = {"policy": self.policy.digest, "regime": self.regime.digest}
        if outcome is not None and outcome.ruled_by is not None:
            found["rules"] = outcome.ruled_by
        return found

    def close(self) -> None:
        """Close every store, in order."""
        self.velocity.close()
        self.ledger.close()
        self.keys.vault.close()
