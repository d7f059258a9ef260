"""The vault: the only room with raw identifiers, each under a key that can be destroyed."""

from __future__ import annotations

import base64
import json
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sectionfour.errors import FailClosed, KeyringError
from sectionfour.privacy.keys import Keyring
from sectionfour.privacy.pseudonym import Keys, open_keys
from sectionfour.privacy.vault import Vault

NAMES = ["Anna.Example@example.com", "+8613800138000", "Membre-\u00e9\u4f8b-0001", "a" * 128]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def keys(home: Path) -> Iterator[Keys]:
    found = open_keys(home)
    yield found
    found.vault.close()


def forms(name: str) -> Iterator[bytes]:
    """Yield the ways in which a name might be left lying about."""
    for text in {name, name.upper(), name.lower()}:
        for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
            data = text.encode(encoding)
            yield data
            yield data.hex().encode()
            yield data.hex().upper().encode()
            yield data[::-1]
            for start in range(3):  # wherever it begins within a longer text in base64
                whole = base64.b64encode(b"\0" * start + data)
                yield whole[4 if start else 0 : len(whole) - 4]
        yield json.dumps(text).strip('"').encode()


def test_no_file_holds_a_raw_id_in_any_form(home: Path, keys: Keys) -> None:
    uids = []
    for name in NAMES:
        keys.subject(name, enrol=True)
        uids.append(keys.vault.find(name))
    keys.vault.enrol_many([f"{name}-of-many" for name in NAMES])
    stored = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert len(stored) > 4096
    for name in NAMES:
        assert not [form for form in forms(name) if len(form) > 5 and form in stored]
    for uid in uids:
        assert uid is not None
        assert uid not in stored
        assert uid.hex().encode() not in stored


def test_a_person_keeps_their_uid_and_no_two_share_one(keys: Keys, home: Path) -> None:
    uids = {name: keys.vault.enrol(name) for name in NAMES}
    assert len(set(uids.values())) == len(NAMES)
    assert {len(uid) for uid in uids.values()} == {16}
    keys.vault.enrol_many([*NAMES, "somebody new"])
    again = open_keys(home)
    assert {name: again.vault.find(name) for name in NAMES} == uids
    assert again.vault.find("somebody new") is not None
    assert again.vault.find("nobody") is None
    again.vault.close()


def test_the_uid_is_not_made_from_the_name(tmp_path: Path) -> None:
    homes = [open_keys(tmp_path / name) for name in ("one", "two")]
    assert homes[0].vault.enrol("m_1") != homes[1].vault.enrol("m_1")
    for found in homes:
        found.vault.close()


def test_looking_for_somebody_does_not_enrol_them(keys: Keys) -> None:
    assert keys.subject("m_1") is None
    assert keys.vault._database.read.execute("SELECT COUNT(*) FROM subjects").fetchone() == (0,)


def test_threads_that_enrol_at_once_agree(keys: Keys) -> None:
    found: list[tuple[bytes, ...]] = []

    def enrol() -> None:
        found.append(tuple(keys.vault.enrol(f"m_{n}") for n in range(20)))

    threads = [threading.Thread(target=enrol) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(found)) == 1


def destroy(vault: Vault, name: str) -> None:
    """Destroy a person's data key, as erasure will."""
    with vault._database.write() as connection:
        connection.execute(
            "UPDATE subjects SET data_key = zeroblob(60) WHERE lookup = ?", (vault._lookup(name),)
        )


def test_a_destroyed_data_key_orphans_every_token_of_that_person(
    home: Path, keys: Keys, raw: Callable[[str], str]
) -> None:
    name = raw("raw-member-shredded")
    token = keys.subject(name, enrol=True)
    assert token is not None
    other = keys.subject("m_other", enrol=True)
    aliases = {keys.alias(token, domain) for domain in ("train", "audit")}
    destroy(keys.vault, name)
    with pytest.raises(KeyringError):
        keys.subject(name)
    # All that is left: every key of the ring, the sealed row, the name itself.
    left = open_keys(home)
    index, ring = left.vault._lookup(name), left.ring
    (sealed,) = left.vault._database.read.execute(
        "SELECT sealed FROM subjects WHERE lookup = ?", (index,)
    ).fetchone()
    for guess in (name.encode(), index, sealed, sealed[:12], sealed[12:28], sealed[-16:]):
        assert ring.token("serve", "subject", guess) != token
    assert left.subject("m_other") == other
    # The row gone as well, the same name is another person.
    with left.vault._database.write() as connection:
        connection.execute("DELETE FROM subjects WHERE lookup = ?", (index,))
    assert left.subject(name) is None
    fresh = left.subject(name, enrol=True)
    assert fresh is not None
    assert fresh != token
    assert not aliases & {left.alias(fresh, domain) for domain in ("train", "audit")}
    left.vault.close()


def test_a_row_does_not_open_in_the_place_of_another(keys: Keys) -> None:
    keys.vault.enrol("m_1"), keys.vault.enrol("m_2")
    one, two = (keys.vault._lookup(name) for name in ("m_1", "m_2"))
    with keys.vault._database.write() as connection:
        connection.execute(
            "UPDATE subjects SET (data_key, sealed) ="
            " (SELECT data_key, sealed FROM subjects WHERE lookup = ?) WHERE lookup = ?",
            (one, two),
        )
    with pytest.raises(KeyringError):
        keys.vault.find("m_2")


@pytest.mark.parametrize("column", ["data_key", "sealed"])
@pytest.mark.parametrize("value", ["x''", "x'00'", "zeroblob(60)", "zeroblob(200)"])
def test_a_changed_row_does_not_open(keys: Keys, column: str, value: str) -> None:
    keys.vault.enrol("m_1")
    with keys.vault._database.write() as connection:
        connection.execute(f"UPDATE subjects SET {column} = {value}")
    with pytest.raises(KeyringError):
        keys.vault.find("m_1")


def test_under_another_key_the_vault_neither_opens_nor_changes(home: Path, tmp_path: Path) -> None:
    keys = open_keys(home)
    uid = keys.vault.enrol("m_1")
    keys.vault.close()
    before = (home / "vault.db").read_bytes()
    with pytest.raises(KeyringError):
        Vault(home / "vault.db", Keyring(home / "keys", b"o" * 32))
    with pytest.raises(KeyringError):  # another ring, sound in itself
        Vault(home / "vault.db", another_ring(home, tmp_path)).find("m_1")
    assert (home / "vault.db").read_bytes() == before
    again = open_keys(home)
    assert again.vault.find("m_1") == uid
    again.vault.close()


def another_ring(home: Path, tmp_path: Path) -> Keyring:
    """Return a ring that finds rows by the same index, and wraps under another KEK."""
    index = open_keys(home).ring.key("vault:index")
    ring = Keyring(tmp_path / "other", b"o" * 32)
    ring._open["vault:index"] = index
    return ring


def test_a_vault_that_cannot_be_read_fails_closed(home: Path, keys: Keys) -> None:
    keys.vault.enrol("m_1")
    shutil.copy(home / "vault.db", home / "copy.db")
    with keys.vault._database.write() as connection:
        connection.execute("DROP TABLE subjects")
    with pytest.raises(FailClosed):
        keys.subject("m_1")
    with pytest.raises(FailClosed):
        keys.subject("m_2", enrol=True)
    with pytest.raises(FailClosed):
        keys.vault.enrol_many(["m_3"])
    (home / "garbage.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(FailClosed):
        Vault(home / "garbage.db", keys.ring)


def test_a_replaced_vault_takes_nobody_in(home: Path, keys: Keys) -> None:
    keys.vault.enrol("m_1")
    (home / "vault.db").rename(home / "moved.db")
    sqlite3.connect(home / "vault.db").close()
    with pytest.raises(FailClosed):
        keys.vault.enrol("m_2")
