"""Peers that bring an environment of their own: MLflow's and BentoML's servers of one model.

Run by that environment's Python, never by ours: PYTHON apart.py mlflow|bentoml FOLDER PORT WORKERS.
Fits the tutorial's model there (a pickle is for the libraries that wrote it), saves it as that
library saves models, and becomes its server. No batching, no tracking server, no access log.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

BENTO = """
import bentoml, numpy as np, pandas as pd
from bentoml.models import BentoModel

@bentoml.service(workers={workers})
class Scorer:
    def __init__(self):
        self.model = bentoml.sklearn.load_model("tutorial:latest")

    @bentoml.api
    def predict(self, row: dict[str, float]) -> dict[str, float]:
        return {{"probability": float(self.model.predict_proba(pd.DataFrame([row]))[0, 1])}}
"""


def fitted(settings: dict[str, float], features: int) -> object:
    """Return the tutorial's model, as `race.tutorial_model` fits it."""
    import numpy as np
    import pandas as pd
    from sklearn.ensemble import HistGradientBoostingClassifier

    names = [f"feature_{i}" for i in range(features)]
    rng = np.random.default_rng(2)
    rows = pd.DataFrame(rng.normal(size=(20_000, features)), columns=names)
    target = (rows["feature_0"] + rng.normal(size=len(rows)) > 2.5).astype(int)
    model = HistGradientBoostingClassifier(**settings, early_stopping=False)  # type: ignore[arg-type]
    return model.fit(rows, target)


def main() -> None:
    library, folder, port, workers = sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    plan = json.loads((folder / "tutorial.json").read_text())
    model = fitted(plan["settings"], plan["features"])
    programs = Path(sys.executable).parent
    if library == "mlflow":
        import shutil

        import mlflow.sklearn

        shutil.rmtree(folder / "mlflow", ignore_errors=True)  # of an earlier round
        mlflow.sklearn.save_model(
            model,
            folder / "mlflow",
            pyfunc_predict_fn="predict_proba",
            serialization_format="cloudpickle",  # its default form refuses this kind of model
        )
        command = ["mlflow", "models", "serve", "-m", str(folder / "mlflow"), "-p", port]
        command += ["--workers", workers, "--env-manager", "local", "--host", "127.0.0.1"]
    else:
        os.environ["BENTOML_HOME"] = str(folder / "bentoml")
        os.environ["BENTOML_CONFIG_OPTIONS"] = "api_server.logging.access.enabled=false"
        import bentoml

        bentoml.sklearn.save_model("tutorial", model)
        (folder / "scorer.py").write_text(BENTO.format(workers=workers))
        os.chdir(folder)
        command = ["bentoml", "serve", "scorer:Scorer", "--port", port, "--host", "127.0.0.1"]
    os.environ["PATH"] = f"{programs}:{os.environ['PATH']}"
    os.execv(programs / command[0], command)


if __name__ == "__main__":
    main()
