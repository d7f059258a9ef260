"""The one place that joins the parts: the service and the command line both open them here."""

from __future__ import annotations

import base64
from importlib import resources
from pathlib import Path

from sectionfour import stores
from sectionfour.decisions import policy, rules
from sectionfour.errors import KeyringError
from sectionfour.learning.registry import Served
from sectionfour.parts import Parts, never_back, told_by
from sectionfour.privacy import regime
from sectionfour.privacy.keys import Keyring
from sectionfour.privacy.pseudonym import open_keys
from sectionfour.privacy.receipts import Notary
from sectionfour.settings import Settings


def open_parts(settings: Settings) -> Parts:
    """Open everything that a decision needs, under `settings.home`."""
    settings.make_home()
    ledger = stores.open_ledger(
        settings.ledger or f"sqlite:{settings.home / 'ledger.db'}",
        synchronous=settings.durability.upper(),
        seconds=settings.ledger_seconds,
    )
    try:
        for path, what in _made_with(settings):
            if not path.exists() and ledger.holds_tokens():
                raise KeyringError(
                    f"{what} is gone, and the ledger whose tokens it made is there:"
                    f" restore {path.relative_to(settings.home)} from a copy"
                )
        keys = open_keys(settings.home, settings.region, settings.currency)
    except BaseException:
        ledger.close()
        raise
    return Parts(
        ledger=ledger,
        velocity=stores.open_velocity(
            velocity_url(settings),
            home=home_of(keys.ring),
            gib=settings.velocity_gib,
            new=ledger.newest() == 0,
            synchronous=settings.durability.upper(),
        ),
        keys=keys,
        models=Served(settings.models, trusted_keys(keys.ring)),
        policy=policy.load(settings.costs),
        regime=regime.load(settings.regime),
        rules=rules.Followed(settings.rules),
        clock=never_back(told_by(settings.clock), ledger.newest()),
    )


def _made_with(settings: Settings) -> tuple[tuple[Path, str], ...]:
    """Return what a ledger's tokens are made with. Made anew, every member would be a stranger, and
    what is known of them, a no as well, nobody's; nor could it be shown to them, or erased."""
    return (
        (settings.home / "keys" / "ring.json", "the ring of keys"),
        (settings.home / "vault.db", "the vault"),
        (settings.home / "keys" / "persons.db", "the file of persons' keys"),
    )


def velocity_url(settings: Settings) -> str:
    return settings.velocity or f"lmdb:{settings.home / 'velocity'}"


def home_of(ring: Keyring) -> bytes:
    """Return what tells the windows of this home from those of any other."""
    return ring.digest(b"whose windows").hex()[:16].encode()


def trusted_keys(ring: Keyring) -> frozenset[bytes]:
    """Return the public keys whose models are served: this home's, and that of the shipped ones."""
    return frozenset({ring.signing("models").public_key().public_bytes_raw(), shipped_key()})


def shipped_key() -> bytes:
    """Return the public key that the models which come along are signed by."""
    shipped = (resources.files("sectionfour.learning") / "release.pub").read_text("ascii")
    return base64.b64decode(shipped)


def open_notary(settings: Settings, parts: Parts) -> Notary:
    """Open what signs checkpoints of the log, and verifies it."""
    return Notary(
        parts.ledger, parts.keys.ring.signing("log"), settings.origin, settings.witness_file
    )
