"""The audit set, filled and read: each member passes the gate, each time.

Age and gender never enter a model. Where a live consent names `member.optional` for security, the
age band (10 years) and the gender are kept beside, to look whether a model treats people alike.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sectionfour import parquet
from sectionfour.domain import EPOCH, MICROSECOND, Permit, Request, Use
from sectionfour.privacy import entries, gate

if TYPE_CHECKING:
    from sectionfour.parts import Parts

PURPOSE = "security.record_audit_analyse"
CATEGORY = "member.optional"
OLDEST = 120
COLUMNS = ("member_id", "birth_date", "gender")
GENDERS = {"f": "f", "female": "f", "m": "m", "male": "m", "x": "x", "other": "x"}


@dataclass(frozen=True, slots=True)
class Taken:
    """What was done of a file's members: kept, gone because a consent has ended, or why not."""

    kept: int
    gone: int
    left_out: dict[str, int]


def take(path: Path, parts: Parts) -> Taken:
    """Take age bands and genders of a members table (parquet) into the audit set.

    Columns `member_id`, `birth_date` (YYYY-MM-DD) and `gender`. Whoever has no live consent that
    names `member.optional` is left out, and taken out where they were in. Raises HistoryError for
    a table without these columns.
    """
    table = parquet.table(path, COLUMNS)
    at = parts.clock()
    today = (EPOCH + at * MICROSECOND).date()
    kept: dict[bytes, tuple[bytes, str | None, str | None]] = {}
    left_out = {"no_consent": 0, "not_a_member": 0, "nothing_given": 0}
    before = {member for member, *_ in parts.ledger.audit_set()}
    for member_id, birth, gender in table[list(COLUMNS)].itertuples(index=False):
        band = age_band(birth, today) if isinstance(birth, str) else None
        known = GENDERS.get(gender.strip().lower()) if isinstance(gender, str) else None
        if band is None and known is None:
            left_out["nothing_given"] += 1
            continue
        subject = parts.keys.subject(str(member_id))
        if subject is None:
            left_out["not_a_member"] += 1
        elif not consented(parts, subject, at):
            left_out["no_consent"] += 1
        else:
            kept[subject] = (subject, band, known)
    gone = _ended(parts, before - set(kept), at)
    _change(parts, list(kept.values()), gone, at)
    return Taken(len(kept), len(gone), left_out)


def groups(parts: Parts) -> dict[bytes, tuple[str | None, str | None]]:
    """Return (age band, gender) of everybody in the audit set whose consent is live now.

    Whose consent has ended is taken out of the set here, for good.
    """
    drop_ended(parts, parts.clock())
    return {member: (band, gender) for member, band, gender in parts.ledger.audit_set()}


def of_events(
    parts: Parts, subjects: Sequence[bytes], members: NDArray[np.int64]
) -> dict[str, NDArray[np.object_]]:
    """Return each event's age band and gender, None but where the audit set has its member.

    `members` are, an event, the place of its member in `subjects`, -1 for a guest. They are for
    looking at a model once it is fitted: no matrix has them.
    """
    known = groups(parts)
    of_member = [known.get(subject, (None, None)) for subject in subjects] + [(None, None)]
    pairs = np.array(of_member, dtype=object)[members]
    return {"age_band": pairs[:, 0], "gender": pairs[:, 1]}


def drop_ended(parts: Parts, at: int) -> int:
    """Take out of the set whose consent is not live at `at`; return how many those were."""
    gone = _ended(parts, {member for member, *_ in parts.ledger.audit_set()}, at)
    if gone:
        _change(parts, [], gone, at)
    return len(gone)


def drop_if_ended(parts: Parts, subject: bytes, at: int) -> None:
    """Take one member out of the set, whose consent is not live any more at `at`."""
    if parts.ledger.in_audit_set(subject):
        gone = _ended(parts, {subject}, at)
        if gone:
            _change(parts, [], gone, at)


def consented(parts: Parts, subject: bytes, at: int) -> bool:
    """Whether the gate lets this member's optional data be used to audit models at `at`."""
    verdict = gate.check(
        PURPOSE,
        Request(
            purpose=PURPOSE,
            event_type="",
            kind="member",
            subject=subject,
            uses=(Use("member.required"), Use(CATEGORY)),
        ),
        parts.ledger,
        at,
        operation="train",
        regime=parts.regime,
    )
    bit = parts.regime.categories[CATEGORY].bit
    return isinstance(verdict, Permit) and bool(verdict.permitted & bit)


def age_band(birth: str, today: date) -> str | None:
    """Return the ten years that an age falls into; None for a date that is none, or of nobody.

    >>> age_band("1987-06-05", date(2026, 6, 4)), age_band("1987-02-31", date(2026, 6, 4))
    ('30-39', None)
    """
    try:
        born = date.fromisoformat(birth)
    except ValueError:
        return None
    age = today.year - born.year - ((today.month, today.day) < (born.month, born.day))
    first = age // 10 * 10
    return f"{first}-{first + 9}" if 0 <= age <= OLDEST else None


def _ended(parts: Parts, members: set[bytes], at: int) -> list[bytes]:
    return sorted(member for member in members if not consented(parts, member, at))


def _change(
    parts: Parts, kept: list[tuple[bytes, str | None, str | None]], gone: list[bytes], at: int
) -> None:
    leaf = entries.audit_set(f"as_{secrets.token_hex(8)}", len(kept), len(gone), at)
    parts.ledger.change_audit_set(at, kept, gone, leaf)
