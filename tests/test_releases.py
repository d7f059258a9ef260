"""Rows that may leave: coarse, attacked, written or not; and what was left out, counted (T28)."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sectionfour import simulate
from sectionfour.bootstrap import open_notary, open_parts
from sectionfour.domain import Event
from sectionfour.errors import BadRequest, ReleaseError
from sectionfour.features.catalog import FEATURES, NAMES, columns
from sectionfour.learning import attacks, generalise
from sectionfour.learning.generalise import Generalised
from sectionfour.learning.progress import Stages
from sectionfour.loading import imports
from sectionfour.loading.replay import replay
from sectionfour.parts import Parts
from sectionfour.privacy import consent
from sectionfour.privacy.consent import ConsentEvent
from sectionfour.releases.outgoing import Terms, drawn, release
from sectionfour.settings import Settings
from sectionfour.verify import verify

from .test_leaks import Searcher

ROOT = Path(__file__).parents[1]
TERMS = Terms()


def opened(folder: Path, market: Path) -> tuple[Parts, Settings, Path]:
    set_up = Settings(
        home=folder / "home", models=ROOT / "models", velocity_gib=0.2, durability="normal"
    )
    parts = open_parts(set_up)
    replay(imports.market(market)[0], parts, notice=imports.MARKET_NOTICE)
    return parts, set_up, folder


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Parts, Settings, Path]]:
    """A small market: too small to leave, large enough to be refused."""
    folder = tmp_path_factory.mktemp("small")
    simulate.write(simulate.simulate(seed=5, events=6_000), folder / "market")
    found = opened(folder, folder / "market")
    yield found
    found[0].close()


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Parts, Settings, Path]]:
    """The market of `data_samples`."""
    found = opened(tmp_path_factory.mktemp("sample"), ROOT / "data_samples" / "market")
    yield found
    found[0].close()


@pytest.fixture(scope="module")
def released(sample: tuple[Parts, Settings, Path]) -> tuple[Path, dict[str, Any]]:
    parts, _, folder = sample
    out = folder / "out"
    return out, release(parts, out, TERMS)


def test_t10_nothing_raw_is_in_what_is_released_or_in_the_models_made_of_it(
    released: tuple[Path, dict[str, Any]], record_property: Callable[[str, object], None]
) -> None:
    """The identifiers of the sample that are met by no chance, in every encoding, in every byte
    that training wrote."""
    folder = ROOT / "data_samples" / "market"
    members = pd.read_parquet(folder / "members.parquet")
    events = pd.read_parquet(folder / "events.parquet")
    columns = [members[name] for name in ("member_id", "email", "phone")]
    columns += [events[name] for name in (
        "order_id", "payee_id", "instrument_id", "consignee_address", "consignee_phone",
        "device_id", "ip", "session_id",
    )]  # fmt: skip
    values = {str(value) for column in columns for value in column.dropna().unique()}
    values = {value for value in values if len(value) >= 8}
    search = Searcher(values)
    searched = 0
    for path in [*(ROOT / "models").rglob("*"), *released[0].rglob("*")]:
        if path.is_file():
            data = path.read_bytes()
            if path.suffix == ".parquet":  # compressed
                data += pd.read_parquet(path).to_csv().encode()
            searched += len(data)
            assert not search.hits(data), path.name
    assert search.hits(b"x" * 5 + columns[1].iloc[0].encode())
    record_property("identifiers of the sample", len(values))
    record_property("MB of releases and models searched", round(searched / 1e6, 1))


def test_a_release_holds_no_token_no_time_and_nobody_alone(
    sample: tuple[Parts, Settings, Path], released: tuple[Path, dict[str, Any]]
) -> None:
    parts, _, _ = sample
    out, sheet = released
    rows = pd.read_parquet(out / "rows.parquet")
    assert {p.name for p in out.iterdir()} == {"datasheet.json", "datasheet.md", "rows.parquet"}
    assert set(rows.columns) == {
        "row_ref", "fraud", *(f"known_{name}" for name in generalise.LADDERS),
        *(NAMES[place] for place in columns("transaction")),
    }  # fmt: skip
    assert rows["row_ref"].is_unique
    whole = rows.drop(columns=["row_ref", "fraud"])
    assert whole.groupby(list(whole.columns), dropna=False).size().min() >= 20
    data = b"".join(p.read_bytes() for p in out.iterdir())
    for name in ("member", "device", "payee", "event_id"):
        for (token,) in parts.ledger.rows(f"SELECT DISTINCT {name} FROM events LIMIT 200"):
            raw = token if isinstance(token, bytes | None) else None
            assert raw is None or (raw not in data and raw.hex().encode() not in data)
    assert len(rows) == sheet["figures"]["uniqueness"]["rows"]
    assert sheet["rows_sha256"] == hashlib.sha256((out / "rows.parquet").read_bytes()).hexdigest()


def test_figures_keep_their_limits_and_the_attacks_have_power(
    released: tuple[Path, dict[str, Any]],
) -> None:
    figures = released[1]["figures"]
    unique = figures["uniqueness"]
    assert unique["k"] >= 20  # T13
    assert unique["k_of_whole_rows"] >= 20
    assert unique["suppressed"] <= 0.02
    assert unique["sample_uniques"] == 0
    assert unique["prosecutor_risk"] <= 0.05
    words = figures["dictionary"]  # T11
    assert words["recovered"] == 0
    assert words["recovered_of_unkeyed_digests"] == words["known"] > 1000
    assert figures["singling_out"]["upper"] <= 0.05  # T14
    assert figures["linkability"]["upper"] <= 0.05
    assert figures["inference"]["upper"] <= 0.10
    assert figures["unicity"]["release"]["4"] <= 0.01  # T15
    assert figures["unicity"]["event_log"]["4"] > 0.9


def test_the_data_sheet_calls_nothing_anonymous(released: tuple[Path, dict[str, Any]]) -> None:
    out, sheet = released
    for file in ("datasheet.md", "datasheet.json"):
        text = (out / file).read_text("utf-8")
        assert "anonym" not in text.lower().replace("pseudonym", "")
        assert sheet["release_id"] in text
    assert json.loads((out / "datasheet.json").read_bytes())["figures"] == sheet["figures"]
    assert "personal data" in (out / "datasheet.md").read_text("utf-8")


def test_the_builder_alone_can_say_whose_rows_they_are(
    sample: tuple[Parts, Settings, Path], released: tuple[Path, dict[str, Any]]
) -> None:
    parts, set_up, _ = sample
    rows = pd.read_parquet(released[0] / "rows.parquet")
    whose = dict(parts.ledger.rows("SELECT row_ref, member FROM release_rows"))
    assert {ref.hex() for ref in whose} == set(rows["row_ref"])
    member = next(iter(whose.values()))
    refs = parts.ledger.release_rows_of(member)[released[1]["release_id"]]
    assert refs
    assert all(whose[ref] == member for ref in refs)
    notary = open_notary(set_up, parts)
    notary.extend(parts.clock())
    assert list(verify(parts, notary)) == []
    with parts.ledger.transaction() as connection:
        connection.execute("UPDATE releases SET sheet = ?", (b"{}",))
    faults = list(verify(parts, notary))
    assert any("training_release" in fault for fault in faults)
    with parts.ledger.transaction() as connection:
        sheet = (released[0] / "datasheet.json").read_bytes()
        connection.execute("UPDATE releases SET sheet = ?", (sheet,))


def as_it_is(quasi: dict[str, Any], features: Any, **terms: Any) -> Generalised:
    """A bad maker: coarse in what could be known, and every feature left as it was."""
    good = generalise.generalised(quasi, features, **terms)
    return replace(good, features=features[good.kept])


def of_five(quasi: dict[str, Any], features: Any, **terms: Any) -> Generalised:
    return generalise.generalised(quasi, features, k=5)


def of_few(quasi: dict[str, Any], features: Any, **terms: Any) -> Generalised:
    return replace(generalise.generalised(quasi, features), suppressed=len(features) // 10)


@pytest.mark.parametrize(
    ("make", "says"), [(as_it_is, "like no other"), (of_five, "k is 5"), (of_few, "left out")]
)
def test_a_release_that_fails_is_not_written(
    market: tuple[Parts, Settings, Path], tmp_path: Path, make: Any, says: str
) -> None:
    parts, _, _ = market
    before = parts.ledger.rows("SELECT COUNT(*) FROM releases"), parts.ledger.size()
    with pytest.raises(ReleaseError, match=says):
        release(parts, tmp_path / "deep" / "out", TERMS, make=make)
    assert list(tmp_path.rglob("*")) == []
    assert (parts.ledger.rows("SELECT COUNT(*) FROM releases"), parts.ledger.size()) == before


def test_another_purpose_or_a_folder_that_is_there_is_refused(
    market: tuple[Parts, Settings, Path], tmp_path: Path
) -> None:
    parts, _, _ = market
    for purpose in ("marketing.push", "security.transaction_risk", "academic"):
        with pytest.raises(BadRequest):
            release(parts, tmp_path / "out", replace(TERMS, purpose=purpose))
    (tmp_path / "there").mkdir()
    with pytest.raises(BadRequest, match="new one"):
        release(parts, tmp_path / "there", TERMS)
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


# --- T28 -------------------------------------------------------------------------------------


def test_what_may_not_be_learnt_from_is_left_out_and_counted_as_injected(
    market: tuple[Parts, Settings, Path],
) -> None:
    parts, _, _ = market
    clock = parts.clock()
    bits = {name: rule.bit for name, rule in parts.regime.categories.items()}
    newest = parts.ledger.rows("SELECT MAX(at) FROM events")[0][0]
    template = parts.ledger.event(
        parts.ledger.rows(
            "SELECT event_id FROM events WHERE type = 'purchase' AND member IS NOT NULL LIMIT 1"
        )[0][0]
    )
    injected = Counter({"withdrawn": 7, "absent": 5, "expired": 4})
    marked = {"communication": 3, "profile.tag": 2}
    events, at = [], newest
    before = drawn(parts, TERMS, Stages("a", "b", "c"))[0].counts

    def person(name: str, *states: str, expires: int | None = None) -> bytes:
        subject = hashlib.sha256(name.encode()).digest()[:16]
        for state in states:
            event = ConsentEvent(
                0, f"cr_{name}", "security", frozenset(imports.BASIC), "first_party",
                imports.MARKET_NOTICE.notice_id, "1", consent.EXPLICIT, state, clock - 1000,
                expires, False,
            )  # fmt: skip
            parts.ledger.add_consent_event(subject, event, clock, None)
        return subject

    held = {
        "withdrawn": person("w", consent.GIVEN, consent.WITHDRAWN),
        "absent": person("a"),
        "expired": person("e", consent.GIVEN, expires=clock - 500),
        "fine": person("f", consent.GIVEN),
    }
    lots = [(held[why], 0, n) for why, n in injected.items()]
    lots += [(held["fine"], bits[category], n) for category, n in marked.items()]
    for member, more, number in lots:
        for _ in range(number):
            at += 1
            values = {name: getattr(template, name) for name in Event.__struct_fields__}
            values |= {"event_id": f"t28_{at}", "at": at, "member": member}
            events.append(Event(**(values | {"permitted": template.permitted | more})))
    parts.ledger.add_events(events)
    try:
        found, subjects = drawn(parts, TERMS, Stages("a", "b", "c"))
        after = found.counts
        for why, number in injected.items():
            assert after["left_out"][why] - before["left_out"].get(why, 0) == number
        assert {c: after["masked"].get(c, 0) for c in marked} == marked
        people = {subjects[who] for who in found.member.tolist()}
        assert not people & {held["withdrawn"], held["absent"], held["expired"]}
        assert not {c for f in FEATURES for c in f.needs} & {*marked, "member.optional"}
    finally:
        with parts.ledger.transaction() as connection:
            connection.execute("DELETE FROM events WHERE event_id LIKE 't28_%'")


# --- the pieces, against slow and obvious definitions ----------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(0, 300), k=st.integers(2, 12), seed=st.integers(0, 1000), missing=st.booleans()
)
def test_whatever_the_rows_each_is_shared_by_k_or_left_out(
    rows: int, k: int, seed: int, missing: bool
) -> None:
    rng = np.random.default_rng(seed)
    quasi = {
        "kind": rng.integers(-1, 3, rows),
        "hour_of_week": rng.integers(0, 168, rows),
        "amount": rng.geometric(0.1, rows),
    }
    features = rng.normal(size=(rows, 4)).round(1)
    features[rng.random(features.shape) < 0.3 * missing] = np.nan
    made = generalise.generalised(quasi, features, k=k)
    table = [tuple(np.nan_to_num(row, nan=-99)) for row in made.table]
    assert not table or min(Counter(table).values()) >= k
    assert len(made.kept) + made.suppressed == rows
    assert made.suppressed <= max(0.02 * rows, k - 1)
    for name, step in made.steps.items():
        assert (made.quasi[name] == generalise.coarser(quasi[name], step)[made.kept]).all()


def test_uniqueness_is_what_counting_by_hand_says() -> None:
    quasi = {"a": np.array([0, 0, 0, 1, 1, 2])}
    made = Generalised(np.arange(6), quasi, np.zeros((6, 1)), np.zeros(6, np.intp), {"a": 1}, 4)
    found = attacks.uniqueness(made, np.array([0, 1, 0, 1, 1, 0], dtype=np.int8), 10)
    assert (found["k"], found["sample_uniques"], found["classes"]) == (1, 1, 3)
    assert found["suppressed"] == 0.4
    assert found["l_diversity"] == 1  # class 1 holds nothing but frauds
    assert found["largest_fraud_share"] == 1.0


def test_the_attacks_find_people_where_rows_leave_as_they_are() -> None:
    rng = np.random.default_rng(1)
    people, others = rng.normal(size=(600, 6)), rng.normal(size=(600, 6))
    open_handed = attacks.singling_out(people, people, others, 400, rng)
    assert open_handed["upper"] > 0.05
    assert attacks.linkability(people, people, others, 400, rng)["released"] > 0.9
    assert attacks.inference(people, people, others, 400, rng)["residual"] > 0.5
    strangers = rng.normal(size=(600, 6))
    assert attacks.linkability(strangers, people, others, 400, rng)["upper"] <= 0.05


def test_a_residual_risk_is_against_the_control() -> None:
    assert attacks.residual(50, 50, 100)["residual"] == 0
    assert attacks.residual(75, 50, 100)["residual"] == 0.5
    assert attacks.residual(0, 0, 2000)["upper"] < 0.003
    assert attacks.residual(20, 80, 100)["residual"] == 0


def test_unicity_is_what_a_slow_look_says() -> None:
    member = np.array([0, 0, 1, 1, 2, 2])
    points = np.array([[1.0], [2.0], [1.0], [3.0], [1.0], [2.0]])
    rng = np.random.default_rng(0)
    found = attacks.unicity(member, points, (1, 2), 3000, rng)
    assert found["1"] == pytest.approx(1 / 6, abs=0.03)  # the 3 alone is one person's
    assert found["2"] == pytest.approx(1 / 3, abs=0.04)  # persons 0 and 2 are alike
    assert attacks.unicity_of_rows(member, np.array([0, 0, 0, 0, 1, 1]), (2,), 100, rng) == {"2": 0}


def test_a_dictionary_recovers_every_unkeyed_digest_and_no_keyed_token(
    market: tuple[Parts, Settings, Path],
) -> None:
    """T11 with the identifiers themselves: the simulated members' numbers, mails and ids."""
    parts, _, folder = market
    members = pd.read_parquet(folder / "market" / "members.parquet")
    words = [
        text.encode() for name in ("member_id", "email", "phone") for text in members[name].tolist()
    ]
    decoys = [f"decoy{i}@example.com".encode() for i in range(20_000)]
    tokens = {
        bytes(row[0]).hex()
        for name in ("member", "phone", "email")
        for row in parts.ledger.rows(f"SELECT DISTINCT {name} FROM events WHERE {name} NOT NULL")
    }
    assert attacks.dictionary(tokens, words + decoys) == 0
    control = [hashlib.sha256(word).hexdigest() for word in words]
    assert attacks.dictionary(control, words + decoys) == len(words)
