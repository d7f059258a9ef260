"""The rooms of the ledger know nothing of each other: that is why they can be one class."""

from __future__ import annotations

import ast
import inspect
import sys
from collections import Counter

import pytest

from sectionfour.stores.ledger import rooms
from sectionfour.stores.ledger.connected import Connected
from sectionfour.stores.ledger.rooms import Ledger


def of_itself(node: ast.AST) -> str | None:
    """Return the name of what is looked up of `self`."""
    of_self = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    return node.attr if of_self and node.value.id == "self" else None


@pytest.mark.parametrize("room", Ledger.__bases__, ids=lambda room: room.__name__)
def test_a_room_asks_nothing_of_another(room: type) -> None:
    nodes = list(ast.walk(ast.parse(inspect.getsource(room))))
    made = {of_itself(n) for n in nodes if isinstance(getattr(n, "ctx", None), ast.Store)}
    own = {*vars(room), *room.__annotations__, *vars(Connected), *Connected.__annotations__, *made}
    assert {of_itself(node) for node in nodes} - {None} <= own


def test_nothing_is_defined_in_two_rooms() -> None:
    found = Counter(n for room in Ledger.__bases__ for n in vars(room) if not n.startswith("__"))
    assert found
    assert max(found.values()) == 1


def test_every_room_with_a_table_is_in_the_schema() -> None:
    modules = [sys.modules[room.__module__] for room in Ledger.__bases__]
    assert [m for m in modules if hasattr(m, "SCHEMA")] == list(rooms.ROOMS)
