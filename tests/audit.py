"""The auditor's suite: the tests T1 to T28 of the requirements, each with target, figure, verdict.

    python tests/audit.py [--long] [--json FILE] [T1 T24 ...]
    python tests/audit.py --attach

`audit.toml` says which tests show which T. A test gives its figures through pytest's own
`record_property(name, value)`; without any, the figure is how many tests passed. Bounds on time are
checked here alone (AUDIT is set), because a plain test run may be on a busy machine; `--long` asks
the tests for the numbers of trials that the requirements name, where a plain run makes fewer.
Ends with 0 only where every T that was asked for is met. `--attach` makes tests, here and in the
trace, of those that were awaited and have come.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, reduce
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
TRACE = HERE.parent / "docs" / "trace.toml"
#: What asks the tests for their full size.
LONG = {"AUDIT": "long", "S4_FULL": "1", "FULL_T8": "1", "T19_SUBJECTS": "1000"}
ALL = [f"T{number}" for number in range(1, 29)]


@dataclass
class Shown:
    """One T of the table, and what became of its tests in this run.

    `tests` are node ids below tests/, without parameters; a class stands for all in it. `lacking`
    says what of the target they do not show, or why there are none; `shorter` what a run without
    --long leaves out of it; `awaits` names tests that are on their way; `unmet` says which figure
    misses the target, where no test may fail for it.
    """

    title: str
    target: str
    tests: list[str]
    lacking: str = ""
    shorter: str = ""
    awaits: list[str] = field(default_factory=list)
    unmet: str = ""
    outcomes: dict[str, list[str]] = field(default_factory=dict)  # of each test, in this run
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """met | not met | in part | not shown.

        What failed is not met, whatever else passed. A test that was skipped or not found shows
        nothing, and then what is left shows at most a part.
        """
        found = [outcome for test in self.tests for outcome in self.outcomes.get(test, ["absent"])]
        if "failed" in found or self.unmet:
            return "not met"
        if "passed" not in found:
            return "not shown"
        whole = set(found) == {"passed"} and not self.lacking and not self.awaits
        return "met" if whole else "in part"

    @property
    def figure(self) -> str:
        found = [outcome for outcomes in self.outcomes.values() for outcome in outcomes]
        passed = f"{found.count('passed')} of {len(found)} tests pass" if found else ""
        return ", ".join(f"{name} {value}" for name, value in self.figures.items()) or passed


def table(path: Path = HERE / "audit.toml") -> dict[str, Shown]:
    """Return what the table says, T1 first."""
    return {name: Shown(**row) for name, row in tomllib.loads(path.read_text("utf-8")).items()}


@cache
def names(file: Path) -> frozenset[str]:
    """Return the tests of a file as pytest names them: `function`, `Class`, `Class::method`."""
    found = set()
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found.add(node.name)
            found |= {f"{node.name}::{m.name}" for m in node.body if isinstance(m, ast.FunctionDef)}
        elif isinstance(node, ast.Assign):  # TestX = Machine.TestCase
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return frozenset(name for name in found if name.split("::")[-1].lower().startswith("test"))


def exists(test: str) -> bool:
    """Whether a test with this node id below tests/ is written down."""
    file, _, name = test.partition("::")
    return (HERE / file).is_file() and name in names(HERE / file)


def code(name: str) -> bool:
    """Whether `package.module:object` exists."""
    module, _, path = name.partition(":")
    try:
        return callable(reduce(getattr, path.split("."), importlib.import_module(module)))
    except (ImportError, AttributeError):
        return False


def attach(text: str) -> str:
    """Return a table with what was awaited, and exists by now, among its tests and its code."""
    return "\n\n".join(_attached(row) for row in text.rstrip().split("\n\n")) + "\n"


def _attached(row: str) -> str:
    found = _AWAITS.search(row)
    if found is None:
        return row
    kept = tomllib.loads(row[row.index("\n") :])  # without the name of the table
    awaited = kept["awaits"]
    come = {name for name in awaited if (exists if ".py::" in name else code)(name)}
    for key, ours in (("tests", True), ("code", False)):
        new = [name for name in awaited if name in come and (".py::" in name) == ours]
        if new:
            lines = _list(key, [*kept[key], *new])
            row = re.sub(rf"^{key} = \[[^\]]*\]", lines, row, flags=re.MULTILINE)
    left = [name for name in awaited if name not in come]
    return _AWAITS.sub(_list("awaits", left) + "\n" if left else "", row).rstrip("\n")


def _list(key: str, names: list[str]) -> str:
    return f"{key} = [\n" + "".join(f'  "{name}",\n' for name in names) + "]"


_AWAITS = re.compile(r"^awaits = \[[^\]]*\](?:\n|\Z)", re.MULTILINE)


class Audit:
    """The plugin: keeps of what was collected the tests of the table, and notes their outcomes."""

    def __init__(self, rows: dict[str, Shown]) -> None:
        self.rows = rows

    def _of(self, nodeid: str) -> Iterable[tuple[Shown, str]]:
        plain = nodeid.partition("[")[0].replace("\\", "/").removeprefix("tests/")
        for row in self.rows.values():
            for test in row.tests:
                if plain == test or plain.startswith(f"{test}::"):
                    yield row, test

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        kept = [item for item in items if any(self._of(item.nodeid))]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        for row, test in self._of(report.nodeid):
            row.outcomes.setdefault(test, []).append(report.outcome)
            if report.when == "call":
                row.figures |= dict(report.user_properties)


def run(rows: dict[str, Shown], *options: str, long: bool = False) -> None:
    """Run the tests of these rows, and note in the rows what became of them."""
    os.environ |= LONG if long else {"AUDIT": "1"}
    tests = [test for row in rows.values() for test in row.tests]
    files = dict.fromkeys(str(HERE / test.partition("::")[0]) for test in tests if exists(test))
    if files:
        pytest.main([*files, "-q", "-p", "no:cacheprovider", *options], plugins=[Audit(rows)])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--long", action="store_true", help="as many trials as the targets name")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    parser.add_argument("--attach", action="store_true", help="take in what has come, and end")
    parser.add_argument("which", nargs="*", metavar="T", help="T1 to T28; all without any")
    asked = parser.parse_args(arguments)
    if asked.attach:
        for path in (HERE / "audit.toml", TRACE):
            path.write_text(attach(path.read_text("utf-8")), "utf-8")
        return 0
    rows = {name: row for name, row in table().items() if name in (asked.which or ALL)}
    if unknown := set(asked.which).difference(rows):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    run(rows, long=asked.long)
    if not asked.long:
        for row in rows.values():
            row.lacking = "; ".join(filter(None, (row.lacking, row.shorter)))
    print()
    for name, row in rows.items():
        print(f"{name:4} {row.verdict:9}  {row.title}")
        print(f"{'':16}target: {row.target}")
        awaits = ", ".join(row.awaits)
        for word, said in (
            ("figure", row.figure),
            ("unmet", row.unmet),
            ("lacking", row.lacking),
            ("awaits", awaits),
        ):
            if said:
                print(f"{'':16}{word}: {said}")
    verdicts = [row.verdict for row in rows.values()]
    counts = ", ".join(
        f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts)
    )
    print(f"\n{len(rows)} tests of an auditor: {counts}")
    if asked.json is not None:
        results = [
            {"test": name, "title": row.title, "target": row.target, "figures": row.figures}
            | {"figure": row.figure, "verdict": row.verdict, "lacking": row.lacking}
            | {"outcomes": row.outcomes}
            for name, row in rows.items()
        ]
        about = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "long": asked.long}
        asked.json.write_text(json.dumps(about | {"results": results}, indent=1) + "\n", "utf-8")
    return int(set(verdicts) != {"met"})


if __name__ == "__main__":
    sys.exit(main())
