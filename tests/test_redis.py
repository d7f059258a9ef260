"""The windows on Redis: in every state those of LMDB, and what a server does that a file does
not."""

from __future__ import annotations

import json
import shutil
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
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sectionfour.domain import DAY, EVENT_TYPES, EVER, FRAUD, HOUR, KNOWN, SECOND, Event
from sectionfour.errors import FailClosed, HistoryError, NotReady, SettingsError
from sectionfour.features.catalog import NAMES, YEAR
from sectionfour.features.online import Velocity, read_and_observe
from sectionfour.privacy import inventory
from sectionfour.stores import open_velocity
from sectionfour.stores import redis as redis_store
from sectionfour.stores.loader import loading

from .by_definition import features as by_definition
from .redis_server import RedisServer, everything

START = 1_700_000_000 * SECOND
Url = Callable[[Path], str]


def an_event(number: int = 0, at: int = START, **fields: Any) -> Event:
    given = {"type": "purchase", "purpose": "p", "occurred_at": at, "event_id": f"e{number}"}
    return Event(**(given | {"at": at, "member": b"m" * 16, "amount": 3} | fields))


def purchases(store: Velocity) -> float:
    """Return how many the member of `an_event` has made in the hour before now."""
    _, vector = read_and_observe(an_event(10**6), store, observe=False)
    return float(vector[NAMES.index("member_purchases_1h")])


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server of one's own, to be killed."""
    server = RedisServer()
    yield server
    server.remove()


@pytest.fixture
def store(redis: Url, tmp_path: Path) -> Iterator[Velocity]:
    store = open_velocity(redis(tmp_path), new=True)
    yield store
    store.close()


# --- whatever is done, the two stores hold the same ------------------------------------------

TOKENS = {
    name: st.none() | st.sampled_from([f"{name:_<15}{n}".encode() for n in (0, 1)])
    for name in ("member", "device", "ip", "network", "payee", "instrument", "address", "phone")
}
BODIES = st.fixed_dictionaries(
    TOKENS | {"type": st.sampled_from([*EVENT_TYPES, "purchase", FRAUD]),
              "amount": st.none() | st.integers(0, 10**12),
              "place": st.none() | st.sampled_from([1, 7 << 20])})  # fmt: skip
STEPS = st.sampled_from([0, 1, SECOND, HOUR - 1, HOUR, DAY, 30 * DAY, YEAR])


class Both(RuleBasedStateMachine):
    """One past, in both stores."""

    urls: tuple[str, str]

    def __init__(self) -> None:
        super().__init__()
        self.stores = [open_velocity(url, gib=0.05, new=True) for url in self.urls]
        for store in self.stores:
            store.empty()  # what is remembered for a retry outlasts `clear`
            store.clear()
            store.load([])
        self.now, self.events = START, list[Event]()

    def teardown(self) -> None:
        for store in self.stores:
            store.close()

    def both(self, do: Callable[[Velocity], Any]) -> Any:
        one, other = (do(store) for store in self.stores)
        assert one == other
        return one

    @rule(body=BODIES, step=STEPS)
    def observe(self, body: dict[str, Any], step: int) -> None:
        self.now += step
        self.seen(an_event(len(self.events), self.now, **body))

    @precondition(lambda self: self.events)
    @rule(data=st.data())
    def again(self, data: st.DataObject) -> None:
        self.seen(data.draw(st.sampled_from(self.events)))

    def seen(self, event: Event) -> None:
        def step(store: Velocity) -> tuple[Event, bytes]:
            event_, vector = read_and_observe(event, store)
            return event_, vector.tobytes()

        kept, _ = self.both(step)
        self.now = max(self.now, kept.at)
        if kept.at not in {e.at for e in self.events}:
            self.events.append(kept)

    @rule(body=BODIES)
    def ask(self, body: dict[str, Any]) -> None:
        event = an_event(-1, self.now, **body)
        self.both(lambda s: read_and_observe(event, s, observe=False)[1].tobytes())

    @rule(bodies=st.lists(BODIES, max_size=4), step=STEPS)
    def load(self, bodies: list[dict[str, Any]], step: int) -> None:
        new = []
        for body in bodies:
            self.now += step + 1
            new.append(an_event(len(self.events) + len(new), self.now, **body))
        self.both(lambda s: s.load(new))
        self.events += new

    @rule(member=TOKENS["member"].filter(bool))
    def forget(self, member: bytes) -> None:
        theirs = [event for event in self.events if event.member == member]
        self.both(lambda s: s.forget(member, theirs, lambda *_: []))
        self.events = [event for event in self.events if event.member != member]

    @rule(back=st.sampled_from([YEAR, 2 * YEAR]))
    def expire(self, back: int) -> None:
        self.both(lambda s: s.expire(self.now - back))

    @rule(back=st.sampled_from([0, HOUR]), forget=st.booleans())
    def settle(self, back: int, forget: bool) -> None:
        due = self.both(lambda s: list(s.unsettled(self.now - back)))
        self.both(lambda s: s.settle([entry[:2] for entry in due], forget=forget))

    @rule()
    def empty(self) -> None:
        self.both(lambda s: s.empty() > 0)
        self.now += 2 * YEAR  # what is remembered of it here is in no window
        self.events.clear()

    @invariant()
    def hold_the_same(self) -> None:
        one, other = (everything(store, b"WIOA") for store in self.stores)
        assert one == other
        assert all(store.fresh for store in self.stores)


def test_whatever_is_done_redis_holds_what_lmdb_holds(redis: Url, tmp_path: Path) -> None:
    Both.urls = f"lmdb:{tmp_path}", redis(tmp_path)
    quick = settings(
        max_examples=120, stateful_step_count=20, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    Both.TestCase.settings = quick
    Both.TestCase("runTest").runTest()


# --- several at once -------------------------------------------------------------------------

AT_ONCE = """
import sys, random
import msgspec
from sectionfour.domain import Event
from sectionfour.features.online import read_and_observe
from sectionfour.stores import open_velocity

store = open_velocity(sys.argv[1], gib=0.05)
sys.stdout.buffer.write(b"ready")
sys.stdout.flush()
events = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=list[Event])
seen = [read_and_observe(event, store) for event in events]
store.close()
sys.stdout.buffer.write(msgspec.msgpack.encode([(e, v.tobytes()) for e, v in seen]))
"""


def at_once(url: str, shares: list[list[Event]]) -> list[list[tuple[Event, np.ndarray]]]:
    """Return what processes that begin together are given for their shares."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    command = [sys.executable, "-c", AT_ONCE, url]
    workers = [subprocess.Popen(command, **pipes) for _ in shares]
    assert [worker.stdout.read(5) for worker in workers] == [b"ready"] * len(shares)
    for worker, share in zip(workers, shares, strict=True):
        worker.stdin.write(msgspec.msgpack.encode(share))
    for worker in workers:
        worker.stdin.close()
    said = [worker.stdout.read() for worker in workers]
    for worker in workers:
        worker.stdout.close()
    assert [worker.wait(timeout=60) for worker in workers] == [0] * len(workers)
    found = [msgspec.msgpack.decode(one, type=list[tuple[Event, bytes]]) for one in said]
    return [[(event, np.frombuffer(vector)) for event, vector in one] for one in found]


def a_crowd(count: int, who: str, seed: int) -> list[Event]:
    """Return events of all kinds, all about now, of three members on two devices."""
    rng = np.random.default_rng(seed)
    kinds = [*EVENT_TYPES, *["purchase"] * 8, FRAUD, FRAUD]
    few = {"member": 3, "device": 2, "ip": 2, "payee": 2, "instrument": 2, "address": 2, "phone": 2}
    return [
        an_event(
            at=START + int(rng.integers(0, 50)) * SECOND,
            event_id=f"{who}{number}",
            type=str(rng.choice(kinds)),
            amount=int(rng.integers(0, 1000)),
            **{
                name: None if n == most else f"{name:_<15}{n}".encode()
                for name, most in few.items()
                for n in [int(rng.integers(0, most + 1))]
            },
        )
        for number in range(count)
    ]


def test_steps_of_processes_at_once_are_a_past_like_any_other(
    windows_of: Url, tmp_path: Path
) -> None:
    """No two have one instant, and what each has read is by definition what was before it."""
    url = windows_of(tmp_path)
    open_velocity(url, gib=0.05, new=True).close()
    shares = [a_crowd(70, who, seed) for seed, who in enumerate("abc")]
    found = [pair for share in at_once(url, shares) for pair in share]
    past = sorted((event for event, _ in found), key=lambda event: event.at)
    assert len({event.at for event in past}) == len(past) == 210
    for event, vector in found:
        if event.type not in KNOWN:
            np.testing.assert_array_equal(vector, by_definition(event, past))


def test_one_event_sent_to_several_at_once_counts_once(windows_of: Url, tmp_path: Path) -> None:
    url = windows_of(tmp_path)
    store = open_velocity(url, gib=0.05, new=True)
    whose = [b"m" * 16, None]  # who is nobody has no card on which they would meet
    events = [an_event(n, START + n, member=whose[n % 2]) for n in range(80)]
    found = at_once(url, [events] * 4)
    for one in zip(*found, strict=True):
        assert len({(event.at, vector.tobytes()) for event, vector in one}) == 1
    assert len(store.unsettled(EVER)) == 80
    assert purchases(store) == 40
    store.close()


def test_who_is_erased_or_swept_while_all_are_at_it_is_gone_and_nobody_else(
    redis: Url, tmp_path: Path
) -> None:
    """A long change of a card that everybody visits does get its turn."""
    url = redis(tmp_path)
    store = open_velocity(url, new=True)
    device = b"d" * 16
    theirs = [an_event(n, START - DAY + n, member=b"g" * 16, device=device) for n in range(3_000)]
    rest = [an_event(10**4 + n, START - HOUR + n, device=device) for n in range(2_000)]
    store.load([*theirs, *rest])
    stop, made, faults = threading.Event(), list[int](), list[Exception]()

    def work(who: int) -> None:
        mine = open_velocity(url)
        try:
            while not stop.is_set():
                number = 10**5 + len(made)
                read_and_observe(an_event(event_id=f"{who}.{number}", device=device), mine)
                made.append(number)
        except FailClosed as error:
            faults.append(error)
        mine.close()

    threads = [threading.Thread(target=work, args=(who,)) for who in range(3)]
    for thread in threads:
        thread.start()
    while len(made) < 5:
        time.sleep(0.01)
    store.forget(b"g" * 16, theirs, lambda *_: [])
    before = len(made)
    while len(made) < before + 5:  # they go on
        time.sleep(0.01)
    stop.set()
    for thread in threads:
        thread.join()
    assert faults == []
    assert not [key for key in everything(store) if b"g" * 16 in key]
    probe = an_event(10**6, START + SECOND, device=device)
    _, vector = read_and_observe(probe, store, observe=False)
    found = dict(zip(NAMES, vector, strict=True))
    assert found["device_events_1h"] == len(made) + len([e for e in rest if e.at > probe.at - HOUR])
    assert found["device_members_30d"] == 1
    store.close()


def test_who_asked_the_others_to_wait_and_died_holds_them_up_for_a_moment(store, redis_server):
    with store._server.asking() as ask:
        ask(("SET", b"H", b"a dead one", "PX", 700))
    began = time.monotonic()
    read_and_observe(an_event(), store)
    assert 0.4 < time.monotonic() - began < redis_store.PATIENCE
    assert purchases(store) == 1


def test_who_comes_to_nothing_gives_up_in_time(store, monkeypatch):
    monkeypatch.setattr(redis_store, "PATIENCE", 0.2)
    with store._server.asking() as ask:
        ask(("SET", b"H", b"a greedy one", "PX", 60_000))
    with pytest.raises(FailClosed, match="busy"):
        read_and_observe(an_event(), store)
    assert purchases(store) == 0  # to evaluate waits for nobody


# --- out of reach ----------------------------------------------------------------------------


def test_a_server_that_was_killed_and_started_has_all_that_it_acknowledged(server):
    store = open_velocity(server.url(), new=True)
    seen = []

    def send() -> None:
        for number in range(10**4):
            read_and_observe(an_event(number, START + number), store)
            seen.append(number)

    threading.Timer(0.5, lambda: server.process.send_signal(signal.SIGKILL)).start()
    with pytest.raises(FailClosed):
        send()
    with pytest.raises(FailClosed):
        purchases(store)
    server.end()
    server.start()
    # What was under way may have arrived, and its retry is not counted again.
    assert purchases(store) in (len(seen), len(seen) + 1)
    event, _ = read_and_observe(an_event(len(seen)), store)
    assert event.at >= START + len(seen)  # the clock is there too
    assert purchases(store) == len(seen) + 1 > 1
    assert len(store.unsettled(EVER)) == len(seen) + 1
    store.close()


def test_a_server_that_does_not_answer_is_not_waited_for(server):
    store = open_velocity(server.url() + "?socket_timeout=0.3", new=True)
    read_and_observe(an_event(), store)
    server.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(FailClosed):
        read_and_observe(an_event(1), store)
    assert time.monotonic() - began < 2
    server.process.send_signal(signal.SIGCONT)
    # What was sent to it came to nothing: it was never told to carry it out.
    assert purchases(store) == 1
    assert read_and_observe(an_event(1), store)[0].at > START
    assert purchases(store) == 2
    store.close()


def test_a_full_server_fails_closed_and_keeps_what_it_has(server):
    store = open_velocity(server.url(), new=True)
    read_and_observe(an_event(), store)
    with server.client() as client:
        client.config_set("maxmemory", "1mb")
        with pytest.raises(FailClosed):
            read_and_observe(an_event(1), store)
        assert purchases(store) == 1
        client.config_set("maxmemory", 0)
    read_and_observe(an_event(1), store)
    assert purchases(store) == 2
    store.close()


def test_what_the_server_could_not_carry_out_whole_is_not_acknowledged(store):
    read_and_observe(an_event(), store)
    with store._server.asking() as ask:
        ask(("DEL", b"O"), ("SET", b"O", b"of somebody else"))
    with pytest.raises(FailClosed):
        read_and_observe(an_event(1), store)


@pytest.mark.parametrize("url", ["redis://:sesame@127.0.0.1:1/0", "unix:///nowhere/redis.sock"])
def test_a_server_that_is_not_there_fails_closed(url):
    with pytest.raises(FailClosed) as said:
        open_velocity(url)
    assert "sesame" not in f"{said.value} {said.value.__cause__}"


# --- lost, and known to be lost --------------------------------------------------------------


def test_what_was_emptied_is_not_scored_over(server):
    """Not by whoever has it open, and not by whoever opens it then."""
    store = open_velocity(server.url(), new=True)
    read_and_observe(an_event(), store)
    with server.client() as client:
        client.flushall()
    for turn, one in enumerate((store, open_velocity(server.url()))):
        for observe in (True, False):
            with pytest.raises(NotReady, match="rebuild"):
                read_and_observe(an_event(1), one, observe=observe)
        assert not one.fresh
        one.load([an_event(5, START + turn)])  # what comes after does not make up for what went
        assert not one.fresh
    store.clear()
    store.load([an_event(5)])
    assert store.fresh
    assert purchases(store) == 1
    store.close()


def test_what_was_put_back_as_it_was_earlier_is_not_scored_over(server, tmp_path):
    store, other = (open_velocity(server.url(), new=True) for _ in range(2))
    read_and_observe(an_event(), store)
    server.end()
    shutil.copytree(server.folder, tmp_path / "backup")
    server.start()
    read_and_observe(an_event(1, START + 1), store)
    server.end()
    shutil.copytree(tmp_path / "backup", server.folder, dirs_exist_ok=True)
    server.start()
    with pytest.raises(NotReady, match="rebuild"):
        read_and_observe(an_event(2, START + 2), store)
    with pytest.raises(NotReady, match="rebuild"):  # who has not seen it is told
        read_and_observe(an_event(3, START + 3), other)
    other.clear()
    other.load([an_event()])
    read_and_observe(an_event(4), store)
    assert purchases(store) == 2
    store.close()
    other.close()


def test_once_another_home_has_begun_in_what_was_emptied_it_is_its_own(server):
    store = open_velocity(server.url(), home=b"a" * 16, new=True)
    read_and_observe(an_event(), store)
    with server.client() as client:
        client.flushall()
    other = open_velocity(server.url(), home=b"b" * 16, new=True)
    read_and_observe(an_event(2), other)
    before = everything(other)
    assert len(other.unsettled(EVER)) == 1
    for touch in (
        lambda: read_and_observe(an_event(3), store),
        lambda: store.unsettled(EVER),
        lambda: store.settle([(START, b"k" * 16)], forget=True),
        lambda: store.forget(b"m" * 16, [an_event(2)], lambda *_: []),
        lambda: store.expire(START + DAY),
        lambda: store.load([an_event(4, START + 1)]),
        store.empty,
        store.clear,
    ):
        with pytest.raises(NotReady):
            touch()
        assert everything(other) == before
    assert not store.fresh
    assert other.fresh
    store.close()
    other.close()


def test_a_home_that_lost_its_windows_half_made_has_them_still(server):
    """However far they had come: whose they are is told by what is there."""
    for _ in range(2):
        store = open_velocity(server.url(), home=b"a" * 16)  # and so it is not whole
        with pytest.raises(SettingsError, match="another home"):
            open_velocity(server.url(), home=b"b" * 16, new=True)
        store.clear()
        with pytest.raises(SettingsError, match="another home"):
            open_velocity(server.url(), home=b"b" * 16, new=True)

        def meanwhile(count: int) -> None:
            with pytest.raises(SettingsError, match="another home"):
                open_velocity(server.url(), home=b"b" * 16)

        store.load([an_event()], meanwhile)
        assert store.fresh
        store.close()


def test_while_a_load_is_under_way_nobody_is_scored(store):
    told: list[int] = []

    def one_comes(count: int) -> None:
        with pytest.raises(NotReady):
            read_and_observe(an_event(), store)
        told.append(count)

    store.load([an_event(1), an_event(2, START + 1)], one_comes)
    assert told == [2]
    read_and_observe(an_event(), store)
    assert purchases(store) == 3


@pytest.mark.parametrize("when", [1, 2])
@pytest.mark.parametrize("how", ["emptied", "made anew by another"])
def test_a_load_during_which_the_rest_went_does_not_make_whole(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, how: str, when: int
) -> None:
    monkeypatch.setattr(redis_store, "LOT", 1)
    store, other = open_velocity(server.url(), new=True), open_velocity(server.url())
    lots: list[int] = []

    def meanwhile(count: int) -> None:
        lots.append(count)
        if len(lots) == when and how == "emptied":
            with server.client() as client:
                client.flushall()
        elif len(lots) == when:
            other.clear()

    store.clear()
    with pytest.raises(NotReady):
        store.load([an_event(1), an_event(2, START + 1)], meanwhile)
    assert not store.fresh
    open_velocity(server.url()).close()  # and is still ours
    store.close()
    other.close()


def test_an_opening_that_is_no_beginning_is_not_fresh(redis, tmp_path):
    store = open_velocity(redis(tmp_path))
    assert not store.fresh
    assert not open_velocity(redis(tmp_path), new=True).fresh  # nor is one that comes later


# --- the whole service -----------------------------------------------------------------------


def test_a_service_whose_windows_are_there(
    a_server: Any, server: RedisServer, a_request: Any, a_consent: Any, a_notice: Any
) -> None:
    """Two workers; then the windows are emptied, made anew, and their server killed and started."""
    url = server.url(7)

    def held() -> dict[bytes, bytes]:
        store = open_velocity(url)
        found = everything(store, b"W")
        store.close()
        return found

    with a_server(velocity=url) as service:

        def call(role: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
            status, said = service.call(method, path, body, role=role)
            return status, json.loads(said)

        def ask(name: str) -> tuple[int, Any]:
            return call("checkout", "POST", "/v1/assessments", a_request(event_id=name))

        def of(number: int) -> list[int]:
            found = []

            def one(n: int) -> None:
                found.append(ask(f"evt_{number}_{n}")[0])

            threads = [threading.Thread(target=one, args=(n,)) for n in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return found

        assert call("consent", "PUT", "/v1/notices/pn_security", a_notice())[0] == 200
        assert call("consent", "POST", "/v1/consents", a_consent())[0] == 201
        assert of(1) == [200] * 8
        assert not (service.home / "velocity").exists()
        windows = held()
        assert windows
        with server.client() as client:
            client.flushall()
        status, said = ask("evt_2_0")
        assert (status, said["type"]) == (503, "/problems/not-ready")
        assert "outcome" not in said
        assert service.call("GET", "/readyz")[0] == 503
        command = [sys.executable, "-m", "sectionfour.cli"]
        done = subprocess.run([*command, "rebuild"], env=service.environment, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert held() == windows
        assert service.call("GET", "/readyz")[0] == 200
        assert of(2) == [200] * 8
        server.end(signal.SIGKILL)
        status, said = ask("evt_3_0")
        assert (status, said["type"]) == (503, "/problems/fail-closed")
        assert service.call("GET", "/readyz")[0] == 503
        server.start()
        assert ask("evt_3_0")[0] == 200
        path = "/v1/members/raw-member-1/erasure"
        assert call("privacy", "POST", path, {"trigger": "cancellation"})[0] == 202
        assert {key[1] for key in held()} & {0, 1, 4} == set()  # address, device, ip: hers alone
        assert service.stop() == 0
        service.start()
        assert "made anew" not in service.log.read_text()
        done = subprocess.run([*command, "verify"], env=service.environment, capture_output=True)
        assert done.returncode == 0, done.stdout
        assert service.stop() == 0
        with server.client() as client:
            client.flushall()
        service.start()  # for good: an emptied database is made anew before anything is served
        assert "made anew" in service.log.read_text()


def test_an_import_fills_them_from_a_process_of_its_own(redis: Url, tmp_path: Path) -> None:
    events = [an_event(number, START + number) for number in range(50)]
    store = open_velocity(redis(tmp_path), new=True)
    with loading(redis(tmp_path), gib=1) as load:
        assert load(events) == 50
    assert store.fresh
    assert purchases(store) == 50
    with pytest.raises(HistoryError), loading(redis(tmp_path), gib=1) as load:
        load(events)
    assert not store.fresh
    store.close()


# --- what is demanded of a server ------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--appendonly", "no"), "appendonly yes, and its is no"),
        (("--appendfsync", "everysec"), "appendfsync always, and its is everysec"),
        (("--no-appendfsync-on-rewrite", "yes"), "no-appendfsync-on-rewrite no"),
        (("--maxmemory-policy", "allkeys-lru"), "noeviction, and its is allkeys-lru"),
        (("--maxmemory-policy", "volatile-ttl"), "noeviction, and its is volatile-ttl"),
    ],
)
def test_a_server_that_may_lose_or_evict_is_refused_whenever_it_is_met(server, options, told):
    store = open_velocity(server.url(), new=True)
    read_and_observe(an_event(), store)
    server.end()
    server.options = options
    server.start()
    for _ in range(2):
        with pytest.raises(NotReady, match=told):
            read_and_observe(an_event(1), store)
    with pytest.raises(NotReady, match=told):
        open_velocity(server.url())
    store.close()


@pytest.mark.parametrize("options", [("--appendonly", "no"), ("--appendfsync", "no")])
def test_a_server_that_may_lose_is_for_one_run_of_it(server, options):
    """What it has after a restart may be all or not: either way it is not scored over."""
    server.end()
    server.options = options
    server.start()
    store, other = (open_velocity(server.url(), new=True, synchronous="NORMAL") for _ in range(2))
    read_and_observe(an_event(), store)
    assert purchases(other) == 1
    server.end(signal.SIGKILL)
    server.start()
    for one in (store, other, open_velocity(server.url(), synchronous="NORMAL")):
        with pytest.raises(NotReady, match="rebuild"):
            read_and_observe(an_event(1), one)
        assert not one.fresh
    store.clear()
    store.load([an_event()])
    read_and_observe(an_event(1), other)
    assert purchases(store) == 2
    with pytest.raises(NotReady, match="append"):
        open_velocity(server.url())
    store.close()
    other.close()


def test_a_server_that_keeps_all_is_the_same_store_for_whoever_asks_for_less(server):
    store = open_velocity(server.url(), new=True)
    read_and_observe(an_event(), store)
    less = open_velocity(server.url(), synchronous="NORMAL")
    server.end(signal.SIGKILL)
    server.start()
    assert purchases(less) == purchases(store) == 1
    store.close()
    less.close()


def test_a_server_that_does_not_tell_is_refused(server):
    server.end()
    server.options = ("--rename-command", "CONFIG", "")
    server.start()
    with pytest.raises((NotReady, FailClosed)):
        open_velocity(server.url(), new=True)


def test_what_is_not_ours_is_not_opened(redis_server, redis, tmp_path, monkeypatch):
    url = redis(tmp_path)
    with redis_server.client(int(url.rpartition("/")[2])) as client:
        client.set("a session", "of another application")
        with pytest.raises(SettingsError, match="database of their own"):
            open_velocity(url, new=True)
        assert client.dbsize() == 1
    for wrong in ("redis:nothing", "redis://host?socket_timeout=soon", "http://host/0"):
        with pytest.raises(SettingsError):
            open_velocity(wrong)
    for name in ("sectionfour.redis", "sectionfour.stores.hand", "sectionfour.stores.redis"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(SettingsError, match=r"sectionfour\[redis\]"):
        open_velocity(url)


def test_the_driver_is_imported_only_when_asked_for():
    command = "import sys, sectionfour.stores, sectionfour.web; print('redis' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", command], capture_output=True, check=True)
    assert said.stdout == b"False\n"


def test_nothing_expires_and_each_key_space_is_in_the_inventory(store):
    for number in range(3):
        read_and_observe(an_event(number, device=b"d" * 16, payee=b"p" * 16), store)
    with store._server.asking() as ask:
        (names,) = ask(("KEYS", "*"))
        assert set(ask(*(("TTL", name) for name in names))) == {-1}
    named = {kept.name for kept in inventory.load().of("velocity")}
    assert {chr(name[0]) for name in names} == named


def test_what_is_emptied_is_emptied_on_the_servers_disk(server):
    store = open_velocity(server.url(), new=True)
    read_and_observe(an_event(member=b"a member's token"), store)
    assert b"a member's token" in server.told()
    assert store.empty() > 0
    for _ in range(100):
        server.forget()
        told = server.told()
        if b"a member's token" not in told:
            break
        time.sleep(0.05)
    assert b"a member's token" not in told
    assert store.fresh
    assert store.empty() == 0
    store.close()
