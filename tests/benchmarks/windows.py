"""What the windows cost on Redis, beside LMDB: a step, and the whole service.

    python tests/benchmarks/windows.py [--steps 2000] [--seconds 5] [--rounds 3]

A step (`read_and_observe`) of one thread in process, in turns on LMDB, on a Redis whose file is in
memory (so that it waits for no disk) and on one whose file is on the disk of the temporary folder;
the server is on this machine, so what a network adds is left out. Then `sectionfour serve` with two
workers, in turns on all three.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from growth import sealed
from race import CONNECTIONS, MEMBERS, ROOT, THREADS, WORKERS, served, warmed

sys.path.insert(0, str(ROOT / "tests"))
os.environ |= THREADS

from redis_server import RedisServer
from sectionfour.bootstrap import open_parts
from sectionfour.domain import SECOND, Event
from sectionfour.features.online import Velocity, read_and_observe
from sectionfour.settings import Settings
from sectionfour.stores import open_velocity
from sectionfour.trial import bench


def events(home: Path, count: int) -> Iterator[Event]:
    """Yield purchases of the members that are there, a second apart."""
    parts = open_parts(Settings(home=home, models=ROOT / "models", velocity_gib=1))
    rng, at = np.random.default_rng(4), parts.clock()
    for number in range(count):
        body = bench.assessment(rng, number, members=MEMBERS, prefix="step_")
        yield msgspec.structs.replace(sealed(parts, body, at), at=at + number * SECOND)
    parts.close()


def steps(past: list[Event], lot: list[Event], stores: dict[str, Velocity]) -> None:
    taken: dict[str, list[float]] = {name: [] for name in stores}
    spent = dict.fromkeys(stores, 0.0)
    for store in stores.values():
        store.load(past)
    for start in range(0, len(lot), 100):
        for name, store in stores.items():
            for event in lot[start : start + 100]:
                began, cpu = time.perf_counter(), time.process_time()
                read_and_observe(event, store)
                taken[name].append(time.perf_counter() - began)
                spent[name] += time.process_time() - cpu
    print(f"{'a step on':18} {'p50 ms':>8} {'p99 ms':>8} {'CPU ms':>8}")
    for name, times in taken.items():
        p50, p99 = (1000 * float(np.percentile(times, q)) for q in (50, 99))
        print(f"{name:18} {p50:8.2f} {p99:8.2f} {1000 * spent[name] / len(times):8.2f}")


def service(
    folder: Path, urls: dict[str, str], keys: dict[str, str], how: argparse.Namespace
) -> None:
    found: dict[str, list[bench.Result]] = {name: [] for name in urls}
    rng = np.random.default_rng(3)
    for turn in range(how.rounds):
        for place, (name, velocity) in enumerate(urls.items()):
            port = 8600 + 10 * turn + place
            url = f"http://127.0.0.1:{port}"
            requests = [
                bench.message(
                    url, "POST", "/v1/assessments",
                    bench.assessment(rng, i, members=MEMBERS, prefix=f"{place}.{turn}_"),
                    keys["checkout"],
                )
                for i in range(int(how.seconds * 2_000))
            ]  # fmt: skip
            environment = {
                "SECTIONFOUR_HOME": str(folder / "home"),
                "SECTIONFOUR_MODELS": str(ROOT / "models"),
                "SECTIONFOUR_VELOCITY": velocity,  # made anew at the start: the ledger has gone on
            }
            with served("ours", port, environment, folder, None):
                bench.run(url, iter(requests[:200]), connections=CONNECTIONS, seconds=60)
                result = bench.run(
                    url, iter(requests[200:]), connections=CONNECTIONS, seconds=how.seconds
                )
            if set(result.statuses) != {200}:
                raise SystemExit(f"{name} answered {dict(result.statuses)}")
            found[name].append(result)
    print(f"{'the service on':18} {'calls/s':>8} {'p50 ms':>8} {'p99 ms':>8}")
    for name, results in found.items():
        rate, p50, p99 = (
            float(np.median(x))
            for x in (
                [r.rate for r in results],
                [r.percentile(50) for r in results],
                [r.percentile(99) for r in results],
            )
        )
        print(f"{name:18} {rate:8,.0f} {p50:8.2f} {p99:8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2_000)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    how = parser.parse_args()
    memory, disk = RedisServer(), RedisServer(memory=False)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        keys = warmed(folder / "home", 20_000)
        made = list(events(folder / "home", 20_000 + how.steps))
        urls = {"LMDB": f"lmdb:{folder / 'steps'}", "Redis, in memory": memory.url(),
                "Redis, on disk": disk.url()}  # fmt: skip
        stores = {name: open_velocity(url, gib=1, new=True) for name, url in urls.items()}
        print(
            f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()},"
            f" {time.strftime('%Y-%m-%d', time.gmtime())}"
        )
        steps(made[:20_000], made[20_000:], stores)
        for store in stores.values():
            store.close()
        print(f"{CONNECTIONS} connections, {WORKERS} workers")
        urls = {"LMDB": f"lmdb:{folder / 'served'}", "Redis, in memory": memory.url(1),
                "Redis, on disk": disk.url(1)}  # fmt: skip
        service(folder, urls, keys, how)
    memory.remove()
    disk.remove()


if __name__ == "__main__":
    main()
