"""The officer's report as a page, and as a picture. Needs the `notebooks` extra."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

WITHHELD = "withheld"
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em}
table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #bbb;padding:.25em .6em;
text-align:left}td.n{text-align:right}svg{max-width:100%;height:auto}"""


def picture(report: dict[str, Any]) -> str:
    """Return what became of each category, by purpose, as SVG; withheld counts are not drawn."""
    import altair as alt
    import vl_convert

    rows = [
        {"purpose": purpose, "category": category, "basis": how.partition(":")[0], "calls": calls}
        for purpose, _, category, how, calls in _cells(report)
        if calls is not None
    ]
    chart = (
        alt.Chart({"values": rows})
        .mark_bar()
        .encode(
            x=alt.X("sum(calls):Q", title="calls"),
            y=alt.Y("category:N", title=None),
            color=alt.Color("basis:N", title="became", sort=list(_ORDER)),
            row=alt.Row(
                "purpose:N", title=None, header=alt.Header(labelAngle=0, labelAlign="left")
            ),
        )
        .properties(
            title=f"What became of each category, {report['from'][:10]} to {report['to'][:10]}"
        )
    )
    return str(vl_convert.vegalite_to_svg(chart.to_dict()))


_ORDER = ("consent", "contract", "exception", "non_personal", "masked", "missing", "not_used")


def page(report: dict[str, Any]) -> str:
    """Return the report as one HTML page that fetches nothing."""
    cells = [
        (purpose, outcome, category, how, _said(calls))
        for purpose, outcome, category, how, calls in _cells(report)
    ]
    outcomes = [
        (p["purpose"], o["outcome"], _said(o["calls"]))
        for p in report["purposes"]
        for o in p["outcomes"]
    ]
    models = [
        (p["purpose"], m["model"], _said(m["calls"]))
        for p in report["purposes"]
        for o in p["outcomes"]
        for m in o["models"]
    ]
    held = report["withdrawals"]
    title = f"Use of data, {report['from'][:10]} to {report['to'][:10]}"
    return "\n".join(
        (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>',
            f"<style>{_STYLE}</style><h1>{title}</h1>",
            f"<p>{_said(report['calls'])} calls. Counts behind which fewer than"
            f" {report['threshold']} people stand are withheld, and so are those from which they"
            " would follow.</p>",
            picture(report),
            _table("Calls", ("purpose", "outcome", "calls"), outcomes),
            _table("Categories", ("purpose", "outcome", "category", "became", "calls"), cells),
            _table("Models", ("purpose", "model", "calls"), models),
            _table(
                "Exceptions used",
                ("exception", "calls"),
                [(e["exception"], _said(e["uses"])) for e in report["exceptions"]],
            ),
            _table(
                "Withdrawals",
                ("recorded", "held at once", "p99, ms", "longest, ms"),
                [
                    (
                        _said(held["recorded"]),
                        "yes" if held["held_at_once"] else "no",
                        _said(held["p99_ms"]),
                        _said(held["longest_ms"]),
                    )
                ],
            ),
            _table(
                "Erasures",
                ("trigger", "erasures"),
                [(e["trigger"], _said(e["erasures"])) for e in report["erasures"]],
            ),
            _table(
                "Notices in force",
                ("notice", "version", "from"),
                [(n["id"], n["version"], n["valid_from"]) for n in report["notices"]],
            ),
            "</html>",
        )
    )


def _cells(report: dict[str, Any]) -> Iterator[tuple[str, str, str, str, int | None]]:
    for purpose in report["purposes"]:
        for outcome in purpose["outcomes"]:
            for category in outcome["categories"]:
                for cell in category["became"]:
                    yield (
                        purpose["purpose"],
                        outcome["outcome"],
                        category["category"],
                        cell["how"],
                        cell["calls"],
                    )


def _said(count: float | None) -> str:
    return WITHHELD if count is None else f"{count:,}"


def _table(title: str, head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return f"<h2>{title}</h2><p>none</p>"
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(value)}</td>" for value in row) + "</tr>" for row in rows
    )
    return f"<h2>{title}</h2><table><tr>{names}</tr>{body}</table>"
