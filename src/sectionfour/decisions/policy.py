"""What is done about a score: thresholds that follow from stated costs, never chosen by hand.

For a probability of fraud p, each action has an expected cost that is a straight line in p; the
cheapest action at p is the lower envelope of the four lines, and its corners are the thresholds.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import msgspec

from sectionfour.domain import Outcome
from sectionfour.errors import SettingsError

ACTIONS = ("allow", "challenge", "review", "block")
LEVELS = ("low", "elevated", "high", "highest")


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
            if not (value >= 0 and (value <= 1 or not name.endswith("_stops"))):
                raise SettingsError(f"cost {name} is out of range: {value}")


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

    An action's line falls below another's at one p at most, so an action takes over where the
    last of the milder ones has become dearer.
    """
    at_0, at_1 = expected_costs(costs, 0.0), expected_costs(costs, 1.0)

    def takes_over(action: str, milder: str) -> float:
        """The p from which `action` is not dearer than `milder`; above 1 where there is none."""
        head_start = at_0[action] - at_0[milder]
        slope = (at_1[milder] - at_1[action]) + head_start
        return head_start / slope if slope > 0 else 2.0

    block = max(takes_over("block", milder) for milder in ACTIONS[:3])
    review = min(block, max(takes_over("review", milder) for milder in ACTIONS[:2]))
    challenge = min(review, takes_over("challenge", "allow"))
    return Thresholds(*(min(1.0, max(0.0, p)) for p in (challenge, review, block)))


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The costs of each model's errors. Read from a TOML file; `digest` goes into receipts."""

    transaction: Costs
    account: Costs
    digest: str = ""

    def of(self, model: str) -> Costs:
        return self.transaction if model == "transaction" else self.account

    def thresholds(self, model: str) -> Thresholds:
        return thresholds(self.of(model))


def load(path: Path | None = None) -> Policy:
    """Read the costs from `path`, or the packaged file; SettingsError names what is wrong."""
    source = path or resources.files("sectionfour.decisions") / "costs.toml"
    data = source.read_bytes()
    try:
        policy = msgspec.toml.decode(data, type=Policy)
    except msgspec.DecodeError as error:
        raise SettingsError(f"{source}: {error}") from error
    return msgspec.structs.replace(policy, digest=hashlib.sha256(data).hexdigest())
