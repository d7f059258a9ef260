"""Each row of the past passes the gate, before anything is learnt from it or told of it."""

from __future__ import annotations

from collections import Counter

import numpy as np

from sectionfour.domain import Permit, Request, Use
from sectionfour.learning import dataset, past
from sectionfour.learning.audit import PURPOSE
from sectionfour.privacy import gate, pseudonym
from sectionfour.privacy.regime import Regime

#: Scores and labels are data too (R-32).
RESULTS = "derived.risk"


def permit(
    found: past.Past,
    ledger: gate.Ledger,
    *,
    at: int,
    regime: Regime,
    purpose: str = PURPOSE,
    operation: str = "train",
) -> tuple[dataset.Mask, Counter[str], dict[str, dataset.Mask]]:
    """Pass every row through the gate, as of `at`: for training, or for what else is declared.

    With the operation export a row is there only where its scores and labels may be used as well.

    Returns which rows may be learnt from, how many may not and why, and, a category, the rows in
    which it must be masked. Rows that ask the same of the gate, at the same instant, get the same
    answer, so each question is put once.
    """
    events = found.events
    answers: dict[tuple[object, int, str | None], Permit | str] = {}
    member = events["member"].to_numpy(dtype=np.float64, na_value=-1).astype(np.int64)
    held = events["permitted"].to_numpy()
    allowed = np.zeros(len(events), dtype=np.int64)
    left_out: Counter[str] = Counter()
    brought = events["brought"].tolist()
    for place, question in enumerate(zip(member.tolist(), held.tolist(), brought, strict=True)):
        answer = answers.get(question)
        if answer is None:
            who, bits, told = question
            uses = pseudonym.uses_of(bits, told, regime)
            verdict = gate.check(
                purpose,
                Request(
                    purpose=purpose,
                    event_type="",
                    kind="guest" if who < 0 else "member",
                    subject=None if who < 0 else found.subjects[who],
                    uses=uses if operation == "train" else (*uses, Use(RESULTS)),
                ),
                ledger,
                at,
                operation=operation,
                regime=regime,
            )
            answer = verdict if isinstance(verdict, Permit) else verdict.why
            if operation != "train" and isinstance(answer, Permit):
                results = answer.permitted & regime.categories[RESULTS].bit
                answer = answer if results else "purpose_change"
            answers[question] = answer
        if isinstance(answer, str):
            left_out[answer] += 1
        else:
            allowed[place] = answer.permitted
    masked = {
        category: ((held & ~allowed & rule.bit) != 0) & (allowed != 0)
        for category, rule in regime.categories.items()
        if ((held & ~allowed & rule.bit) != 0)[allowed != 0].any()
    }
    return allowed != 0, left_out, masked
