"""Settings: one frozen value, checked when made; each has an environment variable of its name."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sectionfour.errors import SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting; SECTIONFOUR_HOME sets `home`, and so on.

    A relative path is relative to where the process was started.
    """

    home: Path = Path("var")  # all state: ledger, velocity, vault, keys, checkpoints
    models: Path = Path("models")
    ledger: str | None = None  # URL, sqlite: or postgresql:; sqlite:home/ledger.db without one
    ledger_seconds: float = 60.0  # the most that a statement may take on PostgreSQL
    velocity: str | None = None  # URL, lmdb: or redis:; lmdb:home/velocity without one
    costs: Path | None = None  # TOML; the packaged costs.toml without one
    rules: Path | None = None  # TOML of what makes an outcome stricter; none without one
    regime: Path | None = None  # TOML; the packaged regime.toml without one
    witness: Path | None = None  # where checkpoints are witnessed; home/checkpoints without one
    witness_to: str | None = None  # URL of a witness elsewhere, or a command that reads checkpoints
    origin: str = "sectionfour.example/log"  # the name of the log in its checkpoints
    region: str = "CN"  # of phone numbers without a country code
    currency: str | None = None  # the one that amounts are taken in, like CNY; any without one
    durability: str = "full"  # full: on disk before an answer; normal: a power cut may lose it
    velocity_gib: float = 64  # the most that the velocity store may grow to
    checkpoint_seconds: float = 5.0  # between signed checkpoints
    metrics: bool = True  # whether /metrics answers
    clock: Path | None = None  # a file that holds the time (RFC 3339), to live through the past

    def __post_init__(self) -> None:
        if self.durability not in ("full", "normal"):
            raise SettingsError(f"durability must be full or normal, got {self.durability!r}")
        if not 0.01 <= self.velocity_gib <= 16_384:
            raise SettingsError(f"velocity_gib must be from 0.01 to 16384, got {self.velocity_gib}")
        if not 0.1 <= self.ledger_seconds <= 86_400:
            raise SettingsError(
                f"ledger_seconds must be from 0.1 to 86400, got {self.ledger_seconds}"
            )
        if not self.checkpoint_seconds > 0:
            raise SettingsError(
                f"checkpoint_seconds must be above 0, got {self.checkpoint_seconds}"
            )
        if self.currency is not None and not re.fullmatch("[A-Z]{3}", self.currency):
            raise SettingsError(f"currency must be like CNY, got {self.currency!r}")
        if not self.origin or any(c.isspace() or c == "+" for c in self.origin):
            raise SettingsError(
                f"origin must be a name without spaces or plus, got {self.origin!r}"
            )

    def make_home(self) -> None:
        """Make `home` where it is not there, for nobody else to read. Raises SettingsError."""
        try:
            self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise SettingsError(f"home cannot be {self.home}: {error.strerror}") from error

    @property
    def witness_file(self) -> Path:
        return self.witness or self.home / "checkpoints" / "witness.txt"


def from_environment(environment: Mapping[str, str] | None = None, **given: Any) -> Settings:
    """Return the settings that the environment asks for; what is given here has the last word.

    Raises SettingsError for a value out of range, and for a variable that is no setting's: a typo
    would else be a setting that silently is not set.
    """
    environment = os.environ if environment is None else environment
    known = {f"SECTIONFOUR_{field.name.upper()}": field for field in fields(Settings)}
    other = {"SECTIONFOUR_KEK", "SECTIONFOUR_KEK_COMMAND", "SECTIONFOUR_KEK_NEXT"}
    values: dict[str, Any] = {}
    for name, text in environment.items():
        if name.startswith("SECTIONFOUR_") and name not in other:
            if name not in known:
                raise SettingsError(f"{name} is no setting; there are {', '.join(sorted(known))}")
            values[known[name].name] = _read(name, known[name].type, text)
    return Settings(**(values | {key: value for key, value in given.items() if value is not None}))


def _read(name: str, kind: Any, text: str) -> Any:
    try:
        if kind == "bool":
            return {"1": True, "true": True, "0": False, "false": False}[text.lower()]
        return {"float": float, "str": str, "str | None": str}.get(kind, Path)(text)
    except (ValueError, KeyError) as error:
        raise SettingsError(f"{name} cannot be read as {kind}: {text!r}") from error
