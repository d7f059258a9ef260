"""Whose windows a store holds: its stamp begins with the name of a home, whatever else it says.

    HOME                        not whole
    HOME [FORM, catalog, run]   whole, and what they were made by

Tokens of two homes have nothing in common, nor have their pasts.
"""

from __future__ import annotations

import re

ANOTHERS = (
    "these windows are those of another home: each home needs a store, or a database, of its own"
)
#: What names a home: 16 hexadecimal digits. A stamp from before homes were told apart has none.
_NAMED = re.compile(rb"[0-9a-f]{16}")


def another_s(stamp: bytes | None, home: bytes) -> bool:
    """Whether a store with this stamp is not that of `home`. No home is whoever only looks."""
    named = _NAMED.match(stamp or b"")
    return bool(home) and named is not None and named[0] != home
