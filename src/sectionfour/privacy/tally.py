"""Tallies: one number for many rows, whatever their order, from which any of them can be taken.

A tally is the sum, modulo 2**256, of a keyed digest of each row. Without the key nobody can make
other rows that come to the same sum, so the log vouches by one entry for what an import brought,
and by one entry for all that a sweep or an erasure took away; the rows themselves can go, one by
one. Source of the form: Clarke et al., "Incremental multiset hash functions" (2003), MSet-Add-Hash.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from sectionfour.privacy.keys import Keyring

_MODULUS = 1 << 256


class Tally:
    """A sum that rows and entries are added to and taken from."""

    __slots__ = ("_ring", "total")

    def __init__(self, ring: Keyring) -> None:
        self._ring, self.total = ring, 0

    def row(self, table: str, values: Sequence[Any], *, taken: bool = False) -> None:
        """Add a row of `table`, by its values in the order of the columns; or take it away."""
        self._digest(table.encode() + b"\0" + msgspec.msgpack.encode(values), taken)

    def rows(self, table: str, rows: Iterable[Sequence[Any]]) -> None:
        """Add many rows of `table`, as `row` does one."""
        digest, head = self._ring.digest, b"tally\0" + table.encode() + b"\0"
        encode = msgspec.msgpack.Encoder().encode
        for values in rows:
            self.total += int.from_bytes(digest(head + encode(values)))
        self.total %= _MODULUS

    def entry(self, body: bytes) -> None:
        """Add an entry of the log."""
        self._digest(b"log\0" + body, False)

    def text_of(self, text: str, *, taken: bool = False) -> None:
        """Add what another tally came to, as its `text`; or take it away."""
        self._change(int(text, 16), taken)

    def _digest(self, data: bytes, taken: bool) -> None:
        self._change(int.from_bytes(self._ring.digest(b"tally\0" + data)), taken)

    def _change(self, value: int, taken: bool) -> None:
        self.total = (self.total - value if taken else self.total + value) % _MODULUS

    def text(self) -> str:
        """Return the sum in hexadecimal: 64 digits."""
        return f"{self.total:064x}"
