"""What growth costs: one assessment with few events in the windows, and with many.

    python tests/benchmarks/growth.py [--few 50000] [--many 5000000] [--hot 100000]

Two homes of the same members, one with few events in its windows and one with many, are asked in
turns, so that whatever else the machine does falls on both alike; then a device with 10 events
inside its windows and one with many. Whole assessments, in process, to the receipt on disk.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from race import MEMBERS, ROOT, THREADS, warmed
from tqdm import tqdm

os.environ |= THREADS

from sectionfour.bootstrap import open_parts
from sectionfour.decide import decide
from sectionfour.domain import MINUTE, SECOND, Event
from sectionfour.given import Given
from sectionfour.parts import Parts
from sectionfour.privacy import gate, pseudonym
from sectionfour.settings import Settings
from sectionfour.trial import bench
from sectionfour.trial.demo import body_of


def sealed(parts: Parts, body: bytes, at: int) -> Event:
    """Return the event of a request, as the service would seal it."""
    given = msgspec.json.decode(body, type=Given)
    request = pseudonym.claim(given, parts.keys, parts.regime)
    permit = gate.check(given.purpose, request, parts.ledger, at, regime=parts.regime)
    return pseudonym.seal(request, permit, parts.keys, at=at, regime=parts.regime)  # type: ignore[arg-type]


def filled(parts: Parts, count: int, rng: np.random.Generator) -> None:
    """Add `count` events of the last 24 days to the windows, over the members that are there."""
    end = parts.clock() - MINUTE
    start = parts.velocity.exchange(b"", 0, [], 0, None)[0]
    step = max(1, (end - start) // (count + 1))
    some = [
        sealed(parts, bench.assessment(rng, i, members=MEMBERS, prefix="fill_"), end)
        for i in range(20_000)
    ]

    def events() -> Iterator[Event]:
        for number in tqdm(range(count), unit="event", unit_scale=True, file=sys.stderr):
            yield msgspec.structs.replace(
                some[number % len(some)],
                event_id=f"fill_{number}",
                at=start + (number + 1) * step,
                device=some[(number * 7) % len(some)].device,
                payee=some[(number * 13) % len(some)].payee,
            )

    parts.velocity.load(events())


def heated(parts: Parts, device: str, count: int, rng: np.random.Generator) -> None:
    """Let one device have `count` events within its shortest window that counts many."""
    time.sleep(1 + count / 1e6)  # for room between the newest event and now
    end = parts.clock()
    start = parts.velocity.exchange(b"", 0, [], 0, None)[0]
    token = parts.keys.ring.token("serve", "device", device.encode())
    body = bench.assessment(rng, 0, members=MEMBERS, prefix="heat_")
    one = sealed(parts, body, end)
    members = rng.bytes(16 * count)
    step = max(1, min(SECOND // 100, (end - start) // (count + 1)))
    parts.velocity.load(
        msgspec.structs.replace(
            one,
            event_id=f"heat_{device}_{number}",
            at=end - (count - number) * step,
            device=token,
            member=members[16 * number : 16 * number + 16],
        )
        for number in range(count)
    )


def timed(parts: Parts, bodies: list[bytes]) -> list[float]:
    """Return the seconds of each assessment."""
    found = []
    for body in bodies:
        began = time.perf_counter()
        status, _ = decide(msgspec.json.decode(body, type=Given), body[:32], parts)
        found.append(time.perf_counter() - began)
        if status != 200:
            raise SystemExit(f"answered {status}")
    return found


def compared(
    names: tuple[str, str], asked: list[tuple[Parts, str | None]], rng: np.random.Generator
) -> None:
    """Print the median of each of two, asked in turns of 100, and the ratio."""
    times: list[list[float]] = [[], []]
    for turn in range(20):
        for place, (parts, device) in enumerate(asked):
            bodies = []
            for number in range(100):
                prefix = f"grow_{names[place]}_{turn}_"
                body = bench.assessment(rng, number, members=MEMBERS, prefix=prefix)
                if device is not None:
                    given = msgspec.json.decode(body)
                    given["device"]["id"] = device
                    body = msgspec.json.encode(body_of(given))
                bodies.append(body)
            found = timed(parts, bodies)
            if turn:  # the first turn warms the caches
                times[place] += found
    for name, found in zip(names, times, strict=True):
        p50, p99 = np.percentile(found, [50, 99]) * 1000
        print(f"{name:28} p50 {p50:6.2f} ms, p99 {p99:6.2f} ms")
    print(f"ratio of p50: {statistics.median(times[1]) / statistics.median(times[0]):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", type=int, default=50_000)
    parser.add_argument("--many", type=int, default=5_000_000)
    parser.add_argument("--hot", type=int, default=100_000)
    options = parser.parse_args()
    rng = np.random.default_rng(5)
    with tempfile.TemporaryDirectory() as folder:
        opened = []
        for count in (options.few, options.many):
            home = Path(folder) / str(count)
            warmed(home, 10)
            parts = open_parts(Settings(home=home, models=ROOT / "models"))
            filled(parts, count, rng)
            opened.append(parts)
        compared(
            (f"{options.few:,} events", f"{options.many:,} events"),
            [(parts, None) for parts in opened],
            rng,
        )
        small = opened[0]
        heated(small, "cool", 10, rng)
        heated(small, "hot", options.hot, rng)
        compared(
            ("device with 10 events", f"device with {options.hot:,}"),
            [(small, "cool"), (small, "hot")],
            rng,
        )
        for parts in opened:
            parts.close()


if __name__ == "__main__":
    main()
