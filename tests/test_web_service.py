"""The service as it runs: two worker processes over one home, killed, stopped, streamed to."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from prometheus_client.mmap_dict import MmapedDict

from sectionfour.cli import main
from sectionfour.features.catalog import NAMES
from sectionfour.privacy import notes
from sectionfour.serve import THREADS
from sectionfour.settings import Settings
from sectionfour.stores import open_velocity
from sectionfour.web.routes import BATCHES

from .conftest import SPARSE_GIB
from .redis_server import everything


def counted(server: Any) -> list[float]:
    """Return how many assessments each worker has answered, from the file of each."""
    folder = server.home / "metrics" / str(server.process.pid)
    found = []
    for file in folder.glob("histogram_*.db"):
        values = MmapedDict.read_all_values_from_file(str(file))
        found.append(sum(v for key, v, *_ in values if '"sectionfour_assessment_seconds_b' in key))
    return found


def basis(answer: bytes) -> dict[str, str]:
    return {b["category"]: b["kind"] for b in json.loads(answer)["basis"]}


def leaves(server: Any) -> int:
    with contextlib.closing(sqlite3.connect(server.home / "ledger.db")) as connection:
        return int(connection.execute("SELECT COUNT(*) FROM log").fetchone()[0])


# --- what workers share


def test_a_withdrawal_holds_for_the_next_call_on_every_worker(service, a_request, a_consent):
    draw = random.Random(4)
    connections = [service.connect() for _ in range(16)]

    def call(*args: Any, **kwargs: Any) -> tuple[int, bytes]:
        return service.call(*args, connection=draw.choice(connections), **kwargs)

    try:
        for turn in range(200):
            number = 1000 + turn % 7
            body = a_request(number)
            status, said = call("POST", "/v1/consents", a_consent(number), role="consent")
            assert status == 201
            record = json.loads(said)["record_id"]
            event = body | {"event_id": f"given_{turn}"}
            status, said = call("POST", "/v1/assessments", event, role="checkout")
            assert (status, basis(said).get("device")) == (200, "consent"), turn
            assert call("POST", f"/v1/consents/{record}/withdraw", role="consent")[0] == 200
            event = body | {"event_id": f"withdrawn_{turn}"}
            status, said = call("POST", "/v1/assessments", event, role="checkout")
            assert (status, basis(said).get("device")) == (200, None), turn
    finally:
        for connection in connections:
            connection.close()
    assert len(counted(service)) == 2
    assert min(counted(service)) > 50  # both were asked


def test_a_consent_sent_again_is_one_record_whoever_takes_it_and_ends_as_one(
    service, a_request, a_consent
):
    """A caller who got no answer sends it again, and would know of one of two records alone."""
    sent, found = a_consent(1100) | {"event_time": "2026-11-01T00:00:00Z"}, []

    def give() -> None:
        status, said = service.call("POST", "/v1/consents", sent, role="consent")
        found.append((status, json.loads(said)["record_id"]))

    threads = [threading.Thread(target=give) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    status, record = found[0]
    assert status == 201
    assert service.call("POST", f"/v1/consents/{record}/withdraw", role="consent")[0] == 200
    said = service.call("POST", "/v1/assessments", a_request(1100), role="checkout")[1]
    assert basis(said).get("device") is None


def test_what_one_worker_answered_every_worker_repeats(service, a_request):
    answers = {
        service.call("POST", "/v1/assessments", a_request(2001), role="checkout")[1]
        for _ in range(20)
    }
    assert len(answers) == 1
    path = f"/v1/assessments/{json.loads(answers.pop())['assessment_id']}"
    assert {service.call("GET", path, role="analyst")[0] for _ in range(20)} == {200}


def test_the_same_new_event_at_the_same_moment_is_counted_once(service, a_request):
    for number in range(2100, 2110):
        body, found = a_request(number), []

        def send(body: Any = body, found: list[Any] = found) -> None:
            found.append(service.call("POST", "/v1/assessments", body, role="checkout"))

        threads = [threading.Thread(target=send) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {status for status, _ in found} == {200}
        assert len({said for _, said in found}) == 1


def test_metrics_are_those_of_all_workers_whichever_is_asked(service, a_request):
    def total() -> float:
        text = service.call("GET", "/metrics")[1].decode()
        lines = [ln for ln in text.splitlines() if ln.startswith("sectionfour_assessments_total{")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    before = total()
    for number in range(2200, 2230):
        service.call("POST", "/v1/assessments", a_request(number), role="checkout")
    assert {total() for _ in range(12)} == {before + 30}
    text = service.call("GET", "/metrics")[1].decode()
    assert f"sectionfour_log_entries {float(leaves(service))}" in text


def test_a_revoked_key_opens_no_worker(service, a_request, monkeypatch):
    from sectionfour.parts import now
    from sectionfour.stores import open_ledger
    from sectionfour.web.keys import create_key, key_id

    ledger = open_ledger(f"sqlite:{service.home / 'ledger.db'}")
    key = create_key(ledger, "checkout", now())
    ledger.close()
    headers = {"Authorization": f"Bearer {key}"}
    sent = a_request(2301)
    assert service.call("POST", "/v1/assessments", sent, headers=headers)[0] == 200
    monkeypatch.setenv("SECTIONFOUR_HOME", str(service.home))
    done = CliRunner().invoke(main, ["keys", "revoke", key_id(key)])
    assert done.exit_code == 0
    found = [service.call("POST", "/v1/assessments", sent, headers=headers)[0] for _ in range(20)]
    assert found == [401] * 20


def test_a_serving_process_loads_no_pandas_no_sklearn_and_no_matplotlib(service, a_request):
    service.call("POST", "/v1/assessments", a_request(2401), role="checkout")
    assert len(service.workers()) == 2
    for pid in service.workers():
        mapped = Path(f"/proc/{pid}/maps").read_text()
        assert "onnxruntime" in mapped
        for name in ("pandas", "sklearn", "matplotlib", "scipy", "duckdb", "pyarrow"):
            assert f"site-packages/{name}/" not in mapped, name
    code = (
        "import sys; from sectionfour import cli, serve, web;"
        "print([m for m in ('pandas', 'sklearn', 'matplotlib', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_call_without_a_key_leaves_the_connection_to_the_next_one(service, a_request):
    """A client library sends the next call down the same connection, and must get its answer."""
    body = json.dumps(a_request(3500) | {"filler": "x" * 60_000})
    asked = http.client.HTTPConnection("127.0.0.1", service.port, timeout=20)
    said = []
    for key in ("none", service.keys["consent"], service.keys["checkout"]):
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        asked.request("POST", "/v1/assessments", body, headers)
        said.append((connected := asked.sock, asked.getresponse()))
        said[-1][1].read()
        assert asked.sock is connected  # http.client would else make another one
    assert [answer.status for _, answer in said] == [401, 403, 200]
    assert len({id(sock) for sock, _ in said}) == 1
    asked.close()


@pytest.mark.parametrize(("method", "path", "status"), [
    ("POST", "/v1/assessment", 404), ("PUT", "/v1/assessments", 405),
    ("POST", "/v1/assessments/as_none/review", 404),
])  # fmt: skip
def test_a_body_that_nobody_reads_leaves_the_connection_too(service, method, path, status):
    asked = service.connect()
    for _ in range(3):
        found = service.call(method, path, b"x" * 60_000, role="checkout", connection=asked)
        assert found[0] == status
    asked.close()


@pytest.mark.parametrize(("role", "kind", "status"), [
    (None, "application/x-ndjson", 401), ("consent", "application/x-ndjson", 403),
    ("checkout", "text/html", 415),
])  # fmt: skip
def test_a_whole_batch_that_is_refused_is_told_why(service, role, kind, status):
    """Not cut off while it is sent: that would look like a fault of the network."""
    headers = {"Content-Type": kind}
    data = b"{}\n" * 2_000_000
    assert (
        service.call("POST", "/v1/assessments/batch", data, role=role, headers=headers)[0] == status
    )


# --- batches


def test_a_batch_is_answered_while_it_is_still_being_sent(service, a_request):
    """The first answers are there before the last request is."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        head = (
            "POST /v1/assessments/batch HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            f"Authorization: Bearer {service.keys['checkout']}\r\n"
            "Content-Type: application/x-ndjson\r\n\r\n"
        )
        connection.sendall(head.encode())
        received = b""
        for number in range(3001, 3006):
            line = json.dumps(a_request(number)).encode() + b"\n"
            connection.sendall(b"%x\r\n%s\r\n" % (len(line), line))
            while f'"event_id":"evt_{number}"'.encode() not in received:
                data = connection.recv(65_536)
                assert data
                received += data
        connection.sendall(b"0\r\n\r\n")
        while not received.endswith(b"0\r\n\r\n"):
            received += connection.recv(65_536)


def test_a_long_batch_is_answered_in_order_and_a_bad_line_is_its_own_fault(service, a_request):
    sent = [json.dumps(a_request(number)) for number in range(4000, 4300)]
    sent[100] = '{"event_id": "raw'
    status, said = service.call(
        "POST",
        "/v1/assessments/batch",
        "\n".join(sent).encode(),
        role="checkout",
        headers={"Content-Type": "application/x-ndjson"},
    )
    assert status == 200
    found = [json.loads(line) for line in said.splitlines()]
    assert found[100]["line"] == 101
    assert found[100]["status"] == 400
    names = [line["event_id"] for line in found if "event_id" in line]
    assert names == [f"evt_{number}" for number in range(4000, 4300) if number != 4100]


def begun(server: Any, length: str, data: bytes, *, stalls: bool = False) -> socket.socket:
    """Return a connection on which a batch has begun; one that `stalls` takes in little unread."""
    connection = socket.socket()
    connection.settimeout(60)
    if stalls:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", server.port))
    connection.sendall(
        "POST /v1/assessments/batch HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {server.keys['checkout']}\r\n"
        f"Content-Type: application/x-ndjson\r\n{length}\r\n\r\n".encode()
        + data
    )
    return connection


def many(a_request: Any, size: int, number: int = 10_000) -> bytes:
    """Return so many lines of about `size` bytes. Most repeat the first: those cost little."""
    filler = {"communication": "x" * (size - len(json.dumps(a_request(5000))) - 22)}
    lines = [json.dumps(a_request(5000 + n) | filler).encode() + b"\n" for n in range(3)]
    return lines[1] + lines[0] * (number - 2) + lines[2]


def rss(server: Any) -> int:
    """Return how many bytes of memory the workers have."""
    files = [Path(f"/proc/{pid}/status").read_text() for pid in server.workers()]
    return sum(int(re.search(r"VmRSS:\s+(\d+)", text)[1]) * 1024 for text in files)


def test_a_whole_batch_may_be_sent_before_any_answer_is_read(a_server, a_request):
    """As `requests.post(url, data=...)` does it, with more than the sockets hold either way."""
    with a_server(workers=1) as server:
        data = many(a_request, 1_500)
        assert len(data) > 14_000_000
        before = rss(server)
        with begun(server, f"Content-Length: {len(data)}", b"", stalls=True) as connection:
            connection.sendall(data)
            answer = http.client.HTTPResponse(connection, method="POST")
            answer.begin()
            assert rss(server) - before < 60_000_000
            found = answer.read().splitlines()
        assert answer.status == 200
        assert sum(map(len, found)) > 10_000_000
        names = [json.loads(line)["event_id"] for line in found]
        assert names == ["evt_5001", *["evt_5000"] * 9_998, "evt_5002"]


@pytest.mark.parametrize("length", ["Transfer-Encoding: chunked", "Content-Length: {}"])
def test_a_batch_may_wait_for_a_thousand_answers_before_it_goes_on(service, a_request, length):
    lines = [json.dumps(a_request(6000 + n % 2)).encode() + b"\n" for n in range(3_000)]
    chunked = not length.startswith("Content")
    with begun(service, length.format(sum(map(len, lines))), b"") as connection:
        answer = http.client.HTTPResponse(connection, method="POST")
        for first in range(0, 3_000, 1_000):
            data = b"".join(lines[first : first + 1_000])
            connection.sendall(b"%x\r\n%s\r\n" % (len(data), data) if chunked else data)
            if first == 0:
                answer.begin()
            for number in range(first, first + 1_000):
                assert json.loads(answer.readline())["event_id"] == f"evt_{6000 + number % 2}"
        if chunked:
            connection.sendall(b"0\r\n\r\n")
        assert answer.read() == b""


def test_what_is_beyond_ten_thousand_lines_costs_nobody_the_answers_before(service, a_request):
    data = b"{\n" * 10_000 + many(a_request, 1_500, 6_000)
    status, said = service.call("POST", "/v1/assessments/batch", data, role="checkout")
    found = [json.loads(line) for line in said.splitlines()]
    assert (status, len(found)) == (200, 10_001)
    assert (found[-2]["status"], found[-1]["status"], found[-1]["line"]) == (400, 413, 10_001)


def test_whoever_leaves_a_batch_leaves_room_and_nothing_goes_on(a_server, a_request):
    """With three thousand lines sent and not an answer read, or with half of a line sent."""
    with a_server(workers=1) as server:
        lines = [json.dumps(a_request(n)).encode() + b"\n" for n in range(1, 3_001)]

        def begin(*batches: bytes) -> bool:
            """Begin some at once and leave them; return whether there was room for all."""
            with contextlib.ExitStack() as held:
                for data in batches:
                    chunk = b"%x\r\n%s\r\n" % (len(data), data)
                    batch = begun(server, "Transfer-Encoding: chunked", chunk)
                    held.enter_context(batch)
                    if batch.recv(12) != b"HTTP/1.1 200":
                        return False
                return True

        assert begin(b"".join(lines), lines[0] + b"{")
        deadline = time.monotonic() + 10
        while not begin(lines[0], lines[0]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        before = leaves(server)
        assert before < 2_900
        time.sleep(0.5)
        assert leaves(server) - before < 3  # a label or an event, not the rest of a batch


def test_a_batch_that_says_that_it_is_too_large_takes_no_room(a_server):
    with a_server(workers=1) as server:
        for _ in range(BATCHES + 1):
            with begun(server, "Content-Length: 1000000000", b"") as connection:
                assert connection.recv(12) == b"HTTP/1.1 413"
        assert server.call("POST", "/v1/assessments/batch", b"{", role="checkout")[0] == 200


def test_batches_leave_room_for_a_checkout(a_server, a_request):
    """However many are held open, and however slowly one is sent that is to be refused."""
    with a_server(workers=1) as server, contextlib.ExitStack() as held:
        kind = {"Content-Type": "application/x-ndjson"}
        line = json.dumps(a_request(1)).encode() + b"\n"

        def begin(length: str, data: bytes) -> socket.socket:
            return held.enter_context(begun(server, length, data))

        def batch(data: bytes) -> tuple[int, str | None, bytes]:
            connection = server.connect()
            headers = kind | {"Authorization": f"Bearer {server.keys['checkout']}"}
            connection.request("POST", "/v1/assessments/batch", data, headers)
            answer = connection.getresponse()
            found = answer.status, answer.headers["Retry-After"], answer.read()
            connection.close()
            return found

        chunk = b"%x\r\n%s\r\n" % (len(line), line)
        streams = [begin("Transfer-Encoding: chunked", chunk) for _ in range(BATCHES)]
        for stream in streams:
            assert stream.recv(15) == b"HTTP/1.1 200 OK"
        for size in (1, 3_000_000):  # what is sent whole before anybody listens is told too
            status, again, said = batch(line * (size // len(line) + 1))
            assert (status, again) == (429, "5")
            assert json.loads(said)["type"] == "/problems/too-many"
        for _ in range(3 * THREADS):  # and these are not sent to the end
            begin("Content-Length: 1000000", line)
        for number in range(2, 22):
            sent = a_request(number)
            assert server.call("POST", "/v1/assessments", sent, role="checkout")[0] == 200
        streams[0].close()  # whose caller is gone leaves room
        deadline = time.monotonic() + 20
        while batch(line)[0] != 200:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_body_without_a_length_has_the_same_limit(service):
    def chunks(size: int) -> Any:
        yield b'{"event_id": "'
        for _ in range(size // 1024):
            yield b"x" * 1024

    # Only the last chunk is too much: whoever sends on after an answer may not live to read it.
    for size, expected in ((60_000, 400), (65_536, 413)):
        connection = service.connect()
        headers = {"Authorization": f"Bearer {service.keys['checkout']}"}
        connection.request("POST", "/v1/assessments", chunks(size), headers, encode_chunked=True)
        assert connection.getresponse().status == expected
        connection.close()


# --- a CPU for each worker


@pytest.fixture
def two_cpus() -> Iterator[list[int]]:
    """Let this process, and what it starts, run on two CPUs alone."""
    usable = os.sched_getaffinity(0)
    if len(usable) < 2:
        pytest.skip("there is one CPU: nothing to share out")
    two = sorted(usable)[:2]
    os.sched_setaffinity(0, two)
    yield two
    os.sched_setaffinity(0, usable)


def cpus(server: Any) -> list[list[int]]:
    """Return, a worker, the CPUs that any of its threads may run on."""
    threads = [[int(name) for name in os.listdir(f"/proc/{pid}/task")] for pid in server.workers()]
    return sorted(sorted(set().union(*map(os.sched_getaffinity, of))) for of in threads)


def test_each_worker_keeps_to_a_cpu_and_who_replaces_it_to_the_same(a_server, two_cpus):
    with a_server(workers=2) as server:
        assert cpus(server) == [[cpu] for cpu in two_cpus]
        dead = server.workers()[0]
        os.kill(dead, signal.SIGKILL)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            time.sleep(0.2)
            if dead not in server.workers() and cpus(server) == [[cpu] for cpu in two_cpus]:
                break
        assert cpus(server) == [[cpu] for cpu in two_cpus]


def test_fewer_workers_than_cpus_run_where_there_is_room(a_server, two_cpus):
    with a_server(workers=1) as server:
        assert cpus(server) == [two_cpus]


# --- what survives


class Load:
    """Threads that ask for assessments until they are told to stop, and keep what they got."""

    def __init__(self, server: Any, a_request: Any, first: int, threads: int = 6) -> None:
        self.server, self.a_request = server, a_request
        self.answered: dict[str, str] = {}
        self.broken: list[int] = []
        self.other: list[tuple[int, bytes]] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(first + 500 * n,)) for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        connection = self.server.connect()
        while not self._stop.is_set():
            number += 1
            try:
                status, said = self.server.call(
                    "POST",
                    "/v1/assessments",
                    self.a_request(number),
                    role="checkout",
                    connection=connection,
                )
            except (OSError, http.client.HTTPException):
                self.broken.append(number)
                connection.close()
                connection = self.server.connect()
                time.sleep(0.02)
                continue
            if status == 200:
                found = json.loads(said)
                self.answered[found["event_id"]] = found["assessment_id"]
            else:
                self.other.append((status, said))
        connection.close()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_a_killed_worker_loses_no_answer_that_was_acknowledged(a_server, a_request):
    with a_server() as server:
        before = server.workers()
        load = Load(server, a_request, 10_000)
        time.sleep(1.0)
        os.kill(before[0], signal.SIGKILL)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            time.sleep(0.2)
            now = server.workers()
            if len(now) == 2 and before[0] not in now:
                break
        time.sleep(1.5)
        load.stop()
        assert len(server.workers()) == 2
        assert before[0] not in server.workers()
        assert load.other == []
        assert len(load.answered) > 100
        connection = server.connect()
        for event, name in load.answered.items():
            status, said = server.call(
                "GET", f"/v1/assessments/{name}", role="analyst", connection=connection
            )
            assert (status, json.loads(said)["event_id"]) == (200, event)
        for number in load.broken[:50]:  # what was cut off is answered when it is sent again
            sent = a_request(number)
            assert server.call("POST", "/v1/assessments", sent, role="checkout")[0] == 200
        connection.close()
        assert server.stop() == 0
        assert_sound(server)


def test_a_stop_answers_what_has_come_and_signs_what_was_answered(a_server, a_request):
    with a_server(checkpoint_seconds="600") as server:
        load = Load(server, a_request, 20_000)
        time.sleep(1.0)
        server.process.send_signal(signal.SIGTERM)
        status = server.process.wait(timeout=30)
        load.stop()
        assert status == 0, server.log.read_text()
        assert load.other == []
        with contextlib.closing(sqlite3.connect(server.home / "ledger.db")) as connection:
            kept = dict(connection.execute("SELECT event_id, assessment_id FROM assessments"))
            note = connection.execute("SELECT note FROM checkpoints ORDER BY size").fetchall()[-1]
        assert load.answered.items() <= kept.items()
        assert int(note[0].splitlines()[1]) == leaves(server)
        assert not (server.home / "metrics" / str(server.process.pid)).exists()
        log = server.log.read_text()
        assert re.fullmatch(r"listening at http://127\.0\.0\.1:\d+ with 2 workers\n", log), log


def assert_sound(server: Any) -> None:
    """The log and its checkpoints match."""
    from sectionfour.bootstrap import open_notary, open_parts

    settings = Settings(home=server.home, models=server.home, velocity_gib=0.05)
    parts = open_parts(settings)
    notary = open_notary(settings, parts)
    assert list(notary.verify()) == []
    newest = parts.ledger.newest_checkpoint()
    assert newest is not None
    public = notes.parse_vkey(notary.vkey)[1]
    assert notes.open_note(newest[1], settings.origin, public).size == newest[0]
    parts.close()


# --- being told to end


def ended(server: Any) -> None:
    """Wait until it has ended: in order, soon, and with all that it started."""
    assert server.process.wait(timeout=15) == 0, server.log.read_text()
    assert_all_gone(server.process.pid)


def assert_all_gone(leader: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and group(leader):
        time.sleep(0.05)
    assert not group(leader)


def group(leader: int) -> list[str]:
    """Return the processes of a group: of each what `/proc` calls it."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = file.read_text().rpartition(")")
            if int(rest.split()[2]) == leader:
                found.append(name)
    return found


def test_who_is_told_to_end_while_starting_ends(a_server):
    """As it looks everything over, as workers are just forked, and as the first one answers."""
    with a_server() as server:
        assert server.stop() == 0

        def looking() -> bool:
            return bool(server.workers())

        def forked() -> bool:
            return "listening" in server.log.read_text() and bool(server.workers())

        def ready() -> bool:
            with contextlib.suppress(OSError, http.client.HTTPException):
                return server.call("GET", "/readyz")[0] == 200
            return False

        for begun in (looking, forked, ready):
            server.launch()
            deadline = time.monotonic() + 30
            while not begun():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            if begun is forked:  # from a terminal, all hear it
                os.killpg(server.process.pid, signal.SIGINT)
            else:
                server.process.send_signal(signal.SIGTERM)
            ended(server)


def test_workers_end_with_who_started_them_and_leave_the_port_to_the_next(a_server, a_request):
    with a_server() as server:
        sent = a_request(1)
        first = server.call("POST", "/v1/assessments", sent, role="checkout")
        server.process.kill()
        server.process.wait()
        assert_all_gone(server.process.pid)
        server.start()
        assert server.call("POST", "/v1/assessments", sent, role="checkout") == first


def test_who_was_stopped_for_a_while_still_hears_that_it_is_to_end(a_server):
    """The kernel gives the signal to whichever thread goes on first."""
    with a_server() as server:
        os.killpg(server.process.pid, signal.SIGSTOP)
        time.sleep(0.1)
        server.process.send_signal(signal.SIGTERM)
        os.killpg(server.process.pid, signal.SIGCONT)
        ended(server)


# --- starting


def test_windows_that_were_dropped_are_made_anew_before_anything_is_served(a_server, a_request):
    with a_server() as server:
        for number in range(3):
            body = a_request(1, event_id=f"first_{number}")
            assert server.call("POST", "/v1/assessments", body, role="checkout")[0] == 200
        assert server.stop() == 0
        shutil.rmtree(server.home / "velocity")
        server.start()
        body = a_request(1, event_id="after")
        assert server.call("POST", "/v1/assessments", body, role="checkout")[0] == 200
        with contextlib.closing(sqlite3.connect(server.home / "ledger.db")) as connection:
            vectors = dict(connection.execute("SELECT event_id, vector FROM assessments"))
        place = NAMES.index("member_events_24h")
        counts = [np.frombuffer(vectors[name])[place] for name in ("first_0", "first_2", "after")]
        assert counts == [0, 2, 3]
        assert "made anew" in server.log.read_text()


def test_windows_are_made_anew_beside_a_busy_service(a_server, a_request, windows_of, tmp_path):
    """Every event that is in the ledger is in them, once: whatever was under way."""
    url = windows_of(tmp_path / "windows")
    if url.startswith("redis"):
        url += "?socket_timeout=20"  # as long as a call waits, on a machine that has other work
    with a_server(velocity=url) as server:

        def rebuild() -> None:
            done = subprocess.run(
                [sys.executable, "-m", "sectionfour.cli", "rebuild"],
                env=server.environment,
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.returncode == 0, done.stderr

        load = Load(server, a_request, 30_000)
        time.sleep(0.5)
        try:
            for _ in range(3):
                rebuild()
        finally:
            load.stop()
        assert load.broken == []
        assert {status for status, _ in load.other} <= {503}
        assert all(b"/problems/not-ready" in said for _, said in load.other)
        assert len(load.answered) > 50
        assert server.stop() == 0

        def held() -> dict[bytes, bytes]:
            store = open_velocity(url, gib=SPARSE_GIB)
            found = everything(store, b"W")
            store.close()
            return found

        before = held()
        rebuild()
        assert held() == before != {}


def test_the_windows_of_one_home_are_refused_to_another(a_server, a_request, windows_of, tmp_path):
    url = windows_of(tmp_path / "windows")
    with a_server(velocity=url) as server:

        def ask(number: int) -> None:
            sent = a_request(number)
            assert server.call("POST", "/v1/assessments", sent, role="checkout")[0] == 200

        ask(1)
        other = server.environment | {"SECTIONFOUR_HOME": str(tmp_path / "other")}
        for command in (["rebuild"], ["serve", "--bind", "127.0.0.1:1"]):
            done = subprocess.run(
                [sys.executable, "-m", "sectionfour.cli", *command],
                env=other,
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == 1
            assert "those of another home" in done.stderr
            assert "Traceback" not in done.stderr
        ask(2)
        assert server.stop() == 0
        server.start()
        ask(3)
        assert "made anew" not in server.log.read_text()


def test_a_load_is_measured_with_consents_on_file_or_not_at_all(service, monkeypatch, tmp_path):
    monkeypatch.setenv("SECTIONFOUR_HOME", str(tmp_path))
    monkeypatch.setenv("SECTIONFOUR_VELOCITY_GIB", "0.05")
    load = ["bench", "--url", f"http://127.0.0.1:{service.port}", "--members", "3"]
    load += ["--seconds", "0.2", "--connections", "2", "--checkout-key", service.keys["checkout"]]
    wrong = CliRunner().invoke(main, [*load, "--consent-key", service.keys["checkout"]])
    assert wrong.exit_code == 1
    assert "Error: not all consents were taken; answers by status: {403: 1}" in wrong.output
    right = CliRunner().invoke(main, [*load, "--consent-key", service.keys["consent"]])
    assert right.exit_code == 0, right.output
    assert re.search(r"answers by status: \{200: \d+\}", right.output)


def test_a_service_without_models_says_so_and_does_not_start(home, tmp_path):
    environment = os.environ | {
        "SECTIONFOUR_HOME": str(home),
        "SECTIONFOUR_MODELS": str(tmp_path / "none"),
        "SECTIONFOUR_VELOCITY_GIB": "0.05",
    }
    command = [sys.executable, "-m", "sectionfour.cli", "serve", "--bind", "127.0.0.1:0"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "no transaction model has been promoted" in done.stderr
    assert "Traceback" not in done.stderr
