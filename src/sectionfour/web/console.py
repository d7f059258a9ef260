"""The console: cases for analysts, receipts and the use of data for the privacy officer.

Each page is the API's own answer, made readable, under the API's own keys and roles. The key lies
in a cookie that no script can read and no other site can send, and that goes with the browser; here
nothing is kept of who is signed in. Pages run no script and fetch nothing from elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from typing import Any, Concatenate, NamedTuple, get_args
from urllib.parse import urlsplit

import msgspec
from flask import Blueprint, Flask, Response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as Answer

from sectionfour.decisions.cases import Measure, Verdict
from sectionfour.errors import Ceased, Forbidden, SectionFourError, Unauthenticated
from sectionfour.web import cases, keys, problems, receipts, reports
from sectionfour.web.keys import ANYBODY, Caller
from sectionfour.web.routes import Route, Service, readable

COOKIE = "sectionfour_console"
#: The pages of each role that has any: (endpoint, what it is called); the first is its home.
OF_ROLE: dict[str, tuple[tuple[str, str], ...]] = {
    "analyst": (("console.queue", "Cases"),),
    "privacy": (("console.receipt", "Receipts"), ("console.data_use", "Use of data")),
}
ON_A_PAGE = 50
#: Hosts to which a browser may send the cookie in the clear: the way does not leave the machine.
LOCAL = ("localhost", "127.0.0.1", "::1")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self';"
    " frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

View = Callable[Concatenate[Service, Caller, ...], Answer | str]


class Page(NamedTuple):
    """One method of one path below /console. No `roles`: whoever comes, signed in or not."""

    method: str
    path: str
    view: View
    roles: tuple[str, ...] = ()


# --- in and out


def open_console(service: Service, who: Caller) -> Response:
    """The analysts' pages, for a browser."""
    return Response(status=303, headers={"Location": url_for("console.enter")})


def enter(service: Service, who: Caller) -> Answer:
    role = _caller(service, tuple(OF_ROLE)).role
    return redirect(url_for(OF_ROLE[role][0][0]), 303)


def sign_in(service: Service, who: Caller) -> Answer:
    key = request.form.get("key", "").strip()
    role = keys.bearing(service.parts.ledger, key, tuple(OF_ROLE)).role
    answer = redirect(url_for(OF_ROLE[role][0][0]), 303)
    away = urlsplit(request.host_url).hostname not in LOCAL
    answer.set_cookie(COOKIE, key, path="/console", httponly=True, samesite="Strict", secure=away)
    return answer


def sign_out(service: Service, who: Caller) -> Answer:
    answer = redirect(url_for("console.enter"), 303)
    answer.delete_cookie(COOKIE, path="/console")
    return answer


def style(service: Service, who: Caller) -> Answer:
    data = (resources.files("sectionfour.web") / "templates/console/style.css").read_bytes()
    return Response(data, content_type="text/css; charset=utf-8")


# --- the analyst's


def queue(service: Service, who: Caller) -> str:
    state, after = request.args.get("state", "open"), request.args.get("after", "")
    found = _plain(cases.listed(service.parts, state, after, ON_A_PAGE))
    return render_template("console/queue.html", role=who.role, state=state, **found)


def case(service: Service, who: Caller, case_id: str) -> str:
    return render_template(
        "console/case.html",
        role=who.role,
        case=_plain(cases.whole(service.parts, case_id)),
        verdicts=get_args(Verdict),
        measures=get_args(Measure),
    )


def give(service: Service, who: Caller, case_id: str) -> Answer:
    try:
        given = msgspec.convert(request.form.to_dict(), cases.VerdictBody)
    except msgspec.ValidationError as error:
        raise problems.invalid(error, cases.VerdictBody) from None
    cases.close(service.parts, case_id, given, who.key_id)
    return redirect(url_for("console.case", case_id=case_id), 303)


# --- the privacy officer's


def receipt(service: Service, who: Caller) -> str:
    name, told = request.args.get("id", "").strip(), {}
    if name:
        leaf, proof = receipts.proven(service, name)
        told = {"receipt": msgspec.json.decode(leaf), "proof": proof, "vkey": service.notary.vkey}
    return render_template("console/receipt.html", role=who.role, id=name, **told)


def data_use(service: Service, who: Caller) -> str:
    report = reports.asked_for(service) if request.args else None
    return render_template("console/data_use.html", role=who.role, report=report)


# --- how they are opened


def _caller(service: Service, roles: tuple[str, ...]) -> Caller:
    key = request.cookies.get(COOKIE)
    if key is None:
        raise Unauthenticated("sign in with a key")
    return keys.bearing(service.parts.ledger, key, roles)


def _opened(service: Service, page: Page) -> Callable[..., Answer | str]:
    def view(**values: str) -> Answer | str:
        if page.method == "POST" and request.headers.get("Sec-Fetch-Site") != "same-origin":
            raise Forbidden("a form is sent from the console's own pages alone")
        if not page.roles:
            return page.view(service, ANYBODY, **values)
        who = _caller(service, page.roles)
        if who.ceased and page.method == "POST":
            raise Ceased("operation has ceased: nothing is collected or scored any more")
        readable(request.environ)
        with service.parts.keys.ring.steady:  # no token changes under a call
            return page.view(service, who, **values)

    return view


def _plain(value: Any) -> Any:
    """Return an answer of the API as who reads its JSON has it."""
    return msgspec.json.decode(msgspec.json.encode(value))


PAGES = (
    Page("GET", "/", enter),
    Page("POST", "/sign-in", sign_in),
    Page("POST", "/sign-out", sign_out),
    Page("GET", "/style.css", style),
    Page("GET", "/cases", queue, ("analyst",)),
    Page("GET", "/cases/<case_id>", case, ("analyst",)),
    Page("POST", "/cases/<case_id>/verdict", give, ("analyst",)),
    Page("GET", "/receipts", receipt, ("privacy",)),
    Page("GET", "/data-use", data_use, ("privacy",)),
)

#: What the contract says of them.
ROUTES = (
    Route(
        method="GET",
        path="/console",
        handle=open_console,
        tag="Console",
        answers={303: "text/html"},
    ),
)


def register(app: Flask, service: Service) -> None:
    """Let `app` answer the console's pages; what goes wrong on one is a page, too."""
    console = Blueprint("console", __name__, url_prefix="/console", template_folder="templates")
    for page in PAGES:
        view = _opened(service, page)
        console.add_url_rule(page.path, page.view.__name__, view, methods=[page.method])

    @console.errorhandler(SectionFourError)
    def problem(error: SectionFourError) -> tuple[str, int]:
        problems.note(error, service.metrics)
        name = "sign_in" if isinstance(error, Unauthenticated) else "problem"
        return render_template(f"console/{name}.html", error=error), error.status

    @console.after_request
    def guarded(answer: Response) -> Response:
        answer.headers.update(_HEADERS)
        return answer

    app.register_blueprint(console)
    app.jinja_env.globals["of_role"] = OF_ROLE
