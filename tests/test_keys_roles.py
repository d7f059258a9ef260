"""Keys and roles: the table of the contract, to the letter."""

from __future__ import annotations

import re
from typing import Any

import pytest
from click.testing import CliRunner

from sectionfour.cli import main
from sectionfour.errors import BadRequest
from sectionfour.web import ROUTES, keys
from sectionfour.web.keys import ROLES

#: Who may what, copied from the contract by hand; a route that is not here asks for no key.
MAY = {
    "POST /v1/assessments": {"checkout"},
    "POST /v1/assessments/batch": {"checkout"},
    "GET /v1/assessments/{assessment_id}": {"checkout", "analyst"},
    "POST /v1/assessments/{assessment_id}/review": {"checkout", "analyst"},
    "PUT /v1/notices/{notice_id}": {"consent"},
    "POST /v1/consents": {"consent"},
    "POST /v1/consents/{record_id}/withdraw": {"consent"},
    "GET /v1/members/{member_id}/consents": {"consent", "privacy"},
    "POST /v1/exceptions": {"privacy"},
    "POST /v1/exceptions/{grant_id}/approve": {"privacy"},
    "POST /v1/exceptions/{grant_id}/review": {"privacy"},
    "POST /v1/exceptions/{grant_id}/unseal": {"privacy"},
    "POST /v1/exceptions/{grant_id}/revoke": {"privacy"},
    "POST /v1/attestations": {"consent"},
    "GET /v1/attestations/{attestation_id}": {"consent", "privacy"},
    "POST /v1/attestations/{attestation_id}/revoke": {"consent", "privacy"},
    "POST /v1/third-person-attestations": {"consent"},
    "POST /v1/third-person-attestations/{attestation_id}/revoke": {"consent", "privacy"},
    "GET /v1/members/{member_id}/services": {"checkout", "consent", "privacy"},
    "POST /v1/labels": {"checkout", "analyst"},
    "GET /v1/receipts/{assessment_id}": {"privacy"},
    "GET /v1/log/checkpoint": set(ROLES),
    "GET /v1/log/consistency": set(ROLES),
    "GET /v1/reports/data-use": {"privacy"},
    "POST /v1/holds": {"privacy"},
    "POST /v1/holds/{hold_id}/lift": {"privacy"},
    "GET /v1/holds": {"privacy"},
    "POST /v1/cessation": {"admin"},
    "GET /v1/cessation": {"admin", "privacy"},
    "GET /v1/cases": {"analyst"},
    "GET /v1/cases/{case_id}": {"analyst"},
    "POST /v1/cases/{case_id}/verdict": {"analyst"},
    "POST /v1/cases/{case_id}/reidentify": {"analyst"},
    "POST /v1/reidentifications/{reidentification_id}/approve": {"privacy"},
    "POST /v1/reidentifications/{reidentification_id}/tell": {"analyst"},
    "GET /v1/members/{member_id}/export": {"privacy"},
    "POST /v1/members/{member_id}/erasure": {"privacy"},
    "GET /v1/erasures/{erasure_id}": {"privacy"},
}


def test_every_route_that_asks_for_a_key_is_in_the_table():
    asked = {f"{route.method} {route.path}": set(route.roles) for route in ROUTES if route.roles}
    assert asked == MAY


@pytest.mark.parametrize("role", ROLES)
def test_each_role_may_exactly_what_the_table_says(client, role):
    made, anybody = client(role), client()
    for route, allowed in MAY.items():
        method, path = route.split()
        path = re.sub(r"\{\w+\}", "something", path)
        answer = made.open(path, method=method, json={})
        if role in allowed:
            assert answer.status_code not in (401, 403), route
        else:
            assert answer.status_code == 403, route
            assert answer.json["type"] == "/problems/forbidden"
            assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
        assert anybody.open(path, method=method, json={}).status_code == 401


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic czRfeDp5",
        "Bearer s4_" + "x" * 43,
        "Bearer s4_" + "x" * 42,
        "Bearer s4_" + "x" * 44,
        "Bearer s4_" + "\u00e9" * 43,
        "s4_" + "x" * 43,
        "Bearer s4_" + "x" * 43 + ", Bearer s4_" + "y" * 43,
        "Bearer " + "x" * 5000,
    ],
)
def test_a_call_without_a_key_that_stands_is_unauthenticated(client, header):
    headers = {} if header is None else {"Authorization": header}
    answer = client().post("/v1/assessments", json={}, headers=headers)
    assert (answer.status_code, answer.json["type"]) == (401, "/problems/unauthenticated")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer ")


@pytest.mark.parametrize("header", [None, "", "Basic YTpi", "s4_" + "x" * 43, "Bearer"])
def test_who_sends_no_bearer_is_told_how(client, header):
    headers = {} if header is None else {"Authorization": header}
    answer = client().get("/v1/cases", headers=headers)
    assert answer.json["detail"] == "send a key as `Authorization: Bearer KEY`"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_word_bearer_is_known_however_it_is_written(client, parts, scheme):
    key = keys.create_key(parts.ledger, "analyst", 1)
    answer = client().get("/v1/cases", headers={"Authorization": f"{scheme} {key}"})
    assert answer.status_code == 200


def test_the_key_is_looked_at_before_the_body(client):
    answer = client().post("/v1/assessments", data="{", content_type="text/plain")
    assert answer.status_code == 401


def test_a_revocation_holds_for_the_next_call(client, parts, a_request):
    checkout = client("checkout")
    assert checkout.post("/v1/assessments", json=a_request(1)).status_code == 200
    name = keys.key_id(checkout.key)
    assert keys.revoke_key(parts.ledger, name, parts.clock())
    assert checkout.post("/v1/assessments", json=a_request(2)).status_code == 401
    assert not keys.revoke_key(parts.ledger, name, parts.clock())


def test_a_key_is_kept_as_a_digest_and_every_change_of_keys_is_in_the_log(parts, raw):
    key = keys.create_key(parts.ledger, "privacy", parts.clock())
    raw(key)  # the watchdog looks for it in every file
    assert re.fullmatch(r"s4_[A-Za-z0-9_-]{43}", key)
    keys.revoke_key(parts.ledger, keys.key_id(key), parts.clock())
    (row,) = keys.list_keys(parts.ledger)
    assert (row.key_id, row.role) == (keys.key_id(key), "privacy")
    assert row.revoked_at is not None
    kinds = parts.ledger.rows("SELECT kind, ref FROM log ORDER BY idx")
    assert kinds == [("key", row.key_id)] * 2


def test_a_role_outside_the_list_gets_no_key(parts):
    with pytest.raises(BadRequest, match="checkout"):
        keys.create_key(parts.ledger, "root", parts.clock())


# --- from the shell


def test_keys_are_made_listed_and_revoked_from_the_shell(home, monkeypatch):
    monkeypatch.setenv("SECTIONFOUR_HOME", str(home))

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(main, ["keys", *arguments])

    made = run("create", "--role", "checkout")
    assert made.exit_code == 0, made.output
    key = made.stdout.strip()
    assert re.fullmatch(r"s4_[A-Za-z0-9_-]{43}", key)
    listed = run("list").stdout
    assert keys.key_id(key) in listed
    assert "checkout" in listed
    assert key not in listed
    assert run("revoke", keys.key_id(key)).exit_code == 0
    assert "revoked" in run("list").stdout
    again = run("revoke", keys.key_id(key))
    assert again.exit_code == 1
    wrong = run("create", "--role", "root")
    assert wrong.exit_code == 1
    assert "a role must be one of checkout" in wrong.output


def test_every_command_says_what_it_does_with_an_example():
    def walk(command: Any, path: list[str]) -> None:
        shown = CliRunner().invoke(main, [*path, "--help"])
        assert shown.exit_code == 0
        inner = getattr(command, "commands", None)
        if inner is None:
            assert f"sectionfour {' '.join(path)}" in shown.output.replace("Usage:", "", 1), path
        for name, one in (inner or {}).items():
            walk(one, [*path, name])

    walk(main, [])
