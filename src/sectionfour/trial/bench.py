"""Load on a running service: rate, percentiles, errors. One process, one loop, no client library:
what the generator costs, the service cannot use.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import msgspec
import numpy as np

from sectionfour.errors import SettingsError

CATEGORIES = ("member.required", "order", "payment", "consignee", "device", "location", "log")
NOTICE = ("pn_bench", "1")
#: The load speaks to this machine alone.
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(slots=True)
class Result:
    """What a run showed; latencies in seconds, in order of arrival."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, percent: float) -> float:
        """Return a percentile of the latencies in milliseconds."""
        return 1000 * float(np.percentile(self.latencies, percent))


def message(url: str, method: str, path: str, body: bytes, key: str | None = None) -> bytes:
    """Return an HTTP/1.1 request as it goes over the wire."""
    authorization = f"Authorization: Bearer {key}\r\n" if key else ""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n{authorization}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class _Connection:
    """One connection with at most one request under way."""

    __slots__ = ("buffer", "socket", "started", "wanted")

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.wanted = -1
        self.started = 0.0

    def send(self, request: bytes) -> None:
        self.buffer, self.wanted = b"", -1
        self.started = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> int | None:
        """Take what has come; return the status once the answer is whole."""
        data = self.socket.recv(65_536)
        if not data:
            raise ConnectionError("the service closed a connection")
        self.buffer += data
        if self.wanted < 0:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return None
            head = self.buffer[:end].lower()
            place = head.find(b"content-length:")
            length = head[place + 15 :].split(b"\r\n", 1)[0]
            self.wanted = end + 4 + int(length)
        return int(self.buffer[9:12]) if len(self.buffer) >= self.wanted else None


def run(url: str, requests: Iterator[bytes], *, connections: int, seconds: float) -> Result:
    """Send `requests` over so many connections, one at a time on each, until there are no more or
    the time is over. Raises SettingsError where nothing listens, or not on this machine.
    """
    where = urlsplit(url)
    if where.hostname not in LOOPBACK or where.port is None:
        raise SettingsError("the load goes to a port of this machine, like http://127.0.0.1:8400")
    result = Result()
    with selectors.DefaultSelector() as selector:
        try:
            opened = [_Connection(where.hostname, where.port) for _ in range(connections)]
        except ConnectionRefusedError as error:
            raise SettingsError(f"nothing listens at {url}: `sectionfour serve`") from error
        try:
            started = time.perf_counter()
            busy = 0
            for connection, first in zip(opened, requests, strict=False):
                selector.register(connection.socket, selectors.EVENT_READ, connection)
                connection.send(first)
                busy += 1
            while busy:
                for key, _ in selector.select(timeout=30):
                    connection = key.data
                    status = connection.receive()
                    if status is None:
                        continue
                    now = time.perf_counter()
                    result.latencies.append(now - connection.started)
                    result.statuses[status] += 1
                    following = next(requests, None) if now - started < seconds else None
                    if following is None:
                        busy -= 1
                    else:
                        connection.send(following)
            result.seconds = time.perf_counter() - started
        finally:
            for connection in opened:
                connection.socket.close()
    return result


def assessment(rng: np.random.Generator, number: int, *, members: int, prefix: str) -> bytes:
    """Return the body of one assessment: every category, drawn from a large marketplace."""
    member = int(rng.integers(members))
    body = {
        "event_id": f"{prefix}{number}",
        "purpose": "security.transaction_risk",
        "event": {"type": "purchase", "occurred_at": "2026-11-23T09:00:00+08:00"},
        "member": {
            "id": f"bench_m{member}",
            "registered_at": "2024-01-01T00:00:00Z",
            "email": f"bench{member}@example.com",
            "phone": f"+86138{member:08d}",
        },
        "transaction": {
            "order_id": f"{prefix}o{number}",
            "amount": int(rng.integers(500, 500_000)),
            "currency": "CNY",
            "payee_id": f"bench_s{int(rng.integers(members // 10 + 1))}",
            "item_count": 1 + number % 4,
            "instrument": {"kind": "alipay", "id": f"bench_i{member}"},
            "consignee": {"address": f"{member} bench road", "is_member": True},
        },
        "device": {
            "id": f"bench_d{int(rng.integers(members))}",
            "os": "ios 19.1",
            "permissions": ["location.ip"],
        },
        "location": {"ip": f"10.{member >> 16 & 255}.{member >> 8 & 255}.{member & 255}"},
        "log": {"page_views": 12, "search_count": 3, "seconds_on_page": 40.5},
    }
    return msgspec.json.encode(body)


def consent(member: int) -> bytes:
    """Return the body of a consent of one of the load's members."""
    return msgspec.json.encode(
        {
            "member_id": f"bench_m{member}",
            "notice": {"id": NOTICE[0], "version": NOTICE[1]},
            "purpose": "security",
            "categories": CATEGORIES,
            "event_type": "explicitly_expressed",
            "event_time": "2026-01-01T00:00:00Z",
        }
    )


def notice() -> bytes:
    """Return the body of the notice that the load's members consent to."""
    return msgspec.json.encode(
        {
            "version": NOTICE[1],
            "language": "en",
            "text_sha256": "0" * 64,
            "purposes": ["security"],
            "categories": CATEGORIES,
            "valid_from": "2025-01-01T00:00:00Z",
        }
    )


def bench(
    url: str,
    checkout_key: str,
    consent_key: str,
    *,
    members: int = 5_000,
    connections: int = 8,
    seconds: float = 15.0,
    seed: int = 4,
    progress: Callable[[str], object] = lambda text: None,
) -> Result:
    """Record a consent for every member, then load the service; return what it showed.

    Raises SettingsError where a consent is not taken: assessments without one are less work.
    """
    progress("consents")
    told = message(url, "PUT", f"/v1/notices/{NOTICE[0]}", notice(), consent_key)
    _taken(run(url, iter([told]), connections=1, seconds=60))
    given = (message(url, "POST", "/v1/consents", consent(m), consent_key) for m in range(members))
    _taken(run(url, given, connections=connections, seconds=600))
    progress("load")
    rng = np.random.default_rng(seed)
    prefix = f"bench_{time.time_ns():x}_"

    def requests() -> Iterator[bytes]:
        number = 0
        while True:
            body = assessment(rng, number, members=members, prefix=prefix)
            yield message(url, "POST", "/v1/assessments", body, checkout_key)
            number += 1

    ready = requests()
    # Made beforehand, so that making them is not part of the load.
    enough = [next(ready) for _ in range(int(6_000 * seconds))]
    return run(url, iter(enough), connections=connections, seconds=seconds)


def _taken(result: Result) -> None:
    if not {200, 201}.issuperset(result.statuses):
        statuses = dict(sorted(result.statuses.items()))
        raise SettingsError(f"not all consents were taken; answers by status: {statuses}")
