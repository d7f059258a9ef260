"""The trace from text to proof names what exists, leaves nothing out, claims nothing more."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from . import audit, trace

TRACE = trace.table()
ROWS: dict[str, Any] = TRACE["requirements"]
SENTENCES: list[dict[str, Any]] = TRACE["sentences"]


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
