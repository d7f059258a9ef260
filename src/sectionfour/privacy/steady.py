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

from sectionfour.errors import KeyringError


class _Open:
    """A file open for locking, closed with the thread that it belongs to."""

    def __init__(self, path: Path) -> None:
        self.handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.depth = 0

    def __del__(self) -> None:
        os.close(self.handle)


class Turns:
    """One lock file, shared between processes and threads."""

    def __init__(self, path: Path) -> None:
        self._path, self._local = path, threading.local()

    def share(self, *, wait: bool = True) -> bool:
        """Take a share, or one more: a thread may hold several. False where somebody has it alone
        and we do not `wait`."""
        try:
            mine: _Open = self._local.mine
        except AttributeError:
            mine = self._local.mine = _Open(self._path)
        if not mine.depth:
            try:
                fcntl.flock(mine.handle, fcntl.LOCK_SH if wait else fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        mine.depth += 1
        return True

    def release(self) -> None:
        """Give back one share; the last of a thread's lets whoever waits go on."""
        mine: _Open = self._local.mine
        mine.depth -= 1
        if not mine.depth:
            fcntl.flock(mine.handle, fcntl.LOCK_UN)

    @contextmanager
    def alone(self, patience: float = 20.0) -> Iterator[None]:
        """Have it alone; KeyringError where others are still at it after `patience` seconds."""
        mine, until = _Open(self._path), time.monotonic() + patience
        while True:
            try:
                fcntl.flock(mine.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise KeyringError(
                        "the keys are in use: an import or another command is under way"
                    ) from None
                time.sleep(0.01)
        try:
            yield
        finally:
            fcntl.flock(mine.handle, fcntl.LOCK_UN)
