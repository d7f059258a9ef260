"""The commands that are not serving: each one's body imports what it needs, when it is called.

So `sectionfour serve` loads neither pandas nor scikit-learn, whatever else the command line can do.
"""

from __future__ import annotations

from sectionfour.commands import data, learning, rights, running

COMMANDS = (*running.COMMANDS, *rights.COMMANDS, *data.COMMANDS, *learning.COMMANDS)
