"""Both walks, from end to end: what was served is what history computes, learning repeats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from sectionfour import simulate
from sectionfour.bootstrap import open_parts, trusted_keys
from sectionfour.decide import decide
from sectionfour.domain import DAY, Label, Leaf, known_as
from sectionfour.errors import BadRequest, HistoryError
from sectionfour.features import history, online
from sectionfour.features.catalog import NAMES, columns
from sectionfour.given import Given
from sectionfour.jobs import clustering
from sectionfour.learning import dataset, past, registry
from sectionfour.learning.permitted import permit
from sectionfour.learning.plan import Plan
from sectionfour.loading import imports
from sectionfour.loading.replay import Consent, known_event, rebuild, replay
from sectionfour.parts import Parts
from sectionfour.privacy import consent
from sectionfour.privacy.consent import ConsentEvent
from sectionfour.settings import Settings
from sectionfour.train import train

ROOT = Path(__file__).parents[1]
EVENTS = 20_000
NOTICE = imports.MARKET_NOTICE


class Walked:
    """A market that went through the service's own walk, event by event, as it happened."""

    def __init__(self, parts: Parts, settings: Settings) -> None:
        self.parts, self.settings = parts, settings
        self.now = 0
        self.parts = replace(parts, clock=lambda: self.now)
        self.answered = self.refused = self.refreshed = 0
        parts.ledger.add_notice(NOTICE, Leaf("notice", NOTICE.notice_id, b"{}"))

    def consent(self, step: Consent) -> None:
        subject = self.parts.keys.subject(step.member_id, enrol=True)
        state = consent.GIVEN if step.given else consent.WITHDRAWN
        event = ConsentEvent(
            0, f"cr_{step.ref}", step.purpose, frozenset(step.categories), "first_party",
            NOTICE.notice_id, NOTICE.version, step.event_type, state, step.at, None, False,
        )  # fmt: skip
        self.parts.ledger.add_consent_event(subject, event, step.at, None)

    def assess(self, at: int, given: Given) -> None:
        self.now = at
        status, _ = decide(given, given.event_id.encode(), self.parts)
        self.answered += status == 200
        self.refused += status == 403

    def clusters(self, at: int) -> None:
        """Find clusters every ten days."""
        if at // (10 * DAY) > self.refreshed:
            self.refreshed = at // (10 * DAY)
            self.now = at
            clustering.refresh(self.parts)

    def label(self, at: int, known: imports.Known) -> None:
        event = self.parts.ledger.event(known.event_id)
        kind = known_as(known.label)
        if event is None or kind is None:
            return
        seen = known_event(event, kind, known.label_id, at)
        at = online.read_and_observe(seen, self.parts.velocity)[0].at
        label = Label(
            label_id=known.label_id, label=known.label, source=known.source, at=at,
            known_at=known.at, event_id=known.event_id,
        )  # fmt: skip
        self.parts.ledger.add_label(label, Leaf("label", known.label_id, b"{}"))


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walked]:
    folder = tmp_path_factory.mktemp("walk")
    simulate.write(simulate.simulate(seed=9, events=EVENTS), folder / "market")
    settings = Settings(
        home=folder / "home", models=ROOT / "models", durability="normal", velocity_gib=1
    )
    walk = Walked(open_parts(settings), settings)
    for step in imports.market(folder / "market")[0]:
        walk.clusters(imports.at_of(step))
        if isinstance(step, Consent):
            walk.consent(step)
        elif isinstance(step, tuple):
            walk.assess(*step)
        else:
            walk.label(step.at, step)
    yield walk
    walk.parts.close()


def served(parts: Parts) -> tuple[list[str], np.ndarray]:
    rows = parts.ledger.rows(
        "SELECT a.event_id, a.vector FROM assessments a JOIN events e USING (event_id)"
        " ORDER BY e.at"
    )
    return [row[0] for row in rows], np.array([np.frombuffer(row[1]) for row in rows])


def same_bits(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a == b) | (np.isnan(a) & np.isnan(b))


def test_every_vector_served_is_what_history_computes_to_the_bit(walked: Walked) -> None:
    assert walked.answered + walked.refused == EVENTS
    assert walked.refused > 100
    found = past.read(walked.parts.ledger)
    names, vectors = served(walked.parts)
    matrix, _ = history.compute(found.events, found.known, clusters=found.clusters)
    assert names == found.events["event_id"].tolist()
    wrong = [name for i, name in enumerate(NAMES) if not same_bits(vectors, matrix)[:, i].all()]
    assert wrong == []
    told = {n: len(np.unique(c[~np.isnan(c)])) for n, c in zip(NAMES, vectors.T, strict=True)}
    assert [name for name, count in told.items() if count < 2] == ["consignee_self"]


def test_windows_rebuilt_from_the_ledger_serve_the_same(walked: Walked) -> None:
    event_ids, _ = served(walked.parts)
    last = walked.parts.ledger.event(event_ids[-1])
    probe = msgspec.structs.replace(last, event_id="probe", at=last.at + 1)
    before = online.read_and_observe(probe, walked.parts.velocity, observe=False)[1]
    rebuild(walked.parts)
    after = online.read_and_observe(probe, walked.parts.velocity, observe=False)[1]
    assert same_bits(before, after).all()


def test_training_twice_changes_nothing_and_serving_follows_promotion(
    walked: Walked, tmp_path: Path
) -> None:
    walked.now += 1
    ring = walked.parts.keys.ring
    plan = Plan(candidates=1, jobs=1, delay_days=7, test_days=28)
    given = (tmp_path, ring.signing("models"), trusted_keys(ring))
    first = train(walked.parts, plan, *given)
    assert [done.name for done in first] == ["transaction", "account"]
    assert all(done.new and done.promoted for done in first)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    again = train(walked.parts, plan, *given)
    assert [(d.version, d.new) for d in again] == [(d.version, False) for d in first]
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    for done in first:
        model, card = registry.load(tmp_path, done.name, done.version, trusted_keys(ring))
        assert card["data"]["left_out"]["no_basis"] > 0
        assert card["agreement"] < 1e-4
        assert set(card["refusal_penalty"]) >= {"device", "location", "log"}
        assert model.score(served(walked.parts)[1][:100]).max() <= 1
        assert len(card["features"]) == len(columns(done.name))


def test_a_worse_model_is_registered_and_not_promoted(walked: Walked, tmp_path: Path) -> None:
    ring = walked.parts.keys.ring
    given = (tmp_path, ring.signing("models"), trusted_keys(ring))
    plan = Plan(candidates=1, jobs=1, delay_days=7, test_days=28, names=("transaction",))
    [good] = train(walked.parts, plan, *given)
    [worse] = train(walked.parts, replace(plan, drop_share=0.97), *given)
    assert worse.new
    assert not worse.promoted
    assert registry.current(tmp_path, "transaction") == good.version


def test_a_history_of_one_class_is_refused_and_the_registry_untouched(
    tmp_path: Path,
) -> None:
    simulate.write(simulate.simulate(seed=2, events=3_000), tmp_path / "market")
    parts = open_parts(Settings(home=tmp_path / "home", models=tmp_path / "m", velocity_gib=0.1))
    steps = (s for s in imports.market(tmp_path / "market")[0] if not isinstance(s, imports.Known))
    replay(steps, parts, notice=imports.MARKET_NOTICE)
    ring = parts.keys.ring
    with pytest.raises(HistoryError, match="both classes are needed"):
        train(parts, Plan(candidates=1), tmp_path / "m", ring.signing("models"), set())
    assert not (tmp_path / "m").exists()
    parts.close()


def test_an_import_in_several_currencies_ends_where_one_is_set(tmp_path: Path) -> None:
    simulate.write(simulate.simulate(seed=2, events=3_000), tmp_path / "market")
    settings = Settings(home=tmp_path / "home", models=tmp_path / "m", velocity_gib=0.1)
    parts = open_parts(replace(settings, currency="USD"))
    with pytest.raises(BadRequest, match="USD"):
        replay(imports.market(tmp_path / "market")[0], parts, notice=imports.MARKET_NOTICE)
    parts.close()


def test_a_withdrawn_consent_leaves_training_but_stays_in_the_windows_of_others(
    tmp_path: Path,
) -> None:
    simulate.write(simulate.simulate(seed=2, events=3_000), tmp_path / "market")
    parts = open_parts(Settings(home=tmp_path / "home", models=tmp_path / "m", velocity_gib=0.1))
    replay(imports.market(tmp_path / "market")[0], parts, notice=imports.MARKET_NOTICE)
    found = past.read(parts.ledger)

    def now() -> tuple[dataset.Mask, Counter[str], dict[str, dataset.Mask]]:
        return permit(found, parts.ledger, at=parts.clock(), regime=parts.regime)

    allowed, left_out, _ = now()
    busiest = found.events["member"][allowed].value_counts().index[0]
    subject = found.subjects[busiest]
    for event in consent.live(parts.ledger.consents(subject, parts.clock()), parts.clock()):
        withdrawn = event._replace(event_state=consent.WITHDRAWN, event_time=parts.clock())
        parts.ledger.add_consent_event(subject, withdrawn, parts.clock(), None)
    after, left_out_after, _ = now()
    rows = (found.events["member"] == busiest).to_numpy(dtype=bool, na_value=False)
    assert allowed[rows].any()
    assert not after[rows].any()
    assert (after[~rows] == allowed[~rows]).all()
    assert sum(left_out_after.values()) == sum(left_out.values()) + allowed[rows].sum()
    matrix, _ = history.compute(past.read(parts.ledger).events, found.known)
    assert same_bits(matrix, history.compute(found.events, found.known)[0]).all()
    parts.close()


def test_labels_count_from_when_they_were_known_and_the_last_word_holds() -> None:
    import pandas as pd

    events = pd.DataFrame({"event_id": ["a", "b", "c"], "at": [1, 2, 3]})
    labels = pd.DataFrame(
        {
            "at": [10, 20, 30],
            "label": ["chargeback", "legitimate", "suspected_fraud"],
            "event_id": ["a", "a", "b"],
        }
    )
    assert dataset.labels_at(events, labels, 10).tolist() == [0, 0, 0]
    assert dataset.labels_at(events, labels, 11).tolist() == [1, 0, 0]
    assert dataset.labels_at(events, labels, 99).tolist() == [0, 0, 0]
