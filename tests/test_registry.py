"""Models on disk: what was signed is served, and nothing else; whoever promotes, nobody stops."""

from __future__ import annotations

import base64
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sectionfour.errors import RegistryError
from sectionfour.features.catalog import FEATURES
from sectionfour.learning import registry
from sectionfour.learning.registry import Served

KEY, FOREIGN = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
TRUSTED = frozenset({KEY.public_key().public_bytes_raw()})
NAME = "transaction"


@pytest.fixture(scope="session")
def onnx(models: Path) -> bytes:
    return (models / NAME / "v1" / "model.onnx").read_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def write(folder: Path, onnx: bytes) -> Callable[..., Path]:
    """Return how to write a version of a model, signed, with any card."""

    def make(version: str, /, *, key: Ed25519PrivateKey = KEY, **card: Any) -> Path:
        whole = {**registry.feature_list(NAME), "usual": {}} | card
        return registry.write(folder, NAME, version, onnx, whole, key)

    return make


def load(folder: Path, version: str) -> registry.Card:
    return registry.load(folder, NAME, version, TRUSTED)[1]


def test_what_was_written_is_what_is_read(folder: Path, write: Callable[..., Path]) -> None:
    place = write("v1", metrics={"average_precision": 0.5})
    assert sorted(path.name for path in place.iterdir()) == ["card.json", "model.onnx", "signature"]
    model, card = registry.load(folder, NAME, "v1", TRUSTED)
    assert card["metrics"] == {"average_precision": 0.5}
    assert model.digest.startswith("sha256:")
    assert 0 <= model.rate(np.zeros(len(FEATURES))).probability <= 1


def test_a_version_is_never_changed(folder: Path, write: Callable[..., Path]) -> None:
    place = write("v1", metrics=1)
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    assert write("v1", metrics=2) == place
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    assert registry.versions(folder, NAME) == ["v1"]
    assert {path.name for path in (folder / NAME).iterdir()} == {"v1"}


@pytest.mark.parametrize("file", ["model.onnx", "card.json", "signature"])
def test_a_changed_byte_anywhere_is_refused(
    folder: Path, write: Callable[..., Path], file: str
) -> None:
    path = write("v1") / file
    whole = path.read_bytes()
    for place in {0, 1, len(whole) // 3, len(whole) // 2, len(whole) - 2}:
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(RegistryError):
            load(folder, "v1")
    path.write_bytes(whole)
    load(folder, "v1")


@pytest.mark.parametrize("file", ["model.onnx", "card.json", "signature"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff\xfe\x00"])
def test_a_half_written_version_is_refused(
    folder: Path, write: Callable[..., Path], file: str, content: bytes | None
) -> None:
    path = write("v1") / file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(RegistryError):
        load(folder, "v1")
    with pytest.raises(RegistryError):
        registry.promote(folder, NAME, "v1", TRUSTED)
    assert registry.current(folder, NAME) is None


def test_what_a_killed_writer_leaves_is_no_version(
    folder: Path, write: Callable[..., Path]
) -> None:
    write("v1")
    left = folder / NAME / ".v2.0123abcd"
    left.mkdir()
    (left / "model.onnx").write_bytes(b"half")
    assert registry.versions(folder, NAME) == ["v1"]
    write("v2")
    assert registry.versions(folder, NAME) == ["v1", "v2"]
    load(folder, "v2")


def test_a_foreign_key_is_refused_however_good_its_signature(
    folder: Path, write: Callable[..., Path]
) -> None:
    write("v1", key=FOREIGN)
    with pytest.raises(RegistryError, match="not trusted"):
        load(folder, "v1")


def test_a_foreign_signature_under_a_trusted_name_is_refused(
    folder: Path, write: Callable[..., Path]
) -> None:
    path = write("v1", key=FOREIGN) / "signature"
    said = json.loads(path.read_bytes())
    said["public_key"] = base64.b64encode(next(iter(TRUSTED))).decode()
    path.write_text(json.dumps(said))
    with pytest.raises(RegistryError, match="changed"):
        load(folder, "v1")


def test_files_of_two_versions_do_not_mix(folder: Path, write: Callable[..., Path]) -> None:
    one, other = write("v1", metrics=1), write("v2", metrics=2)
    for file in ("card.json", "signature"):
        shutil.copy(other / file, folder / "kept")
        shutil.copy(one / file, other / file)
        with pytest.raises(RegistryError):
            load(folder, "v2")
        shutil.copy(folder / "kept", other / file)


def test_an_old_version_does_not_pass_for_a_new_one(
    folder: Path, write: Callable[..., Path]
) -> None:
    old = write("v1", name=NAME, version="v1")
    shutil.copytree(old, folder / NAME / "v2")
    with pytest.raises(RegistryError, match="another one"):
        load(folder, "v2")


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card | {"catalog": "another"},
        lambda card: card | {"features": card["features"][::-1]},
        lambda card: card | {"features": card["features"][:-1]},
        lambda card: {key: value for key, value in card.items() if key != "features"},
        lambda card: card | registry.feature_list("account"),
    ],
)
def test_a_model_of_other_features_is_refused(
    folder: Path, write: Callable[..., Path], change: Callable[[Any], Any]
) -> None:
    card = change(registry.feature_list(NAME))
    write("v1", **{"catalog": None, "features": None} | card)
    with pytest.raises(RegistryError, match="other features"):
        load(folder, "v1")


@pytest.mark.parametrize("version", ["absent", "v1/card.json", ".."])
def test_a_version_that_is_not_there_is_refused(
    folder: Path, write: Callable[..., Path], version: str
) -> None:
    write("v1")
    with pytest.raises(RegistryError):
        load(folder, version)


# --- which one is served ---------------------------------------------------------------------


def served(folder: Path) -> Served:
    return Served(folder, TRUSTED)


def test_promotion_and_rollback_hold_for_the_next_call_without_a_restart(
    folder: Path, write: Callable[..., Path]
) -> None:
    workers = [served(folder) for _ in range(2)]
    for worker in workers:
        with pytest.raises(RegistryError, match="promoted"):
            worker.get(NAME)
    for number in range(1, 4):
        write(f"v{number}")
        registry.promote(folder, NAME, f"v{number}", TRUSTED)
        assert [worker.get(NAME).version for worker in workers] == [f"v{number}"] * 2
    for version in ("v2", "v3", "v2"):
        assert registry.rollback(folder, NAME, TRUSTED) == version
        assert [worker.get(NAME).version for worker in workers] == [version] * 2


def test_a_model_is_opened_once(folder: Path, write: Callable[..., Path]) -> None:
    write("v1")
    registry.promote(folder, NAME, "v1", TRUSTED)
    worker = served(folder)
    assert worker.get(NAME) is worker.get(NAME)
    registry.promote(folder, NAME, "v1", TRUSTED)  # again is no news
    assert registry.current(folder, NAME) == "v1"


def test_nothing_is_promoted_that_a_worker_would_refuse(
    folder: Path, write: Callable[..., Path]
) -> None:
    write("v1")
    registry.promote(folder, NAME, "v1", TRUSTED)
    worker = served(folder)
    write("v2", key=FOREIGN)
    for version in ("v2", "absent"):
        with pytest.raises(RegistryError):
            registry.promote(folder, NAME, version, TRUSTED)
    assert worker.get(NAME).version == "v1"
    with pytest.raises(RegistryError, match="no earlier"):
        registry.rollback(folder, NAME, TRUSTED)
    write("v3")
    registry.promote(folder, NAME, "v3", TRUSTED)
    card = folder / NAME / "v1" / "card.json"
    card.write_bytes(card.read_bytes().replace(b"usual", b"unusual"))
    with pytest.raises(RegistryError, match="v1 is not what was signed"):
        registry.rollback(folder, NAME, TRUSTED)
    assert worker.get(NAME).version == "v3"


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff", b"absent\n", b"../../elsewhere\n"])
def test_a_ruined_pointer_gives_no_model_and_can_be_mended(
    folder: Path, write: Callable[..., Path], content: bytes
) -> None:
    write("v1")
    registry.promote(folder, NAME, "v1", TRUSTED)
    (folder / NAME / "CURRENT").write_bytes(content)
    with pytest.raises(RegistryError):
        served(folder).get(NAME)
    registry.promote(folder, NAME, "v1", TRUSTED)
    assert served(folder).get(NAME).version == "v1"


def _promotes(folder: Path, versions: list[str], start: Any) -> None:
    start.wait()
    for turn in range(20):
        registry.promote(folder, NAME, versions[turn % len(versions)], TRUSTED)


def test_promotions_at_once_leave_a_version_served_and_one_to_go_back_to(
    folder: Path, write: Callable[..., Path]
) -> None:
    versions = [f"v{n}" for n in range(6)]
    for version in versions:
        write(version)
    registry.promote(folder, NAME, "v0", TRUSTED)
    start = threading.Barrier(4)
    workers = [
        threading.Thread(target=_promotes, args=(folder, versions[n : n + 3], start))
        for n in range(3)
    ]
    for worker in workers:
        worker.start()
    start.wait()
    reader, seen = served(folder), set()
    while any(worker.is_alive() for worker in workers):
        seen.add(reader.get(NAME).version)  # never raises, whatever the moment
    for worker in workers:
        worker.join()
    assert seen <= set(versions)
    history = (folder / NAME / "CURRENT").read_text().split()
    assert len(history) == len(set(history)) == 2
    assert reader.get(NAME).version == history[0]
    assert registry.rollback(folder, NAME, TRUSTED) == history[1] == reader.get(NAME).version
    assert not [path for path in (folder / NAME).iterdir() if path.name.startswith(".")]


def _writes(folder: Path, onnx: bytes, key: bytes, start: Any, errors: Any) -> None:
    card = {**registry.feature_list(NAME), "usual": {}}
    start.wait()
    try:
        for turn in range(10):
            registry.write(
                folder, NAME, f"v{turn}", onnx, card, Ed25519PrivateKey.from_private_bytes(key)
            )
    except OSError as error:
        errors.append(error)


def test_the_same_version_written_at_once_is_there_once(folder: Path, onnx: bytes) -> None:
    start, errors = threading.Barrier(3), []
    arguments = (folder, onnx, KEY.private_bytes_raw(), start, errors)
    workers = [threading.Thread(target=_writes, args=arguments) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert errors == []
    assert registry.versions(folder, NAME) == [f"v{n}" for n in range(10)]
    assert {path.name for path in (folder / NAME).iterdir()} == {f"v{n}" for n in range(10)}
    for version in registry.versions(folder, NAME):
        load(folder, version)
