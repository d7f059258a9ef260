"""Rules make an outcome stricter and nothing milder, and never hold for want of something."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from sectionfour.bootstrap import open_parts
from sectionfour.cli import main
from sectionfour.decisions import rules
from sectionfour.domain import ACTIONS, Outcome
from sectionfour.errors import SettingsError
from sectionfour.features.catalog import NAMES, columns
from sectionfour.learning import registry
from sectionfour.settings import Settings

SAMPLE = Path(__file__).parents[1] / "data_samples" / "rules.toml"
SOME = ("amount", "hour", "device_members_30d", "member_events_1h")

number = st.sampled_from(SOME) | st.integers(-9, 9).map(str) | st.floats(-9, 9).map(repr)
numbers = st.recursive(
    number,
    lambda of: (
        st.tuples(of, st.sampled_from("+-*"), of).map("({0[0]} {0[1]} {0[2]})".format)
        | of.map("-({})".format)
    ),
    max_leaves=4,
)
compared = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
comparison = st.tuples(numbers, compared, numbers).map(" ".join)
chained = st.tuples(numbers, compared, numbers, compared, numbers).map(" ".join)
# Of numbers alone pandas makes one truth, not a column, and `not` of that is not its contrary.
conditions = st.recursive(
    (comparison | chained).filter(lambda text: any(name in text for name in SOME)),
    lambda of: (
        st.tuples(of, st.sampled_from([" and ", " or "]), of).map("({0[0]}{0[1]}{0[2]})".format)
        | of.map("(not {})".format)
    ),
    max_leaves=6,
)
values = st.sampled_from([0.0, 1.0, 2.0, 7.0]) | st.floats(-1e12, 1e12)


def file_of(folder: Path, *written: dict[str, Any]) -> Path:
    path = folder / "rules.toml"
    tables = ["\n".join(f"{k} = {json.dumps(v)}" for k, v in rule.items()) for rule in written]
    path.write_text("".join(f"[[rule]]\n{table}\n" for table in tables), "utf-8")
    return path


def a_rule(**changes: Any) -> dict[str, Any]:
    return {
        "id": "large",
        "when": "amount > 1000",
        "then": "review",
        "reason": "a large amount",
    } | changes


# --- a condition -----------------------------------------------------------------------------


@given(conditions, st.lists(st.tuples(*[values] * len(SOME)), min_size=1, max_size=5))
def test_a_condition_is_what_pandas_makes_of_it(text: str, rows: list[tuple[float, ...]]) -> None:
    names, holds = rules.condition(text)
    frame = pd.DataFrame(rows, columns=list(SOME))
    expected = frame.eval(text, engine="python", parser="pandas")
    told = [holds(*(row[SOME.index(name)] for name in names)) for row in rows]
    assert told == np.broadcast_to(expected, len(rows)).tolist()


@given(conditions, st.tuples(*[st.floats(allow_nan=False)] * len(SOME)))
def test_no_values_make_a_condition_fail(text: str, row: tuple[float, ...]) -> None:
    names, holds = rules.condition(text)
    assert isinstance(holds(*row[: len(names)]), bool)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("amuont > 3", "did you mean 'amount'"),
        ("zzzzzz > 3", "there is no feature 'zzzzzz'"),
        ("amount", "'amount' is no comparison"),
        ("amount > 3 and hour", "'hour' is no comparison"),
        ("amount / cleared_mean > 3", "multiply the other side"),
        ("amount ** 9 > 3", "is no number and no feature"),
        ("amount > '3'", "is no number and no feature"),
        ("amount > True", "is no number and no feature"),
        ("amount > 1e400", "is no number and no feature"),
        ("amount > 10000000000000000", "is no number and no feature"),
        ("amount > (hour > 3)", "is no number and no feature"),
        ("amount in (1, 2)", "is no comparison"),
        ("amount is 3", "is no comparison"),
        ("(x := amount) > 3", "is no number and no feature"),
        ("amount.real > 3", "is no number and no feature"),
        ("__import__('os').getpid() > 0", "is no number and no feature"),
        ("[amount][0] > 3", "is no number and no feature"),
        ("amount > 3 if hour > 2 else hour > 1", "is no comparison"),
        ("~(amount > 3)", "is no comparison"),
        ("amount > 3 & hour > 2", "is no number and no feature"),
        ("(lambda: 1)() > amount", "is no number and no feature"),
        ("3 > 2", "reads no feature"),
        ("amount >", "cannot be read"),
        ("", "cannot be read"),
        ("amount > 3 # and hour > 2", "cannot be read"),
        ("amount > 3; hour > 2", "cannot be read"),
        ("amount > 3) or (hour > 2", "cannot be read"),
        ("amount > \0", "cannot be read"),
        ("(" * 400 + "amount" + ")" * 400 + " > 3", "cannot be read"),
        ("-" * 990 + "hour > 3", "cannot be read"),
        ("amount > 3 or " * 99 + "hour > 2", "at most 1,000 characters"),
    ],
)
def test_what_is_no_condition_is_refused_and_told(text: str, said: str) -> None:
    with pytest.raises(SettingsError) as error:
        rules.condition(text)
    assert said in error.value.detail


# --- a file ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"then": "allow"}, "Invalid enum value 'allow'"),
        ({"id": "No"}, "an id is like card_testing"),
        ({"id": ""}, "an id is like card_testing"),
        ({"reason": " "}, "1 to 200 characters"),
        ({"reason": "r" * 201}, "1 to 200 characters"),
        ({"otherwise": "allow"}, "unknown field `otherwise`"),
        ({"models": ["accounts"]}, "Invalid enum value 'accounts'"),
        ({"models": ["account"]}, "large: amount is never there for the model account"),
        ({"when": "amount > 3 * zzz"}, "large: there is no feature 'zzz'"),
        ({"when": 3}, "Expected `str`"),
    ],
)
def test_a_rule_that_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as error:
        rules.load(file_of(tmp_path, a_rule(id="first"), a_rule(**changes)))
    assert said in error.value.detail
    assert error.value.detail.startswith("rules.toml: ")


def test_a_file_that_is_no_such_file_is_refused(tmp_path: Path) -> None:
    path = file_of(tmp_path, a_rule(), a_rule())
    with pytest.raises(SettingsError, match="large: there are two of this id"):
        rules.load(path)
    for data, said in ((b"rule = 3", "Expected `array`"), (b"[[rules]]", "unknown field")):
        path.write_bytes(data)
        with pytest.raises(SettingsError, match=said):
            rules.load(path)
    file_of(tmp_path, *(a_rule(id=f"r{n}") for n in range(501)))
    with pytest.raises(SettingsError, match="at most 500 rules, found 501"):
        rules.load(path)
    path.unlink()
    with pytest.raises(SettingsError, match="cannot be read"):
        rules.load(path)


def test_without_a_file_there_are_none_and_a_rule_is_for_every_model_that_can_hold_it(
    tmp_path: Path,
) -> None:
    outcome = Outcome("low", "allow")
    assert rules.load(None).applied("account", np.zeros(len(NAMES)), outcome) is outcome
    both = a_rule(id="both", when="hour > 3")
    found = rules.load(file_of(tmp_path, a_rule(), both, a_rule(id="one", models=["transaction"])))
    assert [rule.models for rule in found.rules] == [
        ("transaction",),
        ("transaction", "account"),
        ("transaction",),
    ]


# --- what they do ----------------------------------------------------------------------------

vectors = st.lists(values | st.just(math.nan), min_size=len(NAMES), max_size=len(NAMES))
several = st.lists(st.tuples(conditions, st.sampled_from(ACTIONS[1:])), min_size=1, max_size=4).map(
    lambda of: [a_rule(id=f"r{n}", when=w, then=t) for n, (w, t) in enumerate(of)]
)


@given(
    several,
    st.tuples(*[values | st.just(math.nan)] * len(SOME)),
    st.sets(st.sampled_from(SOME)),
    st.sampled_from(ACTIONS),
)
def test_an_outcome_gets_stricter_or_stays_and_what_is_missing_never_makes_it_so(
    tmp_path_factory: pytest.TempPathFactory,
    written: list[dict[str, Any]],
    row: tuple[float, ...],
    refused: set[str],
    action: str,
) -> None:
    found = rules.load(file_of(tmp_path_factory.getbasetemp(), *written))
    vector = np.zeros(len(NAMES))
    for name, value in zip(SOME, row, strict=True):
        vector[NAMES.index(name)] = value
    whole = found.applied("transaction", vector, Outcome("high", action))
    # By definition: pandas says which conditions hold, among those that miss nothing.
    frame = pd.DataFrame([row], columns=list(SOME))
    held = [
        rule["id"]
        for rule in written
        if not any(name in rule["when"] and math.isnan(frame[name][0]) for name in SOME)
        and np.all(frame.eval(rule["when"], engine="python"))
    ]
    assert [rule.id for rule in whole.rules] == held
    asked = [ACTIONS.index(rule["then"]) for rule in written if rule["id"] in held]
    assert whole.action == ACTIONS[max([ACTIONS.index(action), *asked])]
    assert whole.level == "high"
    for name in refused:
        vector[NAMES.index(name)] = math.nan
    fewer = found.applied("transaction", vector, Outcome("high", action))
    assert set(fewer.rules) <= set(whole.rules)
    assert ACTIONS.index(fewer.action) <= ACTIONS.index(whole.action)
    both = np.array([vector, vector * 0])
    for rule in found.rules:
        assert rule.among(both).tolist() == [rule.of(each.tolist()) for each in both]


def test_a_rule_of_one_model_says_nothing_of_the_other(tmp_path: Path) -> None:
    found = rules.load(file_of(tmp_path, a_rule(when="hour > 3", models=["account"])))
    vector = np.full(len(NAMES), 9.0)
    assert found.applied("transaction", vector, Outcome("low", "allow")).action == "allow"
    assert found.applied("account", vector, Outcome("low", "allow")).action == "review"


# --- through the service ---------------------------------------------------------------------


class TestService:
    @pytest.fixture
    def settings(self, settings: Settings, tmp_path: Path) -> Settings:
        path = file_of(
            tmp_path,
            a_rule(),
            a_rule(id="device", when="device_events_5m >= 0", then="block", reason="a device"),
            a_rule(id="night", when="hour < 0", then="block"),
        )
        return replace(settings, rules=path)

    def test_rules_that_hold_are_told_and_are_in_the_receipt(
        self, client, notice, a_consent, a_request, outcome, parts, sound
    ) -> None:
        outcome("allow")
        consent, checkout, privacy = client("consent"), client("checkout"), client("privacy")
        assert consent.post("/v1/consents", json=a_consent()).status_code == 201
        answer = checkout.post("/v1/assessments", json=a_request()).json
        assert (answer["outcome"], answer["risk_level"]) == ("block", "low")
        assert answer["rules"] == [
            {"id": "large", "outcome": "review", "reason": "a large amount"},
            {"id": "device", "outcome": "block", "reason": "a device"},
        ]
        counted = client().get("/metrics").get_data(as_text=True)
        for rule, held in (("large", 1.0), ("device", 1.0)):
            assert f'sectionfour_rules_held_total{{rule="{rule}"}} {held}' in counted
        assert 'rule="night"' not in counted
        leaf = privacy.get(answer["receipt"]["proof"]).json["receipt"]
        assert leaf["rules"] == ["large", "device"]
        assert leaf["action"] == "block"
        assert leaf["digests"]["rules"] == parts.rules.now().digest
        cases = client("analyst").get("/v1/cases").json["cases"]
        assert [case["why"] for case in cases] == ["block"]
        verdict = {"verdict": "confirmed_fraud", "measure": "freeze_account", "note": "seen"}
        closed = client("analyst").post(f"/v1/cases/{cases[0]['case_id']}/verdict", json=verdict)
        assert {"large", "device"} <= set(closed.json["measure"]["reasons"])

    def test_who_keeps_a_category_to_themselves_is_not_met_by_its_rules(
        self, client, notice, a_consent, a_request, outcome, sound
    ) -> None:
        outcome("allow")
        few = a_consent(categories=["member.required", "order"])
        assert client("consent").post("/v1/consents", json=few).status_code == 201
        answer = client("checkout").post("/v1/assessments", json=a_request()).json
        assert [rule["id"] for rule in answer["rules"]] == ["large"]
        assert answer["outcome"] == "review"

    def test_what_the_model_blocks_stays_blocked(
        self, client, notice, a_consent, a_request, outcome
    ) -> None:
        outcome("block")
        few = a_consent(categories=["member.required", "order"])
        assert client("consent").post("/v1/consents", json=few).status_code == 201
        answer = client("checkout").post("/v1/assessments", json=a_request()).json
        assert (answer["outcome"], len(answer["rules"])) == ("block", 1)


def test_a_change_of_the_file_counts_from_the_next_call_and_a_broken_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = file_of(tmp_path, a_rule())
    followed = rules.Followed(path)
    first = followed.now()
    assert followed.now() is first
    file_of(tmp_path, a_rule(id="other"), a_rule())
    second = followed.now()
    assert [rule.id for rule in second.rules] == ["other", "large"]
    assert second.digest != first.digest
    for _ in range(2):
        path.write_text("[[rule]]\nid = 3")
        assert followed.now() is second
        assert followed.now() is second  # and says it once
    assert caplog.text.count("the rules of before go on: rules.toml: ") == 2
    path.unlink()
    assert followed.now() is second
    assert "rules.toml: cannot be read" in caplog.text
    file_of(tmp_path, a_rule())
    assert followed.now().digest == first.digest
    path.write_text("")
    assert followed.now().rules == ()


def test_without_rules_an_entry_says_nothing_of_any(
    client, notice, a_consent, a_request, outcome
) -> None:
    outcome("allow")
    assert client("consent").post("/v1/consents", json=a_consent()).status_code == 201
    answer = client("checkout").post("/v1/assessments", json=a_request()).json
    leaf = client("privacy").get(answer["receipt"]["proof"]).json["receipt"]
    assert answer["rules"] == []
    assert "rules" not in leaf
    assert set(leaf["digests"]) == {"policy", "regime"}


def test_nothing_starts_with_a_rule_that_is_wrong(settings: Settings, tmp_path: Path) -> None:
    path = file_of(tmp_path, a_rule(when="amuont > 3"))
    with pytest.raises(SettingsError, match="large: there is no feature 'amuont'; did you mean"):
        open_parts(replace(settings, rules=path))


# --- from the shell --------------------------------------------------------------------------


def test_the_sample_is_sound_and_says_what_it_needs() -> None:
    done = CliRunner().invoke(main, ["rules", "check", str(SAMPLE)])
    assert done.exit_code == 0, done.output
    assert "for transaction; needs member.required, order" in done.output
    assert "3 rules" in done.output


def test_a_rehearsal_counts_what_is_there(
    parts, imported: Callable[[], str], monkeypatch, tmp_path: Path
) -> None:
    """One purchase of 1, known as fraud: what meets it met one fraud of one."""
    imported()
    monkeypatch.setattr(registry, "tested", lambda card: (0, 1))
    monkeypatch.setattr("sectionfour.commands.rules.opened", lambda: nullcontext(parts))
    written = [a_rule(when="amount == 1", then="block"), a_rule(id="none", when="amount > 1")]
    path = str(file_of(tmp_path, *written))
    done = CliRunner().invoke(main, ["rules", "try", path, "--delay-days", "0"])
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    assert "1 events, 1 old enough to judge by, 1 frauds of these" in text
    assert "large: block; held for 1, and made 1 stricter than the model" in text
    assert "1 frauds of 1: 100.0%" in text
    assert "0 honest members met it" in text
    assert "none: review; held for 0, and made 0 stricter than the model" in text
    assert "1,000 events cost" in text


def test_a_rehearsal_by_definition(parts, monkeypatch, tmp_path: Path) -> None:
    """Against a loop over the events, of a period that is made up."""
    from sectionfour.domain import DAY
    from sectionfour.reports import period, rehearsal

    rng = np.random.default_rng(7)
    rows = rng.integers(0, 5, (300, len(NAMES))).astype(np.float64)
    rows[rng.random(rows.shape) < 0.2] = math.nan
    rows[:, [n for n in range(len(NAMES)) if n not in columns("transaction")]] = math.nan
    of = period.Period(
        name="transaction",
        at=np.arange(300) * DAY,
        event_id=np.array([f"e{n}" for n in range(300)], dtype=object),
        clusters=rng.permutation(np.arange(300) % 40),
        amount=rng.integers(1, 9_999, 300).astype(np.float64),
        fraud=(rng.random(300) < 0.2).astype(np.int8),
        mature=np.arange(300) < 250,
        rows=rows,
        left_out={},
    )
    monkeypatch.setattr(period, "read", lambda *_, **__: {"transaction": of})
    monkeypatch.setattr(registry, "tested", lambda card: (50 * DAY, 0))
    written = [
        a_rule(id="one", when="amount > 1 and hour < 4", then="challenge", models=["transaction"]),
        a_rule(id="two", when="amount == hour", then="block", models=["transaction"]),
    ]
    tried = rules.load(file_of(tmp_path, *written))
    (found,) = rehearsal.rehearse(parts, tried, since=0)
    (later,) = rehearsal.rehearse(parts, tried)
    assert (found["seen"], later["seen"]) == (50, 0)
    assert (found["rows"], later["rows"]) == (300, 250)
    scores, limits = (
        parts.models.get("transaction").score(rows),
        parts.policy.thresholds("transaction"),
    )
    prices = period.prices(of, parts.policy.of("transaction"))
    a, h, more = NAMES.index("amount"), NAMES.index("hour"), []
    for n, rule in enumerate(written):
        told = found["rules"][n]
        mine = [
            i
            for i in range(300)
            if (rows[i, a] > 1 and rows[i, h] < 4, rows[i, a] == rows[i, h])[n]
        ]
        milder = [
            i for i in mine
            if ACTIONS.index(limits.outcome(scores[i]).action) < ACTIONS.index(rule["then"])
        ]  # fmt: skip
        judged = [i for i in mine if i < 250]
        assert (told["held"], told["stricter"], told["judged"]) == (
            len(mine),
            len(milder),
            len(judged),
        )
        assert told["frauds"] == sum(of.fraud[i] for i in judged)
        assert told["honest_members"] == len({of.clusters[i] for i in judged if not of.fraud[i]})
        assert told["share"]["low"] < told["frauds"] / told["judged"] < told["share"]["high"]
    for i in range(250):
        action = limits.outcome(scores[i]).action
        after = tried.applied("transaction", rows[i], Outcome("low", action)).action
        more.append(prices[i, ACTIONS.index(after)] - prices[i, ACTIONS.index(action)])
    assert found["costs_more"]["value"] == pytest.approx(1000 * np.mean(more), abs=1e-3)
    assert (found["rows"], found["judged"]) == (300, 250)
