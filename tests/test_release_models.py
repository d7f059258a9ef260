"""The models that come along: made from a market, with what their cards say of fairness."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pandas as pd
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sectionfour import simulate
from sectionfour.learning import membership, registry
from sectionfour.learning.plan import Plan
from sectionfour.releases import models

MODELS = Path(__file__).parents[1] / "models"


def test_a_released_card_says_how_the_model_treats_who_agreed_to_be_counted(
    tmp_path: Path,
) -> None:
    simulate.write(simulate.simulate(seed=9, events=8_000), tmp_path / "market")
    consents = pd.read_parquet(tmp_path / "market" / "consents.parquet")
    agreed = consents[consents["categories"].fillna("").str.contains("member.optional")]
    key = Ed25519PrivateKey.generate()
    plan = Plan(candidates=1, jobs=1, delay_days=7, test_days=28, shadows=0, names=("transaction",))
    (done,) = models.make(tmp_path / "market", tmp_path / "m", key, plan)
    trusted = {key.public_key().public_bytes_raw()}
    card = registry.load(tmp_path / "m", done.name, done.version, trusted)[1]
    for group in ("age_band", "gender"):
        counted = card["fairness"][group]["members"]
        assert 0 < counted <= agreed["member_id"].nunique()


def test_t16_the_cards_of_the_models_that_come_along_say_what_these_betray(
    record_property: Callable[[str, object], None],
) -> None:
    """Whether the limits hold is for whoever reads the figures; that a card says so is not."""
    for name in registry.NAMES:
        version = registry.current(MODELS, name)
        card = msgspec.json.decode((MODELS / name / str(version) / "card.json").read_bytes())
        found = card["membership"]
        assert found["measured"]
        assert found["shadows"] == membership.SHADOWS
        assert "lira" in found["attacks"]
        assert {key: said["limit"] for key, said in found["limits"].items()} == membership.LIMITS
        for key, said in found["limits"].items():
            assert said["holds"] == (said["value"] <= said["limit"])
            words = f"{key} is {said['value']:.4g}, above {said['limit']}"  # not ".003, above .003"
            assert (words in found["says"]) == (not said["holds"])
            record_property(f"{name} {key}", round(said["value"], 3))
        assert found["holds"] == all(said["holds"] for said in found["limits"].values())
