"""Rules: what an analyst knows tonight, before a model has learnt it.

    [[rule]]
    id = "card_testing"
    when = "instrument_members_24h >= 4 and amount < 500"
    then = "review"
    reason = "a small amount on an instrument that several members used"

A rule can only make an outcome stricter, and does not hold where anything that it reads is missing:
whoever refuses a category is never worse off for it. The score stays the model's.

A condition compares sums, differences and products of features and numbers, and is written as for
`DataFrame.query` of pandas, so that it can be tried in a notebook as it stands. It is looked over
whole when it is read: once read, nothing can go wrong with it while a checkout waits.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from sectionfour.domain import ACTIONS, MODELS, Action, Held, ModelName, Outcome
from sectionfour.errors import SettingsError
from sectionfour.features.catalog import NAMES, columns

log = logging.getLogger("sectionfour")

#: More is no rule, but a slip of the pen, or a program.
MOST_RULES, LONGEST, LARGEST = 500, 1_000, 1e15
_PLACES = {name: place for place, name in enumerate(NAMES)}
_HAD = {model: frozenset(columns(model)) for model in MODELS}
_COMPARED = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)


@dataclass(frozen=True, slots=True)
class Rule:
    """`reads` are places in the vector, and `holds` takes what is there, none of it missing."""

    id: str
    when: str
    then: Action
    reason: str
    models: tuple[ModelName, ...]
    reads: tuple[int, ...]
    holds: Callable[..., bool]

    def of(self, values: list[float]) -> bool:
        """Whether it holds for a vector, given as a list; NaN is missing."""
        return self._met([values[place] for place in self.reads])

    def among(self, rows: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return for which rows of a matrix of the whole catalog it holds."""
        return np.array([self._met(read) for read in rows[:, self.reads].tolist()], dtype=np.bool_)

    def _met(self, read: list[float]) -> bool:
        return all(value == value for value in read) and self.holds(*read)


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules in the order of their file; `digest` is that of the file, None where there is none."""

    rules: tuple[Rule, ...] = ()
    digest: str | None = None

    def applied(self, model: str, vector: NDArray[np.float64], outcome: Outcome) -> Outcome:
        """Return `outcome`, or a stricter one, with the rules that hold for this vector."""
        if not self.rules:
            return outcome
        values = vector.tolist()
        held = [rule for rule in self.rules if model in rule.models and rule.of(values)]
        action = max((outcome.action, *(rule.then for rule in held)), key=ACTIONS.index)
        told = tuple(Held(rule.id, rule.then, rule.reason) for rule in held)
        return Outcome(outcome.level, action, told, self.digest)


class Followed:
    """The rules of a file as it is now: a change counts from the next call on, in every worker.

    A file that cannot be read as rules any more changes nothing: those of before go on, and the log
    says why. To begin with it must be sound: SettingsError.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen = _mark(path)
        self._rules = load(path)

    def now(self) -> Rules:
        """Return the rules; a look at the file's time when nothing changed."""
        mark = _mark(self._path)
        if mark != self._seen:
            try:
                self._rules = load(self._path)
            except SettingsError as error:
                log.error("the rules of before go on: %s", error.detail)
            self._seen = mark
        return self._rules


def _mark(path: Path | None) -> tuple[int, int, int] | None:
    """Return what tells a file from what it was, or will be; None where there is none."""
    try:
        found = None if path is None else os.stat(path)
    except OSError:
        return None
    return found and (found.st_mtime_ns, found.st_size, found.st_ino)


class _Written(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: str
    when: str
    then: Literal["challenge", "review", "block"]
    reason: str
    models: tuple[ModelName, ...] = ()  # all that have what it reads


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rule: tuple[_Written, ...] = ()


def load(path: Path | None) -> Rules:
    """Read the rules of a TOML file; without one there are none. SettingsError names the rule and
    what is wrong with it."""
    if path is None:
        return Rules()
    try:
        data = path.read_bytes()
        written = msgspec.toml.decode(data, type=_File).rule
    except OSError as error:
        raise SettingsError(f"{path.name}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"{path.name}: {error}") from error
    if len(written) > MOST_RULES:
        raise SettingsError(f"{path.name}: at most {MOST_RULES} rules, found {len(written)}")
    rules: dict[str, Rule] = {}
    for each in written:
        try:
            rules[each.id] = _rule(each, rules)
        except SettingsError as error:
            raise SettingsError(f"{path.name}: {each.id}: {error.detail}") from error
    return Rules(tuple(rules.values()), hashlib.sha256(data).hexdigest())


def _rule(written: _Written, before: dict[str, Rule]) -> Rule:
    if not re.fullmatch("[a-z][a-z0-9_]{0,63}", written.id):
        raise SettingsError("an id is like card_testing, of at most 64 characters")
    if written.id in before:
        raise SettingsError("there are two of this id")
    if not written.reason.strip() or len(written.reason) > 200:
        raise SettingsError("a reason is said to people: 1 to 200 characters")
    names, holds = condition(written.when)
    reads = tuple(_PLACES[name] for name in names)
    for model in written.models:
        lacking = [NAMES[place] for place in reads if place not in _HAD[model]]
        if lacking:
            raise SettingsError(f"{lacking[0]} is never there for the model {model}")
    return Rule(
        id=written.id,
        when=written.when,
        then=written.then,
        reason=written.reason,
        models=written.models or tuple(m for m in _HAD if _HAD[m].issuperset(reads)),
        reads=reads,
        holds=holds,
    )


def condition(text: str) -> tuple[tuple[str, ...], Callable[..., bool]]:
    """Return the features that a condition reads, and a function of their values.

    All is in floats, without division: no values can make it fail. SettingsError says which part
    is not understood.

    >>> names, holds = condition("2 * amount > 500 and not hour >= 6")
    >>> names, holds(300.0, 3.0), holds(300.0, 12.0)
    (('amount', 'hour'), True, False)
    """
    if len(text) > LONGEST:
        raise SettingsError(f"a condition has at most {LONGEST:,} characters")
    names: dict[str, None] = {}
    try:
        if "#" in text:  # what comes after it would not be read
            raise SyntaxError
        body = ast.parse(" ".join(text.split()), mode="eval").body
        _condition(body, names)
        arguments = ast.arguments([], [ast.arg(name) for name in names], None, [], [], None, [])
        function = ast.fix_missing_locations(ast.Expression(ast.Lambda(arguments, body)))
        code = compile(function, "<rule>", "eval")
    except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
        raise SettingsError(f"{text!r} cannot be read as a condition") from error
    if not names:
        raise SettingsError(f"{text!r} reads no feature")
    holds: Callable[..., bool] = eval(code, {"__builtins__": {}})
    return tuple(names), holds


def _condition(node: ast.expr, names: dict[str, None]) -> None:
    """Look over what must be true or false, and gather the names in it."""
    match node:
        case ast.BoolOp(values=parts):
            for part in parts:
                _condition(part, names)
        case ast.UnaryOp(op=ast.Not(), operand=part):
            _condition(part, names)
        case ast.Compare(left=left, ops=ops, comparators=others) if all(
            isinstance(op, _COMPARED) for op in ops
        ):
            for part in (left, *others):
                _number(part, names)
        case _:
            raise SettingsError(f"{ast.unparse(node)!r} is no comparison")


def _number(node: ast.expr, names: dict[str, None]) -> None:
    """Look over what must be a number, and make floats of those that are written there."""
    match node:
        case ast.Name(id=name) if name in _PLACES:
            names[name] = None
        case ast.Name(id=name):
            near = difflib.get_close_matches(name, NAMES, n=1)
            raise SettingsError(
                f"there is no feature {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
            )
        case ast.Constant(value=int() | float() as value) if (
            not isinstance(value, bool) and abs(value) <= LARGEST
        ):
            node.value = float(value)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult(), right=right):
            _number(left, names)
            _number(right, names)
        case ast.UnaryOp(op=ast.USub(), operand=part):
            _number(part, names)
        case ast.BinOp(op=ast.Div()):
            raise SettingsError(
                f"{ast.unparse(node)!r} divides: multiply the other side, as in a > 3 * b"
            )
        case _:
            raise SettingsError(f"{ast.unparse(node)!r} is no number and no feature")
