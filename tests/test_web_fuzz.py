"""Every route with bodies, names and queries that nobody sends: no fault of ours, no echo."""

from __future__ import annotations

import copy
import json
import os
import random
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from sectionfour.web import ROUTES
from sectionfour.web.routes import NDJSON

#: Calls of each route; the auditor asks for more.
TURNS = 1_000 if os.environ.get("AUDIT") == "long" else 40
ECHO = "raw-echo-7c1d"

#: What is put in the place of something.
NASTY: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 1e308, 0.5,
    "", " ", "\u0000", f"{ECHO}\u0000", "\ud800", "\u202e", "\ufeff", "x" * 128, "x" * 129,
    "x" * 5000, ECHO, f"{ECHO}' OR 1=1; --", f"%s %(a)s {ECHO}", f"{ECHO}/../../etc", "-", "ß", "İ",
    "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999-23:59", "2026-02-29T00:00:00Z",
    "1969-12-31T23:59:59Z", "9999-12-31T23:59:59Z", "2026-11-23T09:00:00", "P9999Y", "P0D", "PT1S",
    [], {}, [[]], [None], [ECHO], {"": ECHO}, {ECHO: ECHO}, [{}] * 65, ["device", "device"],
    ["security"], ["security.transaction_risk"], ["collect", "score", "train"], ["any"],
    "security", "partner:", "partner:" + ECHO, "affiliate:x", "public", "first_party",
    "+8613800138000",
]  # fmt: skip
NAMES = [
    ECHO, "x" * 300, "%00", f"{ECHO}%00", "%ff%fe", "%ed%a0%80", "..", "%2e%2e%2f", "'", "0",
    "%25s", quote("秘密"), "as_0000000000000", "%0a", "?", f"{ECHO}/{ECHO}", "-1",
]  # fmt: skip
QUERIES = [
    "", "limit=0", "limit=-1", "limit=9999999999999", "limit=%00", f"after={ECHO}", "after=%00",
    "%00=%00",
    f"state={ECHO}", "state=closed", "limit=1", "from=2026-11-01&to=2026-11-30", f"from={ECHO}",
    "from=9999-12-31&to=0001-01-01", "from=0001-01-01&to=9999-12-31", "threshold=1",
    "threshold=%D9%A3",
    "from=2026-11-01&to=2026-11-30&threshold=999999999", "from=9999-12-31&to=9999-12-31",
    "first=0&second=0", "first=1&second=2", f"first={ECHO}", "first=-1&second=99999999999999999999",
]  # fmt: skip


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (what holds it, under which name or number) of everything in a body."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for name, below in list(inner):
        yield value, name
        if isinstance(below, dict | list):
            yield from places(below)


def spoilt(body: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """Return a body with one to three things in it changed, doubled, renamed or gone."""
    body = copy.deepcopy(body)
    for _ in range(chance.randint(1, 3)):
        found = list(places(body))
        if not found:
            break
        holder, name = chance.choice(found)
        what = chance.random()
        if what < 0.7:
            holder[name] = copy.deepcopy(chance.choice(NASTY))
        elif what < 0.85:
            del holder[name]
        elif isinstance(holder, dict):
            holder[chance.choice([ECHO, "x\u0000", "", "id", "é"])] = holder[name]
        else:
            holder.append(copy.deepcopy(holder[name]))
    return body


@pytest.fixture
def sound(
    a_request: Callable[..., dict[str, Any]],
    a_consent: Callable[..., dict[str, Any]],
    a_notice: Callable[..., dict[str, Any]],
    an_exception: Callable[..., dict[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Return, by route, a body that is answered."""
    ends = "2027-06-01T00:00:00Z"
    attestation = {
        "provider": "bank", "provider_role": "partner", "legal_ground": "statutory",
        "citation": "art. 1", "evidence_sha256": "ab" * 32, "categories": ["device"],
        "purposes": ["security"], "expires_at": ends,
    }  # fmt: skip
    word = {
        "member_id": "raw-member-1",
        "order_id": "raw-order-1",
        "wording_version": "1",
        "attested_at": "2026-11-01T00:00:00Z",
    }
    return {
        "assess": a_request(),
        "put_notice": a_notice(),
        "give_consent": a_consent(),
        "ask_exception": an_exception(),
        "add_label": {"event_id": "evt_0001", "label": "chargeback", "source": "bank"},
        "place_hold": {"law": "art. 54", "member_id": "raw-member-1"},
        "erase_member": {"trigger": "cancellation"},
        "give_verdict": {"verdict": "legitimate", "note": "a word"},
        "ask_reidentification": {"purpose": "security.account_risk", "reason": "a reason"},
        "attest_source": attestation,
        "attest_third_person": word,
        "cease": {"announcement": "https://example.com", "confirm": "no"},
    }


#: A stop of everything ends the run; what it does with bodies is `test_cessation`'s.
EXCEPT = {"cease"}


def test_whatever_is_sent_is_answered_in_our_words(client, sound, notice, caplog):
    chance = random.Random(4)
    everybody = {role: client(role) for route in ROUTES for role in route.roles}
    known: list[str] = ["raw-member-1", "evt_0001", "pn_security"]
    seen: set[str] = set()
    for turn in range(TURNS):
        for route in ROUTES:
            if not route.roles or route.name in EXCEPT:
                continue
            name = chance.choice(known if chance.random() < 0.6 else NAMES)
            path = re.sub(r"\{\w+\}", lambda _, name=name: name, route.path)
            query = chance.choice(QUERIES) if route.query or chance.random() < 0.1 else ""
            body = sound.get(route.name)
            sent: dict[str, Any] = {}
            if route.path.endswith("/batch"):
                lines = [spoilt(sound["assess"], chance) for _ in range(3)]
                sent = {"data": b"\n".join(as_bytes(line) for line in lines),
                        "content_type": NDJSON}  # fmt: skip
            elif body is not None:
                sent = {"data": as_bytes(body if turn < 2 else spoilt(body, chance)),
                        "content_type": "application/json"}  # fmt: skip
            elif route.method != "GET" and chance.random() < 0.3:
                sent = {"data": b"\xff{", "content_type": "application/json"}
            who = everybody[chance.choice(route.roles)]
            answer = who.open(f"{path}?{query}" if query else path, method=route.method, **sent)
            told = answer.get_data()
            assert answer.status_code < 500, (route.name, path, query, sent, told)
            for line in told.splitlines() if route.path.endswith("/batch") else ():
                assert b'"status":5' not in line, (sent, line)
                assert ECHO.encode() not in line or b'"type":"/problems' not in line
            if answer.status_code >= 400:
                assert answer.content_type == "application/problem+json", (route.name, told)
                assert ECHO.encode() not in told
            seen.add(f"{route.name} {answer.status_code}")
            known += re.findall(r'"((?:as|cs|xg|cr|ri|lh|er|at|tp|vd)_[\w.]+)"', told.decode())
            del known[: len(known) - 60]
    assert not [r.getMessage() for r in caplog.records if r.getMessage().startswith("fault")]
    assert {"assess 200", "give_consent 201", "ask_exception 201", "place_hold 201"} <= seen


def test_no_name_with_a_nul_is_looked_for(client, sound):
    """In a path or after a question mark: PostgreSQL has no such text, and nobody such a name."""
    places = [route for route in ROUTES if route.roles and ("{" in route.path or route.query)]
    assert len(places) > 20
    for route in places:
        path = re.sub(r"\{\w+\}", "a%00b", route.path)
        if "{" not in route.path:
            path += f"?{next(iter(route.query))}=a%00b"
        sent = {"json": sound[route.name]} if route.name in sound else {}
        answer = client(route.roles[0]).open(path, method=route.method, **sent)
        assert answer.status_code == 404, route.name
        assert answer.json["detail"] == "nothing here has such a name", route.name


def as_bytes(value: Any) -> bytes:
    return json.dumps(value).encode()
