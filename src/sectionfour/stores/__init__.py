"""The backends of the two ports, opened by URL; a driver is imported only when asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sectionfour.errors import SettingsError

if TYPE_CHECKING:
    from sectionfour.features.online import Velocity
    from sectionfour.stores.ledger.rooms import Ledger


def open_ledger(url: str, *, synchronous: str = "FULL", seconds: float = 60.0) -> Ledger:
    """Open `sqlite:PATH`, or `postgresql://USER@HOST/DATABASE`, where no statement may take more
    than so many seconds."""
    scheme, _, path = url.partition(":")
    if scheme == "sqlite" and path:
        from sectionfour.stores.sqlite import SqliteLedger

        return SqliteLedger(Path(path), synchronous=synchronous)
    if scheme in ("postgresql", "postgres") and path.startswith("//"):
        try:
            from sectionfour.stores.postgres import PostgresLedger
        except ImportError as error:
            raise SettingsError(
                "a ledger on PostgreSQL needs a driver: pip install 'sectionfour[postgres]'"
            ) from error
        return PostgresLedger(url, synchronous=synchronous, seconds=seconds)
    raise SettingsError(
        "a ledger is opened by a URL of the form sqlite:PATH or postgresql://HOST/DATABASE"
    )


def open_velocity(
    url: str,
    *,
    home: bytes = b"",
    gib: float = 64,
    new: bool = False,
    synchronous: str = "FULL",
) -> Velocity:
    """Open `lmdb:FOLDER`, which may grow to `gib` GiB, or `redis://HOST/NUMBER`.

    `home` names whose windows they are to be; SettingsError where they are another's.

    `new` tells that nothing has happened yet: an empty store cannot know it by itself. With
    `synchronous` FULL it has to keep on its disk what it acknowledges.
    """
    scheme, _, path = url.partition(":")
    if scheme == "lmdb" and path:
        from sectionfour.stores.lmdb import LmdbVelocity

        return LmdbVelocity(Path(path), home=home, map_size=int(gib * (1 << 30)), new=new)
    if scheme in ("redis", "rediss", "unix") and path.startswith("//"):
        try:
            from sectionfour.stores.redis import RedisVelocity
        except ImportError as error:
            raise SettingsError(
                "windows on Redis need a driver: pip install 'sectionfour[redis]'"
            ) from error
        return RedisVelocity(url, home=home, new=new, synchronous=synchronous)
    raise SettingsError(
        "a velocity store is opened by a URL of the form lmdb:FOLDER or redis://HOST/NUMBER"
    )
