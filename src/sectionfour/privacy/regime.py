"""The policy as data: `regime.toml` read into one frozen value that answers what may be used.

What for, from whom, what each exception needs, what refusing may cost. Nothing here knows of a
person, a clock or a store; the reading of the policy itself is in the file, not here. A look-up
that the gate makes for every call is an access to a dictionary.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from sectionfour.errors import BadRequest, RegimeError
from sectionfour.privacy import contradictions, reading
from sectionfour.privacy.tables import (
    Admission,
    BasisStep,
    CategoryRule,
    ExceptionRule,
    PurposeRule,
    Rule,
    ServiceRule,
    SourceRule,
    Umbrella,
    Why,
)

LISTS = (
    "purposes", "categories", "sources", "services", "controllers", "threats", "permissions",
)  # fmt: skip
TABLES = ("purposes", "categories", "sources", "services", "exceptions")
#: The fields of a device, its identifier by whose it is: each has its permission, or none by name.
TOLD_BY_A_DEVICE = (
    "device.model",
    "device.os",
    "device.id.app",
    "device.id.advertising",
    "device.id.hardware",
)
EXCEPTIONS = tuple(str(number) for number in range(1, 12))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Regime:
    """The whole file, checked. Mappings are read-only and keep the order of the file's lists."""

    digest: str
    bases: tuple[BasisStep, ...]
    umbrella: str
    umbrella_purposes: tuple[str, ...]
    purposes: Mapping[str, PurposeRule]
    categories: Mapping[str, CategoryRule]
    sources: Mapping[str, SourceRule]
    services: Mapping[str, ServiceRule]
    exceptions: Mapping[int, ExceptionRule]
    threats: tuple[str, ...]
    permissions: Mapping[str, str | None]  # by what a device tells
    masked: Mapping[str, str]
    never_withheld: tuple[str, ...]
    training: PurposeRule
    contract: ExceptionRule
    covered: frozenset[tuple[str, str]]
    withheld_for: Mapping[str, frozenset[str]]
    admits: Mapping[tuple[str, str], Mapping[str, Admission]]  # by (purpose, source), by category

    def purpose(self, name: str, *, pointer: str = "/purpose") -> PurposeRule:
        """Return the purpose asked for, or raise BadRequest; the message does not repeat it."""
        rule = self.purposes.get(name)
        if rule is None:
            raise BadRequest(
                f"a purpose must be one of {', '.join(self.purposes)}", pointer=pointer
            )
        return rule

    def category(self, key: str, *, pointer: str = "/categories") -> CategoryRule:
        """Return a category, or raise BadRequest; the message does not repeat what was asked."""
        rule = self.categories.get(key)
        if rule is None:
            raise BadRequest(
                f"a category must be one of {', '.join(self.categories)}", pointer=pointer
            )
        return rule

    def data(self, text: str, *, pointer: str = "/categories") -> CategoryRule:
        """Return the category that a consent names, alone or with a type: "CATEGORY:TYPE".

        Raises BadRequest for what is not in the closed lists.
        """
        key, colon, kind = text.partition(":")
        rule = self.category(key, pointer=pointer)
        if colon:
            self.type_of(rule, kind, pointer=pointer)
        return rule

    def type_of(self, rule: CategoryRule, kind: str, *, pointer: str) -> str:
        """Return `kind`, a type of document of a category, or raise BadRequest."""
        if kind not in rule.types:
            types = ", ".join(rule.types) or "none: leave it out"
            raise BadRequest(f"the types of {rule.key} are {types}", pointer=pointer)
        return kind

    def threat(self, name: str, *, pointer: str = "/threat_type") -> str:
        """Return a threat of the closed list, or raise BadRequest (R-30)."""
        if name not in self.threats:
            raise BadRequest(f"a threat must be one of {', '.join(self.threats)}", pointer=pointer)
        return name

    def permission_of(self, kind: str | None, *, pointer: str = "/device/id_kind") -> str | None:
        """Return the permission that an identifier of a device needs, by whose it is; or raise
        BadRequest. One of which nothing is said is the app's own."""
        place = f"device.id.{kind or 'app'}"
        if place not in self.permissions:
            kinds = (key.rpartition(".")[2] for key in self.permissions if ".id." in key)
            raise BadRequest(f"a kind must be one of {', '.join(kinds)}", pointer=pointer)
        return self.permissions[place]

    def source(self, text: str, *, pointer: str = "/source") -> SourceRule:
        """Return the rule for `first_party`, `affiliate:ID` and so on, or raise BadRequest.

        A source that needs an attestation names its provider; no other does. The name has something
        to see and no control character, of which PostgreSQL has one in no text.
        """
        rule = self.sources.get(text)
        if rule is not None and not rule.grounds:
            return rule
        kind, colon, provider = text.partition(":")
        rule = self.sources.get(kind)
        named = bool(provider.strip()) and provider.isprintable()
        if rule is None or named != rule.attestation or bool(colon) != rule.attestation:
            forms = (f"{s.key}:ID" if s.attestation else s.key for s in self.sources.values())
            raise BadRequest(f"a source must be one of {', '.join(forms)}", pointer=pointer)
        return rule

    def exception(self, number: int) -> ExceptionRule:
        """Return an exception of section Six by its number, or raise BadRequest."""
        rule = self.exceptions.get(number)
        if rule is None:
            raise BadRequest("exception must be a number from 1 to 11", pointer="/exception")
        return rule

    @property
    def offices(self) -> tuple[str, ...]:
        """The offices that approve or ratify exceptions: a key may bear one."""
        named = (o for rule in self.exceptions.values() for o in rule.approvers + rule.ratifiers)
        return tuple(dict.fromkeys(named))

    def stands_for(self, name: str, *, pointer: str = "/purpose") -> tuple[str, ...]:
        """Return the purposes that a notice or a consent means by `name`: itself, or several.

        Raises BadRequest for a name that is neither a purpose nor the umbrella.
        """
        if name == self.umbrella:
            return self.umbrella_purposes
        return (self.purpose(name, pointer=pointer).id,)

    def covers(self, consent_purpose: str, use_purpose: str) -> bool:
        """Whether a consent given for one purpose holds for a use under another."""
        return (consent_purpose, use_purpose) in self.covered

    def admission(self, purpose: str, category: str, source: str = "first_party") -> Admission:
        """Return how far a category from a kind of source may serve a purpose: the whole matrix."""
        return self.admits[purpose, source][category]

    def matrix(self) -> dict[str, dict[str, dict[str, dict[str, list[str]]]]]:
        """Return by category, source and purpose of collection: what each use needs.

        `same` is the purpose itself; yes, named and explicit are those of section Four; all others
        are a change of purpose, and need `prior_consent` for that very purpose (section Five).
        """
        found: dict[str, dict[str, dict[str, dict[str, list[str]]]]] = {}
        for category in self.categories.values():
            for source in self.sources:
                for collected in category.collected_for:
                    cells: dict[str, list[str]] = {}
                    for use in self.purposes:
                        how: str = self.admission(use, category.key, source)
                        if how == "denied":
                            how = "prior_consent"
                        elif use == collected and how == "yes":
                            how = "same"
                        cells.setdefault(how, []).append(use)
                    found.setdefault(category.key, {}).setdefault(source, {})[collected] = cells
        return found

    def mask(self, categories: Iterable[str]) -> int:
        """Return the bitmask that stands for `categories` in what is stored."""
        return sum(self.categories[key].bit for key in set(categories))

    def unmask(self, mask: int) -> tuple[str, ...]:
        """Return the categories that a stored bitmask stands for, in the order of the file."""
        return tuple(key for key, rule in self.categories.items() if mask & rule.bit)

    def withholdable_services(self, missing: Iterable[str]) -> tuple[str, ...]:
        """Return the services that want of these categories or sources may cost; no others."""
        held: set[str] = set()
        for key in missing:
            held |= self.withheld_for[key]
        return tuple(service for service in self.services if service in held)


def load(path: Path | None = None) -> Regime:
    """Return the regime in the file at `path`, or the one that comes with the package.

    Raises RegimeError, naming the key, where the file cannot be read or does not hold.
    """
    if path is None:
        return _packaged()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RegimeError(f"{path.name}: cannot be read: {error.strerror}") from error
    return parse(data)


@cache
def _packaged() -> Regime:
    return parse(resources.files("sectionfour.privacy").joinpath("regime.toml").read_bytes())


def parse(data: bytes) -> Regime:
    """Return the regime that the bytes of a TOML file hold; RegimeError where they do not hold."""
    try:
        file = tomllib.loads(data.decode())
    except ValueError as error:  # not UTF-8, or not TOML
        raise RegimeError(f"not a TOML file: {error}") from error
    return assemble(file, digest=hashlib.sha256(data).hexdigest())


def assemble(file: Mapping[str, Any], *, digest: str) -> Regime:
    """Return the regime that the tables of a file make, or raise RegimeError."""
    reading.same_names("", file, ("bases", "lists", "umbrella", "masked", "permissions", *TABLES))
    bases = reading.convert(tuple[BasisStep, ...], file["bases"], "bases")
    reading.no_name_twice("bases", bases)
    reading.same_names("bases", bases, get_args(BasisStep))
    if bases != get_args(BasisStep):  # the gate's own; the file tells it to who reads no code
        raise RegimeError(f"bases: the order is {', '.join(get_args(BasisStep))}")
    masked = reading.read_plain(str, file["masked"], "masked", get_args(Why))
    permissions = reading.read_plain(str, file["permissions"], "permissions", TOLD_BY_A_DEVICE)
    for told, needed in permissions.items():
        if not needed:
            raise RegimeError(f"permissions.{told}: is empty; write 'none' where none is needed")
    names = _names(file["lists"])

    umbrella = reading.read(Umbrella, file["umbrella"], "umbrella", names, {})
    if umbrella.name in reading.WORDS.union(names["purposes"]):
        raise RegimeError(f"umbrella.name: {umbrella.name!r} has a meaning already")
    words = {umbrella.name: umbrella.stands_for}
    purposes = reading.read_all(PurposeRule, file, "purposes", names, words)
    categories = reading.read_all(CategoryRule, file, "categories", names, words)
    sources = reading.read_all(SourceRule, file, "sources", names, words)
    services = reading.read_all(ServiceRule, file, "services", names, words)
    exceptions = reading.read_all(ExceptionRule, file, "exceptions", names, words)

    training = _the_only("trains", "purposes", purposes)
    contract = exceptions[_the_only("auto", "exceptions", exceptions)]
    for place, (key, category) in enumerate(categories.items()):
        on_minimal_list = key in contract.categories
        categories[key] = replace(category, bit=1 << place, contract=on_minimal_list)
    for key, purpose in purposes.items():
        admits = {c.key: _admission(purpose, c) for c in categories.values()}
        purposes[key] = replace(purpose, admits=MappingProxyType(admits))

    refusable: list[CategoryRule | SourceRule] = [*categories.values(), *sources.values()]
    regime = Regime(
        digest=digest,
        bases=bases,
        umbrella=umbrella.name,
        umbrella_purposes=umbrella.stands_for,
        purposes=MappingProxyType(purposes),
        categories=MappingProxyType(categories),
        sources=MappingProxyType(sources),
        services=MappingProxyType(services),
        exceptions=MappingProxyType({rule.number: rule for rule in exceptions.values()}),
        threats=names["threats"],
        permissions=MappingProxyType(
            {key: None if value == "none" else value for key, value in permissions.items()}
        ),
        masked=MappingProxyType(masked),
        never_withheld=tuple(s.key for s in services.values() if s.may_be_withheld == "never"),
        training=purposes[training],
        contract=contract,
        covered=frozenset(
            [(key, key) for key in purposes] + [(umbrella.name, p) for p in umbrella.stands_for]
        ),
        withheld_for=MappingProxyType({r.key: frozenset(r.withholds) for r in refusable}),
        admits=MappingProxyType(
            {
                (purpose.id, source.key): MappingProxyType(_admitted(purpose, source))
                for purpose in purposes.values()
                for source in sources.values()
            }
        ),
    )
    _refuse_contradictions(regime, umbrella, file)
    return regime


def _names(lists: Any) -> dict[str, tuple[str, ...]]:
    names = reading.read_plain(tuple[str, ...], lists, "lists", LISTS)
    for key, listed in names.items():
        reading.no_name_twice(f"lists.{key}", listed)
        for word in reading.WORDS.intersection(listed):
            raise RegimeError(f"lists.{key}: {word!r} has a meaning already")
    for where, why in contradictions.in_lists(names):
        raise RegimeError(f"lists.{where}: {why}")
    return names | {"exceptions": EXCEPTIONS}


def _the_only(flag: str, table: str, rows: Mapping[str, Rule]) -> str:
    flagged = [key for key, rule in rows.items() if getattr(rule, flag)]
    if len(flagged) != 1:
        those = ", ".join(f"{table}.{key}.{flag}" for key in flagged) or "none"
        raise RegimeError(f"{table}: exactly one has {flag} = true, here {those}")
    return flagged[0]


def _admission(purpose: PurposeRule, category: CategoryRule) -> Admission:
    if purpose.section_four:
        return category.security
    return "yes" if purpose.id in category.collected_for else "denied"


def _admitted(purpose: PurposeRule, source: SourceRule) -> dict[str, Admission]:
    serves = purpose.id in source.serves
    return {
        key: admission if serves and key in source.brings else "denied"
        for key, admission in purpose.admits.items()
    }


def _refuse_contradictions(regime: Regime, umbrella: Umbrella, file: Mapping[str, Any]) -> None:
    purposes, categories, services = regime.purposes, regime.categories, regime.services
    listed = file["lists"]["permissions"]
    found = [("umbrella", contradictions.in_umbrella(umbrella, purposes))]
    for purpose in purposes.values():
        where = f"purposes.{purpose.id}"
        found.append((where, contradictions.in_purpose(purpose)))
        found.append((where, contradictions.in_guests(purpose, categories, regime.contract)))
    for category in categories.values():
        where = f"categories.{category.key}"
        found.append((where, contradictions.in_category(category, categories, purposes)))
        found.append((where, contradictions.in_refusal(category, services)))
    for source in regime.sources.values():
        found.append((f"sources.{source.key}", contradictions.in_source(source)))
        found.append((f"sources.{source.key}", contradictions.in_refusal(source, services)))
    for service in services.values():
        found.append((f"services.{service.key}", contradictions.in_service(service, file)))
    for exception in regime.exceptions.values():
        found.append((f"exceptions.{exception.key}", contradictions.in_exception(exception)))
    found.append(
        (f"exceptions.{regime.contract.key}", contradictions.in_contract(regime.contract, purposes))
    )
    found.append(("lists", contradictions.in_models(purposes)))
    found.append(("lists", contradictions.in_sources(regime.sources, categories)))
    found.append(("lists", contradictions.in_permissions(regime.permissions, categories, listed)))
    for where, faults in found:
        for key, why in faults:
            raise RegimeError(f"{where}.{key}: {why}")
