"""The trace from text to proof names what exists, leaves nothing out, claims nothing more."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from . import audit, broken_on_purpose, trace

TRACE = trace.table()
ROWS: dict[str, Any] = TRACE["requirements"]
SENTENCES: list[dict[str, Any]] = TRACE["sentences"]
BREAKS = broken_on_purpose.table()


def test_every_requirement_is_there_and_each_comes_from_a_sentence() -> None:
    assert list(ROWS) == [f"R-{number:02}" for number in range(1, 54)]
    assert {name for row in SENTENCES for name in row.get("requirements", [])} == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_what_a_requirement_names_exists(name: str) -> None:
    row = ROWS[name]
    assert [code for code in row["code"] if not audit.code(code)] == []
    assert [test for test in row["tests"] if not audit.exists(test)] == []
    come = [n for n in row.get("awaits", []) if (audit.exists if ".py::" in n else audit.code)(n)]
    assert come == [], "it has come: python tests/audit.py --attach, and python tests/trace.py"
    assert bool(row["code"]) == bool(row["tests"])
    assert trace.state(row) == "enforced" or row.get("lacking") or row.get("awaits")


@pytest.mark.parametrize("row", SENTENCES, ids=lambda row: row["id"])
def test_a_sentence_leads_to_a_requirement_or_says_why_it_is_none_of_ours(row: Any) -> None:
    assert bool(row.get("requirements")) != bool(row.get("outside"))
    assert len(row["begins"].split()) <= 6  # the text itself is its author's


@pytest.mark.parametrize("row", BREAKS, ids=lambda row: f"{row.of}: {row.what}")
def test_what_was_broken_on_purpose_can_be_broken_again(row: broken_on_purpose.Break) -> None:
    """And is noticed by a test that the trace names: `broken_on_purpose.py` runs them all."""
    text = (broken_on_purpose.PACKAGE / row.file).read_text("utf-8")
    assert (text.count(row.old), row.new == row.old) == (1, False)
    assert row.test in ROWS[row.of]["tests"]


def test_the_page_of_what_was_broken_is_what_its_table_says() -> None:
    page = broken_on_purpose.PAGE.read_text("utf-8")
    assert page == broken_on_purpose.render(BREAKS), "run python tests/broken_on_purpose.py"


def test_the_page_is_what_the_table_says() -> None:
    page = (trace.DOCS / "trace.md").read_text("utf-8")
    assert page == trace.render(TRACE), "run python tests/trace.py"


def test_every_sentence_of_the_text_is_in_the_table() -> None:
    """POLICY is the file of the text, which is not part of this repository."""
    text = os.environ.get("POLICY")
    if text is None:
        counts = {"Preamble": 2, "One": 5, "Two": 3, "Three": 23, "Four": 4, "Five": 1}
        counts |= {"Six": 12, "End": 1}
        found = [row["id"].split(".")[0] for row in SENTENCES]
        assert {section: found.count(section) for section in counts} == counts
        return
    said = list(trace.sentences(Path(text).read_text("utf-8")))
    assert said == [(row["id"], row["digest"]) for row in SENTENCES]
