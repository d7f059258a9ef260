"""Keys: one from outside, the rest random and wrapped by it; nothing is made up or overwritten."""

from __future__ import annotations

import base64
import hmac
import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sectionfour.errors import FailClosed, KeyringError
from sectionfour.privacy.kek import load_kek
from sectionfour.privacy.keys import DOMAINS, Keyring, keyed

KEK, OTHER_KEK = b"k" * 32, b"o" * 32


@pytest.fixture(autouse=True)
def no_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SECTIONFOUR_KEK", raising=False)


def ring_file(folder: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((folder / "ring.json").read_bytes())
    return found


# --- the key-encryption key ------------------------------------------------------------------


def test_the_key_is_made_once_in_a_file_for_its_owner_alone(tmp_path: Path) -> None:
    first = load_kek(tmp_path)
    file = tmp_path / "keys" / "kek"
    assert len(first) == 32
    assert load_kek(tmp_path) == first == base64.b64decode(file.read_text())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [path.name for path in file.parent.iterdir()] == ["kek"]
    assert load_kek(tmp_path / "another") != first


def test_the_environment_has_the_word_and_then_no_file_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECTIONFOUR_KEK", base64.b64encode(KEK).decode() + "\n")
    assert load_kek(tmp_path) == KEK
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "short",
        base64.b64encode(b"k" * 31).decode(),
        base64.b64encode(b"k" * 33).decode(),
        base64.b64encode(KEK).decode()[:-1],
        base64.b64encode(KEK).decode().replace("a", "!"),
        base64.b64encode(KEK).decode()[:20] + " " + base64.b64encode(KEK).decode()[20:],
        base64.urlsafe_b64encode(b"\xff" * 32).decode(),
        "\u00e9" * 44,
    ],
)
def test_a_key_that_is_not_32_bytes_in_base64_is_refused_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("SECTIONFOUR_KEK", text)
    with pytest.raises(KeyringError) as caught:
        load_kek(tmp_path)
    assert not text or text not in caught.value.detail
    monkeypatch.delenv("SECTIONFOUR_KEK")
    (tmp_path / "keys").mkdir(parents=True)
    (tmp_path / "keys" / "kek").write_bytes(text.encode("latin-1"))
    with pytest.raises(KeyringError):
        load_kek(tmp_path)
    assert (tmp_path / "keys" / "kek").read_bytes() == text.encode("latin-1")


def a_command(folder: Path, body: str) -> str:
    """Return a command, with a space in its path, that a shell script of this body answers."""
    script = folder / "a command.sh"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o700)
    return f'"{script}" some argument'


@pytest.mark.parametrize("end", ["", "\n", " \r\n"])
def test_a_command_has_the_word_and_then_no_file_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    text = base64.b64encode(KEK).decode() + end
    monkeypatch.setenv("SECTIONFOUR_KEK_COMMAND", a_command(tmp_path, f"printf '{text}'"))
    assert load_kek(tmp_path / "home") == KEK
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("echo a-secret-word; echo a-secret-word >&2; exit 3", "ended with status 3"),
        ("exit 0", "0 bytes"),
        ("echo not base64: a-secret-word", "not base64"),
        ("head -c 44 /dev/zero", "not base64"),
        ("printf '\\351%.0s' 1 2 3 4", "not base64"),
        (f"echo {base64.b64encode(b'a-secret-word').decode()}", "13 bytes"),
        ("exec sleep 60", "TimeoutExpired"),
    ],
)
def test_a_command_that_gives_no_key_is_said_to_and_nothing_that_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, why: str, caplog: Any
) -> None:
    monkeypatch.setattr("sectionfour.privacy.kek.PATIENCE", 0.5)
    monkeypatch.setenv("SECTIONFOUR_KEK_COMMAND", a_command(tmp_path, body))
    with pytest.raises(KeyringError, match=why) as caught:
        load_kek(tmp_path / "home")
    said = caught.value.detail + caplog.text
    assert "a-secret-word" not in said
    assert base64.b64encode(b"a-secret-word").decode() not in said
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("command", ["", "no-such-command-anywhere", 'an "open quotation'])
def test_a_command_that_cannot_be_run_is_said_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("SECTIONFOUR_KEK_COMMAND", command)
    with pytest.raises(KeyringError, match="cannot be run"):
        load_kek(tmp_path)


def test_a_key_and_a_command_for_one_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECTIONFOUR_KEK", base64.b64encode(KEK).decode())
    monkeypatch.setenv("SECTIONFOUR_KEK_COMMAND", "cat /dev/null")
    with pytest.raises(KeyringError, match="not both"):
        load_kek(tmp_path)


# --- the ring --------------------------------------------------------------------------------


def test_keys_are_random_kept_and_never_in_the_clear(tmp_path: Path) -> None:
    ring = Keyring(tmp_path, KEK)
    found = {name: ring.key(name) for name in ("one", "two", "digest")}
    assert len(set(found.values())) == 3
    assert {name: Keyring(tmp_path, KEK).key(name) for name in found} == found
    assert Keyring(tmp_path / "another", KEK).key("one") != found["one"]
    stored = (tmp_path / "ring.json").read_bytes()
    for key in found.values():
        for form in (key, base64.b64encode(key), key.hex().encode(), key.hex().upper().encode()):
            assert form not in stored
    assert KEK not in stored
    assert stat.S_IMODE((tmp_path / "ring.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["there", "new"])
def test_under_another_key_nothing_opens_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    Keyring(tmp_path, KEK).key("there")
    before = (tmp_path / "ring.json").read_bytes()
    with pytest.raises(KeyringError):
        Keyring(tmp_path, OTHER_KEK).key(name)
    assert (tmp_path / "ring.json").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"ring.json", "ring.lock"}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_changed_byte_of_a_wrapped_key_is_seen(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("ring")
    Keyring(folder, KEK).key("there")
    sealed = bytearray(base64.b64decode(ring_file(folder)["there"]))
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= data.draw(st.integers(1, 255))
    (folder / "ring.json").write_text(json.dumps({"there": base64.b64encode(sealed).decode()}))
    with pytest.raises(KeyringError):
        Keyring(folder, KEK).key("there")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"there": 1}', b'{"there": "%%"}', b'{"there": "AAAA"}', b"\xff\xfe"],
)
def test_a_ring_that_cannot_be_read_is_refused_and_left_alone(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "ring.json").write_bytes(content)
    for name in ("there", "new"):
        with pytest.raises(KeyringError):
            Keyring(tmp_path, KEK).key(name)
    assert (tmp_path / "ring.json").read_bytes() == content


@pytest.mark.parametrize("left", [None, b"{}", b"an older one"])
def test_a_ring_that_loses_keys_while_it_is_open_makes_no_others(
    tmp_path: Path, left: bytes | None
) -> None:
    """Under new keys every member would be a stranger, whose no was never heard."""
    ring, file = Keyring(tmp_path, KEK), tmp_path / "ring.json"
    first = ring.token("serve", "device", b"d")
    older = file.read_bytes()
    second = ring.token("train", "device", b"d")
    whole = file.read_bytes()
    later = Keyring(tmp_path, KEK)
    if left is None:
        file.unlink()
    else:
        file.write_bytes(older if left == b"an older one" else left)
    kept = file.read_bytes() if left is not None else None
    for open_ring in (ring, later, ring):
        with pytest.raises(FailClosed, match="put the newest back"):
            open_ring.refresh()
        with pytest.raises(FailClosed, match="put the newest back"):
            open_ring.token("audit", "device", b"d")
    assert (file.read_bytes() if file.exists() else None) == kept
    file.write_bytes(whole)
    ring.refresh()
    assert ring.token("serve", "device", b"d") == first
    assert ring.token("train", "device", b"d") == second


def test_two_keys_do_not_change_places(tmp_path: Path) -> None:
    ring = Keyring(tmp_path, KEK)
    ring.key("one"), ring.key("two")
    kept = ring_file(tmp_path)
    swapped = {"one": kept["two"], "two": kept["one"]}
    (tmp_path / "ring.json").write_text(json.dumps(swapped))
    with pytest.raises(KeyringError):
        Keyring(tmp_path, KEK).key("one")


def test_an_unknown_domain_has_no_key(tmp_path: Path) -> None:
    with pytest.raises(KeyringError):
        Keyring(tmp_path, KEK).token("elsewhere", "device", b"d")


# --- tokens and epochs -----------------------------------------------------------------------


def test_domain_kind_and_value_each_make_another_token(tmp_path: Path) -> None:
    ring = Keyring(tmp_path, KEK)
    kinds, values = ("subject", "device", "phone"), (b"", b"a", b"b", b"a" * 4000)
    tokens = {ring.token(d, k, v) for d in DOMAINS for k in kinds for v in values}
    assert len(tokens) == len(DOMAINS) * len(kinds) * len(values)
    assert {len(token) for token in tokens} == {16}


def test_an_epoch_destroyed_cannot_be_made_again_from_all_that_is_left(tmp_path: Path) -> None:
    """T27: the KEK, the other keys and the value are all there; the epoch's key is not."""
    ring = Keyring(tmp_path, KEK)
    value, others = b"+8613800138000", [f"epoch:{d}:e01" for d in DOMAINS if d != "serve"]
    before = ring.token("serve", "phone", value)
    for name in (*others, "digest", "vault:index"):
        ring.key(name)
    kept = ring_file(tmp_path)
    del kept["epoch:serve:e01"]
    (tmp_path / "ring.json").write_text(json.dumps(kept))
    again = Keyring(tmp_path, KEK)
    assert again.token("serve", "phone", value) != before
    assert again.token("train", "phone", value) == ring.token("train", "phone", value)


def test_each_epoch_has_a_key_of_its_own(tmp_path: Path) -> None:
    ring = Keyring(tmp_path, KEK)
    found = {ring._token_key("serve", "phone", epoch) for epoch in ("e01", "e02", "e10", "e0")}
    assert len({key for key, _ in found}) == len({prefix for _, prefix in found}) == 4


def test_what_a_token_is_made_of_does_not_run_together(tmp_path: Path) -> None:
    ring = Keyring(tmp_path, KEK)
    one = ring._token_key("serve", "phone", "e01")
    other = ring._token_key("serve", "phon", "ee01")
    assert one[1] != other[1]
    assert one[0] != other[0]


@given(st.binary(max_size=64), st.binary(max_size=70), st.lists(st.binary(max_size=200)))
def test_a_digest_under_a_key_is_hmac(key: bytes, prefix: bytes, values: list[bytes]) -> None:
    digest = keyed(key, prefix)
    for value in values:  # what was digested before leaves nothing behind
        assert digest(value) == hmac.digest(key, prefix + value, "sha256")


# --- many at once ----------------------------------------------------------------------------

MAKES = """
import sys
from pathlib import Path
from sectionfour.privacy.pseudonym import open_keys
sys.stdin.readline()
keys = open_keys(Path(sys.argv[1]))
names = [f"key {n}" for n in range(24)]
start = 6 * int(sys.argv[2])
for name in names[start:] + names[:start]:  # each begins elsewhere, so that they meet
    keys.ring.key(name)
found = [keys.ring.key(name).hex() for name in names]
found += [keys.subject(f"member {n}", enrol=True).hex() for n in range(12)]
found.append(keys.ring.token("serve", "device", b"d").hex())
print("\\n".join(found))
"""


def test_processes_that_start_at_once_agree_on_every_key_and_every_person(tmp_path: Path) -> None:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", MAKES, str(tmp_path / "home")]
    workers = [subprocess.Popen([*command, str(n)], **pipes) for n in range(4)]
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    answers = {worker.communicate()[0] for worker in workers}
    assert [worker.returncode for worker in workers] == [0] * 4
    assert len(answers) == 1
    found = answers.pop().split()
    assert len(set(found)) == len(found) == 37
    kept = Keyring(tmp_path / "home" / "keys", load_kek(tmp_path / "home"))
    assert [kept.key(f"key {n}").hex() for n in range(24)] == found[:24]
    assert {path.name for path in (tmp_path / "home" / "keys").iterdir()} == {
        "kek",
        "persons.db",
        "persons.db.lock",
        "ring.json",
        "ring.lock",
    }
