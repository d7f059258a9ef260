"""Legal holds: the law forbids to delete what is of a person, or of an order.

Placed by one key, lifted by two. Values; no clock, no store.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from sectionfour.errors import Conflict


class Hold(Struct, frozen=True):
    """On one of the two, a person or an order (tokens); `law` says what forbids the deletion.

    Instants are in microseconds, `placed_by` and so on ids of API keys.
    """

    hold_id: str
    subject: bytes | None
    order_ref: bytes | None
    law: str
    placed_at: int
    placed_by: str
    lift_asked_by: str | None = None
    lifted_at: int | None = None
    lifted_by: str | None = None


def lifted(hold: Hold, by: str, at: int) -> Hold:
    """Return the hold once `by` asks for its lifting: the second key to ask lifts it.

    Raises Conflict where it is lifted already, or where the same key asks again.
    """
    if hold.lifted_at is not None:
        raise Conflict("the hold is lifted already")
    if hold.lift_asked_by is None:
        return replace(hold, lift_asked_by=by)
    if hold.lift_asked_by == by:
        raise Conflict("another key than the one that asked has to lift it")
    return replace(hold, lifted_at=at, lifted_by=by)
