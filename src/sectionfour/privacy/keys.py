"""Keys: one key-encryption key from outside, everything else random and wrapped by it.

    KEK (file or environment)
     ├─ vault:index, digest              keyed look-ups
     ├─ log:signing, models:signing      Ed25519 seeds
     └─ epoch:DOMAIN:EPOCH               random; a token key is derived from it for each type

An epoch key is never derived from a root: a destroyed epoch must not be computable again.
"""

from __future__ import annotations

import base64
import fcntl
import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from sectionfour.errors import KeyringError

DOMAINS = ("serve", "train", "analyst", "audit", "partner")
TOKEN_BYTES = 16
#: 10^9 tokens of 128 bits collide with probability n^2 / 2^129, about 1.5e-21.


def load_kek(home: Path) -> bytes:
    """Return the 32-byte key-encryption key: SECTIONFOUR_KEK (base64), or the file `keys/kek`.

    A file is made on first use, readable by its owner alone. Keep a copy elsewhere: without it
    every wrapped key, and so every token and every vault row, is lost for good.
    """
    text = os.environ.get("SECTIONFOUR_KEK")
    path = home / "keys" / "kek"
    if text is None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = path.with_name(f"kek.{secrets.token_hex(8)}")
        if not path.exists():
            _write_private(fresh, base64.b64encode(secrets.token_bytes(32)))
            with suppress(FileExistsError):  # another process was first: its key counts
                os.link(fresh, path)
            fresh.unlink()
        text = path.read_text("utf-8", errors="replace")
    try:
        kek = base64.b64decode(text.strip(), validate=True)
    except ValueError as error:
        raise KeyringError("the key-encryption key is not base64") from error
    if len(kek) != 32:
        raise KeyringError(f"the key-encryption key has {len(kek)} bytes, 32 are needed")
    return kek


def _write_private(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(handle, data)
        os.fsync(handle)
    finally:
        os.close(handle)


class Keyring:
    """Named 32-byte keys in `keys/ring.json`, wrapped with AES-256-GCM under the KEK.

    A key is made when first asked for. Processes share the file under a lock.
    """

    def __init__(self, folder: Path, kek: bytes) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = folder / "ring.json"
        self._lock = folder / "ring.lock"
        self._kek = AESGCM(kek)
        self._open: dict[str, bytes] = {}
        self._token_keys: dict[tuple[str, str, str], tuple[bytes, bytes]] = {}

    def key(self, name: str) -> bytes:
        """Return the key called `name`; raises KeyringError where it was wrapped by another KEK."""
        found = self._open.get(name)
        return found if found is not None else self._fetch(name)

    def _fetch(self, name: str) -> bytes:
        with open(self._lock, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            ring = self._read()
            if name not in ring:
                for other, sealed in ring.items():  # no key under another KEK than the first one's
                    self.unwrap(sealed, other.encode())
                    break
                ring[name] = self.wrap(secrets.token_bytes(32), name.encode())
                fresh = self._path.with_suffix(f".{secrets.token_hex(8)}")
                _write_private(fresh, msgspec.json.format(msgspec.json.encode(ring), indent=1))
                os.replace(fresh, self._path)
                _sync_folder(self._path.parent)
            self._open[name] = self.unwrap(ring[name], name.encode())
        return self._open[name]

    def _read(self) -> dict[str, bytes]:
        """Return the wrapped keys; bytes are base64 in JSON. KeyringError where it is no ring."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, bytes])
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise KeyringError("the ring of keys cannot be read: restore it from a copy") from error

    def wrap(self, key: bytes, name: bytes) -> bytes:
        nonce = secrets.token_bytes(12)
        return nonce + self._kek.encrypt(nonce, key, name)

    def unwrap(self, sealed: bytes, name: bytes) -> bytes:
        try:
            return self._kek.decrypt(sealed[:12], sealed[12:], name)
        except (InvalidTag, ValueError) as error:  # ValueError: too short to be wrapped at all
            raise KeyringError(
                "a wrapped key does not open: it was wrapped by another key-encryption key"
                " or has been changed"
            ) from error

    def epoch(self, domain: str) -> str:
        """Return the name of the live epoch of `domain`."""
        return "e01"

    def token(self, domain: str, kind: str, value: bytes) -> bytes:
        """Return the 16-byte token of a normalised `value` in `domain` for values of `kind`.

        HMAC-SHA256 over length-prefixed fields, cut to 128 bits: no two (domain, kind, epoch,
        value) share a message, and tokens of one domain say nothing about those of another.
        """
        try:
            key, prefix = self._token_keys[domain, kind, "e01"]
        except KeyError:
            key, prefix = self._token_key(domain, kind, self.epoch(domain))
        return hmac.digest(key, prefix + value, "sha256")[:TOKEN_BYTES]

    def _token_key(self, domain: str, kind: str, epoch: str) -> tuple[bytes, bytes]:
        if domain not in DOMAINS:
            raise KeyringError(f"unknown domain {domain!r}, known are {', '.join(DOMAINS)}")
        info = f"v1|{domain}|{kind}".encode()
        root = self.key(f"epoch:{domain}:{epoch}")
        key = HKDFExpand(SHA256(), 32, info).derive(root)
        prefix = b"".join(
            len(p).to_bytes(2) + p for p in (domain.encode(), kind.encode(), epoch.encode())
        )
        self._token_keys[domain, kind, epoch] = key, prefix
        return key, prefix

    def digest(self, data: bytes) -> bytes:
        """Return a keyed digest: personal data has too few values for a plain one to hide them."""
        return hmac.digest(self.key("digest"), data, "sha256")

    def signing(self, name: str) -> Ed25519PrivateKey:
        """Return the Ed25519 key called `name` (`log` or `models`)."""
        return Ed25519PrivateKey.from_private_bytes(self.key(f"{name}:signing"))


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
