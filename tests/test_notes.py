"""Checkpoints and proofs as text: what is written is read, and nothing else is."""

from __future__ import annotations

import json
import os
import random
import runpy
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from sectionfour.privacy import merkle, notes
from sectionfour.privacy.notes import Checkpoint, LogError

NAME = "log.example/receipts"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key()
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
ROOT = merkle.leaf_hash(b"a root")
NOTE = notes.sign(notes.checkpoint_text(NAME, 7, ROOT), NAME, KEY)
SCRIPT = Path(__file__).with_name("independent_verifier.py")
independently = runpy.run_path(str(SCRIPT))["verify"]


def a_receipt(number: int) -> bytes:
    receipt = {"receipt_id": f"dr_{number}", "receipt_version": 1, "status": "scored"}
    return json.dumps(receipt, sort_keys=True, separators=(",", ":")).encode()


def a_proof(index: int, size: int, extra: bytes | None = None) -> str:
    hashes = [merkle.leaf_hash(a_receipt(i)) for i in range(size)]
    note = notes.sign(notes.checkpoint_text(NAME, size, merkle.root(hashes)), NAME, KEY)
    return notes.proof_text(index, merkle.inclusion_proof(index, hashes), note, extra)


def opens(text: str, leaf: bytes) -> bool:
    try:
        notes.open_proof(text, leaf, NAME, PUBLIC)
    except LogError:
        return False
    return True


def by_both(text: str, leaf: bytes) -> bool:
    """Our answer, which has to be the independent verifier's as well."""
    ours = opens(text, leaf)
    assert independently(notes.vkey(NAME, PUBLIC), leaf, text) is ours
    return ours


# A known answer: the key and the note that golang.org/x/mod/sumdb/note is tested with

KNOWN_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
KNOWN_SEED = b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
KNOWN_TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
KNOWN_NOTE = (
    KNOWN_TEXT
    + "\n\N{EM DASH} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFY"
    "C2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def test_the_known_key_signs_the_known_note():
    key = Ed25519PrivateKey.from_private_bytes(KNOWN_SEED)
    assert notes.vkey("PeterNeumann", key.public_key()) == KNOWN_VKEY
    assert notes.sign(KNOWN_TEXT, "PeterNeumann", key) == KNOWN_NOTE


def test_the_known_note_opens_with_the_known_key():
    name, key = notes.parse_vkey(KNOWN_VKEY)
    assert notes.verified_text(KNOWN_NOTE, name, key) == KNOWN_TEXT


def test_a_note_that_is_no_checkpoint_is_not_taken_for_one():
    with pytest.raises(LogError, match="three lines"):
        notes.open_note(KNOWN_NOTE, *notes.parse_vkey(KNOWN_VKEY))


# Keys


def test_a_verifier_key_is_read_as_it_was_written():
    name, key = notes.parse_vkey(notes.vkey(NAME, PUBLIC))
    assert (name, key.public_bytes_raw()) == (NAME, PUBLIC.public_bytes_raw())


def test_no_part_of_a_verifier_key_passes_for_the_whole():
    for start in range(len(KNOWN_VKEY)):
        for end in range(start, len(KNOWN_VKEY) + 1):
            if (start, end) != (0, len(KNOWN_VKEY)):
                with pytest.raises(LogError):
                    notes.parse_vkey(KNOWN_VKEY[start:end])


def test_no_letter_of_a_verifier_key_can_be_changed():
    for at, letter in enumerate(KNOWN_VKEY):
        for other in {chr(ord(letter) + 1), letter.swapcase(), " ", "+", "é"} - {letter}:
            with pytest.raises(LogError):
                notes.parse_vkey(KNOWN_VKEY[:at] + other + KNOWN_VKEY[at + 1 :])


@pytest.mark.parametrize(
    "material", [b"\x01" + bytes(33), b"\x01" + bytes(31), b"\x02" + bytes(32)]
)
def test_a_key_of_another_length_or_type_is_refused_even_with_a_fitting_id(material: bytes):
    fitting = sha256(NAME.encode() + b"\n" + material).hexdigest()[:8]
    other = f"{NAME}+{fitting}+{b64encode(material).decode()}"
    with pytest.raises(LogError, match="Ed25519"):
        notes.parse_vkey(other)
    assert not independently(other, a_receipt(3), a_proof(3, 5))


@pytest.mark.parametrize(
    "name", ["", "two words", "a+b", "a\u00a0b", "a\u2028b", "a\nb", "a\x00b", "\ud800"]
)
def test_a_name_that_a_signature_line_cannot_hold_is_refused(name: str):
    for call in (
        lambda: notes.vkey(name, PUBLIC),
        lambda: notes.checkpoint_text(name, 1, ROOT),
        lambda: notes.sign("text\n", name, KEY),
    ):
        with pytest.raises(LogError):
            call()


# Checkpoints


def test_a_checkpoint_reads_as_the_form_has_it():
    root = b64encode(ROOT).decode()
    assert notes.checkpoint_text(NAME, 7, ROOT) == f"{NAME}\n7\n{root}\n"
    text, _, signature = NOTE.rpartition("\n\n")
    assert text + "\n" == notes.checkpoint_text(NAME, 7, ROOT)
    dash, name, encoded = signature.removesuffix("\n").split(" ")
    assert (dash, name) == ("\u2014", NAME)
    raw = b64decode(encoded)
    assert len(raw) == 4 + 64
    assert raw[:4].hex() == notes.vkey(NAME, PUBLIC).split("+")[1]


@given(st.integers(0, 2**63), st.binary(min_size=32, max_size=32))
def test_a_signed_checkpoint_opens_as_what_was_signed(size: int, root: bytes):
    note = notes.sign(notes.checkpoint_text(NAME, size, root), NAME, KEY)
    assert notes.open_note(note, NAME, PUBLIC) == Checkpoint(NAME, size, root)


def test_only_the_right_key_under_the_right_name_opens_a_checkpoint():
    with pytest.raises(LogError, match="needs one signature"):
        notes.open_note(NOTE, NAME, OTHER.public_key())
    with pytest.raises(LogError, match="needs one signature"):
        notes.open_note(NOTE, "log.example/other", PUBLIC)


def test_a_checkpoint_of_another_log_is_refused_though_our_key_signed_it():
    note = notes.sign(notes.checkpoint_text("log.example/other", 7, ROOT), NAME, KEY)
    with pytest.raises(LogError, match="another log"):
        notes.open_note(note, NAME, PUBLIC)


def test_a_forged_signature_with_our_name_and_id_is_refused():
    text = notes.checkpoint_text(NAME, 8, ROOT)
    forged = b64encode(notes.key_id(NAME, PUBLIC) + OTHER.sign(text.encode())).decode()
    with pytest.raises(LogError, match="does not fit"):
        notes.open_note(f"{text}\n\u2014 {NAME} {forged}\n", NAME, PUBLIC)


def test_a_cosignature_by_somebody_else_is_passed_over():
    cosigned = NOTE + notes.sign("whatever\n", "witness.example", OTHER).split("\n\n")[1]
    assert notes.open_note(cosigned, NAME, PUBLIC) == Checkpoint(NAME, 7, ROOT)


def test_a_cosignature_does_not_make_up_for_a_bad_one_of_ours():
    text, _, ours = NOTE.rpartition("\n\n")
    changed = text.replace("\n7\n", "\n8\n") + "\n\n" + ours
    cosigned = changed + notes.sign("whatever\n", "witness.example", OTHER).split("\n\n")[1]
    with pytest.raises(LogError, match="does not fit"):
        notes.open_note(cosigned, NAME, PUBLIC)


def test_sixteen_signatures_are_read_and_a_flood_of_them_is_not():
    line = notes.sign("whatever\n", "witness.example", OTHER).split("\n\n")[1]
    assert notes.open_note(NOTE + line * 15, NAME, PUBLIC).size == 7
    with pytest.raises(LogError, match="signature lines"):
        notes.open_note(NOTE + line * 1000, NAME, PUBLIC)


@pytest.mark.parametrize(
    "text",
    [
        f"{NAME}\n07\n{b64encode(ROOT).decode()}\n",
        f"{NAME}\n-7\n{b64encode(ROOT).decode()}\n",
        f"{NAME}\n+7\n{b64encode(ROOT).decode()}\n",
        f"{NAME}\n7 \n{b64encode(ROOT).decode()}\n",
        f"{NAME}\n1\u0667\n{b64encode(ROOT).decode()}\n",
        f"{NAME}\n1_0\n{b64encode(ROOT).decode()}\n",
        f"{NAME}\n{'9' * 5000}\n{b64encode(ROOT).decode()}\n",
        f"{NAME}\n7\n{b64encode(ROOT[:-1]).decode()}\n",
        f"{NAME}\n7\n{b64encode(ROOT).decode()[:-1]}\n",
        f"{NAME}\n7\n{ROOT.hex()}\n",
        f"{NAME}\n7\n{b64encode(ROOT).decode()}\nextension\n",
        f"{NAME}\n7\n",
        f"{NAME}\n\n7\n{b64encode(ROOT).decode()}\n",
        "\n",
    ],
)
def test_our_own_signature_does_not_save_a_checkpoint_out_of_form(text: str):
    with pytest.raises(LogError):
        notes.open_note(notes.sign(text, NAME, KEY), NAME, PUBLIC)


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n",
        "\n\n",
        NOTE[:-1],
        NOTE + "\n",
        "\n" + NOTE,
        NOTE.replace("\n", "\r\n"),
        NOTE.replace("\n\n", "\n"),
        NOTE.replace("\n\n", "\n\n\n"),
        NOTE.replace("\u2014", "-"),
        NOTE.replace("\u2014", "\u2013"),
        NOTE.replace("\u2014 ", "\u2014  "),
        NOTE.replace("\u2014 ", "\u2014\u00a0"),
        NOTE.replace("\n7\n", "\n7\x00\n"),
        NOTE.replace("\n7\n", "\n7\ud800\n"),
        NOTE + NOTE.split("\n\n")[1],
        NOTE + "\u2014 witness.example AAAA\n",
        NOTE + "\u2014 witness.example\n",
        NOTE + "\u2014 witness.example not/base64\n",
        NOTE + "hello\n",
        NOTE + "hello",
        NOTE.split("\n\n")[0] + "\n",
    ],
)
def test_a_note_out_of_form_is_refused(note: str):
    with pytest.raises(LogError):
        notes.open_note(note, NAME, PUBLIC)


def test_what_cannot_be_a_checkpoint_is_not_written():
    for size, root in ((-1, ROOT), (10**19, ROOT), (7, ROOT[:-1]), (7, b"")):
        with pytest.raises(LogError):
            notes.checkpoint_text(NAME, size, root)
    for text in ("no newline", "a\tb\n", "a\rb\n", "\ud800\n"):
        with pytest.raises(LogError):
            notes.sign(text, NAME, KEY)


# Proofs


def test_a_proof_reads_as_the_form_has_it():
    first, second = merkle.leaf_hash(b"1"), merkle.leaf_hash(b"2")
    lines = [b64encode(digest).decode() for digest in (first, second)]
    assert notes.proof_text(5, [first, second], NOTE) == (
        f"c2sp.org/tlog-proof@v1\nindex 5\n{lines[0]}\n{lines[1]}\n\n{NOTE}"
    )
    assert notes.proof_text(0, [], NOTE, extra=b"more") == (
        f"c2sp.org/tlog-proof@v1\nextra bW9yZQ==\nindex 0\n\n{NOTE}"
    )


@given(
    st.integers(0, 2**63),
    st.lists(st.binary(min_size=32, max_size=32), max_size=20),
    st.none() | st.binary(min_size=1, max_size=50),
)
def test_a_proof_is_read_as_it_was_written(index: int, hashes: list[bytes], extra: bytes | None):
    text = notes.proof_text(index, hashes, NOTE, extra)
    assert notes.parse_proof(text) == notes.Proof(index, tuple(hashes), NOTE, extra)


def test_no_extra_data_is_no_extra_line():
    assert notes.proof_text(0, [], NOTE, extra=b"") == notes.proof_text(0, [], NOTE)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 33])
def test_a_proof_of_every_receipt_holds(size: int):
    for index in range(size):
        proof = a_proof(index, size)
        assert by_both(proof, a_receipt(index))
        assert not by_both(proof, a_receipt(index + 1))
        opened = notes.open_proof(proof, a_receipt(index), NAME, PUBLIC)
        assert (opened.origin, opened.size) == (NAME, size)


def test_extra_data_is_carried_and_vouches_for_nothing():
    with_extra = a_proof(2, 5, extra=b"nonce")
    assert opens(with_extra, a_receipt(2))
    assert notes.parse_proof(with_extra).extra == b"nonce"
    # nothing signs that line, so a verifier that knows of no use for it turns it away
    assert not independently(notes.vkey(NAME, PUBLIC), a_receipt(2), with_extra)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.replace("tlog-proof@v1", "tlog-proof@v2"),
        lambda t: t.replace("index 3", "index 03"),
        lambda t: t.replace("index 3", "index +3"),
        lambda t: t.replace("index 3", "index  3"),
        lambda t: t.replace("index 3", "index -3"),
        lambda t: t.replace("index 3", "index \u0663"),
        lambda t: t.replace("index 3", "index 2"),
        lambda t: t.replace("index 3\n", ""),
        lambda t: t.replace("index 3\n", "index 3\nindex 3\n"),
        lambda t: t.replace("index 3\n", "index " + "3" * 5000 + "\n"),
        lambda t: t.replace("index 3\n", "extra \nindex 3\n"),
        lambda t: t.replace("index 3\n", "extra bW9yZR==\nindex 3\n"),
        lambda t: t.replace("index 3\n", "extra\nindex 3\n"),
        lambda t: t.replace("=\n", "\n", 1),
        lambda t: t.replace("=\n", "= \n", 1),
        lambda t: t.replace("\n", "\r\n"),
        lambda t: t.replace("\n\n", "\n", 1),
        lambda t: t.replace("\n\n", "\n\n\n", 1),
        lambda t: t + "\n",
        lambda t: "\ufeff" + t,
        lambda t: t.split("\n\n", 1)[0],
        lambda t: t.split("\n\n", 1)[1],
        lambda t: "",
    ],
)
def test_a_proof_out_of_form_is_refused(change):
    assert not by_both(change(a_proof(3, 5)), a_receipt(3))


def test_spare_bits_in_base64_are_no_place_to_hide():
    """44 letters hold 264 bits; the last letter of a hash has two that decoders like to ignore."""
    proof = a_proof(3, 5)
    line = proof.split("\n")[2]
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    twin = line[:-2] + digits[digits.index(line[-2]) + 1] + "="
    assert b64decode(twin) == b64decode(line)
    assert not by_both(proof.replace(line, twin), a_receipt(3))


def test_too_long_a_path_is_not_written():
    with pytest.raises(LogError, match="63 hashes"):
        notes.proof_text(0, [ROOT] * 64, NOTE)
    with pytest.raises(LogError, match="32 bytes"):
        notes.proof_text(0, [b"short"], NOTE)
    with pytest.raises(LogError, match="index"):
        notes.proof_text(-1, [], NOTE)


def test_no_byte_of_a_proof_can_be_changed():
    """Every byte of a proof, to every other value."""
    leaf, good = a_receipt(1), a_proof(1, 2).encode()
    assert opens(good.decode(), leaf)
    survivors = [
        (at, value)
        for at, value in ((at, value) for at in range(len(good)) for value in range(256))
        if value != good[at]
        and (text := as_text(good[:at] + bytes([value]) + good[at + 1 :])) is not None
        and opens(text, leaf)
    ]
    assert survivors == []


def test_ten_thousand_changed_proofs_and_receipts_are_refused_by_both():
    rng = random.Random(6962)
    proofs = {
        (index, size): a_proof(index, size) for size in (1, 5, 8, 21) for index in range(size)
    }
    tried = 0
    while tried < 10_000:
        (index, _), good = rng.choice(list(proofs.items()))
        leaf = a_receipt(index)
        if rng.random() < 0.3:
            text, leaf = good, mutated(leaf, rng)
        else:
            text = as_text(mutated(good.encode(), rng))
        if text is None or (text, leaf) == (good, a_receipt(index)):
            continue
        tried += 1
        assert not by_both(text, leaf)


def test_parts_of_two_good_proofs_do_not_make_a_third():
    first, second = a_proof(2, 8), a_proof(5, 8)
    head = {text: text.split("\n\n", 1)[0] for text in (first, second)}
    older = a_proof(2, 6).split("\n\n", 1)[1]
    assert not by_both(second, a_receipt(2))
    assert not by_both(first.replace("index 2", "index 5"), a_receipt(5))
    assert not by_both(head[first] + "\n\n" + older, a_receipt(2))


def as_text(raw: bytes) -> str | None:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def mutated(good: bytes, rng: random.Random) -> bytes:
    """Change, drop, double, swap or insert something somewhere."""
    at, end = sorted(rng.sample(range(len(good) + 1), 2))
    one = bytes([rng.choice(b"\n =+A/0") if rng.random() < 0.5 else rng.randrange(256)])
    lines = good.split(b"\n")
    line = rng.randrange(len(lines))
    variants: list[bytes] = [
        good[:at] + one + good[at + 1 :],
        good[:at] + one + good[at:],
        good[:at] + good[at + 1 :],
        good[:at] + bytes([good[at] ^ (1 << rng.randrange(8))]) + good[at + 1 :],
        good[:at] + good[end:],
        good[:end] + good[at:],
        good[:at] + good[at:end][::-1] + good[end:],
        b"\n".join(lines[:line] + lines[line + 1 :]),
        b"\n".join([*lines[:line], lines[line], *lines[line:]]),
        b"\n".join([*lines[:line], *rng.sample(lines[line:], len(lines) - line)]),
    ]
    return rng.choice(variants)


# The verifier of its own


def test_the_independent_verifier_is_short_and_imports_nothing_of_ours():
    source = SCRIPT.read_text()
    assert "sectionfour" not in source
    assert len(source.splitlines()) < 120


@pytest.fixture
def saved(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    receipt, proof = tmp_path / "receipt.json", tmp_path / "receipt.tlog-proof"
    receipt.write_bytes(a_receipt(3))
    proof.write_bytes(a_proof(3, 5).encode())
    return receipt, proof


def run_script(*arguments: str | Path) -> int:
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, env=clean, capture_output=True, check=False).returncode


def test_the_script_tells_good_from_bad_by_its_exit_status(saved: tuple[Path, Path]):
    receipt, proof = saved
    vkey = notes.vkey(NAME, PUBLIC)
    assert run_script(vkey, receipt, proof) == 0
    assert run_script(notes.vkey(NAME, OTHER.public_key()), receipt, proof) == 1
    assert run_script(vkey, receipt, receipt) == 1
    assert run_script(vkey, receipt, proof.with_name("missing")) == 1
    assert run_script(vkey, receipt) == 1
    receipt.write_bytes(a_receipt(3) + b"\n")
    assert run_script(vkey, receipt, proof) == 1


def test_the_script_does_not_mend_line_ends(saved: tuple[Path, Path]):
    receipt, proof = saved
    proof.write_bytes(proof.read_bytes().replace(b"\n", b"\r\n"))
    assert run_script(notes.vkey(NAME, PUBLIC), receipt, proof) == 1


@pytest.mark.parametrize("vkey", ["", "+", "a+b", "a+b+c", f"{NAME}+00000000+AAAA", "a+b+c+d"])
def test_a_broken_key_verifies_nothing(vkey: str):
    assert not independently(vkey, a_receipt(3), a_proof(3, 5))
