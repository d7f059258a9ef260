"""What the privacy officer reads: the use of data in a period."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any

from flask import Response, request
from msgspec import Meta, Struct, field

from sectionfour.errors import BadRequest
from sectionfour.reports import data_use as report
from sectionfour.web.keys import Caller
from sectionfour.web.routes import Route, Service, answer


class Notice(Struct):
    id: str
    version: str
    valid_from: str
    material: bool
    purposes: list[str]
    categories: list[str]


class Model(Struct):
    model: str
    calls: int | None


class Became(Struct):
    """`how`: the kind of basis, `masked: WHY`, `missing`, or `not_used`."""

    how: str
    calls: int | None


class Category(Struct):
    category: str
    became: list[Became]


class Outcome(Struct):
    outcome: str
    calls: int | None
    models: list[Model]
    categories: list[Category]


class Purpose(Struct):
    purpose: str
    calls: int | None
    outcomes: list[Outcome]


class Exceptions(Struct):
    exception: str
    uses: int | None


class Withdrawals(Struct):
    """From the record of a withdrawal to the last receipt that rests on that consent still."""

    recorded: int | None
    held_at_once: bool
    p99_ms: float | None
    longest_ms: float | None


class Erasures(Struct):
    trigger: str
    erasures: int | None


class DataUseReport(Struct):
    """A count is null where it could point at a person: fewer than `threshold` stand behind it, or
    it would follow from a total less its other parts. Such parts are one, called `withheld`."""

    start: str = field(name="from")
    to: str
    threshold: int
    entries_read: int
    calls: int | None
    purposes: list[Purpose]
    exceptions: list[Exceptions]
    withdrawals: Withdrawals
    erasures: list[Erasures]
    notices: list[Notice]


def data_use(service: Service, who: Caller) -> Response:
    """What data was used for from one day up to another: by purpose, category and basis.

    `from` and `to` are days in UTC, the last not included. Counts behind which fewer than
    `threshold` people stand (5; at least 3) are withheld, also from differencing.
    """
    return answer(asked_for(service))


def asked_for(service: Service) -> dict[str, Any]:
    """Return the report on the period that the query names, as `DataUseReport`."""
    start, end = report.between(_day("from"), _day("to"))
    text = request.args.get("threshold", str(report.THRESHOLD))
    if not text.isdecimal() or len(text) > 9:
        raise BadRequest("a threshold is a number of people", pointer="/threshold")
    return report.data_use(service.parts.ledger, start, end, threshold=int(text))


def _day(name: str) -> date:
    text = request.args.get(name, "")
    try:
        if len(text) != len("2026-11-23"):
            raise ValueError
        return date.fromisoformat(text)
    except ValueError:
        raise BadRequest(f"{name} is a day, like 2026-11-23", pointer=f"/{name}") from None


Threshold = Annotated[int, Meta(ge=report.LEAST_THRESHOLD, le=report.MOST_THRESHOLD)]
ROUTES = (
    Route(
        method="GET",
        path="/v1/reports/data-use",
        handle=data_use,
        tag="Reports",
        roles=("privacy",),
        query={"from": date, "to": date, "threshold": Threshold},
        required=("from", "to"),
        answers={200: DataUseReport},
    ),
)
