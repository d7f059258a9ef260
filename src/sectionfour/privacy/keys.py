"""Keys: one key-encryption key from outside, everything else random and wrapped by it.

    KEK (file, environment or command)
     |- vault:index, digest              keyed look-ups
     |- log:signing, models:signing      Ed25519 seeds
     `- epoch:DOMAIN:EPOCH               random; a token key is derived from it for each type

An epoch key is never derived from a root: a destroyed epoch must not be computable again. What is
destroyed keeps its name in the ring, with nothing behind it, so that it is never made anew.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from sectionfour.errors import FailClosed, KeyringError
from sectionfour.privacy.kek import replace_private
from sectionfour.privacy.steady import Steady, Turns
from sectionfour.privacy.successors import Successors

DOMAINS = ("serve", "train", "analyst", "audit", "partner", "export")
#: Each has domains of its own below it: `partner:ACME`, `export:CASE`.
_DIVIDED = ("partner", "export")
#: Of 10^9 tokens of 128 bits two are the same with probability n^2 / 2^129, about 1.5e-21.
TOKEN_BYTES = 16
#: The epoch that every domain begins with.
FIRST = "e01"
#: While the key-encryption key is replaced: the new one under the old one, and the other way round.
NEXT_KEK, LAST_KEK = "kek:next", "kek:last"
#: In the place of an epoch: the tokens that are kept are being replaced just now.
MOVING = "moving"
DESTROYED = b""

Ring = dict[str, bytes]
_NOT_OURS = (
    "a wrapped key does not open: it was wrapped by another key-encryption key or has been changed"
)


def checked_domain(domain: str) -> str:
    """Return `domain`, KeyringError where there is none of that name."""
    head, _, rest = domain.partition(":")
    if head not in DOMAINS or (rest and head not in _DIVIDED):
        known = ", ".join(f"{d}:ID" if d in _DIVIDED else d for d in DOMAINS)
        raise KeyringError(f"unknown domain {domain!r}, known are {known}")
    return domain


class Keyring:
    """Named 32-byte keys in `keys/ring.json`, wrapped with AES-256-GCM under the KEK.

    A key is made when first asked for. Processes share the file under a lock. What another process
    changes is seen at the next `refresh`, which costs one look at the file's time.
    """

    def __init__(
        self, folder: Path, kek: bytes, *, reload: Callable[[], bytes] | None = None
    ) -> None:
        """`reload` gives the key-encryption key as it is by now, where `kek` no longer opens."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = folder / "ring.json"
        self._lock = folder / "ring.lock"
        self._own, self._reload = kek, reload
        self.turns = Turns(folder / "turns.lock")
        self.steady = Steady(self)
        self.successors = Successors(folder / "successors.db")
        self._names = frozenset[str]()  # of all keys that were ever seen here
        self._load()

    # --- what is in the file

    def _load(self) -> None:
        """Read the ring; everything that was unwrapped is forgotten."""
        stamp = self._stamp_now()
        ring = self._read()
        self._stamp, self._names = stamp, frozenset(filter(_stays, ring))
        self._keks = _keks(ring, self._own)
        if not self._opens(ring) and self._reload is not None:
            self._own = self._reload()
            self._keks = _keks(ring, self._own)
        self._sound = self._opens(ring)
        self._open: dict[str, bytes] = {}
        self._keyed: dict[tuple[str | None, ...], Callable[[bytes], bytes]] = {}
        self._epochs = _epochs(ring)
        if self.coming("serve") is None:
            self.successors.forget()

    def _opens(self, ring: Ring) -> bool:
        """Whether our key-encryption key is that of the ring."""
        some = next(((n, s) for n, s in ring.items() if _is_key(n, s)), None)
        return some is None or any(_unwrapped(k, some[1], some[0].encode()) for k in self._keks)

    def _stamp_now(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_ino

    def refresh(self) -> None:
        """See what other processes have changed: epochs, and what was destroyed."""
        stamp = self._stamp_now()
        if stamp is None or stamp != self._stamp:
            self._load()

    def _read(self) -> Ring:
        """Return the wrapped keys; bytes are base64 in JSON. KeyringError where it is no ring.

        FailClosed where one that was there is not: made anew, each member would be a stranger.
        """
        known = self._names  # before the file is read: another thread may add to both
        try:
            ring = msgspec.json.decode(self._path.read_bytes(), type=Ring)
        except FileNotFoundError:
            ring = {}
        except ValueError as error:
            raise KeyringError("the ring of keys cannot be read: restore it from a copy") from error
        if known - ring.keys():
            raise FailClosed("the ring of keys is gone, or an older one: put the newest back")
        return ring

    @contextmanager
    def change(self) -> Iterator[Ring]:
        """Give the ring to be changed; it is on disk when the block ends, whole or not at all."""
        with open(self._lock, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            ring = self._read()
            before = dict(ring)
            yield ring
            if ring != before:
                text = msgspec.json.format(msgspec.json.encode(ring), indent=1)
                replace_private(self._path, text)
                self._names = self._names.union(filter(_stays, ring))

    def key(self, name: str) -> bytes:
        """Return the key called `name`; raises KeyringError where it was destroyed, or wrapped by
        another KEK."""
        found = self._open.get(name)
        return found if found is not None else self._fetch(name)

    def _fetch(self, name: str) -> bytes:
        sealed = self._read().get(name)
        if sealed is None:
            with self.change() as ring:
                if name not in ring:
                    ring[name] = self.wrap(secrets.token_bytes(32), name.encode())
                sealed = ring[name]
        if sealed == DESTROYED:
            raise KeyringError(f"the key {name} was destroyed")
        found = self._open[name] = self.unwrap(sealed, name.encode())
        return found

    # --- wrapping

    def wrap(self, key: bytes, name: bytes) -> bytes:
        """Wrap a key; KeyringError where ours is not the key-encryption key of this ring."""
        if not self._sound:
            raise KeyringError(_NOT_OURS)
        return _wrap(self._keks[0], key, name)

    def unwrap(self, sealed: bytes, name: bytes) -> bytes:
        """Return the key; KeyringError where no key-encryption key that is known opens it."""
        for kek in self._keks:
            found = _unwrapped(kek, sealed, name)
            if found is not None:
                return found
        if self._renewed():
            return self.unwrap(sealed, name)
        raise KeyringError(_NOT_OURS)

    def is_current(self, sealed: bytes, name: bytes) -> bool:
        """Whether this is wrapped by the key that new ones are wrapped by."""
        return _unwrapped(self._keks[0], sealed, name) is not None

    def _renewed(self) -> bool:
        """Whether there is a key-encryption key by now that was not known: it was replaced."""
        known = self._keks
        if self._reload is not None:
            self._own = self._reload()
        self._load()
        return any(kek not in known for kek in self._keks)

    # --- another key-encryption key

    @property
    def newest_kek(self) -> bytes:
        """The key-encryption key, 32 bytes, that new keys are wrapped by."""
        return self._keks[0]

    def kek_is_changing(self) -> bool:
        """Whether a replacement of the key-encryption key has begun and is not at its end."""
        return NEXT_KEK in self._read()

    def change_kek(self, following: bytes) -> None:
        """Let the old and the new key-encryption key open one another; the new one wraps.

        Raises KeyringError where the new one (32 bytes) is the old one.
        """
        if following == self._own:
            raise KeyringError("the new key-encryption key is the one in use")
        self.key("digest")  # under another key than the ring's nothing begins
        with self.change() as ring:
            ring[NEXT_KEK] = _wrap(self._own, following, NEXT_KEK.encode())
            ring[LAST_KEK] = _wrap(following, self._own, LAST_KEK.encode())
        self._load()

    def rewrap(self) -> None:
        """Wrap every key of the ring by the newest key-encryption key, all in one step."""
        with self.change() as ring:
            for name, sealed in ring.items():
                if _is_key(name, sealed) and not self.is_current(sealed, name.encode()):
                    ring[name] = self.wrap(self.unwrap(sealed, name.encode()), name.encode())
        self._load()

    def forget_kek(self, own: bytes) -> None:
        """Let the old key-encryption key open nothing any more; `own` is what we are given now.

        Raises KeyringError where that is still the old one: the ring would not open again.
        """
        if own != self._keks[0]:
            raise KeyringError("the key-encryption key that is set is not the new one yet")
        self._own = own
        with self.change() as ring:
            ring.pop(NEXT_KEK, None)
            ring.pop(LAST_KEK, None)
        self._load()

    # --- epochs and tokens

    def epoch(self, domain: str) -> str:
        """Return the name of the live epoch of `domain`."""
        found = self._epochs.get(domain)
        return FIRST if found is None or not found.alive else found.alive[0]

    def coming(self, domain: str) -> str | None:
        """Return the epoch that a rotation under way leads to, None where there is none."""
        found = self._epochs.get(domain)
        return None if found is None or len(found.alive) < 2 else found.alive[-1]

    def moving(self, domain: str = "serve") -> bool:
        """Whether kept tokens of `domain` are being replaced just now."""
        found = self._epochs.get(domain)
        return found is not None and found.moving

    def epochs(self) -> dict[str, Epochs]:
        """Return the epochs of each domain that has any."""
        return dict(self._epochs)

    def token(self, domain: str, kind: str, value: bytes, epoch: str | None = None) -> bytes:
        """Return the 16-byte token of a normalised `value` in `domain` for values of `kind`.

        HMAC-SHA256 over length-prefixed fields, cut to 128 bits: no two (domain, kind, epoch,
        value) share a message, and tokens of one domain say nothing about those of another.
        Without an `epoch` it is the live one's.
        """
        try:
            digest = self._keyed[domain, kind, epoch]
        except KeyError:
            digest = keyed(*self._token_key(domain, kind, epoch))
            self._keyed[domain, kind, epoch] = digest
        return digest(value)[:TOKEN_BYTES]

    def _token_key(self, domain: str, kind: str, epoch: str | None) -> tuple[bytes, bytes]:
        name = epoch or self.epoch(domain)
        info = f"v1|{domain}|{kind}".encode()
        root = self.key(epoch_key(checked_domain(domain), name))
        key = HKDFExpand(SHA256(), 32, info).derive(root)
        prefix = b"".join(
            len(p).to_bytes(2) + p for p in (domain.encode(), kind.encode(), name.encode())
        )
        return key, prefix

    def digest(self, data: bytes) -> bytes:
        """Return a keyed digest: personal data has too few values for a plain one to hide them."""
        try:
            digest = self._keyed["digest",]
        except KeyError:
            digest = self._keyed["digest",] = keyed(self.key("digest"))
        return digest(data)

    def signing(self, name: str) -> Ed25519PrivateKey:
        """Return the Ed25519 key called `name` (`log` or `models`)."""
        return Ed25519PrivateKey.from_private_bytes(self.key(f"{name}:signing"))

    def seal(self, name: str, text: str, about: str) -> bytes:
        """Return `text` encrypted under the key called `name`, to be opened for `about` alone."""
        return _wrap(self.key(name), text.encode(), about.encode())

    def unseal(self, name: str, sealed: bytes, about: str) -> str:
        """Return the text; KeyringError where it was changed, or its key is another."""
        found = _unwrapped(self.key(name), sealed, about.encode())
        if found is None:
            raise KeyringError("a sealed text does not open: it has been changed")
        return found.decode()


class Epochs(msgspec.Struct, frozen=True):
    """The epochs of a domain by name, oldest first."""

    alive: tuple[str, ...]
    destroyed: tuple[str, ...]
    moving: bool


def keyed(key: bytes, prefix: bytes = b"") -> Callable[[bytes], bytes]:
    """Return HMAC-SHA256 under `key` of `prefix` and what it is called with.

    Key and prefix are taken in here, once: `hmac.digest` begins anew at each call, and takes three
    times as long.
    """
    begun = HMAC(key, SHA256())
    begun.update(prefix)

    def digest(value: bytes) -> bytes:
        found = begun.copy()
        found.update(value)
        return found.finalize()

    return digest


def epoch_key(domain: str, epoch: str) -> str:
    """Return the name in the ring of the key of an epoch."""
    return f"epoch:{domain}:{epoch}"


def _is_key(name: str, sealed: bytes) -> bool:
    return sealed != DESTROYED and name not in (NEXT_KEK, LAST_KEK)


def _stays(name: str) -> bool:
    """Whether a name is in the ring for good; what is destroyed keeps its name."""
    return name not in (NEXT_KEK, LAST_KEK) and not name.endswith(f":{MOVING}")


def _epochs(ring: Ring) -> dict[str, Epochs]:
    found: dict[str, tuple[list[str], list[str], list[str]]] = {}
    for name in sorted(ring, key=lambda name: (len(name), name)):
        if name.startswith("epoch:"):
            domain, _, epoch = name.removeprefix("epoch:").rpartition(":")
            alive, destroyed, moving = found.setdefault(domain, ([], [], []))
            kind = moving if epoch == MOVING else destroyed if ring[name] == DESTROYED else alive
            kind.append(epoch)
    return {domain: Epochs(tuple(a), tuple(d), bool(m)) for domain, (a, d, m) in found.items()}


def _keks(ring: Ring, own: bytes) -> tuple[bytes, ...]:
    """Return the key-encryption keys that are known, that which wraps new keys first."""
    known = [own]
    for name in (NEXT_KEK, LAST_KEK):
        found = _unwrapped(own, ring.get(name, b""), name.encode())
        if found is not None:
            known.insert(0 if name == NEXT_KEK else 1, found)
    return tuple(known)


#: Made once a key: making it costs as much as using it.
_cipher = lru_cache(maxsize=8)(AESGCM)


def _wrap(kek: bytes, key: bytes, name: bytes) -> bytes:
    nonce = secrets.token_bytes(12)
    return nonce + _cipher(kek).encrypt(nonce, key, name)


def _unwrapped(kek: bytes, sealed: bytes, name: bytes) -> bytes | None:
    try:
        return _cipher(kek).decrypt(sealed[:12], sealed[12:], name)
    except (InvalidTag, ValueError):  # ValueError: too short to be wrapped at all
        return None
