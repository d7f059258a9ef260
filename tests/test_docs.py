"""What the README says is there, is there; and what is there, the README says."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path

import click
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


def _deployed() -> dict[str, list[str]]:
    """Return, by file of `deploy`, each line that runs a command, and each that sets something."""
    files = [p for p in (ROOT / "deploy").iterdir() if p.suffix in {".service", ".cron"}]
    return {path.name: path.read_text("utf-8").splitlines() for path in files}


@pytest.mark.parametrize("name", sorted(_deployed()))
def test_what_is_deployed_calls_commands_and_settings_that_there_are(name: str) -> None:
    lines = [line for line in _deployed()[name] if not line.startswith("#")]
    settings = {f"SECTIONFOUR_{field.name.upper()}" for field in fields(Settings)}
    assert set(re.findall(r"SECTIONFOUR_\w+", "\n".join(lines))) <= settings
    runs = re.findall(r"(?:=|&& |sectionfour )sectionfour ([a-z][^|&\n]*)", "\n".join(lines))
    assert runs
    for words in map(shlex.split, runs):
        command = main.commands[words[0]]
        parser = command.make_parser(click.Context(command))
        assert not parser.parse_args(words[1:])[1]  # raises for an option that is not there


def test_the_first_call_of_the_readme_is_scored_without_anything_else(client) -> None:
    sent = re.search(r"/v1/assessments -H .*? -d '\n(.*?)'\n```", README, re.DOTALL)
    assert sent is not None
    kind = "application/x-www-form-urlencoded"  # what curl says when told nothing
    answer = client("checkout").post("/v1/assessments", data=sent[1], content_type=kind)
    assert (answer.status_code, answer.json["status"]) == (200, "scored")
