"""Challengers score the calls that were answered, from the vectors that are kept with them.

No second look at the windows, no outcome, nothing that a checkout waits for: `upkeep` does a bite
at each turn. The score of the model that answered is kept beside it, as exact as the challenger's;
the answer has it rounded. No training library is needed.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from sectionfour.errors import RegistryError
from sectionfour.features.catalog import FEATURES
from sectionfour.learning import registry
from sectionfour.learning.model import Model

if TYPE_CHECKING:
    from sectionfour.parts import Parts

log = logging.getLogger("sectionfour")

#: Assessments a challenger and turn: some milliseconds of one thread.
BITE = 500


class _Basis(msgspec.Struct):
    kind: str


class _Served(msgspec.Struct):
    version: str


class _Gist(msgspec.Struct):
    """What is asked of an answer: who gave it, and on which grounds."""

    model: _Served
    basis: list[_Basis] = []


_gist = msgspec.json.Decoder(_Gist).decode


class Shadow:
    """Lets challengers catch up. Models stay open from turn to turn."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._open: dict[tuple[str, str], Model] = {}
        self._complained: set[str] = set()

    def turn(self) -> int:
        """Score a bite of what is new for each challenger; returns how many calls were scored.

        A challenger that cannot be opened is left where it is. After a cessation nothing is scored.
        """
        done = 0
        if self._parts.ledger.cessation() is not None:
            return done
        for name in registry.NAMES:
            for version in registry.challengers(self._parts.models.folder, name):
                challenger = self._model(name, version)
                if challenger is not None:
                    done += self._catch_up(challenger)
        return done

    def _catch_up(self, challenger: Model) -> int:
        parts, name, version = self._parts, challenger.name, challenger.version
        purposes = [p for p, rule in parts.regime.purposes.items() if rule.scores == name]
        after = parts.ledger.shadow_turn(name, version)
        rows = parts.ledger.shadowed(purposes, after, BITE)
        if not rows:
            return 0
        calls: dict[str, list[tuple[int, bytes]]] = {}
        for seq, status, vector, answer in rows:
            # Refused, erased, or of other features: there is nothing to score.
            if status == "refused" or vector is None or len(vector) != 8 * len(FEATURES):
                continue
            gist = _gist(answer)
            # An exception is for the use that it was granted for, and trying out a model is none.
            if not any(basis.kind == "exception" for basis in gist.basis):
                calls.setdefault(gist.model.version, []).append((seq, vector))
        scores: list[tuple[int, str, float]] = []
        for answered_by, those in calls.items():
            matrix = np.array([np.frombuffer(vector) for _, vector in those])
            for model in filter(None, (challenger, self._model(name, answered_by))):
                found = model.score(matrix)
                scores += [
                    (seq, model.version, float(score))
                    for (seq, _), score in zip(those, found, strict=True)
                ]
        parts.ledger.add_shadow(name, version, rows[-1][0], scores)
        return sum(map(len, calls.values()))

    def _model(self, name: str, version: str) -> Model | None:
        """Return an open model; None for one that cannot be opened, which is said once."""
        known = self._open.get((name, version))
        if known is None:
            models = self._parts.models
            try:
                known = registry.load(models.folder, name, version, models.trusted)[0]
            except RegistryError as error:
                if error.detail not in self._complained:
                    self._complained.add(error.detail)
                    log.error("shadow: %s", error.detail)
                return None
            self._open[name, version] = known
        return known
