"""What the log says of all but assessments: of notices, consents, grants, labels, keys, models,
of what is deleted, and of the end.

One function a kind, from what is kept to the leaf: whoever writes an entry and whoever verifies it
later make the same bytes of the same rows. Subjects, orders and events are under tokens of the
audit domain; of documents there are kinds and digests alone. Receipts are in `receipts`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from sectionfour.domain import Label, Leaf, Notice, instant, instant_or_none
from sectionfour.privacy.attestations import SourceAttestation, ThirdPerson
from sectionfour.privacy.consent import ConsentEvent
from sectionfour.privacy.exceptions import Grant
from sectionfour.privacy.holds import Hold
from sectionfour.privacy.pseudonym import Keys
from sectionfour.privacy.receipts import canonical
from sectionfour.privacy.regime import Regime


def _entry(kind: str, name: str, at: int, said: dict[str, Any]) -> Leaf:
    return Leaf(kind, name, canonical({"kind": kind, "at": instant(at)} | said))


def notice(regime: Regime, kept: Notice, at: int) -> Leaf:
    """Return the entry of a version of a notice; its purposes are spelt out."""
    meant = dict.fromkeys(p for name in kept.purposes for p in regime.stands_for(name))
    said = {
        "id": kept.notice_id,
        "version": kept.version,
        "language": kept.language,
        "text_sha256": kept.text_sha256,
        "purposes": list(meant),
        "categories": list(kept.categories),
        "valid_from": instant(kept.valid_from),
        "material": kept.material,
    }
    return _entry("notice", f"{kept.notice_id}@{kept.version}", at, said)


def consent(keys: Keys, subject: bytes, event: ConsentEvent, at: int) -> Leaf:
    """Return the entry of one event of a consent record, recorded at `at`."""
    said = {
        "record_id": event.record_id,
        "subject": {"kind": "member", "pseudonym": keys.alias(subject, "audit").hex()},
        "event_state": event.event_state,
        "event_time": instant(event.event_time),
        "event_type": event.event_type,
        "expires_at": instant_or_none(event.expires_at),
        "purpose": event.purpose,
        "categories": sorted(event.categories),
        "source": event.source,
        "notice": f"{event.notice_id}@{event.notice_version}",
    }
    return _entry("consent", event.record_id, at, said)


def told(keys: Keys, kept: Grant) -> str:
    """Return a keyed digest, in hex, of what a grant's approvers were told."""
    words = (kept.necessity, kept.documents, kept.consent_impossible)
    return keys.ring.digest(msgspec.msgpack.encode(words)).hex()


def grant(keys: Keys, kept: Grant, action: str, at: int) -> Leaf:
    """Return the entry of a grant as it stands once `action` was taken at `at`."""
    scope = kept.scope
    said: dict[str, Any] = {
        "grant_id": kept.grant_id,
        "exception": kept.exception,
        "action": action,
        "state": kept.state,
        "requested_by": kept.requested_by,
        "approved_by": list(kept.approved_by),
        "offices": list(kept.offices),
        "controller_type": kept.controller_type,
        "consent_attempts": [
            {"at": instant(a.at), "channel": a.channel, "result": a.result}
            for a in kept.consent_attempts
        ],
        "reviewed": _done(kept.reviewed_by, kept.reviewed_at),
        "unsealed": _done(kept.unsealed_by, kept.unsealed_at),
        "revoked_by": kept.revoked_by,
        "documents": [
            {
                "kind": d.kind,
                "sha256": d.sha256,
                "permits": list(d.permits),
                "valid_until": instant_or_none(d.valid_until),
            }
            for d in kept.documents
        ],
        # What was said to the approvers is theirs: the log vouches for it, and does not repeat it.
        "told": kept.told or told(keys, kept),
        "scope": {
            "categories": sorted(scope.categories),
            "purposes": sorted(scope.purposes),
            "operations": sorted(scope.operations),
            "sources": sorted(scope.sources),
            "members": sorted(
                (member if member in scope.orphans else keys.alias(member, "audit")).hex()
                for member in scope.members
            ),
            "order": None if scope.order is None else keys.alias(scope.order, "audit").hex(),
        },
        "not_before": instant(kept.not_before),
        "expires_at": instant(kept.expires_at),
        "max_uses": kept.max_uses,
        "sealed": kept.sealed,
    }
    return _entry("exception", kept.grant_id, at, said)


def attestation(kept: SourceAttestation, action: str, at: int) -> Leaf:
    """Return the entry of an attestation of a source as it stands once `action` was taken."""
    said = {
        "attestation_id": kept.attestation_id,
        "action": action,
        "source": kept.source,
        "legal_ground": kept.legal_ground,
        "citation": kept.citation,
        "evidence_sha256": kept.evidence_sha256,
        "categories": list(kept.categories),
        "purposes": list(kept.purposes),
        "verified_by": kept.verified_by,
        "verified_at": instant(kept.verified_at),
        "expires_at": instant(kept.expires_at),
        "revoked_by": kept.revoked_by,
        "revoked_at": instant_or_none(kept.revoked_at),
    }
    return _entry("attestation", kept.attestation_id, at, said)


def third_person(keys: Keys, kept: ThirdPerson, action: str, at: int) -> Leaf:
    """Return the entry of a member's word about a consignee, once `action` was taken at `at`."""
    said = {
        "attestation_id": kept.attestation_id,
        "action": action,
        "subject": {"kind": "member", "pseudonym": keys.alias(kept.subject, "audit").hex()},
        "order": keys.alias(kept.order_ref, "audit").hex(),
        "wording_version": kept.wording_version,
        "attested_at": instant(kept.attested_at),
        "recorded_by": kept.recorded_by,
        "recorded_at": instant(kept.recorded_at),
        "revoked_by": kept.revoked_by,
        "revoked_at": instant_or_none(kept.revoked_at),
    }
    return _entry("third_person", kept.attestation_id, at, said)


def label(keys: Keys, kept: Label) -> Leaf:
    """Return the entry of a label."""
    event, member = kept.event_id, kept.member
    said = {
        "label_id": kept.label_id,
        "label": kept.label,
        "source": kept.source,
        "known_at": instant(kept.known_at),
        "event": None if event is None else keys.ring.token("audit", "event", event.encode()).hex(),
        "subject": None if member is None else keys.alias(member, "audit").hex(),
    }
    return _entry("label", kept.label_id, kept.at, said)


def review(review_id: str, assessment_id: str, at: int) -> Leaf:
    """Return the entry of a human review that was asked for."""
    said = {
        "review_id": review_id,
        "receipt_id": assessment_id,
        "state": "open",
    }
    return _entry("review", review_id, at, said)


def _done(by: str | None, at: int | None) -> dict[str, str] | None:
    return None if by is None or at is None else {"by": by, "at": instant(at)}


def key(
    key_id: str, action: str, at: int, role: str | None = None, office: str | None = None
) -> Leaf:
    """Return the entry of an API key that was made (with role and office) or revoked (without)."""
    particulars = {"role": role, "office": office}
    told = {name: value for name, value in particulars.items() if value is not None}
    return _entry("key", key_id, at, {"key_id": key_id, "action": action} | told)


def brought(import_id: str, rows: dict[str, int], tally: str, at: int) -> Leaf:
    """Return the entry of a batch of an import: how many rows, and their tally."""
    said = {
        "import_id": import_id,
        "rows": rows,
        "tally": tally,
    }
    return _entry("import", import_id, at, said)


def step_id(keys: Keys, event_id: str) -> str:
    """Return the name under which the log knows a step that was never answered."""
    return f"st_{keys.ring.token('audit', 'event', event_id.encode()).hex()}"


def step(keys: Keys, event_id: str, tally: str, at: int) -> Leaf:
    """Return the entry of a step of the windows that was never answered, and is kept all the
    same."""
    name = step_id(keys, event_id)
    return _entry("step", name, at, {"step_id": name, "tally": tally})


def sweep(sweep_id: str, deleted: dict[str, int], gone: dict[str, str], at: int) -> Leaf:
    """Return the entry of rows that were deleted when their time had come, with tallies of them."""
    said = {
        "sweep_id": sweep_id,
        "deleted": deleted,
        "gone": gone,
    }
    return _entry("sweep", sweep_id, at, said)


def ceased(announcement: str, by: str, at: int) -> Leaf:
    """Return the entry of the end of operation."""
    return _cessation("ceased", at, {"announcement": announcement, "by": by})


def notified(count: int, tally: str, at: int) -> Leaf:
    """Return the entry of who was told of the end, as a number and a tally."""
    return _cessation("notified", at, {"people": count, "tally": tally})


def attested(note: str, at: int) -> Leaf:
    """Return the entry of the attestation, by its digest."""
    return _cessation("attested", at, {"sha256": hashlib.sha256(note.encode()).hexdigest()})


def _cessation(action: str, at: int, said: dict[str, Any]) -> Leaf:
    """Return the entry of a step of the end: there is one of each, and it is known by its name."""
    return _entry("cessation", action, at, {"cessation_id": action, "action": action} | said)


def hold(keys: Keys, kept: Hold, action: str, at: int) -> Leaf:
    """Return the entry of a legal hold as it stands once `action` was taken at `at`."""
    said = {
        "hold_id": kept.hold_id,
        "action": action,
        "subject": None if kept.subject is None else keys.alias(kept.subject, "audit").hex(),
        "order": None if kept.order_ref is None else keys.alias(kept.order_ref, "audit").hex(),
        "law": kept.law,
        "placed_by": kept.placed_by,
        "lift_asked_by": kept.lift_asked_by,
        "lifted_by": kept.lifted_by,
    }
    return _entry("hold", kept.hold_id, at, said)


def epoch(domain: str, name: str, action: str, at: int, **more: Any) -> Leaf:
    """Return the entry of an epoch that was begun, moved to (its rows are under its tokens from
    then on) or destroyed."""
    epoch_id = f"{domain}:{name}"
    return _entry("epoch", epoch_id, at, {"epoch_id": epoch_id, "action": action} | more)


def verdict(
    verdict_id: str,
    case_id: str,
    at: int,
    said: str,
    measure: str,
    note: bytes | None,
    by: str,
    label_id: str | None,
    *,
    digest: str | None = None,
) -> Leaf:
    """Return the entry of a verdict; of the note there is the digest of what is kept, sealed.

    `digest` is that of a note which was erased.
    """
    told = {
        "verdict_id": verdict_id,
        "case_id": case_id,
        "receipt_id": f"as_{case_id.removeprefix('cs_')}",
        "verdict": said,
        "measure": measure,
        "note_sha256": digest if note is None else hashlib.sha256(note).hexdigest(),
        "decided_by": by,
        "label_id": label_id,
    }
    return _entry("verdict", verdict_id, at, told)


def reidentification(
    name: str,
    case_id: str,
    action: str,
    at: int,
    by: str,
    purpose: str,
    reason: bytes,
    *,
    digest: str | None = None,
) -> Leaf:
    """Return the entry of a step by which an analyst is told who a case is about.

    `digest` is that of a reason which was erased.
    """
    told = {
        "reidentification_id": name,
        "case_id": case_id,
        "action": action,
        "by": by,
        "purpose": purpose,
        "reason_sha256": digest or hashlib.sha256(reason).hexdigest(),
    }
    return _entry("reidentification", name, at, told)


def training_release(release_id: str, purpose: str, sheet: bytes, at: int) -> Leaf:
    """Return the entry of rows that left; its data sheet, which has their digest, by its own."""
    said = {
        "release_id": release_id,
        "purpose": purpose,
        "sheet_sha256": hashlib.sha256(sheet).hexdigest(),
    }
    return _entry("training_release", release_id, at, said)


def audit_set(change_id: str, kept: int, gone: int, at: int) -> Leaf:
    """Return the entry of a change to the audit set: how many, never who."""
    said = {
        "audit_set_id": change_id,
        "kept": kept,
        "gone": gone,
    }
    return _entry("audit_set", change_id, at, said)


def erasure(
    erasure_id: str,
    trigger: str,
    *,
    requested_at: int,
    at: int,
    sweep: int,
    commitment: str,
    targets: Sequence[tuple[str, str, int]],
    names: str,
    gone: dict[str, str],
) -> Leaf:
    """Return the entry of one sweep of an erasure. `names` is a digest of what entries it orphaned,
    `gone` has tallies of the rows that had no entry of their own;
    `commitment` is to the person, under a nonce that is destroyed when the erasure is done."""
    said = {
        "erasure_id": erasure_id,
        "trigger": trigger,
        "requested_at": instant(requested_at),
        "sweep": sweep,
        "subject_commitment": commitment,
        "targets": [{"store": s, "action": a, "rows": n} for s, a, n in targets],
        "orphaned": names,
        "gone": gone,
    }
    return _entry("erasure", erasure_id, at, said)


def erasure_waits(erasure_id: str, trigger: str, at: int) -> Leaf:
    """Return the entry that an erasure was asked for, and waits until no law holds it."""
    said = {
        "erasure_id": erasure_id,
        "trigger": trigger,
        "requested_at": instant(at),
        "sweep": 0,
        "held": True,
    }
    return _entry("erasure", erasure_id, at, said)


def erasure_done(erasure_id: str, at: int) -> Leaf:
    """Return the entry that an erasure is done, but for models that are to be trained anew."""
    return _entry("erasure", erasure_id, at, {"erasure_id": erasure_id, "sweep": 0})


def export(export_id: str, pseudonym: bytes, key_id: str, at: int) -> Leaf:
    """Return the entry that a person's data was handed out, and through whose key."""
    said = {
        "export_id": export_id,
        "subject": {"kind": "member", "pseudonym": pseudonym.hex()},
        "by": key_id,
    }
    return _entry("export", export_id, at, said)


def promotion(promotion_id: str, at: int, said: dict[str, Any]) -> Leaf:
    """Return the entry of a model that is served from `at` on: by whose word, for which gain."""
    return _entry("promotion", promotion_id, at, {"promotion_id": promotion_id} | said)
