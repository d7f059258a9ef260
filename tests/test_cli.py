"""The command line where it is mistyped: one line that says what was wanted, and no traceback."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from sectionfour import simulate
from sectionfour.cli import main
from sectionfour.commands.opened import address
from sectionfour.jobs.upkeep import alone
from sectionfour.learning import registry
from sectionfour.stores import open_ledger
from sectionfour.trial.demo import MARKER
from sectionfour.web.keys import list_keys


@pytest.fixture(autouse=True)
def a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    monkeypatch.setenv("SECTIONFOUR_HOME", str(home))
    monkeypatch.setenv("SECTIONFOUR_VELOCITY_GIB", "0.05")
    return home


@pytest.fixture
def taken() -> Iterator[str]:
    """An address where something listens that shares its port, as the workers of a service do."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield f"127.0.0.1:{other.getsockname()[1]}"


def said(*command: str) -> tuple[int, str]:
    """Return the exit status and all that a command printed; what it raises is raised."""
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    return done.exit_code, done.output


@pytest.mark.parametrize("command", [("serve",), ("demo",), ("witness", "vkey")])
def test_nothing_is_started_where_something_listens(command, taken, a_home):
    status, output = said(*command, "--bind", taken)
    assert status == 2
    assert "nothing can listen there: Address already in use" in output
    assert not a_home.exists()


@pytest.mark.parametrize(
    "bind", ["8400", "localhost:", ":8400", "localhost:http", "127.0.0.1:65536", "127.0.0.1:9e9"]
)
def test_an_address_that_is_none_is_refused(bind):
    for command in (("serve",), ("demo",), ("witness", "vkey")):
        status, output = said(*command, "--bind", bind)
        assert status == 2
        assert "HOST:PORT is needed, like 127.0.0.1:8400" in output


def test_a_name_that_nobody_has_is_refused():
    status, output = said("serve", "--bind", "no.such.host.invalid:8400")
    assert status == 2
    assert "nothing can listen there" in output


def test_a_host_may_be_a_name_and_an_address_be_shut_in_brackets(monkeypatch):
    both = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0))]
    both += [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]
    with monkeypatch.context() as changed:
        changed.setattr(socket, "getaddrinfo", lambda *args, **more: both)
        assert str(address("localhost:0")) == "127.0.0.1:0"
    if socket.has_ipv6:
        assert str(address("[::1]:0")) == "[::1]:0"


def test_a_demonstration_leaves_a_home_alone_whose_service_runs(a_home):
    a_home.mkdir()
    (a_home / MARKER).touch()
    with alone(a_home):
        status, output = said("demo", "--once", "--bind", "127.0.0.1:0")
    assert status == 1
    assert "a service runs in" in output
    assert (a_home / MARKER).exists()


def test_a_home_that_cannot_be_is_said_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for home in ("/proc/none", str(tmp_path / "file")):
        monkeypatch.setenv("SECTIONFOUR_HOME", home)
        for command in (("verify",), ("keys", "list"), ("train",), ("demo", "--once")):
            status, output = said(*command)
            assert status == 1
            assert output.startswith(f"Error: home cannot be {home}: ")


@pytest.mark.parametrize(
    "command",
    [("train", "--since"), ("train", "--until"), ("evaluate", "account", "--since"),
     ("drift", "--until"), ("clusters", "--from"), ("import", "handbook", "x", "--until"),
     ("benchmark", "handbook", "--data", "x", "--train-start")],
)  # fmt: skip
def test_a_date_that_is_none_is_refused_and_named(command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("x").touch()
    for date in ("yesterday", "2026-02-30", "1795623592"):
        status, output = said(*command, date)
        assert status == 2
        assert f"Invalid value for '{command[-1]}'" in output


@pytest.mark.parametrize(
    "command",
    [("simulate", "--out", "x", "--events", "100"), ("simulate", "--out", "x", "--days", "3"),
     ("bench", "--members", "0"), ("bench", "--connections", "0"), ("bench", "--seconds", "-1")],
)  # fmt: skip
def test_a_number_that_nothing_can_be_done_with_is_refused(command):
    status, output = said(*command)
    assert status == 2
    assert f"Invalid value for '{command[-2]}'" in output


@pytest.mark.parametrize(
    "command",
    [("import", "handbook"), ("benchmark", "handbook", "--data"), ("audit-set",)],
)
def test_a_file_of_another_kind_is_refused_by_its_name(command, tmp_path):
    file = tmp_path / "notes.parquet"
    file.write_text("no parquet")
    status, output = said(*command, str(file))
    assert status == 1
    assert "Error: notes.parquet cannot be read as a parquet file" in output


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://example.com", "127.0.0.1:8400"])
def test_a_load_that_goes_nowhere_says_so_and_leaves_no_key_behind(url, a_home):
    status, output = said("bench", "--url", url)
    assert status == 1
    assert "nothing listens at" in output or "a port of this machine" in output
    ledger = open_ledger(f"sqlite:{a_home / 'ledger.db'}")
    try:
        kept = list_keys(ledger)
    finally:
        ledger.close()
    assert len(kept) == 2
    assert all(key.revoked_at is not None for key in kept)


def test_what_was_imported_is_signed_for_and_verified(tmp_path):
    """Also where no service has run yet."""
    simulate.write(simulate.simulate(seed=4, events=3_000, days=10), tmp_path / "market")
    status, output = said("import", "events", str(tmp_path / "market"))
    assert status == 0
    assert "kept " in output
    status, output = said("verify")
    assert status == 0
    assert "entries match their checkpoints and the witness" in output


def test_who_promotes_and_what_is_looked_at_before_anything_is_measured(monkeypatch):
    monkeypatch.setenv("SECTIONFOUR_MODELS", str(Path(__file__).parents[1] / "models"))
    promote = ("models", "promote", "transaction", "none")
    status, output = said(*promote, "--by", "k_0000000000000000")
    assert status == 1
    assert "no standing key of this id has the role" in output
    key = said("keys", "create", "--role", "trainer")[1]
    key_id = key.split("\n")[1].partition(":")[0]
    status, output = said(*promote, "--by", key_id)
    assert status == 1
    assert output.startswith("Error: model transaction/none is not there")


@pytest.fixture
def registry_of(tmp_path, monkeypatch):
    """A copy of the models that come along, and the version of each that is served."""
    folder = tmp_path / "models"
    shutil.copytree(Path(__file__).parents[1] / "models", folder)
    monkeypatch.setenv("SECTIONFOUR_MODELS", str(folder))
    return folder, {name: registry.current(folder, name) for name in registry.NAMES}


@pytest.mark.parametrize("file", ["model.onnx", "card.json", "manifest.json"])
def test_a_model_that_was_changed_is_listed_as_such_and_its_card_not_shown(registry_of, file):
    folder, served = registry_of
    version = served["transaction"]
    status, output = said("models", "list")
    assert (status, "cannot be opened" in output) == (0, False)
    assert json.loads(said("models", "card", "transaction")[1])["version"] == version
    path = folder / "transaction" / version / file
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    status, output = said("models", "list")
    assert status == 0
    [line] = [line for line in output.splitlines() if version in line]
    assert line.startswith(f"* transaction {version}: cannot be opened, ")
    assert "changed" in line
    assert f"* account {served['account']}\n" in output
    status, output = said("models", "card", "transaction")
    assert status == 1
    assert output.startswith("Error: model transaction/")
    assert output.count("\n") == 1


def test_what_is_served_and_gone_or_unreadable_is_listed(registry_of, a_home):
    folder, served = registry_of
    shutil.rmtree(folder / "account" / served["account"])
    (folder / "transaction" / "CURRENT").write_bytes(b"\n")
    status, output = said("models", "list")
    assert status == 0
    assert "! transaction: models/transaction/CURRENT is empty; promote a version" in output
    assert f"\n  transaction {served['transaction']}\n" in output
    assert f"* account {served['account']}: cannot be opened, model account/" in output
    assert not a_home.exists()  # to look makes no home


@pytest.mark.parametrize(
    "words",
    [("card",), ("compare",), ("challenge", "v"), ("dismiss", "v"), ("promote", "v", "--by", "k"),
     ("rollback", "--by", "k")],
)  # fmt: skip
def test_a_model_that_there_is_none_of_is_a_typo(words, a_home):
    status, output = said("models", words[0], "transactions", *words[1:])
    assert status == 2
    assert "there is no such model; there are transaction, account" in output
    assert not a_home.exists()
