"""How a model comes to be: fit, calibrate, export to ONNX. Needs the `training` extra."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

Matrix = NDArray[np.float64]
#: Probabilities are kept this far from 0 and 1 before their log-odds are taken in float32.
_EDGE = 1e-6


def log_odds(probability: Matrix) -> Matrix:
    """Return ln(p / (1 - p)), p kept within the edge that the exported model keeps it in."""
    p = np.clip(probability, _EDGE, 1 - _EDGE)
    odds: Matrix = np.log(p / (1 - p))
    return odds


def calibrate(scores: Matrix, labels: NDArray[np.int8]) -> tuple[float, float]:
    """Return (slope, intercept) of Platt's sigmoid on log-odds, fitted on held-out rows.

    Platt, "Probabilistic outputs for support vector machines" (1999). It keeps the ranking.
    """
    model = LogisticRegression(C=1e6).fit(scores.reshape(-1, 1), labels)
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def export(
    classifier: HistGradientBoostingClassifier, width: int, calibration: tuple[float, float]
) -> bytes:
    """Return ONNX with outputs `probability` and `log_odds`, shape (n, 1), both calibrated."""
    sample = np.zeros((1, width), dtype=np.float32)
    model = to_onnx(classifier, sample, options={id(classifier): {"zipmap": False}}, target_opset=17)
    graph = model.graph
    graph.input[0].name, old = "X", graph.input[0].name
    for node in graph.node:
        node.input[:] = ["X" if name == old else name for name in node.input]

    def constant(name: str, value: Any) -> str:
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    slope, intercept = (np.float32(value) for value in calibration)
    graph.node.extend(
        [
            helper.make_node("Gather", ["probabilities", constant("one", [1])], ["raw"], axis=1),
            helper.make_node(
                "Clip",
                ["raw", constant("least", np.float32(_EDGE)), constant("most", np.float32(1 - _EDGE))],
                ["p"],
            ),
            helper.make_node("Sub", [constant("unit", np.float32(1)), "p"], ["q"]),
            helper.make_node("Div", ["p", "q"], ["odds"]),
            helper.make_node("Log", ["odds"], ["ln"]),
            helper.make_node("Mul", ["ln", constant("slope", slope)], ["scaled"]),
            helper.make_node("Add", ["scaled", constant("intercept", intercept)], ["log_odds"]),
            helper.make_node("Sigmoid", ["log_odds"], ["probability"]),
        ]
    )
    del graph.output[:]
    graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1])
        for name in ("probability", "log_odds")
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
