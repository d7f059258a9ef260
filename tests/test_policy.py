"""Thresholds are where the cheapest action changes, found here by trying every probability."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from sectionfour.decisions import policy
from sectionfour.decisions.policy import Costs, Thresholds, thresholds
from sectionfour.domain import ACTIONS, LEVELS, Outcome
from sectionfour.errors import SettingsError

GRID = [n / 1000 for n in range(1001)]
FIELDS = Costs.__struct_fields__
USUAL = msgspec.structs.asdict(policy.load().transaction)

money = st.floats(0.01, 1e6) | st.sampled_from([0.0, 1.0, 600.0])
share = st.floats(0.001, 0.999) | st.sampled_from([0.0, 0.5, 1.0])
any_costs = st.fixed_dictionaries(
    {name: share if name.endswith("_stops") else money for name in FIELDS}
)
#: Near the packaged ones, where all four actions have their place.
likely_costs = st.fixed_dictionaries(
    {
        name: st.floats(0.5, 1) if name.endswith("_stops") else st.floats(0.3, 3).map(value.__mul__)
        for name, value in USUAL.items()
    }
)


def price(costs: dict[str, float], action: str, p: float) -> float:
    """Return what an action costs on average where a share `p` is fraud, event by event."""
    c = costs
    if action == "allow":
        fraud, honest, always = c["missed_fraud"], 0, 0
    elif action == "challenge":
        fraud, honest = c["missed_fraud"] * (1 - c["challenge_stops"]), c["challenge_friction"]
        always = 0
    elif action == "review":
        fraud, honest = c["missed_fraud"] * (1 - c["review_stops"]), c["review_delay"]
        always = c["review_minutes"] * c["reviewer_minute"]
    else:
        fraud, honest, always = 0, c["wrong_block"], 0
    return p * fraud + (1 - p) * honest + always


def cheapest(costs: dict[str, float], p: float) -> set[int]:
    """Return every action that is the cheapest at `p`, as far as floats can tell."""
    prices = [price(costs, action, p) for action in ACTIONS]
    least, close = min(prices), 1e-12 * (1 + max(costs.values()))
    return {place for place, found in enumerate(prices) if found <= least + close}


@settings(max_examples=250, deadline=None)
@given(any_costs | likely_costs)
@example(USUAL)
@example(USUAL | {"challenge_stops": 0.0})
@example(USUAL | {"review_stops": 0.0})
@example(USUAL | {"challenge_friction": 0.0, "challenge_stops": 1.0})
@example(USUAL | {"missed_fraud": 0.0})
@example(dict.fromkeys(FIELDS, 0.0))
@example(dict.fromkeys(FIELDS, 1.0))
def test_the_outcome_is_the_cheapest_action_at_every_probability(costs: dict[str, float]) -> None:
    options = [cheapest(costs, p) for p in GRID]
    try:
        found = thresholds(Costs(**costs))
    except SettingsError:
        assert falls(costs)
        return
    for p, best in zip(GRID, options, strict=True):
        assert ACTIONS.index(found.outcome(p).action) in best


def falls(costs: dict[str, float]) -> bool:
    """Whether, in fractions, a harder action is the cheapest below a probability at which only
    milder ones are."""
    exact: dict[str, Any] = {name: Fraction(value) for name, value in costs.items()}
    ends = [[price(exact, action, Fraction(p)) for action in ACTIONS] for p in (0, 1)]
    meet = {Fraction(0), Fraction(1)}
    for one, other in combinations(range(4), 2):  # where two of them cost the same
        gap, end = ends[0][one] - ends[0][other], ends[1][one] - ends[1][other]
        meet |= {gap / (gap - end)} if gap != end else set()
    inside = sorted(p for p in meet if 0 <= p <= 1)
    between = [(low + high) / 2 for low, high in pairwise(inside)]
    hardest = 0
    for p in sorted([*inside, *between]):
        prices = [price(exact, action, p) for action in ACTIONS]  # type: ignore[arg-type]
        equals = [place for place, found in enumerate(prices) if found == min(prices)]
        if max(equals) < hardest:
            return True
        hardest = max(hardest, min(equals))
    return False


@settings(max_examples=120, deadline=None)
@given(likely_costs)
def test_thresholds_are_the_corners_of_the_cheapest_costs(costs: dict[str, float]) -> None:
    try:
        found = thresholds(Costs(**costs))
    except SettingsError:
        assume(False)
        return
    step = GRID[1]
    for action, edge in enumerate((found.challenge, found.review, found.block), start=1):
        # Just below an edge something milder is as cheap; from it on, this or something harder.
        for p in GRID:
            if p < edge - step:
                assert min(cheapest(costs, p)) < action
            elif p > edge + step:
                assert max(cheapest(costs, p)) >= action


@settings(max_examples=100, deadline=None)
@given(likely_costs, st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_a_higher_probability_never_gets_a_milder_outcome(
    costs: dict[str, float], probabilities: list[float]
) -> None:
    try:
        found = thresholds(Costs(**costs))
    except SettingsError:
        assume(False)
        return
    outcomes = [found.outcome(p) for p in sorted(probabilities)]
    levels = [LEVELS.index(outcome.level) for outcome in outcomes]
    actions = [ACTIONS.index(outcome.action) for outcome in outcomes]
    assert levels == sorted(levels) == actions


def test_levels_and_actions_go_together() -> None:
    found = Thresholds(0.1, 0.2, 0.3)
    assert [found.outcome(p) for p in (0.0, 0.0999, 0.1, 0.2, 0.3, 1.0)] == [
        Outcome("low", "allow"),
        Outcome("low", "allow"),
        Outcome("elevated", "challenge"),
        Outcome("high", "review"),
        Outcome("highest", "block"),
        Outcome("highest", "block"),
    ]
    with pytest.raises(SettingsError):
        Thresholds(0.3, 0.2, 0.1)


def test_of_actions_that_cost_the_same_the_mildest_is_taken() -> None:
    nothing = thresholds(Costs(**dict.fromkeys(FIELDS, 0.0)))
    assert [nothing.outcome(p).action for p in (0.0, 0.5, 0.999)] == ["allow"] * 3
    useless = USUAL | {"challenge_friction": 0.0, "challenge_stops": 0.0}
    assert thresholds(Costs(**useless)).outcome(1e-9).action == "allow"


#: A review is the cheapest for a while, then the milder challenge is.
CROSSED = {
    "review_stops": 0.5,
    "challenge_stops": 0.9,
    "challenge_friction": 5000.0,
    "review_minutes": 1.0,
    "review_delay": 0.0,
}


def test_costs_under_which_no_thresholds_are_right_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"challenge .* review"):
        thresholds(Costs(**USUAL | CROSSED))


# --- the file --------------------------------------------------------------------------------


def written(folder: Path, text: str) -> Path:
    path = folder / "costs.toml"
    path.write_text(text)
    return path


def a_file(**changes: Any) -> str:
    tables = {"transaction": dict(USUAL), "account": dict(USUAL)}
    for name, value in changes.items():
        table, _, field = name.partition("__")
        if value is None:
            del tables[table][field]
        else:
            tables[table][field] = value
    return "\n".join(
        f"[{table}]\n" + "\n".join(f"{key} = {value}" for key, value in values.items())
        for table, values in tables.items()
    )


def test_the_packaged_costs_give_every_action_its_place() -> None:
    for model in ("transaction", "account"):
        found = policy.load().thresholds(model)
        assert 0 < found.challenge < found.review < found.block < 1
    assert len(policy.load().digest) == 64


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    one = policy.load(written(tmp_path, a_file()))
    other = policy.load(written(tmp_path, a_file() + "\n"))
    assert one.digest != other.digest
    assert one.thresholds("account") == other.thresholds("account")


@pytest.mark.parametrize("table", ["transaction", "account"])
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [-1.0, "nan", "inf", "-inf", 1e300, "'much'", "true", None])
def test_a_cost_out_of_range_is_refused_by_table_and_name(
    tmp_path: Path, table: str, field: str, value: Any
) -> None:
    path = written(tmp_path, a_file(**{f"{table}__{field}": value}))
    with pytest.raises(SettingsError) as caught:
        policy.load(path)
    assert "costs.toml" in caught.value.detail
    assert table in caught.value.detail
    assert field in caught.value.detail


@pytest.mark.parametrize("field", ["challenge_stops", "review_stops"])
def test_a_share_is_at_most_one(tmp_path: Path, field: str) -> None:
    with pytest.raises(SettingsError, match=field):
        policy.load(written(tmp_path, a_file(**{f"account__{field}": 1.01})))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "transaction"),
        (a_file() + "\nspeling = 1.0", "speling"),
        (a_file() + "\n[acount]\nmissed_fraud = 1.0", "acount"),
        ("[transaction", "costs.toml"),
        (a_file(**{f"account__{name}": value for name, value in CROSSED.items()}), "account"),
        (a_file(**{f"transaction__{name}": value for name, value in CROSSED.items()}), "review"),
    ],
)
def test_what_is_wrong_with_the_file_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        policy.load(written(tmp_path, text))


def test_a_file_that_cannot_be_read_is_a_settings_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="absent"):
        policy.load(tmp_path / "absent.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="binary"):
        policy.load(tmp_path / "binary.toml")
