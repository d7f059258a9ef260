"""Receipts: what every assessment leaves behind, and how anybody can check it later.

A receipt is a leaf of an RFC 6962 log. It holds no raw identifier, no token of the serve domain,
and of what must be provable later only a commitment, whose nonce can be destroyed: the log survives
erasure. The tree is built off the request path, in `Notary.extend`.
"""

from __future__ import annotations

import errno
import fcntl
import hmac
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sectionfour.domain import Event
from sectionfour.privacy import merkle, notes
from sectionfour.privacy.notes import LogError

NOBODY: Mapping[str, Sequence[str]] = MappingProxyType({})

#: Bytes from the end of the witness file in which the newest checkpoint is.
TAIL = 8_192

_encode = msgspec.json.Encoder(order="deterministic").encode


def canonical(receipt: dict[str, Any]) -> bytes:
    """Return the bytes of a receipt that are hashed: JSON with sorted keys and no spaces."""
    return _encode(receipt)


def commitment(
    nonce: bytes,
    *,
    asked: bytes,
    subject: bytes | None,
    key_id: str | None,
    vector: bytes | None,
    event: Event | None,
    answer: bytes,
) -> str:
    """Return HMAC-SHA256(nonce, what is kept of an assessment) in hex.

    The nonce gone, it says nothing. `answer` is the answer before its receipt, which names the
    leaf that this goes into; `event` is None where none is kept.
    """
    kept = msgspec.msgpack.encode((asked, subject, key_id, vector, event, answer))
    return hmac.digest(nonce, kept, "sha256").hex()


class Log(Protocol):
    """The ledger, as far as the notary needs it. Raises FailClosed where it cannot be used."""

    def size(self) -> int:
        """How many leaves there are, those that are not in the tree yet, too."""

    def leaves(self, start: int, stop: int) -> list[tuple[int, str, str, bytes]]:
        """Index, kind, name and body of the leaves from `start` to before `stop`, in order."""

    def node(self, level: int, index: int) -> bytes:
        """The hash of a complete subtree; LookupError where it is not there yet."""

    def nodes(self, level: int, start: int, stop: int) -> list[tuple[int, bytes]]:
        """Index and hash of those of one level from `start` to before `stop`, in order."""

    def extend(self, at: int, note_of: Callable[[int, bytes], str]) -> tuple[int, str] | None:
        """Keep the checkpoint of all leaves so far that `note_of(size, root)` signs, and return its
        size and note; None where no leaf is new. `at` is in microseconds."""

    def checkpoints(self) -> list[tuple[int, str]]:
        """Size and note of every checkpoint, oldest first."""

    def newest_checkpoint(self) -> tuple[int, str] | None:
        """The last of those."""

    def find(self, ref: str) -> tuple[int, bytes] | None:
        """Index and body of the newest leaf of this name."""


class Notary:
    """Signs checkpoints of the log, to the ledger and to a witness file beside it."""

    def __init__(self, log: Log, key: Ed25519PrivateKey, origin: str, witness: Path) -> None:
        self._log, self._key, self._origin, self._witness = log, key, origin, witness

    @property
    def vkey(self) -> str:
        """The verifier key that anybody needs to check this log."""
        return notes.vkey(self._origin, self._key.public_key())

    def extend(self, at: int) -> str | None:
        """Sign all leaves so far. Returns the newest checkpoint, None for an empty log."""
        with _turn(self._witness) as file:  # so that whoever is killed leaves it one behind at most
            made = self._log.extend(at, self._note)
            if made is not None:
                _append(file, f"{made[1]}\n".encode())
                return made[1]
        newest = self._log.newest_checkpoint()
        return None if newest is None else newest[1]

    def _note(self, size: int, root: bytes) -> str:
        return notes.sign(notes.checkpoint_text(self._origin, size, root), self._origin, self._key)

    def prove(self, ref: str, at: int) -> tuple[bytes, str] | None:
        """Return the leaf called `ref` and the text of its proof; None where there is none.

        A leaf that no checkpoint covers yet gets one now.
        """
        found = self._log.find(ref)
        if found is None:
            return None
        index, leaf = found
        newest = self._log.newest_checkpoint()
        if newest is None or newest[0] <= index:
            self.extend(at)
            newest = self._log.newest_checkpoint()
        assert newest is not None  # there is a leaf, so there is a checkpoint by now
        size, note = newest
        return leaf, notes.proof_text(index, merkle.inclusion_at(index, size, self._log.node), note)

    def lacking(self) -> int:
        """Return how many entries the log lacks of those that the witness file has seen: more than
        none where the ledger is an older copy."""
        try:
            with open(self._witness, "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
                newest = file.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return 0
        seen = re.findall(rf"^{re.escape(self._origin)}\n(\d+)$", newest, re.MULTILINE)
        return max(0, int(seen[-1]) - self._log.size()) if seen else 0

    def verify(
        self,
        progress: Callable[[int], object] = lambda count: None,
        others: Mapping[str, Sequence[str]] = NOBODY,
    ) -> Iterator[str]:
        """Yield, in words, everything about the log that does not match; nothing when all does.

        What entries say of other rows is for `sectionfour.verify`. Here leaves are hashed anew, and
        every checkpoint of the ledger and of the witness must be the root of a prefix of them.
        So must those that `others` have seen: witnesses elsewhere, each by what to call it.
        Holds 64 bytes a leaf. `progress` is told of leaves as they are done. May run beside a
        service: what is read first was there before what is read later.
        """
        witness = read_witness(self._witness)
        ledger = self._log.checkpoints()
        size = self._log.size()
        leaves = bytearray()
        for start in range(0, size, 10_000):
            stop = min(size, start + 10_000)
            for index, _, _, leaf in self._log.leaves(start, stop):
                if index * merkle.HASH_BYTES != len(leaves):
                    yield f"entry {len(leaves) // merkle.HASH_BYTES} is missing"
                    return
                leaves += merkle.leaf_hash(leaf)
            progress(stop - start)
        get = merkle.packed(bytes(leaves))
        yield from self._nodes(min(size, ledger[-1][0]) if ledger else 0, get)
        noted = {_body(note) for _, note in ledger}
        yield from (f"{name} has seen no checkpoint" for name, seen in others.items() if not seen)
        sources: list[tuple[str, Sequence[tuple[int | None, str]]]] = [("ledger", ledger)]
        for name, notes_of in {"witness": witness, **others}.items():
            sources.append((name, [(None, note) for note in notes_of]))
        for source, found in sources:
            for column, note in found:
                try:
                    checkpoint = notes.open_note(note, self._origin, self._key.public_key())
                except LogError as error:
                    yield f"a checkpoint of the {source} is not genuine: {error.detail}"
                    continue
                if checkpoint.size > size:
                    yield (
                        f"the {source} has a checkpoint of {checkpoint.size} entries,"
                        f" the log has {size}: it was cut or rolled back"
                    )
                elif checkpoint.root != merkle.root_at(checkpoint.size, get):
                    yield (
                        f"the first {checkpoint.size} entries are not those that the {source}'s"
                        " checkpoint was signed for"
                    )
                elif column not in (None, checkpoint.size):
                    yield f"the ledger has the checkpoint of {checkpoint.size} entries at {column}"
                elif _body(note) not in noted:
                    yield f"the ledger lacks a checkpoint of the {source}, of {checkpoint.size}"
        # A process killed between the two leaves the witness one behind, until the next.
        seen = set(witness)
        behind = next((n for n, (_, note) in enumerate(reversed(ledger)) if note in seen), 0)
        if behind > 1:
            yield f"the witness lacks the ledger's last {behind} checkpoints: it was cut"
        if ledger and not seen.intersection(note for _, note in ledger):
            yield "the witness file has no checkpoint, the ledger has"
        if size and not ledger:
            yield (
                "the ledger has entries and no checkpoint: a service signs the first soon after its"
                " start; had one been running, they were taken away"
            )

    def _nodes(self, size: int, get: merkle.Get) -> Iterator[str]:
        """Compare the stored tree, from which proofs are made, with that of the leaves."""
        level = 0
        while size >> level:
            for start in range(0, size >> level, 10_000):
                found = self._log.nodes(level, start, min(size >> level, start + 10_000))
                wrong = sum(digest != get(level, index) for index, digest in found)
                lacking = min(10_000, (size >> level) - start) - len(found)
                if wrong or lacking:
                    yield f"level {level} of the tree has {wrong} wrong hashes, and lacks {lacking}"
            level += 1


def _body(note: str) -> str:
    """Return what a note's signatures cover: who else has signed makes it no other checkpoint."""
    return note.partition("\n\n")[0]


@contextmanager
def _turn(path: Path) -> Iterator[RawIOBase]:
    """Open a file to add to, which nobody else does meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(path, "ab", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _append(file: RawIOBase, data: bytes) -> None:
    """Add to a file, on disk when this returns. OSError where it cannot be, and then no part of it
    is there: what comes later would go on in the middle of a line."""
    end = file.seek(0, os.SEEK_END)
    try:
        if (file.write(data) or 0) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(file.fileno())
    except OSError:
        file.truncate(end)
        raise


def read_witness(path: Path) -> list[str]:
    """Return the checkpoints in a witness file, oldest first; each ends with an empty line."""
    try:
        return split_notes(path.read_text("utf-8"))
    except FileNotFoundError:
        return []


def split_notes(text: str) -> list[str]:
    """Return the notes in a text, each of which ends with an empty line."""
    blocks = text.split("\n\n")
    # A note is its body, an empty line, its signatures: two blocks each.
    return [
        f"{body}\n\n{signed}\n" for body, signed in zip(blocks[::2], blocks[1::2], strict=False)
    ]
