"""Receipts: what every assessment leaves behind, and how anybody can check it later.

A receipt is a leaf of an RFC 6962 log. It holds no raw identifier, no token of the serve domain,
and of what must be provable later only a commitment, whose nonce can be destroyed: the log survives
erasure. The tree is built off the request path, in `Notary.extend`.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sectionfour.privacy import merkle, notes
from sectionfour.privacy.notes import LogError

_encode = msgspec.json.Encoder(order="deterministic").encode


def canonical(receipt: dict[str, Any]) -> bytes:
    """Return the bytes of a receipt that are hashed: JSON with sorted keys and no spaces."""
    return _encode(receipt)


def commitment(nonce: bytes, *parts: bytes) -> str:
    """Return HMAC-SHA256(nonce, length-prefixed parts) in hex; the nonce gone, it says nothing."""
    message = b"".join(len(part).to_bytes(8) + part for part in parts)
    return hmac.digest(nonce, message, "sha256").hex()


class Log(Protocol):
    """The ledger, as far as the notary needs it."""

    def size(self) -> int: ...
    def leaves(self, start: int, stop: int) -> list[tuple[int, str, str, bytes]]: ...
    def node(self, level: int, index: int) -> bytes: ...
    def extend(self, at: int, note_of: Callable[[int, bytes], str]) -> tuple[int, str] | None: ...
    def checkpoints(self) -> list[tuple[int, str]]: ...
    def find(self, ref: str) -> tuple[int, bytes] | None: ...


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
        made = self._log.extend(at, self._note)
        if made is not None:
            self._witness.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(self._witness, "a", encoding="utf-8") as file:
                file.write(made[1] + "\n")
                file.flush()
                os.fsync(file.fileno())
            return made[1]
        checkpoints = self._log.checkpoints()
        return checkpoints[-1][1] if checkpoints else None

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
        checkpoints = self._log.checkpoints()
        if not checkpoints or checkpoints[-1][0] <= index:
            self.extend(at)
            checkpoints = self._log.checkpoints()
        size, note = checkpoints[-1]
        return leaf, notes.proof_text(index, merkle.inclusion_at(index, size, self._log.node), note)

    def verify(self) -> Iterator[str]:
        """Yield, in words, everything about the log that does not match; nothing when all does.

        Leaves are hashed anew, and every checkpoint of the ledger and of the witness must be the
        root of a prefix of them.
        """
        hashes: list[bytes] = []
        size = self._log.size()
        for start in range(0, size, 10_000):
            for index, _, _, leaf in self._log.leaves(start, min(size, start + 10_000)):
                if index != len(hashes):
                    yield f"entry {len(hashes)} is missing"
                    return
                hashes.append(merkle.leaf_hash(leaf))
        nodes: dict[tuple[int, int], bytes] = {
            (level, index): digest
            for level, index, digest in merkle.new_nodes(0, hashes, lambda *_: b"")
        }
        ledger = [note for _, note in self._log.checkpoints()]
        witness = read_witness(self._witness)
        for source, found in (("ledger", ledger), ("witness", witness)):
            for note in found:
                try:
                    checkpoint = notes.open_note(note, self._origin, self._key.public_key())
                except LogError as error:
                    yield f"a checkpoint of the {source} is not genuine: {error.detail}"
                    continue
                if checkpoint.size > len(hashes):
                    yield (
                        f"the {source} has a checkpoint of {checkpoint.size} entries,"
                        f" the log has {len(hashes)}: it was cut or rolled back"
                    )
                elif checkpoint.root != merkle.root_at(
                    checkpoint.size, lambda level, index: nodes[level, index]
                ):
                    yield (
                        f"the first {checkpoint.size} entries are not those that the {source}'s"
                        " checkpoint was signed for"
                    )
        if ledger and not witness:
            yield "the witness file has no checkpoint, the ledger has"
        if size and not ledger:
            yield "the ledger has entries and no checkpoint"


def read_witness(path: Path) -> list[str]:
    """Return the checkpoints in a witness file, oldest first; each ends with an empty line."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return []
    blocks = text.split("\n\n")
    # A note is its body, an empty line, its signatures: two blocks each.
    return [
        f"{body}\n\n{signed}\n" for body, signed in zip(blocks[::2], blocks[1::2], strict=False)
    ]
