"""Which services stand open for a member, and why: for the checkout to ask before it withholds one.

A service is withheld for a no that the member has said, and never for one that nobody asked for;
and only where the regime lets that no cost that service.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from flask import Response
from msgspec import Struct

from sectionfour.privacy import consent
from sectionfour.privacy.consent import ConsentEvent
from sectionfour.privacy.regime import Regime
from sectionfour.web.keys import Caller
from sectionfour.web.routes import Route, Service, answer

Said = Literal["given", "refused", "not_asked"]
_NO = frozenset({consent.REFUSED, consent.WITHDRAWN, "consent_revoked"})


class ServiceState(Struct):
    """`why`: never_withheld, nothing_refused, given (one of those asked for), or refused; and, by
    category or source, what the member has said of it."""

    service: str
    state: Literal["open", "withheld"]
    why: Literal["never_withheld", "nothing_refused", "given", "refused"]
    said: dict[str, Said]


class Services(Struct):
    services: list[ServiceState]


def services_of(service: Service, who: Caller, member_id: str) -> Response:
    """Which services stand open for a member, and why. A no may cost those that the policy names
    and no others; browsing, search, and buying without risk stay open whatever was refused."""
    parts = service.parts
    subject = parts.keys.subject(member_id)
    at = parts.clock()
    events = [] if subject is None else parts.ledger.consents(subject, at)
    return answer(Services(states(parts.regime, consent.by_record(events), at)))


def states(
    regime: Regime, records: Mapping[str, list[ConsentEvent]], at: int
) -> list[ServiceState]:
    """Return where each service of the regime stands after what a member has said.

    For identity any one of the categories that was given is enough: the policy lets whoever gives
    none of them go without those services, not whoever prefers one proof to another.
    """
    found = []
    for service in regime.services.values():
        if service.may_be_withheld == "never":
            found.append(ServiceState(service.key, "open", "never_withheld", {}))
            continue
        said: dict[str, Said] = {
            rule.key: _said(
                regime,
                records,
                at,
                category=rule.key,
                purposes=rule.collected_for,
                explicit=rule.security == "explicit",
            )
            for rule in regime.categories.values()
            if service.key in rule.withholds
        }
        for source in regime.sources.values():
            if service.key in source.withholds:
                said[source.key] = _said(
                    regime, records, at, source=source.key, purposes=source.serves
                )
        given, refused = "given" in said.values(), "refused" in said.values()
        if not refused:
            found.append(ServiceState(service.key, "open", "nothing_refused", said))
        elif given and service.may_be_withheld == "for_identity":
            found.append(ServiceState(service.key, "open", "given", said))
        else:
            found.append(ServiceState(service.key, "withheld", "refused", said))
    return found


def _said(
    regime: Regime,
    records: Mapping[str, list[ConsentEvent]],
    at: int,
    *,
    purposes: tuple[str, ...],
    category: str | None = None,
    source: str = "first_party",
    explicit: bool = False,
) -> Said:
    """Return what the records say of one category, or of one kind of source, for `purposes`.

    A yes that stands outweighs a no to something else: consent can be given anew. Of yes and no to
    one thing the later counts, as at the gate.
    """

    def about(said: ConsentEvent) -> set[str]:
        """Return the categories of this question that are named, where it is one."""
        # Sensitive data are asked from whoever holds them: what counts is the category alone.
        here = explicit or said.source.partition(":")[0] == source
        serves = any(regime.covers(said.purpose, purpose) for purpose in purposes)
        named = {c for c in said.categories if category in (None, c.partition(":")[0])}
        return named if here and serves else set()

    noes = [no for events in records.values() for no in consent.refusals(events) if about(no)]
    no = False
    for events in records.values():
        first = events[0]
        named = about(first)
        if not named:
            continue
        state = consent.state(events, at)
        for yes in consent.live(events, at):
            refused = {c for no in noes if consent.is_later(no, yes) for c in about(no)}
            left = {c for c in named if refused.isdisjoint((c, c.partition(":")[0]))}
            explicitly = yes.event_type == consent.EXPLICIT and len(yes.categories) == 1
            if left and (explicitly or not explicit):
                return "given"
        no = no or state in _NO
    return "refused" if no else "not_asked"


ROUTES = (
    Route(
        method="GET",
        path="/v1/members/{member_id}/services",
        handle=services_of,
        tag="Consent",
        roles=("checkout", "consent", "privacy"),
        answers={200: Services},
    ),
)
