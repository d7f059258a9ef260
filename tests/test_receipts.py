"""Receipts: one for every decision, in the same step, telling nothing, checked by a stranger."""

from __future__ import annotations

import base64
import os
import random
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from sectionfour import bootstrap
from sectionfour.decide import decide
from sectionfour.domain import Assessed, Label, Leaf, Permit
from sectionfour.errors import Conflict, FailClosed
from sectionfour.features import online
from sectionfour.given import Given
from sectionfour.jobs import upkeep
from sectionfour.parts import Parts
from sectionfour.privacy import entries, gate, merkle, notes, pseudonym, receipts
from sectionfour.privacy.receipts import Notary
from sectionfour.settings import Settings
from sectionfour.stores.ledger.rooms import Ledger
from sectionfour.stores.sqlite import SqliteLedger
from sectionfour.verify import verify

independent = runpy.run_path(str(Path(__file__).with_name("independent_verifier.py")))["verify"]
LOGIN = {"type": "login", "occurred_at": "2026-11-23T09:00:00+08:00"}
ACCOUNT = {"purpose": "security.account_risk", "transaction": None, "event": LOGIN}
GUEST = {"purpose": "security.incident_detection", "transaction": None, "member": None}

Ask = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def ask(parts: Parts, a_request: Callable[..., dict[str, Any]]) -> Ask:
    """Return how to put a request through the whole walk; (status, answer) comes back."""

    def put(number: int = 1, **changes: Any) -> tuple[int, dict[str, Any]]:
        body = a_request(number, **changes)
        asked = parts.keys.ring.digest(msgspec.json.encode(body, order="deterministic"))
        status, answer = decide(msgspec.convert(body, Given), asked, parts, key_id="k_test")
        return status, msgspec.json.decode(answer)

    return put


@pytest.fixture
def consented(client: Callable[..., Any], notice: Any, a_consent: Callable[..., Any]) -> Any:
    """Return how to have a member consent to everything usual."""

    def give(number: int = 1, **changes: Any) -> str:
        answer = client("consent").post("/v1/consents", json=a_consent(number, **changes))
        assert answer.status_code == 201, answer.json
        return str(answer.json["record_id"])

    return give


def a_notary(settings: Settings, parts: Parts) -> Notary:
    return bootstrap.open_notary(settings, parts)


def leaf_of(parts: Parts, answer: dict[str, Any]) -> tuple[int, bytes, dict[str, Any]]:
    found = parts.ledger.find(answer["assessment_id"])
    assert found is not None
    return *found, msgspec.json.decode(found[1])


# --- one for every decision ------------------------------------------------------------------


def test_every_kind_of_decision_leaves_one_receipt(
    parts: Parts, settings: Settings, ask: Ask, consented: Callable[..., str]
) -> None:
    usual = ["member.required", "order", "payment", "consignee", "device", "log"]
    consented(2, categories=[*usual, "member.optional"])
    basics = {"device": None, "location": None, "log": None}
    cases: list[tuple[str, tuple[int, dict[str, Any]]]] = [
        ("scored", ask(2, location=None)),
        ("scored_masked", ask(1)),
        ("refused", ask(3, **ACCOUNT)),
        ("refused", ask(4, purpose="marketing.push")),
        ("scored", ask(5, **GUEST, location=None)),
        ("scored_masked", ask(6, mode="evaluate")),
        ("refused", ask(7, mode="evaluate", **ACCOUNT)),
        ("refused", ask(8, **GUEST | basics)),
    ]
    before = parts.ledger.rows("SELECT COUNT(*) FROM log WHERE kind = 'assessment'")
    assert before == [(len(cases),)]
    for status, (http, answer) in cases:
        _, body, leaf = leaf_of(parts, answer)
        assert http == (403 if status == "refused" else 200)
        assert leaf["status"] == status
        assert leaf["receipt_id"] == answer["assessment_id"]
        assert answer["receipt"]["leaf_hash"] == merkle.leaf_hash(body).hex()
        assert leaf["at"] == answer["at"]
        assert leaf["masked"] == answer["masked"]
        assert leaf["human_review"] == answer["human_review"]
        assert {len(digest) for digest in leaf["digests"].values()} == {64}
        if status == "refused":
            assert leaf["missing"] == answer["missing"]
            assert not {"model", "score_band", "action", "basis"} & set(leaf)
        else:
            assert (leaf["basis"], leaf["model"]) == (answer["basis"], answer["model"])
            assert (leaf["score_band"], leaf["action"]) == (answer["risk_level"], answer["outcome"])
            assert leaf["reasons"] == [reason["code"] for reason in answer["reasons"]]
            assert leaf["combination"]["personal"] == (leaf["subject"]["kind"] == "member")
    a_notary(settings, parts).extend(parts.clock())
    assert list(verify(parts, a_notary(settings, parts))) == []


def test_a_receipt_names_the_threat_that_the_request_named_and_else_none(
    parts: Parts, settings: Settings, ask: Ask
) -> None:
    """R-30; and not named, the entry's bytes are those that they were before there were any."""
    threats = [None, *parts.regime.threats]
    for number, threat in enumerate(threats):
        refused = ACCOUNT if number % 2 else {}
        _, answer = ask(number, **refused, threat_type=threat)
        leaf = leaf_of(parts, answer)[2]
        assert leaf.get("threat_type") == threat
        assert ("threat_type" in leaf) == (threat is not None)
    a_notary(settings, parts).extend(parts.clock())
    assert list(verify(parts, a_notary(settings, parts))) == []


def test_a_retry_gets_the_same_answer_and_no_second_receipt(parts: Parts, ask: Ask) -> None:
    first = ask(1)
    assert ask(1) == first
    with pytest.raises(Conflict):
        ask(1, device=None)
    assert parts.ledger.size() == parts.ledger.rows("SELECT COUNT(*) FROM assessments")[0][0] == 1


def test_the_same_event_asked_at_once_has_one_answer_and_one_receipt(
    parts: Parts, ask: Ask
) -> None:
    answers: list[tuple[int, dict[str, Any]]] = []
    threads = [threading.Thread(target=lambda: answers.append(ask(1))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert all(answer == answers[0] for answer in answers)
    assert parts.ledger.rows("SELECT COUNT(*) FROM log WHERE kind = 'assessment'") == [(1,)]
    assert parts.ledger.rows("SELECT COUNT(*) FROM events") == [(1,)]


def test_an_evaluation_is_on_record_and_changes_no_window(parts: Parts, ask: Ask) -> None:
    one = ask(1, mode="evaluate", event_id="evt_a")[1]
    other = ask(1, mode="evaluate", event_id="evt_b")[1]
    assert one["risk_score"] == other["risk_score"]
    assert parts.ledger.rows("SELECT COUNT(*) FROM events") == [(0,)]
    assert parts.ledger.rows("SELECT COUNT(*) FROM assessments") == [(2,)]


# --- what it tells ---------------------------------------------------------------------------


def spelt(value: bytes) -> Iterator[bytes]:
    yield value
    yield value.hex().encode()
    yield value.hex().upper().encode()
    for start in range(3):
        whole = base64.b64encode(b"\0" * start + value)
        yield whole[4 if start else 0 : len(whole) - 4]


def test_a_receipt_holds_no_serve_token_no_raw_identifier_and_no_feature(
    parts: Parts, ask: Ask, consented: Callable[..., str], a_request: Callable[..., Any]
) -> None:
    record = consented(1)
    answers = [ask(1)[1], ask(2)[1], ask(3, **ACCOUNT)[1], ask(4, **GUEST)[1]]
    leaves = b"".join(leaf_of(parts, answer)[1] for answer in answers)
    assert record.encode() in leaves
    tokens = {
        value
        for row in parts.ledger.rows("SELECT * FROM events")
        for value in row
        if isinstance(value, bytes)
    }
    for number in (1, 2, 3, 4):
        member = f"raw-member-{number}"
        tokens |= {parts.keys.order(f"raw-order-{number}")}
        tokens |= {token for token in (parts.keys.subject(member),) if token is not None}
    assert len(tokens) > 15
    vectors = [row[0] for row in parts.ledger.rows("SELECT vector FROM assessments") if row[0]]
    nonces = [row[0] for row in parts.ledger.rows("SELECT nonce FROM assessments")]
    asked = [row[0] for row in parts.ledger.rows("SELECT asked FROM assessments")]
    for secret in (*tokens, *(vector[:64] for vector in vectors), *nonces, *asked):
        assert not [form for form in spelt(secret) if form in leaves]
    strings = {
        text for number in (1, 2, 3, 4) for text in texts(a_request(number)) if len(text) > 4
    }
    allowed = {"security.transaction_risk", "location.ip", "location.gps", "purchase"}
    for text in strings - allowed:
        assert text.encode() not in leaves, text
    values = {repr(x) for vector in vectors for x in np.frombuffer(vector) if x == x and x > 10_000}
    assert len(values) > 3
    for value in values:
        assert value.encode() not in leaves
    assert b"129900" not in leaves


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)


def test_a_commitment_says_nothing_without_its_nonce_and_all_with_it(
    parts: Parts, ask: Ask
) -> None:
    answer = ask(1)[1]
    leaf = leaf_of(parts, answer)[2]
    asked, subject, key_id, vector, nonce = parts.ledger.rows(
        "SELECT asked, subject, key_id, vector, nonce FROM assessments"
    )[0]
    del answer["receipt"]
    kept = {
        "asked": asked,
        "subject": subject,
        "key_id": key_id,
        "vector": vector,
        "event": parts.ledger.event("evt_0001"),
        "answer": msgspec.json.encode(answer),
    }
    assert receipts.commitment(nonce, **kept) == leaf["commitment"]
    assert receipts.commitment(bytes(32), **kept) != leaf["commitment"]
    for name in kept:
        changed = kept | {name: None if kept[name] is not None else b""}
        assert receipts.commitment(nonce, **changed) != leaf["commitment"]


def test_two_receipts_of_one_person_are_linked_by_a_token_of_the_audit_domain_alone(
    parts: Parts, ask: Ask
) -> None:
    names = {
        leaf_of(parts, ask(1, event_id=f"evt_{n}")[1])[2]["subject"]["pseudonym"] for n in range(2)
    }
    token = parts.keys.subject("raw-member-1")
    assert token is not None
    assert names == {parts.keys.alias(token, "audit").hex()}


# --- checked by a stranger -------------------------------------------------------------------


def test_an_independent_verifier_accepts_every_receipt_and_no_other(
    parts: Parts, settings: Settings, ask: Ask
) -> None:
    notary, draw = a_notary(settings, parts), random.Random(4)
    names = []
    for number in range(1, 14):
        names.append(ask(number)[1]["assessment_id"])
        if number in (1, 2, 5, 11):
            notary.extend(parts.clock())
    proofs = {}
    for name in names:
        proven = notary.prove(name, parts.clock())
        assert proven is not None
        proofs[name] = proven
        assert independent(notary.vkey, *proven)
    assert notary.prove("as_absent", parts.clock()) is None
    for name, (leaf, proof) in proofs.items():
        other = proofs[draw.choice([n for n in names if n != name])]
        assert not independent(notary.vkey, other[0], proof)
        for _ in range(12):
            body = bytearray(leaf)
            body[draw.randrange(len(body))] ^= 1 << draw.randrange(8)
            assert not independent(notary.vkey, bytes(body), proof)
            place = draw.randrange(len(proof) - 1)
            letter = draw.choice([c for c in "A0+\n " if c != proof[place]])
            changed = proof[:place] + letter + proof[place + 1 :]
            assert not independent(notary.vkey, leaf, changed), (place, changed)
    another = bootstrap.Keyring(settings.home / "other", b"k" * 32).signing("log")
    foreign = notes.vkey(settings.origin, another.public_key())
    assert not independent(foreign, *proofs[names[0]])


def test_a_proof_is_of_the_newest_checkpoint_and_made_for_what_has_none(
    parts: Parts, settings: Settings, ask: Ask
) -> None:
    notary = a_notary(settings, parts)
    assert notary.extend(parts.clock()) is None  # an empty log has nothing to sign
    name = ask(1)[1]["assessment_id"]
    assert parts.ledger.checkpoints() == []
    proven = notary.prove(name, parts.clock())
    assert proven is not None
    newest = parts.ledger.newest_checkpoint()
    assert newest is not None
    assert notes.parse_proof(proven[1]).note == newest[1]
    assert receipts.read_witness(settings.witness_file) == [newest[1]]
    assert notary.extend(parts.clock()) == newest[1]  # nothing new: the same one


# --- one step, or none -----------------------------------------------------------------------


def assessed(number: int, **changes: Any) -> Assessed:
    name = f"as_{number}"
    wanted: dict[str, Any] = {
        "assessment_id": name,
        "event_id": f"evt_{number}",
        "asked": b"a",
        "at": number,
        "subject": None,
        "purpose": "security.account_risk",
        "status": "refused",
        "http": 403,
        "answer": b"{}",
        "vector": None,
        "nonce": b"n",
        "key_id": None,
        "event": None,
        "leaf": Leaf("assessment", name, b"{}"),
    }
    return Assessed(**(wanted | changes))


def test_a_row_that_cannot_be_kept_takes_no_other_with_it(
    tmp_path: Path, open_at: Callable[..., Ledger]
) -> None:
    """Those who wait together share a commit; one that fails must fail alone, and say so."""
    ledger = open_at(tmp_path / "ledger.db", synchronous="OFF")
    rows = [assessed(n) for n in range(40)]
    rows[13] = assessed(13, assessment_id="as_12")  # taken, or about to be
    results: dict[int, bool | str] = {}
    held = threading.Event()

    def hold() -> None:  # so that the rows pile up
        with ledger.transaction():
            held.set()
            time.sleep(0.3)

    def record(number: int) -> None:
        try:
            results[number] = ledger.record(rows[number])
        except FailClosed as error:
            results[number] = str(error)

    threads = [threading.Thread(target=hold)]
    threads += [threading.Thread(target=record, args=(n,)) for n in range(40)]
    threads[0].start()
    held.wait()
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join()
    failed = {number for number, result in results.items() if result is not True}
    assert len(failed) == 1
    assert failed <= {12, 13}
    kept = {row[0] for row in ledger.rows("SELECT event_id FROM assessments")}
    assert kept == {f"evt_{n}" for n in range(40) if n not in failed}
    assert ledger.size() == 39


def test_a_row_that_is_no_row_is_acknowledged_to_nobody(
    tmp_path: Path, open_at: Callable[..., Ledger]
) -> None:
    ledger = open_at(tmp_path / "ledger.db", synchronous="OFF")
    with pytest.raises((OverflowError, FailClosed)):
        ledger.record(assessed(1, at=1 << 70))
    assert ledger.record(assessed(2))
    assert ledger.rows("SELECT event_id FROM assessments") == [("evt_2",)]


def test_a_commit_that_fails_leaves_nothing_open(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "ledger.db", synchronous="OFF")
    label = Label(label_id="lb", label="chargeback", source="x", at=1, known_at=1)

    def refused_at_the_end() -> None:
        with ledger.transaction() as connection:
            connection.execute("PRAGMA defer_foreign_keys = ON")
            ledger.insert_labels(connection, [label])
            connection.execute("INSERT INTO grant_uses VALUES ('xg_absent', 1, 'p', 'c')")

    with pytest.raises(FailClosed):
        refused_at_the_end()
    assert ledger.label("lb") is None
    assert ledger.record(assessed(1))
    ledger.close()


def test_a_lost_step_that_is_answered_later_is_kept_as_it_was_answered(
    parts: Parts,
    settings: Settings,
    ask: Ask,
    consented: Callable[..., str],
    a_request: Callable[..., Any],
) -> None:
    """A worker is killed after the windows and before the ledger; upkeep keeps the step; consent
    is withdrawn; the checkout asks again."""
    record = consented(1)
    given, at = msgspec.convert(a_request(1), Given), parts.clock()
    request = pseudonym.claim(given, parts.keys, parts.regime)
    permit = gate.check(given.purpose, request, parts.ledger, at)
    assert isinstance(permit, Permit)
    event = pseudonym.seal(request, permit, parts.keys, at=at, regime=parts.regime)
    online.read_and_observe(event, parts.velocity)
    upkeep.settle(parts, at + 10**9)
    kept = parts.ledger.event("evt_0001")
    assert kept is not None
    assert kept.device is not None
    subject, events = parts.ledger.consent_record(record, parts.clock()) or (b"", [])
    gone = events[0]._replace(event_state="consent_withdrawn", event_time=parts.clock())
    parts.ledger.add_consent_event(
        subject, gone, gone.event_time, entries.consent(parts.keys, subject, gone, gone.event_time)
    )
    assert ask(1)[1]["status"] == "scored_masked"
    kept = parts.ledger.event("evt_0001")
    assert kept is not None
    assert kept.device is None
    a_notary(settings, parts).extend(parts.clock())
    assert list(verify(parts, a_notary(settings, parts))) == []


ASSESSES = """
import json, sys, threading
from pathlib import Path
import msgspec
from sectionfour import bootstrap
from sectionfour.decide import decide
from sectionfour.given import Given
from sectionfour.settings import Settings
settings = Settings(home=Path(sys.argv[1]), models=Path(sys.argv[2]), velocity_gib=0.05,
                    durability="normal", ledger=sys.argv[4] or None)
parts = bootstrap.open_parts(settings)
notary = bootstrap.open_notary(settings, parts)
body = json.loads(sys.stdin.readline())
lock = threading.Lock()
def work(worker):
    for number in range(100_000):
        body_of = {**body, "event_id": f"evt_{sys.argv[3]}_{worker}_{number}"}
        status, answer = decide(msgspec.convert(body_of, Given), b"digest", parts)
        with lock:
            print(body_of["event_id"], json.loads(answer)["assessment_id"], flush=True)
        if number % 10 == 0:
            notary.extend(parts.clock())
for worker in range(3):
    threading.Thread(target=work, args=(worker,), daemon=True).start()
threading.Event().wait()
"""


def test_what_was_acknowledged_outlives_a_killed_process(
    settings: Settings, a_request: Callable[..., dict[str, Any]]
) -> None:
    told: list[list[str]] = []
    draw = random.Random(4)
    for turn in range(3):
        command = [sys.executable, "-c", ASSESSES, str(settings.home), str(settings.models)]
        process = subprocess.Popen(
            [*command, str(turn), settings.ledger or ""],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(a_request(1)) + b"\n")
        process.stdin.flush()
        told += [process.stdout.readline().decode().split() for _ in range(draw.randrange(60, 120))]
        os.kill(process.pid, signal.SIGKILL)
        told += [line.decode().split() for line in process.communicate()[0].splitlines(True)
                 if line.endswith(b"\n")]  # fmt: skip
        assert process.returncode == -signal.SIGKILL
    parts = bootstrap.open_parts(settings)
    kept = dict(parts.ledger.rows("SELECT event_id, assessment_id FROM assessments"))
    leaves = {ref for (ref,) in parts.ledger.rows("SELECT ref FROM log")}
    assert len(told) >= 180
    assert all(kept[event] == name for event, name in told)
    assert leaves == set(kept.values())
    assert set(kept) == {row[0] for row in parts.ledger.rows("SELECT event_id FROM events")}
    notary = a_notary(settings, parts)
    assert list(verify(parts, notary)) == []
    notary.extend(parts.clock())
    assert list(verify(parts, notary)) == []
    parts.close()
