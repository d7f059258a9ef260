"""The only room that holds a raw identifier: who a subject is, each under a key of their own.

A row is found by a keyed index of the member's id and opened with that person's key, of two halves:
a data key in the row, wrapped by the key-encryption key, and one that no backup has (`halves`).
Destroy the second, and every token made from the random `subject_uid` in the row is an orphan, even
for whoever holds all other keys and every older copy of the vault.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sectionfour.database import Database, closed
from sectionfour.errors import KeyringError
from sectionfour.privacy.halves import Erased, Halves, name_of
from sectionfour.privacy.keys import Keyring

SCHEMA = """
CREATE TABLE subjects (
  lookup BLOB PRIMARY KEY,
  data_key BLOB NOT NULL,
  sealed BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE aliases (token BLOB PRIMARY KEY, epoch TEXT NOT NULL, alias BLOB NOT NULL)
  WITHOUT ROWID
"""
#: Rows a transaction of what passes over all of them.
LOT = 1_000


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
    """The rows of all persons; every method raises FailClosed where the file cannot be used, and
    KeyringError where a row does not open."""

    def __init__(self, path: Path, ring: Keyring) -> None:
        with closed("vault"):
            self._database = Database(path, SCHEMA, version=2)
        self._halves = Halves(path.with_name("keys") / "persons.db")
        self._ring = ring
        self._index_key = ring.key("vault:index")
        self._decoder = msgspec.msgpack.Decoder(Person)

    def find(self, member_id: str) -> bytes | None:
        """Return the `subject_uid` of a member, or None for one never met (or erased)."""
        lookup = self._lookup(member_id)
        row = self._row(lookup)
        found = None if row is None else self._open(lookup, *row)
        return None if found is None else found.subject_uid

    def _row(self, lookup: bytes) -> tuple[bytes, bytes] | None:
        with closed("vault"):
            row: tuple[bytes, bytes] | None = self._database.read.execute(
                "SELECT data_key, sealed FROM subjects WHERE lookup = ?", (lookup,)
            ).fetchone()
        return row

    def enrol(self, member_id: str) -> bytes:
        """Return the `subject_uid` of a member, made now for one never met."""
        lookup = self._lookup(member_id)
        dead = self._row(lookup)
        found = None if dead is None else self._open(lookup, *dead)
        if found is not None:
            return found.subject_uid
        *row, name, half = self._made(member_id)
        self._halves.add([(name, half)])
        with closed("vault"), self._database.write() as connection:
            if dead is not None:  # of somebody erased, put back from a backup
                connection.execute(
                    "DELETE FROM subjects WHERE lookup = ? AND sealed = ?", (lookup, dead[1])
                )
            connection.execute("INSERT INTO subjects VALUES (?, ?, ?) ON CONFLICT DO NOTHING", row)
        again = self.find(member_id)  # another worker may have been first: its row counts
        assert again is not None
        return again

    def enrol_many(self, member_ids: list[str]) -> None:
        """Make rows for all of `member_ids` that are not yet known, in one transaction."""
        made = [self._made(member_id) for member_id in member_ids]
        self._halves.add([(name, half) for *_, name, half in made])
        with closed("vault"), self._database.write() as connection:
            connection.executemany(
                "INSERT INTO subjects VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                [row for *row, _, _ in made],
            )

    def _made(self, member_id: str) -> tuple[bytes, bytes, bytes, bytes, bytes]:
        """Return a new row for a member, and the name and the bytes of the half that opens it."""
        lookup, key, half = self._lookup(member_id), *map(secrets.token_bytes, (32, 32))
        nonce = secrets.token_bytes(12)
        person = msgspec.msgpack.encode(Person(secrets.token_bytes(16), member_id))
        sealed = nonce + AESGCM(_joined(key, half)).encrypt(nonce, person, lookup)
        return lookup, self._ring.wrap(key, lookup), sealed, name_of(sealed), half

    # --- to be forgotten

    def row_of(self, member_id: str) -> tuple[bytes, bytes] | None:
        """Return (where the row of a member is, the name of its half); None for nobody's."""
        lookup = self._lookup(member_id)
        row = self._row(lookup)
        return None if row is None else (lookup, name_of(row[1]))

    def place(self, member_id: str) -> bytes:
        """Return where the row of a member would be: a keyed digest of the id."""
        return self._lookup(member_id)

    def shred(self, lookup: bytes, erased: Erased) -> None:
        """Destroy a person's half key, and then the row; again is no news.

        Whoever was given a row at the same place since then is somebody else, and stays.
        """
        self._halves.destroy(erased)
        row = self._row(lookup)
        if row is not None and name_of(row[1]) == erased.half:
            with closed("vault"), self._database.write() as connection:
                connection.execute(
                    "DELETE FROM subjects WHERE lookup = ? AND sealed = ?", (lookup, row[1])
                )

    def mark(self, subject: bytes) -> bytes:
        """Return what an erasure is noted under: a keyed digest of the person's token. (No member's
        id has a control character: so this is the look-up of nobody.)"""
        return hmac.digest(self._index_key, b"\0" + subject, "sha256")

    def erased(self, newest: int = -1) -> list[Erased]:
        """Return the erasures on record here, the newest first; at most so many."""
        return self._halves.erased(newest)

    def forget_erased(self, before: int) -> int:
        """Forget the erasures that were asked for before `before`; return how many those were."""
        return self._halves.forget_erased(before)

    def places(self) -> dict[bytes, bytes]:
        """Return, by the name of its half, where each row is."""
        return {name_of(sealed): lookup for lookup, _, sealed in self._rows()}

    def cut(self) -> bool:
        """Empty the write-ahead logs of what was overwritten; False where that has to wait."""
        with closed("vault"):
            done = self._database.cut()
        return self._halves.cut() and done

    def clear(self) -> int:
        """Destroy every half key, then every row; returns how many of either there were."""
        count = self._halves.destroy_all()
        with closed("vault"), self._database.write() as connection:
            count += connection.execute("DELETE FROM subjects").rowcount
        self.cut()
        return count

    # --- everybody at once, and names that last

    def people(self) -> Iterator[Person]:
        """Yield everybody, for work that passes over all."""
        for lookup, wrapped, sealed in self._rows():
            person = self._open(lookup, wrapped, sealed)
            if person is not None:
                yield person

    def _rows(self) -> Iterator[tuple[bytes, bytes, bytes]]:
        after = b""
        while True:
            with closed("vault"):
                rows = self._database.read.execute(
                    "SELECT lookup, data_key, sealed FROM subjects WHERE lookup > ?"
                    " ORDER BY lookup LIMIT ?",
                    (after, LOT),
                ).fetchall()
            if not rows:
                return
            yield from rows
            after = rows[-1][0]

    def rewrap(self, progress: Callable[[int], object] = lambda count: None) -> int:
        """Wrap each data key that is not under the newest key-encryption key by that one; return
        how many there were. What is done when this breaks off stays done, and opens."""
        changed, lot = 0, list[tuple[bytes, bytes, bytes]]()
        for lookup, wrapped, _ in self._rows():
            progress(1)
            if not self._ring.is_current(wrapped, lookup):
                lot.append((self._ring.wrap(self._ring.unwrap(wrapped, lookup), lookup),
                            lookup, wrapped))  # fmt: skip
            if len(lot) == LOT:
                changed += self._exchange(lot)
                lot.clear()
        return changed + (self._exchange(lot) if lot else 0)

    def _exchange(self, lot: list[tuple[bytes, bytes, bytes]]) -> int:
        with closed("vault"), self._database.write() as connection:
            connection.executemany(
                "UPDATE subjects SET data_key = ? WHERE lookup = ? AND data_key = ?", lot
            )
        return len(lot)

    def alias(self, token: bytes) -> bytes | None:
        """Return the audit token of whoever had one before their serve token was replaced."""
        with closed("vault"):
            row = self._database.read.execute(
                "SELECT alias FROM aliases WHERE token = ?", (token,)
            ).fetchone()
        return None if row is None else row[0]

    def carry(self, epoch: str, aliases: Iterable[tuple[bytes, bytes]]) -> None:
        """Keep the audit tokens of (serve token of `epoch`, audit token)."""
        with closed("vault"), self._database.write() as connection:
            connection.executemany(
                "INSERT INTO aliases VALUES (?, ?, ?) ON CONFLICT (token) DO UPDATE"
                " SET epoch = excluded.epoch, alias = excluded.alias",
                ((token, epoch, alias) for token, alias in aliases),
            )

    def drop_alias(self, token: bytes) -> None:
        """Forget the audit token of whoever had this serve token."""
        with closed("vault"), self._database.write() as connection:
            connection.execute("DELETE FROM aliases WHERE token = ?", (token,))

    def drop_aliases(self, *, but: str) -> None:
        """Forget those of tokens of other epochs than `but`."""
        with closed("vault"), self._database.write() as connection:
            connection.execute("DELETE FROM aliases WHERE epoch <> ?", (but,))
        with closed("vault"):
            self._database.cut()

    def _lookup(self, member_id: str) -> bytes:
        return hmac.digest(self._index_key, member_id.encode(), "sha256")

    def _open(self, lookup: bytes, wrapped: bytes, sealed: bytes) -> Person | None:
        """Return who a row is of; None for somebody erased, whose row came back from a backup."""
        half = self._halves.get(name_of(sealed))
        if half is None:
            return None
        key = _joined(self._ring.unwrap(wrapped, lookup), half)
        try:
            return self._decoder.decode(AESGCM(key).decrypt(sealed[:12], sealed[12:], lookup))
        except (InvalidTag, ValueError) as error:
            raise KeyringError("a row of the vault does not open: it has been changed") from error

    def close(self) -> None:
        self._database.close()
        self._halves.close()


def _joined(key: bytes, half: bytes) -> bytes:
    """Return the key of a row: of one half alone nobody can make it."""
    return hmac.digest(key, half, "sha256")
