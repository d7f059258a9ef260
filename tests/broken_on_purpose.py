"""The enforcing code broken on purpose, one place at a time: does the test named for it notice?

    python tests/broken_on_purpose.py [R-21 ...]

Each row of `broken_on_purpose.toml` is put into a copy of the package, and the test that it names
is run on that copy: it has to fail, where it passes on a copy that is whole. Ends with 0 only where
all that was broken was noticed; and then, where it was all of the table, docs/broken-on-purpose.md
is written.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "src" / "sectionfour"
PAGE = HERE.parent / "docs" / "broken-on-purpose.md"
PASSED, FAILED = 0, 1  # of pytest; anything else is a fault of ours
PYTEST = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
PYTEST += ["--hypothesis-seed=4"]  # again is the same again
PATIENCE = 900  # seconds, for one test


@dataclass(frozen=True, kw_only=True)
class Break:
    """`old` in `file` of the package becomes `new`; `test` (a node id below tests/) has to notice.

    `before` says what the tests did that the trace had named, where they did not notice.
    """

    of: str
    what: str
    file: str
    old: str
    new: str
    test: str
    before: str = ""


def table() -> list[Break]:
    file = tomllib.loads((HERE / "broken_on_purpose.toml").read_text("utf-8"))
    return [Break(of=of, **row) for of, rows in file.items() for row in rows]


def outcome(tests: Sequence[str], broken: Break | None = None) -> int:
    """Return pytest's exit code for these tests, on a copy of the package broken in one place."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "src", "sectionfour")
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        if broken is not None:
            file = copy / broken.file
            file.write_text(file.read_text("utf-8").replace(broken.old, broken.new), "utf-8")
        places = [f"tests/{test}" for test in tests]
        run = subprocess.run(
            [*PYTEST, *places],
            cwd=HERE.parent,
            env=os.environ
            | {"PYTHONPATH": str(copy.parent), "PYTHONDONTWRITEBYTECODE": "1"}
            | {"HYPOTHESIS_STORAGE_DIRECTORY": str(Path(folder, "examples"))},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
        )
    if run.returncode not in (PASSED, FAILED):
        raise RuntimeError(f"pytest could not run {' '.join(tests)}:\n{run.stdout}")
    return run.returncode


def render(rows: Sequence[Break]) -> str:
    lines = [
        "# Broken on purpose",
        "",
        "A test that cannot fail shows nothing. Each row is a line of the enforcing code that was",
        "broken in a copy of the package, and the test that then failed. `python",
        "tests/broken_on_purpose.py` does it all again, and writes this page only where every",
        "break was noticed; the changes themselves are in `tests/broken_on_purpose.toml`. Where",
        "the tests that the [trace](trace.md) had named did not notice at first, the last column",
        "says why; the test beside it was written, sharpened or named for it.",
        "",
        "| requirement | what was broken | in | noticed by | at first |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        name, test = row.file.rpartition("/")[2], row.test.replace("::", " ").replace("|", "\\|")
        lines.append(f"| [{row.of}](trace.md#{row.of.lower()}) | {row.what} | `{name}` | `{test}` |"
                     f" {row.before or 'noticed'} |")  # fmt: skip
    asked, late = len({row.of for row in rows}), sum(bool(row.before) for row in rows)
    lines += [
        "",
        f"{len(rows)} breaks of {asked} requirements; {len(rows) - late} were noticed at first by"
        f" the tests that the trace named, {late} were not, and are now.",
        "",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("which", nargs="*", metavar="R", help="R-01 to R-53; all without any")
    asked = parser.parse_args(arguments)
    rows = [row for row in table() if not asked.which or row.of in asked.which]
    if outcome(sorted({row.test for row in rows})) != PASSED:
        print("a test fails though nothing is broken: there is nothing to learn from it")
        return 1
    missed = [row for row in tqdm(rows, unit="break") if outcome([row.test], row) != FAILED]
    for row in missed:
        print(f"{row.of}: {row.what}: {row.test} does not notice")
    print(f"{len(rows) - len(missed)} of {len(rows)} breaks were noticed")
    if not missed and not asked.which:
        PAGE.write_text(render(rows), "utf-8")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
