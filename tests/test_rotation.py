"""Epochs end while the service runs, nothing kept is lost, and what is destroyed stays so."""

from __future__ import annotations

import base64
import json
import secrets
import shutil
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sectionfour.bootstrap import open_notary, open_parts
from sectionfour.cli import main
from sectionfour.domain import Event
from sectionfour.errors import Conflict, KeyringError, NotReady
from sectionfour.features import online
from sectionfour.jobs import cessation, rotation, upkeep
from sectionfour.privacy import entries, kek
from sectionfour.privacy.kek import load_kek
from sectionfour.privacy.keys import DESTROYED, Keyring, epoch_key
from sectionfour.privacy.pseudonym import open_keys
from sectionfour.verify import verify
from sectionfour.web.keys import create_key

ENTITIES = ("phone", "email", "device", "ip", "network", "payee", "instrument", "address")


@pytest.fixture(autouse=True)
def no_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (kek.VALUE, kek.COMMAND, kek.NEXT):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def notary(app: Any) -> Any:
    return app.extensions["sectionfour.notary"]


@pytest.fixture
def scored(client, notice, a_request, a_consent) -> Any:
    """Assess number N (of a member who consented), under an id of its own; return the answer."""
    consent, checkout = client("consent"), client("checkout")
    known: set[int] = set()

    def call(number: int, event: str, **changes: Any) -> dict[str, Any]:
        if number not in known:
            assert consent.post("/v1/consents", json=a_consent(number)).status_code == 201
            known.add(number)
        answer = checkout.post("/v1/assessments", json=a_request(number, event_id=event, **changes))
        assert answer.status_code == 200, answer.json
        return dict(answer.json)

    return call


def event_of(parts: Any, name: str) -> Event:
    found = parts.ledger.event(name)
    assert found is not None
    return found


def vector_of(parts: Any, event: Event) -> list[float]:
    """Return what the windows say of an event like this one, now."""
    at = parts.velocity.exchange(b"", 0, [], 0, None)[0]
    probe = msgspec.structs.replace(event, at=at + 1)
    return [float(x) for x in online.read_and_observe(probe, parts.velocity, observe=False)[1]]


# --- serve: joins survive --------------------------------------------------------------------


def test_what_was_met_keeps_its_windows_and_what_was_not_begins_anew(parts, notary, scored):
    for n, name in enumerate(("a1", "a2", "b1")):
        scored(1 if n < 2 else 2, name)
    before = {name: event_of(parts, name) for name in ("a1", "b1")}
    first = parts.keys.ring.epoch("serve")
    assert rotation.rotate(parts) == "e02"
    assert parts.keys.ring.epoch("serve") == first == "e01"  # until the end
    scored(1, "a3")  # member 1 is met in between, member 2 is not
    met = event_of(parts, "a3")
    assert all(getattr(met, t) == getattr(before["a1"], t) for t in (*ENTITIES, "member"))
    windows = vector_of(parts, met)
    assert rotation.finish(parts, notary) == "e02" == parts.keys.ring.epoch("serve")

    after = event_of(parts, "a3")
    assert all(getattr(after, t) != getattr(met, t) for t in (*ENTITIES, "member", "order_ref"))
    assert str(vector_of(parts, after)) == str(windows)  # to the bit
    scored(1, "a4")
    assert all(
        getattr(event_of(parts, "a4"), t) == getattr(after, t)
        for t in (*ENTITIES, "member", "order_ref")
    )
    scored(2, "b2")
    old, new = event_of(parts, "b1"), event_of(parts, "b2")
    assert old.member == new.member  # the vault knows who they are
    assert old.network == new.network  # member 1 came from there, too
    apart = set(ENTITIES) - {"network"}
    assert all(getattr(old, t) != getattr(new, t) for t in apart)
    assert list(verify(parts, notary)) == []


def _kept(parts, event) -> None:
    """Keep an event as an import does, with an entry of the log for the batch."""
    with parts.ledger.transaction() as connection:
        tally, rows = parts.ledger.bring(connection, parts.keys.ring, events=[event])
        parts.ledger.log(connection, entries.brought(f"im_{event.event_id}", rows, tally, event.at))


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_windows_of_all_that_was_met_are_exact_through_any_number_of_rotations(
    tmp_path_factory, template, models, data
):
    """Against a twin that never rotates: the same events, the same vectors to the bit."""
    from sectionfour.settings import Settings

    homes = [tmp_path_factory.mktemp("twin") / "home" for _ in range(2)]
    twins = []
    for home in homes:
        shutil.copytree(template, home)
        chosen = Settings(home=home, models=models, velocity_gib=0.05, durability="normal")
        twins.append((open_parts(chosen), chosen))
    try:
        at = 1_790_000_000_000_000
        values = st.integers(0, 3)
        for step in range(data.draw(st.integers(6, 14))):
            drawn = {entity: data.draw(values) for entity in ("device", "payee", "ip")}
            member, amount = data.draw(values), data.draw(st.integers(1, 500))
            at += data.draw(st.sampled_from([1_000_000, 3_600_000_000, 86_400_000_000]))
            vectors = []
            for parts, _ in twins:
                token = parts.keys.sealing()
                event = Event(
                    event_id=f"e{step}",
                    at=at,
                    purpose="security.transaction_risk",
                    type="purchase",
                    occurred_at=at,
                    permitted=0xFFFF,
                    member=parts.keys.subject(f"member {member}", enrol=True),
                    amount=amount,
                    **{n: token("serve", n, b"%d" % v) for n, v in drawn.items()},
                )
                event, vector = online.read_and_observe(event, parts.velocity)
                _kept(parts, event)
                vectors.append(vector.tobytes())
            assert vectors[0] == vectors[1]
            parts, chosen = twins[1]
            if data.draw(st.booleans()):
                if parts.keys.ring.coming("serve") is None:
                    rotation.rotate(parts)
                    for entity in ("device", "payee", "ip"):  # all is met in between
                        for value in range(4):
                            parts.keys.sealing()("serve", entity, b"%d" % value)
                else:
                    rotation.finish(parts, open_notary(chosen, parts))
    finally:
        for parts, _ in twins:
            parts.close()


def test_consents_grants_labels_and_audit_names_outlive_their_epoch(
    parts, notary, scored, client, a_consent, an_exception, a_request
):
    """Twice, since what was carried once must be carried again."""
    scored(1, "first")
    asked, approver = client("privacy"), client("privacy", "duty_manager")
    body = an_exception()
    body["scope"]["order_id"] = a_request(1)["transaction"]["order_id"]
    grant = asked.post("/v1/exceptions", json=body).json["grant_id"]
    assert approver.post(f"/v1/exceptions/{grant}/approve").status_code == 200
    label = {"event_id": "first", "label": "chargeback", "source": "bank"}
    assert client("checkout").post("/v1/labels", json=label).status_code == 201
    label = {"member_id": "raw-member-1", "label": "legitimate", "source": "desk"}
    assert client("analyst").post("/v1/labels", json=label).status_code == 201
    subject = parts.keys.subject("raw-member-1")
    audit = parts.keys.alias(subject, "audit")
    for epoch in ("e02", "e03"):
        rotation.rotate(parts)
        scored(1, f"during {epoch}")
        assert rotation.finish(parts, notary) == epoch
        again = parts.keys.subject("raw-member-1")
        assert again != subject
        assert parts.keys.alias(again, "audit") == audit
        kept = parts.ledger.grant(grant)
        assert kept.scope.members == {again}
        assert kept.scope.order == parts.keys.order("raw-order-1")
        assert len(parts.ledger.consents(again, parts.clock())) == 1
        assert list(verify(parts, notary)) == []
        subject = again
    assert client("consent").get("/v1/members/raw-member-1/consents").json["records"]
    scored(1, "last")
    assert list(verify(parts, notary)) == []


def test_a_ledger_that_does_not_match_its_log_is_not_moved(parts, notary, scored):
    scored(1, "first")
    rotation.rotate(parts)
    with parts.ledger.transaction() as connection:
        connection.execute("UPDATE events SET amount = amount + 1")
    before = event_of(parts, "first")
    with pytest.raises(Conflict):
        rotation.finish(parts, notary)
    assert event_of(parts, "first") == before
    assert not parts.keys.ring.moving()
    assert parts.keys.ring.epoch("serve") == "e01"


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE events SET amount = amount + 1",
        "UPDATE events SET device = x'5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f'",
        "UPDATE carried SET commitment = '00'",
        "DELETE FROM carried",
        "INSERT INTO carried VALUES ('as_x', '00')",
    ],
)
def test_what_is_changed_after_a_rotation_is_found(parts, notary, scored, change):
    scored(1, "first")
    rotation.rotate(parts)
    rotation.finish(parts, notary)
    assert list(verify(parts, notary)) == []
    with parts.ledger.transaction() as connection:
        connection.execute(change)
    assert list(verify(parts, notary))


def test_the_log_matches_at_the_end_though_tokens_were_replaced(
    parts, settings, notary, scored, imported
):
    """What an import brought, a step that nobody answered, and what receipts commit to since."""
    imported()
    scored(1, "first")
    at = parts.velocity.exchange(b"", 0, [], 0, None)[0]
    lost = msgspec.structs.replace(event_of(parts, "first"), event_id="lost", at=at)
    online.read_and_observe(lost, parts.velocity)
    upkeep.upkeep(parts, notary, parts.clock() + upkeep.SETTLE_AFTER + 1_000_000)
    assert parts.ledger.event("lost") is not None
    for _ in range(2):
        rotation.rotate(parts)
        rotation.finish(parts, notary)
    assert list(verify(parts, notary)) == []
    cessation.cease(parts, notary, settings, announcement="the end", by="shell", wait=0.0)
    assert list(verify(parts, notary)) == []


STEPS = [
    ("sectionfour.jobs.rotation.settle", False),
    ("sectionfour.jobs.rotation._carried", False),
    ("sectionfour.stores.ledger.epochs._digest", False),
    ("sectionfour.jobs.rotation.rebuild", True),
    ("sectionfour.privacy.vault.Vault.drop_aliases", True),
    ("sectionfour.privacy.successors.Successors.destroy", True),
]


@pytest.mark.parametrize(("step", "moved"), STEPS)
def test_a_finish_that_is_broken_off_anywhere_is_finished_by_another(
    parts, notary, scored, settings, monkeypatch, step, moved
):
    scored(1, "first")
    rotation.rotate(parts)
    scored(1, "second")
    windows = vector_of(parts, event_of(parts, "second"))
    with monkeypatch.context() as patch:

        def broken(*_: Any, **__: Any) -> Any:
            raise KeyboardInterrupt

        patch.setattr(step, broken)
        with pytest.raises(KeyboardInterrupt):
            rotation.finish(parts, notary)
    parts.close()
    again = open_parts(settings)
    try:
        notary = open_notary(settings, again)
        assert again.keys.ring.moving() == moved
        rotation.finish(again, notary)
        assert not (settings.home / "keys" / "successors.db").exists()
        assert again.keys.ring.epoch("serve") == "e02"
        assert str(vector_of(again, event_of(again, "second"))) == str(windows)
        assert list(verify(again, notary)) == []
    finally:
        again.close()


# --- while the service runs ------------------------------------------------------------------


def test_the_service_runs_on_and_sees_each_step_at_its_next_call(
    a_server, a_request, a_consent, a_notice, tmp_path
):
    with a_server(durability="normal") as server:
        environment = {"SECTIONFOUR_HOME": str(server.home)}
        run = CliRunner(env=environment)

        def command(*words: str) -> str:
            done = run.invoke(main, ["epochs", *words], catch_exceptions=False)
            assert done.exit_code == 0, done.output
            return done.output

        assert server.call("PUT", "/v1/notices/pn_security", a_notice(), role="consent")[0] == 200
        assert server.call("POST", "/v1/consents", a_consent(), role="consent")[0] == 201
        statuses: list[int] = []
        stop = threading.Event()

        def traffic() -> None:
            connection, number = server.connect(), 0
            while not stop.is_set():
                number += 1
                body = a_request(1, event_id=f"t{number}")
                try:
                    status, _ = server.call(
                        "POST", "/v1/assessments", body, role="checkout", connection=connection
                    )
                except OSError:  # refused before its body was read, and the connection closed
                    connection.close()
                    connection, status = server.connect(), 503
                statuses.append(status)
            connection.close()

        def ten_more() -> None:
            until, there = time.monotonic() + 20, len(statuses)
            while len(statuses) < there + 10:
                assert thread.is_alive()
                assert time.monotonic() < until, server.log.read_text()
                time.sleep(0.01)

        thread = threading.Thread(target=traffic)
        thread.start()
        try:
            ten_more()
            command("rotate")
            ten_more()
            command("finish")
            ten_more()
        finally:
            stop.set()
            thread.join()
        assert set(statuses) <= {200, 503}
        assert statuses[-1] == 200
        assert "e01" in command("list")
        verified = run.invoke(main, ["verify"])
        assert verified.exit_code == 0, verified.output
        ledger = sqlite3.connect(server.home / "ledger.db")
        for column in ("member", "device", "ip", "payee"):
            # Before, between and after: one and the same, and no call was lost or half done.
            assert ledger.execute(f"SELECT COUNT(DISTINCT {column}) FROM events").fetchone() == (1,)
        assert ledger.execute("SELECT COUNT(*) FROM events").fetchone() == (statuses.count(200),)
        ledger.close()


def test_a_call_that_comes_while_tokens_are_replaced_is_told_to_try_again(parts, client, a_request):
    ring = parts.keys.ring
    with ring.change() as kept:
        kept[epoch_key("serve", "moving")] = DESTROYED
    answer = client("checkout").post("/v1/assessments", json=a_request())
    assert (answer.status_code, answer.json["type"]) == (503, "/problems/not-ready")
    line = json.dumps(a_request())
    batch = client("checkout").post("/v1/assessments/batch", data=line)
    assert json.loads(batch.get_data())["status"] == 503
    with pytest.raises(NotReady), ring.steady:
        pass
    assert parts.ledger.rows("SELECT COUNT(*) FROM assessments") == [(0,)]


def test_nobody_has_the_keys_alone_while_somebody_uses_them(tmp_path):
    one, other = (Keyring(tmp_path, b"k" * 32) for _ in range(2))
    with one.steady, one.steady, pytest.raises(KeyringError), other.turns.alone(patience=0.05):
        raise AssertionError
    with other.turns.alone(patience=0.05):
        assert not one.turns.share()
    with one.steady:
        pass


def test_whoever_wants_the_keys_alone_gets_them_though_somebody_always_uses_them(tmp_path):
    rings = [Keyring(tmp_path, b"k" * 32) for _ in range(5)]
    over, uses = threading.Event(), []

    def use(ring: Keyring) -> None:
        while not over.is_set():
            with ring.steady:
                time.sleep(0.02)
                uses.append(ring)

    threads = [threading.Thread(target=use, args=(ring,)) for ring in rings[1:]]
    for thread in threads:
        thread.start()
        time.sleep(0.005)  # one after the other, so that there is always one
    try:
        with rings[0].turns.alone(patience=2.0):
            count = len(uses)
            time.sleep(0.1)
            assert len(uses) == count
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert len(uses) > count  # who came meanwhile waited


# --- T27: what is destroyed cannot be made again ---------------------------------------------


def test_old_tokens_cannot_be_made_again_nor_led_back_to_new_ones(
    app, parts, notary, scored, settings
):
    """T27, with the KEK, the vault, every other key and every raw value at hand."""
    for number in (1, 2):
        scored(number, f"ev {number}")
    columns = ("member", "device", "phone", "email", "ip", "payee", "instrument", "address")
    old = {t: {getattr(event_of(parts, f"ev {n}"), t) for n in (1, 2)} for t in columns}
    key = parts.keys.ring._token_key("serve", "device", None)[0]
    rotation.rotate(parts)
    scored(1, "between")
    rotation.finish(parts, notary)
    parts.close()

    ring = open_keys(settings.home).ring  # the KEK and everything else
    with pytest.raises(KeyringError, match="destroyed"):
        ring.token("serve", "device", b"raw-device-1", "e01")
    for sealed in json.loads((settings.home / "keys" / "ring.json").read_text()).values():
        assert key not in base64.b64decode(sealed)
    keys = open_keys(settings.home)
    tokens_of_all_sorts = {
        keys.ring.token(domain, kind, value.encode(), epoch)
        for domain in ("serve", "train", "audit", "partner")
        for epoch in (None, "e02", "e03")
        for kind in ("subject", *columns)
        for value in ("raw-member-1", "raw-device-1", "raw-store-1", "+8613900015678")
    } | {keys.alias(t, d) for ts in old.values() for t in ts for d in ("serve", "audit")}
    everything = set().union(*old.values())
    assert not everything & tokens_of_all_sorts
    # And no table anywhere leads from an old token to a new one: outside the pages that the
    # windows have given back, and will write over, no old token is left at all.
    for path in settings.home.rglob("*"):
        if path.is_file() and "velocity" not in path.parts:
            data = path.read_bytes()
            assert not [t for t in everything if t in data or t.hex().encode() in data], path
    keys.vault.close()


def test_the_name_of_a_destroyed_epoch_is_never_made_anew(parts):
    ring = parts.keys.ring
    for domain, epoch in (("analyst", "cs_1"), ("partner:acme", "e01"), ("export:c1", "e01")):
        ring.token(domain, "device", b"d", epoch)
        rotation.destroy(parts, domain, epoch)
        for again in (ring, Keyring(ring._path.parent, load_kek(ring._path.parents[1]))):
            with pytest.raises(KeyringError, match="destroyed"):
                again.token(domain, "device", b"d", epoch)
        with pytest.raises(KeyringError):
            rotation.destroy(parts, domain, epoch)
    for domain in ("audit", "serve"):
        ring.token(domain, "device", b"d")
        with pytest.raises(KeyringError):
            rotation.destroy(parts, domain, "e01")


@pytest.mark.parametrize("domain", ["train", "partner:acme"])
def test_where_joins_are_not_to_survive_they_do_not(parts, domain):
    ring = parts.keys.ring
    seen = {ring.token(domain, "device", b"d")}
    for name in ("e02", "e03"):
        assert rotation.renew(parts, domain) == name
        token = ring.token(domain, "device", b"d")
        assert token not in seen
        seen.add(token)
        assert ring.epochs()[domain].alive == (name,)


def test_a_worker_sees_a_rotation_of_another_at_its_next_call(parts, settings):
    other = open_keys(settings.home)
    before = other.ring.token("train", "device", b"d")
    rotation.renew(parts, "train")
    with other.ring.steady:
        assert other.ring.token("train", "device", b"d") != before
        assert other.ring.token("train", "device", b"d") == parts.keys.ring.token(
            "train", "device", b"d"
        )
    other.vault.close()


# --- T12: domains cannot be joined -----------------------------------------------------------


def test_no_token_of_one_domain_is_one_of_another(parts):
    ring = parts.keys.ring
    values = [b"%d" % n for n in range(300)]
    domains = [("serve", None), ("train", None), ("audit", None), ("analyst", "cs_1")]
    domains += [("analyst", "cs_2"), ("partner:acme", None), ("partner:beta", None)]
    domains += [("export:c1", None), ("export:c2", None)]
    found = {
        (domain, epoch): {ring.token(domain, "device", value, epoch) for value in values}
        for domain, epoch in domains
    }
    assert sum(map(len, found.values())) == len(set().union(*found.values()))


@pytest.mark.parametrize("domain", ["elsewhere", "analyst:x", "serve:x", "", ":x", "Partner:x"])
def test_a_domain_outside_the_list_has_no_token(parts, domain):
    with pytest.raises(KeyringError):
        parts.keys.ring.token(domain, "device", b"d")


# --- the key-encryption key ------------------------------------------------------------------


def keks(home: Path, monkeypatch: pytest.MonkeyPatch, text: bytes) -> Any:
    monkeypatch.setenv(kek.VALUE, base64.b64encode(text).decode())
    try:
        return open_keys(home)
    finally:
        monkeypatch.delenv(kek.VALUE)


def uids(keys: Any) -> list[bytes]:
    return sorted(person.subject_uid for person in keys.vault.people())


def test_the_key_in_the_file_is_replaced_under_a_running_worker(parts, settings, monkeypatch):
    parts.keys.enrol([f"member {n}" for n in range(30)])
    worker = open_keys(settings.home)
    before, token = uids(worker), worker.ring.token("serve", "device", b"d")
    old = load_kek(settings.home)
    assert rotation.rewrap(parts, settings.home) is True
    assert load_kek(settings.home) != old
    with worker.ring.steady:
        assert uids(worker) == before
        assert worker.ring.token("serve", "device", b"d") == token
        worker.subject("somebody new", enrol=True)
    with pytest.raises(KeyringError):
        keks(settings.home, monkeypatch, old)
    again = open_keys(settings.home)
    assert again.vault.find("somebody new") is not None
    assert len(uids(again)) == 31
    for found in (worker, again):
        found.vault.close()


def test_broken_off_between_any_two_steps_both_keys_open_everything(parts, settings, monkeypatch):
    """Stopped before each of the writes in turn, until it goes through."""
    monkeypatch.setattr("sectionfour.privacy.vault.LOT", 4)
    parts.keys.enrol([f"member {n}" for n in range(10)])
    before = uids(parts.keys)
    token = parts.keys.ring.token("serve", "device", b"d")
    old = load_kek(settings.home)
    writes = ["sectionfour.privacy.keys.replace_private", "sectionfour.privacy.kek.replace_private",
              "sectionfour.privacy.vault.Vault._exchange"]  # fmt: skip
    done, stop, attempts = False, 0, 0
    while not done:
        left, attempts = stop, attempts + 1
        assert attempts < 20
        with monkeypatch.context() as patch:
            for name in writes:
                real = _found(name)

                def counted(*args: Any, _real: Any = real) -> Any:
                    nonlocal left
                    left -= 1
                    if left < 0:
                        raise KeyboardInterrupt
                    return _real(*args)

                patch.setattr(name, counted)
            try:
                rotation.rewrap(parts, settings.home)
                done = True
            except KeyboardInterrupt:
                stop = 1  # each further attempt gets one step on
        file = load_kek(settings.home)
        newest = parts.keys.ring.newest_kek
        for text in {old, file, newest} if not done else {file}:
            found = keks(settings.home, monkeypatch, text)
            assert uids(found) == before
            assert found.ring.token("serve", "device", b"d") == token
            found.subject("asked in between", enrol=False)
            found.vault.close()
    assert load_kek(settings.home) != old
    assert attempts > 6


def _found(name: str) -> Any:
    import importlib

    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError:
        module, _, owner = module.rpartition(".")
        return getattr(getattr(importlib.import_module(module), owner), attribute)


@pytest.mark.parametrize("source", [kek.VALUE, kek.COMMAND])
def test_a_key_from_elsewhere_is_replaced_in_two_steps(tmp_path, models, monkeypatch, source):
    from sectionfour.settings import Settings

    def given(value: bytes) -> None:
        text = base64.b64encode(value).decode()
        monkeypatch.setenv(source, text if source == kek.VALUE else f"echo {text}")

    old, new = secrets.token_bytes(32), secrets.token_bytes(32)
    given(old)
    chosen = Settings(home=tmp_path / "home", models=models, velocity_gib=0.05)
    parts = open_parts(chosen)
    parts.keys.enrol(["member one", "member two"])
    before = uids(parts.keys)
    with pytest.raises(KeyringError, match="SECTIONFOUR_KEK_NEXT"):
        rotation.rewrap(parts, chosen.home)
    with pytest.raises(KeyringError, match="in use"):
        rotation.rewrap(parts, chosen.home, old)
    assert rotation.rewrap(parts, chosen.home, new) is False
    with pytest.raises(KeyringError, match="not the new one"):
        rotation.forget_kek(parts, chosen.home)
    for value in (old, new):
        given(value)
        found = open_keys(chosen.home, chosen.region)
        assert uids(found) == before
        found.vault.close()
    rotation.forget_kek(parts, chosen.home)
    parts.close()
    given(old)
    with pytest.raises(KeyringError):
        open_keys(chosen.home, chosen.region)
    assert not (chosen.home / "keys" / "kek").exists()


def test_a_worker_left_with_the_old_key_writes_nothing_under_it(tmp_path, monkeypatch):
    """It cannot know the new one, so it must not make rows that nobody will open."""
    old, new = secrets.token_bytes(32), secrets.token_bytes(32)
    worker, other = (Keyring(tmp_path, old) for _ in range(2))
    worker.key("digest")
    other.change_kek(new)
    other.rewrap()
    other.forget_kek(new)
    worker.refresh()
    with pytest.raises(KeyringError):
        worker.wrap(b"k" * 32, b"a row")


# --- what is lost is missed ------------------------------------------------------------------


@pytest.mark.parametrize("gone", ["ring.json", "kek"])
def test_a_lost_file_of_keys_is_told_and_nothing_is_made_in_its_place(
    app, parts, settings, scored, gone
):
    scored(1, "first")
    parts.close()
    (settings.home / "keys" / gone).unlink()
    left = {path.name for path in (settings.home / "keys").iterdir()}
    for _ in range(2):
        with pytest.raises(KeyringError, match="gone"):
            open_parts(settings)
    assert {path.name for path in (settings.home / "keys").iterdir()} == left
    if gone == "ring.json":  # the ledger alone misses it as well
        for path in settings.home.glob("vault.db*"):
            path.unlink()
        with pytest.raises(KeyringError, match="ledger"):
            open_parts(settings)


def test_api_keys_may_be_made_before_anything_else(tmp_path, models):
    from sectionfour.parts import now
    from sectionfour.settings import Settings
    from sectionfour.stores import open_ledger

    chosen = Settings(home=tmp_path / "home", models=models, velocity_gib=0.05)
    ledger = open_ledger(f"sqlite:{chosen.home / 'ledger.db'}")
    create_key(ledger, "checkout", now())
    ledger.close()
    open_parts(chosen).close()
