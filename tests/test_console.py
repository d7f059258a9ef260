"""The console in a browser's hands: signing in, the pages of each role, forms, what is refused."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from sectionfour.web import console
from sectionfour.web.keys import ROLES, create_key, key_id, revoke_key

FORM = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def browser(client, parts) -> Any:
    """Return a browser that is signed in with a new key of a role."""

    def signed_in(role: str) -> Any:
        made = client()
        made.its_key = create_key(parts.ledger, role, parts.clock())
        answer = made.post("/console/sign-in", data={"key": made.its_key}, headers=FORM)
        assert answer.status_code == 303
        made.first = answer.headers["Location"]
        return made

    return signed_in


def text_of(answer: Any) -> str:
    """Return what is to be read on a page, with single spaces."""
    words = re.sub(r"<[^>]+>", " ", answer.get_data(as_text=True))
    return " ".join(html.unescape(words).split())


# --- in and out ------------------------------------------------------------------------------


def test_without_a_key_there_is_a_page_to_sign_in_and_nothing_else(client):
    stranger = client()
    answer = stranger.get("/console")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/console/")
    pages = [page.path for page in console.PAGES if page.method == "GET" and page.roles]
    for path in ("/", *pages):
        answer = stranger.get(f"/console{path}".replace("<case_id>", "cs_1"))
        assert answer.status_code == 401
        assert answer.content_type.startswith("text/html")
        assert "Sign in" in text_of(answer)


@pytest.mark.parametrize(
    ("role", "first"), [("analyst", "/console/cases"), ("privacy", "/console/receipts")]
)
def test_a_role_comes_to_its_first_page_and_only_to_its_own(browser, role, first):
    visitor = browser(role)
    assert visitor.first == first
    assert visitor.get("/console/").headers["Location"] == first
    for page in console.PAGES:
        if page.method == "GET" and page.roles and "<" not in page.path:
            answer = visitor.get(f"/console{page.path}")
            assert answer.status_code == (200 if role in page.roles else 403)


@pytest.mark.parametrize("role", sorted(set(ROLES) - {"analyst", "privacy"}))
def test_a_key_of_another_role_does_not_sign_in(client, parts, role):
    key = create_key(parts.ledger, role, parts.clock())
    answer = client().post("/console/sign-in", data={"key": key}, headers=FORM)
    assert (answer.status_code, "Set-Cookie" in answer.headers) == (403, False)
    assert key not in answer.get_data(as_text=True)


@pytest.mark.parametrize("key", ["", "s4_no", "s4_" + "x" * 43, "\0", "ключ"])
def test_what_is_no_key_does_not_sign_in_and_is_not_repeated(client, key):
    answer = client().post("/console/sign-in", data={"key": key}, headers=FORM)
    assert (answer.status_code, "Set-Cookie" in answer.headers) == (401, False)
    assert not key or key not in answer.get_data(as_text=True)
    assert "the key is not known, or was revoked" in answer.get_data(as_text=True)


@pytest.mark.parametrize(
    ("host", "secure"),
    [("localhost:8080", False), ("127.0.0.1:8080", False), ("[::1]:8080", False),
     ("127.0.0.1", False), ("console.example", True), ("localhost.example:80", True),
     ("10.0.0.7:8080", True)],
)  # fmt: skip
def test_the_key_travels_in_the_clear_only_within_one_machine(client, parts, host, secure):
    key = create_key(parts.ledger, "analyst", parts.clock())
    answer = client().post(
        "/console/sign-in", data={"key": key}, headers=FORM, base_url=f"http://{host}"
    )
    cookie = answer.headers["Set-Cookie"]
    assert ("Secure" in cookie) is secure
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "Path=/console" in cookie
    assert "Expires" not in cookie
    assert "Max-Age" not in cookie


def test_who_signs_out_is_out_and_a_key_that_is_revoked_opens_nothing_more(browser, parts):
    visitor = browser("analyst")
    assert visitor.post("/console/sign-out", headers=FORM).status_code == 303
    assert visitor.get("/console/cases").status_code == 401
    visitor = browser("analyst")
    assert visitor.get("/console/cases").status_code == 200
    assert revoke_key(parts.ledger, key_id(visitor.its_key), parts.clock())
    assert visitor.get("/console/cases").status_code == 401


@pytest.mark.parametrize("site", [None, "cross-site", "same-site", "none"])
def test_a_form_of_another_site_does_nothing(browser, assessed, client, site):
    assessed("block", "e1")
    name = client("analyst").get("/v1/cases").json["cases"][0]["case_id"]
    headers = {} if site is None else {"Sec-Fetch-Site": site}
    form = {"verdict": "legitimate", "measure": "none", "note": ""}
    answer = browser("analyst").post(f"/console/cases/{name}/verdict", data=form, headers=headers)
    assert answer.status_code == 403
    assert client("analyst").get(f"/v1/cases/{name}").json["state"] == "open"


def test_the_api_does_not_take_the_consoles_cookie(browser):
    assert browser("analyst").get("/v1/cases").status_code == 401


# --- what every page is ----------------------------------------------------------------------


class Links(HTMLParser):
    """What a page would run, or fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag != "script"
        for name, value in attrs:
            assert not name.startswith("on")
            assert name != "style"
            if name in ("href", "src", "action"):
                self.found.append(value or "")


def test_pages_run_nothing_and_fetch_nothing_from_elsewhere(browser, client, assessed):
    assessed("block", "e1")
    case = client("analyst").get("/v1/cases").json["cases"][0]
    for role, paths in (
        ("analyst", ("/cases", f"/cases/{case['case_id']}", "/cases/cs_none")),
        ("privacy", (f"/receipts?id={case['assessment_id']}", "/data-use")),
    ):
        visitor = browser(role)
        for path in paths:
            answer = visitor.get(f"/console{path}")
            links = Links()
            links.feed(answer.get_data(as_text=True))
            assert links.found
            assert all(link.startswith("/console/") for link in links.found)
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
            assert answer.headers["Cache-Control"] == "no-store"
    assert client().get("/console/style.css").content_type.startswith("text/css")


# --- the analyst's ---------------------------------------------------------------------------


def test_an_analyst_finds_a_case_reads_it_and_closes_it(browser, client, assessed, sound):
    for number in range(3):  # a member so busy has reasons
        assessed("allow", f"e0{number}")
    told = assessed("block", "e1")
    assert told["reasons"]
    analyst = browser("analyst")
    row = client("analyst").get("/v1/cases").json["cases"][0]
    page = analyst.get("/console/cases")
    assert f"{told['risk_score']:.2f}" in text_of(page)
    assert told["reasons"][0]["reason"] in text_of(page)
    link = f"/console/cases/{row['case_id']}"
    assert f'href="{link}"' in page.get_data(as_text=True)
    page = text_of(analyst.get(link))
    for reason in told["reasons"]:
        assert reason["reason"] in page
    for one in (*told["basis"], *told["masked"]):
        assert one["category"] in page
    note = "two accounts, <b>one</b> device"
    form = {"verdict": "confirmed_fraud", "measure": "freeze_account", "note": note}
    answer = analyst.post(f"{link}/verdict", data=form, headers=FORM)
    assert (answer.status_code, answer.headers["Location"]) == (303, link)
    page = analyst.get(link)
    assert html.escape(note) in page.get_data(as_text=True)
    assert "<b>" not in page.get_data(as_text=True)
    assert "Close the case" not in text_of(page)
    kept = client("analyst").get(f"/v1/cases/{row['case_id']}").json
    assert kept["verdicts"][0]["decided_by"] == key_id(analyst.its_key)
    assert (kept["state"], kept["verdicts"][0]["note"]) == ("closed", note)
    assert "None." in text_of(analyst.get("/console/cases"))
    assert row["case_id"] in analyst.get("/console/cases?state=closed").get_data(as_text=True)


def test_a_page_of_a_case_shows_what_the_api_shows_and_no_other_token(
    browser, client, assessed, parts
):
    assessed("block", "e1")
    name = client("analyst").get("/v1/cases").json["cases"][0]["case_id"]
    seen = client("analyst").get(f"/v1/cases/{name}").json["seen"]
    page = browser("analyst").get(f"/console/cases/{name}").get_data(as_text=True)
    assert all(str(value) in page for value in seen.values())
    event = parts.ledger.event("e1")
    kept = [getattr(event, field) for field in event.__struct_fields__]
    assert not any(value.hex() in page for value in kept if isinstance(value, bytes))


def test_a_case_of_a_refusal_and_one_of_somebody_erased_are_pages_too(
    browser, client, assessed, a_request
):
    said = client("checkout").post(
        "/v1/assessments", json=a_request(2, event_id="e2", purpose="security.account_risk")
    )
    assert said.status_code == 403
    assert client("analyst").post(said.json["human_review"]).status_code == 201
    analyst = browser("analyst")
    assert "refused" in text_of(analyst.get("/console/cases"))
    told = assessed("block", "e1")
    row = next(
        case
        for case in client("analyst").get("/v1/cases").json["cases"]
        if case["assessment_id"] == told["assessment_id"]
    )
    member = a_request()["member"]["id"]
    erased = client("privacy").post(
        f"/v1/members/{member}/erasure", json={"trigger": "subject_request"}
    )
    assert erased.status_code == 202
    page = analyst.get(f"/console/cases/{row['case_id']}")
    assert page.status_code in (200, 404)
    assert analyst.get("/console/cases").status_code == 200


def test_the_queue_goes_on_where_a_page_ends(browser, client, assessed, monkeypatch):
    monkeypatch.setattr(console, "ON_A_PAGE", 2)
    for n in range(3):
        assessed("block", f"e{n}")
    names = [case["case_id"] for case in client("analyst").get("/v1/cases").json["cases"]]
    analyst = browser("analyst")
    page = analyst.get("/console/cases").get_data(as_text=True)
    assert [name in page for name in names] == [True, True, False]
    more = html.unescape(re.findall(r'href="([^"]+)">More', page)[0])
    page = analyst.get(more).get_data(as_text=True)
    assert [name in page for name in names] == [False, False, True]
    assert "More" not in page


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"verdict": "guilty"}, "must be one of account_takeover"),
        ({"verdict": ""}, "must be one of account_takeover"),
        ({}, "verdict is required"),
        ({"verdict": "legitimate", "measure": "freeze_account"}, "does not carry this measure"),
        ({"verdict": "legitimate", "note": "x" * 50_000}, "expected"),
    ],
)
def test_a_form_that_cannot_be_is_answered_with_a_page_and_changes_nothing(
    browser, client, assessed, form, said
):
    assessed("block", "e1")
    name = client("analyst").get("/v1/cases").json["cases"][0]["case_id"]
    answer = browser("analyst").post(f"/console/cases/{name}/verdict", data=form, headers=FORM)
    assert 400 <= answer.status_code < 500
    assert answer.content_type.startswith("text/html")
    assert said in text_of(answer)
    assert client("analyst").get(f"/v1/cases/{name}").json["state"] == "open"


@pytest.mark.parametrize(
    "path",
    [
        "/cases/cs_none",
        "/cases/cs_%00",
        "/cases?after=cs_none",
        "/cases?after=%00",
        "/cases?state=shut",
    ],
)
def test_what_is_not_there_is_a_page_that_says_so(browser, path):
    answer = browser("analyst").get(f"/console{path}")
    assert answer.status_code in (400, 404)
    assert "Back to the console" in text_of(answer)


def test_after_the_end_of_operation_cases_are_read_and_not_closed(browser, client, assessed, parts):
    assessed("block", "e1")
    name = client("analyst").get("/v1/cases").json["cases"][0]["case_id"]
    body = {"announcement": "https://market.example/notices/end", "confirm": True}
    analyst = browser("analyst")
    assert client("admin").post("/v1/cessation", json=body).status_code == 200
    form = {"verdict": "legitimate", "measure": "none", "note": ""}
    answer = analyst.post(f"/console/cases/{name}/verdict", data=form, headers=FORM)
    assert answer.status_code == 410
    assert analyst.get("/console/cases").status_code == 200


# --- the privacy officer's -------------------------------------------------------------------


def test_a_receipt_is_shown_with_its_proof(browser, client, assessed):
    told = assessed("allow", "e1")
    page = browser("privacy").get(f"/console/receipts?id={told['assessment_id']}")
    said = client("privacy").get(told["receipt"]["proof"]).json
    body = html.unescape(page.get_data(as_text=True))
    assert said["vkey"] in body
    assert said["proof"].splitlines()[0] in body
    assert said["receipt"]["commitment"] in body


def test_the_use_of_data_is_shown_and_small_counts_are_withheld(browser, assessed):
    assessed("allow", "e1")
    officer = browser("privacy")
    assert "calls" not in text_of(officer.get("/console/data-use"))
    page = text_of(officer.get("/console/data-use?from=2000-01-01&to=2100-01-01"))
    assert "withheld calls" in page
    assert officer.get("/console/data-use?from=x&to=y").status_code == 400
