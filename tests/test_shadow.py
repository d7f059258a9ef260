"""Challengers score what was answered, off its path; a person promotes one for a measured gain."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from sectionfour import bootstrap, verify
from sectionfour.decisions import policy
from sectionfour.errors import Forbidden, RegistryError, SettingsError
from sectionfour.jobs.upkeep import upkeep
from sectionfour.learning import challengers, evaluate, registry
from sectionfour.learning.registry import Served
from sectionfour.learning.shadow import Shadow
from sectionfour.parts import Parts
from sectionfour.settings import Settings
from sectionfour.web.keys import create_key

NAME = "transaction"


@pytest.fixture
def models(models: Path, tmp_path: Path) -> Path:
    """A registry of one's own, with the models of all."""
    return Path(shutil.copytree(models, tmp_path / "registry"))


@pytest.fixture
def with_v2(parts: Parts, models: Path) -> Parts:
    """The same parts, with another version of the model in their registry."""
    folder = models
    ring = parts.keys.ring
    onnx = (models / NAME / "v1" / "model.onnx").read_bytes()
    card = {**registry.feature_list(NAME), "usual": {}, "other": True}
    registry.write(folder, NAME, "v2", onnx, card, ring.signing("models"))
    return replace(parts, models=Served(folder, bootstrap.trusted_keys(ring)))


@pytest.fixture
def answered(
    client: Callable[..., Any],
    notice: dict[str, Any],
    a_request: Callable[..., Any],
    a_consent: Callable[..., Any],
) -> Callable[[int], int]:
    """Return how to have one call answered: its HTTP status."""
    checkout, consent = client("checkout"), client("consent")

    def one(number: int, *, basis: bool = True) -> int:
        # A purchase has the contract for its order; a login has none.
        login = {"type": "login", "occurred_at": "2026-11-23T09:00:00+08:00"}
        changes = {"purpose": "security.account_risk", "event": login, "transaction": None}
        body = a_request(number, **({} if basis else changes))
        if basis:
            given = a_consent(member_id=body["member"]["id"], record_id=f"cr_{number}")
            assert consent.post("/v1/consents", json=given).status_code < 300
        return int(checkout.post("/v1/assessments", json=body).status_code)

    return one


def challenge(parts: Parts, version: str = "v2") -> None:
    registry.challenge(parts.models.folder, NAME, version, parts.models.trusted)
    parts.ledger.shadow_turn(NAME, version)


def test_a_challenger_scores_what_is_answered_from_then_on_and_touches_nothing_else(
    with_v2: Parts, answered: Callable[..., int]
) -> None:
    parts, shadow = with_v2, Shadow(with_v2)
    assert answered(1) == 200
    assert shadow.turn() == 0  # nobody challenges
    challenge(parts)
    assert [answered(n) for n in (2, 3)] == [200, 200]
    assert answered(4, basis=False) == 403
    tables = ("assessments", "events", "log", "consent_events", "labels")
    counts = {t: parts.ledger.rows(f"SELECT COUNT(*) FROM {t}") for t in tables}
    clock = parts.velocity.exchange(b"", 0, [], 0, None)[0]
    assert shadow.turn() == 2
    assert shadow.turn() == 0
    assert {t: parts.ledger.rows(f"SELECT COUNT(*) FROM {t}") for t in tables} == counts
    assert parts.velocity.exchange(b"", 0, [], 0, None)[0] == clock
    found = parts.ledger.shadow_pairs("v2", "v1")
    assert [row[0] for row in found] == ["evt_0002", "evt_0003"]
    for event_id, _, mine, theirs in found:
        answer = msgspec.json.decode(parts.ledger.assessed(event_id)[2])
        assert mine == theirs  # the same model under another name
        assert answer["risk_score"] == pytest.approx(100 * theirs, abs=0.0051)
        assert answer["model"]["version"] == "v1"


def test_an_erased_assessment_takes_its_shadow_with_it(
    with_v2: Parts, answered: Callable[..., int]
) -> None:
    challenge(with_v2)
    answered(1)
    Shadow(with_v2).turn()
    assert with_v2.ledger.shadow_pairs("v2", "v1")
    with with_v2.ledger.transaction() as connection:
        connection.execute("DELETE FROM assessments")
    assert with_v2.ledger.rows("SELECT COUNT(*) FROM shadow_scores") == [(0,)]


def test_who_is_erased_has_no_shadow_either(
    with_v2: Parts, answered: Callable[..., int], client: Callable[..., Any], app: Any
) -> None:
    challenge(with_v2)
    assert [answered(n) for n in (1, 2)] == [200, 200]
    Shadow(with_v2).turn()
    assert len(with_v2.ledger.shadow_pairs("v2", "v1")) == 2
    path = "/v1/members/raw-member-1/erasure"
    assert client("privacy").post(path, json={"trigger": "cancellation"}).status_code == 202
    notary = app.extensions["sectionfour.notary"]
    upkeep(with_v2, notary, with_v2.clock() + 86_400_000_000)
    assert [row[0] for row in with_v2.ledger.shadow_pairs("v2", "v1")] == ["evt_0002"]
    left = with_v2.ledger.rows(
        "SELECT event_id FROM assessments WHERE seq IN (SELECT seq FROM shadow_scores)"
    )
    assert left == [("evt_0002",)]


def test_nobody_challenges_what_has_ceased(with_v2: Parts, answered: Callable[..., int]) -> None:
    challenge(with_v2)
    assert answered(1) == 200
    with with_v2.ledger.transaction() as connection:
        connection.execute("INSERT INTO cessation VALUES (1, 1, 'https://x.example', 'k', NULL)")
    assert Shadow(with_v2).turn() == 0
    assert with_v2.ledger.rows("SELECT COUNT(*) FROM shadow_scores") == [(0,)]


def test_a_challenger_that_cannot_be_opened_is_complained_of_once_and_the_rest_go_on(
    with_v2: Parts, answered: Callable[..., int], caplog: pytest.LogCaptureFixture
) -> None:
    challenge(with_v2)
    (with_v2.models.folder / NAME / "v2" / "model.onnx").write_bytes(b"changed")
    answered(1)
    shadow = Shadow(with_v2)
    assert [shadow.turn() for _ in range(3)] == [0, 0, 0]
    assert caplog.text.count("a file was changed") == 1


def test_upkeep_lets_challengers_catch_up(
    a_server: Any,
    models: Path,
    a_request: Any,
    a_consent: Any,
    a_notice: Any,
) -> None:
    import sqlite3
    import time

    folder = models
    with a_server() as server:
        settings = Settings(home=server.home, models=folder)
        ring = bootstrap.open_keys(settings.home, settings.region).ring
        onnx = (folder / NAME / "v1" / "model.onnx").read_bytes()
        card = {**registry.feature_list(NAME), "usual": {}}
        registry.write(folder, NAME, "v2", onnx, card, ring.signing("models"))
        registry.challenge(folder, NAME, "v2", bootstrap.trusted_keys(ring))
        database = sqlite3.connect(server.home / "ledger.db")
        for _ in range(100):  # it begins where upkeep first sees it
            if database.execute("SELECT 1 FROM shadow_turns").fetchall():
                break
            time.sleep(0.1)
        server.call("PUT", "/v1/notices/pn_security", a_notice(), role="consent")
        body = a_request(7)
        given = a_consent(member_id=body["member"]["id"])
        assert server.call("POST", "/v1/consents", given, role="consent")[0] < 300
        assert server.call("POST", "/v1/assessments", body, role="checkout")[0] == 200
        for _ in range(100):
            rows = database.execute("SELECT version FROM shadow_scores ORDER BY 1").fetchall()
            if rows:
                break
            time.sleep(0.1)
        database.close()
        assert rows == [("v1",), ("v2",)]


# --- comparing, and promoting ----------------------------------------------------------------


def compared(better: float, rows: int = 2000) -> dict[str, Any]:
    """Return a comparison in which the challenger sees `better` more of the truth."""
    rng = np.random.default_rng(3)
    fraud = (rng.random(rows) < 0.05).astype(np.int8)
    champion = np.clip(0.05 + 0.1 * fraud + rng.normal(0, 0.05, rows), 0.001, 0.999)
    challenger = np.clip(champion + better * (fraud - 0.05), 0.001, 0.999)
    mature = np.arange(rows) < 0.8 * rows
    clusters = np.arange(rows) // 3
    limits = policy.load().thresholds(NAME)
    return challengers.compare(fraud, mature, challenger, champion, clusters, limits)


def test_the_same_model_agrees_with_itself_and_gains_nothing() -> None:
    found = compared(0.0)
    assert found["agreement"]["same_outcome"]["value"] == 1
    assert set(found["agreement"]["rank_correlation"].values()) == {1}
    assert all(set(gain.values()) == {0} for gain in found["gain"].values())
    with pytest.raises(RegistryError, match=r"the gain in auc is 0\.0000"):
        challengers.check(found, "auc", 0.0)


def test_a_gain_counts_when_it_is_large_enough_and_no_chance() -> None:
    found = compared(0.1)
    gain = found["gain"]["average_precision"]
    assert 0 < gain["low"] <= gain["value"] <= gain["high"]
    assert found["mature"] == 1600
    assert challengers.check(found, "average_precision", 0.01) == gain
    falling = challengers.check(found, "brier", 0.0)
    assert falling["value"] == -found["gain"]["brier"]["value"] > 0
    with pytest.raises(RegistryError, match="was asked for"):
        challengers.check(found, "average_precision", 0.9)
    with pytest.raises(RegistryError, match="the gain in"):
        challengers.check(compared(-0.1), "average_precision", 0.0)
    with pytest.raises(SettingsError, match="is no metric"):
        challengers.check(found, "accuracy", 0.01)


def test_without_frauds_nothing_is_said_and_nothing_promoted() -> None:
    few = np.zeros(50, dtype=np.int8)
    scores = np.linspace(0.01, 0.5, 50)
    limits = policy.load().thresholds(NAME)
    found = challengers.compare(
        few, np.ones(50, dtype=bool), scores, scores[::-1], np.arange(50), limits
    )
    assert found["gain"] is None
    with pytest.raises(RegistryError, match="0 known frauds of 0 members in 50 rows"):
        challengers.check(found, "auc", 0.0)


@pytest.mark.parametrize(("members", "told"), [(1, False), (9, False), (10, True)])
def test_the_frauds_of_a_few_members_are_no_ground_to_promote_on(members: int, told: bool) -> None:
    """Where all frauds are of one member no draw is without them, and the interval is too good."""
    rows = 400
    fraud = (np.arange(rows) < 40).astype(np.int8)
    clusters = np.where(fraud == 1, np.arange(rows) % members, np.arange(rows))
    scores = np.where(fraud == 1, 0.4, np.linspace(0.01, 0.5, rows))
    found = challengers.compare(
        fraud,
        np.ones(rows, dtype=bool),
        scores,
        scores - 0.2 * fraud,
        np.unique(clusters, return_inverse=True)[1],
        policy.load().thresholds(NAME),
    )
    assert found["members_with_fraud"] == members
    assert (found["gain"] is not None) == told
    if not told:
        with pytest.raises(RegistryError, match=f"40 known frauds of {members} members"):
            challengers.check(found, "auc", 0.0)


def test_ranks_agree_within_an_interval() -> None:
    alike = compared(0.1)["agreement"]["rank_correlation"]
    assert -1 <= alike["low"] < alike["value"] < alike["high"] <= 1


def test_a_promotion_takes_a_persons_key_and_is_in_the_log(with_v2: Parts) -> None:
    parts, folder = with_v2, with_v2.models.folder
    given = (parts, folder, NAME, "v2", parts.models.trusted)
    with pytest.raises(RegistryError, match="takes a person's key"):
        challengers.promote(*given)
    create_key(parts.ledger, "checkout", parts.clock())
    [checkout] = parts.ledger.all_keys()
    for by in ("k_0000000000000000", checkout[0]):
        with pytest.raises(Forbidden, match="no standing key"):
            challengers.promote(*given, by=by)
    assert registry.current(folder, NAME) == "v1"
    assert parts.ledger.rows("SELECT COUNT(*) FROM promotions") == [(0,)]
    create_key(parts.ledger, "trainer", parts.clock())
    trainer = next(row[0] for row in parts.ledger.all_keys() if row[1] == "trainer")
    registry.challenge(folder, NAME, "v2", parts.models.trusted)
    challengers.promote(*given, by=trainer, grounds={"metric": "auc", "value": "0.02"})
    assert registry.current(folder, NAME) == "v2"
    assert registry.challengers(folder, NAME) == []
    assert challengers.rollback(parts, folder, NAME, given[-1], by=trainer) == "v1"
    said = [
        msgspec.json.decode(row[0])
        for row in parts.ledger.rows("SELECT leaf FROM log WHERE kind = 'promotion' ORDER BY idx")
    ]
    assert [(s["action"], s["version"], s["before"], s["by"]) for s in said] == [
        ("promoted", "v2", "v1", trainer),
        ("rolled_back", "v1", "v2", trainer),
    ]
    assert said[0]["metric"] == "auc"


def test_a_changed_promotion_does_not_verify(with_v2: Parts, settings: Settings) -> None:
    parts = with_v2
    create_key(parts.ledger, "admin", parts.clock())
    [admin] = parts.ledger.all_keys()
    given = (parts, parts.models.folder, NAME, "v2", parts.models.trusted)
    challengers.promote(*given, by=admin[0])
    notary = bootstrap.open_notary(settings, parts)
    notary.extend(parts.clock())
    assert list(verify.verify(parts, notary)) == []
    with parts.ledger.transaction() as connection:
        connection.execute("UPDATE promotions SET said = replace(said, 'v1', 'v0')")
    assert any("promotion" in fault for fault in verify.verify(parts, notary))


def test_differences_are_paired_and_so_narrower_than_the_two_apart() -> None:
    found = compared(0.05)
    apart = found["challenger"]["auc"], found["champion"]["auc"]
    widths = [m["high"] - m["low"] for m in (*apart, found["gain"]["auc"])]
    assert widths[2] < max(widths[:2])
    assert set(found["gain"]) == set(evaluate.METRICS)
