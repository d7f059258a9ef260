"""Makes the models that come along, from the sample: `python -m sectionfour.releases.models`.

They are signed by a key that is made here, lives in memory, and is gone when this ends; its public
half goes into the package, so that every home trusts these models and no others by it. To make
them anew is to make a new key, and to commit both.
"""

from __future__ import annotations

import base64
import shutil
import tempfile
from pathlib import Path

import click
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sectionfour.bootstrap import open_parts
from sectionfour.jobs import clustering
from sectionfour.learning import audit, membership
from sectionfour.learning.plan import Plan
from sectionfour.learning.registry import NAMES
from sectionfour.loading import imports
from sectionfour.loading.replay import replay
from sectionfour.settings import Settings
from sectionfour.train import Trained, train

ROOT = Path(__file__).parents[3]
#: With as many shadow models as the stronger attack of a card wants.
PLAN = Plan(candidates=12, test_days=28.0, shadows=membership.SHADOWS)


def make(market: Path, models: Path, key: Ed25519PrivateKey, plan: Plan = PLAN) -> list[Trained]:
    """Train on a simulated market in a home that is gone afterwards; `models` has the outcome.

    Age bands and genders of those who agreed go into the audit set first, so that the cards say
    how the models treat people, and over how many.
    """
    with tempfile.TemporaryDirectory() as home:
        parts = open_parts(Settings(home=Path(home), models=models, velocity_gib=1))
        try:
            steps, _ = imports.market(market)
            replay(steps, parts, notice=imports.MARKET_NOTICE)
            clustering.refresh_past(parts, 0)
            taken = audit.take(market / "members.parquet", parts)
            click.echo(f"audit set: {taken.kept} members, left out: {taken.left_out}", err=True)
            return train(parts, plan, models, key, {key.public_key().public_bytes_raw()})
        finally:
            parts.close()


@click.command()
def main() -> None:
    """Replace `models/` and `learning/release.pub`."""
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()
    models = ROOT / "models"
    for name in NAMES:
        shutil.rmtree(models / name, ignore_errors=True)
    for done in make(ROOT / "data_samples" / "market", models, key):
        click.echo(f"{done.name} {done.version}")
    (ROOT / "src/sectionfour/learning/release.pub").write_text(
        base64.b64encode(public).decode() + "\n", "ascii"
    )


if __name__ == "__main__":
    main()
