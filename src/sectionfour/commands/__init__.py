"""The commands that are not serving: each one's body imports what it needs, when it is called.

So `sectionfour serve` loads neither pandas nor scikit-learn, whatever else the command line can do.
"""

from __future__ import annotations

from sectionfour.commands import (
    data,
    epochs,
    learning,
    models,
    privacy,
    privacy_tests,
    rights,
    rules,
    running,
)

COMMANDS = (
    *running.COMMANDS,
    *data.COMMANDS,
    *learning.COMMANDS,
    *rights.COMMANDS,
    *models.COMMANDS,
    *rules.COMMANDS,
    *privacy.COMMANDS,
    *privacy_tests.COMMANDS,
    *epochs.COMMANDS,
)
