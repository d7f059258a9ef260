"""The only room that holds a raw identifier: who a subject is, each under a key of their own.

A row is found by a keyed index of the member's id and opened with that person's data key, which is
wrapped by the key-encryption key. Destroy the data key, and every token made from the random
`subject_uid` in the row is an orphan, even for whoever holds all other keys.
"""

from __future__ import annotations

import hmac
import secrets
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sectionfour.database import Database, closed
from sectionfour.errors import KeyringError
from sectionfour.privacy.keys import Keyring

SCHEMA = """
CREATE TABLE subjects (
  lookup BLOB PRIMARY KEY,
  data_key BLOB NOT NULL,
  sealed BLOB NOT NULL
) WITHOUT ROWID
"""


class Person(msgspec.Struct, frozen=True):
    """What a vault row holds: the random id that tokens are made from, and the raw one."""

    subject_uid: bytes
    member_id: str

    def __repr__(self) -> str:
        return "<Person withheld>"

    __str__ = __repr__

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []

    def __reduce__(self) -> Any:
        raise TypeError("a person stays in the vault: no row of it is pickled or copied")


class Vault:
    def __init__(self, path: Path, ring: Keyring) -> None:
        with closed("vault"):
            self._database = Database(path, SCHEMA, version=1)
        self._ring = ring
        self._index_key = ring.key("vault:index")
        self._decoder = msgspec.msgpack.Decoder(Person)

    def find(self, member_id: str) -> bytes | None:
        """Return the `subject_uid` of a member, or None for one never met (or erased)."""
        lookup = self._lookup(member_id)
        with closed("vault"):
            row = self._database.read.execute(
                "SELECT data_key, sealed FROM subjects WHERE lookup = ?", (lookup,)
            ).fetchone()
        return None if row is None else self._open(lookup, *row).subject_uid

    def enrol(self, member_id: str) -> bytes:
        """Return the `subject_uid` of a member, made now for one never met."""
        found = self.find(member_id)
        if found is not None:
            return found
        lookup, uid, key = self._lookup(member_id), secrets.token_bytes(16), secrets.token_bytes(32)
        nonce = secrets.token_bytes(12)
        person = msgspec.msgpack.encode(Person(uid, member_id))
        row = (
            lookup,
            self._ring.wrap(key, lookup),
            nonce + AESGCM(key).encrypt(nonce, person, lookup),
        )
        with closed("vault"), self._database.write() as connection:
            connection.execute("INSERT INTO subjects VALUES (?, ?, ?) ON CONFLICT DO NOTHING", row)
        again = self.find(member_id)  # another worker may have been first: its row counts
        assert again is not None
        return again

    def enrol_many(self, member_ids: list[str]) -> None:
        """Make rows for all of `member_ids` that are not yet known, in one transaction."""
        rows = []
        for member_id in member_ids:
            lookup, key = self._lookup(member_id), secrets.token_bytes(32)
            nonce = secrets.token_bytes(12)
            person = msgspec.msgpack.encode(Person(secrets.token_bytes(16), member_id))
            sealed = nonce + AESGCM(key).encrypt(nonce, person, lookup)
            rows.append((lookup, self._ring.wrap(key, lookup), sealed))
        with closed("vault"), self._database.write() as connection:
            connection.executemany(
                "INSERT INTO subjects VALUES (?, ?, ?) ON CONFLICT DO NOTHING", rows
            )

    def _lookup(self, member_id: str) -> bytes:
        return hmac.digest(self._index_key, member_id.encode(), "sha256")

    def _open(self, lookup: bytes, wrapped: bytes, sealed: bytes) -> Person:
        key = self._ring.unwrap(wrapped, lookup)
        try:
            return self._decoder.decode(AESGCM(key).decrypt(sealed[:12], sealed[12:], lookup))
        except (InvalidTag, ValueError) as error:
            raise KeyringError("a row of the vault does not open: it has been changed") from error

    def close(self) -> None:
        self._database.close()
