"""The table of the auditor's tests names what exists, and its verdicts are earned."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from . import audit

ROWS = audit.table()


def test_the_table_has_every_test_of_the_requirements() -> None:
    assert list(ROWS) == audit.ALL


@pytest.mark.parametrize("name", ROWS)
def test_what_the_table_names_exists(name: str) -> None:
    row = ROWS[name]
    assert row.title
    assert row.target
    assert [test for test in row.tests if not audit.exists(test)] == []
    assert [test for test in row.awaits if audit.exists(test)] == [], "make them tests: --attach"
    assert row.tests or row.awaits or row.lacking, "neither a test nor a word why there is none"


def test_a_name_that_no_test_has_does_not_exist() -> None:
    here = "test_audit.py::test_a_name_that_no_test_has_does_not_exist"
    assert audit.exists(here)
    assert not audit.exists(f"{here}_")
    assert not audit.exists("test_audit.py::ROWS")
    assert not audit.exists("test_audit.py")
    assert not audit.exists("test_nowhere.py::test_a")


@pytest.mark.parametrize(
    ("outcomes", "lacking", "verdict"),
    [
        ({"a": ["passed"], "b": ["passed", "passed"]}, "", "met"),
        ({"a": ["passed"], "b": ["passed"]}, "a part", "in part"),
        ({"a": ["passed"], "b": ["passed", "failed"]}, "", "not met"),
        ({"a": ["failed"]}, "a part", "not met"),
        ({"a": ["passed"]}, "", "in part"),  # b was not found
        ({"a": ["passed"], "b": ["skipped"]}, "", "in part"),
        ({"a": ["skipped"], "b": ["skipped"]}, "", "not shown"),
        ({}, "", "not shown"),
    ],
)
def test_a_verdict_is_earned(outcomes: dict[str, list[str]], lacking: str, verdict: str) -> None:
    row = audit.Shown("a title", "a target", ["a", "b"], lacking, outcomes=outcomes)
    assert row.verdict == verdict


def test_what_a_figure_misses_is_not_met_though_every_test_passes() -> None:
    row = audit.Shown("a title", "a target", ["a"], unmet="a figure", outcomes={"a": ["passed"]})
    assert row.verdict == "not met"


def test_what_was_awaited_is_attached_once_it_exists() -> None:
    here = "test_audit.py::test_what_was_awaited_is_attached_once_it_exists"
    text = f"""\
[T1]
tests = []
awaits = [
  "{here}",
  "test_nowhere.py::test_a",
]

[R]
code = ["builtins:len"]
tests = [
  "test_b.py::test_b",
]
awaits = ["{here}", "sectionfour.decide:decide", "sectionfour.nowhere:f"]

[T2]
tests = []
awaits = ["{here}"]
"""
    done = tomllib.loads(audit.attach(text))
    assert done["T1"] == {"tests": [here], "awaits": ["test_nowhere.py::test_a"]}
    assert done["R"] == {
        "code": ["builtins:len", "sectionfour.decide:decide"],
        "tests": ["test_b.py::test_b", here],
        "awaits": ["sectionfour.nowhere:f"],
    }
    assert done["T2"] == {"tests": [here]}
    assert audit.attach(audit.attach(text)) == audit.attach(text)


RUN = """
import json, sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

spec = spec_from_file_location("audit", sys.argv[1])
audit = module_from_spec(spec)
sys.modules["audit"] = audit
spec.loader.exec_module(audit)
audit.HERE = Path(sys.argv[2])
rows = {
    name: audit.Shown(name, "none", [f"test_some.py::{test}" for test in tests])
    for name, tests in json.loads(sys.argv[3]).items()
}
audit.run(rows, "--rootdir", sys.argv[2], "-c", "/dev/null")
print(json.dumps({name: [row.verdict, row.figure] for name, row in rows.items()}))
"""

SOME = """
import os, pytest

@pytest.mark.parametrize("n", [1, 2])
def test_good(n, record_property):
    record_property("trials", 10 * n)

class TestBoth:
    def test_one(self): assert os.environ["AUDIT"] == "1"
    def test_two(self): pass

@pytest.mark.parametrize("n", [1, 2])
def test_bad(n): assert n == 1

def test_skipped(): pytest.skip("not today")

@pytest.fixture
def broken(): raise OSError

def test_never_begun(broken): pass

def test_not_asked_for(): os.remove(__file__)
"""


def test_a_run_notes_what_became_of_the_tests(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(SOME)
    tests = {
        "good": ["test_good"],
        "class": ["TestBoth"],
        "bad": ["test_good", "test_bad"],
        "skipped": ["test_skipped"],
        "broken": ["test_never_begun"],
        "half": ["TestBoth::test_two", "test_absent"],
    }
    command = [sys.executable, "-c", RUN, audit.__file__, str(tmp_path), json.dumps(tests)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "good": ["met", "trials 20"],
        "class": ["met", "2 of 2 tests pass"],
        "bad": ["not met", "trials 20"],
        "skipped": ["not shown", "0 of 1 tests pass"],
        "broken": ["not met", "0 of 1 tests pass"],
        "half": ["in part", "1 of 1 tests pass"],
    }
    assert (tmp_path / "test_some.py").exists()
