"""The inventory is closed: whatever a service has filled is named in it, and nothing else is."""

from __future__ import annotations

import ast
import fnmatch
import sqlite3
import time
from pathlib import Path
from typing import Any

import lmdb
import pytest

from sectionfour.errors import SettingsError
from sectionfour.privacy import inventory

FOUND = dict[str, set[str]]


def tables(file: Path) -> set[str]:
    connection = sqlite3.connect(file)
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    connection.close()
    return {name for (name,) in rows if not name.startswith("sqlite_")}


def spaces(folder: Path) -> set[str]:
    """Return the first bytes of the keys that are in the windows."""
    environment = lmdb.open(str(folder), readonly=True, lock=False)
    with environment.begin() as transaction, transaction.cursor() as cursor:
        found = {chr(key[0]) for key, _ in cursor}
    environment.close()
    return found


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}


_SEEN: FOUND = {}


@pytest.fixture
def filled(service: Any, models: Path, a_request: Any, a_consent: Any) -> FOUND:
    """What lies in the home of a service that runs and has done everything once."""
    if not _SEEN:
        assert service.call("POST", "/v1/consents", a_consent(77), role="consent")[0] == 201
        assert service.call("POST", "/v1/assessments", a_request(77), role="checkout")[0] == 200
        witness = service.home / "checkpoints/witness.txt"
        for _ in range(300):
            if witness.exists():
                break
            time.sleep(0.1)
        _SEEN.update(
            file=files(service.home),
            models=files(models),
            ledger=tables(service.home / "ledger.db"),
            vault=tables(service.home / "vault.db"),
            persons=tables(service.home / "keys/persons.db"),
            velocity=spaces(service.home / "velocity"),
        )
    return _SEEN


def unnamed(found: FOUND, of: inventory.Inventory) -> list[str]:
    """Return what there is and `of` does not name."""
    return [
        f"{kind}: {name}"
        for kind, names in found.items()
        for name in names
        if not any(matches(name, kept.name) for kept in of.of(kind))
    ]


def absent(found: FOUND, of: inventory.Inventory) -> list[str]:
    """Return what `of` names and there is not."""
    return [
        kept.place
        for kind, names in found.items()
        for kept in of.of(kind)
        if not any(matches(name, kept.name) for name in names)
    ]


def matches(name: str, pattern: str) -> bool:
    """Whether `name` fits; a star stands for no slash."""
    parts, wanted = name.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


def test_whatever_there_is_is_named(filled):
    assert unnamed(filled, inventory.load()) == []


def test_whatever_is_named_is_there(filled):
    assert absent(filled, inventory.load()) == []


ON_DISK = [k.place for k in inventory.load().places if k.kind not in ("memory", "elsewhere")]


@pytest.mark.parametrize("place", ON_DISK)
def test_a_place_left_out_is_noticed(filled, place):
    whole = inventory.load()
    less = tuple(k for k in whole.places if k.place != place)
    assert unnamed(filled, inventory.Inventory(less, whole.classes)) != []


def a_file(**changes: Any) -> dict[str, Any]:
    line = {
        "place": "ledger.things",
        "holds": "things",
        "personal": True,
        "erasure": "delete",
        "person": {"subject": "member"},
        "retention": "technical",
    }
    changed = {k: v for k, v in (line | changes).items() if v is not None}
    return {"classes": {"technical": "for long"}, "kept": [changed]}


def test_a_right_line_is_taken():
    assert inventory.assemble(a_file()).places[0].name == "things"


@pytest.mark.parametrize(
    "changes",
    [
        {"place": "nowhere.things"},
        {"retention": "for ever"},
        {"personal": False},
        {"erasure": "none"},
        {"erasure": "retain"},
        {"erasure": "forget"},
        {"person": None},
        {"person": {"name": "member"}},
        {"law": "some law", "keep_days": 3},
        {"becomes": {"member": "NULL"}},
        {"holds": None},
    ],
)
def test_a_wrong_line_is_refused(changes):
    with pytest.raises(SettingsError, match=r"inventory\.toml"):
        inventory.assemble(a_file(**changes))


def test_a_place_is_named_once():
    file = a_file()
    file["kept"] *= 2
    with pytest.raises(SettingsError, match="twice"):
        inventory.assemble(file)


def made_in_a_home() -> set[str]:
    """Return every path that the code joins to a home, a star for what it fills in."""
    found = set()
    for file in Path(inventory.__file__).parents[1].rglob("*.py"):
        tree = ast.parse(file.read_text("utf-8"))
        named = {
            target.id: node.value.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            parts: list[str] = []
            while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
                parts.insert(0, spelt(node.right, named))
                node = node.left
            here = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
            if here == "home" and parts:
                found.add("/".join(parts))
    return found


def spelt(node: ast.AST, named: dict[str, Any]) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(spelt(part, named) for part in node.values)
    value = named.get(node.id) if isinstance(node, ast.Name) else getattr(node, "value", None)
    return value if isinstance(value, str) else "*"


def test_every_path_that_the_code_makes_in_a_home_is_named() -> None:
    """Whatever command makes it: also what no service does."""
    of = inventory.load()
    names = [kept.name for kind in ("file", "elsewhere") for kept in of.of(kind)]
    folders = {name.rpartition("/")[0] for name in names if "/" in name} | {"models", "metrics"}
    made = made_in_a_home()
    assert {"ledger.db", "reports/privacy-*.json", "drift.json", "*.lock"} <= made
    assert [p for p in made - folders if not any(p == n or matches(p, n) for n in names)] == []
