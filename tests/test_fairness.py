"""Age and gender never enter a model; where consent says so they are looked at beside it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest

from sectionfour.bootstrap import open_notary
from sectionfour.domain import Event
from sectionfour.errors import HistoryError
from sectionfour.features.catalog import FEATURES, INPUTS
from sectionfour.features.definitions import definition
from sectionfour.jobs import sweep
from sectionfour.learning import audit, fairness
from sectionfour.parts import Parts
from sectionfour.settings import Settings
from sectionfour.verify import verify

WORDS = ("gender", "birth", "sex", "age_band", "optional")


def test_no_feature_no_input_and_no_event_knows_of_age_or_gender() -> None:
    for feature in FEATURES:
        assert "member.optional" not in feature.needs
        assert not [word for word in WORDS if word in definition(feature)]
    assert "member.optional" not in INPUTS.values()
    assert not [n for n in Event.__struct_fields__ if any(word in n for word in WORDS)]


@pytest.mark.parametrize(("birth", "band"), [
    ("1987-11-23", "30-39"), ("1986-11-23", "40-49"), ("1986-11-24", "30-39"), ("2026-11-24", None),
    ("1800-01-01", None), ("1987-13-01", None), ("", None), ("yesterday", None),
])  # fmt: skip
def test_an_age_is_kept_as_its_ten_years(birth: str, band: str | None) -> None:
    assert audit.age_band(birth, date(2026, 11, 23)) == band


def table(folder: Path, *rows: tuple[str, str | None, str | None]) -> Path:
    """Write members whose birth dates a watchdog would know."""
    pd.DataFrame(rows, columns=["member_id", "birth_date", "gender"]).to_parquet(
        folder / "vault.db.members.parquet"  # raw, so under the one name where that may be
    )
    return folder / "vault.db.members.parquet"


def agree(client: Any, a_consent: Callable[..., dict[str, Any]], number: int, *more: str) -> str:
    body = a_consent(number, categories=["member.required", "order", *more])
    answer = client.post("/v1/consents", json=body)
    assert answer.status_code in (200, 201), answer.json
    record: str = answer.json["record_id"]
    return record


@pytest.mark.parametrize("how", ["withdrawn", "refused", "at_once", "at_night"])
def test_only_who_agreed_is_in_the_audit_set_and_only_as_long(
    how: str,
    client: Callable[..., Any], parts: Parts, notice: Any, settings: Settings,
    a_consent: Callable[..., dict[str, Any]], a_notice: Callable[..., dict[str, Any]],
    raw: Callable[[str], str], tmp_path: Path,
) -> None:  # fmt: skip
    officer = client("consent")
    record = agree(officer, a_consent, 1, "member.optional")
    agree(officer, a_consent, 2)
    agree(officer, a_consent, 3, "member.optional")
    file = table(
        tmp_path,
        ("raw-member-1", raw("1987-06-05"), "F"),
        ("raw-member-2", raw("1977-06-05"), "m"),
        ("raw-member-3", None, None),
        ("raw-member-9", None, "f"),
    )
    done = audit.take(file, parts)
    assert (done.kept, done.gone) == (1, 0)
    assert done.left_out == {"no_consent": 1, "not_a_member": 1, "nothing_given": 1}
    subject = parts.keys.subject("raw-member-1")
    assert audit.groups(parts) == {subject: ("30-39", "f")}
    log = parts.ledger.rows("SELECT leaf FROM log WHERE kind = 'audit_set'")
    assert msgspec.json.decode(log[0][0])["kept"] == 1
    assert subject.hex().encode() not in log[0][0]
    notary = open_notary(settings, parts)
    notary.extend(parts.clock())
    assert list(verify(parts, notary)) == []

    if how == "withdrawn":
        answer = officer.post(f"/v1/consents/{record}/withdraw", json={})
        assert answer.status_code == 200, answer.json
    elif how == "refused":
        no = a_consent(1, categories=["member.optional"], event_state="consent_refused",
                       event_time="2026-11-02T09:00:00Z")  # fmt: skip
        assert officer.post("/v1/consents", json=no).status_code == 201
    else:  # it ends by itself, with a newer notice
        answer = officer.put("/v1/notices/pn_security", json=a_notice(version="2"))
        assert answer.status_code == 200, answer.json
        assert len(parts.ledger.audit_set()) == 1
    if how == "at_once":
        assert audit.groups(parts) == {}
    elif how == "at_night":  # nobody measured anything: the night's sweep takes it out
        assert sweep.sweep(parts, parts.clock())["audit_set"] == 1
        assert "audit_set" not in sweep.sweep(parts, parts.clock())
    assert parts.ledger.audit_set() == []
    assert audit.take(file, parts).left_out["no_consent"] == 2


def test_a_table_without_the_columns_is_refused_before_anything_is_written(
    parts: Parts, tmp_path: Path
) -> None:
    pd.DataFrame({"member_id": ["m1"]}).to_parquet(tmp_path / "members.parquet")
    with pytest.raises(HistoryError, match="birth_date, gender"):
        audit.take(tmp_path / "members.parquet", parts)
    assert parts.ledger.size() == 0


def people(rng: np.random.Generator, size: int) -> tuple[Any, ...]:
    member = rng.integers(0, size // 10, size)
    labels = (rng.random(size) < 0.1).astype(np.int8)
    return member, labels


def test_rates_are_what_counting_by_hand_says_and_intervals_hold_them() -> None:
    rng = np.random.default_rng(3)
    member, labels = people(rng, 4000)
    gender = np.where(member % 2 == 0, "f", "m").astype(object)
    stopped = rng.random(4000) < np.where(gender == "f", 0.05, 0.15)
    found = fairness.false_positives(labels, stopped, member, {"gender": gender})["gender"]
    for value, true in (("f", 0.05), ("m", 0.15)):
        rows = (gender == value) & (labels == 0)
        group = found["groups"][value]
        assert group["false_positive_rate"] == pytest.approx(stopped[rows].mean(), abs=1e-5)
        assert group["low"] <= true <= group["high"]
        assert group["rows"] == rows.sum()
    assert found["difference"]["low"] > 0.05


def test_groups_too_small_to_speak_of_are_withheld() -> None:
    rng = np.random.default_rng(4)
    member, labels = people(rng, 2000)
    band = np.where(member < 5, "90-99", np.where(member < 100, "30-39", None)).astype(object)
    found = fairness.false_positives(labels, labels == 2, member, {"age_band": band})["age_band"]
    assert set(found["groups"]) == {"30-39"}
    assert found["groups_withheld"] == 1
    assert "difference" not in found
    nobody = fairness.false_positives(labels, labels == 2, member, {"g": [None] * 2000})["g"]
    assert nobody == {"members": 0, "groups_withheld": 0}


def test_who_is_treated_alike_is_not_said_to_be_treated_otherwise() -> None:
    """Six groups that are stopped alike: the furthest apart differ, and only by chance."""
    rng = np.random.default_rng(5)
    missed = 0
    for seed in range(40):
        member = rng.integers(0, 300, 3000)
        band = (member % 6).astype(str).astype(object)
        stopped = rng.random(300)[member] < 0.1
        found = fairness.false_positives(
            np.zeros(3000, dtype=np.int8), stopped, member, {"age_band": band}, seed=seed
        )["age_band"]
        missed += found["difference"]["low"] > 0
    assert missed <= 4


def test_nobody_stopped_is_no_proof_that_nobody_would_be() -> None:
    member = np.repeat(np.arange(30), 10)
    nobody = np.zeros(300, dtype=bool)
    group = np.array(["f"] * 300, dtype=object)
    found = fairness.false_positives(nobody.astype(np.int8), nobody, member, {"gender": group})
    rate = found["gender"]["groups"]["f"]
    assert (rate["false_positive_rate"], rate["low"]) == (0, 0)
    assert rate["high"] > 0.01
