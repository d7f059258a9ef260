"""The officer's report: every count is right, and no small one is had by any subtraction."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sectionfour.cli import main
from sectionfour.domain import instant
from sectionfour.errors import BadRequest
from sectionfour.reports import data_use
from sectionfour.reports.data_use import Cell, DataUse, protect

START, END = data_use.period("2026-11")
MODEL = {"name": "transaction", "version": "v1", "digest": "sha256:ab"}


def receipt(number: int, person: str | None, **changes: Any) -> bytes:
    said = {
        "receipt_version": 1,
        "receipt_id": f"as_{number}",
        "at": instant(START + number),
        "subject": {"kind": "member", "pseudonym": person},
        "purpose": "security.transaction_risk",
        "status": "scored",
        "masked": [],
        "basis": [{"category": "order", "kind": "contract", "ref": "order", "exception": 7}],
        "model": MODEL,
    }
    return msgspec.json.encode(said | changes)


def report_of(leaves: list[bytes], threshold: int = 5) -> dict[str, Any]:
    found = DataUse(START, END, threshold)
    for number, leaf in enumerate(leaves):
        found.take("assessment", f"as_{number}", leaf)
    return found.report()


# --- withheld, and not to be had by subtraction ----------------------------------------------

CALLS = st.lists(
    st.tuples(
        st.integers(0, 12),  # the person
        st.sampled_from(["security.transaction_risk", "security.account_risk", "x"]),
        st.sampled_from(["scored", "scored", "scored", "no_basis", "purpose_change"]),
        st.sampled_from(["v1", "v1", "v2"]),
        st.sampled_from(["consent", "consent", "contract", "masked", "none"]),
        st.sampled_from(["consent", "masked", "none", "none"]),
    ),
    max_size=60,
)


def leaves_of(calls: list[tuple[Any, ...]]) -> list[bytes]:
    found = []
    for number, (person, purpose, outcome, version, *hows) in enumerate(calls):
        became = dict(zip(("order", "device"), hows, strict=True))
        masked = [
            {"category": c, "why": "no_basis"} for c, how in became.items() if how == "masked"
        ]
        basis = [
            {"category": c, "kind": how}
            for c, how in became.items()
            if how in ("consent", "contract")
        ]
        changes: dict[str, Any] = {"purpose": purpose, "masked": masked, "basis": basis}
        if outcome == "scored":
            changes["model"] = MODEL | {"version": version}
        else:
            changes |= {"status": "refused", "why": outcome, "basis": [], "model": None}
            changes["missing"] = ["order"]
        found.append(receipt(number, f"p{person}", **changes))
    return found


Wholes = Iterator[tuple[Any, list[Any]]]


def wholes(report: dict[str, Any]) -> Wholes:
    """Yield each whole with its parts, as paths: what anybody knows of how the counts hang
    together."""
    yield ("all",), [("purpose", p["purpose"]) for p in report["purposes"]]
    for p in report["purposes"]:
        here = ("purpose", p["purpose"])
        yield here, [(*here, o["outcome"]) for o in p["outcomes"]]
        for o in p["outcomes"]:
            there = (*here, o["outcome"])
            if o["models"]:
                yield there, [(*there, "model", m["model"]) for m in o["models"]]
            for c in o["categories"]:
                yield there, [(*there, c["category"], b["how"]) for b in c["became"]]


def published(report: dict[str, Any]) -> dict[Any, int | None]:
    found = {("all",): report["calls"]}
    for p in report["purposes"]:
        found["purpose", p["purpose"]] = p["calls"]
        for o in p["outcomes"]:
            there = ("purpose", p["purpose"], o["outcome"])
            found[there] = o["calls"]
            for m in o["models"]:
                found[(*there, "model", m["model"])] = m["calls"]
            for c in o["categories"]:
                for b in c["became"]:
                    found[(*there, c["category"], b["how"])] = b["calls"]
    return found


def true_cells(calls: list[tuple[Any, ...]]) -> tuple[Counter[Any], dict[Any, set[int]]]:
    """Count everything the slow way."""
    counts: Counter[Any] = Counter()
    people: dict[Any, set[int]] = {}
    used: dict[Any, set[str]] = {}
    rows = []
    for person, purpose, outcome, version, *hows in calls:
        name = "scored" if outcome == "scored" else f"refused: {outcome}"
        there = ("purpose", purpose, name)
        became = {}
        for category, how in zip(("order", "device"), hows, strict=True):
            if how == "masked":
                became[category] = "masked: no_basis"
            elif how != "none" and outcome == "scored":
                became[category] = how
        if outcome != "scored":
            became["order"] = "missing"
        used.setdefault(there, set()).update(became)
        rows.append((person, purpose, there, version, outcome, became))
    for person, purpose, there, version, outcome, became in rows:
        keys = [("all",), ("purpose", purpose), there]
        if outcome == "scored":
            keys.append((*there, "model", f"transaction@{version} sha256:ab"))
        keys += [(*there, c, became.get(c, "not_used")) for c in used[there]]
        for key in keys:
            counts[key] += 1
            people.setdefault(key, set()).add(person)
    return counts, people


@given(CALLS, st.sampled_from([3, 5]))
@hypothesis_settings(max_examples=200, deadline=None)
def test_a_count_behind_which_few_stand_is_withheld_and_cannot_be_worked_out(
    calls: list[tuple[Any, ...]], threshold: int
) -> None:
    report = report_of(leaves_of(calls), threshold)
    shown = published(report)
    counts, people = true_cells(calls)
    for key, count in shown.items():
        if count is not None and calls:
            assert count == counts[key]
            assert len(people[key]) >= threshold, key
    # What a whole less its published parts comes to speaks of enough people, and names nobody.
    for whole, parts in wholes(report):
        hidden = [part for part in parts if part[-1] == "withheld"]
        if not hidden:
            assert shown[whole] in (None, sum(shown[part] or 0 for part in parts))
            continue
        assert shown[whole] is not None
        real = [key for key in counts if key[:-1] == hidden[0][:-1] and key not in parts]
        if whole == ("all",):
            real = [key for key in counts if len(key) == 2 and key not in parts]
        elif len(hidden[0]) == 3:
            real = [key for key in real if len(key) == 3]
        together = set().union(*(people[key] for key in real))
        assert len(together) >= threshold, (whole, real)
        assert sum(counts[key] for key in real) + sum(shown[p] or 0 for p in parts) == shown[whole]


@given(
    st.dictionaries(
        st.text("abcdef", min_size=1, max_size=2),
        st.lists(st.integers(0, 9), max_size=9),
        max_size=7,
    )
)
def test_of_a_whole_no_single_part_is_withheld_nor_parts_of_few(
    parts: dict[str, list[int]],
) -> None:
    cells = {name: Cell(len(of), {str(p) for p in of}) for name, of in parts.items()}
    said = protect(cells, 5)
    hidden = [name for name in parts if parts[name] and name not in said]
    assert all(said[name] == len(parts[name]) for name in said if name != "withheld")
    assert ("withheld" in said) == bool(hidden)
    if hidden and len(said) > 1:
        assert len(hidden) >= 2
        assert len({p for name in hidden for p in parts[name]}) >= 5


def test_the_smallest_part_takes_the_next_along() -> None:
    calls = [(n, "x", "scored", "v1", "consent", "none") for n in range(10)]
    calls += [(20, "x", "scored", "v1", "masked", "none")]
    calls += [(n, "x", "scored", "v1", "none", "none") for n in range(6)]
    report = report_of(leaves_of(calls))
    (order,) = report["purposes"][0]["outcomes"][0]["categories"]
    assert order["became"] == [{"how": "consent", "calls": 10}, {"how": "withheld", "calls": None}]


def test_many_calls_of_one_person_are_a_small_count() -> None:
    leaves = [receipt(n, "p0") for n in range(50)] + [receipt(50 + n, f"q{n}") for n in range(3)]
    assert report_of(leaves)["calls"] is None
    leaves += [receipt(60, "q9")]
    assert report_of(leaves)["calls"] == 54
    guests = [receipt(n, None) for n in range(5)]
    assert report_of(guests)["calls"] == 5


# --- what it says ----------------------------------------------------------------------------


def test_withdrawals_and_how_fast_they_held() -> None:
    found = DataUse(START, END, 3)

    def withdrawn(number: int, at: int) -> None:
        leaf = {
            "event_state": "consent_withdrawn",
            "at": instant(START + at),
            "subject": {"pseudonym": f"p{number}"},
        }
        found.take("consent", f"cr_{number}", msgspec.json.encode(leaf))

    for number in range(4):
        basis = [{"category": "device", "kind": "consent", "ref": f"cr_{number}"}]
        found.take("assessment", "", receipt(number, f"p{number}", basis=basis))
        withdrawn(number, 100)
    assert found.report()["withdrawals"] == {
        "recorded": 4,
        "held_at_once": True,
        "p99_ms": 0.0,
        "longest_ms": 0.0,
    }
    basis = [{"category": "device", "kind": "consent", "ref": "cr_2"}]
    found.take("assessment", "", receipt(7_100, "p2", basis=basis))
    held = found.report()["withdrawals"]
    assert (held["held_at_once"], held["longest_ms"]) == (False, 7.0)


def test_exceptions_erasures_and_the_period() -> None:
    found = DataUse(START, END)
    used = [{"category": c, "kind": "exception", "ref": "xg", "exception": 4} for c in ("a", "b")]
    for number in range(6):
        found.take("assessment", "", receipt(number, f"p{number}", basis=used))
        erased = {"at": instant(START + number), "trigger": "subject_request"}
        found.take("erasure", f"er_{number}", msgspec.json.encode(erased))
    before = receipt(9, "p9", at=instant(START - 1))
    after = receipt(9, "p9", at=instant(END))
    for leaf in (before, after):
        found.take("assessment", "", leaf)
    report = found.report()
    assert report["calls"] == 6
    assert report["exceptions"] == [{"exception": "4", "uses": 6}]
    assert report["erasures"] == [{"trigger": "subject_request", "erasures": 6}]


def test_notices_in_force_are_those_that_any_day_of_the_period_saw() -> None:
    found = DataUse(START, END)

    def notice(name: str, version: str, begins: str) -> None:
        leaf = {"id": name, "version": version, "valid_from": begins, "material": True}
        found.take("notice", "", msgspec.json.encode(leaf | {"purposes": [], "categories": []}))

    notice("a", "1", "2026-01-01T00:00:00.000000Z")
    notice("a", "2", "2026-06-01T00:00:00.000000Z")
    notice("a", "3", "2026-11-15T00:00:00.000000Z")
    notice("a", "4", "2026-12-01T00:00:00.000000Z")
    assert [n["version"] for n in found.report()["notices"]] == ["2", "3"]


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2026", "2026-01-01", "2027-01-01"),
        ("2026-12", "2026-12-01", "2027-01-01"),
        ("2024-02-29", "2024-02-29", "2024-03-01"),
        ("2026-01..2026-03", "2026-01-01", "2026-04-01"),
    ],
)
def test_a_period_is_whole_days(text: str, start: str, end: str) -> None:
    assert tuple(instant(at)[:10] for at in data_use.period(text)) == (start, end)


@pytest.mark.parametrize(
    "text",
    ["", "november", "2026-13", "2026-02-30", "2026-11-", "26", "2026-2", "2026..2025", ".."],
)
def test_what_is_no_period_is_said(text: str) -> None:
    with pytest.raises(BadRequest):
        data_use.period(text)


# --- over the service, and from the shell ----------------------------------------------------


@pytest.fixture
def asked(
    client: Callable[..., Any], notice: Any, a_request: Any, a_consent: Any
) -> Callable[..., Any]:
    consents, checkout = client("consent"), client("checkout")
    for number in range(1, 9):
        if number < 6:
            assert consents.post("/v1/consents", json=a_consent(number)).status_code == 201
        checkout.post("/v1/assessments", json=a_request(number))
    login = {"type": "login", "occurred_at": "2026-11-23T09:00:00+08:00"}
    account = {"purpose": "security.account_risk", "transaction": None, "event": login}
    for number in range(20, 26):
        checkout.post("/v1/assessments", json=a_request(number, **account))
    return client("privacy").get


def day(at: int, *, days: int = 0) -> str:
    return instant(at + days * 86_400_000_000)[:10]


def test_the_route_answers_as_the_log_says(asked: Any, client: Any, parts: Any) -> None:
    now = parts.clock()
    path = f"/v1/reports/data-use?from={day(now)}&to={day(now, days=1)}"
    answer = asked(f"{path}&threshold=3")
    assert answer.status_code == 200, answer.json
    said = {p["purpose"]: p for p in answer.json["purposes"]}
    assert (answer.json["calls"], said["security.transaction_risk"]["calls"]) == (14, 8)
    refused = said["security.account_risk"]["outcomes"]
    assert [(o["outcome"], o["calls"]) for o in refused] == [("refused: no_basis", 6)]
    (scored,) = said["security.transaction_risk"]["outcomes"]
    device = next(c for c in scored["categories"] if c["category"] == "device")
    assert {b["how"]: b["calls"] for b in device["became"]} == {"consent": 5, "masked: no_basis": 3}
    assert [m["calls"] for m in scored["models"]] == [8]
    (scored,) = {p["purpose"]: p for p in asked(path).json["purposes"]}[
        "security.transaction_risk"
    ]["outcomes"]
    device = next(c for c in scored["categories"] if c["category"] == "device")
    assert device["became"] == [{"how": "withheld", "calls": None}]
    assert [(n["id"], n["version"]) for n in answer.json["notices"]] == [("pn_security", "1")]
    other = asked(f"/v1/reports/data-use?from={day(now, days=-9)}&to={day(now)}")
    assert (other.json["calls"], other.json["purposes"]) == (0, [])
    for role in ("checkout", "consent", "analyst", "trainer", "admin"):
        assert client(role).get(path).status_code == 403


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("", "/from"),
        ("from=2026-11-01", "/to"),
        ("from=2026-11-01&to=2026-11-01", "/to"),
        ("from=2026-11-02&to=2026-11-01", "/to"),
        ("from=2026-11-01T00:00:00&to=2026-11-02", "/from"),
        ("from=20261101&to=2026-11-02", "/from"),
        ("from=2026-11-01&to=2026-11-02&threshold=2", "/threshold"),
        ("from=2026-11-01&to=2026-11-02&threshold=-5", "/threshold"),
        ("from=2026-11-01&to=2026-11-02&threshold=9999999999", "/threshold"),
    ],
)
def test_what_cannot_be_reported_on_is_said(client: Any, query: str, pointer: str) -> None:
    answer = client("privacy").get(f"/v1/reports/data-use?{query}")
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (400, pointer)


def test_the_command_writes_a_page_with_a_picture(
    asked: Any, parts: Any, settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECTIONFOUR_HOME", str(settings.home))
    monkeypatch.setenv("SECTIONFOUR_MODELS", str(settings.models))
    monkeypatch.setenv("SECTIONFOUR_VELOCITY", f"lmdb:{tmp_path / 'other'}")  # one is open here
    monkeypatch.setenv("SECTIONFOUR_VELOCITY_GIB", "0.05")
    page, picture = tmp_path / "page.html", tmp_path / "picture.svg"
    command = ["report", "data-use", "--period", day(parts.clock()), "--html", str(page)]
    run = CliRunner().invoke(main, [*command, "--svg", str(picture)])
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["calls"] == 14
    assert "withheld" in page.read_text()
    assert picture.read_text().startswith("<svg")
    assert "http://" not in page.read_text().replace("http://www.w3.org", "")
    run = CliRunner().invoke(main, ["report", "data-use", "--period", "x"])
    assert (run.exit_code, "a year, a month or a day" in run.output) == (1, True)


def test_it_reads_as_a_stream() -> None:
    draw = random.Random(4)
    found = DataUse(START, END)
    for number in range(3_000):
        found.take("assessment", "", receipt(number, f"p{draw.randrange(1_000)}"))
    held = [
        cell
        for p in found._purposes.values()
        for cell in (p.all, *(o.all for o in p.outcomes.values()))
    ]
    assert all(len(cell.people) <= 5 for cell in held)
    assert found.report()["calls"] == 3_000
