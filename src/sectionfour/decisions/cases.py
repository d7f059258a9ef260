"""Which assessments a human looks at, and what may be decided of them."""

from __future__ import annotations

from typing import Literal

from sectionfour.domain import FRAUD_LABELS, Answer
from sectionfour.errors import BadRequest

#: The outcomes that open a case; an appeal opens one whatever the outcome was.
OPENING = frozenset({"review", "block"})

#: A verdict is a label: what the analyst knows now.
Verdict = Literal["confirmed_fraud", "account_takeover", "suspected_fraud", "legitimate"]
#: What is done about it. `release` takes back what was done before.
Measure = Literal["none", "release", "block_transaction", "limit_account", "freeze_account"]
#: Measures against a person: each carries reasons, an appeal and a receipt (R-29).
AGAINST = frozenset({"block_transaction", "limit_account", "freeze_account"})


def why(answer: Answer) -> str | None:
    """Return why an assessment opens a case, None where it does not.

    >>> why({"outcome": "block"}), why({"outcome": "allow"})
    ('block', None)
    """
    outcome: str | None = answer.get("outcome")
    return outcome if outcome in OPENING else None


def check(verdict: str, measure: str) -> None:
    """BadRequest for a measure that its verdict does not carry.

    A suspicion may limit an account, and block or freeze nothing.
    """
    if (
        measure in AGAINST
        and verdict not in FRAUD_LABELS
        and (verdict, measure)
        != (
            "suspected_fraud",
            "limit_account",
        )
    ):
        raise BadRequest("this verdict does not carry this measure", pointer="/measure")
