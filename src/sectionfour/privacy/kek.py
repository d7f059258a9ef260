"""The key-encryption key: the one key that comes from outside.

From a file, from the environment, or from a command that asks a key management service for it, as
`aws kms decrypt` or `vault read` do. Whatever it comes from, it is 32 bytes in base64.
"""

from __future__ import annotations

import base64
import os
import secrets
import shlex
import subprocess
from contextlib import suppress
from pathlib import Path

from sectionfour.errors import KeyringError

#: Seconds that a command has to answer.
PATIENCE = 30
VALUE, COMMAND, NEXT = "SECTIONFOUR_KEK", "SECTIONFOUR_KEK_COMMAND", "SECTIONFOUR_KEK_NEXT"


def load_kek(home: Path) -> bytes:
    """Return the 32-byte key-encryption key: from SECTIONFOUR_KEK (base64), from what the command
    in SECTIONFOUR_KEK_COMMAND prints, or from the file `keys/kek`.

    A file is made on first use, readable by its owner alone. Keep a copy elsewhere: without it
    every wrapped key, and so every token and every vault row, is lost for good. KeyringError where
    the file is gone and a ring of keys is there.
    """
    value, command = os.environ.get(VALUE), os.environ.get(COMMAND)
    if value is not None and command is not None:
        raise KeyringError(f"set {VALUE} or {COMMAND}, not both")
    if value is not None:
        return decode(value)
    return decode(_from_file(kek_file(home)) if command is None else _asked(command))


def kek_file(home: Path) -> Path:
    """Return where the key is, if neither the environment nor a command has it."""
    return home / "keys" / "kek"


def in_file() -> bool:
    """Whether the key comes from the file, which we may then replace."""
    return VALUE not in os.environ and COMMAND not in os.environ


def decode(text: str) -> bytes:
    """Return the 32 bytes that `text` is the base64 of; KeyringError where it is not."""
    try:
        kek = base64.b64decode(text.strip(), validate=True)
    except ValueError as error:
        raise KeyringError("the key-encryption key is not base64") from error
    if len(kek) != 32:
        raise KeyringError(f"the key-encryption key has {len(kek)} bytes, 32 are needed")
    return kek


def _asked(command: str) -> str:
    """Return what a command prints; nothing that it says goes into an error."""
    try:
        done = subprocess.run(
            shlex.split(command), stdout=subprocess.PIPE, timeout=PATIENCE, check=False
        )
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired) as error:
        raise KeyringError(f"{COMMAND} cannot be run: {type(error).__name__}") from None
    if done.returncode:
        raise KeyringError(f"{COMMAND} ended with status {done.returncode}")
    return done.stdout.decode("ascii", errors="replace")


def _from_file(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # The file comes before the ring: where a ring is seen, there is a file by then.
    if path.with_name("ring.json").exists() and not path.exists():
        raise KeyringError(
            "the key-encryption key is gone, and the keys that it wraps are there:"
            " restore keys/kek from a copy"
        )
    fresh = path.with_name(f"kek.{secrets.token_hex(8)}")
    if not path.exists():
        write_private(fresh, base64.b64encode(secrets.token_bytes(32)))
        with suppress(FileExistsError):  # another process was first: its key counts
            os.link(fresh, path)
        fresh.unlink()
    return path.read_text("utf-8", errors="replace")


def write_private(path: Path, data: bytes) -> None:
    """Make a file that its owner alone can read; it is on disk when this returns."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(handle, data)
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_private(path: Path, data: bytes) -> None:
    """Put `data` in the place of a file, whole or not at all."""
    fresh = path.with_name(f"{path.stem}.{secrets.token_hex(8)}")
    write_private(fresh, data)
    os.replace(fresh, path)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
