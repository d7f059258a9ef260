"""The race of `benchmarks.md` section 2: ours beside a bare echo and the tutorial's service.

    python tests/benchmarks/race.py [--seconds 10] [--rounds 3] [--events 200000]
        [--mlflow PYTHON] [--bentoml PYTHON]

Each service runs 2 workers, beside the load generator, one after the other in rounds; medians over
rounds. Echo and tutorial run under the server that ours runs under. Ours is `sectionfour serve` as
it is, with all that it does: gate, windows, model, reasons, receipt on disk, checkpoints. The other
models are of the same settings on as many features, and are given the features. MLflow and BentoML
join where the Python of an environment that has them (and scikit-learn, pandas) is given.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import joblib
import msgspec
import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier

from sectionfour.bootstrap import open_parts
from sectionfour.domain import DAY, SECOND, Notice
from sectionfour.features.catalog import columns
from sectionfour.given import Given
from sectionfour.loading.replay import Consent, replay
from sectionfour.settings import Settings
from sectionfour.trial import bench, demo
from sectionfour.web.keys import create_key

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CONNECTIONS, WORKERS, MEMBERS = 8, 2, 20_000
#: Where a row of features goes, and what is written around it.
ASKED = {
    "tutorial": ("/predict", b"", b""),
    "mlflow": ("/invocations", b'{"dataframe_records":[', b"]}"),
    "bentoml": ("/predict", b'{"row":', b"}"),
}
#: Threads a worker: with 8 connections, each worker has 4 of them.
THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def warmed(home: Path, events: int) -> dict[str, str]:
    """Make a home with consents for every member and so many events; return keys by role."""
    settings = Settings(home=home, models=ROOT / "models")
    parts = open_parts(settings)
    rng = np.random.default_rng(1)
    end = parts.clock() - 60 * SECOND
    gaps = np.sort(rng.integers(0, 25 * DAY, events))

    def steps() -> Iterator[object]:
        for member in range(MEMBERS):
            yield Consent(
                end - 26 * DAY, f"bench_m{member}", "warm", True, "security", bench.CATEGORIES
            )
        for number, gap in enumerate(gaps.tolist()):
            body = bench.assessment(rng, number, members=MEMBERS, prefix="warm_")
            yield end - 25 * DAY + gap, msgspec.json.decode(body, type=Given)

    notice = Notice(
        notice_id=bench.NOTICE[0],
        version=bench.NOTICE[1],
        language="en",
        text_sha256="0" * 64,
        purposes=("security",),
        categories=bench.CATEGORIES,
        valid_from=0,
        material=False,
    )
    began = time.perf_counter()
    report = replay(steps(), parts, notice=notice)
    print(f"warmed with {report.events:,} events in {time.perf_counter() - began:.0f} s")
    keys = {role: create_key(parts.ledger, role, parts.clock()) for role in ("checkout", "consent")}

    parts.close()
    return keys


def tutorial_model(path: Path) -> list[bytes]:
    """Fit and dump the tutorial's model; return request bodies for it."""
    names = [f"feature_{i}" for i in range(len(columns("transaction")))]
    rng = np.random.default_rng(2)
    rows = pd.DataFrame(rng.normal(size=(20_000, len(names))), columns=names)
    target = (rows["feature_0"] + rng.normal(size=len(rows)) > 2.5).astype(int)
    settings = _settings()
    model = HistGradientBoostingClassifier(**settings, early_stopping=False)
    joblib.dump(model.fit(rows, target), path)
    plan = {"settings": settings, "features": len(names)}
    path.with_suffix(".json").write_bytes(msgspec.json.encode(plan))
    return [msgspec.json.encode(row) for row in rows.head(5_000).to_dict("records")]


def _settings() -> dict[str, float]:
    """Return what the transaction model that comes along was fitted with."""
    folder = ROOT / "models" / "transaction"
    version = (folder / "CURRENT").read_text().strip()
    card = msgspec.json.decode((folder / version / "card.json").read_bytes())
    found: dict[str, float] = card["settings"]
    return found


@contextmanager
def served(
    peer: str, port: int, environment: dict[str, str], folder: Path, python: str | None
) -> Iterator[str]:
    """Run one of the services; `python` is that of a peer with an environment of its own."""
    host, workers = "127.0.0.1", str(WORKERS)
    if peer == "ours":
        command = [str(Path(sys.executable).with_name("sectionfour")), "serve"]
        command += ["--bind", f"{host}:{port}", "--workers", workers]
    elif python is not None:
        command = [python, str(HERE / "apart.py"), peer, str(folder), str(port), workers]
    else:
        command = [
            sys.executable, "-m", "granian", f"peers:{peer}", "--factory", "--interface", "wsgi",
            "--host", host, "--port", str(port), "--workers", workers,
            "--blocking-threads", "4", "--no-access-log", "--log-level", "warning",
        ]  # fmt: skip
    log = None if peer in ("ours", "echo", "tutorial") else subprocess.DEVNULL
    process = subprocess.Popen(
        command,
        cwd=HERE,
        env=os.environ | THREADS | environment,
        start_new_session=True,
        stdout=log,
        stderr=log,
    )
    try:
        _listening(port, process)
        yield f"http://{host}:{port}"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def _listening(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(900):
        if process.poll() is not None:
            raise SystemExit(f"a peer ended with status {process.returncode}")
        try:
            demo.call(f"127.0.0.1:{port}", "GET", "/healthz")
        except OSError:
            time.sleep(0.1)
        else:
            time.sleep(1)  # the other worker
            return
    raise SystemExit("a peer did not listen within 90 seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=200_000)
    for peer in ("mlflow", "bentoml"):
        parser.add_argument(f"--{peer}", metavar="PYTHON", help=f"an environment with {peer}")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _race(Path(folder), options)


def _race(folder: Path, options: argparse.Namespace) -> None:
    keys = warmed(folder / "home", options.events)
    bodies = tutorial_model(folder / "tutorial.joblib")
    environment = {
        "SECTIONFOUR_HOME": str(folder / "home"),
        "SECTIONFOUR_MODELS": str(ROOT / "models"),
        "TUTORIAL_MODEL": str(folder / "tutorial.joblib"),
    }
    rng = np.random.default_rng(3)
    apart = {peer: getattr(options, peer) for peer in ("mlflow", "bentoml")}
    peers = ["echo", "tutorial", *(peer for peer, python in apart.items() if python), "ours"]
    found: dict[str, list[bench.Result]] = {peer: [] for peer in peers}
    for turn in range(options.rounds):
        for place, peer in enumerate(found):
            port = 8500 + 10 * turn + place
            url = f"http://127.0.0.1:{port}"
            wanted = int(options.seconds * (16_000 if peer == "echo" else 5_000))
            if peer in ASKED:
                path, before, after = ASKED[peer]
                requests = [
                    bench.message(url, "POST", path, before + bodies[i % len(bodies)] + after)
                    for i in range(wanted)
                ]
            else:
                requests = [
                    bench.message(
                        url,
                        "POST",
                        "/v1/assessments",
                        bench.assessment(rng, i, members=MEMBERS, prefix=f"{peer}{turn}_"),
                        keys["checkout"],
                    )
                    for i in range(wanted)
                ]
            with served(peer, port, environment, folder, apart.get(peer)):
                bench.run(url, iter(requests[:500]), connections=CONNECTIONS, seconds=60)
                result = bench.run(
                    url, iter(requests[500:]), connections=CONNECTIONS, seconds=options.seconds
                )
            if set(result.statuses) != {200}:
                raise SystemExit(f"{peer} answered {dict(result.statuses)}")
            found[peer].append(result)
            print(f"  round {turn + 1}, {peer}: {result.rate:,.0f}/s", flush=True)
    _table(found)


def _table(found: dict[str, list[bench.Result]]) -> None:
    rates = {peer: statistics.median(r.rate for r in results) for peer, results in found.items()}
    print(
        f"\n{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()},"
        f" {time.strftime('%Y-%m-%d', time.gmtime())}; {CONNECTIONS} connections, {WORKERS} workers"
    )
    print(f"{'service':10} {'requests/s':>10} {'p50 ms':>8} {'p99 ms':>8} {'ours is':>9}")
    for peer, results in found.items():
        p50, p99 = (statistics.median(r.percentile(q) for r in results) for q in (50, 99))
        print(
            f"{peer:10} {rates[peer]:10,.0f} {p50:8.2f} {p99:8.2f}"
            f" {rates['ours'] / rates[peer]:8.2f}x"
        )


if __name__ == "__main__":
    main()
