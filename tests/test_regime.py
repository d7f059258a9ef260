"""The regime: the file says what the policy asks, and a file that does not hold is refused.

The tables here are written by hand from the policy, not read from the file.
"""

from __future__ import annotations

import copy
import hashlib
import tomllib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sectionfour.errors import BadRequest, RegimeError
from sectionfour.given import Device, Location
from sectionfour.privacy.regime import Regime, assemble, load, parse

PACKAGED = resources.files("sectionfour.privacy").joinpath("regime.toml").read_bytes()
FILE = tomllib.loads(PACKAGED.decode())

SCORES = {
    "membership.provide": None,
    "membership.personalise": None,
    "personalise.recommend": None,
    "marketing.push": None,
    "order.deliver": None,
    "order.pay": None,
    "order.display": None,
    "support.communicate": None,
    "dispute.resolve": None,
    "affiliate.one_stop": None,
    "security.account_risk": "account",
    "security.transaction_risk": "transaction",
    "security.identity_verification": "account",
    "security.incident_detection": "account",
    "security.rule_violation": "account",
    "security.record_audit_analyse": None,
    "security.disposal": None,
}
SECURITY = tuple(purpose for purpose in SCORES if purpose.startswith("security."))

IDENTITY_ONLY = ("account_management", "create_store", "sell_goods", "continue_risky_transaction")
OWN_DATA_ONLY = (
    "membership_registration",
    "personalised_membership",
    "delivery",
    "pay_by_method",
    "permission_features",
    "support_quality",
    "affiliate_products",
    "affiliate_display",
    "personalised_display",
)
NEVER_WITHHELD = ("browsing", "search", "purchase", "trading")
SERVICES = NEVER_WITHHELD + IDENTITY_ONLY + OWN_DATA_ONLY
CORE = {"browsing", "search", "purchase", "trading"}

#: key: (sensitive, for security, on the contract's list, permission, withholds, never affects)
CATEGORIES = {
    "member.required": (
        False, "yes", True, None, {"membership_registration"}, {"browsing", "search"},
    ),
    "member.optional": (
        False, "named", False, None, {"personalised_membership"},
        {"browsing", "search", "purchase"},
    ),
    "identity.document": (
        True, "explicit", False, None, set(IDENTITY_ONLY), set(SERVICES) - set(IDENTITY_ONLY),
    ),
    "biometric.face": (
        True, "explicit", False, None, set(IDENTITY_ONLY), set(SERVICES) - set(IDENTITY_ONLY),
    ),
    "credit.realname": (
        True, "explicit", False, None, set(IDENTITY_ONLY), set(SERVICES) - set(IDENTITY_ONLY),
    ),
    "order": (False, "yes", True, None, set(), set()),
    "consignee": (False, "yes", False, None, {"delivery"}, set()),
    "payment": (False, "yes", True, None, {"pay_by_method"}, {"browsing", "search"}),
    "device": (False, "yes", False, None, {"permission_features"}, CORE),
    "location": (False, "yes", False, "location.ip", {"permission_features"}, CORE),
    "location.gps": (False, "named", False, "location.gps", {"permission_features"}, CORE),
    "log": (False, "yes", False, None, set(), set()),
    "communication": (
        True, "denied", False, None, {"support_quality"}, set(SERVICES) - {"support_quality"},
    ),
    "indirect.counterparty": (False, "yes", False, None, set(), set()),
    "profile.tag": (False, "denied", False, None, {"personalised_display"}, CORE),
    "derived.risk": (False, "yes", False, None, set(), set()),
    "location.wifi": (False, "named", False, "location.wifi", {"permission_features"}, CORE),
    "location.bluetooth": (
        False, "named", False, "location.bluetooth", {"permission_features"}, CORE,
    ),
    "location.base_station": (
        False, "named", False, "location.base_station", {"permission_features"}, CORE,
    ),
}  # fmt: skip

#: number: (approvals, days, routine scoring, operations that it can ever cover)
EXCEPTIONS = {
    1: (2, 30, "no", {"collect", "dispose", "export"}),
    2: (2, 30, "no", {"collect", "dispose", "export"}),
    3: (2, 90, "no", {"collect", "dispose", "export"}),
    4: (1, 3, "incident", {"collect", "score", "dispose"}),
    5: (1, 90, "source_tag", {"collect", "score"}),
    6: (1, 90, "source_tag", {"collect", "score"}),
    7: (1, 30, "order", {"collect", "score"}),
    8: (2, 14, "no", {"collect"}),
    9: (1, 0, "no", set()),
    10: (2, 365, "no", {"collect", "export"}),
    11: (1, 180, "if_memo", {"collect", "score", "train", "dispose", "export"}),
}


@pytest.fixture(scope="module")
def regime() -> Regime:
    return load()


# --- what the file says ----------------------------------------------------------------------


def test_the_purposes_are_the_closed_list_and_only_section_four_scores(regime):
    assert {key: rule.scores for key, rule in regime.purposes.items()} == SCORES
    assert tuple(key for key, rule in regime.purposes.items() if rule.section_four) == SECURITY


def test_one_purpose_trains_and_it_scores_nothing(regime):
    trains = [key for key, rule in regime.purposes.items() if rule.trains]
    assert trains == ["security.record_audit_analyse"]
    assert regime.training is regime.purposes["security.record_audit_analyse"]


def test_a_security_purpose_cannot_do_without_the_member_and_a_transaction_without_its_order(
    regime,
):
    for key in SECURITY:
        wanted = ("member.required",)
        if key == "security.transaction_risk":
            wanted += ("order",)
        assert regime.purposes[key].requires == wanted


def test_guests_may_come_for_incident_detection_alone_with_device_location_and_log(regime):
    guests = {
        key: rule.guest_categories for key, rule in regime.purposes.items() if rule.guests_may
    }
    assert guests == {"security.incident_detection": ("device", "location", "log")}


def test_the_categories_are_the_closed_list_with_what_refusing_each_may_cost(regime):
    read = {
        key: (
            rule.sensitive,
            rule.security,
            rule.contract,
            rule.permission,
            set(rule.withholds),
            set(rule.never_affects),
        )
        for key, rule in regime.categories.items()
    }
    assert read == CATEGORIES


def test_the_bits_of_stored_masks_do_not_move(regime):
    assert [rule.bit for rule in regime.categories.values()] == [1 << n for n in range(19)]
    assert list(regime.categories) == list(CATEGORIES)
    assert regime.unmask(regime.mask(["log", "order", "log"])) == ("order", "log")


def test_only_a_consignee_is_a_third_person_and_only_checks_are_known_by_their_result(regime):
    third = [key for key, rule in regime.categories.items() if rule.third_person]
    results = [key for key, rule in regime.categories.items() if rule.result_only]
    assert third == ["consignee"]
    assert results == ["identity.document", "biometric.face", "credit.realname"]
    parts = {key for key, rule in regime.categories.items() if rule.part_of == "location"}
    assert parts == {key for key in CATEGORIES if key.startswith("location.")}


def test_affiliates_and_partners_need_an_attestation_and_cost_no_core_service(regime):
    needed = [key for key, rule in regime.sources.items() if rule.attestation]
    assert list(regime.sources) == ["first_party", "affiliate", "partner", "counterparty", "public"]
    assert needed == ["affiliate", "partner"]
    for key in needed:
        rule = regime.sources[key]
        assert set(rule.grounds) == {"subject_authorised", "statutory"}
        assert set(rule.withholds) == {"affiliate_products", "affiliate_display"}
        assert set(rule.never_affects) == {"browsing", "search", "trading"}


def test_refusing_identity_data_may_withhold_exactly_four_services(regime):
    assert tuple(regime.services) == SERVICES
    for key in ("identity.document", "biometric.face", "credit.realname"):
        assert regime.withholdable_services([key]) == IDENTITY_ONLY
    for key in regime.categories.keys() - {
        "identity.document",
        "biometric.face",
        "credit.realname",
    }:
        assert not set(IDENTITY_ONLY).intersection(regime.withholdable_services([key]))


def test_no_refusal_of_anything_touches_browsing_search_or_buying_without_risk(regime):
    everything = [*regime.categories, *regime.sources]
    assert regime.never_withheld == NEVER_WITHHELD
    assert not set(NEVER_WITHHELD).intersection(regime.withholdable_services(everything))
    assert regime.withholdable_services([]) == ()


def test_the_exceptions_are_eleven_with_their_approvals_lives_and_operations(regime):
    read = {
        number: (rule.approvals, rule.max_life_days, rule.routine_scoring, set(rule.operations))
        for number, rule in regime.exceptions.items()
    }
    assert read == EXCEPTIONS


def test_what_is_special_to_single_exceptions(regime):
    def numbers(flag: str) -> list[int]:
        return [n for n, rule in regime.exceptions.items() if getattr(rule, flag)]

    assert numbers("never") == [9]
    assert numbers("sealed_possible") == [3]
    assert numbers("auto") == [7]
    assert numbers("ratifiers") == [4]
    assert regime.exceptions[4].ratify_within_hours == 24
    assert numbers("live_score") == [4, 5, 6, 7, 11]
    assert regime.exceptions[8].operations.isdisjoint({"train", "dispose"})
    places = {key for key in CATEGORIES if key.startswith("location")}
    assert regime.exceptions[8].categories == {"device", "log"} | places
    assert regime.exceptions[5].sources == regime.exceptions[6].sources == {"public"}
    assert all(rule.documents for n, rule in regime.exceptions.items() if n != 9)


def test_the_contract_holds_its_minimal_list_for_transaction_risk_alone(regime):
    assert regime.contract is regime.exceptions[7]
    assert regime.contract.categories == {"member.required", "order", "payment"}
    assert regime.contract.purposes == {"security.transaction_risk"}


def test_a_basis_is_looked_for_in_the_order_of_the_requirements(regime):
    assert regime.bases == ("explicit_consent", "consent", "contract", "exception")


def test_the_codes_for_masking_and_the_threats_are_closed(regime):
    assert set(regime.masked) == {
        "no_basis", "purpose_change", "no_permission", "no_attestation", "third_person", "default",
    }  # fmt: skip
    assert regime.threats == (
        "phishing", "fraud", "vulnerability", "virus", "attack", "intrusion",
    )  # fmt: skip


# --- look-ups --------------------------------------------------------------------------------


def test_security_covers_section_four_and_a_purpose_covers_itself(regime):
    for use in regime.purposes:
        assert regime.covers("security", use) is (use in SECURITY)
        for given_for in regime.purposes:
            assert regime.covers(given_for, use) is (given_for == use)
    assert not regime.covers("anything", "security.account_risk")
    assert regime.stands_for("security") == SECURITY
    assert regime.stands_for("order.pay") == ("order.pay",)


def test_outside_section_four_a_category_serves_what_it_was_collected_for(regime):
    assert regime.admission("order.deliver", "consignee") == "yes"
    assert regime.admission("order.deliver", "device") == "denied"
    assert regime.admission("marketing.push", "derived.risk") == "denied"
    assert regime.admission("support.communicate", "communication") == "yes"
    for purpose in SECURITY:
        for key, row in CATEGORIES.items():
            assert regime.admission(purpose, key) == row[1]


def test_everything_that_a_device_tells_names_its_permission_or_none_by_name(regime):
    """R-14: no field of a device may be added and forgotten here."""
    told = set(Device.__struct_fields__) - {"guard", "permissions", "id_kind"}
    assert {key.split(".")[1] for key in regime.permissions} == told
    assert dict(regime.permissions) == {
        "device.model": None,
        "device.os": None,
        "device.id.app": None,
        "device.id.advertising": "device.tracking",
        "device.id.hardware": "device.identifiers",
    }
    assert regime.permission_of(None) is regime.permission_of("app") is None
    for name in set(Location.__struct_fields__) - {"guard"}:
        key = "location" if name == "ip" else f"location.{name}"
        assert regime.categories[key].permission == f"location.{name}"


def test_a_source_serves_and_brings_only_what_the_file_lists(regime):
    assert regime.admission("security.account_risk", "device", "partner") == "yes"
    assert regime.admission("order.display", "device", "partner") == "denied"
    assert regime.admission("security.transaction_risk", "payment", "counterparty") == "yes"
    assert regime.admission("security.transaction_risk", "device", "counterparty") == "denied"


@pytest.mark.parametrize(
    "text", ["first_party", "counterparty", "public", "partner:p", "affiliate:a:b"]
)
def test_a_source_is_one_of_the_list_with_its_provider(regime, text):
    assert regime.source(text) is regime.sources[text.partition(":")[0]]


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "partner",
        "partner:",
        "first_party:x",
        "first_party:",
        "Public",
        "friend:x",
        "partner: ",
        "partner:a\0b",
        "partner:a\nb",
        "public: ",
        "public:\0",
    ],
)
def test_any_other_source_is_refused(regime, text):
    with pytest.raises(BadRequest) as refused:
        regime.source(text, pointer="/sources/device")
    assert refused.value.pointer == "/sources/device"


@given(st.text())
def test_an_unknown_name_is_refused_at_its_field_and_not_repeated(text):
    regime = load()
    for look_up, known, pointer in (
        (regime.purpose, regime.purposes, "/purpose"),
        (regime.stands_for, {*regime.purposes, "security"}, "/purpose"),
        (regime.category, regime.categories, "/categories"),
    ):
        if text not in known:
            with pytest.raises(BadRequest) as refused:
                look_up(f"ann@example.com {text}")
            assert refused.value.pointer == pointer
            assert "ann@example.com" not in refused.value.detail


@pytest.mark.parametrize("number", [-1, 0, 12])
def test_there_is_no_twelfth_exception(regime, number):
    with pytest.raises(BadRequest):
        regime.exception(number)


def test_nothing_of_a_regime_can_be_changed(regime):
    with pytest.raises(AttributeError):
        regime.digest = ""
    with pytest.raises(AttributeError):
        regime.categories["log"].security = "denied"
    for mapping in (
        regime.purposes,
        regime.purposes["security.disposal"].admits,
        regime.exceptions,
    ):
        with pytest.raises(TypeError):
            mapping["log"] = None


def test_the_digest_is_that_of_the_file(regime, tmp_path):
    assert regime.digest == hashlib.sha256(PACKAGED).hexdigest()
    changed = tmp_path / "regime.toml"
    changed.write_bytes(PACKAGED + b"\n# read by counsel\n")
    assert load(changed).digest == hashlib.sha256(changed.read_bytes()).hexdigest()
    assert load() is regime


# --- files that do not hold ------------------------------------------------------------------


def changed(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The packaged file with the value at `path` replaced, added, or (where None) taken out."""
    file = place = dict(FILE)
    for key in path[:-1]:
        place[key] = dict(place[key])
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return file


def keys(table: Any = FILE, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every key of the file, tables and rows included."""
    for key, value in table.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from keys(value, (*path, key))


def at(path: tuple[str, ...]) -> Any:
    value: Any = FILE
    for key in path:
        value = value[key]
    return value


KEYS = list(keys())


def refusal(file: dict[str, Any]) -> str:
    with pytest.raises(RegimeError) as refused:
        assemble(file, digest="")
    return refused.value.detail


@pytest.mark.parametrize("table", sorted(FILE))
def test_a_file_with_any_key_taken_out_is_refused_naming_it(table):
    paths = [path for path in KEYS if path[0] == table]
    for path in paths:
        assert refusal(changed(path, None)).startswith(f"{'.'.join(path)}: missing")
    assert paths


@pytest.mark.parametrize("table", ["", *sorted(FILE.keys() - {"bases"})])
def test_a_file_with_an_unknown_key_anywhere_is_refused_naming_it(table):
    places = [path for path in [(), *KEYS] if ".".join(path[:1]) == table]
    for path in places:
        if path == () or isinstance(at(path), dict):
            named = ".".join((*path, "colour"))
            assert refusal(changed((*path, "colour"), "blue")).startswith(f"{named}: unknown")
    assert places


@pytest.mark.parametrize("table", sorted(FILE))
def test_a_file_with_a_value_of_another_kind_is_refused_naming_its_key(table):
    for path in KEYS:
        if path[0] == table:
            for wrong in (0.5, [[1]], [None], {"colour": 1}):
                assert refusal(changed(path, wrong)).startswith(".".join(path))


@pytest.mark.parametrize("name", ["purposes", "categories", "sources", "services"])
def test_a_name_taken_off_the_closed_lists_is_refused_naming_it(name):
    for listed in FILE["lists"][name]:
        rest = [other for other in FILE["lists"][name] if other != listed]
        assert listed in refusal(changed(("lists", name), rest))


def test_a_name_used_but_not_declared_is_refused_where_it_is_used():
    lists = ("requires", "guest_categories", "collected_for", "withholds", "never_affects",
             "brings", "serves", "categories", "purposes", "sources")  # fmt: skip
    seen = set()
    for path in KEYS:
        if len(path) == 3 and path[2] in lists:
            seen.add(path[2])
            message = refusal(changed(path, [*at(path), "nowhere"]))
            assert message.startswith(f"{'.'.join(path)}: unknown name 'nowhere'")
    assert seen == set(lists)


def test_a_name_given_twice_is_refused():
    for path in KEYS:
        value = at(path)
        if isinstance(value, list) and value:
            message = refusal(changed(path, [*value, value[0]]))
            assert message.startswith(f"{'.'.join(path)}: {value[0]!r} is there twice")


#: What is changed, to what, and how the refusal begins.
CONTRADICTIONS = [
    (
        "categories.identity.document.security",
        "yes",
        "categories.identity.document.security: 'yes'",
    ),
    ("categories.communication.security", "named", "categories.communication.security: 'named'"),
    ("categories.log.sensitive", True, "categories.log.security: 'yes' is too little"),
    ("categories.log.security", "perhaps", "categories.log.security: "),
    ("categories.device.never_affects", ["permission_features"], "categories.device.never_affects"),
    ("categories.device.withholds", ["browsing"], "categories.device.never_affects: 'browsing'"),
    ("categories.log.withholds", ["browsing"], "categories.log.withholds: services.browsing"),
    ("categories.log.withholds", ["sell_goods"], "categories.log.withholds: services.sell_goods"),
    ("categories.biometric.face.withholds", ["delivery"], "categories.biometric.face.withholds"),
    ("categories.member.required.security", "denied", "purposes.security.account_risk.requires"),
    ("categories.order.security", "named", "purposes.security.transaction_risk.requires: 'order'"),
    ("categories.payment.security", "denied", "exceptions.7.categories: 'payment'"),
    (
        "categories.profile.tag.collected_for",
        ["security.account_risk"],
        "categories.profile.tag.collected_for: is denied for security",
    ),
    ("categories.log.collected_for", [], "categories.log.collected_for: no purpose"),
    ("categories.location.gps.part_of", "place", "categories.location.gps.part_of: 'place'"),
    ("categories.location.gps.part_of", "location.gps", "categories.location.gps.part_of: "),
    ("sources.partner.withholds", ["search"], "sources.partner.never_affects: 'search'"),
    ("sources.partner.never_affects", ["affiliate_display"], "sources.partner.never_affects"),
    ("sources.partner.grounds", ["custom"], "sources.partner.grounds[0]: "),
    (
        "services.delivery.may_be_withheld",
        "never",
        "categories.consignee.withholds: services.deliv",
    ),
    ("services.browsing.may_be_withheld", "for_own_data", "services.browsing.may_be_withheld"),
    ("purposes.order.pay.scores", "transaction", "purposes.order.pay.scores: only a purpose of"),
    ("purposes.order.pay.trains", True, "purposes: exactly one has trains"),
    ("purposes.security.account_risk.trains", True, "purposes: exactly one has trains"),
    ("purposes.security.record_audit_analyse.trains", False, "purposes: exactly one has trains"),
    ("purposes.security.record_audit_analyse.scores", "account", "purposes.security.record_audit"),
    ("purposes.security.transaction_risk.scores", "none", "lists.purposes: none scores with"),
    ("purposes.security.transaction_risk.section", "Three", "umbrella.stands_for: "),
    (
        "purposes.security.account_risk.requires",
        ["communication"],
        "purposes.security.account_risk",
    ),
    (
        "purposes.security.account_risk.requires",
        ["biometric.face"],
        "purposes.security.account_risk",
    ),
    (
        "purposes.security.incident_detection.guest_categories",
        ["location.gps"],
        "purposes.security.incident_detection.guest_categories: 'location.gps' is 'named'",
    ),
    ("purposes.order.pay.guest_categories", ["payment"], "purposes.order.pay.guest_categories"),
    (
        "purposes.order.pay.requires",
        ["device"],
        "purposes.order.pay.requires: 'device' is 'denied'",
    ),
    ("purposes.order.pay.dpv", "PaymentManagement", "purposes.order.pay.dpv: "),
    ("umbrella.name", "order.pay", "umbrella.name: 'order.pay'"),
    ("umbrella.name", "any", "umbrella.name: 'any'"),
    ("umbrella.stands_for", ["order.pay"], "umbrella.stands_for: 'order.pay'"),
    ("bases", ["explicit_consent", "consent", "contract"], "bases.exception: missing"),
    ("bases", ["explicit_consent", "consent", "contract", "whim"], "bases[3]: "),
    ("exceptions.9.never", False, "exceptions.9.never: the operator is not a news organisation"),
    ("exceptions.9.operations", ["collect"], "exceptions.9.operations: "),
    ("exceptions.9.max_life_days", 1, "exceptions.9.max_life_days: "),
    ("exceptions.7.never", True, "exceptions.7."),
    ("exceptions.7.auto", False, "exceptions: exactly one has auto"),
    ("exceptions.1.auto", True, "exceptions: exactly one has auto"),
    ("exceptions.7.bound_to", "subjects", "exceptions.7.bound_to: "),
    ("exceptions.7.categories", ["biometric.face"], "exceptions.7.categories: 'biometric.face'"),
    ("exceptions.7.approvers", ["rule"], "exceptions.7.approvers: "),
    ("exceptions.1.approvers", [], "exceptions.1.approvers: "),
    ("exceptions.1.documents", [], "exceptions.1.documents: "),
    ("exceptions.1.max_life_days", 0, "exceptions.1.max_life_days: "),
    ("exceptions.1.max_life_days", -1, "exceptions.1.max_life_days: "),
    ("exceptions.1.routine_scoring", "incident", "exceptions.1.routine_scoring: "),
    ("exceptions.10.operations", ["collect", "score"], "exceptions.10.routine_scoring: "),
    ("exceptions.11.documents", ["citation"], "exceptions.11.documents: 'if_memo'"),
    ("exceptions.4.ratifiers", [], "exceptions.4.ratify_within_hours: "),
    ("exceptions.4.ratify_within_hours", 0, "exceptions.4.ratify_within_hours: "),
    ("exceptions.1.law", "", "exceptions.1.law: is empty"),
    ("lists.threats", ["none"], "lists.threats: 'none'"),
    ("lists.threats", [], "lists.threats: is empty"),
    (
        "lists.categories",
        [*CATEGORIES][::-1],
        "lists.categories: a place is a bit in what is stored",
    ),
    ("lists.permissions", ["location.ip"], "lists.permissions: lacks 'device.tracking'"),
    ("categories.location.permission", "location.up", "lists.permissions: lacks 'location.up'"),
    ("categories.location.permission", "none", "lists.permissions: nothing needs 'location.ip'"),
    ("bases", ["exception", "consent", "contract", "explicit_consent"], "bases: the order is exp"),
    ("purposes.security.account_risk.requires", [], "purposes.security.account_risk.requires: "),
    (
        "purposes.security.incident_detection.guest_categories",
        ["device", "order"],
        "purposes.security.incident_detection.guest_categories: 'order' is a member's",
    ),
    (
        "purposes.security.incident_detection.guest_categories",
        ["device", "member.required"],
        "purposes.security.incident_detection.guest_categories: 'member.required' is a member's",
    ),
    (
        "purposes.security.incident_detection.guest_categories",
        ["device", "consignee"],
        "purposes.security.incident_detection.guest_categories: 'consignee' may be about a third",
    ),
    ("categories.biometric.face.result_only", False, "categories.biometric.face.result_only: "),
    (
        "categories.derived.risk.collected_for",
        ["security", "marketing.push"],
        "categories.derived.risk.collected_for: made for security",
    ),
    ("categories.log.title", "  ", "categories.log.title: is empty"),
    ("sources.first_party.grounds", ["statutory"], "sources.first_party.grounds: nobody else"),
    ("sources.affiliate.brings", [], "sources.affiliate.brings: nothing is named"),
    ("sources.affiliate.serves", [], "sources.affiliate.serves: nothing is named"),
    ("exceptions.2.controllers", [], "exceptions.2.controllers: nobody may rely on it"),
    (
        "exceptions.4.ratifiers",
        ["duty_manager"],
        "exceptions.4.ratifiers: 'duty_manager' has approved already",
    ),
    ("exceptions.4.bound_to", "subjects", "exceptions.4.routine_scoring: 'incident' is not for"),
    ("exceptions.5.sources", ["any"], "exceptions.5.sources: 'source_tag' is for data from the"),
    ("exceptions.11.bound_to", "extract", "exceptions.11.routine_scoring: 'if_memo' is not for"),
]


def path_of(dotted: str) -> tuple[str, ...]:
    """Split a path at its dots, but for those inside the name of a row."""
    table, _, rest = dotted.partition(".")
    row, _, key = rest.rpartition(".")
    return tuple(part for part in (table, row, key) if part)


@pytest.mark.parametrize(("where", "value", "begins"), CONTRADICTIONS)
def test_a_contradiction_is_refused_naming_it(where, value, begins):
    assert refusal(changed(path_of(where), value)).startswith(begins)


def test_a_permission_of_a_device_is_one_of_the_list():
    file = changed(("permissions", "device.model"), "device.modle")
    assert refusal(file) == "lists.permissions: lacks 'device.modle', which something needs"


def test_no_score_rests_on_a_grant_for_research_however_it_is_written():
    for scoring in ("incident", "source_tag", "order", "if_memo"):
        rule = FILE["exceptions"]["10"] | {
            "operations": ["collect", "score"], "routine_scoring": scoring, "sources": ["public"],
            "documents": ["legal_memo", *FILE["exceptions"]["10"]["documents"]],
        }  # fmt: skip
        said = refusal(changed(("exceptions", "10"), rule))
        assert said.startswith("exceptions.10.routine_scoring: ")


def test_a_category_that_comes_from_nowhere_is_a_gap():
    file = copy.deepcopy(FILE)
    for source in file["sources"].values():
        source["brings"] = [c for c in CATEGORIES if c != "log"]
    assert refusal(file) == "lists.sources: none brings 'log'"
    file = copy.deepcopy(FILE)
    for source in file["sources"].values():
        source["grounds"] = []
    assert refusal(file) == "lists.sources: none that brings 'credit.realname' is attested"


def test_what_code_speaks_of_may_not_be_taken_out():
    file = copy.deepcopy(FILE)
    file["lists"]["sources"].remove("public")
    del file["sources"]["public"]
    assert refusal(file) == "lists.sources: lacks 'public', which code speaks of"
    file = copy.deepcopy(FILE)
    file["lists"]["categories"].remove("location.wifi")
    assert refusal(file).startswith("lists.categories: a place is a bit in what is stored")


def test_services_that_nobody_withholds_or_protects_are_a_gap():
    file = copy.deepcopy(FILE)
    file["lists"]["services"].append("gift_wrapping")
    file["services"]["gift_wrapping"] = {
        "sections": ["Three"], "title": "Wrapping", "may_be_withheld": "for_own_data",
    }  # fmt: skip
    wanted = "services.gift_wrapping.may_be_withheld: no category and no source lists it"
    assert refusal(file).startswith(wanted)


def test_a_deployer_may_add_a_purpose_and_a_category_at_the_end():
    file = copy.deepcopy(FILE)
    file["lists"]["purposes"].append("returns.handle")
    file["purposes"]["returns.handle"] = file["purposes"]["order.deliver"] | {"requires": []}
    file["lists"]["categories"].append("return.parcel")
    file["categories"]["return.parcel"] = file["categories"]["log"] | {
        "collected_for": ["returns.handle"]
    }
    regime = assemble(file, digest="")
    assert regime.admission("returns.handle", "return.parcel") == "yes"
    assert regime.categories["return.parcel"].bit == 1 << len(CATEGORIES)
    assert regime.mask(load().categories) == load().mask(load().categories)


def test_a_category_may_not_bear_the_name_of_a_source():
    file = copy.deepcopy(FILE)
    file["lists"]["categories"].append("public")
    file["categories"]["public"] = file["categories"]["log"]
    assert refusal(file) == "lists.sources: 'public' is a category"


@pytest.mark.parametrize("data", [b"", b"\xff", b"bases = [", b"bases = 1\nbases = 2"])
def test_what_is_no_toml_file_is_refused(data):
    with pytest.raises(RegimeError):
        parse(data)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(RegimeError, match=r"other\.toml: cannot be read"):
        load(tmp_path / "other.toml")


WORDS = ["any", "none", "everything_else", "yes", "denied", "security", "log", "Four"]
JUNK = st.recursive(
    st.booleans()
    | st.integers(-5, 400)
    | st.floats(allow_nan=False)
    | st.text(max_size=4)
    | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(KEYS), JUNK)
def test_a_changed_file_is_read_or_refused_and_never_anything_else(path, value):
    try:
        regime = assemble(changed(path, value), digest="")
    except RegimeError:
        return
    # What was read, whatever was changed, still keeps the promises that no file may break.
    assert regime.exceptions[9].never
    assert not set(regime.never_withheld) & set(regime.withholdable_services(regime.categories))
    for rule in regime.categories.values():
        assert not (rule.sensitive and rule.security == "yes")
