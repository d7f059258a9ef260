"""How to train."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sectionfour.domain import DELAY_DAYS
from sectionfour.errors import SettingsError
from sectionfour.learning import backends, registry

#: Days; no label is waited for so long, and a number that is none is not below it.
LONGEST = 36_500


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to train; goes into the card. Shares are from 0 to 1."""

    delay_days: float = DELAY_DAYS  # a row this old without a label counts as honest
    test_days: float = 21.0
    candidates: int = 8  # settings tried
    drop_share: float = 0.15  # of rows, a category
    seed: int = 4
    shadows: int = 2  # models of half the rows, to attack for the card; 0: not measured
    since: int | None = None  # microseconds; events before still form the windows
    until: int | None = None
    jobs: int = 2
    names: tuple[str, ...] = registry.NAMES  # of the models to train
    backend: str = "loky"  # of the search: loky, threading, dask[:ADDRESS], spark[:ADDRESS]
    challenge: bool = False  # let what is not served score in shadow

    def __post_init__(self) -> None:
        unknown = set(self.names).difference(registry.NAMES)
        if unknown or not self.names:
            raise SettingsError(f"models are {', '.join(registry.NAMES)}; got {self.names}")
        if not (0 <= self.delay_days < LONGEST and 0 < self.test_days < LONGEST):
            raise SettingsError(
                "a plan needs a delay from 0 days on and a test above 0, both below"
                f" {LONGEST:,}; got {self.delay_days} and {self.test_days}"
            )
        if self.candidates < 1 or not self.jobs or self.shadows < 0:
            raise SettingsError(
                "a plan needs a candidate at least, jobs (below 0: of all cores), and shadows from"
                f" 0 on; got {self.candidates}, {self.jobs}, {self.shadows}"
            )
        if not 0 <= self.seed < 1 << 32:
            raise SettingsError(f"a seed is from 0 to below 2^32, got {self.seed}")
        if not 0 <= self.drop_share < 1:
            raise SettingsError(f"drop_share must be from 0 to below 1, got {self.drop_share}")
        backends.check(self.backend)

    @property
    def settings(self) -> dict[str, Any]:
        """What a model's bytes depend on: not how the work is shared out, or what follows it."""
        apart = ("jobs", "backend", "names", "challenge")
        return {name: value for name, value in asdict(self).items() if name not in apart}
