"""What commands have in common: the parts of this home, opened and closed again; and options."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from sectionfour.domain import DELAY_DAYS, micros
from sectionfour.settings import from_environment

if TYPE_CHECKING:
    from sectionfour.parts import Parts

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(exists=True, path_type=Path)
DELAY = click.option(
    "--delay-days", default=DELAY_DAYS, show_default=True, help="Until a label is known."
)


class Address(NamedTuple):
    """Where to listen: an IP address and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address(text: str) -> Address:
    """Return what HOST:PORT says, the host a name or an address, where nothing listens yet.

    The workers of a service share their port, and the system would share it as gladly with those of
    another: each would get half of the calls. Raises BadParameter.
    """
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or int(port[:6]) > 65_535:
        raise click.BadParameter("HOST:PORT is needed, like 127.0.0.1:8400")
    try:
        known = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        # Of a name that has both, like localhost, the one that most callers try.
        family, kind, _, _, found = min(known, key=lambda one: one[0] != socket.AF_INET)
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(found)
    except OSError as error:
        raise click.BadParameter(f"nothing can listen there: {error.strerror}") from error
    return Address(str(found[0]), int(port))


class _Date(click.DateTime):
    """A date or an instant, of UTC where it names no zone; as microseconds since the epoch."""

    name = "date"

    def __init__(self) -> None:
        super().__init__(["%Y-%m-%d"])  # what the help says; whatever is ISO 8601 is taken

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            given = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no date, as in 2026-01-31", param, ctx)
        return micros(given if given.tzinfo else given.replace(tzinfo=UTC))


DATE = _Date()


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
