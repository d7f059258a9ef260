"""Where the time of one assessment goes: by library, and by room of our own.

    python tests/benchmarks/stages.py [--events 60000] [--calls 4000] [--aim 0.75]

Whole assessments in one process and one thread, through Flask to the receipt on disk; CPU time, so
that waiting for the disk does not count. A profile makes every Python call dearer and no call of a
library, so it tells the libraries' time as it is; what Python took is the rest of a run without a
profile, shared out as the profile shares it. `--aim` is what an assessment may take, in ms: what
the libraries leave of it is left for Python, ours and Flask's.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import platform
import pstats
import re
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from race import MEMBERS, ROOT, THREADS, warmed
from werkzeug.test import EnvironBuilder

os.environ |= THREADS

from sectionfour import database
from sectionfour.settings import Settings
from sectionfour.trial import bench
from sectionfour.web import create_app

#: What a call belongs to that is not written in Python, by how a profile names it.
LIBRARIES = {
    "SQLite": r"sqlite3\.",
    "LMDB": r"of '(Transaction|Cursor|_Database|Environment)' objects",
    "ONNX": r"onnxruntime",
    "keyed digests and ciphers": r"hmac|_hashlib|openssl|_sha|urandom",
    "JSON and msgpack": r"msgspec|'(Encoder|Decoder)'|json_|msgpack_|of 'msgspec",
    "numpy": r"numpy",
    "other calls of the system": r"posix\.|fcntl",
}
PYTHON = "Python itself, ours and Flask's"


WARMING = 500
FLUSH = "the flush, without what is waited for it"


def _timed_flush() -> list[float]:
    """Let each flush add the CPU that it takes to the list that is returned."""
    flush, taken = database._flush, list[float]()

    def timed(file: int) -> None:
        began = time.thread_time()
        flush(file)
        taken.append(time.thread_time() - began)

    database._flush = timed
    return taken


def library(name: str) -> str:
    """Return what a function that is not written in Python belongs to."""
    return next((title for title, how in LIBRARIES.items() if re.search(how, name)), PYTHON)


def room(file: str) -> str:
    """Return the room of a function that is written in Python."""
    parts = Path(file).parts
    if "sectionfour" in parts:
        inside = parts[len(parts) - parts[::-1].index("sectionfour") :]
        return inside[0] if len(inside) > 1 else inside[0].removesuffix(".py")
    return next((name for name in ("flask", "werkzeug") if name in parts), "the standard library")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--calls", type=int, default=4_000)
    parser.add_argument("--aim", type=float, default=0.75, help="ms an assessment may take")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _measure(Path(folder) / "home", options)


def _measure(home: Path, options: argparse.Namespace) -> None:
    key = warmed(home, options.events)["checkout"]
    app = create_app(Settings(home=home, models=ROOT / "models"))
    rng = np.random.default_rng(5)
    asked = [
        EnvironBuilder(
            method="POST",
            path="/v1/assessments",
            data=bench.assessment(rng, number, members=MEMBERS, prefix="stage_"),
            content_type="application/json",
            headers={"Authorization": f"Bearer {key}"},
        ).get_environ()
        for number in range(2 * options.calls + WARMING)
    ]

    def take(lot: list[dict[str, Any]]) -> float:
        statuses: Counter[str] = Counter()
        began = time.process_time()
        for environ in lot:
            b"".join(app.wsgi_app(environ, lambda status, *rest: statuses.update([status])))
        spent = time.process_time() - began
        assert set(statuses) == {"200 OK"}, statuses
        return spent / len(lot) * 1e6

    take(asked[:WARMING])
    whole = take(asked[WARMING : WARMING + options.calls])
    flushing = _timed_flush()
    profile = cProfile.Profile()
    profile.enable()
    take(asked[WARMING + options.calls :])
    profile.disable()
    app.extensions["sectionfour"].close()

    libraries = Counter({FLUSH: sum(flushing) / options.calls * 1e6})
    rooms: Counter[str] = Counter()
    for (file, _, name), (_, _, own, _, _) in pstats.Stats(profile).stats.items():
        if file == "~" and "sync" not in name and library(name) != PYTHON:
            libraries[library(name)] += own / options.calls * 1e6
        elif file != "~" and file != __file__:
            rooms[room(file)] += own
    left = whole - libraries.total()
    print(f"{platform.machine()}, Python {platform.python_version()}; {options.calls:,} calls")
    print(f"{'CPU of one assessment':44} {whole:8.0f} us")
    for title, spent in libraries.most_common():
        print(f"  {title:42} {spent:8.0f}")
    print(f"  {PYTHON:42} {left:8.0f}")
    for title, spent in rooms.most_common():
        print(f"    {title:40} {spent / rooms.total() * left:8.0f}")
    may = 1000 * options.aim - libraries.total()
    print(f"an aim of {options.aim:.2f} ms would leave Python {may:.0f} us of its {left:.0f}")


if __name__ == "__main__":
    main()
