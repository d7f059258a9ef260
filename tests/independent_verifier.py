"""Check one receipt against the log's key, offline, with nothing of the package that wrote it.

    python independent_verifier.py VKEY RECEIPT_JSON_FILE PROOF_FILE

Exit status 0: the very bytes of the receipt file are an entry of the log that holds the key.
Exit status 1: they are not, or something is not written as C2SP signed-note, tlog-checkpoint
and tlog-proof@v1 have it. Written from those texts and RFC 9162, section 2.1.3.2.
"""

import base64
import hashlib
import re
import sys
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def verify(vkey: str, leaf: bytes, proof_text: str) -> bool:
    """Say whether `proof_text` shows `leaf` in the log whose verifier key is `vkey`."""
    try:
        name, key_id, public_key = read_key(vkey)
        index, path, note = read_proof(proof_text)
        size, root = read_checkpoint(note, name, key_id, public_key)
        return root_from(leaf, index, size, path) == root
    except (ValueError, InvalidSignature):
        return False


def read_key(vkey: str) -> tuple[str, bytes, bytes]:
    name, hex_id, encoded = vkey.split("+", 2)
    material = unbase64(encoded)
    key_id = hashlib.sha256(name.encode() + b"\n" + material).digest()[:4]
    expect(name != "" and not re.search(r"\s", name), "name")
    expect(len(material) == 33 and material[0] == 1, "an Ed25519 key")
    expect(hex_id == key_id.hex(), "key id")
    return name, key_id, material[1:]


def read_proof(text: str) -> tuple[int, list[bytes], str]:
    # An `extra` line is refused: this log writes none, and no signature would vouch for it.
    head, note = text.split("\n\n", 1)
    header, index, *path = head.split("\n")
    expect(header == "c2sp.org/tlog-proof@v1" and index.startswith("index "), "a tlog-proof")
    hashes = [unbase64(line) for line in path]
    expect(all(len(digest) == 32 for digest in hashes), "hashes of 32 bytes")
    return number(index[len("index ") :]), hashes, note


def read_checkpoint(note: str, name: str, key_id: bytes, public_key: bytes) -> tuple[int, bytes]:
    expect(not re.search(r"[\x00-\x09\x0b-\x1f]", note), "no control characters")
    border = note.rindex("\n\n")
    text, signatures = note[: border + 1], note[border + 2 :]
    expect(signatures.endswith("\n"), "a last newline")
    good = 0
    for line in signatures[:-1].split("\n"):
        dash, by, encoded = line.split(" ")
        signature = unbase64(encoded)
        expect(dash == "\N{EM DASH}" and by != "" and len(signature) > 4, "a signature line")
        if by == name and signature[:4] == key_id:  # others may have signed as well
            Ed25519PublicKey.from_public_bytes(public_key).verify(signature[4:], text.encode())
            good += 1
    expect(good == 1, "one signature by the log")
    origin, size, root, end = text.split("\n")
    expect(origin == name and end == "" and len(unbase64(root)) == 32, "a checkpoint of this log")
    return number(size), unbase64(root)


def root_from(leaf: bytes, index: int, size: int, path: list[bytes]) -> bytes:
    """Climb from the leaf, by the bits of its index and of the last index of the tree."""
    expect(index < size, "the index in the tree")
    here, last = index, size - 1
    digest = hashlib.sha256(b"\x00" + leaf).digest()
    for sibling in path:
        expect(last > 0, "no hash left over")
        if here & 1 or here == last:
            digest = hashlib.sha256(b"\x01" + sibling + digest).digest()
            while here and not here & 1:
                here, last = here >> 1, last >> 1
        else:
            digest = hashlib.sha256(b"\x01" + digest + sibling).digest()
        here, last = here >> 1, last >> 1
    expect(last == 0, "no hash missing")
    return digest


def number(text: str) -> int:
    expect(re.fullmatch(r"0|[1-9][0-9]{0,18}", text) is not None, "a decimal number")
    return int(text)


def unbase64(text: str) -> bytes:
    raw = base64.b64decode(text, validate=True)
    expect(base64.b64encode(raw).decode() == text, "canonical base64")
    return raw


def expect(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"expected {what}")


def main(vkey: str, receipt_file: str, proof_file: str) -> bool:
    try:
        # read as bytes: text mode would mend line ends, and hide that they were changed
        return verify(vkey, Path(receipt_file).read_bytes(), Path(proof_file).read_bytes().decode())
    except (OSError, UnicodeDecodeError):
        return False


if __name__ == "__main__":
    sys.exit(0 if len(sys.argv) == 4 and main(*sys.argv[1:]) else "the proof does not hold")
