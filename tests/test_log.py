"""T8 and T9: whatever is done to the log is found, and a stranger checks any receipt offline.

FULL_T8=1 flips every byte of 200 entries, as T8 has it; a plain run those of three.
"""

from __future__ import annotations

import base64
import os
import random
import runpy
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sectionfour.domain import Leaf
from sectionfour.privacy import merkle, notes
from sectionfour.privacy.receipts import Notary
from sectionfour.privacy.witness import Publisher, Witness, seen_by
from sectionfour.stores.sqlite import SqliteLedger
from sectionfour.witness import start

VERIFIER = runpy.run_path(str(Path(__file__).with_name("independent_verifier.py")))
FULL = "FULL_T8" in os.environ
ENTRIES, SAMPLED = 5_000, 200 if FULL else 3
ORIGIN = "sectionfour.example/log"
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)


class Ruined:
    """A log of 5,000 entries with checkpoints, a witness file, and what another machine saw."""

    def __init__(self, folder: Path, seen: list[str]) -> None:
        self.ledger = SqliteLedger(folder / "ledger.db", synchronous="OFF")
        self.file = folder / "witness.txt"
        self.notary = Notary(self.ledger, KEY, ORIGIN, self.file)
        self.seen = seen

    def run(self, sql: str, *values: Any) -> None:
        with self.ledger.transaction() as connection:
            connection.execute(sql, values)

    def faults(self, *, elsewhere: bool = False) -> list[str]:
        return list(self.notary.verify(others={"witness W": self.seen} if elsewhere else {}))


def append(ledger: SqliteLedger, start: int, stop: int, word: str = "entry") -> None:
    with ledger.transaction() as connection:
        for number in range(start, stop):
            body = msgspec.json.encode({"kind": "x", "x_id": f"{word}{number}", "at": number})
            ledger.log(connection, Leaf("x", f"{word}{number}", body))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[str]]:
    """Return folders with the log at 5,000 and at 4,000 entries, and what a witness saw."""
    folder = tmp_path_factory.mktemp("log")
    log = Ruined(folder / "log", [])
    server = start(Witness(folder / "w", notes.vkey(ORIGIN, KEY.public_key()), "witness.example"))
    publisher = Publisher(log.ledger, f"http://127.0.0.1:{server.server_port}")
    older = folder / "older"
    for size in range(0, ENTRIES, 250):
        append(log.ledger, size, size + 250)
        log.notary.extend(size)
        publisher.publish()
        if size + 250 == 4_000:
            log.ledger.rows("PRAGMA wal_checkpoint(TRUNCATE)")
            shutil.copytree(folder / "log", older)
    log.ledger.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    log.ledger.close()
    server.shutdown()
    server.server_close()
    return folder / "log", older, seen_by(str(folder / "w" / "witness.txt"))


@pytest.fixture
def opened(
    made: tuple[Path, Path, list[str]], tmp_path: Path
) -> Iterator[Callable[[Path], Ruined]]:
    found: list[Ruined] = []

    def take(folder: Path) -> Ruined:
        copy = tmp_path / f"copy-{len(found)}"
        shutil.copytree(folder, copy)
        found.append(Ruined(copy, made[2]))
        return found[-1]

    yield take
    for log in found:
        log.ledger.close()


@pytest.fixture
def log(opened: Callable[[Path], Ruined], made: tuple[Path, Path, list[str]]) -> Ruined:
    whole = opened(made[0])
    assert whole.faults(elsewhere=True) == []
    return whole


def test_every_byte_of_an_entry_counts(log: Ruined) -> None:
    draw = random.Random(8)
    tried = 0
    for index in draw.sample(range(ENTRIES), SAMPLED):
        leaf = log.ledger.leaves(index, index + 1)[0][3]
        for place in range(len(leaf)):
            changed = bytearray(leaf)
            changed[place] ^= 1 << draw.randrange(8)
            log.run("UPDATE log SET leaf = ? WHERE idx = ?", bytes(changed), index)
            assert log.faults(), f"byte {place} of entry {index} went unseen"
            tried += 1
        log.run("UPDATE log SET leaf = ? WHERE idx = ?", leaf, index)
    assert tried > 30 * SAMPLED
    assert log.faults() == []


def renumber(log: Ruined, start: int, by: int) -> None:
    log.run("UPDATE log SET idx = -idx - 1 WHERE idx >= ?", start)
    log.run("UPDATE log SET idx = -idx - 1 + ? WHERE idx < 0", by)


def drop(log: Ruined, place: int) -> None:
    log.run("DELETE FROM log WHERE idx = ?", place)
    renumber(log, place + 1, -1)


def duplicate(log: Ruined, place: int) -> None:
    renumber(log, place + 1, 1)
    log.run("INSERT INTO log SELECT idx + 1, kind, ref, leaf FROM log WHERE idx = ?", place)


def swap(log: Ruined, place: int) -> None:
    for old, new in ((place, -1), (place + 1, place), (-1, place + 1)):
        log.run("UPDATE log SET idx = ? WHERE idx = ?", new, old)


def insert(log: Ruined, place: int) -> None:
    renumber(log, place, 1)
    log.run("INSERT INTO log VALUES (?, 'x', 'forged', CAST('{}' AS BLOB))", place)


def truncate(log: Ruined, place: int) -> None:
    log.run("DELETE FROM log WHERE idx > ?", place)


@pytest.mark.parametrize("ruin", [drop, duplicate, swap, insert, truncate])
def test_an_entry_that_is_out_of_place_is_found(
    log: Ruined, ruin: Callable[[Ruined, int], None]
) -> None:
    draw = random.Random(8)
    kept = log.ledger.rows("SELECT * FROM log")
    for place in (0, 1, ENTRIES - 2, *draw.sample(range(2, ENTRIES - 2), 20 if FULL else 3)):
        ruin(log, place)
        assert log.faults(), f"{ruin.__name__} at {place} went unseen"
        log.run("DELETE FROM log")
        with log.ledger.transaction() as connection:
            connection.executemany("INSERT INTO log VALUES (?, ?, ?, ?)", kept)
    assert log.faults() == []


def forget(log: Ruined, size: int) -> None:
    """Leave no trace of what follows the first `size` entries: in no table, and in no file."""
    log.run("DELETE FROM log WHERE idx >= ?", size)
    log.run("DELETE FROM checkpoints WHERE size > ?", size)
    log.run("DELETE FROM nodes WHERE (idx + 1) << level > ?", size)
    log.file.write_text("".join(f"{note}\n" for _, note in log.ledger.checkpoints()), "utf-8")


def test_a_cut_log_with_its_witness_file_cut_alike_is_found_elsewhere(log: Ruined) -> None:
    forget(log, 4_000)
    assert log.faults() == []  # so a witness on the same disk is not enough
    assert any("cut or rolled back" in fault for fault in log.faults(elsewhere=True))


def test_a_fork_signed_with_the_very_key_is_found_elsewhere(log: Ruined) -> None:
    forget(log, 4_000)
    append(log.ledger, 4_000, 5_250, "fork")
    log.notary.extend(1)
    assert log.faults() == []
    assert any("not those that the witness W" in fault for fault in log.faults(elsewhere=True))


def test_an_old_copy_put_back_is_found_by_either_witness(
    opened: Callable[[Path], Ruined], made: tuple[Path, Path, list[str]]
) -> None:
    older = opened(made[1])
    assert older.faults() == []
    assert any("rolled back" in fault for fault in older.faults(elsewhere=True))
    older.file.write_bytes((made[0] / "witness.txt").read_bytes())  # the ledger alone
    assert any("rolled back" in fault for fault in older.faults())


def test_a_log_signed_again_with_another_key_is_found(log: Ruined) -> None:
    for size, note in log.ledger.checkpoints():
        text = notes.verified_text(note, ORIGIN, KEY.public_key())
        signed = notes.sign(text, ORIGIN, Ed25519PrivateKey.generate())
        log.run("UPDATE checkpoints SET note = ? WHERE size = ?", signed, size)
        assert any("not genuine" in fault for fault in log.faults())
        log.run("UPDATE checkpoints SET note = ? WHERE size = ?", note, size)
    assert log.faults() == []


# --- T9 --------------------------------------------------------------------------------------


def test_a_stranger_accepts_every_receipt_and_none_of_ten_thousand_changed(
    log: Ruined, record_property: Callable[[str, object], None]
) -> None:
    draw, verify = random.Random(9), VERIFIER["verify"]
    vkey = log.notary.vkey
    proven = []
    for index in draw.sample(range(ENTRIES), 200):
        found = log.notary.prove(f"entry{index}", 0)
        assert found is not None
        proven.append(found)
    passes = []
    for _ in range(5):
        begin = time.process_time()
        assert all(verify(vkey, leaf, proof) for leaf, proof in proven)
        passes.append((time.process_time() - begin) / len(proven))
    each = 1e3 * min(passes)
    record_property("ms of CPU a proof, best of 5 passes over 200", round(each, 3))
    assert each < (1 if "AUDIT" in os.environ else 5), f"{each:.2f} ms of CPU a proof"
    accepted = 0
    for number in range(10_000):
        leaf, proof = proven[number % len(proven)]
        where = draw.randrange(len(leaf) + len(proof))
        if where < len(leaf):
            body = bytearray(leaf)
            body[where] ^= 1 << draw.randrange(8)
            leaf = bytes(body)
        else:
            place = where - len(leaf)
            letter = draw.choice([c for c in "A0z+/=\n \u2014" if c != proof[place]])
            proof = proof[:place] + letter + proof[place + 1 :]
        accepted += verify(vkey, leaf, proof)
    assert accepted == 0


def test_a_log_that_grew_is_shown_to_have_by_a_route(
    client: Any, parts: Any, app: Any, settings: Any
) -> None:
    notary = app.extensions["sectionfour.notary"]
    analyst = client("analyst")
    answer = analyst.get("/v1/log/consistency?first=0")
    assert answer.json == {"first": 0, "second": 0, "consistency": []}
    roots = {}
    for size in (1, 2, 5, 11, 64):
        append(parts.ledger, parts.ledger.size(), size)
        note = notary.extend(parts.clock())
        checkpoint = notes.open_note(
            note, settings.origin, parts.keys.ring.signing("log").public_key()
        )
        roots[checkpoint.size] = checkpoint.root
    for first in roots:
        for second in roots:
            answer = analyst.get(f"/v1/log/consistency?first={first}&second={second}")
            if first > second:
                assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (400, "/first")
                continue
            proof = [base64.b64decode(digest) for digest in answer.json["consistency"]]
            assert merkle.verify_consistency(first, second, roots[first], roots[second], proof)
            wrong = roots[second][::-1]
            assert not merkle.verify_consistency(first, second, roots[first], wrong, proof)
    for query, pointer in (
        ("", "/first"),
        ("first=x", "/first"),
        ("first=-1", "/first"),
        ("first=01", "/first"),
        ("first=1&second=65", "/second"),
        (f"first=1&second={10**18}", "/second"),
    ):
        answer = analyst.get(f"/v1/log/consistency?{query}")
        assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (400, pointer)
    assert client().get("/v1/log/consistency?first=1").status_code == 401
