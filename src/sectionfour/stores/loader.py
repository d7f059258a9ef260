"""Windows of an import, filled by a process of their own while gate and seal go on in this one."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from multiprocessing.queues import Queue

import msgspec

from sectionfour import stores
from sectionfour.domain import Event
from sectionfour.errors import HistoryError

#: Batches on their way; more would only be memory.
_AHEAD = 4
_BATCH = 10_000


@contextmanager
def loading(
    url: str, *, home: bytes = b"", gib: float
) -> Iterator[Callable[[Iterable[Event]], int]]:
    """Give a `load` for the velocity store at `url`; all of it is in when the block ends.

    Raises HistoryError where the other process failed: the store is then not fresh, and is made
    anew from the ledger at the next start.
    """
    context = multiprocessing.get_context("spawn")
    queue = context.Queue(_AHEAD)
    process = context.Process(target=_load, args=(url, home, gib, queue), daemon=True)
    process.start()

    def load(events: Iterable[Event]) -> int:
        rest, count = iter(events), 0
        while batch := list(islice(rest, _BATCH)):
            if not process.is_alive():
                break
            queue.put(msgspec.msgpack.encode(batch))
            count += len(batch)
        return count

    try:
        with _no_cycles():
            yield load
    except BaseException:
        process.kill()  # in the middle of its load, so that the store stays not fresh
        raise
    if process.is_alive():
        queue.put(b"")
    process.join()
    if process.exitcode:
        raise HistoryError("the windows could not be filled; `sectionfour rebuild` makes them")


def _load(url: str, home: bytes, gib: float, queue: Queue[bytes]) -> None:
    decode = msgspec.msgpack.Decoder(list[Event]).decode
    # How it keeps what it acknowledges is looked at above.
    velocity = stores.open_velocity(url, home=home, gib=gib, synchronous="NORMAL")
    with _no_cycles():
        velocity.load(event for batch in iter(queue.get, b"") for event in decode(batch))
    velocity.close()


@contextmanager
def _no_cycles() -> Iterator[None]:
    """Look for no cycles meanwhile: there are none, and many objects among which to look."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
