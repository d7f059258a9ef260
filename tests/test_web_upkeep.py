"""Upkeep: checkpoints are signed, and what the windows saw is settled with the ledger."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import threading
import time
from typing import Any

import msgspec
import numpy as np
import pytest

from sectionfour.domain import EVER, Event, Leaf
from sectionfour.errors import FailClosed
from sectionfour.features import catalog, online
from sectionfour.jobs.upkeep import SETTLE_AFTER, Upkeep, anew, fresh, upkeep
from sectionfour.loading.replay import rebuild
from sectionfour.settings import Settings
from sectionfour.web import create_app

from .redis_server import everything

LATER = SETTLE_AFTER + 1_000_000


def kept_up(app: Any, after: int = LATER) -> None:
    """Do the upkeep as if so many microseconds had passed."""
    parts = app.extensions["sectionfour"]
    upkeep(parts, app.extensions["sectionfour.notary"], parts.clock() + after)


def a_step(parts: Any, event_id: str = "evt_lost") -> Event:
    """Let the windows see an event that is then never answered, as when a worker is killed."""
    event = Event(
        event_id=event_id,
        at=parts.clock(),
        purpose="security.transaction_risk",
        type="purchase",
        occurred_at=parts.clock(),
        permitted=parts.regime.mask(["member.required", "order"]),
        member=b"m" * 16,
        payee=b"p" * 16,
        amount=100,
    )
    return online.read_and_observe(event, parts.velocity)[0]


def test_what_was_answered_is_settled_and_a_retry_still_gets_the_same_bytes(
    app, client, a_request, parts
):
    checkout = client("checkout")
    first = checkout.post("/v1/assessments", json=a_request())
    kept_up(app, after=0)
    assert len(parts.velocity.unsettled(EVER)) == 1  # too young
    kept_up(app)
    assert list(parts.velocity.unsettled(EVER)) == []
    again = checkout.post("/v1/assessments", json=a_request())
    assert again.get_data() == first.get_data()
    assert list(parts.velocity.unsettled(EVER)) == []
    assert parts.ledger.rows("SELECT COUNT(*) FROM events") == [(1,)]


def test_a_step_that_was_never_answered_becomes_an_event_of_the_ledger(app, parts):
    event = a_step(parts)
    assert parts.ledger.event("evt_lost") is None
    for _ in range(2):
        kept_up(app)
        assert parts.ledger.event("evt_lost") == event
        assert list(parts.velocity.unsettled(EVER)) == []


def test_a_lost_step_is_remembered_for_a_retry_that_comes_late(app, parts):
    event = a_step(parts)
    kept_up(app)
    again, vector = online.read_and_observe(
        msgspec.structs.replace(event, at=event.at + LATER), parts.velocity
    )
    assert again.at == event.at
    assert not np.nanmax(vector[: len(catalog.WINDOWS)] > 1e12)
    assert list(parts.velocity.unsettled(EVER)) == []


def test_the_lost_step_of_a_request_is_whole_once_the_request_is_sent_again(
    app, client, a_request, parts, down
):
    checkout = client("checkout")
    with down("record"):
        assert checkout.post("/v1/assessments", json=a_request()).status_code == 503
    (lost,) = parts.velocity.unsettled(EVER)
    kept_up(app)
    answer = checkout.post("/v1/assessments", json=a_request())
    assert answer.status_code == 200
    kept = parts.ledger.event("evt_0001")
    assert kept is not None
    assert kept.at == lost[0]
    assert list(parts.velocity.unsettled(EVER)) == []


def test_a_known_fraud_is_settled_by_its_label(app, client, a_request, parts):
    checkout = client("checkout")
    checkout.post("/v1/assessments", json=a_request())
    body = {"event_id": "evt_0001", "label": "chargeback", "source": "bank"}
    first = checkout.post("/v1/labels", json=body)
    kept_up(app)
    assert list(parts.velocity.unsettled(EVER)) == []
    assert parts.ledger.rows("SELECT COUNT(*) FROM events") == [(1,)]
    assert checkout.post("/v1/labels", json=body).json == first.json
    assert list(parts.velocity.unsettled(EVER)) == []


def test_the_step_of_a_label_waits_for_its_label(app, client, a_request, parts, down):
    checkout = client("checkout")
    checkout.post("/v1/assessments", json=a_request())
    body = {"event_id": "evt_0001", "label": "chargeback", "source": "bank"}
    with down("add_label"):
        assert checkout.post("/v1/labels", json=body).status_code == 503
    for _ in range(2):
        kept_up(app)
        (step,) = parts.velocity.unsettled(EVER)
    said = checkout.post("/v1/labels", json=body).json
    kept_up(app)
    assert list(parts.velocity.unsettled(EVER)) == []
    label = parts.ledger.label(said["label_id"])
    assert label is not None
    assert label.at == step[0]
    assert parts.ledger.rows("SELECT COUNT(*) FROM events") == [(1,)]


def assert_windows_are_the_ledgers(parts: Any) -> None:
    held = everything(parts.velocity, b"W")
    rebuild(parts)
    assert held == everything(parts.velocity, b"W") != {}


def test_windows_made_anew_have_what_was_on_its_way_to_the_ledger(
    app, client, a_request, parts, monkeypatch
):
    record, seen, go_on = type(parts.ledger).record, threading.Event(), threading.Event()

    def slow(ledger: Any, row: Any) -> bool:
        seen.set()
        assert go_on.wait(20)
        return bool(record(ledger, row))

    monkeypatch.setattr(type(parts.ledger), "record", slow)
    checkout, other = client("checkout"), client("checkout")
    done: list[int] = []
    call = threading.Thread(
        target=lambda: done.append(checkout.post("/v1/assessments", json=a_request()).status_code)
    )
    making = threading.Thread(target=lambda: done.append(anew(parts)))
    call.start()
    assert seen.wait(20)
    making.start()
    making.join(0.3)
    for path in ("/v1/assessments", "/v1/assessments/batch"):  # and nobody waits for it
        said = other.post(path, json=a_request(2))
        assert b"made anew: try again soon" in said.get_data()
    go_on.set()
    for thread in (call, making):
        thread.join()
    assert done == [200, 1]
    assert_windows_are_the_ledgers(parts)
    assert other.post("/v1/assessments", json=a_request(2)).status_code == 200
    assert_windows_are_the_ledgers(parts)


def test_a_step_without_an_answer_is_in_windows_made_anew_and_sent_again_counts_once(
    app, client, a_request, parts, down
):
    checkout = client("checkout")
    with down("record"):
        assert checkout.post("/v1/assessments", json=a_request()).status_code == 503
    assert anew(parts) == 1
    lost = parts.ledger.event("evt_0001")
    assert checkout.post("/v1/assessments", json=a_request()).status_code == 200
    assert parts.ledger.event("evt_0001") == lost
    assert_windows_are_the_ledgers(parts)


def test_a_label_without_an_answer_is_not_in_windows_made_anew_until_it_is_sent_again(
    app, client, a_request, parts, down
):
    checkout = client("checkout")
    checkout.post("/v1/assessments", json=a_request())
    body = {"event_id": "evt_0001", "label": "chargeback", "source": "bank"}
    with down("add_label"):
        assert checkout.post("/v1/labels", json=body).status_code == 503
    assert anew(parts) == 1
    assert checkout.post("/v1/labels", json=body).status_code == 201
    assert_windows_are_the_ledgers(parts)
    assert anew(parts) == 2


def test_over_windows_that_were_made_in_part_nobody_is_scored(app, client, a_request, parts):
    checkout = client("checkout")
    checkout.post("/v1/assessments", json=a_request())
    parts.velocity.clear()  # and killed
    said = checkout.post("/v1/assessments", json=a_request(2))
    assert (said.status_code, said.json["type"]) == (503, "/problems/not-ready")
    assert client().get("/readyz").status_code == 503
    assert anew(parts) == 1
    assert checkout.post("/v1/assessments", json=a_request(2)).status_code == 200
    assert_windows_are_the_ledgers(parts)


def test_windows_are_not_behind_for_a_call_that_comes_while_they_are_looked_at(
    app, client, a_request, parts, monkeypatch
):
    checkout = client("checkout")
    exchange = type(parts.velocity).exchange
    asked = iter([True])

    def answered_meanwhile(store: Any, *given: Any) -> Any:
        found = exchange(store, *given)
        if next(asked, False):
            assert checkout.post("/v1/assessments", json=a_request()).status_code == 200
        return found

    monkeypatch.setattr(type(parts.velocity), "exchange", answered_meanwhile)
    assert fresh(parts)
    assert next(asked, None) is None


def test_many_steps_are_settled_in_batches(app, parts):
    for number in range(1203):
        a_step(parts, f"evt_{number}")
    kept_up(app)
    assert list(parts.velocity.unsettled(EVER)) == []
    assert parts.ledger.rows("SELECT COUNT(*) FROM events") == [(1203,)]


def test_the_log_is_signed_and_nothing_new_is_not_signed_again(app, client, parts):
    client("checkout")
    kept_up(app)
    kept_up(app)
    assert [size for size, _ in parts.ledger.checkpoints()] == [1]
    assert list(app.extensions["sectionfour.notary"].verify()) == []


def test_a_serving_worker_signs_at_intervals_and_once_more_at_its_end(settings: Settings):
    quick = dataclasses.replace(settings, checkpoint_seconds=0.05)
    app = create_app(quick, upkeep=True)
    parts, thread = app.extensions["sectionfour"], app.extensions["sectionfour.jobs.upkeep"]
    assert isinstance(thread, Upkeep)

    def new_entry() -> None:
        from sectionfour.web.keys import create_key

        create_key(parts.ledger, "checkout", parts.clock())

    try:
        new_entry()
        deadline = time.monotonic() + 10
        while not parts.ledger.checkpoints() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert [size for size, _ in parts.ledger.checkpoints()] == [1]
        new_entry()
    finally:
        thread.stop()
    assert parts.ledger.checkpoints()[-1][0] == 2
    parts.close()


def test_an_application_that_is_not_a_serving_worker_keeps_nothing_up(app):
    assert "sectionfour.jobs.upkeep" not in app.extensions


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FailClosed("the ledger cannot be used"), "upkeep: fail-closed: the ledger cannot be used"),
        (OSError(errno.ENOSPC, "No space left on device"), "upkeep: No space left on device"),
    ],
)
def test_upkeep_goes_on_after_a_turn_that_failed(
    settings: Settings, monkeypatch, caplog, error, told
):
    app = create_app(dataclasses.replace(settings, checkpoint_seconds=0.02))
    parts, notary = app.extensions["sectionfour"], app.extensions["sectionfour.notary"]
    turns = []

    def failing_once(at: int) -> None:
        turns.append(at)
        if len(turns) == 1:
            raise error

    monkeypatch.setattr(notary, "extend", failing_once)
    thread = Upkeep(parts, notary, dataclasses.replace(settings, checkpoint_seconds=0.02))
    deadline = time.monotonic() + 10
    while len(turns) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    thread.stop()
    parts.close()
    assert len(turns) >= 3
    assert told in caplog.text


def test_of_several_workers_one_is_at_it_until_it_ends(app, client, settings: Settings):
    parts, notary = app.extensions["sectionfour"], app.extensions["sectionfour.notary"]
    quick = dataclasses.replace(settings, checkpoint_seconds=0.02)
    client("checkout")
    with open(settings.home / "upkeep.lock", "w") as another:
        fcntl.flock(another, fcntl.LOCK_EX)
        thread = Upkeep(parts, notary, quick)
        time.sleep(0.2)
        assert parts.ledger.checkpoints() == []
    thread.stop()
    assert len(parts.ledger.checkpoints()) == 1


def test_the_tree_grows_in_bites_and_the_next_checkpoint_signs_what_it_holds(app, parts):
    notary = app.extensions["sectionfour.notary"]
    for number in range(23):
        with parts.ledger.transaction() as connection:
            parts.ledger.log(connection, Leaf("test", f"{number}", b"leaf %d" % number))
        if number % 5 == 0:
            assert parts.ledger.grow(2) == (2 if number else 1)
    while parts.ledger.grow(3):
        pass
    assert parts.ledger.checkpoints() == []
    note = notary.extend(parts.clock())
    assert note is not None
    assert note.splitlines()[1] == "23"
    assert list(notary.verify()) == []
    assert [size for size, _ in parts.ledger.checkpoints()] == [23]


def test_two_who_let_the_tree_grow_at_once_make_one_tree(app, parts):
    with parts.ledger.transaction() as connection:
        for number in range(2000):
            parts.ledger.log(connection, Leaf("test", f"{number}", b"leaf %d" % number))

    def grow() -> None:
        while parts.ledger.grow(7):
            pass

    threads = [threading.Thread(target=grow) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    notary = app.extensions["sectionfour.notary"]
    notary.extend(parts.clock())
    assert list(notary.verify()) == []
