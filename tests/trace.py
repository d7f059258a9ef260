"""From the text of the policy to the proof: reads docs/trace.toml, renders docs/trace.md.

    python tests/trace.py

A requirement is enforced where code and tests are named, nothing is lacking and nothing awaited.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
_SECTION = re.compile(r"\((One|Two|Three|Four|Five|Six)\)")


def sentences(text: str) -> Iterator[tuple[str, str]]:
    """Return (section.paragraph.sentence, digest) of each sentence of the policy's text."""
    section, paragraph = "Preamble", 0
    for line in filter(None, map(str.strip, text.splitlines())):
        if found := _SECTION.match(line):
            section, paragraph = found[1], 0
            continue
        if line.startswith("If we stop operating"):
            section, paragraph = "End", 0
        paragraph += 1
        for place, sentence in enumerate(re.split(r"(?<=\.)\s+(?=[A-Z])", line), 1):
            digest = hashlib.sha256(sentence.encode()).hexdigest()[:12]
            yield f"{section}.{paragraph}.{place}", digest


def table() -> dict[str, Any]:
    return tomllib.loads((DOCS / "trace.toml").read_text("utf-8"))


def state(row: dict[str, Any]) -> str:
    """enforced | in part | not yet."""
    if not (row["code"] and row["tests"]):
        return "not yet"
    return "in part" if row.get("lacking") or row.get("awaits") else "enforced"


def render(trace: dict[str, Any]) -> str:
    """Return the page for a privacy officer: each sentence, then each requirement."""
    lines = [
        "# From the text to the proof",
        "",
        "Made from `trace.toml` by `python tests/trace.py`; `tests/test_trace.py` holds both to",
        "the code. A sentence is named by section, paragraph and place in it. What a requirement",
        "asks is our reading of the text, and no legal advice. `make audit` shows the figures.",
        "",
        "## Sentences",
        "",
        "| sentence | begins | requirements |",
        "|---|---|---|",
    ]
    for row in trace["sentences"]:
        asked = [f"[{name}](#{name.lower()}) ({state(trace['requirements'][name])})"
                 for name in row.get("requirements", [])]  # fmt: skip
        said = ", ".join(asked) or f"none: {row['outside']}"
        lines.append(f"| {row['id']} | {row['begins']} ... | {said} |")
    lines += ["", "## Requirements", ""]
    for name, row in trace["requirements"].items():
        lines += [f"### {name}", "", f"{row['rule']}. **{state(row).capitalize()}**."]
        if row.get("lacking"):
            lines[-1] += f" Lacking: {row['lacking']}."
        lines.append("")
        for title, found in (("enforced by", row["code"]), ("shown by", row["tests"])):
            lines += [f"- {title} `{one}`" for one in found]
        lines += [f"- awaits `{one}`" for one in row.get("awaits", [])]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    (DOCS / "trace.md").write_text(render(table()), "utf-8")
