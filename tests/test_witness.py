"""A witness on another machine: what it has seen cannot be rolled back with the ledger."""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sectionfour.cli import main
from sectionfour.domain import Leaf
from sectionfour.privacy import merkle, notes
from sectionfour.privacy.notes import LogError
from sectionfour.privacy.receipts import Notary
from sectionfour.privacy.witness import Publisher, Refused, Witness, request_text, seen_by
from sectionfour.stores.ledger.rooms import Ledger
from sectionfour.witness import start

ORIGIN = "sectionfour.example/log"
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
VKEY = notes.vkey(ORIGIN, KEY.public_key())


class ALog:
    """A ledger with a notary, that grows by so many entries."""

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        self.folder = folder
        self.ledger = ledger
        self.notary = Notary(self.ledger, KEY, ORIGIN, folder / "witness.txt")

    def grow(self, count: int, word: str = "x") -> str:
        size = self.ledger.size()
        with self.ledger.transaction() as connection:
            for number in range(size, size + count):
                body = {"kind": "x", "x_id": f"{word}{number}"}
                self.ledger.log(connection, Leaf("x", f"{word}{number}", msgspec.json.encode(body)))
        note = self.notary.extend(size + count)
        assert note is not None
        return note

    def faults(self, *others: str, key: str | None = None) -> list[str]:
        return list(self.notary.verify(others={name: seen_by(name, key) for name in others}))


@pytest.fixture
def log(tmp_path: Path, open_at: Callable[..., Ledger]) -> ALog:
    (tmp_path / "log").mkdir()
    return ALog(tmp_path / "log", open_at(tmp_path / "log" / "ledger.db"))


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    return Witness(tmp_path / "witness", VKEY, "witness.example")


@pytest.fixture
def url(witness: Witness) -> Iterator[str]:
    server = start(witness)
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_each_checkpoint_is_cosigned_once_it_is_shown_to_have_grown(
    log: ALog, witness: Witness, url: str
) -> None:
    publisher = Publisher(log.ledger, url)
    assert not publisher.publish()  # nothing to tell
    for count in (1, 2, 5, 13):
        log.grow(count)
        assert publisher.publish()
        assert not publisher.publish()
    seen = seen_by(url, witness.vkey)
    assert [notes.open_note(n, ORIGIN, KEY.public_key()).size for n in seen] == [1, 3, 8, 21]
    assert log.faults(url, key=witness.vkey) == []
    # another process, which does not know what was sent, is told by the witness
    log.grow(4)
    assert Publisher(log.ledger, url).publish()
    assert len(seen_by(url)) == 5
    with pytest.raises(LogError):
        log.faults(url, key=Witness(log.folder / "other", VKEY, "witness.example").vkey)


@pytest.mark.sqlite
def test_ledger_and_file_rolled_back_together_are_found_by_the_witness(
    log: ALog, url: str, tmp_path: Path, open_at: Callable[..., Ledger]
) -> None:
    log.grow(5)
    Publisher(log.ledger, url).publish()
    log.ledger.cut()
    shutil.copytree(log.folder, tmp_path / "older")
    log.grow(4)
    Publisher(log.ledger, url).publish()
    older = ALog(tmp_path / "older", open_at(tmp_path / "older" / "ledger.db"))
    assert older.faults() == []  # nothing in the home itself can tell
    assert any("cut or rolled back" in fault for fault in older.faults(url))
    older.grow(1)
    with pytest.raises(LogError, match="cut or rolled back"):
        Publisher(older.ledger, url).publish()
    older.grow(8, "y")  # and once it has grown over the place, it is another log
    assert older.faults() == []
    assert any("not those that" in fault for fault in older.faults(url))
    with pytest.raises(LogError, match="did not grow out"):
        Publisher(older.ledger, url).publish()
    older.ledger.close()


def test_a_fork_of_the_same_size_is_refused(
    log: ALog, witness: Witness, tmp_path: Path, open_at: Callable[..., Ledger]
) -> None:
    witness.add(request_text(0, [], log.grow(5)), 7)
    other = ALog(tmp_path / "other", open_at(tmp_path / "other.db"))
    note = other.grow(5, "y")
    with pytest.raises(Refused, match="another log of this size") as refused:
        witness.add(request_text(5, [], note), 8)
    assert refused.value.status == 409
    other.ledger.close()


def test_what_is_not_signed_by_the_log_or_not_of_the_form_is_refused(
    log: ALog, witness: Witness
) -> None:
    note = log.grow(3)
    forged = notes.sign(
        notes.checkpoint_text(ORIGIN, 3, b"r" * 32), ORIGIN, Ed25519PrivateKey.generate()
    )
    elsewhere = notes.sign(notes.checkpoint_text("a/b", 3, b"r" * 32), "a/b", KEY)
    for text, status in (
        (request_text(0, [], forged), 403),
        (request_text(0, [], elsewhere), 404),
        (request_text(1, [], note), 409),
        (request_text(9, [], note), 400),
        (request_text(0, [b"h" * 32], note), 422),
        ("old 0\n?\n\n" + note, 400),
        ("new 0\n\n" + note, 400),
        ("old 00\n\n" + note, 400),
        ("", 400),
    ):
        with pytest.raises(Refused) as refused:
            witness.add(text, 1)
        assert refused.value.status == status, text
    assert witness.text() == ""
    draw = random.Random(4)
    text = request_text(0, [], note)
    for place in range(len(text) - 1):
        changed = text[:place] + draw.choice([c for c in "A0+\n " if c != text[place]])
        with pytest.raises(Refused):
            witness.add(changed + text[place + 1 :], 1)
    line = witness.add(text, 1_795_000_000)
    name, key = notes.parse_vkey(witness.vkey, cosigner=True)
    assert notes.verify_cosignature(note + line, name, key) == 1_795_000_000
    assert witness.add(request_text(3, [], note), 1_795_000_001) != line  # again is no news
    assert len(seen_by(str(witness._file))) == 1


def test_a_witness_goes_on_where_it_ended_whatever_a_crash_left(
    log: ALog, witness: Witness, tmp_path: Path
) -> None:
    witness.add(request_text(0, [], log.grow(3)), 1)
    log.grow(4)
    proof = merkle.consistency_at(3, 7, log.ledger.node)
    newest = log.ledger.newest_checkpoint()
    assert newest is not None
    whole = witness.text().encode()
    witness.add(request_text(3, proof, newest[1]), 2)
    second = witness.text().encode()
    with pytest.raises(LogError, match="another witness is at work"):
        Witness(tmp_path / "witness", VKEY, "witness.example")
    for cut in (len(whole), len(whole) + 1, len(whole) + 70, len(second) - 1):
        folder = tmp_path / f"cut-{cut}"
        shutil.copytree(tmp_path / "witness", folder)
        (folder / "witness.txt").write_bytes(second[:cut])
        again = Witness(folder, VKEY, "witness.example")
        assert again.text().encode() == whole
        again.add(request_text(3, proof, newest[1]), 2)
        assert again.text().encode() == second
    changed = bytearray(second)
    changed[len(whole) + len(ORIGIN) + 1] ^= 2  # the size of its newest checkpoint
    shutil.copytree(tmp_path / "witness", tmp_path / "changed")
    (tmp_path / "changed/witness.txt").write_bytes(changed)
    with pytest.raises(LogError):
        Witness(tmp_path / "changed", VKEY, "witness.example")


def test_over_http_it_says_why_in_the_statuses_of_the_form(log: ALog, url: str) -> None:
    def status(path: str, data: bytes | None) -> int:
        try:
            with urllib.request.urlopen(f"{url}{path}", data) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    note = log.grow(3)
    assert status("/add-checkpoint", request_text(0, [], note).encode()) == 200
    assert status("/add-checkpoint", request_text(0, [], note).encode()) == 409
    assert status("/add-checkpoint", b"\xff") == 400
    assert status("/add-checkpoint", b"x" * 70_000) == 413
    assert status("/else", b"x") == 404
    assert status("/else", None) == 404
    assert (status("/checkpoints", None), status("/vkey", None)) == (200, 200)


def test_a_witness_that_does_not_answer_is_said_and_tried_again(log: ALog, tmp_path: Path) -> None:
    log.grow(1)
    for to in ("http://127.0.0.1:9", f"{sys.executable} -c 'raise SystemExit(1)'", "/no/such"):
        publisher = Publisher(log.ledger, to)
        for _ in range(2):
            with pytest.raises(LogError):
                publisher.publish()
    file = tmp_path / "seen.txt"
    publisher = Publisher(log.ledger, f"tee -a {file}")
    publisher.publish()
    log.grow(2)
    publisher.publish()
    assert len(seen_by(str(file))) == 2
    assert log.faults(str(file)) == []


def test_the_commands_from_the_shell(
    log: ALog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-m", "sectionfour.cli", "witness", VKEY, "--bind", "127.0.0.1:0"]
    with subprocess.Popen(
        [*command, "--folder", str(tmp_path / "w")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        url = process.stderr.readline().removeprefix("listening at ").strip()
        log.grow(3)
        Publisher(log.ledger, url).publish()
        assert len(seen_by(url)) == 1
        process.terminate()
    monkeypatch.setenv("SECTIONFOUR_HOME", str(tmp_path / "home"))
    (tmp_path / "empty").touch()
    run: Any = CliRunner().invoke(main, ["verify", "--witness", str(tmp_path / "empty")])
    assert run.exit_code == 1
    assert "has seen no checkpoint" in run.output
    run = CliRunner().invoke(main, ["verify", "--witness", str(tmp_path / "absent")])
    assert run.exit_code == 1
    assert "by URL, or by the name of a file" in run.output


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_a_witness_listens_at_an_address_of_either_kind(log: ALog, tmp_path: Path) -> None:
    for number, (host, shown) in enumerate((("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"))):
        witness = Witness(tmp_path / f"w{number}", log.notary.vkey, "witness.example")
        server = start(witness, host)
        try:
            with urllib.request.urlopen(f"http://{shown}:{server.server_port}/vkey") as answer:
                assert answer.read().decode() == f"{witness.vkey}\n"
        finally:
            server.shutdown()
            server.server_close()
