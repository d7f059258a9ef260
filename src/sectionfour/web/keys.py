"""API keys: who calls, and which role the key has. The ledger keeps a digest of each key, no key.

A key is looked up at every call, so that a revocation holds for the next one on every worker.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Collection
from typing import NamedTuple

from sectionfour.errors import BadRequest, Forbidden, Unauthenticated
from sectionfour.privacy import entries
from sectionfour.stores.ledger.rooms import Ledger

#: What each may do is said route by route, in the `roles` of each.
ROLES = ("checkout", "consent", "analyst", "privacy", "trainer", "admin")

_BEARER = re.compile(r"(?i:bearer) +(\S.*)")
_KEY = re.compile(r"s4_[A-Za-z0-9_-]{43}")


class Caller(NamedTuple):
    """Whose key a call bears; both empty where none is asked for. `ceased`: whether operation has,
    which is read together with the key."""

    key_id: str = ""
    role: str = ""
    ceased: int = 0


ANYBODY = Caller()


class KeyRow(NamedTuple):
    """A key as it is listed. Times are in microseconds."""

    key_id: str
    role: str
    made_at: int
    revoked_at: int | None


def create_key(ledger: Ledger, role: str, at: int, office: str | None = None) -> str:
    """Make a key and return it: the only time that it is to be seen.

    `office` is whose approval the key speaks, of an exception: a key of the role privacy bears one
    at most, and never two. Whoever makes keys names the offices.
    32 random bytes need no slow hash: nobody can try them all.
    """
    if role not in ROLES:
        raise BadRequest(f"a role must be one of {', '.join(ROLES)}", pointer="/role")
    if office is not None and role != "privacy":
        raise BadRequest("an office is borne by a key of the role privacy", pointer="/office")
    key = f"s4_{secrets.token_urlsafe(32)}"
    name = key_id(key)
    ledger.add_key(
        name, _digest(key), role, at, entries.key(name, "created", at, role, office), office
    )
    return key


def list_keys(ledger: Ledger) -> list[KeyRow]:
    """Return every key there ever was, without the key itself."""
    return [KeyRow._make(row) for row in ledger.all_keys()]


def revoke_key(ledger: Ledger, name: str, at: int) -> bool:
    """End the key of this id, for the next call on. False where none of this id stands."""
    return ledger.revoke_key(name, at, entries.key(name, "revoked", at))


def key_id(key: str) -> str:
    """Return the id by which a key is listed and revoked; it says nothing about the key."""
    return f"k_{_digest(key).hex()[:16]}"


def caller(ledger: Ledger, header: str | None, roles: Collection[str]) -> Caller:
    """Return whose key is in an Authorization header; raise where it has none of `roles`."""
    bearer = _BEARER.fullmatch(header or "")
    if bearer is None:
        raise Unauthenticated("send a key as `Authorization: Bearer KEY`")
    return bearing(ledger, bearer[1], roles)


def bearing(ledger: Ledger, key: str, roles: Collection[str]) -> Caller:
    """Return whose a key is; raise where it is nobody's, or has none of `roles`."""
    found = ledger.key(_digest(key)) if _KEY.fullmatch(key) else None
    if found is None:
        raise Unauthenticated("the key is not known, or was revoked")
    if found[1] not in roles:
        raise Forbidden(f"this is for the role {' or '.join(roles)}; the key's is {found[1]}")
    return Caller._make(found)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
