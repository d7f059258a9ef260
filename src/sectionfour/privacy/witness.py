"""Witnesses: whoever has seen a checkpoint elsewhere, and refuses every other past.

The log's own file of checkpoints can be rolled back together with the ledger; what another machine
has seen cannot. A witness keeps the largest checkpoint that it has seen, and cosigns the next only
when that is signed by the log and grew out of it. The request is that of C2SP tlog-witness:

    old SIZE
    hashes of the consistency proof in base64, one a line
    (an empty line)
    the checkpoint
"""

from __future__ import annotations

import base64
import fcntl
import os
import re
import secrets
import shlex
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sectionfour.privacy import merkle, notes, receipts
from sectionfour.privacy.kek import write_private
from sectionfour.privacy.notes import LogError

#: Seconds that a witness has to answer.
PATIENCE = 5.0
#: More than this is no request and no answer.
MOST_BYTES = 64 * 1024

_ALONE = fcntl.LOCK_EX | fcntl.LOCK_NB
_OLD = re.compile(r"old (0|[1-9][0-9]{0,18})")


def request_text(old: int, proof: Sequence[bytes], note: str) -> str:
    """Return what a witness is sent: the size that it has, the proof from there, the checkpoint."""
    hashes = "".join(f"{base64.b64encode(digest).decode()}\n" for digest in proof)
    return f"old {old}\n{hashes}\n{note}"


class Refused(LogError):
    """A witness does not cosign: why, as the HTTP status of its answer (C2SP tlog-witness)."""

    def __init__(self, status: int, detail: str, *, size: int | None = None) -> None:
        super().__init__(detail)
        self.status, self.size = status, size


# --- the witness


class Witness:
    """What has been seen of one log, in a folder: `witness.txt`, and a signing key of its own."""

    def __init__(self, folder: Path, log_vkey: str, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._origin, self._log_key = notes.parse_vkey(log_vkey)
        self._name, self._key = name, _own_key(folder / "key")
        self._file, self._turn = folder / "witness.txt", threading.Lock()
        self._file.touch(0o600)
        try:  # held for life, against a second one
            fcntl.flock(os.open(self._file, os.O_RDONLY | os.O_CLOEXEC), _ALONE)
        except BlockingIOError:
            raise LogError("another witness is at work in this folder") from None
        self._seen = self._newest()

    @property
    def vkey(self) -> str:
        """The verifier key of this witness's cosignatures."""
        return notes.vkey(self._name, self._key.public_key(), cosigner=True)

    def text(self) -> str:
        """Return every checkpoint that was cosigned, oldest first."""
        return self._file.read_text("utf-8")

    def add(self, text: str, at: int) -> str:
        """Return the cosignature line of the checkpoint in `text`, at `at` (seconds); it is kept
        before it is returned. Raises Refused for whatever is not signed, or did not grow."""
        old, proof, note = _parsed(text)
        if note.partition("\n")[0] != self._origin:
            raise Refused(404, "this witness knows no log of that name")
        try:
            new = notes.open_note(note, self._origin, self._log_key)
        except LogError as error:
            raise Refused(403, f"the checkpoint is not genuine: {error.detail}") from None
        with self._turn:
            seen = self._seen
            if old > new.size:
                raise Refused(400, "a log does not shrink")
            if old != seen.size:
                raise Refused(409, "this is not the size that was seen last", size=seen.size)
            if new.size == seen.size and new.root != seen.root:
                raise Refused(409, "another log of this size was seen", size=seen.size)
            if not merkle.verify_consistency(seen.size, new.size, seen.root, new.root, proof):
                raise Refused(422, "the log did not grow out of the one that was seen")
            line = notes.cosign(note, self._name, self._key, at)
            if new.size > seen.size:
                body, _, signatures = note.partition("\n\n")
                by_log = [
                    x for x in signatures.split("\n") if x.startswith(f"\u2014 {self._origin} ")
                ]
                kept = "\n".join((f"{body}\n", *by_log, line))
                with open(self._file, "a", encoding="utf-8") as file:
                    file.write(f"{kept}\n")
                    file.flush()
                    os.fsync(file.fileno())
                self._seen = new
            return line

    def _newest(self) -> notes.Checkpoint:
        """Return the newest checkpoint kept. What a crash cut short was promised to nobody."""
        text = self._file.read_text("utf-8")
        blocks = text.split("\n\n")  # two a note, and what is left at the end
        kept = "".join(f"{block}\n\n" for block in blocks[: (len(blocks) - 1) // 2 * 2])
        if kept != text:
            os.truncate(self._file, len(kept.encode()))
        whole = receipts.split_notes(kept)
        if not whole:
            return notes.Checkpoint(self._origin, 0, merkle.EMPTY_ROOT)
        notes.verify_cosignature(whole[-1], self._name, self._key.public_key())
        return notes.open_note(whole[-1], self._origin, self._log_key)


def _parsed(text: str) -> tuple[int, list[bytes], str]:
    head, blank, note = text.partition("\n\n")
    first, *lines = head.split("\n")
    match = _OLD.fullmatch(first)
    if match is None or not blank or len(lines) > 63:
        raise Refused(
            400, "a request is `old SIZE`, at most 63 hashes, an empty line, a checkpoint"
        )
    try:
        proof = [base64.b64decode(line, validate=True) for line in lines]
    except ValueError:
        raise Refused(400, "a hash is not base64") from None
    return int(match[1]), proof, note


def _own_key(path: Path) -> Ed25519PrivateKey:
    if not path.exists():
        write_private(path, base64.b64encode(secrets.token_bytes(32)))
    seed = base64.b64decode(path.read_bytes())
    if len(seed) != 32:
        raise LogError("the witness's key is damaged: restore it from a copy")
    return Ed25519PrivateKey.from_private_bytes(seed)


# --- whoever tells it, and asks it


class Publisher:
    """Sends each new checkpoint to a witness: to its URL, or to a command that reads it.

    Nothing is sent without `to`. Only the newest checkpoint is: it vouches for all before it.
    """

    def __init__(self, log: receipts.Log, to: str | None) -> None:
        self._log, self._to = log, to
        self._sent = 0

    def publish(self) -> bool:
        """Send the newest checkpoint; False where there is nothing new, or nobody to send it to.

        Raises LogError where the witness does not answer, and where it has seen another log.
        """
        newest = self._log.newest_checkpoint()
        if self._to is None or newest is None or newest[0] == self._sent:
            return False
        size, note = newest
        if self._to.startswith(("http://", "https://")):
            self._send(self._to, size, note)
        else:
            _run(self._to, note)
        self._sent = size
        return True

    def _send(self, url: str, size: int, note: str) -> None:
        old = self._sent
        for _ in range(2):  # the second time from the size that the witness says it has
            proof = merkle.consistency_at(old, size, self._log.node)
            try:
                _call(f"{url.rstrip('/')}/add-checkpoint", request_text(old, proof, note).encode())
            except Refused as error:
                if error.status != 409 or error.size is None:
                    raise
                if error.size > size:
                    raise LogError(
                        f"the witness has seen {error.size} entries, the log has {size}:"
                        " it was cut or rolled back"
                    ) from None
                if error.size == old:
                    raise
                old = error.size
            else:
                return
        raise LogError("the witness is told of other checkpoints by somebody else")


def _run(command: str, note: str) -> None:
    try:
        subprocess.run(
            shlex.split(command),
            input=f"{note}\n".encode(),  # with an empty line: `tee -a FILE` makes a witness's file
            stdout=subprocess.DEVNULL,
            timeout=PATIENCE,
            check=True,
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise LogError(f"the witness's command failed: {type(error).__name__}") from None


def _call(url: str, data: bytes | None = None) -> str:
    asked = urllib.request.Request(url, data, {"Content-Type": "text/plain; charset=utf-8"})
    try:
        with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(MOST_BYTES).decode(errors="replace")
        size = int(said) if error.code == 409 and re.fullmatch(r"[0-9]{1,19}\n", said) else None
        raise Refused(error.code, f"the witness refuses: {_plain(said)}", size=size) from None
    except (OSError, ValueError) as error:
        raise LogError(f"the witness does not answer: {type(error).__name__}") from None


def _plain(said: str) -> str:
    return re.sub(r"[^\w ,.:]+", " ", said).strip()[:200]


def seen_by(
    where: str, vkey: str | None = None, *, call: Callable[[str], str] = _call
) -> list[str]:
    """Return the checkpoints that a witness has seen: at its URL, or in a copy of its file.

    With its `vkey` each must bear its cosignature. Raises LogError where it cannot be asked.
    """
    if where.startswith(("http://", "https://")):
        found = receipts.split_notes(call(f"{where.rstrip('/')}/checkpoints"))
    elif Path(where).is_file():
        found = receipts.read_witness(Path(where))
    else:
        raise LogError("a witness is asked by URL, or by the name of a file")
    if vkey is not None:
        name, key = notes.parse_vkey(vkey, cosigner=True)
        for note in found:
            notes.verify_cosignature(note, name, key)
    return found
