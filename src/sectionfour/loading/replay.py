"""The past, replayed: imports into ledger and windows, and windows rebuilt from the ledger.

An imported event passes the same gate and the same seal as a live one, at its own recorded time;
what has no basis is not kept. It is not scored and has no receipt: nobody asked.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import get_args

import msgspec

from sectionfour.domain import (
    Event,
    Label,
    LabelName,
    Leaf,
    Notice,
    Permit,
    Refusal,
    Request,
    known_as,
    known_event,
)
from sectionfour.errors import Ceased, HistoryError
from sectionfour.given import Given
from sectionfour.parts import Parts
from sectionfour.privacy import consent, entries, gate, pseudonym
from sectionfour.privacy.attestations import SourceAttestation, ThirdPerson
from sectionfour.privacy.consent import ConsentEvent
from sectionfour.privacy.exceptions import Grant
from sectionfour.privacy.pseudonym import Keys
from sectionfour.privacy.regime import Regime

#: Events a transaction: the ledger is locked while it lasts, about half a second.
BATCH = 25_000
#: Tokens that are remembered: those of payees, devices and addresses come again.
KNOWN = 100_000
EVENT_COLUMNS = Event.__struct_fields__
Progress = Callable[[int], object]


class Consent(msgspec.Struct, frozen=True):
    """A consent given or withdrawn in the system that the import comes from."""

    at: int
    member_id: str
    ref: str
    given: bool
    purpose: str = "security"
    categories: tuple[str, ...] = ()
    event_type: str = consent.EXPLICIT

    def __repr__(self) -> str:
        return "<Consent withheld>"


class Known(msgspec.Struct, frozen=True):
    """A label that became known at `at`."""

    at: int
    label_id: str
    event_id: str
    label: str
    source: str


#: One thing that happened: a consent, an event at its time, or a label.
Step = Consent | tuple[int, Given] | Known


@dataclass(slots=True)
class Report:
    """What an import did: counts of events kept, of events left out by reason, and the rest."""

    events: int = 0
    consents: int = 0
    labels: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


class _Snapshot:
    """The ledger's consents in memory, kept up by the import itself, which is the one writer of
    the time that it replays. Grants and attestations do not reach back: an import rests on consent
    and contract."""

    def __init__(self, consents: dict[bytes, list[ConsentEvent]]) -> None:
        self._consents = consents
        self._answers: dict[bytes | None, dict[tuple[object, ...], Permit | Refusal]] = {}

    def consents(self, subject: bytes, at: int) -> Sequence[ConsentEvent]:
        return self._consents.get(subject, ())

    def add(self, subject: bytes, event: ConsentEvent) -> None:
        self._consents.setdefault(subject, []).append(event)
        self._answers.pop(subject, None)

    def asked(self, request: Request, at: int, regime: Regime) -> Permit | Refusal:
        """Return what the gate says; what a subject asks again, with no consent given or taken back
        in between, is not put to it again. A consent that ends by itself is looked at each time.
        """
        subject = request.subject
        question = (request.purpose, request.event_type, request.order is None, request.uses)
        answers = self._answers.setdefault(subject, {})
        answer = answers.get(question)
        if answer is None:
            answer = gate.check(request.purpose, request, self, at, regime=regime)
            events = self._consents.get(subject or b"", ())
            lasts = all(e.expires_at is None and e.event_time <= at for e in events)
            if lasts and subject is not None:
                answers[question] = answer
        return answer

    def grants(self, at: int) -> Sequence[tuple[Grant, int]]:
        return ()

    def take(self, *use: object, **about: object) -> bool:
        return False

    def attestations(self, source: str, at: int) -> Sequence[SourceAttestation]:
        return ()

    def third_person(self, attestation_id: str) -> ThirdPerson | None:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _KnownKeys(Keys):
    """Keys that make each token once: an import meets the same people over and over."""

    made: Callable[[str, str, bytes], bytes]
    met: dict[str, bytes] = field(default_factory=dict)

    def sealing(self) -> Callable[[str, str, bytes], bytes]:
        return self.made

    def subject(self, member_id: str, *, enrol: bool = False) -> bytes | None:
        found = self.met.get(member_id)
        if found is None:
            found = Keys.subject(self, member_id, enrol=enrol)
            if found is not None:
                self.met[member_id] = found
        return found


def replay(
    steps: Iterator[Step],
    parts: Parts,
    *,
    notice: Notice,
    progress: Progress = lambda n: None,
    load: Callable[[Iterable[Event]], int] | None = None,
) -> Report:
    """Take `steps`, in order of time, into ledger and windows. Returns what was done.

    `load` fills the windows, in one call: until it returns, the store counts as not whole, so an
    import that breaks off is followed by a rebuild. Without one the windows are filled here.

    Raises HistoryError, before anything is written, for a history that begins before the newest
    event already kept.
    """
    if parts.ledger.cessation() is not None:
        raise Ceased("operation has ceased: nothing is imported any more")
    report = Report()
    parts.ledger.add_notice(
        notice, Leaf("notice", f"{notice.notice_id}@{notice.version}", msgspec.json.encode(notice))
    )
    (load or parts.velocity.load)(_taken(steps, parts, notice, report, progress))
    return report


def _taken(
    steps: Iterator[Step], parts: Parts, notice: Notice, report: Report, progress: Progress
) -> Iterator[Event]:
    """Yield what the windows must hold, each event once the ledger has it."""
    made = lru_cache(KNOWN)(parts.keys.sealing())
    keys = _KnownKeys(
        parts.keys.ring,
        parts.keys.vault,
        region=parts.keys.region,
        currency=parts.keys.currency,
        made=made,
    )
    snapshot = _Snapshot(parts.ledger.consents_of_all(parts.clock()))
    newest = parts.ledger.rows("SELECT COALESCE(MAX(at), 0) FROM events")[0][0]
    batch = _Batch()
    unmet: Counter[str] = Counter()  # labels of events that have not come so far
    for step in _enrolled(steps, keys):
        at = step[0] if isinstance(step, tuple) else step.at
        if at <= newest and not isinstance(step, Consent):
            if not report.events and not batch.events:
                raise HistoryError(
                    "the history begins before the newest event that is kept already"
                )
            at = newest + 1  # ties are broken by a microsecond, in the order of the file
        if isinstance(step, Consent):
            _take_consent(step, keys, notice, snapshot, batch)
        elif isinstance(step, Known):
            if _take_label(step, at, parts, batch):
                newest = at
            else:
                unmet[step.event_id] += 1
        else:
            newest = at
            why = _take_event(at, step[1], parts, keys, snapshot, batch)
            if why is not None:
                report.left_out[why] += 1
            elif step[1].event_id in unmet:
                early = "label that was known before its event"
                report.left_out[early] += unmet.pop(step[1].event_id)
        if len(batch.events) + len(batch.consents) >= BATCH:
            yield from _keep(batch, parts, report, progress)
            batch = _Batch(known=batch.known)
    yield from _keep(batch, parts, report, progress)
    if unmet:
        report.left_out["label of an event that was not kept"] += unmet.total()


def _enrolled(steps: Iterator[Step], keys: Keys) -> Iterator[Step]:
    """Yield `steps`; whoever consents among the next many gets a vault row, all in one commit."""
    while lot := list(islice(steps, BATCH)):
        keys.enrol([step.member_id for step in lot if isinstance(step, Consent)])
        yield from lot


@dataclass(slots=True)
class _Batch:
    events: list[Event] = field(default_factory=list)
    consents: list[tuple[bytes, ConsentEvent, int]] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    windows: list[Event] = field(default_factory=list)  # events and known frauds, in order
    #: Events of this import by id, for labels that come later.
    known: dict[str, Event] = field(default_factory=dict)


def _take_consent(
    step: Consent, keys: Keys, notice: Notice, snapshot: _Snapshot, batch: _Batch
) -> None:
    subject = keys.subject(step.member_id, enrol=True)
    assert subject is not None
    digest = hashlib.sha256(subject + step.ref.encode()).hexdigest()[:24]
    event = ConsentEvent(
        seq=0,
        record_id=f"cr_{digest}",
        purpose=step.purpose,
        categories=frozenset(step.categories),
        source="first_party",
        notice_id=notice.notice_id,
        notice_version=notice.version,
        event_type=step.event_type,
        event_state=consent.GIVEN if step.given else consent.WITHDRAWN,
        event_time=step.at,
        expires_at=None,
        superseded=False,
    )
    snapshot.add(subject, event)
    batch.consents.append((subject, event, step.at))


def _take_event(
    at: int, given: Given, parts: Parts, keys: Keys, snapshot: _Snapshot, batch: _Batch
) -> str | None:
    """Put one event into the batch; returns why not, where it has no basis."""
    request = pseudonym.claim(given, keys, parts.regime)
    verdict = snapshot.asked(request, at, parts.regime)
    if isinstance(verdict, Refusal):
        return verdict.why
    event = pseudonym.seal(request, verdict, keys, at=at, regime=parts.regime)
    batch.events.append(event)
    batch.windows.append(event)
    batch.known[event.event_id] = event
    return None


def _take_label(step: Known, at: int, parts: Parts, batch: _Batch) -> bool:
    """Put one label into the batch; returns whether its event has come."""
    event = batch.known.get(step.event_id) or parts.ledger.event(step.event_id)
    if event is None:
        return False
    batch.labels.append(
        Label(
            label_id=step.label_id,
            label=step.label,
            source=step.source,
            at=at,
            known_at=step.at,
            event_id=step.event_id,
        )
    )
    kind = known_as(step.label)
    if kind is not None:
        batch.windows.append(known_event(event, kind, step.label_id, at))
    return True


def _keep(batch: _Batch, parts: Parts, report: Report, progress: Progress) -> list[Event]:
    if batch.consents or batch.events or batch.labels:
        with parts.ledger.transaction() as connection:
            tally, rows = parts.ledger.bring(
                connection,
                parts.keys.ring,
                consents=batch.consents,
                events=batch.events,
                labels=batch.labels,
            )
            name = f"im_{secrets.token_hex(12)}"
            parts.ledger.log(connection, entries.brought(name, rows, tally, parts.clock()))
    report.events += len(batch.events)
    report.consents += len(batch.consents)
    report.labels += len(batch.labels)
    progress(len(batch.events))
    return batch.windows


def rebuild(parts: Parts, progress: Progress = lambda n: None) -> int:
    """Make the windows anew from the ledger's events and labels, while nobody is at either: see
    `upkeep.anew`. Returns how many went in."""
    parts.velocity.clear()
    return parts.velocity.load(_kept(parts), progress)


def _kept(parts: Parts) -> Iterator[Event]:
    """Yield the ledger's events, and what became known of them as events, in order of `at`."""
    others = [name for name in EVENT_COLUMNS if name not in ("at", "type", "event_id")]
    of_event = ", ".join(f"e.{name}" for name in others)
    of_member = ", ".join({"member": "l.member", "occurred_at": "l.known_at", "permitted": "0",
                           "purpose": "''"}.get(name, "NULL") for name in others)  # fmt: skip
    cases = " ".join(f"WHEN '{label}' THEN '{known_as(label)}'" for label in _TELLING)
    kind = f"CASE l.label {cases} END"
    telling = ", ".join(f"'{label}'" for label in _TELLING)
    sql = (
        f"SELECT e.at, e.type, e.event_id, {of_event} FROM events e WHERE e.at > ?"
        f" UNION ALL SELECT l.at, {kind}, 'label:' || l.label_id, {of_event} FROM labels l"
        f" JOIN events e ON e.event_id = l.event_id WHERE l.label IN ({telling}) AND l.at > ?"
        f" UNION ALL SELECT l.at, {kind}, 'label:' || l.label_id, {of_member} FROM labels l"
        f" WHERE l.event_id IS NULL AND l.label IN ({telling}) AND l.at > ?"
        f" ORDER BY 1 LIMIT {BATCH}"
    )
    after = -1
    while rows := parts.ledger.rows(sql, after, after, after):
        for row in rows:
            yield Event(**dict(zip(("at", "type", "event_id", *others), row, strict=True)))
        after = rows[-1][0]


#: The labels that tell something to the windows.
_TELLING = tuple(sorted(label for label in get_args(LabelName) if known_as(label)))
