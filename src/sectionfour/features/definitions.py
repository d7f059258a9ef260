"""What each feature computes, said in a line; and the digest of all that is said."""

from __future__ import annotations

import hashlib
from typing import Any

from sectionfour.domain import EVENT_TYPES, PLACE_KM
from sectionfour.features.catalog import (
    ALONE,
    CLUSTER_BY,
    CLUSTER_OVER,
    DISTINCT_CAP,
    FEATURES,
    HUB_MEMBERS,
    NEWEST,
    SQUARED_CAP,
    STREAMS,
    Row,
    Window,
)


class _Term:
    """Stands in for a value, and remembers in words what a formula does with it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __getattr__(self, name: str) -> Any:
        return _Term(name) if self.text == "f" else lambda *a: _Term(f"{name}{tuple(map(str, a))}")

    def __str__(self) -> str:
        return self.text

    def __add__(self, other: Any) -> _Term:
        return _Term(f"({self} + {other})")

    def __sub__(self, other: Any) -> _Term:
        return _Term(f"({self} - {other})")

    def __mul__(self, other: Any) -> _Term:
        return _Term(f"({self} * {other})")

    def __truediv__(self, other: Any) -> _Term:
        return _Term(f"({self} / {other})")


def definition(feature: Window | Row) -> str:
    """Return what a feature computes, in one line.

    >>> from sectionfour.features.catalog import ROWS
    >>> definition(next(f for f in ROWS if f.name == "account_age"))
    'account_age = ((at - registered_at) / 1000000)'
    """
    if isinstance(feature, Window):
        what = f" {feature.what}" if feature.what else ""
        over = f"by {feature.by} of {feature.of} over {feature.over}"
        return f"{feature.name} = {feature.agg}{what} {over}"
    return f"{feature.name} = {feature.formula(_Term('f'), _Term('o'))}"


def fingerprint() -> str:
    """Return a digest of every definition here: a store or a model of another one is refused."""
    said = [
        *map(definition, FEATURES),
        *(f"{name} is {', '.join(sorted(types))}" for name, types in STREAMS.items()),
        f"clusters by {CLUSTER_BY} over {CLUSTER_OVER}, at most {HUB_MEMBERS} by one, {ALONE}",
        f"the newest {NEWEST}, places in cells of {PLACE_KM} km",
        f"at most {DISTINCT_CAP} distinct, squares of at most {SQUARED_CAP}, {EVENT_TYPES}",
    ]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]
