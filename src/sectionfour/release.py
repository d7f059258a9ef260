"""Makes the models that come along, from the sample: `python -m sectionfour.release`.

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

from sectionfour import imports
from sectionfour.bootstrap import open_parts
from sectionfour.learning.registry import NAMES
from sectionfour.replay import replay
from sectionfour.settings import Settings
from sectionfour.train import Plan, train

ROOT = Path(__file__).parents[2]
PLAN = Plan(candidates=12, test_days=28.0)


def main() -> None:
    """Replace `models/` and `learning/release.pub`."""
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()
    models = ROOT / "models"
    for name in NAMES:
        shutil.rmtree(models / name, ignore_errors=True)
    with tempfile.TemporaryDirectory() as home:
        parts = open_parts(Settings(home=Path(home), models=models, velocity_gib=1))
        steps, _ = imports.market(ROOT / "data_samples" / "market")
        replay(steps, parts, notice=imports.MARKET_NOTICE)
        for done in train(parts, PLAN, models, key, {public}):
            click.echo(f"{done.name} {done.version}")
        parts.close()
    (ROOT / "src/sectionfour/learning/release.pub").write_text(
        base64.b64encode(public).decode() + "\n", "ascii"
    )


if __name__ == "__main__":
    main()
