"""A model as the service knows it: ONNX in, a calibrated probability and reasons out.

No pickle, no scikit-learn, no pandas. How a model comes to be is in `fit`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from sectionfour.domain import Rating, Reason
from sectionfour.features.catalog import FEATURES, NAMES, REASONS, columns
from sectionfour.features.definitions import fingerprint
from sectionfour.features.telling import NO_REASON, say, tells

#: At most so many reasons an answer, and none that moves the log-odds by less than this.
MOST_REASONS = 4
LEAST_CONTRIBUTION = 0.1


def session(onnx: bytes) -> onnxruntime.InferenceSession:
    """Open a model on one thread: a checkout's row is too small to share out."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True, slots=True)
class Model:
    """`usual` is, a feature, what 95 % of training rows stay below: it picks a reason's text.

    `places` are, a reason, the positions of its features, each with 1 + what is usual of it.
    """

    name: str
    version: str
    digest: str
    session: onnxruntime.InferenceSession
    usual: dict[str, float]
    columns: NDArray[np.intp] = field(init=False)
    codes: tuple[str, ...] = field(init=False)
    places: dict[str, list[tuple[int, float]]] = field(init=False)
    masks: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        positions = columns(self.name)
        grouped: dict[str, list[int]] = {}
        for place, position in enumerate(positions):
            if FEATURES[position].code not in NO_REASON:
                grouped.setdefault(FEATURES[position].code, []).append(place)
        masks = np.zeros((len(grouped) + 1, len(positions)), dtype=np.bool_)
        for row, places in enumerate(grouped.values(), start=1):
            masks[row, places] = True
        usual = [self.usual.get(NAMES[position], 0.0) for position in positions]
        object.__setattr__(self, "columns", np.array(positions, dtype=np.intp))
        object.__setattr__(self, "codes", tuple(grouped))
        object.__setattr__(
            self,
            "places",
            {
                code: [(positions[place], 1.0 + max(usual[place], 0.0)) for place in places]
                for code, places in grouped.items()
            },
        )
        object.__setattr__(self, "masks", masks)

    def rate(self, vector: NDArray[np.float64]) -> Rating:
        """Return the rating of one feature vector, shape (len(FEATURES),), NaN for missing.

        One batch: the row as it is, and a row for each group of features with that group missing.
        What the log-odds lose by it is the group's contribution.
        """
        row = vector[self.columns].astype(np.float32)
        batch = np.where(self.masks, np.float32(np.nan), row)
        probability, log_odds = self.session.run(["probability", "log_odds"], {"X": batch})
        contributions = log_odds[0, 0] - log_odds[1:, 0]
        values = vector.tolist()
        reasons = []
        for place in (-contributions).argsort()[:MOST_REASONS].tolist():
            if contributions[place] < LEAST_CONTRIBUTION:
                break
            code = self.codes[place]
            text = self._text(code, values)
            reasons.append(Reason(code, text, round(float(contributions[place]), 3)))
        return Rating(
            probability=float(probability[0, 0]),
            reasons=tuple(reasons),
            model={"name": self.name, "version": self.version, "digest": self.digest},
        )

    def score(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the calibrated probability of each row of a matrix of the whole catalog."""
        return self.score_rows(matrix[:, self.columns])

    def score_rows(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the calibrated probability of each row of this model's own columns."""
        given = np.ascontiguousarray(rows, dtype=np.float32)
        found: NDArray[np.float64] = self.session.run(["probability"], {"X": given})[0][:, 0]
        return found.astype(np.float64)

    def _text(self, code: str, values: list[float]) -> str:
        """Say, of a reason, the feature that stands out furthest from what is usual."""
        furthest, said = -1.0, None
        for position, usual in self.places[code]:
            value = values[position]
            if value > furthest * usual and tells(FEATURES[position], value):
                furthest, said = value / usual, position
        return REASONS[code] if said is None else say(FEATURES[said], values[said])


def feature_list(name: str) -> dict[str, Any]:
    """Return what a model's card must say of its features to be served by this catalog."""
    return {"catalog": fingerprint(), "features": [NAMES[i] for i in columns(name)]}
