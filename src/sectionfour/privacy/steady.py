"""Turns with the keys of a home: many use them at once, and whoever changes what they mean waits
until nobody does, and then has them alone."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from sectionfour.errors import KeyringError, NotReady

if TYPE_CHECKING:
    from sectionfour.privacy.keys import Keyring


class _Open:
    """Both files open for locking, closed with the thread that they belong to."""

    def __init__(self, path: Path) -> None:
        how = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self.handle = os.open(path, how, 0o600)
        self.gate = os.open(path.with_suffix(".gate"), how, 0o600)
        self.depth = 0

    def __del__(self) -> None:
        os.close(self.handle)
        os.close(self.gate)


class Turns:
    """One lock file, shared between processes and threads; and a gate that whoever wants it alone
    keeps shut meanwhile: those who share it come and go, and there might always be one."""

    def __init__(self, path: Path) -> None:
        self._path, self._local = path, threading.local()

    def _mine(self) -> _Open:
        try:
            mine: _Open = self._local.mine
        except AttributeError:
            mine = self._local.mine = _Open(self._path)
        return mine

    def share(self) -> bool:
        """Take a share, or one more: a thread may hold several. False where somebody has it alone,
        or is to have it next."""
        mine = self._mine()
        if not mine.depth:
            try:
                fcntl.flock(mine.gate, fcntl.LOCK_SH | fcntl.LOCK_NB)
                fcntl.flock(mine.gate, fcntl.LOCK_UN)
                fcntl.flock(mine.handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        mine.depth += 1
        return True

    def release(self) -> None:
        """Give back one share; the last of a thread's lets whoever waits go on."""
        mine = self._mine()
        mine.depth -= 1
        if not mine.depth:
            fcntl.flock(mine.handle, fcntl.LOCK_UN)

    @contextmanager
    def alone(self, patience: float = 20.0, *, why: str = "") -> Iterator[None]:
        """Have it alone; KeyringError where others are still at it after `patience` seconds.

        `why` is for whoever comes meanwhile and had better not wait.
        """
        mine, until = _Open(self._path), time.monotonic() + patience
        _lock(mine.gate, until)
        try:
            os.ftruncate(mine.gate, 0)
            os.pwrite(mine.gate, why.encode(), 0)
            _lock(mine.handle, until)
            yield
        finally:
            os.ftruncate(mine.gate, 0)
            fcntl.flock(mine.handle, fcntl.LOCK_UN)
            fcntl.flock(mine.gate, fcntl.LOCK_UN)

    def why(self) -> str:
        """Return what whoever has it alone says of that; it may be nothing."""
        return os.pread(self._mine().gate, 1_000, 0).decode()


def _lock(handle: int, until: float) -> None:
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise KeyringError(
                    "the keys are in use: an import or another command is under way"
                ) from None
            time.sleep(0.01)


class Steady:
    """A block during which what tokens mean does not change. It begins with a look at the ring.

    NotReady where kept tokens are being replaced just now, and where somebody who has it `alone`
    says that it takes long.
    """

    def __init__(self, ring: Keyring) -> None:
        self._ring = ring

    def __enter__(self) -> None:
        ring = self._ring
        while not ring.turns.share():
            self._look()
            if why := ring.turns.why():
                raise NotReady(why)
            time.sleep(0.002)
        try:
            self._look()
        except BaseException:
            ring.turns.release()
            raise

    def _look(self) -> None:
        self._ring.refresh()
        if self._ring.moving():
            raise NotReady("an epoch is ending and its tokens are being replaced: try again soon")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ring.turns.release()

    @contextmanager
    def alone(self, why: str) -> Iterator[None]:
        """Such a block in which nobody else is in one: those are waited for, and whoever comes
        meanwhile is told `why`, and not to wait.

        KeyringError where others do not come to an end.
        """
        with self._ring.turns.alone(why=why):
            self._look()
            yield
