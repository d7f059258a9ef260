"""What is done about a score: thresholds that follow from stated costs, never chosen by hand.

For a probability of fraud p, each action has an expected cost that is a straight line in p; the
cheapest action at p is the lower envelope of the four lines, and its corners are the thresholds.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cache
from importlib import resources
from itertools import combinations, pairwise
from pathlib import Path

import msgspec

from sectionfour.domain import ACTIONS, LEVELS, MODELS, Outcome
from sectionfour.errors import SettingsError

#: No cost is larger than this, in the minor unit: what is, is a slip of the pen.
MOST = 1e12


class Costs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What each outcome costs, in the minor unit of one currency. Shares are from 0 to 1."""

    missed_fraud: float  # an average fraud that goes through
    wrong_block: float  # an honest member turned away: the margin, and the member's patience
    challenge_friction: float  # an honest member asked to prove who they are
    challenge_stops: float  # the share of frauds that a challenge stops
    review_minutes: float
    reviewer_minute: float
    review_delay: float  # what waiting for a review costs an honest member's order
    review_stops: float  # the share of frauds that a review stops

    def __post_init__(self) -> None:
        for name, value in msgspec.structs.asdict(self).items():
            most = 1.0 if name.endswith("_stops") else MOST
            if not 0 <= value <= most:  # NaN neither
                raise ValueError(f"{name} must be from 0 to {most:g}, got {value}")


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From which probability on an action is the cheapest: challenge <= review <= block, 0 to 1.

    An action that is nowhere the cheapest shares its threshold with the next one.
    """

    challenge: float
    review: float
    block: float

    def __post_init__(self) -> None:
        if not 0 <= self.challenge <= self.review <= self.block <= 1:
            raise SettingsError(f"thresholds must rise from 0 to 1, got {asdict(self)}")

    def outcome(self, probability: float) -> Outcome:
        """Return the level and the action for a calibrated probability of fraud."""
        band = sum(probability >= edge for edge in (self.challenge, self.review, self.block))
        return Outcome(LEVELS[band], ACTIONS[band])


def expected_costs(costs: Costs, probability: float) -> dict[str, float]:
    """Return the expected cost of each action at a probability of fraud."""
    p, loss = probability, costs.missed_fraud
    review = costs.review_minutes * costs.reviewer_minute
    return {
        "allow": p * loss,
        "challenge": p * loss * (1 - costs.challenge_stops) + (1 - p) * costs.challenge_friction,
        "review": p * loss * (1 - costs.review_stops) + (1 - p) * costs.review_delay + review,
        "block": (1 - p) * costs.wrong_block,
    }


@cache
def thresholds(costs: Costs) -> Thresholds:
    """Return the corners of the lower envelope of the actions' expected costs.

    Exact, in fractions. Raises SettingsError where a milder action would be the cheapest again
    above a probability at which a harder one was: then no thresholds can say what is cheapest.
    """
    at_0, at_1 = (
        [Fraction(cost) for cost in expected_costs(costs, p).values()] for p in (0.0, 1.0)
    )
    corners = {Fraction(0), Fraction(1)}
    for one, other in combinations(range(len(ACTIONS)), 2):
        below, above = at_0[other] - at_0[one], at_1[one] - at_1[other]
        if below * above > 0:  # the two lines cross inside
            corners.add(below / (below + above))
    begins = [Fraction(1)] * len(ACTIONS)
    hardest = 0
    for low, high in pairwise(sorted(corners)):
        middle = (low + high) / 2
        price = [a + (b - a) * middle for a, b in zip(at_0, at_1, strict=True)]
        equals = [action for action, cost in enumerate(price) if cost == min(price)]
        cheapest = next((action for action in equals if action >= hardest), None)  # the mildest
        if cheapest is None:
            raise SettingsError(
                f"{ACTIONS[equals[0]]} would be the cheapest again where fraud is likelier than"
                f" where {ACTIONS[hardest]} is: look at the costs of these two"
            )
        for action in range(hardest + 1, cheapest + 1):
            begins[action] = low
        hardest = cheapest
    return Thresholds(*map(float, begins[1:]))


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The costs of each model's errors. Read from a TOML file; `digest` goes into receipts."""

    transaction: Costs
    account: Costs
    digest: str = ""

    def of(self, model: str) -> Costs:
        """Return the stated costs of a model's events, in the minor unit."""
        return self.transaction if model == "transaction" else self.account

    def thresholds(self, model: str) -> Thresholds:
        """Return from which probability on each action is taken; SettingsError as `thresholds`."""
        return thresholds(self.of(model))


def load(path: Path | None = None) -> Policy:
    """Read the costs from `path`, or the packaged file; SettingsError names what is wrong."""
    source = path or resources.files("sectionfour.decisions") / "costs.toml"
    try:
        data = source.read_bytes()
        policy = msgspec.toml.decode(data, type=Policy)
    except OSError as error:
        raise SettingsError(f"{source.name}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"{source.name}: {error}") from error
    for model in MODELS:
        try:
            policy.thresholds(model)
        except SettingsError as error:
            raise SettingsError(f"{source.name}: {model}: {error.detail}") from error
    return msgspec.structs.replace(policy, digest=hashlib.sha256(data).hexdigest())
