"""Progress of long work on standard error: which stage, how far, what remains."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


class Stages:
    """A bar over named stages; `next()` begins the next one. Silent where nobody watches."""

    def __init__(self, *names: str) -> None:
        self._names = iter(names)
        self._bar = tqdm(total=len(names), unit="stage", disable=not sys.stderr.isatty())
        self._started = False

    def __enter__(self) -> Stages:
        return self

    def next(self) -> None:
        """End the stage under way, if any, and begin the next one."""
        if self._started:
            self._bar.update()
        self._started = True
        self._bar.set_description(next(self._names))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._bar.update()
        self._bar.close()


def watched(items: Iterable[T], *, total: int, text: str) -> Iterator[T]:
    """Yield `items` under a bar of their own."""
    yield from tqdm(items, total=total, desc=text, leave=False, disable=not sys.stderr.isatty())


def steps_watched(text: str) -> Callable[[int, int], None]:
    """Return what takes (done, total) of some work and shows it as a bar of its own."""
    bar = tqdm(desc=text, unit="step", leave=False, disable=not sys.stderr.isatty())

    def told(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return told
