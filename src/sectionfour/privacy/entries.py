"""What the log says of notices, consents, grants, labels, reviews and API keys.

One function a kind, from what is kept to the leaf: whoever writes an entry and whoever verifies it
later make the same bytes of the same rows. Subjects, orders and events are under tokens of the
audit domain; of documents there are kinds and digests alone. Receipts are in `receipts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sectionfour.domain import Label, Leaf, Notice, instant
from sectionfour.privacy.consent import ConsentEvent
from sectionfour.privacy.exceptions import Grant
from sectionfour.privacy.pseudonym import Keys
from sectionfour.privacy.receipts import canonical
from sectionfour.privacy.regime import Regime


def notice(regime: Regime, kept: Notice, at: int) -> Leaf:
    """Return the entry of a version of a notice; its purposes are spelt out."""
    meant = dict.fromkeys(p for name in kept.purposes for p in regime.stands_for(name))
    said = {
        "kind": "notice",
        "at": instant(at),
        "id": kept.notice_id,
        "version": kept.version,
        "language": kept.language,
        "text_sha256": kept.text_sha256,
        "purposes": list(meant),
        "categories": list(kept.categories),
        "valid_from": instant(kept.valid_from),
        "material": kept.material,
    }
    return Leaf("notice", f"{kept.notice_id}@{kept.version}", canonical(said))


def consent(keys: Keys, subject: bytes, event: ConsentEvent, at: int) -> Leaf:
    """Return the entry of one event of a consent record, recorded at `at`."""
    said = {
        "kind": "consent",
        "at": instant(at),
        "record_id": event.record_id,
        "subject": {"kind": "member", "pseudonym": keys.alias(subject, "audit").hex()},
        "event_state": event.event_state,
        "event_time": instant(event.event_time),
        "event_type": event.event_type,
        "expires_at": None if event.expires_at is None else instant(event.expires_at),
        "purpose": event.purpose,
        "categories": sorted(event.categories),
        "source": event.source,
        "notice": f"{event.notice_id}@{event.notice_version}",
    }
    return Leaf("consent", event.record_id, canonical(said))


def grant(keys: Keys, kept: Grant, action: str, at: int) -> Leaf:
    """Return the entry of a grant as it stands once `action` was taken at `at`."""
    scope = kept.scope
    said: dict[str, Any] = {
        "kind": "exception",
        "at": instant(at),
        "grant_id": kept.grant_id,
        "exception": kept.exception,
        "action": action,
        "state": kept.state,
        "requested_by": kept.requested_by,
        "approved_by": list(kept.approved_by),
        "revoked_by": kept.revoked_by,
        "documents": [{"kind": d.kind, "sha256": d.sha256} for d in kept.documents],
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
    return Leaf("exception", kept.grant_id, canonical(said))


def label(keys: Keys, kept: Label) -> Leaf:
    """Return the entry of a label."""
    event, member = kept.event_id, kept.member
    said = {
        "kind": "label",
        "at": instant(kept.at),
        "label_id": kept.label_id,
        "label": kept.label,
        "source": kept.source,
        "known_at": instant(kept.known_at),
        "event": None if event is None else keys.ring.token("audit", "event", event.encode()).hex(),
        "subject": None if member is None else keys.alias(member, "audit").hex(),
    }
    return Leaf("label", kept.label_id, canonical(said))


def review(review_id: str, assessment_id: str, at: int) -> Leaf:
    """Return the entry of a human review that was asked for."""
    said = {
        "kind": "review",
        "at": instant(at),
        "review_id": review_id,
        "receipt_id": assessment_id,
        "state": "open",
    }
    return Leaf("review", review_id, canonical(said))


def key(key_id: str, action: str, at: int, role: str | None = None) -> Leaf:
    """Return the entry of an API key that was made (with its role) or revoked (without)."""
    said = {"kind": "key", "at": instant(at), "key_id": key_id, "action": action}
    return Leaf("key", key_id, canonical(said | ({} if role is None else {"role": role})))


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
) -> Leaf:
    """Return the entry of one sweep of an erasure. `names` is a digest of what entries it orphaned;
    `commitment` is to the person, under a nonce that is destroyed when the erasure is done."""
    said = {
        "kind": "erasure",
        "at": instant(at),
        "erasure_id": erasure_id,
        "trigger": trigger,
        "requested_at": instant(requested_at),
        "sweep": sweep,
        "subject_commitment": commitment,
        "targets": [{"store": s, "action": a, "rows": n} for s, a, n in targets],
        "orphaned": names,
    }
    return Leaf("erasure", erasure_id, canonical(said))


def erasure_done(erasure_id: str, at: int) -> Leaf:
    """Return the entry that an erasure is done, but for models that are to be trained anew."""
    said = {"kind": "erasure", "at": instant(at), "erasure_id": erasure_id, "sweep": 0}
    return Leaf("erasure", erasure_id, canonical(said))


def export(export_id: str, pseudonym: bytes, key_id: str, at: int) -> Leaf:
    """Return the entry that a person's data was handed out, and through whose key."""
    said = {
        "kind": "export",
        "at": instant(at),
        "export_id": export_id,
        "subject": {"kind": "member", "pseudonym": pseudonym.hex()},
        "by": key_id,
    }
    return Leaf("export", export_id, canonical(said))
