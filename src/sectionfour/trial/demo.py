"""The demonstration: simulates, imports, trains, serves, sends traffic and shows the answers."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from tqdm import tqdm

from sectionfour import simulate
from sectionfour.bootstrap import open_parts, trusted_keys
from sectionfour.errors import SettingsError
from sectionfour.given import Raw
from sectionfour.jobs import clustering
from sectionfour.jobs.upkeep import alone
from sectionfour.learning.plan import Plan
from sectionfour.loading import imports
from sectionfour.loading.replay import replay
from sectionfour.settings import Settings
from sectionfour.train import train
from sectionfour.web.keys import create_key

Say = Callable[[str], object]
EVENTS, DAYS, SEED = 40_000, 120, 4
MARKER = "DEMO"
ROLES = ("checkout", "consent", "analyst", "privacy", "trainer", "admin")


def demo(settings: Settings, say: Say, *, once: bool, bind: str = "127.0.0.1:8400") -> None:
    """Run the demonstration in `settings.home`; with `once`, end after a short run.

    A home that an earlier demonstration made is made anew; any other that holds something, or whose
    service runs, is left alone, with a SettingsError.
    """
    home = settings.home
    settings.make_home()
    if any(home.iterdir()):
        if not (home / MARKER).exists():
            raise SettingsError(
                f"{home} holds something that no demonstration made;"
                " set SECTIONFOUR_HOME to another folder"
            )
        with alone(home) as unserved:
            if not unserved:
                raise SettingsError(f"a service runs in {home}: end it first")
            shutil.rmtree(home)
        settings.make_home()
    (home / MARKER).touch()
    settings = replace(settings, models=home / "models")

    say(f"1. A marketplace of {EVENTS:,} events over {DAYS} days, simulated")
    start = datetime.now(UTC) - timedelta(days=DAYS, minutes=5)
    market = simulate.simulate(seed=SEED, events=EVENTS, days=DAYS, start=start)
    simulate.write(market, home / "market")

    say("2. Its past through gate and seal into ledger and windows")
    parts = open_parts(settings)
    live = market.events.tail(60)
    steps, count = imports.market(home / "market")
    first = imports.micros(live["occurred_at"])[0]
    past = (step for step in steps if imports.at_of(step) < first)
    with tqdm(total=count, unit="event", disable=not sys.stderr.isatty()) as bar:
        report = replay(past, parts, notice=imports.MARKET_NOTICE, progress=bar.update)
    say(
        f"   kept {report.events:,} events, {report.consents:,} consents, {report.labels:,} labels;"
        f" left out {sum(report.left_out.values()):,} without a basis"
    )

    clustering.refresh_past(parts, 0)

    say("3. Two models, trained on what may be learnt from")
    signing, trusted = parts.keys.ring.signing("models"), trusted_keys(parts.keys.ring)
    for done in train(parts, Plan(candidates=3), settings.models, signing, trusted):
        auc, ap = (done.metrics[name] for name in ("auc", "average_precision"))
        say(
            f"   {done.name} {done.version}: AUC {auc['value']:.3f}"
            f" ({auc['low']:.3f} to {auc['high']:.3f}),"
            f" average precision {ap['value']:.3f} ({ap['low']:.3f} to {ap['high']:.3f})"
        )
    keys = {role: create_key(parts.ledger, role, parts.clock()) for role in ROLES}
    parts.close()

    say("4. The service, two workers")
    with _service(settings, bind):
        url = f"http://{bind}"
        say(f"   listening at {url}; its contract at {url}/docs")
        say("5. A consent, a purchase without one, and live traffic")
        _consents(bind, keys, say)
        _traffic(bind, keys["checkout"], market, live, say)
        say("6. The keys, each for its role")
        for role, key in keys.items():
            say(f"   {role:9} {key}")
        say(f"   try: curl -H 'Authorization: Bearer {keys['privacy']}' {url}/v1/log/checkpoint")
        say(f"   or: {url}/console in a browser, with the key of analyst or of privacy")
        if not once:
            say("   Ctrl-C ends it")
            signal.pause()


@contextmanager
def _service(settings: Settings, bind: str) -> Iterator[None]:
    environment = os.environ | {
        "SECTIONFOUR_HOME": str(settings.home),
        "SECTIONFOUR_MODELS": str(settings.models),
    }
    command = [sys.executable, "-m", "sectionfour.cli", "serve", "--bind", bind, "--workers", "2"]
    process = subprocess.Popen(command, env=environment)
    try:
        _ready(bind, process)
        yield
    except KeyboardInterrupt:
        pass
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def _ready(bind: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        if process.poll() is not None:
            raise SettingsError(f"the service ended with status {process.returncode}")
        try:
            if call(bind, "GET", "/readyz")[0] == 200:
                return
        except OSError:
            pass  # not listening yet
        time.sleep(0.1)
    raise SettingsError("the service was not ready within 30 seconds")


def call(
    bind: str, method: str, path: str, body: Any = None, key: str | None = None
) -> tuple[int, Any]:
    """Return (status, decoded answer) of one call of the service."""
    connection = http.client.HTTPConnection(bind, timeout=30)
    try:
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        connection.request(
            method, path, None if body is None else msgspec.json.encode(body), headers
        )
        answer = connection.getresponse()
        data = answer.read()
        kind = answer.getheader("Content-Type", "")
        return answer.status, msgspec.json.decode(data) if "json" in kind else data.decode()
    finally:
        connection.close()


def _consents(bind: str, keys: dict[str, str], say: Say) -> None:
    """Show one newcomer: buying without a consent, then with one."""
    notice = {
        "version": "1",
        "language": "en",
        "text_sha256": "0" * 64,
        "purposes": ["security"],
        "categories": list(imports.BASIC),
        "valid_from": "2026-01-01T00:00:00Z",
    }
    call(bind, "PUT", "/v1/notices/pn_security", notice, keys["consent"])
    body = {
        "event_id": "demo_without",
        "purpose": "security.transaction_risk",
        "event": {"type": "purchase", "occurred_at": datetime.now(UTC).isoformat()},
        "member": {"id": "newcomer", "registered_at": datetime.now(UTC).isoformat()},
        "transaction": {"order_id": "demo_order", "amount": 12_900, "currency": "CNY"},
        "device": {"id": "demo_phone", "permissions": ["location.ip"]},
        "location": {"ip": "203.0.113.7"},
        "log": {"page_views": 9, "search_count": 2, "seconds_on_page": 31.0},
    }
    _show(*call(bind, "POST", "/v1/assessments", body, keys["checkout"]), "purchase", say)
    status, given = call(
        bind,
        "POST",
        "/v1/consents",
        {
            "member_id": "newcomer",
            "notice": {"id": "pn_security", "version": "1"},
            "purpose": "security",
            "categories": list(imports.BASIC),
            "event_type": "explicitly_expressed",
            "event_time": datetime.now(UTC).isoformat(),
        },
        keys["consent"],
    )
    say(f"   consent recorded: {status} {given.get('event_state')}")
    body |= {"event_id": "demo_with"}
    _show(*call(bind, "POST", "/v1/assessments", body, keys["checkout"]), "purchase", say)
    body |= {"event_id": "demo_login", "purpose": "security.account_risk"}
    body["member"] = {"id": "stranger"}
    body["event"] = {"type": "login", "occurred_at": datetime.now(UTC).isoformat()}
    del body["transaction"]
    _show(*call(bind, "POST", "/v1/assessments", body, keys["checkout"]), "login", say)


def _traffic(bind: str, key: str, market: simulate.Market, live: Any, say: Say) -> None:
    for _, given in imports.requests(market, live):
        body = body_of(given)
        body["event_id"] = f"live_{body['event_id']}"
        _show(*call(bind, "POST", "/v1/assessments", body, key), given.event.type, say)


def body_of(part: Any) -> Any:
    """Return what a client would send: a raw struct is encoded by nobody, so field by field."""
    if not isinstance(part, Raw):
        return part
    values = {name: getattr(part, name) for name in part.__struct_fields__ if name != "guard"}
    return {name: body_of(value) for name, value in values.items() if value is not None}


def _show(status: int, answer: Any, kind: str, say: Say) -> None:
    if status != 200:
        say(f"   {kind:16} {status} {answer['title']}: {answer['detail']}")
        if "never_withheld" in answer:
            withheld = ", ".join(answer["withholdable_services"]) or "nothing"
            say(f"{'':20} may be withheld: {withheld}")
            say(f"{'':20} never withheld:  {', '.join(answer['never_withheld'])}")
        return
    bases = sorted({f"{b['kind']}" for b in answer["basis"]})
    masked = [f"{m['category']} ({m['why']})" for m in answer["masked"]]
    reasons = "; ".join(reason["reason"] for reason in answer["reasons"][:2])
    say(
        f"   {kind:16} {answer['risk_score']:6.2f} {answer['outcome']:9}"
        f" basis {'+'.join(bases)}"
        + (f", masked {', '.join(masked)}" if masked else "")
        + (f" | {reasons}" if reasons else "")
        + "".join(f" | rule {rule['id']}" for rule in answer["rules"])
    )
