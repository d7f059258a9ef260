"""What the README says is there, is there; and what is there, the README says."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from sectionfour.cli import main
from sectionfour.features.catalog import NAMES, REASONS
from sectionfour.settings import Settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
ROOMS = sorted(
    p.relative_to(ROOT / "src/sectionfour").as_posix()
    for p in (ROOT / "src/sectionfour").rglob("*.py")
    if p.name != "__init__.py"
)


@pytest.mark.parametrize("name", NAMES)
def test_feature_is_documented(name: str) -> None:
    assert f"| `{name}` |" in README


@pytest.mark.parametrize("code", sorted(REASONS))
def test_reason_is_documented(code: str) -> None:
    assert f"| `{code}` | {REASONS[code]} |" in README


@pytest.mark.parametrize("field", [field.name for field in fields(Settings)])
def test_setting_is_documented(field: str) -> None:
    assert f"| `SECTIONFOUR_{field.upper()}` |" in README


@pytest.mark.parametrize("room", ROOMS)
def test_every_file_is_in_the_map(room: str) -> None:
    assert re.search(rf"^ *{re.escape(Path(room).name)} ", README, re.MULTILINE), room


def test_nothing_is_documented_that_is_not_there() -> None:
    table = README.split("## Features")[1].split("## Reasons")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(NAMES)
    named = set(re.findall(r"^ +(\w+\.py) ", README, re.MULTILINE))
    assert named == {Path(room).name for room in ROOMS}


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_has_help_with_an_example(name: str) -> None:
    command = main.commands[name]
    found = [command, *getattr(command, "commands", {}).values()]
    assert any(f"Example: sectionfour {name}" in (c.help or "") for c in found)


def test_the_first_call_of_the_readme_is_scored_without_anything_else(client) -> None:
    sent = re.search(r"/v1/assessments -H .*? -d '\n(.*?)'\n```", README, re.DOTALL)
    assert sent is not None
    kind = "application/x-www-form-urlencoded"  # what curl says when told nothing
    answer = client("checkout").post("/v1/assessments", data=sent[1], content_type=kind)
    assert (answer.status_code, answer.json["status"]) == (200, "scored")
