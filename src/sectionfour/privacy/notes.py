"""The texts that leave the house about the receipt log: checkpoints, proofs and the log's key.

A *note* is text with signature lines under it; a *checkpoint* is a note that states the size and
the root of the log; a *proof* places one leaf under a checkpoint. All three can be checked offline,
by anybody who has the log's verifier key (`vkey`). Forms: C2SP signed-note, tlog-checkpoint and
tlog-proof@v1; signatures: Ed25519 (type 0x01), and a witness's cosignature/v1 (type 0x04), which
says at what time this was the largest checkpoint that it had seen.

Text in, values out: no file, no clock, no store, and no private key but the one handed to `sign`.
Reading is strict. A number with a leading zero, base64 that is not in its one canonical form, a
carriage return, a line too many: each is refused, so that no two texts mean the same and a changed
byte cannot go unseen. Two things stand outside what this log signs, as the forms will have it: the
`extra` line of a proof, and signatures by keys other than ours, which are passed over.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sectionfour.errors import SectionFourError
from sectionfour.privacy import merkle

PROOF_HEADER = "c2sp.org/tlog-proof@v1"

_ED25519 = b"\x01"
_COSIGNATURE = b"\x04"
_KEY_BYTES = 32
_ID_BYTES = 4
_BLANK = "\n\n"
_MAX_SIGNATURES = 32  # the form asks that at least 16 be read
_MAX_HASHES = 63  # the height of a tree of 2**63 leaves

_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")
_NAME = re.compile(r"[^\s+]+")
_SIGNATURE = re.compile(r"\u2014 ([^\s+]+) ([A-Za-z0-9+/]+=*)")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_KEY_ID = re.compile(r"[0-9a-f]{8}")


class LogError(SectionFourError):
    """A checkpoint, a proof or a key of the log is not of its form, or does not hold."""

    code, title = "log", "The log cannot be trusted"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a log: its name, the number of leaves, and the 32 bytes of the root."""

    origin: str
    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Proof:
    """What a tlog-proof holds: a place, the audit path from it, and the note that ends it.

    Nothing in it is verified yet, and nothing ever vouches for `extra`.
    """

    index: int
    hashes: tuple[bytes, ...]
    note: str
    extra: bytes | None = None


# Keys


def key_id(name: str, public_key: Ed25519PublicKey, kind: bytes = _ED25519) -> bytes:
    """Return the 4 bytes by which a signature line names its key; a hint, not a proof."""
    seed = name.encode() + b"\n" + kind + public_key.public_bytes_raw()
    return sha256(seed).digest()[:_ID_BYTES]


def vkey(name: str, public_key: Ed25519PublicKey, *, cosigner: bool = False) -> str:
    """Return the verifier key, NAME+ID+KEY: one line that an auditor keeps."""
    _check_name(name)
    kind = _COSIGNATURE if cosigner else _ED25519
    return "+".join(
        (
            name,
            key_id(name, public_key, kind).hex(),
            _base64(kind + public_key.public_bytes_raw()),
        )
    )


def parse_vkey(text: str, *, cosigner: bool = False) -> tuple[str, Ed25519PublicKey]:
    """Return the name and the key in a verifier key; LogError unless its parts agree."""
    kind = _COSIGNATURE if cosigner else _ED25519
    name, *rest = text.split("+", 2)  # base64 has a plus of its own
    if len(rest) != 2 or not _KEY_ID.fullmatch(rest[0]):
        raise LogError("a verifier key reads NAME+ID+KEY, with the id as 8 hexadecimal digits")
    _check_name(name)
    raw = _unbase64(rest[1])
    if len(raw) != 1 + _KEY_BYTES or raw[:1] != kind:
        of = "a witness" if cosigner else "this log"
        raise LogError(f"a verifier key of {of} is of type {kind[0]}, Ed25519, and holds 32 bytes")
    public_key = Ed25519PublicKey.from_public_bytes(raw[1:])
    if key_id(name, public_key, kind).hex() != rest[0]:
        raise LogError("the id in the verifier key does not belong to its name and key")
    return name, public_key


# Notes and checkpoints


def checkpoint_text(origin: str, size: int, root: bytes) -> str:
    """Return the text that a checkpoint's signature covers: three lines (C2SP tlog-checkpoint).

    Raises LogError for an origin, a size or a root that cannot be in one.
    """
    _check_name(origin)
    if size < 0 or not _NUMBER.fullmatch(str(size)) or len(root) != merkle.HASH_BYTES:
        raise LogError(f"a checkpoint needs a size from 0 on and a root of 32 bytes, got {size}")
    return f"{origin}\n{size}\n{_base64(root)}\n"


def sign(text: str, name: str, private_key: Ed25519PrivateKey) -> str:
    """Return the note that holds `text`, signed as `name` by Ed25519 (C2SP signed-note).

    Raises LogError for a text that does not end in a newline, and for what is no name.
    """
    _check_name(name)
    if not text.endswith("\n"):
        raise LogError("the text of a note ends in a newline")
    signature = private_key.sign(_bytes_of(text))
    signed_by = _base64(key_id(name, private_key.public_key()) + signature)
    return f"{text}\n\u2014 {name} {signed_by}\n"


def verified_text(note: str, name: str, public_key: Ed25519PublicKey) -> str:
    """Return the text of a note that bears a good signature by this name and key.

    Signatures by other keys are passed over, good or not: a witness may have signed as well.
    Raises LogError for a note out of form, without our signature, with it twice, or with a bad one.
    """
    text, found, ours = _signed(note, name, public_key, _ED25519)
    try:
        public_key.verify(found, _bytes_of(text))
    except InvalidSignature:
        raise LogError(f"the signature by {ours} does not fit the note") from None
    return text


def _signed(
    note: str, name: str, public_key: Ed25519PublicKey, kind: bytes
) -> tuple[str, bytes, str]:
    """Return (text, signature by this key, its name) of a note; nothing is verified by this."""
    _bytes_of(note)
    text, blank, signatures = note.rpartition(_BLANK)
    *lines, end = signatures.split("\n")
    if not blank or end or not 1 <= len(lines) <= _MAX_SIGNATURES:
        raise LogError(
            "a note is text, an empty line, and 1 to 32 signature lines, with a newline at the end"
        )
    ours = key_id(name, public_key, kind)
    found = [
        raw[_ID_BYTES:]
        for by, raw in map(_signature, lines)
        if (by, raw[:_ID_BYTES]) == (name, ours)
    ]
    if len(found) != 1:
        raise LogError(f"the note needs one signature by {name}+{ours.hex()}, has {len(found)}")
    return f"{text}\n", found[0], f"{name}+{ours.hex()}"


# Witnesses


def cosign(note: str, name: str, private_key: Ed25519PrivateKey, at: int) -> str:
    """Return the signature line by which a witness says that it saw `note` at `at` (seconds).

    Source: C2SP tlog-cosignature, cosignature/v1.
    """
    _check_name(name)
    text = f"{note.rpartition(_BLANK)[0]}\n"
    signature = private_key.sign(_cosigned(text, at))
    ours = key_id(name, private_key.public_key(), _COSIGNATURE)
    return f"\u2014 {name} {_base64(ours + at.to_bytes(8) + signature)}\n"


def verify_cosignature(note: str, name: str, public_key: Ed25519PublicKey) -> int:
    """Return the time, in seconds, at which a witness cosigned `note`; LogError if it did not."""
    text, found, ours = _signed(note, name, public_key, _COSIGNATURE)
    at = int.from_bytes(found[:8])
    try:
        public_key.verify(found[8:], _cosigned(text, at))
    except InvalidSignature:
        raise LogError(f"the cosignature by {ours} does not fit the note") from None
    return at


def _cosigned(text: str, at: int) -> bytes:
    return f"cosignature/v1\ntime {at}\n".encode() + _bytes_of(text)


def open_note(note: str, name: str, public_key: Ed25519PublicKey) -> Checkpoint:
    """Return the checkpoint in a note, once its signature holds.

    The log signs under its own name, so the origin has to be `name`; it writes no extension lines,
    so there are none. Raises LogError when signature, name or form is wrong.
    """
    lines = verified_text(note, name, public_key).split("\n")
    if len(lines) != 4 or not _NUMBER.fullmatch(lines[1]):
        raise LogError("a checkpoint is three lines: origin, size, root")
    root = _unbase64(lines[2])
    if len(root) != merkle.HASH_BYTES:
        raise LogError(f"the root in a checkpoint has 32 bytes, got {len(root)}")
    if lines[0] != name:
        raise LogError(f"the checkpoint is of another log than {name}")
    return Checkpoint(name, int(lines[1]), root)


# Proofs


def proof_text(index: int, hashes: Sequence[bytes], note: str, extra: bytes | None = None) -> str:
    """Return the tlog-proof of the leaf at `index` under the checkpoint in `note`."""
    lines = [PROOF_HEADER]
    if extra:
        lines.append(f"extra {_base64(extra)}")
    lines.append(f"index {index}")
    lines += map(_base64, hashes)
    text = "\n".join(lines) + "\n\n" + note
    parse_proof(text)  # nothing leaves that we would not read ourselves
    return text


def parse_proof(text: str) -> Proof:
    """Return what a tlog-proof says; LogError unless it is written exactly as the form has it.

    It is not verified by this: see `open_proof`.
    """
    # No line above the checkpoint is empty, so the first empty line is the border.
    head, blank, note = text.partition(_BLANK)
    header, *lines = head.split("\n")
    if header != PROOF_HEADER or not blank:
        raise LogError(f"a proof begins with {PROOF_HEADER} and ends with a checkpoint")
    extra = None
    if lines and lines[0].startswith("extra "):
        extra = _unbase64(lines.pop(0).removeprefix("extra "))
        if not extra:
            raise LogError("a proof without extra data has no extra line")
    word, _, number = lines.pop(0).partition(" ") if lines else ("", "", "")
    if word != "index" or not _NUMBER.fullmatch(number):
        raise LogError("a proof gives the index of its leaf, in decimal without leading zeros")
    hashes = tuple(map(_unbase64, lines))
    if len(hashes) > _MAX_HASHES or any(len(digest) != merkle.HASH_BYTES for digest in hashes):
        raise LogError("the path in a proof is at most 63 hashes of 32 bytes, one a line")
    return Proof(int(number), hashes, note, extra)


def open_proof(text: str, leaf: bytes, name: str, public_key: Ed25519PublicKey) -> Checkpoint:
    """Return the checkpoint under which `text` proves the entry `leaf`; LogError if it does not.

    `leaf` is the entry itself, for a receipt its canonical JSON bytes, not its hash.
    """
    proof = parse_proof(text)
    at = open_note(proof.note, name, public_key)
    leaf_hash = merkle.leaf_hash(leaf)
    if not merkle.verify_inclusion(leaf_hash, proof.index, at.size, proof.hashes, at.root):
        raise LogError(f"the entry is not leaf {proof.index} of the log of {at.size}")
    return at


# Letters and bytes


def _signature(line: str) -> tuple[str, bytes]:
    """Return the name and the bytes (key id, then signature) on one signature line."""
    match = _SIGNATURE.fullmatch(line)
    raw = _unbase64(match[2]) if match else b""
    if match is None or len(raw) <= _ID_BYTES:
        raise LogError("a signature line is an em dash, a key name and base64, one space between")
    return match[1], raw


def _check_name(name: str) -> None:
    _bytes_of(name)
    if not _NAME.fullmatch(name):
        raise LogError("the name of a log has no space and no plus sign, and is not empty")


def _bytes_of(text: str) -> bytes:
    if _CONTROL.search(text):
        raise LogError("a note has no control character but the newline")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise LogError("a note is valid UTF-8") from None


def _base64(raw: bytes) -> str:
    return b64encode(raw).decode()


def _unbase64(text: str) -> bytes:
    """Decode standard base64 in its one canonical form: padded, spare bits zero, nothing else."""
    try:
        raw = b64decode(text, validate=True)
    except ValueError:
        raw = b""
    if _base64(raw) != text:
        raise LogError("base64 in a note or a proof is standard, padded and canonical")
    return raw
