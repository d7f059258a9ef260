"""Models on disk: `models/NAME/VERSION/` with model.onnx, card.json and a signature.

Files beside them (the manifest of the data, the histograms of the training period, the model that
the card's figures are of) are named in the card with their digests, so the signature covers them.

`models/NAME/CURRENT` names the version that is served; promoting and rolling back replace that one
small file, and workers see it at their next call. `models/NAME/CHALLENGERS` names those that score
the same calls in shadow. A version is written whole or not at all, and is never changed. Loading
refuses a changed file, a missing or foreign signature, and a model that was fitted on other
features than this code's.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sectionfour.domain import MODELS, read_instant
from sectionfour.errors import RegistryError
from sectionfour.learning.model import Model, feature_list, session

Card = dict[str, Any]
NAMES: tuple[str, ...] = MODELS
MANIFEST, HISTOGRAMS = "manifest.json", "histograms.json"
#: The model that a card's figures are of, where another one of its settings is served.
JUDGED = "judged.onnx"
#: So many score in shadow beside one that is served; one more, and the oldest makes way.
MOST_CHALLENGERS = 3


class Signature(msgspec.Struct, frozen=True):
    """Ed25519 over `signed_text` of the two files, with the key that it verifies under."""

    public_key: str
    signature: str


_decode_signature = msgspec.json.Decoder(Signature).decode


def signed_text(onnx: bytes, card: bytes) -> bytes:
    """Return the bytes that are signed: a purpose, and the digest of each file."""
    digests = (hashlib.sha256(data).hexdigest() for data in (onnx, card))
    return "\n".join(("sectionfour model v1", *digests)).encode()


def write(
    models: Path,
    name: str,
    version: str,
    onnx: bytes,
    card: Card,
    key: Ed25519PrivateKey,
    *,
    beside: Mapping[str, Any] | None = None,
) -> Path:
    """Write a version; what is there already under that version stays. Returns its folder.

    `beside` are further files by name, bytes or JSON-ready; the card names their digests.
    """
    target = models / name / version
    if target.exists():
        return target
    files = {
        file: said if isinstance(said, bytes) else _json(said)
        for file, said in (beside or {}).items()
    }
    if files:
        card = card | {"files": {file: _sha256(data) for file, data in files.items()}}
    card_bytes = _json(card)
    signature = Signature(
        base64.b64encode(key.public_key().public_bytes_raw()).decode(),
        base64.b64encode(key.sign(signed_text(onnx, card_bytes))).decode(),
    )
    fresh = models / name / f".{version}.{secrets.token_hex(4)}"
    fresh.mkdir(parents=True)
    try:
        _write(fresh / "model.onnx", onnx)
        _write(fresh / "card.json", card_bytes)
        _write(fresh / "signature", _json(signature))
        for file, data in files.items():
            _write(fresh / file, data)
        with _turn(target.parent):
            if not target.exists():  # another process may have been first
                os.replace(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target


def _json(said: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(said), indent=1)


def _sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def sweep(models: Path, name: str) -> int:
    """Clear away what killed writers left of versions; returns how many. For who writes alone."""
    left = [path for path in (models / name).glob(".*.*") if path.is_dir()]
    for path in left:
        shutil.rmtree(path)
    return len(left)


def load(models: Path, name: str, version: str, trusted: Collection[bytes]) -> tuple[Model, Card]:
    """Open a version, or raise RegistryError saying why it cannot be trusted."""
    onnx, card = checked(models, name, version, trusted)
    return Model(name, version, _sha256(onnx), session(onnx), card["usual"]), card


def judged(models: Path, name: str, version: str, trusted: Collection[bytes]) -> tuple[Model, Card]:
    """Open the model that a version's figures are of: fitted on the older part of its past alone,
    or the one that is served where it was not fitted anew. Errors as in `load`."""
    onnx, card = checked(models, name, version, trusted)
    if JUDGED in card.get("files", {}):
        onnx = _beside(models, card, JUDGED)
    return Model(name, version, _sha256(onnx), session(onnx), card["usual"]), card


def judged_now(served: Served, name: str) -> tuple[Model, Card]:
    """Open as `judged` the version that is served now; RegistryError without one."""
    version = served.current(name)
    if version is None:
        raise RegistryError(f"no {name} model has been promoted")
    return judged(served.folder, name, version, served.trusted)


def checked(
    models: Path, name: str, version: str, trusted: Collection[bytes]
) -> tuple[bytes, Card]:
    """Return what `signed` does of a version that this code can use; else RegistryError."""
    onnx, card = signed(models, name, version, trusted)
    ours = feature_list(name)
    if {key: card.get(key) for key in ours} != ours:
        raise RegistryError(
            f"model {name}/{version} was fitted on other features than this code defines"
            f" (its catalog {card.get('catalog')}, ours {ours['catalog']}); retrain it,"
            " or run the code that made it"
        )
    return onnx, card


def signed(models: Path, name: str, version: str, trusted: Collection[bytes]) -> tuple[bytes, Card]:
    """Return a version's ONNX and card as they were signed; RegistryError where they are not."""
    folder = models / name / version
    where = f"{name}/{version}"
    try:
        onnx, card_bytes = (folder / "model.onnx").read_bytes(), (folder / "card.json").read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RegistryError(f"model {where} is not there; `sectionfour models list`") from error
    try:
        signature = _decode_signature((folder / "signature").read_bytes())
        public, signature_bytes = (
            base64.b64decode(text) for text in (signature.public_key, signature.signature)
        )
        if public not in trusted:
            raise RegistryError(f"model {where} is signed by a key that is not trusted here")
        Ed25519PublicKey.from_public_bytes(public).verify(
            signature_bytes, signed_text(onnx, card_bytes)
        )
    except FileNotFoundError as error:
        raise RegistryError(f"model {where} is not signed") from error
    except (InvalidSignature, ValueError) as error:
        raise RegistryError(f"model {where} is not what was signed: a file was changed") from error
    card: Card = msgspec.json.decode(card_bytes)
    if {"name": name, "version": version} != {
        "name": card.get("name", name),
        "version": card.get("version", version),
    }:
        raise RegistryError(f"model {where} says in its card that it is another one")
    for file in card.get("files", {}):
        _beside(models, card, file)
    return onnx, card


def beside(models: Path, card: Card, file: str) -> Any:
    """Return what a file beside a card says; RegistryError where it is not what was signed for."""
    return msgspec.json.decode(_beside(models, card, file))


def _beside(models: Path, card: Card, file: str) -> bytes:
    where = f"{card['name']}/{card['version']}"
    digest = card.get("files", {}).get(file)
    if digest is None:
        raise RegistryError(f"model {where} has no {file}; train it anew")
    try:
        data = Path(models, card["name"], card["version"], file).read_bytes()
    except FileNotFoundError as error:
        raise RegistryError(f"model {where} lacks its {file}") from error
    if _sha256(data) != digest:
        raise RegistryError(f"model {where} is not what was signed: {file} was changed")
    return data


def tested(card: Card) -> tuple[int, int]:
    """Return the first and last microsecond of the period that a card's figures are of."""
    first, last = (read_instant(card["data"][name]) for name in ("labels_known_by", "to"))
    return first, last


def unseen_from(card: Card) -> int:
    """Return the microsecond from which on the model that is served has learnt nothing."""
    data = card["data"]  # without a last fit the model itself was tested
    return read_instant(data.get("unseen_from", data["labels_known_by"]))


def versions(models: Path, name: str) -> list[str]:
    """Return the versions of a model, oldest first (their names begin with their time)."""
    folder = models / name
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def current(models: Path, name: str) -> str | None:
    """Return the version that is served, or None before the first promotion."""
    found = _history(models, name)
    return found[0] if found else None


def _history(models: Path, name: str) -> list[str]:
    """Return the version that is served and those before it; empty before the first promotion."""
    try:
        found = (models / name / "CURRENT").read_text("ascii").split()
    except FileNotFoundError:
        return []
    except UnicodeDecodeError as error:
        raise RegistryError(f"models/{name}/CURRENT cannot be read; promote a version") from error
    if not found:
        raise RegistryError(f"models/{name}/CURRENT is empty; promote a version")
    return found


def promote(models: Path, name: str, version: str, trusted: Collection[bytes]) -> None:
    """Serve `version` from now on; the one before it is remembered for `rollback`."""
    load(models, name, version, trusted)  # nothing is promoted that a worker would refuse
    with _turn(models / name):
        try:
            before = current(models, name)
        except RegistryError:  # it cannot be read: then this is the first one that can
            before = None
        if before != version:
            _point(models, name, [version, *([before] if before else [])])
        _challenge(models, name, [v for v in challengers(models, name) if v != version])


def earlier(models: Path, name: str) -> str:
    """Return the version that was served before the current one; RegistryError without one."""
    history = _history(models, name)
    if len(history) < 2:
        raise RegistryError(f"model {name} has no earlier version to roll back to")
    return history[1]


def rollback(models: Path, name: str, trusted: Collection[bytes]) -> str:
    """Serve the version before the current one again; returns it."""
    earlier(models, name)
    with _turn(models / name):
        now, before = _history(models, name)[:2]
        load(models, name, before, trusted)  # as in `promote`
        _point(models, name, [before, now])
        return before


def challengers(models: Path, name: str) -> list[str]:
    """Return the versions that score in shadow, the oldest challenge first.

    RegistryError where the file that names them is damaged.
    """
    try:
        return (models / name / "CHALLENGERS").read_text("ascii").split()
    except FileNotFoundError:
        return []
    except UnicodeDecodeError as error:
        raise RegistryError(f"models/{name}/CHALLENGERS cannot be read; remove it") from error


def challenge(models: Path, name: str, version: str, trusted: Collection[bytes]) -> list[str]:
    """Let a version score in shadow from now on; returns all that do.

    Raises RegistryError for the one that is served, and for one that cannot be trusted.
    """
    load(models, name, version, trusted)
    with _turn(models / name):
        if version == current(models, name):
            raise RegistryError(f"{name} {version} is served; it cannot challenge itself")
        others = [v for v in challengers(models, name) if v != version]
        found = [*others, version][-MOST_CHALLENGERS:]
        _challenge(models, name, found)
        return found


def dismiss(models: Path, name: str, version: str) -> None:
    """Let a version score in shadow no more; RegistryError where it did not."""
    found = challengers(models, name)
    if version not in found:
        raise RegistryError(f"{name} {version} does not challenge; `sectionfour models list`")
    with _turn(models / name):
        _challenge(models, name, [v for v in challengers(models, name) if v != version])


def _challenge(models: Path, name: str, found: list[str]) -> None:
    if found != challengers(models, name):
        _lines(models / name / "CHALLENGERS", found)


def _point(models: Path, name: str, history: list[str]) -> None:
    _lines(models / name / "CURRENT", history)


def _lines(path: Path, lines: list[str]) -> None:
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    _write(fresh, "".join(f"{line}\n" for line in lines).encode("ascii"))
    os.replace(fresh, path)


def _write(path: Path, data: bytes) -> None:
    """Write a file that is on disk before anything points to it."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Change what a model's folder holds, one process at a time."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
        os.fsync(handle)
    finally:
        os.close(handle)


class Served:
    """The current models of `folder`, looked up anew when CURRENT changes."""

    def __init__(self, models: Path, trusted: Collection[bytes]) -> None:
        self.folder, self.trusted = models, trusted
        self._open: dict[str, tuple[tuple[int, int], Model]] = {}

    def current(self, name: str) -> str | None:
        """Return the version of a model that is served."""
        return current(self.folder, name)

    def all(self) -> Iterator[tuple[str, str, bytes]]:
        """Yield every version that is there: model, version, and the key that it is signed by."""
        for name in NAMES:
            for version in versions(self.folder, name):
                try:
                    text = (self.folder / name / version / "signature").read_bytes()
                    yield name, version, base64.b64decode(_decode_signature(text).public_key)
                except (FileNotFoundError, ValueError):  # no worker loads it
                    continue

    def get(self, name: str) -> Model:
        """Return the model that is served now; a look at one file's time when nothing changed.

        Raises RegistryError where there is none, or none that can be trusted.
        """
        try:
            stat = os.stat(self.folder / name / "CURRENT")
        except FileNotFoundError as error:
            raise RegistryError(f"no {name} model has been promoted") from error
        stamp = (stat.st_mtime_ns, stat.st_ino)
        known = self._open.get(name)
        if known is None or known[0] != stamp:
            version = current(self.folder, name)
            if version is None:  # taken away since it was looked at
                raise RegistryError(f"no {name} model has been promoted")
            known = (stamp, load(self.folder, name, version, self.trusted)[0])
            self._open[name] = known
        return known[1]
