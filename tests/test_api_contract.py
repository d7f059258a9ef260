"""The contract: the published document against the routes, every answer against the document, and
what a body that is not of its form gets."""

from __future__ import annotations

import gzip
import inspect
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sectionfour.errors import BadRequest
from sectionfour.features.catalog import FEATURES, REASONS
from sectionfour.web import ROUTES, body, cases, openapi, receipts, reports
from sectionfour.web.consents import ConsentBody, NoticeBody
from sectionfour.web.holds import HoldBody
from sectionfour.web.labels import LabelBody

KINDS = ("assessments", "events", "log", "consent_events", "grants", "labels", "notices", "reviews")


@pytest.fixture
def contract(client) -> dict[str, Any]:
    answer = client().get("/openapi.json")
    assert answer.content_type == "application/json"
    return dict(answer.json)


def operation(contract: dict[str, Any], name: str) -> dict[str, Any]:
    for path in contract["paths"].values():
        for found in path.values():
            if found["operationId"] == name:
                return dict(found)
    raise LookupError(name)


def validate(contract: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    document = schema | {"components": contract["components"]}
    jsonschema.Draft202012Validator(document).validate(value)


def hold(contract: dict[str, Any], name: str, answer: Any) -> None:
    """Hold an answer against what the document says of it."""
    responses = operation(contract, name)["responses"]
    said = responses.get(str(answer.status_code)) or responses["default"]
    content = said["content"][answer.content_type.partition(";")[0]]
    validate(contract, content["schema"], answer.json)


# --- the document


def test_every_route_is_in_the_document_and_the_other_way_round(app, contract):
    routes = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        if not rule.rule.startswith("/console/")  # what a browser sees of what the others answer
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    written = {(method.upper(), path) for path, of in contract["paths"].items() for method in of}
    assert routes == written
    assert contract["openapi"].startswith("3.1.")


def test_the_document_is_sound(contract):
    names = []
    for path, of in contract["paths"].items():
        for found in of.values():
            names.append(found["operationId"])
            wanted = set(re.findall(r"\{(\w+)\}", path))
            parameters = found.get("parameters", [])
            assert {p["name"] for p in parameters if p["in"] == "path"} == wanted
            assert found["summary"]
            assert "withhold" not in found["description"] or "Raw" not in found["description"]
    assert len(names) == len(set(names))
    for name, schema in contract["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert "." not in name, "two structs of one name are told apart by their modules"
    known = {f"#/components/schemas/{name}" for name in contract["components"]["schemas"]}
    used = set(re.findall(r'"\$ref": ?"([^"]+)"', json.dumps(contract)))
    assert used <= known


@pytest.mark.parametrize("room", [cases, receipts, reports], ids=lambda room: room.__name__)
def test_whatever_a_room_reads_behind_a_question_mark_is_in_the_document(contract, room):
    read = set(re.findall(r'\b(?:args\.get|_size|_day)\("(\w+)"', inspect.getsource(room)))
    written = {
        parameter["name"]
        for route in room.ROUTES
        for parameter in operation(contract, route.name).get("parameters", [])
        if parameter["in"] == "query"
    }
    assert read == written != set()


def test_everything_in_the_document_is_described_and_nothing_else(contract):
    texts = tomllib.loads(Path(openapi.__file__).with_name("fields.toml").read_text("utf-8"))
    fields, named = set(), set()
    for struct, schema in contract["components"]["schemas"].items():
        for name, field in schema.get("properties", {}).items():
            assert field["description"], (struct, name)
            own = f"{struct}.{name}"
            named.add(own if own in texts["fields"] else name)
            fields |= {own, name}
    assert texts["fields"].keys() <= fields
    assert texts["fields"].keys() <= named
    parameters = [
        parameter
        for of in contract["paths"].values()
        for found in of.values()
        for parameter in found.get("parameters", [])
    ]
    assert {parameter["name"] for parameter in parameters} == texts["parameters"].keys()
    assert all(parameter["description"] for parameter in parameters)


def test_what_may_stand_behind_a_question_mark_is_as_the_document_says(client, contract):
    """The least, the most and each of a few are taken, and what is beyond them is not."""
    for role, name in (("analyst", "list_cases"), ("privacy", "data_use")):
        route = next(route for route in ROUTES if route.name == name)
        said = {p["name"]: p for p in operation(contract, name)["parameters"]}
        whole = {"from": "2026-11-01", "to": "2026-11-02"} if name == "data_use" else {}
        assert {one for one in said if said[one]["required"]} == whole.keys() == {*route.required}
        tried: list[tuple[str, Any, int]] = [
            ("limit", 1, 200),
            ("limit", 500, 200),
            ("limit", 501, 400),
            ("limit", 0, 400),
        ]
        tried += [("state", one, 200) for one in ("open", "closed")] + [("state", "else", 400)]
        if name == "data_use":
            tried = [
                ("threshold", n, 200 if 3 <= n <= 1_000 else 400) for n in (2, 3, 1_000, 1_001)
            ]
        for one, value, status in tried:
            jsonschema_says = jsonschema.Draft202012Validator(said[one]["schema"]).is_valid(value)
            assert jsonschema_says == (status == 200)
            answer = client(role).get(route.path, query_string=whole | {one: value})
            assert answer.status_code == status, (one, value)
        for one in whole:
            assert client(role).get(route.path, query_string={one: whole[one]}).status_code == 400


def test_what_no_contract_lists_is_not_found_or_not_allowed(client):
    for path in ("/", "/v1", "/v1/assessment", "//v1/assessments", "/v1/assessments/"):
        answer = client().get(path)
        assert (answer.status_code, answer.json["type"]) == (404, "/problems/not-found")
    answer = client().delete("/v1/assessments")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "OPTIONS, POST")
    assert answer.content_type == "application/problem+json"


def test_a_wrong_method_is_told_the_right_ones_wherever_it_is(client, contract):
    nobody = client()
    for path, of in contract["paths"].items():
        at = re.sub(r"\{\w+\}", "some", path)
        right = {method.upper() for method in of} | {"OPTIONS"}
        right |= {"HEAD"} if "GET" in right else set()
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "OPTIONS", "BREW"):
            answer = nobody.open(at, method=method)
            if method == "OPTIONS" or method not in right:
                assert answer.status_code == (200 if method == "OPTIONS" else 405), (method, at)
                assert set(answer.headers["Allow"].split(", ")) == right
            if method not in (*right, "HEAD"):
                assert answer.json["type"] == "/problems/method-not-allowed"
                assert answer.json["detail"].endswith(answer.headers["Allow"])
        if path != "/console":  # whose pages lie below it
            assert nobody.open(f"{at}/", method=min(right)).status_code == 404


def test_the_page_is_whole_in_itself(client):
    page = client().get("/docs")
    assert page.content_type.startswith("text/html")
    links = re.findall(r'(?:src|href)="([^"]+)"', page.get_data(as_text=True))
    assert links
    for link in links:
        assert link.startswith("/docs/")
        assert client().get(link).status_code == 200
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert client().get("/docs/index.html").status_code == 404


# --- the examples


def test_every_operation_with_a_body_has_a_full_example_that_fits(contract):
    seen = 0
    for of in contract["paths"].values():
        for found in of.values():
            content = found.get("requestBody", {}).get("content", {}).get("application/json")
            if content is not None:
                validate(contract, content["schema"], content["example"])
                seen += 1
            for said in found["responses"].values():
                for kind in said["content"].values():
                    if "example" in kind:
                        validate(contract, kind["schema"], kind["example"])
    assert seen == 12


def test_the_example_requests_get_answers_of_the_forms_shown(client, contract, raw):
    def example(name: str) -> dict[str, Any]:
        content = operation(contract, name)["requestBody"]["content"]["application/json"]
        return dict(content["example"])

    for value in ("a@example.com", "13800138000", "2088123456789012", "1 Example Road"):
        raw(value)
    consents, checkout, privacy = client("consent"), client("checkout"), client("privacy")
    answers = {
        "put_notice": consents.put("/v1/notices/pn_security", json=example("put_notice")),
        "give_consent": consents.post("/v1/consents", json=example("give_consent")),
        "assess": checkout.post("/v1/assessments", json=example("assess")),
    }
    name, record = answers["assess"].json["assessment_id"], answers["give_consent"].json
    label = example("add_label")
    exception = example("ask_exception") | {"not_before": "2026-11-23T00:00:00Z"}
    answers |= {
        "read_assessment": checkout.get(f"/v1/assessments/{name}"),
        "ask_review": checkout.post(f"/v1/assessments/{name}/review"),
        "list_consents": consents.get("/v1/members/m_1/consents"),
        "withdraw_consent": consents.post(f"/v1/consents/{record['record_id']}/withdraw"),
        "add_label": checkout.post("/v1/labels", json=label),
        "read_receipt": privacy.get(f"/v1/receipts/{name}"),
        "healthz": client().get("/healthz"),
        "readyz": client().get("/readyz"),
    }
    for key, answer in answers.items():
        assert answer.status_code in (200, 201), (key, answer.json)
        hold(contract, key, answer)
        shown = operation(contract, key)["responses"][str(answer.status_code)]
        example_answer = shown["content"]["application/json"]["example"]
        assert example_answer.keys() ^ answer.json.keys() <= {"challenge"}
    exception["expires_at"], exception["not_before"] = _in_days(2), _in_days(0)
    asked = privacy.post("/v1/exceptions", json=exception)
    hold(contract, "ask_exception", asked)
    live = client("privacy", "duty_manager").post(
        f"/v1/exceptions/{asked.json['grant_id']}/approve"
    )
    hold(contract, "approve_exception", live)
    hold(contract, "export_member", privacy.get("/v1/members/m_1/export"))
    erased = privacy.post("/v1/members/m_1/erasure", json=example("erase_member"))
    hold(contract, "erase_member", erased)
    read = privacy.get(f"/v1/erasures/{erased.json['erasure_id']}")
    hold(contract, "read_erasure", read)


def test_the_examples_give_reasons_that_the_service_gives(contract):
    some = r"(?!0 )[\d.]+( days| hours| minutes| seconds)?"
    for name in ("assess", "read_assessment"):
        answer = operation(contract, name)["responses"]["200"]["content"]["application/json"]
        assert answer["example"]["reasons"]
        for reason in answer["example"]["reasons"]:
            texts = [f.says for f in FEATURES if f.code == reason["code"]]
            wanted = [some.join(map(re.escape, re.split(r"\{.*?\}", text))) for text in texts]
            wanted.append(re.escape(REASONS[reason["code"]]))
            assert any(re.fullmatch(one, reason["reason"]) for one in wanted), reason


def _in_days(days: int) -> str:
    from datetime import UTC, datetime, timedelta

    return (datetime.now(UTC) + timedelta(days=days)).isoformat()


def test_refusals_and_problems_are_of_the_forms_shown(client, contract, a_request):
    checkout = client("checkout")
    refused = checkout.post("/v1/assessments", json=a_request(purpose="security.account_risk"))
    assert refused.status_code == 403
    hold(contract, "assess", refused)
    for answer in (
        client().post("/v1/assessments", json={}),
        client("consent").post("/v1/assessments", json={}),
        checkout.post("/v1/assessments", json={}),
        checkout.get("/v1/assessments/as_none"),
    ):
        hold(contract, "assess", answer)
        assert answer.json["status"] == answer.status_code


# --- bodies that are not of their form


def changed(body: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *way, last = path.split(".")
    inner = body
    for name in way:
        inner = inner[name]
    if value is MISSING:
        del inner[last]
    else:
        inner[last] = value
    return body


MISSING = object()

#: (where, what is put there, the pointer in the answer)
WRONG: list[tuple[str, Any, str]] = [
    ("event_id", MISSING, "/event_id"),
    ("event_id", "", "/event_id"),
    ("event_id", None, "/event_id"),
    ("event_id", 7, "/event_id"),
    ("event_id", "x" * 129, "/event_id"),
    ("event_id", "a\u0000b", "/event_id"),
    ("event_id", "line\n", "/event_id"),
    ("event_id", " ", "/event_id"),
    ("event_id", ["e"], "/event_id"),
    ("purpose", MISSING, "/purpose"),
    ("purpose", "", "/purpose"),
    ("purpose", None, "/purpose"),
    ("purpose", "security", "/purpose"),
    ("purpose", "raw-member-1", "/purpose"),
    ("purpose", "x" * 65, "/purpose"),
    ("mode", "observe", "/mode"),
    ("mode", 1, "/mode"),
    ("event", MISSING, "/event"),
    ("event", None, "/event"),
    ("event", [], "/event"),
    ("event.type", MISSING, "/event/type"),
    ("event.type", "raw-member-1", "/event/type"),
    ("event.type", "it's 'raw-member-1' - at `$.raw-member-1`", "/event/type"),
    ("event.type", "fraud", "/event/type"),
    ("event.type", {"raw-member-1": 1}, "/event/type"),
    ("event.occurred_at", MISSING, "/event/occurred_at"),
    ("event.occurred_at", "2026-11-23T09:00:00", "/event/occurred_at"),
    ("event.occurred_at", "raw-member-1", "/event/occurred_at"),
    ("event.occurred_at", 1_795_000_000, "/event/occurred_at"),
    ("event.occurred_at", "2026-13-01T00:00:00Z", "/event/occurred_at"),
    ("member", "raw-member-1", "/member"),
    ("member", [{"id": "raw-member-1"}], "/member"),
    ("member.id", MISSING, "/member/id"),
    ("member.id", 13_900_015_678, "/member/id"),
    ("member.id", "raw-member-1\u0007", "/member/id"),
    ("member.id", "raw-member-1" * 20, "/member/id"),
    ("member.registered_at", "2024-01-01", "/member/registered_at"),
    ("member.email", "raw.member.1 at example.com", "/member/email"),
    ("member.email", {"raw": "raw.member.1@example.com"}, "/member/email"),
    ("member.phone", "not a number", "/member/phone"),
    ("member.phone", 13_900_015_678, "/member/phone"),
    ("member.optional", "1987-06-05", "/member/optional"),
    ("member.optional.birth_date", 19_870_605, "/member/optional/birth_date"),
    ("transaction", MISSING, "/transaction"),
    ("transaction", None, "/transaction"),
    ("transaction.order_id", MISSING, "/transaction/order_id"),
    ("transaction.amount", MISSING, "/transaction/amount"),
    ("transaction.amount", "129900", "/transaction/amount"),
    ("transaction.amount", 1299.5, "/transaction/amount"),
    ("transaction.amount", -1, "/transaction/amount"),
    ("transaction.amount", 10**13, "/transaction/amount"),
    ("transaction.amount", 10**40, "/transaction/amount"),
    ("transaction.amount", True, "/transaction/amount"),
    ("transaction.currency", "cny", "/transaction/currency"),
    ("transaction.currency", "CNY\n", "/transaction/currency"),
    ("transaction.item_count", -1, "/transaction/item_count"),
    ("transaction.instrument", "2088-raw-1", "/transaction/instrument"),
    ("transaction.instrument.kind", "", "/transaction/instrument/kind"),
    ("transaction.instrument.kind", MISSING, "/transaction/instrument/kind"),
    ("transaction.consignee.is_member", "yes", "/transaction/consignee/is_member"),
    ("transaction.consignee.address", ["Raw Address Road 1"], "/transaction/consignee/address"),
    ("transaction.consignee.name", "x" * 513, "/transaction/consignee/name"),
    ("device.id", "", "/device/id"),
    ("device.permissions", "location.ip", "/device/permissions"),
    ("device.permissions", ["location.ip", 5], "/device/permissions/1"),
    ("device.permissions", ["x"] * 65, "/device/permissions"),
    ("location.ip", 3_405_803_876, "/location/ip"),
    ("location.gps", [31.2, 121.5], "/location/gps"),
    ("location.gps.lat", 91, "/location/gps/lat"),
    ("location.gps.lon", "121.5", "/location/gps/lon"),
    ("location.gps.lon", MISSING, "/location/gps/lon"),
    ("log.page_views", 1.5, "/log/page_views"),
    ("log.page_views", 10**7, "/log/page_views"),
    ("log.seconds_on_page", -1, "/log/seconds_on_page"),
    ("log.user_agent", 5, "/log/user_agent"),
    ("sources", ["first_party"], "/sources"),
    ("sources", {"device": 5}, "/sources/*"),
    ("sources", {"device": "somebody"}, "/sources/device"),
    ("sources", {"device": "partner"}, "/sources/device"),
    ("sources", {"raw-member-1": "first_party"}, "/sources"),
    ("identity", {"document_verified": "raw-member-1"}, "/identity/document_verified"),
    ("identity", {"face_match_level": 10}, "/identity/face_match_level"),
    # secrets, at any level and in any spelling
    ("password", "hunter2-raw-1", "/password"),
    ("member.password", "hunter2-raw-1", "/member/password"),
    ("member.pwd", {"raw": "hunter2-raw-1"}, "/member/pwd"),
    ("member.accessToken", "hunter2-raw-1", "/member/*"),
    ("member.optional.PIN", "hunter2-raw-1", "/member/optional/*"),
    ("transaction.instrument.cvv", "123", "/transaction/instrument/cvv"),
    ("transaction.instrument.card_cvc", "123", "/transaction/instrument/card_cvc"),
    ("log.session_token", "hunter2-raw-1", "/log/session_token"),
    ("communication", {"chats": [{"client_secret": "x"}]}, "/communication/chats/0/client_secret"),
    ("profile", {"tags": [[{"passwd": "hunter2-raw-1"}]]}, "/profile/tags/0/0/passwd"),
    ("extra", {"a": {"b": [{"user_password": 1}]}}, "/extra/a/b/0/user_password"),
    ("sources", {"secret": "first_party"}, "/sources/secret"),
    ("密码", "hunter2-raw-1", "/*"),
    ("member.\uff50assword", "hunter2-raw-1", "/member/*"),
    ("member.p\u00e1ssword", "hunter2-raw-1", "/member/*"),
    ("Authorization", "hunter2-raw-1", "/*"),
]

#: Bytes that are no JSON object, or not one that may come.
NO_JSON: list[tuple[bytes, int]] = [
    (b"", 400),
    (b"{", 400),
    (b"null", 400),
    (b"[]", 400),
    (b'"raw-member-1"', 400),
    (b"raw-member-1", 400),
    (b"{'event_id': 'raw-member-1'}", 400),
    (b'{"event_id": "raw-member-1",}', 400),
    (b'{"event_id": NaN}', 400),
    (b'{"event_id": Infinity, "member": "raw-member-1"}', 400),
    (b'{"event_id": 1e999}', 400),
    (b'{"event_id": ' + b"9" * 5000 + b"}", 400),
    (b'{"event_id": "\\ud800"}', 400),
    (b'{"event_id": "\\ud800\\u0041 raw-member-1"}', 400),
    (b'{"event_id": "\xed\xa0\x80"}', 400),
    (b'{"event_id": "\xff\xfe raw-member-1"}', 400),
    (b"\xef\xbb\xbf{}", 400),
    ('{"event_id": "raw-member-1"}'.encode("utf-16"), 400),
    (b"{} {}", 400),
    (b"[" * 60_000, 400),
    (b'{"a":' * 12_000, 400),
    (b'{"extra":' + b"[" * 900 + b"]" * 900 + b"}", 400),
    (b'{"extra":' + b'{"a":' * 90 + b"1" + b"}" * 91, 400),
    (b'{"communication":' + b"[" * 90 + b"]" * 90 + b"}", 400),
    (b'{"event_id": "' + b"x" * (body.LIMIT + 1) + b'"}', 413),
    (b" " * body.LIMIT + b"{}", 413),
    (b"\x00" * 100, 400),
]


def counts(parts: Any) -> dict[str, int]:
    return {kind: parts.ledger.rows(f"SELECT COUNT(*) FROM {kind}")[0][0] for kind in KINDS}


def test_a_field_that_does_not_fit_is_named_and_nothing_is_kept(
    client, contract, a_request, a_consent, parts, raw, notice
):
    client("consent").post("/v1/consents", json=a_consent())
    raw("hunter2-raw-1")
    checkout = client("checkout")
    before = counts(parts)
    seen: dict[str, Any] = {}
    for path, value, pointer in WRONG:
        answer = checkout.post("/v1/assessments", json=changed(a_request(), path, value))
        where = (path, value, answer.json)
        assert answer.status_code == 400, where
        assert answer.content_type == "application/problem+json"
        assert [fault["pointer"] for fault in answer.json["errors"]] == [pointer], where
        hold(contract, "assess", answer)
        seen[answer.json["detail"]] = pointer
    assert counts(parts) == before
    assert len(parts.velocity.unsettled(1 << 62)) == 0
    # and the details help: they say what is wanted
    assert "must be one of evaluate, protect" in seen
    assert any("secret" in detail for detail in seen)


#: A body, what is wrong in it and where, and how the detail begins: it says what is wanted.
HELPFUL = [
    (ConsentBody, "event_state", "maybe", "must be one of consent_given, consent_refused"),
    (ConsentBody, "event_type", "yes", "must be one of explicitly_expressed"),
    (ConsentBody, "member_id", "\t", "expected 1 to 128 characters, not blank"),
    (ConsentBody, "event_time", "2026-11-23T09:00:00", "an instant in RFC 3339, with an"),
    (ConsentBody, "event_time", "soon", "an instant in RFC 3339, with an offset"),
    (NoticeBody, "text_sha256", "A" * 64, "expected a SHA-256 in hex, in small letters"),
    (NoticeBody, "language", "zh_CN", "expected a language tag, like zh-CN"),
    (NoticeBody, "version", "a b", "expected letters, digits, and . _ @ -"),
    (LabelBody, "source", "the bank", "expected letters, digits, and . _ @ -"),
    (HoldBody, "law", "two\nlines", "expected one line of text"),
]


@pytest.mark.parametrize(("kind", "field", "value", "begins"), HELPFUL)
def test_what_is_said_of_a_field_says_what_is_wanted(kind, field, value, begins):
    whole = {
        "member_id": "m_1", "notice": {"id": "n", "version": "1"}, "purpose": "security",
        "categories": ["device"], "event_type": "explicitly_expressed", "label": "legitimate",
        "event_time": "2026-11-23T09:00:00Z", "version": "1", "language": "en", "source": "s",
        "text_sha256": "a" * 64, "purposes": ["security"], "law": "Law, art. 1",
        "valid_from": "2026-11-23T09:00:00Z",
    }  # fmt: skip
    fields = {f: v for f, v in whole.items() if f in kind.__struct_fields__}
    body.decode(json.dumps(fields).encode(), kind)  # fits
    with pytest.raises(BadRequest) as refused:
        body.decode(json.dumps(fields | {field: value}).encode(), kind)
    assert refused.value.pointer == f"/{field}"
    assert refused.value.detail.startswith(begins)


def test_currency_in_small_letters_is_told_how(client, a_request):
    answer = client("checkout").post(
        "/v1/assessments", json=changed(a_request(), "transaction.currency", "cny")
    )
    assert answer.status_code == 400
    assert answer.json["errors"] == [
        {"pointer": "/transaction/currency", "detail": "expected three capital letters, like CNY"}
    ]


def test_bytes_that_are_no_such_object_are_refused_and_nothing_is_kept(client, parts, raw):
    raw("raw-member-1")
    checkout = client("checkout")
    before = counts(parts)
    for data, status in NO_JSON:
        answer = checkout.post("/v1/assessments", data=data, content_type="application/json")
        assert answer.status_code == status, (data[:40], answer.json)
        assert answer.content_type == "application/problem+json"
    assert counts(parts) == before


def test_the_table_of_what_is_wrong_is_long_enough():
    assert len(WRONG) + len(NO_JSON) >= 60


@pytest.mark.parametrize(("data", "said"), [
    (b"", "the body is empty: send a JSON object"),
    (b" \n", "the body is empty: send a JSON object"),
    (b'\xef\xbb\xbf{"event_id": "raw-member-1"}', "leave out the byte order mark before it"),
    (b'{"event_id": "raw-member-1", "x": NaN}', "NaN at byte 34"),
    (b'{"x": -Infinity}', "Infinity at byte 7"),
    (b'{"event_id": "raw-member-1",}', "wrong at byte 28"),
    (b"{'event_id': 'raw-member-1'}", "wrong at byte 1"),
    (b'{"event_id": "raw-member-1"', "it ends too early"),
    (b'{"event_id": "raw-member-1\xff"}', "or a string in it is no UTF-8"),
])  # fmt: skip
def test_what_is_no_json_is_told_where(client, raw, data, said):
    raw("raw-member-1")
    answer = client("checkout").post("/v1/assessments", data=data)
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (400, "")
    assert said in answer.json["detail"]


def test_a_number_that_no_float_holds_is_told_by_its_field(client, a_request):
    data = json.dumps(a_request()).replace('"seconds_on_page": 40.5', '"seconds_on_page": 1e400')
    answer = client("checkout").post("/v1/assessments", data=data)
    assert answer.json["errors"][0]["pointer"] == "/log/seconds_on_page"
    answer = client("checkout").post("/v1/assessments", data=data.replace("seconds_on", "s"))
    assert answer.status_code == 400  # of a field that is not known nobody can say which


@pytest.mark.parametrize("path", ["/v1/assessments", "/v1/assessments/batch"])
def test_a_body_that_is_packed_is_not_read(client, a_request, path):
    sent = {"data": gzip.compress(json.dumps(a_request()).encode())}
    sent["headers"] = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    answer = client("checkout").post(path, **sent)
    assert (answer.status_code, answer.json["type"]) == (415, "/problems/wrong-media-type")
    assert "Content-Encoding" in answer.json["detail"]
    assert answer.headers["Accept-Encoding"] == "identity"
    sent = {"json": a_request(), "headers": {"Content-Encoding": "identity"}}
    assert client("checkout").post(path, **sent).status_code == 200


@pytest.mark.parametrize("path", ["/v1/consents", "/v1/labels", "/v1/exceptions"])
def test_no_route_takes_what_is_no_json(client, parts, raw, path):
    raw("raw-member-1")
    role = {"/v1/consents": "consent", "/v1/labels": "analyst"}.get(path, "privacy")
    made = client(role)
    before = counts(parts)
    for data, status in NO_JSON:
        answer = made.post(path, data=data, content_type="application/json")
        assert answer.status_code == status, (data[:40], answer.json)
    assert counts(parts) == before


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("application/vnd.example+json", 200),
        ("application/x-www-form-urlencoded", 200),  # what curl says when told nothing
        ("", 200),
        ("text/plain", 415),
        ("text/html", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/xml", 415),
        ("nonsense", 415),
    ],
)
def test_a_body_is_json_or_is_not_read(client, a_request, content_type, status):
    data = json.dumps(a_request())
    headers = {"Content-Type": content_type} if content_type else {}
    answer = client("checkout").post("/v1/assessments", data=data, headers=headers)
    assert answer.status_code == status
    if status == 415:
        assert answer.json["type"] == "/problems/wrong-media-type"


# --- unknown fields


def test_an_unknown_field_is_warned_of_by_name_only_where_its_name_is_a_plain_word(
    client, a_request, raw
):
    body = a_request()
    body["colour"] = 1
    body["device"]["screen_size"] = [1, {"deep": 2}]
    body["member"][raw("anna@example.com")] = 1
    body["member"]["optional"]["13900015678"] = 1
    body["log"]["Camel"] = 1
    answer = client("checkout").post("/v1/assessments", json=body)
    assert answer.status_code == 200
    assert {w["code"] for w in answer.json["warnings"]} == {"unknown_field"}
    assert sorted(w["input_pointer"] for w in answer.json["warnings"]) == [
        "/colour",
        "/device/screen_size",
        "/log/*",
        "/member/*",
        "/member/optional/*",
    ]
    assert "anna@" not in answer.get_data(as_text=True)


def test_many_unknown_fields_are_not_all_listed(client, a_request):
    body = a_request() | {f"field_{n}": n for n in range(500)}
    warnings = client("checkout").post("/v1/assessments", json=body).json["warnings"]
    assert len(warnings) == 33
    assert warnings[-1]["code"] == "unknown_fields"


def test_no_field_of_the_contract_looks_like_a_secret(contract):
    for name, schema in contract["components"]["schemas"].items():
        for field in schema.get("properties", {}):
            assert not body._is_secret(field), (name, field)


@pytest.mark.parametrize(
    "name",
    ["shipping", "opinion", "spinning", "description", "page_views", "tokenless", "passenger"],
)
def test_words_that_only_look_like_a_secret_are_no_secret(name):
    assert not body._is_secret(name)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_no_body_whatever_gets_a_500(client, a_request, data):
    body = a_request()
    for _ in range(data.draw(st.integers(1, 4))):
        inner: Any = body
        while isinstance(inner, dict) and inner:
            name = data.draw(st.sampled_from(sorted(inner)))
            if isinstance(inner[name], dict) and inner[name] and data.draw(st.booleans()):
                inner = inner[name]
                continue
            inner[name] = data.draw(VALUES)
            break
    made = _CHECKOUT.setdefault(id(client), client("checkout"))
    answer = made.post("/v1/assessments", data=json.dumps(body).encode("utf-8", "surrogatepass"))
    assert answer.status_code in (200, 400, 403, 409)


_CHECKOUT: dict[int, Any] = {}


def test_the_routes_are_told_apart_by_their_names():
    names = [route.name for route in ROUTES]
    assert len(names) == len(set(names))
