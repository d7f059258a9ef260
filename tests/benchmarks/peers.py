"""The services that ours is raced against, each a Flask application as short as it gets.

`echo` is the floor: the same server takes the same request and sends it back. `tutorial` is what
a tutorial on serving a model shows: `joblib.load`, a DataFrame, `predict_proba`, and nothing else.
"""

from __future__ import annotations

import os
from pathlib import Path

from flask import Flask, Response, jsonify, request


def echo() -> Flask:
    app = Flask("echo")

    @app.post("/v1/assessments")
    def answer() -> Response:
        return Response(request.get_data(), content_type="application/json")

    return app


def tutorial() -> Flask:
    import joblib
    import pandas as pd

    app = Flask("tutorial")
    model = joblib.load(Path(os.environ["TUTORIAL_MODEL"]))

    @app.post("/predict")
    def predict() -> Response:
        frame = pd.DataFrame([request.get_json()])
        return jsonify({"probability": float(model.predict_proba(frame)[0, 1])})

    return app
