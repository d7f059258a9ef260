"""Rows that may leave: history -> gate (training) -> coarser -> attacked -> data sheet, or nothing.

What leaves holds no token and no time: a random reference a row, resolvable by the builder alone,
a few things that could be known of an event from outside, made coarse, and features that are means
of cells. It is attacked before it is written; where one figure misses its limit there is no file.
The rows of a fifth of the members never leave: they are what the attacks are held against.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sectionfour.domain import DAY, DELAY_DAYS, EVENT_TYPES, HOUR, instant
from sectionfour.errors import BadRequest, HistoryError, ReleaseError
from sectionfour.features.catalog import NAMES, columns
from sectionfour.learning import attacks, dataset, datasheet, generalise, past
from sectionfour.learning.audit import PURPOSE
from sectionfour.learning.generalise import Generalised
from sectionfour.learning.progress import Stages
from sectionfour.parts import Parts
from sectionfour.privacy import consent, entries
from sectionfour.reports import learnable

Rows = NDArray[np.intp]
Make = Callable[..., Generalised]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How a release is made and tested. `seed` is of the control and the attacks; what leaves is
    truly random."""

    purpose: str = PURPOSE
    model: str = "transaction"  # whose events
    k: int = 20
    suppress: float = 0.02
    delay_days: float = DELAY_DAYS  # a row this old without a label counts as honest
    control_share: float = 0.2  # of members, never released
    attacks: int = 2000  # of each kind; more of those that cost little, for narrower bounds
    cheap_attacks: int = 5000
    known: tuple[int, ...] = (1, 2, 3, 4, 5)  # events that somebody knows of another
    seed: int = 4


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a release is made of: a row for each permitted event that is old enough."""

    quasi: dict[str, generalise.Codes]
    features: NDArray[np.float64]
    labels: NDArray[np.int8]
    member: NDArray[np.int64]
    points: NDArray[np.float64]  # what the event log knows of an event: its hour and its payee
    held_back: dataset.Mask
    counts: dict[str, Any]


def release(
    parts: Parts, out: Path, terms: Terms, *, make: Make = generalise.generalised
) -> dict[str, Any]:
    """Write a release into the new folder `out`, and return its data sheet.

    Raises BadRequest for a purpose under which nothing may be learnt and for a folder that is
    there, ReleaseError, and nothing is written, where a figure misses its limit.
    """
    if not parts.regime.purpose(terms.purpose).trains:
        raise BadRequest(
            f"rows may leave for {PURPOSE} alone; another purpose is a change of purpose"
            " (policy, section Five)",
            pointer="/purpose",
        )
    if out.exists():
        raise BadRequest("there is something at the folder to write; name a new one")
    with Stages("history", "gate", "features", "coarser", "attacks", "write") as stages:
        found, subjects = drawn(parts, terms, stages)
        stages.next()
        mine = np.flatnonzero(~found.held_back)
        made = make(
            {name: codes[mine] for name, codes in found.quasi.items()},
            found.features[mine],
            k=terms.k,
            suppress=terms.suppress,
        )
        # A release tells nothing of the order in which things happened.
        order = np.random.default_rng(secrets.randbits(64)).permutation(len(made.kept))
        refs = [secrets.token_bytes(16) for _ in made.kept]
        table = _table(made, found.labels[mine][made.kept], refs, terms).iloc[order]
        stages.next()
        figures = tested(found, mine, made, table, _known(parts, subjects), terms)
        missed = datasheet.missed(figures, terms.k)
        if missed:
            raise ReleaseError(f"nothing was written: {'; '.join(missed)}")
        stages.next()
        release_id = f"tr_{secrets.token_hex(8)}"
        at = parts.clock()
        sheet = datasheet.sheet(
            release_id, instant(at), terms.purpose, terms.model, found.counts, made.steps,
            figures, list(table.columns),
        )  # fmt: skip
        _write(parts, out, table, sheet, terms, at, found.member[mine][made.kept], refs, subjects)
        return sheet


def drawn(parts: Parts, terms: Terms, stages: Stages) -> tuple[Drawn, list[bytes]]:
    found = learnable.read(parts, stages)
    events, labels, permitted = found.past.events, found.past.labels, found.permitted
    scored = {p: rule.scores for p, rule in parts.regime.purposes.items()}
    wanted = found.of_model(terms.model, scored)
    when = events["at"].to_numpy()
    end = int(max(when[-1], labels["at"].max() if len(labels) else 0)) + 1
    young = wanted & (when >= end - int(terms.delay_days * DAY))
    rows = np.flatnonzero(wanted & ~young)
    if not len(rows):
        raise HistoryError("no event of this model may be learnt from and is old enough")
    member = found.member[rows]
    people = np.unique(member)
    rng = np.random.default_rng(terms.seed)
    held = rng.permutation(people)[: round(terms.control_share * len(people))]
    kinds = events["type"].map({name: code for code, name in enumerate(EVENT_TYPES)}).to_numpy()
    payee = events["payee"].to_numpy(dtype=np.float64, na_value=-1)
    age = (when - found.numbers("registered_at"))[rows] / 1e6
    return Drawn(
        quasi={
            "kind": kinds[rows].astype(np.int64),
            "hour_of_week": generalise.hour_of_week(when[rows], secrets.randbelow(7)),
            "account_age": generalise.age_band(age),
            "amount": generalise.amount_bucket(found.numbers("amount")[rows]),
        },
        features=found.matrix[np.ix_(rows, np.array(columns(terms.model)))],
        labels=dataset.labels_at(events, labels, end)[rows],
        member=member,
        points=np.column_stack([when // HOUR, payee]).astype(np.float64)[rows],
        held_back=np.isin(member, held),
        counts={
            "events": len(events),
            "left_out": {
                **_why(found, parts),
                **{why: n for why, n in found.left_out.items() if why != "no_basis"},
                "too_young": int(young.sum()),
                "of_another_model": int(permitted.sum() - wanted.sum()),
            },
            "masked": {category: int(where.sum()) for category, where in found.masked.items()},
            "held_back_as_control": int(np.isin(member, held).sum()),
        },
    ), found.past.subjects


def _why(found: learnable.Learnable, parts: Parts) -> Counter[str]:
    """Count the rows without a basis by what became of their consents."""
    subjects, at = found.past.subjects, found.at
    said: dict[int, str] = {-1: "guest"}
    counts: Counter[str] = Counter()
    for who in found.member[~found.permitted].tolist():
        if who not in said:
            said[who] = consent.end_of(parts.ledger.consents(subjects[who], at), at)
        counts[said[who]] += 1
    return counts


def _known(parts: Parts, subjects: list[bytes]) -> list[bytes]:
    """Return what an attacker from inside might hold: every token and event id of the ledger."""
    found = set(subjects)
    for name in (*past.ENTITIES, "order_ref"):
        found |= {bytes(row[0]) for row in parts.ledger.rows(
            f"SELECT DISTINCT {name} FROM events WHERE {name} IS NOT NULL")}  # fmt: skip
    found |= {row[0].encode() for row in parts.ledger.rows("SELECT event_id FROM events")}
    return sorted(found)


def _table(
    made: Generalised, labels: NDArray[np.int8], refs: list[bytes], terms: Terms
) -> pd.DataFrame:
    names = [NAMES[place] for place in columns(terms.model)]
    return pd.DataFrame(
        {
            "row_ref": [ref.hex() for ref in refs],
            **{f"known_{name}": codes.astype(np.int16) for name, codes in made.quasi.items()},
            **{
                name: column.astype(np.float32)
                for name, column in zip(names, made.features.T, strict=True)
            },
            "fraud": labels,
        }
    )


def tested(
    source: Drawn,
    mine: Rows,
    made: Generalised,
    table: pd.DataFrame,
    known: list[bytes],
    terms: Terms,
) -> dict[str, Any]:
    """Attack what is to leave, and return the figures (T11, T13, T14, T15)."""
    rng = np.random.default_rng(terms.seed)
    labels = source.labels[mine][made.kept]

    def originals(rows: Rows) -> NDArray[np.float64]:
        coarse = [
            generalise.coarser(codes[rows], made.steps[name])
            for name, codes in source.quasi.items()
        ]
        return np.column_stack([*coarse, source.features[rows]]).astype(np.float64)

    control = np.flatnonzero(source.held_back)
    released, ours, others = made.table, originals(mine), originals(control)
    unkeyed = [hashlib.sha256(value).hexdigest() for value in known]
    found: dict[str, Any] = {
        "uniqueness": attacks.uniqueness(made, labels, len(mine)),
        "dictionary": {
            "known": len(known),
            "recovered": attacks.dictionary(_texts(table), known),
            "recovered_of_unkeyed_digests": attacks.dictionary(unkeyed, known),
        },
    }
    if datasheet.alone(found, terms.k) or not len(control):
        return found  # it does not leave: there is nothing to attack
    found |= {
        "singling_out": attacks.singling_out(released, ours, others, terms.attacks, rng),
        "linkability": attacks.linkability(released, ours, others, terms.cheap_attacks, rng),
        "inference": attacks.inference(released, ours, others, terms.cheap_attacks, rng),
        "frauds_called": attacks.fraud_inference(
            released, labels, ours, source.labels[mine], others, source.labels[control]
        ),
        "unicity": {
            "event_log": attacks.unicity(
                source.member, source.points, terms.known, terms.attacks, rng
            ),
            "release": attacks.unicity_of_rows(
                source.member[mine][made.kept],
                attacks.classes(released)[0],
                terms.known,
                terms.attacks,
                rng,
            ),
        },
        "worth": datasheet.worth(ours, source.labels[mine], released, labels, others,
                                 source.labels[control]),
    }  # fmt: skip
    return found


def _texts(table: pd.DataFrame) -> set[str]:
    """Return everything of a table that could be a token or a digest: what is no plain number."""
    return {
        text
        for name in table
        if not pd.api.types.is_numeric_dtype(table[name])
        for text in table[name].map(str)
    }


def _write(
    parts: Parts,
    out: Path,
    table: pd.DataFrame,
    sheet: dict[str, Any],
    terms: Terms,
    at: int,
    member: NDArray[np.int64],
    refs: list[bytes],
    subjects: list[bytes],
) -> None:
    """Write the folder whole or not at all; the builder's map goes into the ledger first."""
    fresh = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    fresh.mkdir(parents=True, mode=0o700)
    try:
        table.to_parquet(fresh / "rows.parquet", index=False)
        sheet["rows_sha256"] = hashlib.sha256((fresh / "rows.parquet").read_bytes()).hexdigest()
        text = datasheet.as_json(sheet)
        (fresh / "datasheet.json").write_bytes(text)
        (fresh / "datasheet.md").write_text(datasheet.as_markdown(sheet), "utf-8")
        whose = (subjects[who] if who >= 0 else None for who in member.tolist())
        parts.ledger.add_release(
            sheet["release_id"], at, terms.purpose, text, zip(refs, whose, strict=True),
            entries.training_release(sheet["release_id"], terms.purpose, text, at),
        )  # fmt: skip
        os.replace(fresh, out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
