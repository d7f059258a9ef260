"""What is due goes: the retention sweep, once a day beside a service, or from the shell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from sectionfour.domain import DAY
from sectionfour.errors import SettingsError
from sectionfour.features import catalog
from sectionfour.learning import audit
from sectionfour.parts import Parts
from sectionfour.privacy import retention
from sectionfour.privacy.retention import Retention

#: Days beyond the longest window that an event is kept at least: no window may miss one.
MARGIN = 7


def sweep(
    parts: Parts,
    at: int,
    *,
    rules: Retention | None = None,
    progress: Callable[[int], object] = lambda count: None,
) -> Counter[str]:
    """Delete what is due at `at`: of the ledger what is not held, and of the windows; of the
    audit set whoever's consent has ended; and whose erasures there were.

    Returns how much, by table; of `windows` it is keys. What goes is older than any window reaches.
    `progress` is told of rows and keys as they go. Raises SettingsError where the rules would take
    what a window still needs.
    """
    rules = rules or retention.load()
    longest = longest_window()
    cutoff = rules.cutoff("security_3y", at)
    if cutoff > at - longest - MARGIN * DAY:
        raise SettingsError(
            f"retention.toml: security_3y is shorter than the longest window, {longest // DAY}"
            f" days, and {MARGIN} more"
        )
    total: Counter[str] = Counter()
    for gone in parts.ledger.sweep(parts.keys, rules, at):
        total += gone
        progress(sum(gone.values()))
    if ended := audit.drop_ended(parts, at):
        total["audit_set"] += ended
    if forgotten := parts.keys.vault.forget_erased(rules.cutoff("audit_3y", at)):
        total["persons.erased"] = forgotten
    if windows := parts.velocity.expire(cutoff, progress):
        total["windows"] = windows
    return total


def longest_window() -> int:
    """Return how far back the longest window reaches, in microseconds."""
    return max(getattr(feature, "over", None) or 0 for feature in catalog.FEATURES)
