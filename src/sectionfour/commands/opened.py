"""What most commands begin with: the parts of this home, opened and closed again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sectionfour.settings import from_environment

if TYPE_CHECKING:
    from sectionfour.parts import Parts

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(exists=True, path_type=Path)


@contextmanager
def opened(*, steady: bool = True) -> Iterator[Parts]:
    """The parts; not `steady`, without a share of the keys, for what has them alone for a while."""
    from sectionfour.bootstrap import open_parts

    parts = open_parts(from_environment())
    try:
        with parts.keys.ring.steady if steady else nullcontext():
            yield parts
    finally:
        parts.close()
